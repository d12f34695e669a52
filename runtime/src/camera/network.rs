//! Network cameras: MJPEG and single pictures over HTTP, and everything else through ffmpeg.
//!
//! An MJPEG stream over HTTP is `multipart/x-mixed-replace`. Its parts are not parsed: the JPEG images in it are found by
//! their markers, as in any stream ([`super::mjpeg`]), whatever the boundary and the headers of the parts are.

use std::io::{Error, ErrorKind, Read};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;
use pinhole_model::without_credentials;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::authentication::{Challenge, Credentials, choose};
use super::capture::{Capture, CaptureSource, POLL_INTERVAL, Poll};
use super::error::CameraError;
use super::frame::EncodedFrame;
use super::mjpeg::{self, MAX_JPEG_BYTES};
use super::slot::Shared;
use super::stream::{StreamInput, StreamSource};
use crate::standard_streams::printable;

/// Limits of each phase of a request. The camera's own timeout limits all of them together.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of the headers of a response.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// The schemes that ffmpeg reads.
const FFMPEG_SCHEMES: [&str; 8] = ["rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp", "tcp"];

/// A camera at a URL.
pub(super) struct NetworkSource {
    address: Address,
    /// Time between two single pictures.
    interval: Duration,
}

/// A URL, taken apart.
struct Address {
    /// For messages, without user and password.
    shown: String,
    scheme: String,
    /// Without user and password.
    url: String,
    /// All of it, for ffmpeg.
    with_credentials: String,
    /// Path and query, as they are in the request.
    target: String,
    credentials: Option<Credentials>,
}

impl Address {
    fn parse(url: &str) -> Result<Self, CameraError> {
        let shown = without_credentials(url).into_owned();
        let wrong = |reason: &str| CameraError::Source {
            name: printable(&shown).into_owned(),
            reason: reason.into(),
        };
        let known = "expected a URL that begins with http, https, rtsp, rtsps, rtmp, rtmps, srt, udp, rtp or tcp and ://";
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong(known))?;
        let scheme = scheme.to_ascii_lowercase();
        if !matches!(&*scheme, "http" | "https") && !FFMPEG_SCHEMES.contains(&&*scheme) {
            return Err(wrong(known));
        }
        if url.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(wrong("expected a URL without spaces; write %20 for one"));
        }
        // Messages end a URL at them, and would show the rest of a password.
        if url.contains(|c: char| "\"'`<>".contains(c)) {
            return Err(wrong(
                "expected a URL without quotes, < and >; write %27 for ', %22 for \", %60 for `, %3C for < and %3E for >",
            ));
        }
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user_info, host) = match authority.rsplit_once('@') {
            Some((user_info, host)) => (Some(user_info), host),
            None => (None, authority),
        };
        if host.is_empty() {
            return Err(wrong(
                "expected the name or the address of a camera after ://",
            ));
        }
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let target = match target.strip_prefix('?') {
            Some(query) => format!("/?{query}"),
            None if target.is_empty() => "/".into(),
            None => target.to_owned(),
        };
        Ok(Self {
            url: format!("{scheme}://{host}{target}"),
            credentials: user_info.map(|user_info| {
                let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
                Credentials {
                    user: decode(user),
                    password: decode(password),
                }
            }),
            with_credentials: url.to_owned(),
            shown,
            scheme,
            target,
        })
    }
}

impl NetworkSource {
    pub(super) fn new(url: &str, interval: Duration) -> Result<Self, CameraError> {
        Ok(Self {
            address: Address::parse(url)?,
            interval,
        })
    }

    fn failed(&self, error: &Error) -> CameraError {
        CameraError::Source {
            name: self.name(),
            reason: error.to_string(),
        }
    }

    /// The frames that ffmpeg converts to MJPEG.
    fn ffmpeg(&self, shared: &Arc<Shared>) -> Result<Box<dyn Capture>, CameraError> {
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-loglevel", "error"]);
        if self.address.scheme.starts_with("rtsp") {
            // Over UDP, packets are lost without notice.
            command.args(["-rtsp_transport", "tcp"]);
        }
        command.arg("-i").arg(&self.address.with_credentials);
        command.args(["-an", "-c:v", "mjpeg", "-q:v", "3", "-f", "mjpeg", "-"]);
        let input = StreamInput::Command(Box::new(command));
        let opened = StreamSource::new(input, mjpeg::capture).open(shared);
        opened.map_err(|e| CameraError::Source {
            name: self.name(),
            reason: e.to_string(),
        })
    }
}

impl CaptureSource for NetworkSource {
    fn name(&self) -> String {
        printable(&self.address.shown).into_owned()
    }

    fn is_live(&self) -> bool {
        true
    }

    fn can_reopen(&self) -> bool {
        true
    }

    fn open(&mut self, shared: &Arc<Shared>) -> Result<Box<dyn Capture>, CameraError> {
        if !self.address.scheme.starts_with("http") {
            return self.ffmpeg(shared);
        }
        let mut connection = Connection::new(shared).map_err(|e| self.failed(&e))?;
        let response = connection.get(&self.address).map_err(|e| self.failed(&e))?;
        match Content::of(&response).map_err(|e| self.failed(&e))? {
            Content::Stream => Ok(mjpeg::capture(Box::new(BodyReader {
                body: response.into_body().into_reader(),
                connection,
            }))),
            Content::Video => self.ffmpeg(shared),
            Content::Picture => {
                if shared
                    .timeout
                    .is_some_and(|timeout| self.interval >= timeout)
                {
                    return Err(CameraError::Option {
                        option: "interval between pictures",
                        expected: "less than the timeout without a frame",
                        found: format!("{} s", self.interval.as_secs_f64()),
                    });
                }
                let first = read_picture(response, &connection).map_err(|e| self.failed(&e))?;
                Ok(Box::new(Snapshots {
                    address: Address::parse(&self.address.with_credentials)?,
                    interval: self.interval,
                    last: Instant::now(),
                    first: Some(first),
                    connection,
                }))
            }
        }
    }
}

/// What a response holds.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    /// JPEG images one after the other.
    Stream,
    Picture,
    /// What ffmpeg reads.
    Video,
}

impl Content {
    fn of<T>(response: &Response<T>) -> std::io::Result<Self> {
        let header = response.headers().get("content-type");
        let kind = header.map_or("", |value| value.to_str().unwrap_or_default());
        let kind = kind.split(';').next().unwrap_or_default().trim();
        match &*kind.to_ascii_lowercase() {
            // Without a type, the content decides.
            ""
            | "application/octet-stream"
            | "multipart/x-mixed-replace"
            | "video/x-motion-jpeg"
            | "video/x-mjpeg" => Ok(Self::Stream),
            "image/jpeg" | "image/jpg" => Ok(Self::Picture),
            "application/vnd.apple.mpegurl" | "application/x-mpegurl" => Ok(Self::Video),
            video if video.starts_with("video/") => Ok(Self::Video),
            other => Err(Error::other(format!(
                "expected MJPEG (multipart/x-mixed-replace), a picture (image/jpeg) or a video, found {:?}; check the \
                 address",
                printable(other)
            ))),
        }
    }
}

/// Requests of one opened source. A thread beside it ends a request when the camera is stopped or stalls.
struct Connection {
    agent: Agent,
    shared: Arc<Shared>,
    opened: Instant,
    ended: Arc<AtomicBool>,
    challenge: Option<Challenge>,
    /// Number of requests with the challenge.
    count: u32,
}

impl Connection {
    fn new(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Another address could be anybody's: the user is to see it, and it gets no password.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(MAX_HEADER_BYTES)
            .proxy(None)
            .timeout_resolve(Some(RESOLVE_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(RESPONSE_TIMEOUT))
            .user_agent("pinhole")
            .build();
        let connection = Self {
            agent: Agent::new_with_config(config),
            shared: shared.clone(),
            opened: Instant::now(),
            ended: Arc::default(),
            challenge: None,
            count: 0,
        };
        connection.watch()?;
        Ok(connection)
    }

    fn watch(&self) -> std::io::Result<()> {
        let (agent, shared, ended, opened) = (
            self.agent.clone(),
            self.shared.clone(),
            self.ended.clone(),
            self.opened,
        );
        let watch = move || {
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(POLL_INTERVAL);
                if shared.stopped() || shared.check_stall(opened).is_some() {
                    agent.shutdown();
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("network".into());
        thread.spawn(watch).map(drop)
    }

    /// The error if the thread has ended the request, or will.
    fn interrupted(&self) -> Option<Error> {
        if self.shared.stopped() {
            return Some(Error::other("the camera was stopped"));
        }
        let timeout = self.shared.check_stall(self.opened)?;
        let reason = format!("no frame for {:.1} s", timeout.as_secs_f64());
        Some(Error::new(ErrorKind::TimedOut, reason))
    }

    /// The response to a GET request, with status 200.
    fn get(&mut self, address: &Address) -> std::io::Result<Response<Body>> {
        let mut response = self.send(address)?;
        // A challenge that is not known yet, or has become old.
        if response.status() == 401
            && let Some(credentials) = &address.credentials
        {
            let headers = response.headers().get_all("www-authenticate");
            let headers = headers.iter().filter_map(|value| value.to_str().ok());
            let challenge = choose(headers).map_err(|schemes| {
                let found = printable(&schemes.join(", ")).into_owned();
                Error::other(format!(
                    "expected Basic or Digest authentication, found {found:?}"
                ))
            })?;
            if challenge == Challenge::Basic && self.challenge == Some(Challenge::Basic) {
                return Err(refused(credentials));
            }
            (self.challenge, self.count) = (Some(challenge), 0);
            response = self.send(address)?;
            if response.status() == 401 {
                return Err(refused(credentials));
            }
        }
        let status = response.status();
        if status == 200 {
            return Ok(response);
        }
        let location = response.headers().get("location");
        Err(Error::other(match location {
            Some(location) if status.is_redirection() => {
                let location = String::from_utf8_lossy(location.as_bytes());
                let location = without_credentials(&location);
                format!("redirects to {:?}; use that address", printable(&location))
            }
            _ if status == 401 => {
                "expected a user and a password, as in http://USER:PASSWORD@...".into()
            }
            _ => format!("expected a picture or a stream, found HTTP status {status}"),
        }))
    }

    fn send(&mut self, address: &Address) -> std::io::Result<Response<Body>> {
        let mut request = self.agent.get(&address.url);
        if let (Some(challenge), Some(credentials)) = (&self.challenge, &address.credentials) {
            self.count = self.count.saturating_add(1);
            let answer = challenge.answer(credentials, &address.target, self.count);
            request = request.header("Authorization", answer);
        }
        let response = request.call();
        match self.interrupted() {
            Some(error) => Err(error),
            None => response.map_err(|e| match e {
                ureq::Error::Io(e) => e,
                e => Error::other(without_credentials(&e.to_string())),
            }),
        }
    }
}

fn refused(credentials: &Credentials) -> Error {
    let user = printable(&credentials.user).into_owned();
    Error::other(format!(
        "the camera refuses the user {user:?} or its password"
    ))
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// The body of a response, until the camera is stopped or stalls.
struct BodyReader {
    body: ureq::BodyReader<'static>,
    connection: Connection,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.body.read(buffer);
        match self.connection.interrupted() {
            Some(error) => Err(error),
            None => read,
        }
    }
}

/// Single pictures, one per interval.
struct Snapshots {
    address: Address,
    interval: Duration,
    /// When the last one was requested.
    last: Instant,
    /// The one that came when the source was opened.
    first: Option<Vec<u8>>,
    connection: Connection,
}

impl Capture for Snapshots {
    fn next(&mut self) -> std::io::Result<Option<Poll>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(Poll::Frame(EncodedFrame::Jpeg(first))));
        }
        loop {
            let left = self.interval.saturating_sub(self.last.elapsed());
            if left.is_zero() {
                break;
            }
            if self.connection.shared.stopped() {
                return Ok(None);
            }
            std::thread::sleep(left.min(POLL_INTERVAL));
        }
        self.last = Instant::now();
        let response = self.connection.get(&self.address)?;
        match Content::of(&response)? {
            Content::Picture => {
                let picture = read_picture(response, &self.connection)?;
                Ok(Some(Poll::Frame(EncodedFrame::Jpeg(picture))))
            }
            other => Err(Error::other(format!(
                "expected a picture as before, found a {other:?}"
            ))),
        }
    }
}

/// The body of a response: a JPEG file of at most [`MAX_JPEG_BYTES`].
fn read_picture(response: Response<Body>, connection: &Connection) -> std::io::Result<Vec<u8>> {
    let mut picture = vec![];
    let body = response.into_body().into_reader();
    let read = body
        .take(MAX_JPEG_BYTES as u64 + 1)
        .read_to_end(&mut picture);
    if let Some(error) = connection.interrupted() {
        return Err(error);
    }
    read?;
    match picture.len() {
        1..=MAX_JPEG_BYTES => Ok(picture),
        0 => Err(Error::other("expected a picture, found an empty response")),
        _ => Err(Error::other(format!(
            "expected a picture of at most {MAX_JPEG_BYTES} bytes, found more"
        ))),
    }
}
