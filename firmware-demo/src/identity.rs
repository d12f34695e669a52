//! A short name for this machine that no other machine has, for defaults that must differ between boards.

use std::path::Path;

use sha2::{Digest, Sha256};

/// Twelve hexadecimal digits. The same after every start; two boards differ, even with the same host name or with copies
/// of one SD card.
pub(crate) fn machine_name() -> String {
    name_in(Path::new("/"))
}

/// A hash of what identifies the machine: `/etc/machine-id`, which must not be published itself (machine-id(5)), or else
/// the host name; and the board's serial number if it has one, because copies of an SD card share the machine-id.
fn name_in(root: &Path) -> String {
    let read = |path: &str| {
        let text = std::fs::read_to_string(root.join(path)).unwrap_or_default();
        text.trim_matches(|c: char| c.is_whitespace() || c == '\0')
            .to_owned()
    };
    let mut id = read("etc/machine-id");
    // Before the first boot has finished it is empty or "uninitialized".
    if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        id = read("proc/sys/kernel/hostname");
    }
    let serial = read("proc/device-tree/serial-number");
    let hash = Sha256::digest(format!("pinhole\n{id}\n{serial}"));
    hash.iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_have_different_names() {
        let name = |files: &[(&str, &str)]| {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            name_in(root.path())
        };
        let id = ("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        let host = ("proc/sys/kernel/hostname", "raspberrypi\n");
        let serial = ("proc/device-tree/serial-number", "10000000a1b2c3d4\0");
        // The name is part of the default topic: it must stay the same for ever.
        assert_eq!(name(&[id, host]), "09b2f4cee714");
        assert_eq!(name(&[id]), name(&[id, host]));
        let mut names = vec![
            name(&[id]),
            name(&[host]),
            name(&[
                ("etc/machine-id", "uninitialized\n"),
                ("proc/sys/kernel/hostname", "door\n"),
            ]),
            // Copies of one SD card.
            name(&[id, serial]),
            name(&[id, ("proc/device-tree/serial-number", "10000000ffffffff\0")]),
            name(&[]),
        ];
        assert!(names.iter().all(|name| name.len() == 12), "{names:?}");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 6);
    }
}
