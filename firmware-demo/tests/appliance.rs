//! The appliance as a whole, with what goes wrong around it: the source, the display, the bundle.

mod support;

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
use pinhole_firmware::config::Config;
use pinhole_firmware::display::Open;
use pinhole_firmware::log::{self, What};
use pinhole_firmware::panel::{Error, Panel};
use pinhole_firmware::text::Fonts;
use pinhole_firmware::totals::Totals;
use support::{assert_sums, assets, copy, make_pipe, scenes};

/// A panel that keeps the last picture, and fails when it is told to.
#[derive(Clone, Default)]
struct Glass {
    last: Arc<Mutex<Option<Canvas>>>,
    fails: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
}

impl Panel for Glass {
    fn size(&self) -> Size {
        Size::new(240, 240)
    }

    fn show(&mut self, canvas: &Canvas) -> Result<(), Error> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(Error::Bus {
                path: "/dev/i2c-1".into(),
                reason: "no answer".into(),
            });
        }
        *self.last.lock().unwrap() = Some(canvas.clone());
        Ok(())
    }
}

impl Glass {
    /// Whether the newest picture has a pixel of `colour` in the rows from `top` to `bottom`.
    fn has(&self, colour: Rgb888, top: u32, bottom: u32) -> bool {
        let last = self.last.lock().unwrap();
        let last = last.as_ref();
        last.is_some_and(|canvas| (top..bottom).any(|y| canvas.row(y).contains(&colour)))
    }

    /// The error screen has a red head.
    fn shows_an_error(&self) -> bool {
        self.has(Rgb888::new(214, 48, 49), 0, 40)
    }

    /// The live screen has a bar.
    fn shows_an_answer(&self) -> bool {
        self.has(Rgb888::new(64, 208, 190), 150, 180)
    }

    /// What is told on the live screen stands on its end.
    fn shows_a_notice(&self) -> bool {
        self.shows_an_answer() && self.has(Rgb888::new(255, 184, 48), 205, 240)
    }
}

/// An appliance that runs.
struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Totals>,
    glass: Glass,
    folder: tempfile::TempDir,
}

impl Running {
    /// `lines` of the configuration in front of those for the log, `log/` in a new folder.
    fn start(folder: tempfile::TempDir, lines: &str) -> Self {
        let path = folder.path().join("firmware.toml");
        let text = format!("{lines}\n[log]\nfolder = \"log\"\n");
        let config = Config::parse(&text, &path).unwrap();
        let glass = Glass::default();
        let panel = glass.clone();
        let open: Open = Box::new(move || {
            panel.opened.fetch_add(1, Ordering::Relaxed);
            Ok(Some(Box::new(panel.clone())))
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
            glass,
            folder,
        }
    }

    /// Waits until the log has `count` records such as `is` asks for.
    #[track_caller]
    fn until_recorded(&self, what: &str, count: usize, is: impl Fn(&What) -> bool) {
        let folder = self.folder.path().join("log");
        until(what, || {
            let records = log::read(&folder).unwrap();
            records
                .filter(|r| r.as_ref().is_ok_and(|r| is(&r.what)))
                .count()
                >= count
        });
    }

    /// Stops the appliance; what its log says, and what became of everything.
    fn stop(self) -> (Vec<What>, Totals) {
        self.stop.store(true, Ordering::Relaxed);
        self.end()
    }

    fn end(self) -> (Vec<What>, Totals) {
        let totals = self.thread.join().unwrap();
        let records: Vec<What> = log::read(self.folder.path().join("log"))
            .unwrap()
            .map(|record| record.unwrap().what)
            .collect();
        assert!(matches!(records.first(), Some(What::Start { .. })));
        assert!(matches!(records.last(), Some(What::End { .. })));
        assert_sums(&totals);
        assert_eq!(totals.records, records.len() as u64);
        (records, totals)
    }
}

/// Waits until `is` holds, for at most half a minute: these machines are slow at times.
#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn errors(records: &[What], about: &str) -> Vec<String> {
    (records.iter())
        .filter_map(|record| match record {
            What::Error { what, text } if what == about => Some(text.clone()),
            _ => None,
        })
        .collect()
}

/// A named pipe with frames, ten a second, of scene 0 until it is told otherwise.
struct Feed {
    /// Number of the scene, or `usize::MAX` for silence.
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
                // Waits for the appliance.
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
        // Without a reader the thread waits for one for ever.
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
    let (records, totals) = Running::start(folder, &lines).end();
    assert_eq!(totals.frames, 60);
    assert_eq!(totals.classified, 60);
    let names = std::fs::read_to_string(assets("scenes.txt")).unwrap();
    let mut expected: Vec<&str> = names.lines().collect();
    expected.dedup();
    let seen: Vec<&str> = (records.iter())
        .filter_map(|record| match record {
            What::Event { to, .. } => Some(to.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(seen, expected);
    assert_eq!(totals.events, expected.len() as u64);
}

#[test]
fn a_source_that_stalls_and_closes_is_told_of_and_taken_up_again() {
    let (running, feed) = with_pipe("");
    until("an answer", || running.glass.shows_an_answer());
    feed.show(usize::MAX);
    let start = Instant::now();
    until("the stall", || running.glass.shows_an_error());
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    feed.show(1);
    until("a frame again", || running.glass.shows_an_answer());
    drop(feed);
    until("the end of the pipe", || running.glass.shows_an_error());
    let _feed = Feed::start(&running.folder.path().join("camera"));
    until("another writer", || running.glass.shows_an_answer());
    let (records, totals) = running.stop();
    let errors = errors(&records, "camera");
    assert!(
        errors.iter().any(|e| e == "no frame for 1.0 s"),
        "{errors:?}"
    );
    assert!(
        errors.iter().any(|e| e.contains("the source ended")),
        "{errors:?}"
    );
    assert!(totals.stalls >= 1 && totals.reopened >= 1, "{totals:?}");
}

#[test]
fn a_camera_that_cannot_be_opened_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let lines = format!(
        "bundle = {:?}\n[source]\ncommand = [\"./no-such-program\"]\n",
        assets("demo")
    );
    let running = Running::start(folder, &lines);
    until("the error", || running.glass.shows_an_error());
    let (records, totals) = running.stop();
    assert_eq!(totals.frames, 0);
    let errors = errors(&records, "camera");
    assert!(errors[0].contains("no-such-program"), "{errors:?}");
}

#[test]
fn a_display_that_fails_holds_nobody_up() {
    let (running, feed) = with_pipe("");
    until("an answer", || running.glass.shows_an_answer());
    running.glass.fails.store(true, Ordering::Relaxed);
    let opened = running.glass.opened.load(Ordering::Relaxed);
    // It is opened again, and fails again.
    until("another try", || {
        running.glass.opened.load(Ordering::Relaxed) > opened + 1
    });
    feed.show(1);
    running.until_recorded("the other scene", 2, |what| {
        matches!(what, What::Event { .. })
    });
    *running.glass.last.lock().unwrap() = None;
    running.glass.fails.store(false, Ordering::Relaxed);
    until("it works again", || running.glass.shows_an_answer());
    let (records, totals) = running.stop();
    assert_eq!(
        errors(&records, "display"),
        ["display on /dev/i2c-1: no answer"]
    );
    assert!(totals.display_failures >= 2, "{totals:?}");
    // The change of scenes came while nothing was shown.
    assert_eq!(totals.events, 2, "{records:?}");
}

#[test]
fn a_bad_bundle_in_the_place_of_a_good_one_is_refused_and_a_good_one_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (bundle, pipe) = (folder.path().join("bundle"), folder.path().join("camera"));
    copy(&assets("demo"), &bundle);
    // Nothing good is there at first.
    let manifest = std::fs::read(bundle.join("manifest.json")).unwrap();
    std::fs::write(bundle.join("manifest.json"), "{}").unwrap();
    let lines = format!("bundle = {bundle:?}\n[source]\nmjpeg = {pipe:?}\n");
    let feed = Feed::start(&pipe);
    let running = Running::start(folder, &lines);
    until("the error", || running.glass.shows_an_error());
    std::fs::write(bundle.join("manifest.json"), &manifest).unwrap();
    until("an answer", || running.glass.shows_an_answer());
    // A byte of the network is changed: its hash does not fit.
    let network = bundle.join("image_encoder.onnx");
    let good = std::fs::read(&network).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(&network, &bad).unwrap();
    until("the notice", || running.glass.shows_a_notice());
    feed.show(1);
    let is_event = |what: &What| matches!(what, What::Event { .. });
    running.until_recorded("the other scene", 2, is_event);
    assert!(running.glass.shows_a_notice());
    std::fs::write(&network, &good).unwrap();
    until("the good one", || !running.glass.shows_a_notice());
    assert!(running.glass.shows_an_answer());
    // One with other names: it is the one that is used from then on.
    let manifest = String::from_utf8(manifest).unwrap();
    let renamed = manifest.replace("\"green heart\"", "\"emerald heart\"");
    assert!(renamed != manifest);
    std::fs::write(bundle.join("manifest.json"), renamed).unwrap();
    running.until_recorded("the renamed one", 3, |what| {
        matches!(what, What::Bundle { .. })
    });
    feed.show(0);
    running.until_recorded("the first scene", 3, is_event);
    let (records, totals) = running.stop();
    assert_eq!((totals.bundles_taken, totals.bundles_refused), (3, 2));
    let last = records.iter().rev().find_map(|record| match record {
        What::Event { to, .. } => Some(to.as_str()),
        _ => None,
    });
    assert_eq!(last, Some("emerald heart"));
    let errors = errors(&records, "bundle");
    assert!(errors[0].contains("manifest.json"), "{errors:?}");
    assert!(errors[1].contains("image_encoder.onnx"), "{errors:?}");
    // The old one went on classifying.
    let refused = records
        .iter()
        .rposition(|r| matches!(r, What::Error { what, .. } if what == "bundle"));
    let taken = records
        .iter()
        .rposition(|r| matches!(r, What::Bundle { .. }));
    let between = &records[refused.unwrap()..taken.unwrap()];
    assert!(
        between.iter().any(|r| matches!(r, What::Event { .. })),
        "{records:?}"
    );
}

#[test]
fn what_stays_the_same_for_long_is_idle() {
    let (running, feed) = with_pipe("[screen]\nidle_seconds = 1.5\n");
    until("an answer", || running.glass.shows_an_answer());
    until("the idle screen", || !running.glass.shows_an_answer());
    assert!(!running.glass.shows_an_error());
    feed.show(1);
    until("an answer", || running.glass.shows_an_answer());
    running.stop();
}
