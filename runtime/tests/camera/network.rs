//! Network cameras: MJPEG and pictures over HTTP from a server of the test's own, also from one that is hostile.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pinhole::camera::{
    Camera, CameraError, CameraEvent, CameraOptions, FrameSource, SourceEventKind,
};

use crate::support::{self, by_grey, jpeg};

/// A server on 127.0.0.1 that answers each request by `answer`, which gets the number of the request, its lines and the
/// connection. It ends with the test.
struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Server {
    fn start(answer: impl Fn(usize, &[String], &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let (seen, answer) = (requests.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, seen, answer) = (stream.unwrap(), seen.clone(), answer.clone());
                std::thread::spawn(move || {
                    let reader = BufReader::new(stream.try_clone().unwrap());
                    let mut lines = vec![];
                    for line in reader.lines().map_while(Result::ok) {
                        if !line.is_empty() {
                            lines.push(line);
                            continue;
                        }
                        let request = std::mem::take(&mut lines);
                        let number = {
                            let mut seen = seen.lock().unwrap();
                            seen.push(request.clone());
                            seen.len() - 1
                        };
                        answer(number, &request, &mut stream);
                    }
                });
            }
        });
        Self { port, requests }
    }

    /// The URL of `path`, with a user and a password.
    fn url(&self, path: &str) -> String {
        format!("http://user:s3cret%40word@127.0.0.1:{}{path}", self.port)
    }

    /// `Authorization` of each request.
    fn authorizations(&self) -> Vec<Option<String>> {
        let requests = self.requests.lock().unwrap();
        let of = |request: &Vec<String>| {
            let mut headers = request.iter().filter_map(|line| line.split_once(": "));
            let found = headers.find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
            found.map(|(_, value)| value.to_owned())
        };
        requests.iter().map(of).collect()
    }
}

/// Errors of a client that has gone are of no interest.
fn send(stream: &mut TcpStream, head: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n");
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
}

fn send_picture(stream: &mut TcpStream, grey: u8) {
    send(
        stream,
        "200 OK\r\nContent-Type: image/jpeg",
        &jpeg(grey, 64, 48),
    );
}

const STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=\"--frame\"\r\n\r\n";

/// Sends parts with the grey levels; whether the client is still there.
fn send_parts(stream: &mut TcpStream, greys: &[u8]) -> bool {
    greys.iter().all(|grey| {
        let picture = jpeg(*grey, 64, 48);
        let head = format!(
            "--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n",
            picture.len()
        );
        let part = [head.as_bytes(), &picture, b"\r\n"].concat();
        std::thread::sleep(Duration::from_millis(30));
        stream.write_all(&part).is_ok()
    })
}

fn options() -> CameraOptions {
    CameraOptions {
        timeout: Some(Duration::from_secs(2)),
        reopen_pause: Duration::from_millis(50),
        ..CameraOptions::default()
    }
}

fn source(url: &str) -> FrameSource {
    FrameSource::url(url, Duration::from_millis(50)).unwrap()
}

/// The first `count` frames, and the events until then.
fn frames(url: &str, count: usize) -> (usize, Vec<SourceEventKind>) {
    let camera = Camera::open(source(url), options()).unwrap();
    let (mut found, mut events) = (0, vec![]);
    for event in camera {
        match event.unwrap() {
            CameraEvent::Frame(frame) => {
                assert_eq!(frame.image.unwrap().width(), 64);
                found += 1;
            }
            CameraEvent::Source(event) => events.push(event.kind),
        }
        if found == count {
            break;
        }
    }
    (found, events)
}

/// Why the source cannot be opened. The password is in no message.
fn refusal(url: &str) -> String {
    let error = match Camera::open(source(url), options()) {
        Err(error) => error,
        Ok(camera) => panic!("opened: {:?}", camera.counters()),
    };
    let text = error.to_string();
    assert!(!text.contains("s3cret"), "{text}");
    assert!(text.starts_with("http://...@127.0.0.1:"), "{text}");
    text
}

#[test]
fn a_stream_is_classified_and_opened_again_when_it_ends() {
    let server = Server::start(|_, _, stream| {
        let _ = stream.write_all(STREAM.as_bytes());
        send_parts(stream, &[0, 100, 200]);
        let _ = stream.shutdown(std::net::Shutdown::Both);
    });
    let (found, events) = frames(&server.url("/stream.mjpg?channel=1"), 5);
    assert_eq!(found, 5);
    let lost = events.iter().any(
        |event| matches!(event, SourceEventKind::Lost { reason, .. } if !reason.contains("s3cret")),
    );
    assert!(
        lost && events.contains(&SourceEventKind::Reopened),
        "{events:?}"
    );
    let requests = server.requests.lock().unwrap();
    assert_eq!(requests[0][0], "GET /stream.mjpg?channel=1 HTTP/1.1");
}

#[test]
fn pictures_are_fetched_at_the_interval() {
    let server = Server::start(|number, _, stream| send_picture(stream, number as u8 % 4 * 64));
    let start = Instant::now();
    let (found, _) = frames(&server.url("/snapshot.jpg"), 5);
    assert_eq!(found, 5);
    assert!(start.elapsed() >= Duration::from_millis(200));
    let source = FrameSource::url(&server.url("/"), Duration::from_secs(2)).unwrap();
    match Camera::open(source, options()).err() {
        Some(CameraError::Option { option, .. }) => assert_eq!(option, "interval between pictures"),
        other => panic!("{other:?}"),
    }
}

/// The password is sent only after the camera asked for it; the one of Digest is right (RFC 2617 without `qop`).
#[test]
fn basic_and_digest_authentication() {
    let basic = Server::start(|_, request, stream| {
        // user:s3cret@word
        let right = request
            .iter()
            .any(|line| line.ends_with(": Basic dXNlcjpzM2NyZXRAd29yZA=="));
        match right {
            true => send_picture(stream, 100),
            false => send(
                stream,
                "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"cam\"",
                b"",
            ),
        }
    });
    assert_eq!(frames(&basic.url("/a.jpg"), 3).0, 3);
    let sent = basic.authorizations();
    assert_eq!(sent[0], None);
    assert!(sent[1..].iter().all(Option::is_some));

    // md5(md5(user:cam:s3cret@word):abc:md5(GET:/a.jpg?x)), by md5sum.
    let digest = Server::start(|_, request, stream| {
        let right = request.iter().any(|line| {
            line.contains("Digest username=\"user\"")
                && line.contains("response=\"90b67d04e65f639eb6a634322b7c9306\"")
        });
        match right {
            true => send_picture(stream, 100),
            false => send(
                stream,
                "401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"cam\", nonce=\"abc\"",
                b"",
            ),
        }
    });
    assert_eq!(frames(&digest.url("/a.jpg?x"), 3).0, 3);

    for (header, expected) in [
        (
            "WWW-Authenticate: Basic realm=\"cam\"",
            "refuses the user \"user\" or its password",
        ),
        (
            "WWW-Authenticate: Digest realm=\"cam\", nonce=\"n\", qop=\"auth\"",
            "refuses the user",
        ),
        (
            "WWW-Authenticate: NTLM",
            "expected Basic or Digest authentication, found \"NTLM\"",
        ),
        (
            "X: y",
            "expected Basic or Digest authentication, found \"\"",
        ),
    ] {
        let head = format!("401 Unauthorized\r\n{header}");
        let server = Server::start(move |_, _, stream| send(stream, &head, b""));
        let text = refusal(&server.url("/"));
        assert!(text.contains(expected), "{text}");
        assert!(server.requests.lock().unwrap().len() <= 2);
    }
    let anonymous = format!("http://127.0.0.1:{}/a.jpg", basic.port);
    let error = Camera::open(source(&anonymous), options()).err().unwrap();
    assert!(error.to_string().contains("expected a user and a password"));
}

#[test]
fn what_is_no_camera_is_an_error_that_says_what_it_is() {
    for (head, body, expected) in [
        (
            "302 Found\r\nLocation: http://other:s3cret@example.org/x",
            "",
            "redirects to \"http://...@example.org/x\"; use that address",
        ),
        ("404 Not Found", "", "found HTTP status 404"),
        (
            "200 OK\r\nContent-Type: text/html; charset=utf-8",
            "<html>",
            "found \"text/html\"",
        ),
        (
            "200 OK\r\nContent-Type: image/jpeg",
            "",
            "found an empty response",
        ),
    ] {
        let server = Server::start(move |_, _, stream| send(stream, head, body.as_bytes()));
        let text = refusal(&server.url("/"));
        assert!(text.contains(expected), "{text}");
        // A redirection is not followed.
        assert_eq!(server.requests.lock().unwrap().len(), 1);
    }
    // Nobody listens.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let text = refusal(&format!("http://user:s3cret@127.0.0.1:{port}/"));
    assert!(text.contains("onnection refused"), "{text}");
    for url in [
        "camera.local",
        "file:///etc/passwd",
        "http://",
        "http://a b",
        "ftp://a",
        "rtsp://admin:s3c'ret@cam/1",
    ] {
        let error = FrameSource::url(url, Duration::from_secs(1)).err().unwrap();
        let error = error.to_string();
        assert!(
            error.contains("expected ") && !error.contains("ret@"),
            "{error}"
        );
    }
}

/// Neither headers without an end, nor slow bytes, nor silence keep the camera waiting or fill the memory.
#[test]
fn a_hostile_server_costs_no_more_than_the_timeout() {
    let endless = Server::start(|_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"X-Header: value\r\n").is_ok() {}
    });
    let slow = Server::start(|_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let silent = Server::start(|_, _, _| std::thread::sleep(Duration::from_secs(60)));
    for server in [endless, slow, silent] {
        let start = Instant::now();
        refusal(&server.url("/"));
        assert!(
            start.elapsed() < Duration::from_secs(6),
            "{:?}",
            start.elapsed()
        );
    }
    // A stream of something else.
    let noise = Server::start(|_, _, stream| {
        let _ = stream.write_all(STREAM.as_bytes());
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let camera = Camera::open(source(&noise.url("/")), options()).unwrap();
    let lost = camera.map(Result::unwrap).find_map(|event| match event {
        CameraEvent::Source(event) => match event.kind {
            SourceEventKind::Lost { reason, .. } => Some(reason),
            _ => None,
        },
        CameraEvent::Frame(_) => panic!("a frame"),
    });
    assert!(lost.unwrap().contains("expected JPEG images (MJPEG)"));
}

/// A stream that stalls is opened again, and a camera that is dropped meanwhile does not wait for it.
#[test]
fn a_stream_that_stalls_is_opened_again() {
    let server = Server::start(|_, _, stream| {
        let _ = stream.write_all(STREAM.as_bytes());
        send_parts(stream, &[200]);
        std::thread::sleep(Duration::from_secs(60));
    });
    let start = Instant::now();
    let (found, events) = frames(&server.url("/"), 2);
    assert_eq!(found, 2);
    assert!(
        events
            .iter()
            .any(|event| matches!(event, SourceEventKind::Stalled { .. }))
    );
    let lost = |event: &SourceEventKind| matches!(event, SourceEventKind::Lost { reason, .. } if reason.contains("no frame for 2.0 s"));
    assert!(events.iter().any(lost), "{events:?}");
    // Dropping included.
    assert!(
        start.elapsed() < Duration::from_secs(6),
        "{:?}",
        start.elapsed()
    );
}

/// The classes of what a stream shows, by the whole pipeline.
#[test]
fn the_pipeline_counts_every_frame() {
    let server = Server::start(|number, _, stream| {
        if number > 0 {
            send(stream, "404 Not Found", b"");
            return;
        }
        let _ = stream.write_all(STREAM.as_bytes());
        send_parts(stream, &[0, 100, 200, 250]);
        let _ = stream.shutdown(std::net::Shutdown::Both);
    });
    let camera = Camera::open(source(&server.url("/")), options()).unwrap();
    let stop = camera.stop_handle();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(800));
        stop.stop();
    });
    let counters = {
        let mut pipeline = pinhole::camera::Pipeline::new(camera, by_grey, Default::default());
        pipeline.by_ref().for_each(|event| drop(event.unwrap()));
        pipeline.camera().counters()
    };
    stopper.join().unwrap();
    assert_eq!(counters.read, 4, "{counters:?}");
    support::assert_adds_up(&counters);
}
