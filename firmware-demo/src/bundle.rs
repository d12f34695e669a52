//! Opens the bundle of the appliance.

use std::path::Path;

use pinhole::{ClassifierBuilder, TestedBundle};

use crate::access::{self, Access};

/// Opens the bundle in `folder` and tests it.
///
/// # Errors
/// Why it cannot be used.
pub fn open(folder: &Path, builder: ClassifierBuilder) -> Result<TestedBundle, String> {
    // Names who may not read it. Other errors are reported with their file below.
    if folder.exists() {
        access::check(folder, Access::List).map_err(|e| format!("{}: {e}", folder.display()))?;
        if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()) {
            return Err(format!(
                "{}: expected a bundle, found an empty folder; if a disk belongs there, mount it",
                folder.display()
            ));
        }
    }
    TestedBundle::open(folder, builder).map_err(|e| e.to_string())
}
