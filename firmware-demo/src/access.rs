//! What a path may be used for, and who has to be allowed to.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// What the appliance does with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads a file.
    Read,
    /// Lists a folder and opens what is in it.
    List,
    /// Creates files in a folder.
    Create,
    /// Reads and writes a device.
    ReadWrite,
    /// Runs a program.
    Execute,
}

impl Access {
    fn flags(self) -> rustix::fs::Access {
        use rustix::fs::Access as Flags;
        match self {
            Self::Read => Flags::READ_OK,
            Self::List => Flags::READ_OK | Flags::EXEC_OK,
            Self::Create => Flags::WRITE_OK | Flags::EXEC_OK,
            Self::ReadWrite => Flags::READ_OK | Flags::WRITE_OK,
            Self::Execute => Flags::EXEC_OK,
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "read and enter",
            Self::Create => "write to and enter",
            Self::ReadWrite => "read and write",
            Self::Execute => "execute",
        }
    }
}

/// Checks that the path exists and that the current user has the access.
///
/// # Errors
/// The system's error, with who needs which permission.
pub(crate) fn check(path: &Path, access: Access) -> Result<(), String> {
    // Of an empty path, which is the current folder.
    let path = if path == Path::new("") {
        Path::new(".")
    } else {
        path
    };
    rustix::fs::access(path, access.flags()).map_err(|e| explain(path, access, &e.into()))
}

/// Who needs which permission, if the current user lacks it.
pub(crate) fn missing(path: &Path, access: Access) -> Option<String> {
    let allowed = rustix::fs::access(path, access.flags());
    (allowed == Err(rustix::io::Errno::ACCESS)).then(|| {
        advice(
            path,
            access,
            closed_folder(path).as_deref(),
            &current_user(),
        )
    })
}

/// The system's error about a path. Of missing permissions, it says who needs which.
pub(crate) fn explain(path: &Path, access: Access, error: &Error) -> String {
    if error.kind() != ErrorKind::PermissionDenied {
        return error.to_string();
    }
    let advice = advice(
        path,
        access,
        closed_folder(path).as_deref(),
        &current_user(),
    );
    format!("{error}; {advice}")
}

fn advice(path: &Path, access: Access, closed: Option<&Path>, user: &str) -> String {
    let (path, verb) = match closed {
        Some(folder) => (folder, "enter"),
        None => (path, access.verb()),
    };
    let path = path.display();
    format!("{user} must be able to {verb} {path} (`ls -ld {path}` shows who is)")
}

/// Whether a file system is mounted at `path`.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// The first folder on the way to `path` that the current user may not enter.
fn closed_folder(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
    folders.reverse();
    let closed = |folder: &&Path| {
        let entered = rustix::fs::access(*folder, rustix::fs::Access::EXEC_OK);
        entered == Err(rustix::io::Errno::ACCESS)
    };
    folders.into_iter().find(closed).map(Path::to_owned)
}

/// "the user pinhole", or the number of a user without a name.
pub(crate) fn current_user() -> String {
    let id = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then_some(name)
    });
    format!("the user {}", name.unwrap_or(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_permissions_name_the_user_and_the_path() {
        let (photos, home) = (Path::new("/home/pi/photos"), Path::new("/home/pi"));
        assert_eq!(
            advice(photos, Access::List, None, "the user pinhole"),
            "the user pinhole must be able to read and enter /home/pi/photos (`ls -ld /home/pi/photos` shows who is)"
        );
        assert_eq!(
            advice(photos, Access::List, Some(home), "the user pinhole"),
            "the user pinhole must be able to enter /home/pi (`ls -ld /home/pi` shows who is)"
        );
        let denied = explain(photos, Access::Read, &ErrorKind::PermissionDenied.into());
        assert!(
            denied.starts_with("permission denied; the user "),
            "{denied}"
        );
        let missing = check(Path::new("/nowhere/at/all"), Access::Read).unwrap_err();
        assert_eq!(missing, "No such file or directory (os error 2)");
        assert_eq!(check(Path::new(""), Access::List), Ok(()));
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(Path::new("/proc/self")));
        assert!(
            check(Path::new("/dev/null"), Access::Execute)
                .unwrap_err()
                .contains("execute /dev/null")
        );
    }
}
