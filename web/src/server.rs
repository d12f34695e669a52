//! The server: its address, its threads, and their end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::http::uri::Authority;
use pinhole::DecodeOptions;
use tokio::sync::oneshot;

use crate::access::Names;
use crate::connections::{self, ConnectionCounters};
use crate::error::WebError;
use crate::limits::Limits;
use crate::live::Live;
use crate::password::{Checker, StoredPassword};
use crate::routes::{App, router};
use crate::teaching::Classroom;
use crate::worker;

/// Options of [`Server::start`].
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Address and port; port 0 for a free one.
    pub listen: SocketAddr,
    /// The password that clients must send. It may be missing on a loopback address only.
    pub password: Option<StoredPassword>,
    /// Names by which browsers reach this server, besides addresses, `localhost`, and this machine's name.
    pub names: Vec<String>,
    /// How images that clients send are decoded.
    pub decode: DecodeOptions,
    /// How long clients may take.
    pub limits: Limits,
}

impl ServerOptions {
    /// Most memory for decoding an image that a client sends, in bytes.
    pub const MAX_IMAGE_MEMORY: u64 = 128 << 20;

    /// Without a password, for this machine alone.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            password: None,
            names: vec![],
            decode: DecodeOptions {
                max_memory: Self::MAX_IMAGE_MEMORY,
                ..DecodeOptions::default()
            },
            limits: Limits::default(),
        }
    }

    /// Whether these options can be used, before a bundle is loaded.
    ///
    /// # Errors
    /// [`WebError::NoPassword`], [`WebError::Name`].
    pub fn check(&self) -> Result<(), WebError> {
        for name in &self.names {
            let host = name.parse::<Authority>();
            // What browsers send is compared without its port.
            if !host.is_ok_and(|host| host.host() == name && !name.ends_with('.')) {
                return Err(WebError::Name { name: name.clone() });
            }
        }
        match self.password.is_some() || self.listen.ip().is_loopback() {
            true => Ok(()),
            false => Err(WebError::NoPassword {
                address: self.listen,
            }),
        }
    }
}

/// A running server. Dropping it closes all connections.
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts to serve what `live` knows.
    ///
    /// # Errors
    /// [`WebError::NoPassword`], [`WebError::Name`], [`WebError::Listen`], [`WebError::Thread`].
    pub fn start(options: ServerOptions, live: &Live) -> Result<Self, WebError> {
        options.check()?;
        let thread_error = |error| WebError::Thread { name: "web", error };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(4)
            .build()
            .map_err(thread_error)?;
        // First, because it is what fails, and the rest takes time.
        let bound = {
            let _context = runtime.enter();
            connections::listen(options.listen)
        };
        let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|error| WebError::Listen {
            address: options.listen,
            error,
        })?;
        let shared = live.shared.clone();
        let classroom = Classroom::start(shared.clone(), options.decode.clone())?;
        let worker = worker::start(shared.clone(), options.decode)?;
        let mut names = options.names;
        names.extend(machine_names());
        let checker = options.password.map(Checker::new).transpose()?;
        let counters = Arc::<ConnectionCounters>::default();
        let app = App::new(
            shared,
            worker,
            classroom,
            Names::new(options.listen, &names),
            checker.map(Arc::new),
            counters.clone(),
            options.limits,
        );
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("web".into());
        let thread = thread.spawn(move || {
            crate::threads::yield_to_classification();
            runtime.block_on(async {
                let router = router(Arc::new(app));
                tokio::select! {
                    () = connections::serve(listener, router, counters, options.limits) => {}
                    _ = stopped => {}
                }
            });
            // A password may be being checked.
            runtime.shutdown_background();
        });
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread.map_err(thread_error)?),
        })
    }

    /// The address, with the port that was free.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic has already been printed.
            let _ = thread.join();
        }
    }
}

/// The names under which others on the network know this machine.
fn machine_names() -> Vec<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => vec![],
        name => vec![format!("{name}.local"), name.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every request would be refused, with the advice to give the name.
    #[test]
    fn names_that_no_browser_sends_are_refused() {
        let check = |name: &str| {
            let options = ServerOptions {
                names: vec![name.into()],
                ..ServerOptions::new(([127, 0, 0, 1], 0).into())
            };
            options.check()
        };
        check("board.lan").unwrap();
        check("Board").unwrap();
        for name in [
            "board.lan:8642",
            "http://board",
            "board.",
            "a b",
            "u@board",
            "",
        ] {
            let error = check(name).unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
    }
}
