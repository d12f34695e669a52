//! Helpers for tests of the whole appliance.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses only some of these"
)]

use std::path::{Path, PathBuf};
use std::process::Child;

use pinhole::camera::{MjpegChunk, MjpegReader};
use pinhole_firmware::counters::RunCounters;

/// A file or folder of `assets/`.
pub fn assets(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../assets")
        .join(path)
}

/// The JPEG images of `assets/scenes.mjpeg`, one per scene.
pub fn scenes() -> Vec<Vec<u8>> {
    let bytes = std::fs::read(assets("scenes.mjpeg")).unwrap();
    let mut reader = MjpegReader::new(&bytes[..], bytes.len());
    let mut scenes = vec![];
    while let Some(piece) = reader.next_chunk().unwrap() {
        match piece {
            MjpegChunk::Frame(frame) => scenes.push(frame),
            other => panic!("{other:?}"),
        }
    }
    scenes
}

/// Copies a folder recursively.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => {
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
}

/// Creates a named pipe.
pub fn make_pipe(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path, fifo, mode, 0).unwrap();
}

/// A child process that is killed when the test ends.
pub struct Program(pub Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every frame, record and event is counted exactly once.
#[track_caller]
pub fn assert_sums(t: &RunCounters) {
    let used = t.classified + t.still + t.skipped + t.dropped + t.corrupt;
    assert_eq!(t.frames, used, "{t:?}");
    assert_eq!(t.records, t.records_written + t.records_lost, "{t:?}");
    let published = t.published_sent + t.published_lost + t.published_waiting;
    assert_eq!(t.published, published, "{t:?}");
}
