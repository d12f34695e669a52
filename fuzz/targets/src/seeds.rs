//! The inputs to start from.

use std::fs;
use std::path::Path;

use crate::Target;

/// Larger files take long and find nothing more.
const MAX_BYTES: u64 = 256 << 10;

/// The seeds of `target`, each with its path in the repository, in a fixed order.
///
/// # Panics
/// If a seed cannot be read, or there is none.
pub fn seeds(target: &Target) -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = vec![];
    let own = format!("fuzz/seeds/{}", target.name);
    collect(&root, &own, "", &mut found);
    for folder in target.seeds {
        collect(&root, folder, target.ends, &mut found);
    }
    assert!(
        !found.is_empty(),
        "{}: expected seeds, found none",
        target.name
    );
    found
}

fn collect(root: &Path, folder: &str, ends: &str, found: &mut Vec<(String, Vec<u8>)>) {
    let Ok(entries) = fs::read_dir(root.join(folder)) else {
        return;
    };
    let names = entries.map(|entry| entry.expect("a folder of seeds").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    for name in names {
        let name = format!("{folder}/{name}");
        let path = root.join(&name);
        let metadata = fs::metadata(&path).expect("a seed");
        if metadata.is_dir() {
            collect(root, &name, ends, found);
        } else if name.ends_with(ends) && metadata.len() <= MAX_BYTES {
            found.push((name, fs::read(&path).expect("a seed")));
        }
    }
}
