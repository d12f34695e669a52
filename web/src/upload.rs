//! A bundle that a client sends as a tar archive, as the download gives it: unpacked beside the bundle in use, opened and
//! tested there, and exchanged with it by the thread that teaches.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use pinhole::internal::catch_panic;
use pinhole::{Bundle, TestedBundle};
use pinhole_fs::{AtomicFolder, FolderLock, LockError};
use tar::EntryType;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::fault::{Fault, panicked};
use crate::live::BundlePlace;

/// Largest archive in bytes.
pub(crate) const MAX_ARCHIVE: u64 = 4 << 30;
/// Most files in it, and most bytes of a path.
const MAX_FILES: usize = 1000;
const MAX_PATH: usize = 240;
/// Most bytes before the content of a file: its header, and the extensions in front of it.
const MAX_HEADER: u64 = 64 << 10;
/// Pieces of the body that wait to be written.
const PIECES: usize = 4;
/// How long the exchange waits for another process that changes the bundle.
const PATIENCE: Duration = Duration::from_secs(30);
const ONE_FOLDER: &str = "all files in one folder, as the download has them";
const MANIFEST: &str = "manifest.json";

/// A bundle that was sent and passed its self-test, in a temporary folder that goes with it.
pub(crate) struct SentBundle {
    folder: AtomicFolder,
    tested: usize,
    /// The only one at a time.
    _permit: OwnedSemaphorePermit,
}

/// A part of the body.
enum Piece {
    Data(Bytes),
    /// Without it, the client has broken off.
    End,
}

/// The way of a body to the thread that unpacks it.
pub(crate) struct Sink {
    pieces: Sender<Piece>,
    result: oneshot::Receiver<Result<SentBundle, Fault>>,
}

/// Starts a thread that unpacks and tests a bundle which may replace that in `place`. It ends when the sink is dropped.
///
/// # Errors
/// No thread, or no temporary folder can be made.
pub(crate) fn begin(place: &BundlePlace, permit: OwnedSemaphorePermit) -> Result<Sink, Fault> {
    // First, so that a folder that cannot be replaced is reported before the body is sent.
    let folder = AtomicFolder::create(&place.folder).map_err(|e| {
        let folder = place.folder.display();
        Fault::io(
            format_args!("{folder}: cannot write a new bundle beside it"),
            &e,
        )
    })?;
    let builder = place.builder;
    let (pieces, received) = channel(PIECES);
    let (reply, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("upload".into());
    let spawned = thread.spawn(move || {
        crate::threads::yield_to_classification();
        let check = || {
            let body = Body {
                pieces: received,
                piece: Bytes::new(),
                ended: false,
            };
            let unpacked = unpack(body, folder.path())?;
            let tested = test(folder.path(), &unpacked, builder)?;
            Ok((folder, tested))
        };
        let checked = catch_panic(check).unwrap_or_else(|panic| Err(panicked(panic)));
        let _ = reply.send(checked.map(|(folder, tested)| SentBundle {
            folder,
            tested,
            _permit: permit,
        }));
    });
    spawned.map_err(|e| Fault::io("cannot start a thread", &e))?;
    Ok(Sink { pieces, result })
}

impl Sink {
    /// Hands on a part of the body; `false` if the thread needs no more.
    pub(crate) async fn send(&self, data: Bytes) -> bool {
        self.pieces.send(Piece::Data(data)).await.is_ok()
    }

    /// The bundle, after the whole body.
    pub(crate) async fn finish(self) -> Result<SentBundle, Fault> {
        let _ = self.pieces.send(Piece::End).await;
        let gone = |_| Fault::Server("the thread has ended".into());
        self.result.await.map_err(gone)?
    }
}

/// The body as the thread reads it.
struct Body {
    pieces: Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl Read for Body {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => self.piece = data,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::other("the client broke off")),
            }
        }
        let length = to.len().min(self.piece.len());
        to[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

/// What an archive had.
#[derive(Debug)]
struct Unpacked {
    /// The folder of all its files, as the archive names it.
    root: String,
    /// Their paths in that folder.
    files: HashSet<String>,
}

/// Writes the files of an archive into `folder`, which is empty: those in the one folder that the archive has. Nothing is
/// written elsewhere, and no link.
fn unpack(archive: impl Read, folder: &Path) -> Result<Unpacked, Fault> {
    let wrong = |error: io::Error| {
        Fault::Request(format!(
            "the archive: expected a tar archive as the download gives it, without compression; {error}"
        ))
    };
    let budget = Cell::new(MAX_HEADER);
    let mut archive = tar::Archive::new(Limited {
        from: archive,
        total: MAX_ARCHIVE,
        budget: &budget,
    });
    let mut root: Option<String> = None;
    let mut files = HashSet::new();
    let mut entries = archive.entries().map_err(wrong)?;
    loop {
        // The crate reads extensions into memory, of whatever size they say.
        budget.set(MAX_HEADER);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(wrong)?;
        budget.set(u64::MAX);
        let (name, kind) = (text(&entry.path_bytes()), entry.header().entry_type());
        let place = inside(&name).map_err(|expected| unexpected(&name, expected))?;
        if *root.get_or_insert_with(|| place.root.into()) != place.root {
            return Err(unexpected(&name, ONE_FOLDER));
        }
        match kind {
            EntryType::Directory => continue,
            EntryType::Regular if place.path.is_empty() => {
                return Err(unexpected(&name, ONE_FOLDER));
            }
            EntryType::Regular => {}
            _ => return Err(unexpected(&name, "files and folders only, and no links")),
        }
        if files.len() == MAX_FILES {
            let expected = format!("at most {MAX_FILES} files");
            return Err(unexpected(&name, &expected));
        }
        let target = folder.join(place.path);
        let mut file = create(&target, folder).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                unexpected(&name, "each file once")
            }
            _ => Fault::io(format_args!("{}: cannot write", place.path), &e),
        })?;
        files.insert(place.path.to_owned());
        let mut buffer = [0; 16 << 10];
        let mut left = entry.size();
        while left > 0 {
            let read = entry.read(&mut buffer).map_err(wrong)?;
            if read == 0 {
                return Err(wrong(ErrorKind::UnexpectedEof.into()));
            }
            file.write_all(&buffer[..read])
                .map_err(|e| Fault::io(format_args!("{}: cannot write", place.path), &e))?;
            left -= read as u64;
        }
    }
    // To its end, so that the client is not cut off while it sends padding.
    budget.set(u64::MAX);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(wrong)?;
    match root {
        Some(root) => Ok(Unpacked { root, files }),
        None => Err(Fault::Request(
            "the archive: expected the files of a bundle, found none".into(),
        )),
    }
}

/// At most this much of a name is shown.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(4 * MAX_PATH)]).into_owned()
}

fn unexpected(name: &str, expected: &str) -> Fault {
    let name: String = name.chars().take(MAX_PATH).collect();
    Fault::Request(format!("the archive: expected {expected}, found {name:?}"))
}

/// A path of the archive.
struct Place<'a> {
    /// Its first part.
    root: &'a str,
    /// The others; empty for the folder itself.
    path: &'a str,
}

/// # Errors
/// What was expected.
fn inside(name: &str) -> Result<Place<'_>, &'static str> {
    let name = name.strip_suffix('/').unwrap_or(name);
    let (root, path) = name.split_once('/').unwrap_or((name, ""));
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let parts = path.is_empty() || path.split('/').all(plain);
    let clean = name.len() <= MAX_PATH && !name.contains(['\0', '\u{fffd}']);
    match clean && parts && !root.is_empty() && root != ".." {
        true => Ok(Place { root, path }),
        false => Err("paths inside of the bundle's folder"),
    }
}

/// Creates a file that is not there, and the folders on the way to it.
fn create(target: &Path, folder: &Path) -> io::Result<File> {
    std::fs::create_dir_all(target.parent().unwrap_or(folder))?;
    File::create_new(target)
}

/// Reads at most `total` bytes, and at most `budget` until that is set again.
struct Limited<'a, R> {
    from: R,
    total: u64,
    budget: &'a Cell<u64>,
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let most = self.total.min(self.budget.get());
        if most == 0 && !to.is_empty() {
            let text = match self.total {
                0 => format!("it is larger than {MAX_ARCHIVE} bytes"),
                _ => format!("the header of a file is larger than {MAX_HEADER} bytes"),
            };
            return Err(io::Error::other(text));
        }
        let length = usize::try_from(most).map_or(to.len(), |most| to.len().min(most));
        let read = self.from.read(&mut to[..length])?;
        self.total -= read as u64;
        self.budget.set(self.budget.get() - read as u64);
        Ok(read)
    }
}

/// Opens and tests what was unpacked, and checks that it is a bundle and nothing else; the number of images of its
/// self-test.
fn test(
    folder: &Path,
    unpacked: &Unpacked,
    builder: pinhole::ClassifierBuilder,
) -> Result<usize, Fault> {
    let fault = |error: &pinhole::Error| named(Fault::of_sent_bundle(error), folder, unpacked);
    let tested = TestedBundle::open(folder, builder).map_err(|e| fault(&e))?;
    let bundle = tested.classifier.bundle();
    // What classification does not read.
    bundle.check_text_encoder().map_err(|e| fault(&e.into()))?;
    bundle.examples().map_err(|e| fault(&e.into()))?;
    let listed = files(bundle);
    let foreign = unpacked.files.iter().find(|path| !listed.contains(*path));
    match foreign {
        None => Ok(tested.tested),
        Some(path) => Err(unexpected(path, "files that manifest.json lists")),
    }
}

/// The files of a bundle.
fn files(bundle: &Bundle) -> HashSet<String> {
    let listed = bundle.manifest().files.iter().map(|file| file.path.clone());
    listed.chain([MANIFEST.into()]).collect()
}

/// The fault with the archive's name of the folder in place of the temporary one.
fn named(fault: Fault, folder: &Path, unpacked: &Unpacked) -> Fault {
    let root = match &*unpacked.root {
        "." => "the archive",
        root => root,
    };
    let rename = |text: String| text.replace(&folder.display().to_string(), root);
    match fault {
        Fault::Request(text) => Fault::Request(rename(text)),
        Fault::Server(text) => Fault::Server(rename(text)),
        Fault::DiskFull(text) => Fault::DiskFull(rename(text)),
        other => other,
    }
}

impl SentBundle {
    /// Number of images of its self-test.
    pub(crate) fn tested(&self) -> usize {
        self.tested
    }

    /// Puts it in the place of the bundle that `used` is, at one moment; on an error that stays. Files in its folder
    /// that are not the bundle's stay there, which can be those of a bundle that was never opened.
    ///
    /// # Errors
    /// Another process is changing the bundle; it cannot be replaced.
    pub(crate) fn exchange(self, place: &BundlePlace, used: Option<&Bundle>) -> Result<(), Fault> {
        let path = place.folder.display();
        if std::fs::symlink_metadata(&place.folder).is_err() {
            let created = self.folder.create_new();
            return created.map_err(|e| Fault::io(format_args!("{path}: cannot create"), &e));
        }
        let lock = FolderLock::acquire(&place.folder, PATIENCE, &mut |_| {});
        let _lock = lock.map_err(|error| match error {
            LockError::Io(e) => Fault::io(format_args!("{path}: cannot open"), &e),
            LockError::Held(holder) => {
                Fault::Busy(format!("{path}: {holder} is changing this bundle"))
            }
        })?;
        let mut replaced = used.map(files).unwrap_or_default();
        // Another program may have exchanged it; a damaged one is replaced as well.
        if let Ok(found) = Bundle::open(&place.folder) {
            replaced.extend(files(&found));
        }
        replaced.insert(MANIFEST.into());
        let keep = |path: &Path| !replaced.contains(&*path.to_string_lossy());
        let exchanged = self.folder.replace_keeping(&keep);
        exchanged.map_err(|e| Fault::io(format_args!("{path}: cannot replace"), &e))
    }
}

/// Unpacks an archive into `folder`, which is empty, and checks that nothing is written elsewhere. For the fuzzer.
pub fn fuzz_archive(bytes: &[u8], folder: &Path) {
    let Ok(unpacked) = unpack(bytes, folder) else {
        return;
    };
    for path in &unpacked.files {
        let file: PathBuf = folder.join(path);
        assert!(file.starts_with(folder) && path.split('/').all(|part| part != ".."));
        let found = std::fs::symlink_metadata(&file).expect("a file that was unpacked");
        assert!(found.is_file());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive of entries: type, path, content.
    fn archive(entries: &[(EntryType, &str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(vec![]);
        for (kind, path, content) in entries {
            let mut header = tar::Header::new_gnu();
            // Without the checks of the crate.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn error(bytes: &[u8]) -> String {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("new");
        std::fs::create_dir(&folder).unwrap();
        let fault = unpack(bytes, &folder).unwrap_err();
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 1);
        match fault {
            Fault::Request(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// If this fails, an archive writes files of its choice on the board.
    #[test]
    fn no_path_of_an_archive_escapes() {
        const FILE: EntryType = EntryType::Regular;
        for path in [
            "a/../b",
            "a/../../b",
            "../b",
            "/etc/b",
            "a//b",
            "a/./b",
            "a/b/..",
            "b",
            "a",
        ] {
            let text = error(&archive(&[(FILE, path, b"x")]));
            assert!(text.contains(&format!("{path:?}")), "{text}");
        }
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Fifo,
            EntryType::Char,
            EntryType::Block,
            EntryType::GNUSparse,
        ] {
            error(&archive(&[(kind, "a/b", b"")]));
        }
        let two = error(&archive(&[(FILE, "a/b", b"x"), (FILE, "c/d", b"x")]));
        assert!(two.contains("one folder") && two.contains("c/d"), "{two}");
        let twice = error(&archive(&[(FILE, "a/b", b"x"), (FILE, "a/b", b"y")]));
        assert!(twice.contains("each file once"), "{twice}");
        error(&archive(&[(FILE, "a/b", b"x"), (FILE, "a/b/c", b"y")]));
        assert!(error(b"not an archive").contains("expected a tar archive"));
        assert!(error(b"").contains("found none"));
        // As of `tar -C bundle -cf - .`.
        let folder = tempfile::tempdir().unwrap();
        let plain = archive(&[
            (EntryType::Directory, "./", b""),
            (FILE, "./b", b"x"),
            (EntryType::Directory, "./golden/", b""),
            (FILE, "./golden/c", b"y"),
        ]);
        let unpacked = unpack(&*plain, folder.path()).unwrap();
        assert_eq!((&*unpacked.root, unpacked.files.len()), (".", 2));
        let read = std::fs::read(folder.path().join("golden/c")).unwrap();
        assert_eq!(read, b"y");
    }

    /// If this fails, an archive of a few bytes takes all memory: the crate reads long names whole.
    #[test]
    fn headers_and_archives_are_bounded() {
        let long = vec![b'a'; 1 << 20];
        let name = archive(&[
            (EntryType::GNULongName, "././@LongLink", &long),
            (EntryType::Regular, "a/b", b"x"),
        ]);
        let text = error(&name);
        assert!(text.contains("header"), "{text}");
        let extensions = archive(&[
            (EntryType::XHeader, "a/b", &long),
            (EntryType::Regular, "a/b", b"x"),
        ]);
        assert!(error(&extensions).contains("header"));
        // A name of our own download may need an extension.
        let folder = tempfile::tempdir().unwrap();
        let path = format!("{}/{}", "a".repeat(60), "b".repeat(100));
        let mut builder = tar::Builder::new(vec![]);
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        builder.append_data(&mut header, path, &b"x"[..]).unwrap();
        unpack(&*builder.into_inner().unwrap(), folder.path()).unwrap();
        let many: Vec<String> = (0..=MAX_FILES).map(|i| format!("a/{i}")).collect();
        let many: Vec<_> = (many.iter())
            .map(|path| (EntryType::Regular, &**path, &b""[..]))
            .collect();
        assert!(error(&archive(&many)).contains("at most 1000 files"));
        let budget = Cell::new(u64::MAX);
        let mut limited = Limited {
            from: io::repeat(0),
            total: 10,
            budget: &budget,
        };
        let read = io::copy(&mut limited, &mut io::sink()).unwrap_err();
        assert!(read.to_string().contains("larger than"), "{read}");
    }

    /// A body that stops without its end is no archive, even if what came could be one.
    #[test]
    fn a_client_that_breaks_off_replaces_nothing() {
        let (pieces, received) = channel(PIECES);
        let bytes = archive(&[(EntryType::Regular, "a/b", b"x")]);
        pieces.try_send(Piece::Data(bytes.into())).ok().unwrap();
        drop(pieces);
        let body = Body {
            pieces: received,
            piece: Bytes::new(),
            ended: false,
        };
        let folder = tempfile::tempdir().unwrap();
        let fault = unpack(body, folder.path()).unwrap_err();
        assert!(matches!(fault, Fault::Request(text) if text.contains("broke off")));
    }
}
