//! Bundles that are going to be changed.

use std::path::Path;
use std::time::Duration;

use pinhole_fs::{FolderLock, LockError};

use crate::{Bundle, Error, not_a_bundle};

/// How long [`LockedBundle::open`] waits for another process: 10 minutes.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(600);

/// A bundle that no other process changes while this exists, so that what is read from it is what is replaced. Reading
/// needs no lock.
#[derive(Debug)]
pub struct LockedBundle {
    bundle: Bundle,
    _lock: FolderLock,
}

impl LockedBundle {
    /// Opens the bundle in `folder` as [`Bundle::open`] does. While another process has it locked, this waits for at most
    /// [`LOCK_PATIENCE`]; `waiting` is called once, with a description of that process, such as "process 1234 (pinhole)",
    /// if that takes longer than half a second.
    ///
    /// # Errors
    /// [`Error::Locked`] after that time; as [`Bundle::open`].
    pub fn open(folder: &Path, waiting: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        Self::open_within(folder, LOCK_PATIENCE, waiting)
    }

    fn open_within(
        folder: &Path,
        patience: Duration,
        waiting: &mut dyn FnMut(&str),
    ) -> Result<Self, Error> {
        not_a_bundle::check(folder)?;
        let lock = FolderLock::acquire(folder, patience, waiting).map_err(|error| match error {
            LockError::Io(reason) => Error::io(folder, "cannot open", reason),
            LockError::Held(holder) => Error::Locked {
                path: folder.to_owned(),
                holder,
                seconds: patience.as_secs(),
            },
        })?;
        let bundle = Bundle::open(folder)?;
        Ok(Self {
            bundle,
            _lock: lock,
        })
    }

    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_stays_locked_is_an_error_that_says_who_has_it_and_how_long_it_waited() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo");
        let _first = LockedBundle::open(&demo, &mut |_| {}).unwrap();
        let mut holders = vec![];
        let waiting = &mut |holder: &str| holders.push(holder.to_owned());
        let error = LockedBundle::open_within(&demo, Duration::from_secs(1), waiting).unwrap_err();
        let text = error.to_string();
        assert_eq!(holders.len(), 1);
        assert!(
            text.contains(&holders[0]) && text.contains("waited 1 s"),
            "{text}"
        );
        // Readers do not wait.
        Bundle::open(&demo).unwrap();
    }
}
