//! The endpoints: requests to answers.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use axum::{Extension, Router};
use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::access::{Names, check_sender, password};
use crate::connections::{ConnectionCounters, Peer};
use crate::download;
use crate::endpoints::{Caller, caller};
use crate::fault::Fault;
use crate::jobs::Jobs;
use crate::limits::Limits;
use crate::live::Shared;
use crate::page::{PAGE, policy};
use crate::password::{Checker, Denied};
use crate::pictures::{Picture, View};
use crate::teaching::{self, Classroom};
use crate::upload::{self, MAX_ARCHIVE};
use crate::worker::SentImage;

/// Largest image that can be sent, and largest JSON.
pub(crate) const MAX_IMAGE: usize = 16 << 20;
const MAX_JSON: usize = 64 << 10;
/// Bodies that are read at the same time, and how long one waits for that.
const BODIES: usize = 8;
const BODY_PATIENCE: Duration = Duration::from_secs(5);
/// Bundles that are sent at the same time.
const DOWNLOADS: usize = 2;
/// How long a client waits for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// How long a client may take to send a bundle, and waits for its test.
const UPLOAD_TIME: Duration = Duration::from_secs(3600);
const TEST_TIME: Duration = Duration::from_secs(600);
/// How long a client waits for a picture.
const PICTURE_TIME: Duration = Duration::from_secs(3);
/// A picture that was made within this time is new.
const NEW_PICTURE: Duration = Duration::from_millis(200);
/// Least and longest time between two events.
const EVENT_INTERVALS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// How long the state is that of the last request.
const STATE_AGE: Duration = Duration::from_millis(80);

/// How curl sends an image file as it is.
const IMAGE_OPTION: &str = "--data-binary @photo.jpg";

const JSON: &str = "application/json";
const OPENAPI: &str = include_str!("openapi.json");

/// What the endpoints share.
pub(crate) struct App {
    pub(crate) shared: Arc<Shared>,
    pub(crate) worker: Jobs<SentImage>,
    pub(crate) classroom: Classroom,
    pub(crate) names: Names,
    pub(crate) checker: Option<Arc<Checker>>,
    pub(crate) connections: Arc<ConnectionCounters>,
    pub(crate) limits: Limits,
    bodies: Semaphore,
    downloads: Arc<Semaphore>,
    /// One bundle is taken at a time.
    upload: Arc<Semaphore>,
    state: Mutex<Option<(Instant, Bytes)>>,
    /// Answers by the hundreds of their status.
    answers: [AtomicU64; 6],
}

impl App {
    pub(crate) fn new(
        shared: Arc<Shared>,
        worker: Jobs<SentImage>,
        classroom: Classroom,
        names: Names,
        checker: Option<Arc<Checker>>,
        connections: Arc<ConnectionCounters>,
        limits: Limits,
    ) -> Self {
        Self {
            shared,
            worker,
            classroom,
            names,
            checker,
            connections,
            limits,
            bodies: Semaphore::new(BODIES),
            downloads: Arc::new(Semaphore::new(DOWNLOADS)),
            upload: Arc::new(Semaphore::new(1)),
            state: Mutex::default(),
            answers: Default::default(),
        }
    }

    /// Checks who sends a request; the password that has to be checked, if one has to.
    fn examine(&self, request: &Request) -> Result<Option<String>, Failure> {
        let (uri, headers) = (request.uri(), request.headers());
        check_sender(&self.names, request.method(), uri, headers)
            .map_err(|e| Failure::new(StatusCode::FORBIDDEN, e))?;
        if self.checker.is_none() || caller(uri.path()) == Caller::Anyone {
            return Ok(None);
        }
        let sent = password(headers).map_err(|e| Failure::new(StatusCode::UNAUTHORIZED, e))?;
        if sent.is_none() {
            let error =
                "expected a password (HTTP Basic with any user name, or Bearer), found none";
            return Err(Failure::new(StatusCode::UNAUTHORIZED, error));
        }
        Ok(sent)
    }

    async fn check_password(&self, sent: &str, peer: IpAddr) -> Result<(), Failure> {
        let Some(checker) = &self.checker else {
            return Ok(());
        };
        checker
            .check(sent, peer)
            .await
            .map_err(|denied| match denied {
                Denied::Wrong => Failure::new(StatusCode::UNAUTHORIZED, "the password is wrong"),
                Denied::Wait(pause) => Failure {
                    retry_after: Some(pause.as_secs() + 1),
                    ..Failure::new(
                        StatusCode::TOO_MANY_REQUESTS,
                        "too many wrong passwords; wait before the next one",
                    )
                },
                Denied::Busy => Failure::busy("other passwords are being checked"),
            })
    }

    /// The state as JSON. Many clients may ask at the same time.
    fn state(&self) -> Bytes {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            Some((made, json)) if made.elapsed() < STATE_AGE => json.clone(),
            _ => {
                let json = Bytes::from(self.shared.state_json());
                *state = Some((Instant::now(), json.clone()));
                json
            }
        }
    }

    async fn body(&self, request: Request, most: usize) -> Result<Bytes, Failure> {
        let permit = timeout(BODY_PATIENCE, self.bodies.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(Failure::busy("others are sending"));
        };
        check_length(&request, most as u64)?;
        let mut chunks = request.into_body().into_data_stream();
        let read = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(broke_off)?;
                if bytes.len() + chunk.len() > most {
                    return Err(too_large(most as u64));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(Bytes::from(bytes))
        };
        let read = timeout(self.limits.body, read).await;
        read.map_err(|_| too_slow(self.limits.body))?
    }

    /// The request, unless its body is a form instead of the bytes of a file. `how` is the option of curl that sends these.
    async fn refuse_form(&self, request: Request, how: &str) -> Result<Request, Failure> {
        let kind = request.headers().get(CONTENT_TYPE);
        let kind = kind.map_or(&b""[..], HeaderValue::as_bytes);
        let form = b"multipart/";
        if !(kind.get(..form.len())).is_some_and(|start| start.eq_ignore_ascii_case(form)) {
            return Ok(request);
        }
        // Taken, so that the client hears of it.
        let _ = self.body(request, MAX_IMAGE).await;
        let error = format!(
            "expected the bytes of the file alone, found a form (multipart, as curl -F sends it); send it with curl {how}"
        );
        Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error))
    }

    /// Hands a body on while it arrives. What a fault has made useless is still taken, so that the client hears of it.
    async fn send(&self, request: Request, sink: &upload::Sink) -> Result<(), Failure> {
        let mut chunks = request.into_body().into_data_stream();
        let (mut length, mut wanted) = (0u64, true);
        loop {
            let chunk = timeout(self.limits.body, chunks.next()).await;
            let chunk = chunk.map_err(|_| {
                let error = format!(
                    "expected more of the body within {:?}, found nothing after {length} bytes",
                    self.limits.body
                );
                Failure::new(StatusCode::REQUEST_TIMEOUT, error)
            })?;
            let Some(chunk) = chunk else { return Ok(()) };
            let chunk = chunk.map_err(broke_off)?;
            length += chunk.len() as u64;
            if length > MAX_ARCHIVE {
                return Err(too_large(MAX_ARCHIVE));
            }
            wanted = wanted && sink.send(chunk).await;
        }
    }
}

fn broke_off(error: axum::Error) -> Failure {
    Failure::new(
        StatusCode::BAD_REQUEST,
        format!("the body broke off: {error}"),
    )
}

fn too_slow(time: Duration) -> Failure {
    let error = format!("expected the body within {time:?}");
    Failure::new(StatusCode::REQUEST_TIMEOUT, error)
}

fn too_large(most: u64) -> Failure {
    let error = format!("expected at most {most} bytes, found more");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, error)
}

/// Refuses a request that says it is too large.
fn check_length(request: &Request, most: u64) -> Result<(), Failure> {
    let length = request.headers().get(CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|l| l.to_str().ok()?.parse().ok());
    match length {
        Some(length) if length > most => Err(too_large(most)),
        _ => Ok(()),
    }
}

/// An answer that says what is wrong: `{"error": "..."}`.
struct Failure {
    status: StatusCode,
    error: String,
    /// Seconds.
    retry_after: Option<u64>,
}

impl Failure {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
            retry_after: None,
        }
    }

    fn busy(why: &str) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("{why}; try again"))
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Request(error) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error),
            Fault::Missing(error) => Self::new(StatusCode::NOT_FOUND, error),
            Fault::Conflict(error) => Self::new(StatusCode::CONFLICT, error),
            Fault::Server(error) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error),
            Fault::DiskFull(error) => Self::new(StatusCode::INSUFFICIENT_STORAGE, error),
            Fault::Busy(why) => Self::busy(&why),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let json = serde_json::json!({ "error": self.error }).to_string();
        let mut response = (self.status, [(CONTENT_TYPE, JSON)], json).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let realm = HeaderValue::from_static("Basic realm=\"Pinhole\", charset=\"UTF-8\"");
            headers.insert(WWW_AUTHENTICATE, realm);
        }
        response
    }
}

type Answer = Result<Response, Failure>;

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/latest.jpg", get(latest))
        .route("/stream.mjpg", get(video))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/api/classify", post(classify))
        .route("/api/state", get(state))
        .route("/api/events", get(events))
        .route("/api/history", get(history))
        .route("/api/log", get(log))
        .route("/api/settings", patch(settings))
        .route("/api/bundle", get(bundle).put(replace_bundle))
        .route("/api/classes", get(classes).post(add_class))
        .route("/api/classes/{name}", delete(remove_class))
        .route("/api/classes/{name}/captures", post(capture))
        .route("/api/classes/{name}/examples", post(learn))
        .route("/api/classes/{name}/examples/{id}", delete(remove_example))
        .route("/api/undo", post(undo))
        .route("/api/openapi.json", get(openapi))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// Checks a request before its endpoint sees it, and completes the answer.
async fn guard(
    State(app): State<Arc<App>>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let admitted = match app.examine(&request) {
        Ok(Some(password)) => app.check_password(&password, peer).await,
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    let mut response = match admitted {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    };
    let class = usize::from(response.status().as_u16() / 100).min(5);
    app.answers[class].fetch_add(1, Ordering::Relaxed);
    let headers = response.headers_mut();
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("x-frame-options", "DENY"),
        (
            "permissions-policy",
            "camera=(), microphone=(), geolocation=()",
        ),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    if !headers.contains_key(CONTENT_SECURITY_POLICY) {
        let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
        headers.insert(CONTENT_SECURITY_POLICY, nothing);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn unknown_path(request: Request) -> Failure {
    let path: String = request.uri().path().chars().take(100).collect();
    Failure::new(
        StatusCode::NOT_FOUND,
        format!("{path}: expected a path of /api/openapi.json, found another"),
    )
}

async fn wrong_method(request: Request) -> Response {
    let path = request.uri().path();
    let methods: Vec<&str> = (crate::endpoints::ENDPOINTS.iter())
        .filter(|endpoint| endpoint.is_at(path))
        .map(|endpoint| endpoint.method)
        .collect();
    let methods = methods.join(", ");
    let error = format!("{path}: expected {methods}, found {}", request.method());
    let mut response = Failure::new(StatusCode::METHOD_NOT_ALLOWED, error).into_response();
    if let Ok(methods) = methods.parse() {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}

fn typed(kind: &'static str, body: impl Into<Body>) -> Response {
    ([(CONTENT_TYPE, kind)], body.into()).into_response()
}

async fn page() -> Response {
    let mut response = typed("text/html; charset=utf-8", PAGE);
    if let Ok(policy) = policy().parse() {
        response
            .headers_mut()
            .insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

async fn openapi() -> Response {
    typed(JSON, OPENAPI)
}

async fn state(State(app): State<Arc<App>>) -> Response {
    typed(JSON, app.state())
}

async fn history(State(app): State<Arc<App>>) -> Response {
    typed(JSON, app.shared.history_json())
}

async fn log(State(app): State<Arc<App>>) -> Response {
    typed(JSON, app.shared.log_json())
}

/// Without the reason, which is not for everybody.
async fn health(State(app): State<Arc<App>>) -> Response {
    match app.shared.health() {
        Ok(()) => typed("text/plain", "ok\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "no frames\n").into_response(),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    use std::fmt::Write;
    let mut text = app.shared.metrics();
    let _ = writeln!(
        text,
        "# HELP pinhole_http_answers_total Answers by class of status."
    );
    let _ = writeln!(text, "# TYPE pinhole_http_answers_total counter");
    for (class, count) in app.answers.iter().enumerate().skip(2) {
        let count = count.load(Ordering::Relaxed);
        let _ = writeln!(
            text,
            "pinhole_http_answers_total{{status=\"{class}xx\"}} {count}"
        );
    }
    for (name, help, count) in [
        ("accepted", "Connections.", &app.connections.accepted),
        (
            "refused",
            "Connections closed because there were too many.",
            &app.connections.refused,
        ),
    ] {
        let count = count.load(Ordering::Relaxed);
        let _ = writeln!(
            text,
            "# HELP pinhole_http_connections_{name}_total {help}\n\
             # TYPE pinhole_http_connections_{name}_total counter\n\
             pinhole_http_connections_{name}_total {count}"
        );
    }
    let open = app.connections.open.load(Ordering::Relaxed);
    let _ = writeln!(
        text,
        "# HELP pinhole_http_connections Open connections.\n\
         # TYPE pinhole_http_connections gauge\npinhole_http_connections {open}"
    );
    typed("text/plain; version=0.0.4; charset=utf-8", text)
}

/// The value of the only parameter that the endpoint knows.
fn parameter<'a>(request: &'a Request, name: &str) -> Result<Option<&'a str>, Failure> {
    let query = request.uri().query().unwrap_or_default();
    let mut value = None;
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some((key, text)) if key == name && value.is_none() => value = Some(text),
            _ => {
                let found: String = part.chars().take(100).collect();
                return Err(Failure::new(
                    StatusCode::BAD_REQUEST,
                    format!("expected {name}=VALUE once, found {found:?}"),
                ));
            }
        }
    }
    Ok(value)
}

async fn classify(State(app): State<Arc<App>>, request: Request) -> Answer {
    let top = match parameter(&request, "top")? {
        None => 5,
        Some(text) => match text.parse() {
            Ok(top) if top >= 1 => top,
            _ => {
                let error = format!("top: expected a whole number, 1 or more, found {text:?}");
                return Err(Failure::new(StatusCode::BAD_REQUEST, error));
            }
        },
    };
    let request = app.refuse_form(request, IMAGE_OPTION).await?;
    let image = app.body(request, MAX_IMAGE).await?;
    if image.is_empty() {
        let error = "expected the bytes of a JPEG, PNG, WebP, BMP or GIF file, found none";
        return Err(Failure::new(StatusCode::BAD_REQUEST, error));
    }
    let image = SentImage { bytes: image, top };
    Ok(typed(JSON, app.worker.ask(image, ANSWER_TIME).await?))
}

async fn settings(State(app): State<Arc<App>>, request: Request) -> Answer {
    let json = app.body(request, MAX_JSON).await?;
    let settings = (app.shared.change_settings(&json))
        .map_err(|e| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, e))?;
    let json = serde_json::to_string(&settings).unwrap_or_default();
    Ok(typed(JSON, json))
}

/// The state as server-sent events: at every answer, but at most ten times a second.
async fn events(State(app): State<Arc<App>>) -> Response {
    let receiver = app.shared.subscribe();
    let events = stream::unfold(
        (app, receiver, false),
        |(app, mut receiver, sent)| async move {
            if sent {
                tokio::time::sleep(EVENT_INTERVALS[0]).await;
                let _ = timeout(EVENT_INTERVALS[1], receiver.changed()).await;
            }
            receiver.borrow_and_update();
            let event = [b"event: state\ndata: ", &*app.state(), b"\n\n"].concat();
            Some((
                Ok::<_, Infallible>(Bytes::from(event)),
                (app, receiver, true),
            ))
        },
    );
    typed("text/event-stream", Body::from_stream(events))
}

fn view(request: &Request) -> Result<View, Failure> {
    match parameter(request, "view")? {
        None | Some("frame") => Ok(View::Frame),
        Some("encoder") => Ok(View::Encoder),
        Some(other) => Err(Failure::new(
            StatusCode::BAD_REQUEST,
            format!("view: expected frame or encoder, found {other:?}"),
        )),
    }
}

async fn latest(State(app): State<Arc<App>>, request: Request) -> Answer {
    let mut pictures = app.shared.pictures.subscribe(view(&request)?);
    let new = |p: &Option<Arc<Picture>>| p.as_ref().is_some_and(|p| p.made.elapsed() < NEW_PICTURE);
    let picture = timeout(PICTURE_TIME, pictures.wait_for(new)).await;
    let picture = picture.ok().and_then(|picture| picture.ok()?.clone());
    let Some(picture) = picture else {
        let error = "no frame to show; /api/state says how the camera is";
        return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, error));
    };
    let time = humantime::format_rfc3339_millis(picture.time).to_string();
    let mut response = typed("image/jpeg", picture.jpeg.clone());
    if let Ok(time) = time.parse() {
        response.headers_mut().insert("x-captured", time);
    }
    Ok(response)
}

/// Motion JPEG. A client gets the newest picture whenever it has taken the last one.
async fn video(State(app): State<Arc<App>>, request: Request) -> Answer {
    let mut pictures = app.shared.pictures.subscribe(view(&request)?);
    pictures.mark_changed();
    let parts = stream::unfold(pictures, |mut pictures| async move {
        loop {
            pictures.changed().await.ok()?;
            let picture = pictures.borrow_and_update().clone();
            if let Some(picture) = picture {
                let length = picture.jpeg.len();
                let head = format!(
                    "--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n"
                );
                let part = [head.as_bytes(), &*picture.jpeg, b"\r\n"].concat();
                return Some((Ok::<_, Infallible>(Bytes::from(part)), pictures));
            }
        }
    });
    let kind = "multipart/x-mixed-replace; boundary=frame";
    Ok(typed(kind, Body::from_stream(parts)))
}

/// The bundle as a tar archive.
async fn bundle(State(app): State<Arc<App>>) -> Answer {
    let Ok(permit) = app.downloads.clone().try_acquire_owned() else {
        return Err(Failure::busy("others are downloading the bundle"));
    };
    let name = app.shared.file_name();
    let disposition = format!("attachment; filename=\"{name}.tar\"");
    let archive = download::archive(&app.shared.place().folder, name, permit).await;
    let pieces = archive.map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e))?;
    let pieces = stream::unfold(pieces, |mut pieces| async move {
        Some((pieces.recv().await?, pieces))
    });
    let mut response = typed("application/x-tar", Body::from_stream(pieces));
    if let Ok(value) = disposition.parse() {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

/// Takes an archive of the form that [`bundle`] gives, and uses the bundle in it.
async fn replace_bundle(State(app): State<Arc<App>>, request: Request) -> Answer {
    let request = app.refuse_form(request, "-T my-bundle.tar").await?;
    check_length(&request, MAX_ARCHIVE)?;
    let Ok(permit) = app.upload.clone().try_acquire_owned() else {
        return Err(Failure::busy("another bundle is being sent"));
    };
    let sink = upload::begin(app.shared.place(), permit)?;
    let sent = timeout(UPLOAD_TIME, app.send(request, &sink)).await;
    sent.map_err(|_| too_slow(UPLOAD_TIME))??;
    let tested = timeout(TEST_TIME, sink.finish()).await;
    let tested = tested.map_err(|_| {
        let error = format!("the bundle's test has taken more than {TEST_TIME:?}");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error)
    })??;
    teach(&app, teaching::Request::Exchange(Box::new(tested))).await
}

/// Asks the thread that teaches; what the bundle knows then.
async fn teach(app: &App, request: teaching::Request) -> Answer {
    Ok(typed(JSON, app.classroom.ask(request).await?))
}

/// The parts of the path, decoded.
fn parts<T>(path: Result<Path<T>, PathRejection>) -> Result<T, Failure> {
    let path = path.map_err(|e| Failure::new(StatusCode::BAD_REQUEST, e.body_text()))?;
    Ok(path.0)
}

async fn classes(State(app): State<Arc<App>>) -> Answer {
    teach(&app, teaching::Request::List).await
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NewClass {
    name: String,
}

async fn add_class(State(app): State<Arc<App>>, request: Request) -> Answer {
    let json = app.body(request, MAX_JSON).await?;
    let new: NewClass = pinhole_fs::from_json(&json)
        .map_err(|e| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, e.to_string()))?;
    teach(&app, teaching::Request::AddClass(new.name)).await
}

type Part<T> = Result<Path<T>, PathRejection>;

async fn remove_class(State(app): State<Arc<App>>, name: Part<String>) -> Answer {
    teach(&app, teaching::Request::RemoveClass(parts(name)?)).await
}

async fn remove_example(State(app): State<Arc<App>>, path: Part<(String, u64)>) -> Answer {
    let (name, id) = parts(path)?;
    teach(&app, teaching::Request::RemoveExample(name, id)).await
}

async fn undo(State(app): State<Arc<App>>) -> Answer {
    teach(&app, teaching::Request::Undo).await
}

/// Keeps the newest frame until the client asks to learn.
async fn capture(State(app): State<Arc<App>>, name: Part<String>) -> Answer {
    let name = parts(name)?;
    let frame = app.shared.pictures.frame().ok_or_else(teaching::no_frame)?;
    let captured = app
        .classroom
        .capture(&name, &frame)
        .map_err(Fault::Request)?;
    Ok(typed(
        JSON,
        serde_json::json!({ "captured": captured }).to_string(),
    ))
}

/// Learns an image, or without a body what was captured.
async fn learn(State(app): State<Arc<App>>, name: Part<String>, request: Request) -> Answer {
    let name = parts(name)?;
    let request = app.refuse_form(request, IMAGE_OPTION).await?;
    let image = app.body(request, MAX_IMAGE).await?;
    let request = match image.is_empty() {
        true => teaching::Request::Learn(name),
        false => teaching::Request::LearnImage(name, image),
    };
    teach(&app, request).await
}
