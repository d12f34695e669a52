//! The whole appliance under failures of the source, the display and the bundle.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use pinhole::system::System;
use pinhole_firmware::app;
use pinhole_firmware::canvas::Canvas;
use pinhole_firmware::config::ApplianceConfig;
use pinhole_firmware::counters::RunCounters;
use pinhole_firmware::display::{DisplayThread, OpenPanel};
use pinhole_firmware::log::{self, RecordKind};
use pinhole_firmware::panel::{Panel, PanelError};
use pinhole_firmware::screens::{BootScreen, LiveScreen, Screen};
use pinhole_firmware::text::Fonts;

use crate::support::{assert_sums, assets, copy, make_pipe, scenes};

/// A panel that keeps the last picture, and fails on request.
#[derive(Clone, Default)]
struct FakePanel {
    last: Arc<Mutex<Option<Canvas>>>,
    fails: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
}

impl Panel for FakePanel {
    fn size(&self) -> Size {
        Size::new(240, 240)
    }

    fn show(&mut self, canvas: &Canvas) -> Result<(), PanelError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(PanelError::Bus {
                path: "/dev/i2c-1".into(),
                reason: "no response".into(),
            });
        }
        *self.last.lock().unwrap() = Some(canvas.clone());
        Ok(())
    }
}

impl FakePanel {
    /// Whether the last picture has a pixel of `colour` in the rows from `top` to `bottom`.
    fn has(&self, colour: Rgb888, top: u32, bottom: u32) -> bool {
        let last = self.last.lock().unwrap();
        let last = last.as_ref();
        last.is_some_and(|canvas| (top..bottom).any(|y| canvas.row(y).contains(&colour)))
    }

    /// The error screen has a red header.
    fn shows_an_error(&self) -> bool {
        self.has(Rgb888::new(214, 48, 49), 0, 40)
    }

    /// The live screen has a bar.
    fn shows_an_answer(&self) -> bool {
        self.has(Rgb888::new(64, 208, 190), 150, 180)
    }

    /// The live screen has a notice at the bottom.
    fn shows_a_notice(&self) -> bool {
        self.shows_an_answer() && self.has(Rgb888::new(255, 184, 48), 205, 240)
    }
}

/// A running appliance.
struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<RunCounters>,
    panel: FakePanel,
    folder: tempfile::TempDir,
}

impl Running {
    /// Starts it with the configuration `lines` and a log in `log/`.
    fn start(folder: tempfile::TempDir, lines: &str) -> Self {
        let path = folder.path().join("firmware.toml");
        let text = format!("{lines}\n[log]\nfolder = \"log\"\n");
        let config = ApplianceConfig::parse(&text, &path).unwrap();
        let panel = FakePanel::default();
        let opened = panel.clone();
        let open: OpenPanel = Box::new(move || {
            opened.opened.fetch_add(1, Ordering::Relaxed);
            Ok(Some(Box::new(opened.clone())))
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let fonts = Fonts::new(&[], false).unwrap();
            app::run(&config, open, fonts, System::new("/nowhere"), &stopped).unwrap()
        });
        Self {
            stop,
            thread,
            panel,
            folder,
        }
    }

    /// Waits until the log has `count` records for which `is` holds.
    #[track_caller]
    fn until_recorded(&self, expected: &str, count: usize, is: impl Fn(&RecordKind) -> bool) {
        let folder = self.folder.path().join("log");
        until(expected, || {
            let records = log::read(&folder).unwrap();
            records
                .filter(|r| r.as_ref().is_ok_and(|r| is(&r.kind)))
                .count()
                >= count
        });
    }

    /// Stops the appliance. Returns the records of its log and its counters.
    fn stop(self) -> (Vec<RecordKind>, RunCounters) {
        self.stop.store(true, Ordering::Relaxed);
        self.end()
    }

    fn end(self) -> (Vec<RecordKind>, RunCounters) {
        let counters = self.thread.join().unwrap();
        let records: Vec<RecordKind> = log::read(self.folder.path().join("log"))
            .unwrap()
            .map(|record| record.unwrap().kind)
            .collect();
        assert!(matches!(records.first(), Some(RecordKind::Start { .. })));
        assert!(matches!(records.last(), Some(RecordKind::End { .. })));
        assert_sums(&counters);
        assert_eq!(counters.records, records.len() as u64);
        (records, counters)
    }
}

/// Waits until `is` holds, for at most 30 s, as the machine may be busy.
#[track_caller]
fn until(expected: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(30), "{expected}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn errors(records: &[RecordKind], of: &str) -> Vec<String> {
    (records.iter())
        .filter_map(|record| match record {
            RecordKind::Error { component, text } if component == of => Some(text.clone()),
            _ => None,
        })
        .collect()
}

/// Writes ten frames per second to a named pipe, at first of scene 0.
struct Feed {
    /// Number of the scene, or `usize::MAX` for no frames.
    scene: Arc<Mutex<usize>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    fn start(path: &Path) -> Self {
        if !path.exists() {
            make_pipe(path);
        }
        let (scene, stop) = (Arc::new(Mutex::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (scene, stop, path) = (scene.clone(), stop.clone(), path.to_owned());
            std::thread::spawn(move || {
                let scenes = scenes();
                // Blocks until the appliance opens the pipe.
                let mut pipe = std::fs::File::options().write(true).open(path).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let scene = *scene.lock().unwrap();
                    if let Some(frame) = scenes.get(scene)
                        && pipe.write_all(frame).is_err()
                    {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            })
        };
        Self {
            scene,
            stop,
            thread: Some(thread),
        }
    }

    fn show(&self, scene: usize) {
        *self.scene.lock().unwrap() = scene;
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Without a reader the thread never ends.
        if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished) {
            thread.join().unwrap();
        }
    }
}

fn with_pipe(more: &str) -> (Running, Feed) {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("camera");
    let feed = Feed::start(&pipe);
    let lines = format!(
        "bundle = {:?}\nthreads = 1\n{more}\n[source]\nmjpeg = {pipe:?}\ntimeout_seconds = 1.0\n",
        assets("demo")
    );
    (Running::start(folder, &lines), feed)
}

#[test]
fn a_file_is_classified_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let lines = format!(
        "bundle = {:?}\n[thresholds]\nsmoothing = 0.0\nhysteresis = 1\n[source]\nmjpeg = {:?}\n",
        assets("demo"),
        assets("scenes.mjpeg")
    );
    let (records, counters) = Running::start(folder, &lines).end();
    assert_eq!(counters.frames, 60);
    assert_eq!(counters.classified, 60);
    let names = std::fs::read_to_string(assets("scenes.txt")).unwrap();
    let mut expected: Vec<&str> = names.lines().collect();
    expected.dedup();
    let seen: Vec<&str> = (records.iter())
        .filter_map(|record| match record {
            RecordKind::Event { to, .. } => Some(to.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(seen, expected);
    assert_eq!(counters.events, expected.len() as u64);
}

#[test]
fn a_source_that_stalls_or_closes_is_reported_and_used_again() {
    let (running, feed) = with_pipe("");
    until("an answer", || running.panel.shows_an_answer());
    feed.show(usize::MAX);
    let start = Instant::now();
    until("the stall", || running.panel.shows_an_error());
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    feed.show(1);
    until("a frame again", || running.panel.shows_an_answer());
    drop(feed);
    until("the end of the pipe", || running.panel.shows_an_error());
    let _feed = Feed::start(&running.folder.path().join("camera"));
    until("another writer", || running.panel.shows_an_answer());
    let (records, counters) = running.stop();
    let errors = errors(&records, "camera");
    assert!(
        errors.iter().any(|e| e == "no frame for 1.0 s"),
        "{errors:?}"
    );
    assert!(
        errors.iter().any(|e| e.contains("the source ended")),
        "{errors:?}"
    );
    assert!(
        counters.stalls >= 1 && counters.reopened >= 1,
        "{counters:?}"
    );
}

#[test]
fn a_camera_that_cannot_be_opened_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let lines = format!(
        "bundle = {:?}\n[source]\ncommand = [\"./no-such-program\"]\n",
        assets("demo")
    );
    let running = Running::start(folder, &lines);
    until("the error", || running.panel.shows_an_error());
    let (records, counters) = running.stop();
    assert_eq!(counters.frames, 0);
    let errors = errors(&records, "camera");
    assert!(errors[0].contains("no-such-program"), "{errors:?}");
}

/// H.264 of a scene that does not move: too few bytes to tell what they are before the timeout.
#[test]
fn bytes_without_a_jpeg_image_are_reported_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let lines = format!(
        "bundle = {:?}\n[source]\ntimeout_seconds = 1.0\n\
         command = [\"sh\", \"-c\", \"while :; do echo 0123456789; sleep 0.1; done\"]\n",
        assets("demo")
    );
    let running = Running::start(folder, &lines);
    until("the stall", || running.panel.shows_an_error());
    running.until_recorded("the remedy", 1, |kind| {
        matches!(kind, RecordKind::Error { component, text }
            if component == "camera" && text.contains("no JPEG image: is --codec mjpeg missing?"))
    });
    assert!(running.panel.shows_an_error());
    running.stop();
}

#[test]
fn a_failing_display_does_not_stop_the_classification() {
    let (running, feed) = with_pipe("");
    until("an answer", || running.panel.shows_an_answer());
    running.panel.fails.store(true, Ordering::Relaxed);
    let opened = running.panel.opened.load(Ordering::Relaxed);
    // It is reopened and fails again.
    until("another attempt", || {
        running.panel.opened.load(Ordering::Relaxed) > opened + 1
    });
    feed.show(1);
    running.until_recorded("the other scene", 2, |kind| {
        matches!(kind, RecordKind::Event { .. })
    });
    *running.panel.last.lock().unwrap() = None;
    running.panel.fails.store(false, Ordering::Relaxed);
    until("a working display", || running.panel.shows_an_answer());
    let (records, counters) = running.stop();
    assert_eq!(
        errors(&records, "display"),
        ["display on /dev/i2c-1: no response"]
    );
    assert!(counters.display_failures >= 2, "{counters:?}");
    // The scene changed while the display failed.
    assert_eq!(counters.events, 2, "{records:?}");
}

#[test]
fn a_bad_new_bundle_is_refused_and_a_good_one_used() {
    let folder = tempfile::tempdir().unwrap();
    let (bundle, pipe) = (folder.path().join("bundle"), folder.path().join("camera"));
    copy(&assets("demo"), &bundle);
    // The first bundle is bad.
    let manifest = std::fs::read(bundle.join("manifest.json")).unwrap();
    std::fs::write(bundle.join("manifest.json"), "{}").unwrap();
    let lines = format!("bundle = {bundle:?}\n[source]\nmjpeg = {pipe:?}\n");
    let feed = Feed::start(&pipe);
    let running = Running::start(folder, &lines);
    until("the error", || running.panel.shows_an_error());
    std::fs::write(bundle.join("manifest.json"), &manifest).unwrap();
    until("an answer", || running.panel.shows_an_answer());
    // With one byte changed, the network does not match its hash.
    let network = bundle.join("image_encoder.onnx");
    let good = std::fs::read(&network).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(&network, &bad).unwrap();
    until("the notice", || running.panel.shows_a_notice());
    feed.show(1);
    let is_event = |kind: &RecordKind| matches!(kind, RecordKind::Event { .. });
    running.until_recorded("the other scene", 2, is_event);
    assert!(running.panel.shows_a_notice());
    std::fs::write(&network, &good).unwrap();
    until("the good one", || !running.panel.shows_a_notice());
    assert!(running.panel.shows_an_answer());
    // A bundle with another class name is used from then on.
    let manifest = String::from_utf8(manifest).unwrap();
    let renamed = manifest.replace("\"green heart\"", "\"emerald heart\"");
    assert!(renamed != manifest);
    std::fs::write(bundle.join("manifest.json"), renamed).unwrap();
    running.until_recorded("the renamed one", 3, |kind| {
        matches!(kind, RecordKind::Bundle { .. })
    });
    feed.show(0);
    running.until_recorded("the first scene", 3, is_event);
    let (records, counters) = running.stop();
    assert_eq!((counters.bundles_taken, counters.bundles_refused), (3, 2));
    let last = records.iter().rev().find_map(|record| match record {
        RecordKind::Event { to, .. } => Some(to.as_str()),
        _ => None,
    });
    assert_eq!(last, Some("emerald heart"));
    let errors = errors(&records, "bundle");
    assert!(errors[0].contains("manifest.json"), "{errors:?}");
    assert!(errors[1].contains("image_encoder.onnx"), "{errors:?}");
    // The old one was used meanwhile.
    let refused = records
        .iter()
        .rposition(|r| matches!(r, RecordKind::Error { component, .. } if component == "bundle"));
    let taken = records
        .iter()
        .rposition(|r| matches!(r, RecordKind::Bundle { .. }));
    let between = &records[refused.unwrap()..taken.unwrap()];
    assert!(
        between
            .iter()
            .any(|r| matches!(r, RecordKind::Event { .. })),
        "{records:?}"
    );
}

/// The cause was outside of the bundle's files: they have not changed.
#[test]
fn a_bundle_that_could_not_be_read_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let (bundle, away) = (folder.path().join("bundle"), folder.path().join("away"));
    copy(&assets("demo"), &bundle);
    let network = bundle.join("image_encoder.onnx");
    std::fs::rename(&network, &away).unwrap();
    std::os::unix::fs::symlink("../later", &network).unwrap();
    let lines = format!(
        "bundle = {bundle:?}\nthreads = 100000\n[source]\nmjpeg = {:?}\n",
        assets("scenes.mjpeg")
    );
    let running = Running::start(folder, &lines);
    until("the error", || running.panel.shows_an_error());
    std::fs::rename(&away, running.folder.path().join("later")).unwrap();
    let (records, counters) = running.end();
    assert_eq!((counters.bundles_taken, counters.bundles_refused), (1, 1));
    let errors = errors(&records, "bundle");
    assert!(errors[0].contains("image_encoder.onnx"), "{errors:?}");
    assert_eq!(counters.classified, 60);
}

/// A restart must not publish events of images that are days old.
#[test]
fn a_folder_starts_from_now_unless_told_otherwise() {
    let names = std::fs::read_to_string(assets("scenes.txt")).unwrap();
    let names: Vec<&str> = names.lines().collect();
    let other = names.iter().position(|name| *name != names[0]).unwrap();
    let images = scenes();
    for (existing, expected) in [(false, names[other]), (true, names[0])] {
        let folder = tempfile::tempdir().unwrap();
        let photos = folder.path().join("photos");
        std::fs::create_dir(&photos).unwrap();
        std::fs::write(photos.join("old.jpg"), &images[0]).unwrap();
        let lines = format!(
            "bundle = {:?}\n[thresholds]\nsmoothing = 0.0\nhysteresis = 1\n\
             [source]\nfolder = \"photos\"\nexisting = {existing}\n",
            assets("demo")
        );
        let running = Running::start(folder, &lines);
        let log_folder = running.folder.path().join("log");
        let first_event = || {
            let mut records = log::read(&log_folder).ok()?;
            records.find_map(|record| match record.unwrap().kind {
                RecordKind::Event { to, .. } => Some(to),
                _ => None,
            })
        };
        // Again and again, as nothing tells when the folder was opened.
        until("an event", || {
            if !existing {
                std::fs::write(photos.join("new.jpg"), &images[other]).unwrap();
                std::thread::sleep(Duration::from_millis(500));
            }
            first_event().is_some()
        });
        assert_eq!(first_event().as_deref(), Some(expected));
        running.stop();
    }
}

/// One long state instead of one for each scene.
#[test]
fn the_cool_down_bounds_the_number_of_events() {
    let folder = tempfile::tempdir().unwrap();
    let lines = format!(
        "bundle = {:?}\n[thresholds]\nsmoothing = 0.0\nhysteresis = 1\ncool_down_seconds = 1000\n\
         [source]\nmjpeg = {:?}\n",
        assets("demo"),
        assets("scenes.mjpeg")
    );
    let (_, counters) = Running::start(folder, &lines).end();
    assert_eq!((counters.classified, counters.events), (60, 1));
}

#[test]
fn the_idle_screen_follows_a_long_time_without_a_change() {
    let (running, feed) = with_pipe("[screen]\nidle_seconds = 1.5\n");
    until("an answer", || running.panel.shows_an_answer());
    until("the idle screen", || !running.panel.shows_an_answer());
    assert!(!running.panel.shows_an_error());
    feed.show(1);
    until("an answer", || running.panel.shows_an_answer());
    running.stop();
}

/// The thread that sets the screens may hang: what it set last is then no longer shown as live.
#[test]
fn an_answer_that_nobody_confirms_is_not_shown_as_live() {
    let panel = FakePanel::default();
    let open: OpenPanel = {
        let panel = panel.clone();
        Box::new(move || Ok(Some(Box::new(panel.clone()))))
    };
    let display = DisplayThread::start(open, Fonts::new(&[], false).unwrap(), 10.0).unwrap();
    let set = || {
        display.set(Screen::Live(LiveScreen {
            state: None,
            top: vec![("red heart".into(), 0.9)],
            frame: None,
            rate: 5.0,
            temperature_c: None,
            throttled: false,
            notice: None,
        }));
    };
    set();
    until("the answer", || panel.shows_an_answer());
    let start = Instant::now();
    until("the error", || panel.shows_an_error());
    let silence = start.elapsed().as_secs_f64();
    assert!((1.5..10.0).contains(&silence), "{silence}");
    assert!(!panel.shows_an_answer());
    set();
    until("the answer again", || panel.shows_an_answer());
}

/// A driver that hangs must not keep the appliance from ending.
#[test]
fn a_display_that_hangs_is_abandoned_at_the_end() {
    struct Hanging(Arc<AtomicBool>);
    impl Panel for Hanging {
        fn size(&self) -> Size {
            Size::new(128, 64)
        }

        fn show(&mut self, _: &Canvas) -> Result<(), PanelError> {
            self.0.store(true, Ordering::Relaxed);
            std::thread::sleep(Duration::from_secs(600));
            Ok(())
        }
    }
    let hangs = Arc::new(AtomicBool::new(false));
    let open: OpenPanel = {
        let hangs = hangs.clone();
        Box::new(move || Ok(Some(Box::new(Hanging(hangs.clone())))))
    };
    let display = DisplayThread::start(open, Fonts::new(&[], true).unwrap(), 10.0).unwrap();
    display.set(Screen::Boot(BootScreen {
        bundle: "demo".into(),
        steps: vec![],
    }));
    until("a picture", || hangs.load(Ordering::Relaxed));
    let start = Instant::now();
    drop(display);
    assert!(start.elapsed() < Duration::from_secs(20), "{start:?}");
}

/// Sends a request to the page; the status and the body.
#[cfg(feature = "web")]
fn request(port: u16, first: &str, body: impl AsRef<[u8]>) -> Option<(u16, String)> {
    let body = body.as_ref();
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    let length = body.len();
    let head = format!(
        "{first} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
}

/// Free, unless another program takes it in this moment.
#[cfg(feature = "web")]
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// If this fails, a board whose bundle is missing, or whose port was busy at the start, has no page until somebody
/// restarts it.
#[cfg(feature = "web")]
#[test]
fn the_page_waits_for_its_address_and_takes_the_first_bundle() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("camera");
    let _feed = Feed::start(&pipe);
    let lines = format!(
        "bundle = \"none\"\nthreads = 1\n[web]\nlisten = \"127.0.0.1:{port}\"\n[source]\nmjpeg = {pipe:?}\n"
    );
    let appliance = Running::start(folder, &lines);
    let busy = |record: &RecordKind| matches!(record, RecordKind::Error { component, text } if component == "web" && text.contains("cannot listen"));
    let log = appliance.folder.path().join("log");
    until("a log", || log.exists());
    appliance.until_recorded("an error for the busy port", 1, busy);
    drop(listener);
    let state = || request(port, "GET /api/state", "").map_or(String::new(), |answer| answer.1);
    until("the page without a bundle", || {
        state().contains("\"model\":null") && state().contains("\"state\":\"fails\"")
    });
    for (first, body) in [("POST /api/classify", "abc"), ("GET /api/classes", "")] {
        assert_eq!(request(port, first, body).unwrap().0, 503, "{first}");
    }
    let archive = appliance.folder.path().join("demo.tar");
    let packed = std::process::Command::new("tar")
        .args([
            "-cf".as_ref(),
            archive.as_os_str(),
            "-C".as_ref(),
            assets("").as_os_str(),
            "demo".as_ref(),
        ])
        .status();
    assert!(packed.unwrap().success());
    let sent = request(port, "PUT /api/bundle", std::fs::read(&archive).unwrap()).unwrap();
    assert_eq!(sent.0, 200, "{}", sent.1);
    until("answers with the bundle that was sent", || {
        state().contains("\"state\":\"works\"")
    });
    let (records, _) = appliance.stop();
    // Only once, although it was tried again.
    assert_eq!(records.iter().filter(|record| busy(record)).count(), 1);
}

/// If this fails, the page shows another appliance than the display, or what it sets has no effect.
#[cfg(feature = "web")]
#[test]
fn the_page_shows_and_steers_the_appliance() {
    let port = free_port();
    let (appliance, feed) = with_pipe(&format!("[web]\nlisten = \"127.0.0.1:{port}\""));
    let state = || request(port, "GET /api/state", "").map_or(String::new(), |answer| answer.1);
    let names = std::fs::read_to_string(assets("scenes.txt")).unwrap();
    let first = format!("\"state\":{:?}", names.lines().next().unwrap());
    until("the first scene on the page", || state().contains(&first));
    assert_eq!(
        request(port, "GET /healthz", ""),
        Some((200, "ok\n".into()))
    );
    let set = |json: &str| request(port, "PATCH /api/settings", json).unwrap();
    // The page has the whole frame, and the display the region.
    let frame = "\"frame_size\":[160,120]";
    assert!(state().contains(frame), "{}", state());
    let refused = set("{\"region\": [0, 0, 1000, 10]}");
    assert!(
        refused.0 == 422 && refused.1.contains("160 x 120"),
        "{refused:?}"
    );
    assert_eq!(set("{\"region\": [10, 20, 100, 90]}").0, 200);
    let kept = "[source]\\nregion = [10, 20, 100, 90]";
    until("the region in the lines that keep it", || {
        state().contains(kept) && state().contains(frame)
    });
    assert_eq!(set("{\"region\": null}").0, 200);
    // Nothing is as similar as that.
    assert_eq!(set("{\"min_similarity\": 1.0}").0, 200);
    appliance.until_recorded(
        "unknown, because the page says so",
        1,
        |record| matches!(record, RecordKind::Event { to, .. } if to == "unknown"),
    );
    assert_eq!(
        set("{\"min_similarity\": null, \"hysteresis\": 1000000}").0,
        200
    );
    feed.show(usize::MAX);
    until("no frame on the page", || {
        state().contains("\"state\":\"fails\"")
    });
    let (records, _) = appliance.stop();
    let events = records
        .iter()
        .filter(|r| matches!(r, RecordKind::Event { .. }));
    assert_eq!(events.count(), 2);
    assert!(request(port, "GET /healthz", "").is_none());
}
