//! Writing bundles atomically.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pinhole_fs::AtomicFolder;

use crate::read::sha256;
use crate::{
    EXAMPLES, Error, FileEntry, GOLDEN, Golden, HEAD, Head, LockedBundle, MANIFEST, Manifest,
    TaughtExamples,
};

/// Collects a bundle's files in a temporary folder beside the destination.
///
/// Dropped before [`BundleWriter::finish`], it removes what it wrote.
#[derive(Debug)]
pub struct BundleWriter {
    destination: PathBuf,
    folder: AtomicFolder,
    /// The files of the bundle that is replaced.
    replaced: BTreeSet<PathBuf>,
    /// Those of them that the new bundle shares, as they are in the manifest, and their inodes.
    shared: BTreeMap<String, (FileEntry, (u64, u64))>,
}

impl BundleWriter {
    /// Starts a bundle that will appear at `destination`, which must not exist; its parent folder must.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::Io`] if the parent folder cannot be written to.
    pub fn create(destination: &Path) -> Result<Self, Error> {
        if fs::symlink_metadata(destination).is_ok() {
            return Err(Error::Exists(destination.to_owned()));
        }
        Self::at(destination)
    }

    /// Starts a replacement of `locked`, with all its files but the head and the manifest;
    /// [`BundleWriter::replace`] completes it.
    ///
    /// # Errors
    /// [`Error::Io`] if the bundle's parent folder cannot be written to, or its folder is a mount point.
    pub fn succeed(locked: &LockedBundle) -> Result<Self, Error> {
        let bundle = locked.bundle();
        // Links are resolved, so that the folder itself is replaced.
        let folder = fs::canonicalize(bundle.folder())
            .map_err(|e| Error::io(bundle.folder(), "cannot open", e))?;
        let mut writer = Self::at(&folder)?;
        for file in &bundle.manifest().files {
            writer.replaced.insert(PathBuf::from(&file.path));
            if file.path == HEAD {
                continue;
            }
            let (from, to) = (folder.join(&file.path), writer.folder().join(&file.path));
            let parent = to.parent().unwrap_or(writer.folder());
            fs::create_dir_all(parent).map_err(|e| Error::io(parent, "cannot create", e))?;
            // No file is changed in place, so both bundles can share it.
            if fs::hard_link(&from, &to).is_ok() {
                let entry = (file.clone(), inode(&to)?);
                writer.shared.insert(file.path.clone(), entry);
            } else {
                fs::copy(&from, &to).map_err(|e| Error::io(&from, "cannot copy", e))?;
            }
        }
        writer.replaced.insert(PathBuf::from(MANIFEST));
        Ok(writer)
    }

    fn at(destination: &Path) -> Result<Self, Error> {
        let folder = AtomicFolder::create(destination).map_err(|e| {
            if e.kind() == ErrorKind::ResourceBusy {
                return Error::io(destination, "cannot replace", e);
            }
            let parent = destination.parent().filter(|p| !p.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            Error::io(parent, "cannot create the bundle in this folder", e)
        })?;
        Ok(Self {
            destination: destination.to_owned(),
            folder,
            replaced: BTreeSet::new(),
            shared: BTreeMap::new(),
        })
    }

    /// The temporary folder, for files that are too large to pass in memory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes `bytes` to `path` inside the bundle, and creates its folder if needed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn add(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        let target = self.folder().join(path);
        let parent = target.parent().unwrap_or(self.folder());
        fs::create_dir_all(parent).map_err(|e| Error::io(parent, "cannot create", e))?;
        // A file that the bundle shares with its predecessor is not changed in place.
        match fs::remove_file(&target) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(Error::io(&target, "cannot replace", e));
            }
            _ => {}
        }
        fs::write(&target, bytes).map_err(|e| Error::io(&target, "cannot write", e))
    }

    /// Writes the head.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn add_head(&self, head: &Head) -> Result<(), Error> {
        self.add(HEAD, &head.to_bytes(&self.destination.join(HEAD))?)
    }

    /// Writes what the bundle was taught, instead of what it was taught before.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for more than a file may hold.
    pub fn add_examples(&self, examples: &TaughtExamples) -> Result<(), Error> {
        self.add(
            EXAMPLES,
            &examples.to_bytes(&self.destination.join(EXAMPLES))?,
        )
    }

    /// Writes the golden embeddings; the images are added by [`BundleWriter::add`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn add_golden(&self, golden: &Golden) -> Result<(), Error> {
        self.add(GOLDEN, &to_json(golden, &self.destination.join(GOLDEN))?)
    }

    /// Fills in the manifest's `files` from the folder and writes it.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Field`] if the manifest is not valid.
    fn write_manifest(&self, manifest: &mut Manifest) -> Result<(), Error> {
        let mut files = Vec::new();
        list(self.folder(), "", &mut files)?;
        files.retain(|path| path != MANIFEST);
        files.sort();
        manifest.files = files
            .into_iter()
            .map(|path| {
                let full = self.folder().join(&path);
                // What has not been replaced is not read again.
                if let Some((entry, before)) = self.shared.get(&path)
                    && inode(&full)? == *before
                {
                    return Ok(entry.clone());
                }
                let mut file = File::open(&full).map_err(|e| Error::io(&full, "cannot open", e))?;
                let bytes = file
                    .metadata()
                    .map_err(|e| Error::io(&full, "cannot open", e))?
                    .len();
                let sha256 = sha256(&mut file).map_err(|e| Error::io(&full, "cannot read", e))?;
                Ok(FileEntry {
                    path,
                    bytes,
                    sha256,
                })
            })
            .collect::<Result<_, Error>>()?;
        let path = self.destination.join(MANIFEST);
        manifest.validate(&path)?;
        self.add(MANIFEST, &to_json(manifest, &path)?)
    }

    /// Fills in and writes the manifest, syncs everything and renames the folder to its destination.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Field`] if the manifest is not valid; [`Error::Exists`] if the destination exists by now.
    /// Nothing is left then.
    pub fn finish(self, manifest: &mut Manifest) -> Result<(), Error> {
        self.write_manifest(manifest)?;
        self.folder.create_new().map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => Error::Exists(self.destination.clone()),
            _ => Error::io(
                &self.destination,
                "cannot rename the finished bundle to it",
                e,
            ),
        })
    }

    /// Fills in and writes the manifest, syncs everything and exchanges the folder with the one at its destination,
    /// which is then removed: at any moment one of the two whole bundles is there. (On a file system that cannot
    /// exchange two folders, a power cut between two renames leaves both under temporary names in the parent folder; the
    /// next change puts the old one back.)
    ///
    /// Files that are not the old bundle's stay in the folder; permissions stay, and owners where the process may keep
    /// them.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Field`] if the manifest is not valid. The old bundle stays then.
    pub fn replace(self, manifest: &mut Manifest) -> Result<(), Error> {
        self.write_manifest(manifest)?;
        let keep = |path: &Path| !self.replaced.contains(path);
        let replaced = self.folder.replace_keeping(&keep);
        replaced.map_err(|e| Error::io(&self.destination, "cannot replace", e))
    }
}

/// What distinguishes a file from all others of the machine.
fn inode(path: &Path) -> Result<(u64, u64), Error> {
    let metadata = fs::metadata(path).map_err(|e| Error::io(path, "cannot open", e))?;
    Ok((metadata.dev(), metadata.ino()))
}

fn to_json(value: &impl serde::Serialize, path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::Malformed {
        path: path.to_owned(),
        expected: "representable as JSON",
        reason: e.to_string(),
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Files below `folder`, relative to it, with `/` between parts.
fn list(folder: &Path, prefix: &str, files: &mut Vec<String>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, "cannot list", e))? {
        let entry = entry.map_err(|e| Error::io(folder, "cannot list", e))?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            list(&entry.path(), &format!("{path}/"), files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
