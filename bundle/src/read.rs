//! Opening and checking bundles.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{
    EXAMPLES, Error, FORMAT, FileEntry, GOLDEN, Golden, HEAD, Head, HeadKind, MANIFEST, Manifest,
    TEXT_ENCODER, TaughtExamples, not_a_bundle,
};

/// A bundle whose files have been checked against its manifest.
#[derive(Clone, Debug)]
pub struct Bundle {
    folder: PathBuf,
    manifest: Manifest,
    head: Head,
    golden: Golden,
}

/// Far more than a page of text and a list of class names.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// The files that [`Bundle::open`] reads.
const OWN: [&str; 2] = [HEAD, GOLDEN];
/// The head is read whole.
const MAX_HEAD_BYTES: u64 = 1 << 30;
/// A few images with their embeddings.
const MAX_GOLDEN_BYTES: u64 = 16 << 20;
/// Taught examples are read whole.
const MAX_EXAMPLES_BYTES: u64 = 256 << 20;

/// How often a bundle is read that is exchanged each time.
const MAX_ATTEMPTS: u32 = 100;

impl Bundle {
    /// Opens the bundle in `folder`, with the checks in the crate's documentation.
    ///
    /// # Errors
    /// [`Error`], which names the file and the field.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        of_one_folder(folder, || {
            let bundle = Self::open_unhashed(folder)?;
            bundle.check_hashes()?;
            Ok(bundle)
        })
    }

    /// As [`Bundle::open`], but `load` reads the files while another thread hashes them, because hashing takes as
    /// long as loading. `load` gets files of the right size with unchecked content; its result is returned only
    /// if every hash is right. It is called again if the bundle is exchanged for another meanwhile.
    ///
    /// # Errors
    /// As [`Bundle::open`], whatever `load` returned.
    pub fn open_with<T>(
        folder: &Path,
        mut load: impl FnMut(&Self) -> T,
    ) -> Result<(Self, T), Error> {
        of_one_folder(folder, || {
            let bundle = Self::open_unhashed(folder)?;
            let (checked, loaded) = std::thread::scope(|scope| {
                let thread = std::thread::Builder::new().name("hashes".into());
                let hashes = thread.spawn_scoped(scope, || bundle.check_hashes());
                let loaded = load(&bundle);
                let checked = match hashes {
                    Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                    // No thread available: slower, but the same.
                    Err(_) => bundle.check_hashes(),
                };
                (checked, loaded)
            });
            checked?;
            Ok((bundle, loaded))
        })
    }

    /// Opens the bundle with every check but the hashes of the files that are not read here.
    fn open_unhashed(folder: &Path) -> Result<Self, Error> {
        let manifest = read_manifest(folder)?;
        for entry in manifest.files.iter().filter(|f| needed(&manifest, f)) {
            check_size(folder, entry)?;
        }
        let head_path = folder.join(HEAD);
        let own = |name: &str, limit| read_own(folder, &manifest, name, limit);
        let head = Head::from_bytes(&head_path, &own(HEAD, MAX_HEAD_BYTES)?, &manifest)?;
        let golden_path = folder.join(GOLDEN);
        let golden = Golden::from_bytes(
            &golden_path,
            &own(GOLDEN, MAX_GOLDEN_BYTES)?,
            manifest.model.embedding_size,
        )?;
        let bundle = Self {
            folder: folder.to_owned(),
            manifest,
            head,
            golden,
        };
        for (i, image) in bundle.golden.images.iter().enumerate() {
            if !bundle.lists(&image.file) {
                return Err(Error::field(
                    &golden_path,
                    format!("images[{i}].file"),
                    "a file of the bundle",
                    format!("{:?}", image.file),
                ));
            }
        }
        Ok(bundle)
    }

    /// Checks the files that [`Bundle::open_unhashed`] has not read.
    fn check_hashes(&self) -> Result<(), Error> {
        let files = self.manifest.files.iter();
        files
            .filter(|f| !OWN.contains(&&*f.path) && needed(&self.manifest, f))
            .try_for_each(|entry| check_hash(&self.folder, entry))
    }

    /// Checks size and hash of the text encoder, which [`Bundle::open`] leaves out for a static head. Nothing if there is
    /// none.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn check_text_encoder(&self) -> Result<(), Error> {
        let mut files = self.manifest.files.iter();
        let Some(entry) = files.find(|f| f.path == TEXT_ENCODER) else {
            return Ok(());
        };
        check_size(&self.folder, entry)?;
        check_hash(&self.folder, entry)
    }

    /// What the bundle was taught; `None` if it was not.
    ///
    /// # Errors
    /// As [`Bundle::open`], for `examples.safetensors`.
    pub fn examples(&self) -> Result<Option<TaughtExamples>, Error> {
        if !self.lists(EXAMPLES) {
            return Ok(None);
        }
        let bytes = read_own(&self.folder, &self.manifest, EXAMPLES, MAX_EXAMPLES_BYTES)?;
        let path = self.folder.join(EXAMPLES);
        TaughtExamples::from_bytes(&path, &bytes, &self.manifest).map(Some)
    }

    /// The folder that the bundle was opened from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Calls `read` with the folder, to read files of the bundle later. It is called again if the bundle is exchanged for
    /// another meanwhile.
    pub fn read_files<T>(&self, mut read: impl FnMut(&Path) -> T) -> T {
        of_one_folder(&self.folder, || read(&self.folder))
    }

    /// The contents of `manifest.json`.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The head, `[C, D]`.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Images and embeddings for the self-test.
    pub fn golden(&self) -> &Golden {
        &self.golden
    }

    /// Whether `path`, relative to the folder, is a file of the manifest.
    pub fn lists(&self, path: &str) -> bool {
        self.manifest.files.iter().any(|f| f.path == path)
    }
}

/// Whether images are classified with this file. The text encoder of a static head only names new classes.
fn needed(manifest: &Manifest, file: &FileEntry) -> bool {
    manifest.head == HeadKind::Conditional || file.path != TEXT_ENCODER
}

/// Reads by `read` until `folder` is the same one before and after: while a bundle is exchanged for another, some files
/// would be of the one and some of the other, or missing.
fn of_one_folder<T>(folder: &Path, mut read: impl FnMut() -> T) -> T {
    for _ in 1..MAX_ATTEMPTS {
        // Open until it is compared, so that no other folder gets its number.
        let _open = File::open(folder);
        let before = identity(folder);
        let found = read();
        if identity(folder) == before {
            return found;
        }
    }
    read()
}

fn identity(folder: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(folder).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn read_manifest(folder: &Path) -> Result<Manifest, Error> {
    not_a_bundle::check(folder)?;
    let path = folder.join(MANIFEST);
    parse_manifest(&path, &read_small(&path, MAX_MANIFEST_BYTES)?)
}

/// Parses and validates the bytes of a manifest; `path` is for errors.
pub(crate) fn parse_manifest(path: &Path, bytes: &[u8]) -> Result<Manifest, Error> {
    // Directly to its type, because JSON of any other form could take a hundred times the memory of its text.
    let manifest = match pinhole_fs::from_json::<Manifest>(bytes) {
        Ok(manifest) => manifest,
        // Another version may have other fields, so that the version is the reason.
        Err(error) => {
            check_version(path, bytes)?;
            return Err(Error::Malformed {
                path: path.to_owned(),
                expected: "a valid manifest",
                reason: error.to_string(),
            });
        }
    };
    manifest.validate(path)?;
    Ok(manifest)
}

/// Checks format and version of a manifest that this version cannot read. Nothing else in it is kept in memory.
fn check_version(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    #[derive(serde::Deserialize)]
    struct Version {
        format: Option<String>,
        version: Option<u64>,
    }
    let Ok(found) = serde_json::from_slice::<Version>(bytes) else {
        return Ok(());
    };
    if found.format.as_deref() != Some(FORMAT) {
        let found = found.format.map_or("none".into(), |v| format!("{v:?}"));
        return Err(Error::field(path, "format", format!("{FORMAT:?}"), found));
    }
    if found.version != Some(crate::VERSION.into()) {
        let expected = format!(
            "{} (export the bundle again, or update pinhole)",
            crate::VERSION
        );
        let found = found.version.map_or("none".into(), |v| v.to_string());
        return Err(Error::field(path, "version", expected, found));
    }
    Ok(())
}

fn check_size(folder: &Path, entry: &FileEntry) -> Result<(), Error> {
    let path = folder.join(&entry.path);
    let (_, length) = open_regular(&path)?;
    if length != entry.bytes {
        return Err(Error::field(
            &path,
            "size",
            format!("{} bytes, as in the manifest", entry.bytes),
            format!("{length} bytes; copy the bundle again"),
        ));
    }
    Ok(())
}

fn check_hash(folder: &Path, entry: &FileEntry) -> Result<(), Error> {
    let path = folder.join(&entry.path);
    let (mut file, _) = open_regular(&path)?;
    compare_hash(path, &mut file, entry)
}

fn compare_hash(path: PathBuf, content: &mut impl Read, entry: &FileEntry) -> Result<(), Error> {
    let found = sha256(content).map_err(|e| Error::io(&path, "cannot read", e))?;
    if found != entry.sha256 {
        return Err(Error::Hash {
            path,
            expected: entry.sha256.clone(),
            found,
        });
    }
    Ok(())
}

/// Opens a regular file; also returns its length. Anything else is refused before it is opened, because
/// opening a named pipe would block.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64), Error> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, "cannot open", e))?;
    if !metadata.is_file() {
        return Err(Error::field(
            path,
            "type",
            "a regular file",
            "something else",
        ));
    }
    let file = File::open(path).map_err(|e| Error::io(path, "cannot open", e))?;
    Ok((file, metadata.len()))
}

/// SHA-256 of all bytes of `reader`, in lower-case hexadecimal.
pub(crate) fn sha256(reader: &mut impl Read) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect())
}

/// Reads a file of the bundle, and checks its hash.
fn read_own(folder: &Path, manifest: &Manifest, name: &str, limit: u64) -> Result<Vec<u8>, Error> {
    let path = folder.join(name);
    let bytes = read_small(&path, limit)?;
    // The manifest lists it: that was checked.
    if let Some(entry) = manifest.files.iter().find(|f| f.path == name) {
        compare_hash(path, &mut bytes.as_slice(), entry)?;
    }
    Ok(bytes)
}

fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let (file, length) = open_regular(path)?;
    if length > limit {
        return Err(Error::field(
            path,
            "size",
            format!("at most {limit} bytes"),
            length,
        ));
    }
    let mut bytes = Vec::new();
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io(path, "cannot read", e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One in thirty readers failed while new classes were written: of one folder the manifest, of the next the head.
    #[test]
    fn a_folder_that_is_exchanged_is_read_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("bundle");
        std::fs::create_dir(&folder).unwrap();
        let mut calls = 0;
        let found = of_one_folder(&folder, || {
            calls += 1;
            if calls < 3 {
                let new = pinhole_fs::AtomicFolder::create(&folder).unwrap();
                std::fs::write(new.path().join("file"), "").unwrap();
                new.replace().unwrap();
            }
            calls
        });
        assert_eq!(found, 3);
        assert_eq!(of_one_folder(&root.path().join("none"), || 1), 1);
    }
}
