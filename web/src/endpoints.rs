//! What the server offers: one table, from which the documents and the tests are checked.

/// Who may call an endpoint. Whoever has the password may call all of them; without a password, which only a server on a
/// loopback address may be, every program on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Everybody who reaches the address.
    Anyone,
    /// Who sends the password, if there is one.
    Password,
}

/// An endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Method.
    pub method: &'static str,
    /// Path.
    pub path: &'static str,
    /// Who may call it.
    pub caller: Caller,
}

impl Endpoint {
    /// Whether `path` is this endpoint's, where `{...}` stands for one part.
    pub(crate) fn is_at(&self, path: &str) -> bool {
        let (mut own, mut parts) = (self.path.split('/'), path.split('/'));
        own.by_ref()
            .zip(&mut parts)
            .all(|(own, part)| own == part || own.starts_with('{'))
            && self.path.matches('/').count() == path.matches('/').count()
    }
}

const fn of(method: &'static str, path: &'static str) -> Endpoint {
    Endpoint {
        method,
        path,
        caller: Caller::Password,
    }
}

/// All endpoints.
pub const ENDPOINTS: &[Endpoint] = &[
    of("GET", "/"),
    of("GET", "/latest.jpg"),
    of("GET", "/stream.mjpg"),
    of("GET", "/metrics"),
    Endpoint {
        caller: Caller::Anyone,
        ..of("GET", "/healthz")
    },
    of("POST", "/api/classify"),
    of("GET", "/api/state"),
    of("GET", "/api/events"),
    of("GET", "/api/history"),
    of("GET", "/api/log"),
    of("PATCH", "/api/settings"),
    of("GET", "/api/bundle"),
    of("PUT", "/api/bundle"),
    of("GET", "/api/classes"),
    of("POST", "/api/classes"),
    of("DELETE", "/api/classes/{name}"),
    of("POST", "/api/classes/{name}/captures"),
    of("POST", "/api/classes/{name}/examples"),
    of("DELETE", "/api/classes/{name}/examples/{id}"),
    of("POST", "/api/undo"),
    of("GET", "/api/openapi.json"),
];

/// Who may call `path`.
pub(crate) fn caller(path: &str) -> Caller {
    let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.is_at(path));
    endpoint.map_or(Caller::Password, |endpoint| endpoint.caller)
}
