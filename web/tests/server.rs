//! The server over real sockets, with the demo bundle and a recorded scene.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pinhole::camera::{
    Camera, CameraOptions, FrameSource, Pipeline, PipelineEvent, StreamInput, TrackerOptions,
};
use pinhole::internal::ImageAnswer;
use pinhole::system::System;
use pinhole::{BoardMonitor, Classifier, DecodeOptions};
use pinhole_web::{
    Caller, ENDPOINTS, Keeper, Limits, Live, Server, ServerOptions, Settings, StoredPassword,
    write_password_file,
};
use serde_json::Value;

const PASSWORD: &str = "correct horse";

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets")
}

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(assets().join("samples").join(name)).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// A server, and a camera that shows the recorded scene again and again.
struct Fixture {
    server: Server,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn new(password: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = ServerOptions::new(([127, 0, 0, 1], 0).into());
        options.limits = Limits {
            body: Duration::from_millis(500),
            ..Limits::default()
        };
        if password {
            let path = folder.path().join("password");
            write_password_file(&path, PASSWORD).unwrap();
            options.password = Some(StoredPassword::read(&path).unwrap());
        }
        let demo = folder.path().join("demo");
        copy(&assets().join("demo"), &demo);
        let builder = Classifier::builder().threads(1);
        let classifier = builder.open(&demo).unwrap();
        // Each frame of the recording shows another scene.
        let tracker = TrackerOptions {
            smoothing: 0.0,
            hysteresis: 1,
            ..TrackerOptions::default()
        };
        let settings = Settings::new(&tracker, classifier.unknown_thresholds(), None);
        let board = BoardMonitor::start(System::new(folder.path())).unwrap();
        let live = Live::new(&demo, builder, settings, Keeper::Options, Arc::new(board)).unwrap();
        live.set_classifier(Arc::new(classifier));
        let server = Server::start(options, &live).unwrap();
        let stop = Arc::<AtomicBool>::default();
        let (looping, stopped) = (live, stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                play(&looping, &stopped);
            }
        });
        Self {
            server,
            stop,
            thread: Some(thread),
            _folder: folder,
        }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Sends a request whose head has `lines` after the first; the whole answer.
    fn send(&self, first: &str, lines: &[&str], body: &[u8]) -> Answer {
        let mut stream = self.open(first, lines, Some(body.len()));
        // The server may answer without reading all of it.
        let _ = stream.write_all(body);
        Answer::read(stream)
    }

    /// Sends a bundle, again while the end of the one before is cleared away.
    fn send_bundle(&self, archive: &[u8]) -> Answer {
        let start = Instant::now();
        loop {
            let answer = self.send("PUT /api/bundle", &[], archive);
            if answer.status != 503 || start.elapsed() > Duration::from_secs(20) {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn open(&self, first: &str, lines: &[&str], length: Option<usize>) -> TcpStream {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut head = format!("{first} HTTP/1.1\r\n");
        if !lines.iter().any(|line| line.starts_with("Host:")) {
            head += &format!("Host: {}\r\n", self.address());
        }
        for line in lines {
            head += &format!("{line}\r\n");
        }
        if let Some(length) = length {
            head += &format!("Connection: close\r\nContent-Length: {length}\r\n");
        }
        stream.write_all((head + "\r\n").as_bytes()).unwrap();
        stream
    }

    fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &[], b"")
    }

    fn state(&self) -> Value {
        self.get("/api/state").json()
    }

    /// Waits until the state is as `wanted`.
    fn wait(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let state = self.state();
            if wanted(&state) {
                return state;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{state}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// Shows the recorded scene once, with 50 frames a second at most.
fn play(live: &Live, stop: &AtomicBool) {
    let source = FrameSource::mjpeg(StreamInput::Path(assets().join("scenes.mjpeg")));
    let camera = Camera::open(source, CameraOptions::default()).unwrap();
    let mut classifier = live.classifier().unwrap();
    let tracker = live.settings().tracker();
    let mut pipeline = Pipeline::new(camera, |image| classifier.classify(image), tracker);
    while let Some(event) = pipeline.next() {
        match event.unwrap() {
            PipelineEvent::Answer(answer) => live.answer(*answer),
            PipelineEvent::Source(event) => live.source_event(&event),
        }
        pipeline.set_tracker_options(live.settings().tracker());
        if stop.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn read(mut stream: TcpStream) -> Self {
        let mut bytes = vec![];
        // Reset where the server closed the connection with unread bytes.
        let _ = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {:?}", String::from_utf8_lossy(&bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        Self {
            status: head[9..12].parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    /// The body without the lines of its transfer encoding.
    fn chunks(&self) -> Vec<u8> {
        let (mut rest, mut body) = (&*self.body, vec![]);
        while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
            let length = std::str::from_utf8(&rest[..end]).unwrap();
            let length = usize::from_str_radix(length, 16).unwrap();
            body.extend_from_slice(&rest[end + 2..end + 2 + length]);
            rest = &rest[end + 4 + length..];
        }
        body
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

/// If this fails, programs that were written for the description of the API do not work.
#[test]
fn every_endpoint_is_described_and_answers() {
    let fixture = Fixture::new(false);
    fixture.wait(|state| !state["answer"].is_null());
    let description = fixture.get("/api/openapi.json").json();
    let paths = description["paths"].as_object().unwrap();
    let described = paths.values().map(|path| path.as_object().unwrap().len());
    assert_eq!(described.sum::<usize>(), ENDPOINTS.len());
    let table = include_str!("../../docs/web.md");
    for endpoint in ENDPOINTS {
        let (method, path) = (endpoint.method, endpoint.path);
        let operation = &paths[path][method.to_ascii_lowercase()];
        assert!(operation["summary"].is_string(), "{method} {path}");
        let open = operation["security"] == serde_json::json!([{}]);
        assert_eq!(open, endpoint.caller == Caller::Anyone, "{path}");
        let caller = if open { "anyone" } else { "password" };
        let row = format!("| `{method} {path}` | {caller} |");
        assert!(table.contains(&row), "docs/web.md lacks {row}");
        let body = match path {
            "/api/classify" => sample("red-heart.png"),
            "/api/settings" => b"{}".to_vec(),
            _ => vec![],
        };
        // Endless ones, and those that change the bundle, are tested below.
        let elsewhere = ["/api/events", "/stream.mjpg", "/api/undo"].contains(&path);
        let changes = path.starts_with("/api/classes") && method != "GET" || method == "PUT";
        if !elsewhere && !changes {
            let answer = fixture.send(&format!("{method} {path}"), &[], &body);
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert!(
                answer
                    .header("content-security-policy")
                    .unwrap()
                    .contains("default-src 'none'")
            );
        }
        let wrong = fixture.send(&format!("OPTIONS {path}"), &[], b"");
        assert_eq!(wrong.status, 405, "{path}");
        assert!(
            wrong
                .header("allow")
                .unwrap()
                .to_uppercase()
                .contains(method)
        );
    }
    assert_eq!(fixture.get("/api/nothing").status, 404);
    let page = fixture.get("/");
    assert!(
        page.header("content-security-policy")
            .unwrap()
            .contains("script-src 'sha256-")
    );
}

/// If this fails, `POST /api/classify` and `pinhole classify --json` differ.
#[test]
fn images_are_answered_as_by_the_command() {
    let fixture = Fixture::new(false);
    let classifier = Classifier::open(assets().join("demo")).unwrap();
    let png = sample("red-heart.png");
    let image = pinhole::decode_image(&png, &DecodeOptions::default()).unwrap();
    let jpeg = image.to_jpeg(90, 10_000).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../preprocessing/tests/golden/decode");
    let webp = std::fs::read(golden.join("lossy.webp")).unwrap();
    for bytes in [&png, &jpeg, &webp] {
        let image = pinhole::decode_image(bytes, &DecodeOptions::default()).unwrap();
        let expected = classifier.classify(&image).unwrap();
        let expected = ImageAnswer::new(None, &expected, 3, Duration::ZERO);
        // Numbers as they are written: f32.
        let expected = serde_json::to_string(&expected).unwrap();
        let mut expected: Value = serde_json::from_str(&expected).unwrap();
        let answer = fixture.send("POST /api/classify?top=3", &[], bytes);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut answer = answer.json();
        assert!(answer["latency_ms"]["total"].as_f64().unwrap() > 0.0);
        for json in [&mut answer, &mut expected] {
            json.as_object_mut().unwrap().remove("latency_ms");
        }
        assert_eq!(answer, expected);
    }
    for (path, body, status, word) in [
        ("/api/classify", &b"not an image"[..], 422, "not an image"),
        ("/api/classify", &png[..png.len() / 2], 422, "png"),
        ("/api/classify", b"", 400, "JPEG"),
        ("/api/classify?top=0", &png, 400, "top"),
        ("/api/classify?bottom=1", &png, 400, "top=VALUE"),
    ] {
        let answer = fixture.send(&format!("POST {path}"), &[], body);
        assert_eq!(answer.status, status);
        let error = answer.json()["error"].as_str().unwrap().to_lowercase();
        assert!(error.contains(&word.to_lowercase()), "{error}");
    }
}

#[test]
fn pictures_and_events_follow_the_camera() {
    let fixture = Fixture::new(false);
    fixture.wait(|state| !state["answer"].is_null());
    let side = |path: &str| {
        let answer = fixture.get(path);
        assert_eq!(
            answer.header("content-type"),
            Some("image/jpeg"),
            "{}",
            answer.text()
        );
        let image = pinhole::decode_image(&answer.body, &DecodeOptions::default()).unwrap();
        [image.width, image.height]
    };
    let frame = fixture.state()["camera"]["frame_size"].clone();
    assert_eq!(serde_json::json!(side("/latest.jpg")), frame);
    assert_eq!(side("/latest.jpg?view=encoder"), [96, 96]);
    assert_eq!(fixture.get("/latest.jpg?view=else").status, 400);

    let mut video = BufReader::new(fixture.open("GET /stream.mjpg", &[], None));
    let mut line = String::new();
    for _ in 0..3 {
        let mut length = None;
        loop {
            line.clear();
            video.read_line(&mut line).unwrap();
            if let Some(n) = line.strip_prefix("Content-Length: ") {
                length = Some(n.trim().parse::<usize>().unwrap());
            }
            if line == "\r\n" && length.is_some() {
                break;
            }
        }
        // The chunks of the transfer encoding have their own lines; a part is one chunk.
        let mut jpeg = vec![0; length.unwrap()];
        video.read_exact(&mut jpeg).unwrap();
        pinhole::decode_image(&jpeg, &DecodeOptions::default()).unwrap();
    }

    let events = BufReader::new(fixture.open("GET /api/events", &[], None));
    let states: Vec<Value> = (events.lines())
        .filter_map(|line| {
            Some(serde_json::from_str(line.unwrap().strip_prefix("data: ")?).unwrap())
        })
        .take(4)
        .collect();
    let uptime = |state: &Value| state["uptime_s"].as_f64().unwrap();
    assert!(states.windows(2).all(|w| uptime(&w[0]) < uptime(&w[1])));
    // The scene changes, so that there is a history of it.
    fixture.wait(|_| {
        let history = fixture.get("/api/history").json();
        history["changes"].as_array().unwrap().len() >= 3
    });
    let metrics = fixture.get("/metrics").text();
    for name in [
        "pinhole_up 1",
        "pinhole_frames_total{outcome=\"classified\"}",
        "pinhole_probability{class=\"",
    ] {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
}

/// If this fails, what the page sets has no effect.
#[test]
fn settings_take_effect_while_the_camera_runs() {
    let fixture = Fixture::new(false);
    fixture.wait(|state| !state["answer"].is_null());
    let set = |json: &str| fixture.send("PATCH /api/settings", &[], json.as_bytes());
    // Nothing is as similar as that.
    assert_eq!(set(r#"{"min_similarity": 1.0}"#).status, 200);
    fixture.wait(|state| state["answer"]["state"] == "unknown");
    assert_eq!(
        set(r#"{"min_similarity": null, "min_margin": null}"#).status,
        200
    );
    fixture.wait(|state| state["answer"]["state"] != "unknown");
    assert_eq!(set(r#"{"hysteresis": 1000000}"#).status, 200);
    let changes = || {
        fixture.get("/api/history").json()["changes"]
            .as_array()
            .unwrap()
            .len()
    };
    let before = changes();
    let frame = |state: &Value| state["frames"]["read"].as_u64().unwrap();
    let start = frame(&fixture.state());
    fixture.wait(|state| frame(state).abs_diff(start) > 15);
    assert!(changes() <= before + 1);
    assert_eq!(
        set(r#"{"region": [0, 0, 16, 16]}"#).json()["region"],
        serde_json::json!([0, 0, 16, 16])
    );
    fixture.wait(|state| state["settings"]["region"].is_array());
    for (json, word) in [
        (r#"{"region": [0, 0, 100000, 16]}"#, "region"),
        ("{", "JSON"),
        (r#"{"a": 1}"#, "`a`"),
    ] {
        let answer = set(json);
        assert_eq!(answer.status, 422, "{json}");
        assert!(
            answer.text().contains(word) || word == "JSON",
            "{}",
            answer.text()
        );
    }
    let log = fixture.get("/api/log").text();
    assert!(log.contains("settings changed"), "{log}");
}

/// What `curl -F file=@photo.jpg` sends. If this fails, the error is that of an image that starts with a hyphen.
#[test]
fn a_form_in_place_of_a_file_is_an_error_that_says_how_to_send_it() {
    let fixture = Fixture::new(false);
    fixture.wait(|state| !state["bundle"].is_null());
    let mut form = b"--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n".to_vec();
    form.extend(sample("red-heart.png"));
    form.extend(b"\r\n--x--\r\n");
    for (first, option) in [
        ("POST /api/classify", "curl --data-binary @photo.jpg"),
        (
            "POST /api/classes/red%20heart/examples",
            "curl --data-binary @photo.jpg",
        ),
        ("PUT /api/bundle", "curl -T my-bundle.tar"),
    ] {
        for kind in ["multipart/form-data; boundary=x", "Multipart/Mixed"] {
            let answer = fixture.send(first, &[&format!("Content-Type: {kind}")], &form);
            assert_eq!(answer.status, 415, "{first}: {}", answer.text());
            assert!(answer.text().contains(option), "{}", answer.text());
        }
    }
    // What --data-binary says of any file.
    let urlencoded = "Content-Type: application/x-www-form-urlencoded";
    let image = sample("red-heart.png");
    let answer = fixture.send("POST /api/classify", &[urlencoded], &image);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// If this fails, nothing can be taught, or what was taught is not used.
#[test]
fn classes_are_taught_and_forgotten_while_the_camera_runs() {
    let fixture = Fixture::new(false);
    fixture.wait(|state| !state["answer"].is_null());
    let ask = |first: &str, body: &[u8]| {
        let answer = fixture.send(first, &[], body);
        assert_eq!(answer.status, 200, "{first}: {}", answer.text());
        answer.json()
    };
    let class = |lesson: &Value, name: &str| {
        let classes = lesson["classes"].as_array().unwrap();
        classes.iter().find(|class| class["name"] == name).cloned()
    };
    let first = ask("GET /api/classes", b"");
    assert_eq!(first["classes"].as_array().unwrap().len(), 64);
    assert_eq!(first["undo_steps"], 0);
    let name = "my \"heart\" / ü";
    let path = "/api/classes/my%20%22heart%22%20%2F%20%C3%BC";
    let json = serde_json::json!({ "name": name }).to_string();
    ask("POST /api/classes", json.as_bytes());
    let again = fixture.send("POST /api/classes", &[], json.as_bytes());
    assert_eq!(again.status, 409, "{}", again.text());
    let heart = sample("red-heart.png");
    for _ in 0..3 {
        ask(&format!("POST {path}/examples"), &heart);
    }
    let lesson = ask("GET /api/classes", b"");
    let taught = class(&lesson, name).unwrap();
    assert_eq!(taught["examples"].as_array().unwrap().len(), 3);
    assert_eq!(ask("POST /api/classify", &heart)["top"][0]["class"], name);
    fixture.wait(|state| state["bundle"]["classes"].as_array().unwrap().len() == 65);

    // Frames of the camera.
    for _ in 0..3 {
        ask(&format!("POST {path}/captures"), b"");
        std::thread::sleep(Duration::from_millis(150));
    }
    let lesson = ask(&format!("POST {path}/examples"), b"");
    let examples = class(&lesson, name).unwrap()["examples"]
        .as_array()
        .unwrap()
        .clone();
    assert!(examples.len() > 4, "{examples:?}");
    let removed = ask(
        &format!("DELETE {path}/examples/{}", examples[0]["id"]),
        b"",
    );
    let left = class(&removed, name).unwrap()["examples"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(left, examples.len() - 1);
    assert_eq!(ask("POST /api/undo", b"")["classes"], lesson["classes"]);
    // The archive is the bundle that was taught.
    let archive = fixture.get("/api/bundle");
    assert_eq!(archive.header("content-type"), Some("application/x-tar"));
    let copied = tempfile::tempdir().unwrap();
    tar::Archive::new(&*archive.chunks())
        .unpack(copied.path())
        .unwrap();
    let copied = Classifier::open(copied.path().join("demo")).unwrap();
    assert!(copied.manifest().classes.iter().any(|class| class == name));
    let forgotten = ask(&format!("DELETE {path}"), b"");
    assert_eq!(class(&forgotten, name), None);
    assert_eq!(
        ask("POST /api/classify", &heart)["top"][0]["class"],
        "red heart"
    );
    // If this fails, programs cannot tell a request that is wrong from one that came too late.
    let png = sample("red-heart.png");
    for (first, body, status) in [
        ("POST /api/classes", &b"{}"[..], 422),
        ("POST /api/classes", b"{\"name\": \"\"}", 422),
        ("POST /api/classes", b"{\"name\": \"red heart\"}", 409),
        ("DELETE /api/classes/nothing", b"", 404),
        ("POST /api/classes/nothing/examples", &png, 404),
        ("POST /api/classes/nothing/examples", b"", 404),
        (
            "POST /api/classes/red%20heart/examples",
            b"not an image",
            422,
        ),
        ("DELETE /api/classes/red%20heart/examples/99999", b"", 404),
        ("DELETE /api/classes/nothing/examples/1", b"", 404),
        ("DELETE /api/classes/a/examples/b", b"", 400),
    ] {
        let refused = fixture.send(first, &[], body);
        assert_eq!(refused.status, status, "{first}: {}", refused.text());
    }
    while fixture.get("/api/classes").json()["undo_steps"] != 0 {
        ask("POST /api/undo", b"");
    }
    let undone = fixture.send("POST /api/undo", &[], b"");
    assert_eq!(undone.status, 409, "{}", undone.text());
    let log = fixture.get("/api/log").text();
    assert!(
        log.contains("3 examples") || log.contains("1 examples learned"),
        "{log}"
    );
}

/// A tar archive with one file changed: its new content, or `None` to leave it out. The manifest states the new hash.
fn changed(archive: &[u8], path: &str, change: &dyn Fn(&[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    use sha2::Digest;
    let mut files = vec![];
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = vec![];
        entry.read_to_end(&mut content).unwrap();
        files.push((entry.path().unwrap().to_str().unwrap().to_owned(), content));
    }
    let at = files.iter().position(|(name, _)| name == path).unwrap();
    let new = change(&files[at].1);
    let inside = path.split_once('/').unwrap().1;
    let manifest = files.last_mut().unwrap();
    assert_eq!(manifest.0, "demo/manifest.json");
    if let Some(new) = &new {
        let mut json: Value = serde_json::from_slice(&manifest.1).unwrap();
        for file in json["files"].as_array_mut().unwrap() {
            if file["path"] == inside {
                let hash = sha2::Sha256::digest(new);
                let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                file["sha256"] = hash.into();
                file["bytes"] = new.len().into();
            }
        }
        manifest.1 = serde_json::to_vec(&json).unwrap();
    }
    match new {
        Some(new) => files[at].1 = new,
        None => drop(files.remove(at)),
    }
    let mut builder = tar::Builder::new(vec![]);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, &*content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// If this fails, a bundle that was sent is not used, or a bad one replaces a good one.
#[test]
fn a_bundle_that_is_sent_replaces_the_one_in_use_only_if_it_works() {
    let fixture = Fixture::new(false);
    fixture.wait(|state| !state["answer"].is_null());
    let folder = fixture._folder.path();
    std::fs::write(folder.join("demo/notes.txt"), "mine").unwrap();
    let archive = fixture.get("/api/bundle").chunks();
    let classes = |count: usize| {
        move |state: &Value| state["bundle"]["classes"].as_array().unwrap().len() == count
    };
    let added = fixture.send("POST /api/classes", &[], b"{\"name\": \"my mug\"}");
    assert_eq!(added.status, 200, "{}", added.text());
    fixture.send(
        "POST /api/classes/my%20mug/examples",
        &[],
        &sample("red-heart.png"),
    );
    fixture.wait(classes(65));

    let beside = || {
        let mut names: Vec<_> = (std::fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = beside();
    let strict = |bytes: &[u8]| {
        let mut json: Value = serde_json::from_slice(bytes).unwrap();
        json["min_cosine"] = 1.0.into();
        let first = &mut json["images"][0]["embedding"][0];
        *first = (first.as_f64().unwrap() + 0.5).into();
        Some(serde_json::to_vec(&json).unwrap())
    };
    let damaged = |bytes: &[u8]| Some(bytes[..bytes.len() - 1].to_vec());
    let mut flipped = archive.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let mut photo = tar::Builder::new(vec![]);
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    photo
        .append_data(&mut header, "photo.jpg", &b"abc"[..])
        .unwrap();
    let mut foreign = tar::Builder::new(vec![]);
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    foreign
        .append_data(&mut header, "demo/photo.jpg", &b"abc"[..])
        .unwrap();
    let mut foreign = foreign.into_inner().unwrap();
    foreign.truncate(1024);
    foreign.extend_from_slice(&archive);
    for (name, bytes, words) in [
        (
            "a self-test",
            changed(&archive, "demo/golden/embeddings.json", &strict),
            &["self-test", "expected a cosine"][..],
        ),
        (
            "a wrong hash",
            flipped,
            &["demo/", "sha256: expected", "found"],
        ),
        (
            "a missing file",
            changed(&archive, "demo/head.safetensors", &|_| None),
            &["demo/head.safetensors"],
        ),
        (
            "a damaged file",
            changed(&archive, "demo/head.safetensors", &damaged),
            &["demo/head.safetensors"],
        ),
        (
            "no manifest",
            changed(&archive, "demo/manifest.json", &|_| None),
            &["demo", "manifest.json"],
        ),
        (
            "a photo",
            sample("red-heart.png"),
            &["expected a tar archive"],
        ),
        (
            "a photo in an archive",
            photo.into_inner().unwrap(),
            &["one folder", "photo.jpg"],
        ),
        (
            "a foreign file",
            foreign,
            &["manifest.json lists", "photo.jpg"],
        ),
        (
            "half of it",
            archive[..archive.len() / 2].to_vec(),
            &["expected a tar archive"],
        ),
        ("nothing", vec![], &["found none"]),
    ] {
        let answer = fixture.send_bundle(&bytes);
        assert_eq!(answer.status, 422, "{name}: {}", answer.text());
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        for word in words {
            assert!(error.contains(word), "{name}: {error}");
        }
        assert!(!error.contains("partial-"), "{error}");
        assert!(classes(65)(&fixture.state()), "{name}");
        assert_eq!(beside(), before, "{name}");
    }
    let lines = ["Content-Length: 4294967297", "Connection: close"];
    let large = Answer::read(fixture.open("PUT /api/bundle", &lines, None));
    assert_eq!(large.status, 413, "{}", large.text());
    let lines = ["Content-Length: 100", "Connection: close"];
    // The archive before it may not have been cleared away.
    std::thread::sleep(Duration::from_millis(500));
    let slow = fixture.open("PUT /api/bundle", &lines, None);
    std::thread::sleep(Duration::from_millis(200));
    let second = fixture.send("PUT /api/bundle", &[], &archive);
    assert_eq!(second.status, 503, "{}", second.text());
    assert_eq!(Answer::read(slow).status, 408);
    assert!(
        Classifier::open(folder.join("demo"))
            .unwrap()
            .manifest()
            .classes
            .len()
            == 65
    );

    let used = fixture.send_bundle(&archive);
    assert_eq!(used.status, 200, "{}", used.text());
    let used = used.json();
    assert_eq!(used["classes"], 64);
    assert!(used["tested"].as_u64().unwrap() > 0, "{used}");
    fixture.wait(classes(64));
    let start = fixture.state()["frames"]["classified"].as_u64();
    fixture.wait(|state| state["frames"]["classified"].as_u64() > start);
    assert_eq!(fixture.get("/api/classes").json()["undo_steps"], 0);
    assert_eq!(beside(), before);
    let notes = std::fs::read_to_string(folder.join("demo/notes.txt")).unwrap();
    assert_eq!(notes, "mine");
    // What was taught comes back with a copy of it.
    let heart = fixture.send("POST /api/classify", &[], &sample("red-heart.png"));
    assert_eq!(heart.json()["top"][0]["class"], "red heart");
    let log = fixture.get("/api/log").text();
    assert!(log.contains("bundle exchanged"), "{log}");
}

/// If this fails, a program that teaches is told to correct what it has sent when the board is at fault.
#[test]
fn faults_of_the_server_are_told_from_those_of_requests() {
    let fixture = Fixture::new(false);
    let manifest = fixture._folder.path().join("demo/manifest.json");
    let good = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, "{").unwrap();
    let add = || fixture.send("POST /api/classes", &[], b"{\"name\": \"my mug\"}");
    let damaged = add();
    assert_eq!(damaged.status, 500, "{}", damaged.text());
    assert!(
        damaged.text().contains("manifest.json"),
        "{}",
        damaged.text()
    );
    assert_eq!(fixture.get("/api/bundle").status, 500);
    std::fs::write(&manifest, good).unwrap();
    assert_eq!(add().status, 200);
}

/// If this fails, a page of a stranger can read or change what the camera sees.
#[test]
fn requests_of_other_pages_are_refused() {
    let fixture = Fixture::new(false);
    let status = |first: &str, lines: &[&str]| fixture.send(first, lines, b"{}").status;
    let (get, patch) = ("GET /api/state", "PATCH /api/settings");
    assert_eq!(status(get, &[]), 200);
    assert_eq!(status(get, &["Host: evil.example"]), 403);
    assert_eq!(status("GET /healthz", &["Host: evil.example"]), 403);
    assert_eq!(status(get, &["Host: localhost", "Host: evil.example"]), 403);
    assert_eq!(status("GET http://evil.example/api/state", &[]), 403);
    assert_eq!(status(patch, &[]), 200);
    let own = format!("Origin: http://{}", fixture.address());
    assert_eq!(status(patch, &[&own]), 200);
    assert_eq!(status(patch, &["Origin: http://evil.example"]), 403);
    assert_eq!(status(patch, &["Origin: null"]), 403);
    assert_eq!(status(patch, &["Sec-Fetch-Site: cross-site"]), 403);
    assert_eq!(
        status(
            get,
            &["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"]
        ),
        403
    );
    assert_eq!(
        status("OPTIONS /api/settings", &["Origin: http://evil.example"]),
        403
    );
    let error = fixture.send(get, &["Host: evil.example"], b"").json();
    assert!(error["error"].as_str().unwrap().contains("--host-name"));
}

/// If this fails, the camera of one user is everybody's.
#[test]
fn other_machines_need_the_password() {
    let everywhere = ServerOptions::new(([0, 0, 0, 0], 0).into());
    let error = everywhere.check().unwrap_err().to_string();
    assert!(error.contains("--password-file"), "{error}");

    let fixture = Fixture::new(true);
    let status = |path: &str, line: &str| {
        let lines = [line];
        let lines = if line.is_empty() { &[][..] } else { &lines };
        fixture.send(&format!("GET {path}"), lines, b"").status
    };
    for endpoint in ENDPOINTS {
        let first = format!("{} {}", endpoint.method, endpoint.path);
        let answer = fixture.send(&first, &[], b"");
        match endpoint.caller {
            Caller::Anyone => assert!([200, 503].contains(&answer.status)),
            Caller::Password => {
                assert_eq!(answer.status, 401, "{first}");
                assert!(
                    answer
                        .header("www-authenticate")
                        .unwrap()
                        .starts_with("basic")
                );
            }
        }
    }
    assert_eq!(status("/api/nothing", ""), 401);
    assert_eq!(status("/api/state", "Authorization: Digest a"), 401);
    assert_eq!(
        status("/api/state", &format!("Authorization: Bearer {PASSWORD}")),
        200
    );
    // pinhole:correct horse
    assert_eq!(
        status(
            "/api/state",
            "Authorization: Basic cGluaG9sZTpjb3JyZWN0IGhvcnNl"
        ),
        200
    );
    let wrong = fixture.send(
        "GET /api/state",
        &["Authorization: Bearer correct house"],
        b"",
    );
    assert_eq!(wrong.status, 401);
    for _ in 0..4 {
        status("/api/state", "Authorization: Bearer wrong password");
    }
    let limited = fixture.send(
        "GET /api/state",
        &["Authorization: Bearer wrong password"],
        b"",
    );
    assert_eq!(limited.status, 429);
    assert!(
        limited
            .header("retry-after")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
    // Who knows it is not locked out.
    assert_eq!(
        status("/api/state", &format!("Authorization: Bearer {PASSWORD}")),
        200
    );
}

#[test]
fn bodies_are_bounded_in_size_and_time() {
    let fixture = Fixture::new(false);
    let large = "Content-Length: 16777217";
    let declared =
        Answer::read(fixture.open("POST /api/classify", &[large, "Connection: close"], None));
    assert_eq!(declared.status, 413);
    let lines = ["Transfer-Encoding: chunked", "Connection: close"];
    let mut chunked = fixture.open("PATCH /api/settings", &lines, None);
    let _ = chunked.write_all(format!("11170\r\n{}\r\n0\r\n\r\n", " ".repeat(0x11170)).as_bytes());
    assert_eq!(Answer::read(chunked).status, 413);
    let lines = ["Content-Length: 100", "Connection: close"];
    let slow = Answer::read(fixture.open("POST /api/classify", &lines, None));
    assert_eq!(slow.status, 408);
    let long = format!("A: {}", "a".repeat(100_000));
    assert_eq!(fixture.send("GET /api/state", &[&long], b"").status, 431);
}

/// If this fails, many open streams stop the camera. What is sent here fits the buffers of the connections: tests/web/load
/// has clients that take it too slowly.
#[test]
fn fifty_open_streams_do_not_stop_the_camera() {
    let fixture = Fixture::new(false);
    fixture.wait(|state| !state["answer"].is_null());
    let clients: Vec<TcpStream> = (0..50)
        .map(|i| {
            let path = ["GET /stream.mjpg", "GET /api/events"][i % 2];
            fixture.open(path, &[], None)
        })
        .collect();
    let frames = |from: Instant| {
        let mut receiver = 0;
        let mut last = None;
        while from.elapsed() < Duration::from_secs(1) {
            let frame = fixture.state()["answer"]["frame"].as_u64();
            receiver += usize::from(frame != last);
            last = frame;
            std::thread::sleep(Duration::from_millis(10));
        }
        receiver
    };
    // It shows 50 a second at most; this machine may be busy with other tests.
    assert!(frames(Instant::now()) >= 5);
    drop(clients);
}

/// If this fails, a stranger's bytes end the server, or use up its files.
#[test]
fn malformed_requests_do_no_harm() {
    let fixture = Fixture::new(false);
    fixture.wait(|state| !state["answer"].is_null());
    let seeds = [
        "GET /api/state HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic YTpi\r\n\r\n",
        "POST /api/classify?top=3 HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 4\r\n\r\nabcd",
        "PATCH /api/settings HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "GET http://localhost/latest.jpg?view=encoder HTTP/1.0\r\nHost: localhost\r\nOrigin: http://localhost\r\n\r\n",
    ];
    let handles = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = handles();
    let mut random = 1u64;
    let mut next = |below: usize| {
        // Knuth's MMIX.
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) as usize % below
    };
    for i in 0..500 {
        let mut request = seeds[i % seeds.len()].as_bytes().to_vec();
        for _ in 0..1 + next(6) {
            let at = next(request.len());
            match next(4) {
                0 => request[at] = next(256) as u8,
                1 if request.len() > 1 => drop(request.remove(at)),
                2 => request.insert(at, b"\r\n :\0\xff%?"[next(8)]),
                _ => request.truncate(at.max(1)),
            }
        }
        let mut stream = TcpStream::connect(fixture.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(5)))
            .unwrap();
        let _ = stream.write_all(&request);
        let _ = stream.read(&mut [0; 64]);
    }
    assert_eq!(fixture.get("/api/state").status, 200);
    let answer = fixture
        .send("POST /api/classify", &[], &sample("red-heart.png"))
        .json();
    assert_eq!(answer["top"][0]["class"], "red heart");
    let start = Instant::now();
    // The fixture of another test of this process has some of its own.
    while handles() > before + 30 && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(handles() <= before + 30, "{} of {before}", handles());
}
