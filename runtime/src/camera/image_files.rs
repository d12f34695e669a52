//! Image files in a folder and its subfolders: which they are, which file each is, and whether it is complete.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{DirEntry, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pinhole_preprocessing::{EXTENSIONS, has_image_extension, is_hidden};

use super::mjpeg::{MjpegChunk, MjpegReader};

/// Size limit of an image file: 64 MiB.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// How deep subfolders are read.
const MAX_DEPTH: usize = 8;
/// For messages.
pub(super) const EXPECTED: &str = "JPEG, PNG, WebP, BMP or GIF files";

/// An inode. A symbolic link has that of its target, so that both are one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// What a write changes. The times are in nanoseconds; that of change (ctime) cannot be set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) bytes: u64,
    pub(super) modified: i128,
    changed: i128,
}

impl FileId {
    pub(super) fn new(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

impl Stamp {
    pub(super) fn new(metadata: &Metadata) -> Self {
        let ns = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        Self {
            bytes: metadata.len(),
            modified: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file with the extension of an image.
pub(super) struct ImageFile {
    pub(super) path: PathBuf,
    pub(super) id: FileId,
    pub(super) stamp: Stamp,
    pub(super) is_link: bool,
}

/// A file or folder that is not read, and why.
pub(super) struct Skipped {
    pub(super) path: PathBuf,
    pub(super) reason: String,
}

/// What a folder holds, found by [`Finder::find`].
#[derive(Default)]
pub(super) struct Listing {
    /// Sorted by path; each file once.
    pub(super) images: Vec<ImageFile>,
    pub(super) folders: Vec<PathBuf>,
}

/// Searches folders, and reports each kind of file that it skips once.
#[derive(Default)]
pub(super) struct Finder {
    skipped: Vec<Skipped>,
    reported: HashSet<OsString>,
}

impl Finder {
    /// The images in `folder`, which is `depth` folders below the source, and in its subfolders. Names that begin with a
    /// dot are skipped: programs use them for unfinished files. `enter` is called with each folder before it is read.
    ///
    /// # Errors
    /// If `folder` itself cannot be read.
    pub(super) fn find(
        &mut self,
        folder: &Path,
        depth: usize,
        enter: &mut dyn FnMut(&Path),
    ) -> std::io::Result<Listing> {
        let mut listing = Listing::default();
        let mut visited = HashSet::new();
        let mut search = |finder: &mut Self, folder: &Path, listing: &mut Listing| {
            // A link to a folder may lead back to itself.
            if !visited.insert(FileId::new(&std::fs::metadata(folder)?)) {
                return Ok(vec![]);
            }
            enter(folder);
            listing.folders.push(folder.to_owned());
            finder.read(folder, listing)
        };
        let mut next = search(self, folder, &mut listing)?;
        for depth in depth.. {
            let folders = std::mem::take(&mut next);
            if folders.is_empty() {
                break;
            }
            for folder in folders {
                let found = match depth < MAX_DEPTH {
                    true => search(self, &folder, &mut listing),
                    false => Err(std::io::Error::other("it is too many folders deep")),
                };
                match found {
                    Ok(folders) => next.extend(folders),
                    Err(e) => self.skip(
                        folder.clone().into(),
                        folder,
                        format!("cannot read it: {e}"),
                    ),
                }
            }
        }
        // The name of a file itself comes before that of a link to it.
        listing
            .images
            .sort_by(|a, b| (a.is_link, &a.path).cmp(&(b.is_link, &b.path)));
        let mut ids = HashSet::new();
        listing.images.retain(|image| ids.insert(image.id));
        listing.images.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(listing)
    }

    /// Adds the images in `folder` to `listing`. Returns its subfolders, links last.
    fn read(&mut self, folder: &Path, listing: &mut Listing) -> std::io::Result<Vec<PathBuf>> {
        let (mut folders, mut links) = (vec![], vec![]);
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let is_link = is_link(&entry);
            // Skips files that were deleted meanwhile. Follows symbolic links.
            let Ok(metadata) = std::fs::metadata(&path) else {
                continue;
            };
            if metadata.is_dir() && !is_hidden(&path) {
                if is_link { &mut links } else { &mut folders }.push(path);
            } else if metadata.is_file() && self.is_image(&path) {
                listing.images.push(ImageFile {
                    path,
                    id: FileId::new(&metadata),
                    stamp: Stamp::new(&metadata),
                    is_link,
                });
            }
        }
        folders.sort();
        folders.append(&mut links);
        Ok(folders)
    }

    /// Whether a file has the name of an image. If not, it is reported, once per extension.
    pub(super) fn is_image(&mut self, path: &Path) -> bool {
        if is_hidden(path) {
            return false;
        }
        let is_image = has_image_extension(path);
        if !is_image {
            let extension = path.extension().unwrap_or_default();
            let others = match extension.to_str() {
                Some("") => "other files without an extension".into(),
                Some(extension) => format!("other .{extension} files"),
                None => "files like it".into(),
            };
            let extensions = EXTENSIONS.join(", ");
            let reason = format!("expected {extensions}; {others} are skipped without a message");
            self.skip(extension.to_owned(), path.to_owned(), reason);
        }
        is_image
    }

    fn skip(&mut self, kind: OsString, path: PathBuf, reason: String) {
        /// More kinds are not worth a message.
        const MAX_REPORTED: usize = 16;
        if self.reported.len() < MAX_REPORTED && self.reported.insert(kind) {
            self.skipped.push(Skipped { path, reason });
        }
    }

    /// What was skipped and is not yet reported.
    pub(super) fn take_skipped(&mut self) -> Vec<Skipped> {
        std::mem::take(&mut self.skipped)
    }
}

fn is_link(entry: &DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_symlink())
}

/// The image files in a folder and its subfolders, sorted by path.
///
/// # Errors
/// If the folder cannot be read.
pub fn images_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let listing = Finder::default().find(folder, 0, &mut |_| {})?;
    Ok(listing.images.into_iter().map(|image| image.path).collect())
}

/// A file's content at one moment.
pub(super) struct Content {
    pub(super) id: FileId,
    pub(super) stamp: Stamp,
    /// Whether the file remained the same while it was read.
    pub(super) stable: bool,
    pub(super) bytes: Vec<u8>,
}

/// Reads a file; an error of the system, or what was expected and what was found.
pub(super) fn read(path: &Path) -> std::io::Result<Content> {
    let mut options = File::options();
    // What was a file a moment ago may be a named pipe now.
    options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    let file = options.read(true).open(path)?;
    let before = file.metadata()?;
    if !before.is_file() {
        return Err(std::io::Error::other(
            "expected a file, found something else",
        ));
    }
    let mut bytes = vec![];
    (&file).take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!(
            "expected at most {MAX_FILE_BYTES} bytes, found more"
        )));
    }
    let stamp = Stamp::new(&file.metadata()?);
    Ok(Content {
        id: FileId::new(&before),
        stamp,
        stable: stamp == Stamp::new(&before) && stamp.bytes == bytes.len() as u64,
        bytes,
    })
}

/// How much of an image file there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completeness {
    Incomplete,
    /// The format does not tell.
    Unknown,
    Complete,
}

/// Whether an image file has its end. Unknown formats are left to the decoder.
pub(super) fn completeness(bytes: &[u8]) -> Completeness {
    let has = |len: u64| len <= bytes.len() as u64;
    let complete = match bytes {
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
        // The byte that ends a GIF may occur anywhere in it.
        [b'G', b'I', b'F', ..] if bytes.ends_with(&[0x3B]) => return Completeness::Unknown,
        [b'G', b'I', b'F', ..] => false,
        _ if bytes.len() > 8 => return Completeness::Unknown,
        _ => false,
    };
    match complete {
        true => Completeness::Complete,
        false => Completeness::Incomplete,
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
            let is_gif = name.ends_with("gif");
            let whole = if is_gif {
                Completeness::Unknown
            } else {
                Completeness::Complete
            };
            assert_eq!(completeness(&bytes), whole, "{name}");
            for len in 0..bytes.len() {
                let ambiguous = is_gif && bytes[..len].ends_with(&[0x3B]);
                let found = completeness(&bytes[..len]);
                assert!(
                    ambiguous || found == Completeness::Incomplete,
                    "{name}: {len}"
                );
            }
        }
    }
}
