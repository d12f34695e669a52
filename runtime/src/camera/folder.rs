//! A folder of images, in the order of their names.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Error;
use super::decode::Encoded;
use super::mjpeg::{MjpegReader, Piece};
use super::slot::Shared;
use super::source::{Came, Capture};

/// Largest image file that is read, in bytes: 64 MiB.
pub const MAX_FILE: u64 = 64 << 20;

/// How often a folder is looked through.
const LOOK: Duration = Duration::from_millis(200);
/// How long a file must have been as it is until it is read.
const SETTLED: Duration = Duration::from_millis(300);
/// How long a file that lacks its end must have been as it is until it is taken for damaged.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// A file's size and time of change: what tells that it was written to.
type Stamp = (u64, Option<SystemTime>);

/// Reads a folder's images, and if it is to watch, those that are written later.
pub(super) struct FolderReader {
    path: PathBuf,
    watch: bool,
    shared: Arc<Shared>,
    ready: VecDeque<(OsString, Stamp)>,
    /// Files that were given out, as they were then.
    taken: HashMap<OsString, Stamp>,
    /// Files that may still be written to, and since when they have been as they are.
    changing: HashMap<OsString, (Stamp, Instant)>,
}

impl FolderReader {
    pub(super) fn open(path: PathBuf, watch: bool, shared: Arc<Shared>) -> Result<Self, Error> {
        let failed = |reason: String| Error::Open {
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
            taken: HashMap::new(),
            changing: HashMap::new(),
        })
    }

    /// Looks for files that were written and have settled.
    fn look(&mut self) -> std::io::Result<()> {
        let now = Instant::now();
        let mut taken = HashMap::new();
        let mut changing = HashMap::new();
        for (name, stamp) in images(&self.path)? {
            if self.taken.get(&name) == Some(&stamp) {
                taken.insert(name, stamp);
                continue;
            }
            let since = match self.changing.get(&name) {
                Some((before, since)) if *before == stamp => *since,
                _ => now,
            };
            if now - since >= SETTLED {
                self.ready.push_back((name.clone(), stamp));
            }
            changing.insert(name, (stamp, since));
        }
        (self.taken, self.changing) = (taken, changing);
        Ok(())
    }

    /// The file's content, unless its end may still be to come.
    fn take(&mut self, name: OsString, stamp: Stamp) -> Option<Came> {
        let path = self.path.join(&name);
        let read = read(&path);
        if self.watch {
            let since = self.changing.get(&name).map(|(_, since)| since.elapsed());
            let whole = read.as_ref().map_or(true, |bytes| is_whole(bytes));
            if !whole && since.is_some_and(|since| since < GIVEN_UP) {
                return None;
            }
            self.changing.remove(&name);
            self.taken.insert(name, stamp);
        }
        Some(match read {
            Ok(bytes) => Came::Frame(Encoded::File { path, bytes }),
            Err(reason) => Came::Corrupt {
                file: Some(path),
                reason,
            },
        })
    }
}

impl Capture for FolderReader {
    fn next(&mut self) -> std::io::Result<Option<Came>> {
        loop {
            while let Some((name, stamp)) = self.ready.pop_front() {
                if let Some(came) = self.take(name, stamp) {
                    return Ok(Some(came));
                }
            }
            if !self.watch || self.shared.stopped() {
                return Ok(None);
            }
            self.shared.sleep(LOOK);
            self.look()?;
        }
    }
}

/// Files with the ending of an image, in the order of their names; not the hidden ones, which are other
/// programs' unfinished ones.
fn images(folder: &Path) -> std::io::Result<Vec<(OsString, Stamp)>> {
    const ENDINGS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "bmp", "gif"];
    let mut found = vec![];
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let is_image = Path::new(&name)
            .extension()
            .is_some_and(|ending| ENDINGS.iter().any(|e| ending.eq_ignore_ascii_case(e)));
        if hidden || !is_image {
            continue;
        }
        // A file that is gone meanwhile is none. Links are followed.
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
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|e| format!("cannot read: {e}"))?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err(format!("expected {MAX_FILE} bytes or less, found more")),
        false => Ok(bytes),
    }
}

/// Whether an image file has its end. What is in no known format is left to the decoder.
fn is_whole(bytes: &[u8]) -> bool {
    let has = |len: u64| len <= bytes.len() as u64;
    match bytes {
        [] => false,
        [0xFF, 0xD8, ..] => {
            let piece = MjpegReader::new(bytes, bytes.len()).next_piece();
            matches!(piece, Ok(Some(Piece::Frame(_))))
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

    /// Every shorter beginning of a file lacks its end, and the file does not.
    #[test]
    fn a_file_is_whole_with_its_last_byte() {
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
            assert!(is_whole(&bytes), "{name}");
            for len in 0..bytes.len() {
                // A GIF may have the byte of its end anywhere.
                let chance = name.ends_with("gif") && bytes[..len].ends_with(&[0x3B]);
                assert!(chance || !is_whole(&bytes[..len]), "{name}: {len}");
            }
        }
    }
}
