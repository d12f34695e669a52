//! Folders of images, in the order of their names.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::capture::{Capture, CaptureSource, Poll};
use super::error::CameraError;
use super::frame::EncodedFrame;
use super::mjpeg::{MjpegChunk, MjpegReader};
use super::slot::Shared;

/// Size limit of an image file: 64 MiB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// How often a watched folder is scanned.
const SCAN_INTERVAL: Duration = Duration::from_millis(200);
/// How long a file must be unchanged before it is read.
const SETTLE_TIME: Duration = Duration::from_millis(300);
/// How long an incomplete file must be unchanged before it counts as damaged.
const INCOMPLETE_TIMEOUT: Duration = Duration::from_secs(10);

/// Size and modification time of a file; a write changes them.
type Stamp = (u64, Option<SystemTime>);

/// A folder, watched or not.
pub(super) struct FolderSource {
    path: PathBuf,
    watch: bool,
}

impl FolderSource {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, watch: false }
    }

    pub(super) fn watched(path: PathBuf) -> Self {
        Self { path, watch: true }
    }
}

impl CaptureSource for FolderSource {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn is_live(&self) -> bool {
        false
    }

    fn can_reopen(&self) -> bool {
        self.watch
    }

    fn open(&mut self, shared: &Arc<Shared>) -> Result<Box<dyn Capture>, CameraError> {
        let capture = FolderCapture::open(self.path.clone(), self.watch, shared.clone())?;
        Ok(Box::new(capture))
    }
}

/// Reads the images of a folder, and if `watch`, those that are written later.
struct FolderCapture {
    path: PathBuf,
    watch: bool,
    shared: Arc<Shared>,
    ready: VecDeque<(OsString, Stamp)>,
    /// Files already delivered, with their stamps at that time.
    delivered: HashMap<OsString, Stamp>,
    /// Files that may still be written to, and since when they are unchanged.
    changing: HashMap<OsString, (Stamp, Instant)>,
}

impl FolderCapture {
    fn open(path: PathBuf, watch: bool, shared: Arc<Shared>) -> Result<Self, CameraError> {
        let failed = |reason: String| CameraError::Open {
            path: path.clone(),
            reason,
        };
        let images = images(&path).map_err(|e| failed(e.to_string()))?;
        if images.is_empty() && !watch {
            return Err(failed(
                "expected JPEG, PNG, WebP, BMP or GIF files, found none".into(),
            ));
        }
        let ready = if watch { vec![] } else { images };
        Ok(Self {
            path,
            watch,
            shared,
            ready: ready.into(),
            delivered: HashMap::new(),
            changing: HashMap::new(),
        })
    }

    /// Finds files that were written and have settled.
    fn scan(&mut self) -> std::io::Result<()> {
        let now = Instant::now();
        let mut delivered = HashMap::new();
        let mut changing = HashMap::new();
        for (name, stamp) in images(&self.path)? {
            if self.delivered.get(&name) == Some(&stamp) {
                delivered.insert(name, stamp);
                continue;
            }
            let since = match self.changing.get(&name) {
                Some((before, since)) if *before == stamp => *since,
                _ => now,
            };
            if now - since >= SETTLE_TIME {
                self.ready.push_back((name.clone(), stamp));
            }
            changing.insert(name, (stamp, since));
        }
        (self.delivered, self.changing) = (delivered, changing);
        Ok(())
    }

    /// Reads a file; `None` if it is still incomplete.
    fn read_file(&mut self, name: OsString, stamp: Stamp) -> Option<Poll> {
        let path = self.path.join(&name);
        let read = read(&path);
        if self.watch {
            let since = self.changing.get(&name).map(|(_, since)| since.elapsed());
            let complete = read.as_ref().map_or(true, |bytes| is_complete(bytes));
            if !complete && since.is_some_and(|since| since < INCOMPLETE_TIMEOUT) {
                return None;
            }
            self.changing.remove(&name);
            self.delivered.insert(name, stamp);
        }
        Some(match read {
            Ok(bytes) => Poll::Frame(EncodedFrame::File { path, bytes }),
            Err(reason) => Poll::Corrupt {
                file: Some(path),
                reason,
            },
        })
    }
}

impl Capture for FolderCapture {
    fn next(&mut self) -> std::io::Result<Option<Poll>> {
        loop {
            while let Some((name, stamp)) = self.ready.pop_front() {
                if let Some(poll) = self.read_file(name, stamp) {
                    return Ok(Some(poll));
                }
            }
            if !self.watch || self.shared.stopped() {
                return Ok(None);
            }
            self.shared.sleep(SCAN_INTERVAL);
            self.scan()?;
        }
    }
}

/// Files with an image extension, in the order of their names. Hidden files are skipped: programs use them for
/// unfinished files.
fn images(folder: &Path) -> std::io::Result<Vec<(OsString, Stamp)>> {
    const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "bmp", "gif"];
    let mut found = vec![];
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let is_image = Path::new(&name)
            .extension()
            .is_some_and(|extension| EXTENSIONS.iter().any(|e| extension.eq_ignore_ascii_case(e)));
        if hidden || !is_image {
            continue;
        }
        // Skips files that were deleted meanwhile. Follows symbolic links.
        if let Ok(metadata) = std::fs::metadata(folder.join(&name))
            && metadata.is_file()
        {
            found.push((name, (metadata.len(), metadata.modified().ok())));
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = vec![];
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| format!("cannot read: {e}"))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!(
            "expected at most {MAX_FILE_BYTES} bytes, found more"
        ));
    }
    Ok(bytes)
}

/// Whether an image file has its end. Unknown formats are left to the decoder.
fn is_complete(bytes: &[u8]) -> bool {
    let has = |len: u64| len <= bytes.len() as u64;
    match bytes {
        [] => false,
        [0xFF, 0xD8, ..] => {
            let chunk = MjpegReader::new(bytes, bytes.len()).next_chunk();
            matches!(chunk, Ok(Some(MjpegChunk::Frame(_))))
        }
        [0x89, b'P', b'N', b'G', ..] => {
            let end = bytes.windows(4).rposition(|w| w == b"IEND");
            end.is_some_and(|at| has(at as u64 + 8))
        }
        [b'R', b'I', b'F', b'F', a, b, c, d, ..] => {
            has(u64::from(u32::from_le_bytes([*a, *b, *c, *d])) + 8)
        }
        [b'B', b'M', a, b, c, d, ..] => has(u32::from_le_bytes([*a, *b, *c, *d]).into()),
        [b'G', b'I', b'F', ..] => bytes.ends_with(&[0x3B]),
        _ => bytes.len() > 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every proper prefix of a file is incomplete.
    #[test]
    fn a_file_is_complete_only_with_its_last_byte() {
        let golden =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../preprocessing/tests/golden/decode");
        for name in [
            "rgb420.jpg",
            "restart.jpg",
            "progressive.jpg",
            "rgb.png",
            "lossy.webp",
            "rgb.bmp",
            "palette.gif",
        ] {
            let bytes = std::fs::read(golden.join(name)).unwrap();
            assert!(is_complete(&bytes), "{name}");
            for len in 0..bytes.len() {
                // A GIF may contain its trailer byte anywhere.
                let ambiguous = name.ends_with("gif") && bytes[..len].ends_with(&[0x3B]);
                assert!(ambiguous || !is_complete(&bytes[..len]), "{name}: {len}");
            }
        }
    }
}
