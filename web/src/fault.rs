//! Why a request is not done, and whose fault that is.

use std::io::ErrorKind;

use pinhole::{BundleError, Error, TeachError};

/// Why a request is not done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// What was sent makes no sense, or does not fit the bundle.
    Request(String),
    /// There is no such class or example.
    Missing(String),
    /// The request is right, but not for the bundle or the camera as they are: a class of this name is there, nothing can be
    /// undone, no frame has arrived.
    Conflict(String),
    /// The server's own: a damaged bundle, permissions, a panic.
    Server(String),
    /// The disk is full.
    DiskFull(String),
    /// It may work later.
    Busy(String),
}

impl Fault {
    /// Nothing can be classified yet.
    pub(crate) fn no_bundle() -> Self {
        Self::Busy("no bundle is in use yet".into())
    }

    /// The server failed to do `action` to a file.
    pub(crate) fn io(action: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let text = format!("{action}: {error}");
        match is_full(error.kind()) {
            true => Self::DiskFull(text),
            false => Self::Server(text),
        }
    }

    fn of_teaching(reason: &TeachError, text: String) -> Self {
        match reason {
            TeachError::UnknownClass { .. } | TeachError::UnknownExample { .. } => {
                Self::Missing(text)
            }
            TeachError::ClassExists { .. }
            | TeachError::SeveralClasses { .. }
            | TeachError::NoClass
            | TeachError::TooManyExamples
            | TeachError::NothingToUndo
            | TeachError::Head { .. }
            | TeachError::ClassesOfExamples => Self::Conflict(text),
            // Another process has changed the bundle, and the camera does not use it yet.
            TeachError::OtherEncoder => Self::Busy(text),
            _ => Self::Request(text),
        }
    }

    /// An error of a bundle that a client has sent. Only the machine can be wrong beside it.
    pub(crate) fn of_sent_bundle(error: &Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Bundle(BundleError::Io { reason, .. }) if is_full(reason.kind()) => {
                Self::DiskFull(text)
            }
            Error::Threads { .. } | Error::ThreadPool { .. } | Error::Kernels(_) => {
                Self::Server(text)
            }
            _ => Self::Request(text),
        }
    }
}

fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// An error of the bundle that is in use, or of what a client asked of it.
impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Bundle(BundleError::Io { reason, .. }) if is_full(reason.kind()) => {
                Self::DiskFull(text)
            }
            // Another process changes it.
            Error::Bundle(BundleError::Locked { .. }) => Self::Busy(text),
            Error::Teaching { reason, .. } => Self::of_teaching(&reason, text),
            Error::NoTextEncoder { .. } => Self::Conflict(text),
            Error::Image(_) | Error::Text(_) => Self::Request(text),
            _ => Self::Server(text),
        }
    }
}

/// What [`catch_panic`](pinhole::internal::catch_panic) has caught.
pub(crate) fn panicked(message: String) -> Fault {
    Fault::Server(format!("the program failed: {message}"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn io_error(kind: ErrorKind) -> Error {
        Error::Bundle(BundleError::Io {
            path: "demo".into(),
            action: "cannot write",
            reason: io::Error::from(kind),
        })
    }

    /// If this fails, a program that teaches is told to correct a request that was right.
    #[test]
    fn the_server_takes_the_blame_for_what_is_its_own() {
        let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
        for kind in full {
            let fault = Fault::from(io_error(kind));
            assert!(matches!(fault, Fault::DiskFull(_)), "{fault:?}");
            let fault = Fault::of_sent_bundle(&io_error(kind));
            assert!(matches!(fault, Fault::DiskFull(_)), "{fault:?}");
            let fault = Fault::io("cannot write", &kind.into());
            assert!(matches!(fault, Fault::DiskFull(_)), "{fault:?}");
        }
        let denied = Fault::from(io_error(ErrorKind::PermissionDenied));
        assert!(matches!(denied, Fault::Server(_)), "{denied:?}");
        let teaching = |reason| {
            Fault::from(Error::Teaching {
                bundle: "demo".into(),
                reason,
            })
        };
        let unknown = TeachError::UnknownClass { name: "a".into() };
        assert!(matches!(teaching(unknown), Fault::Missing(_)));
        let undo = teaching(TeachError::NothingToUndo);
        assert!(matches!(undo, Fault::Conflict(_)), "{undo:?}");
        assert!(matches!(
            teaching(TeachError::TextOfNone),
            Fault::Request(_)
        ));
        assert!(matches!(teaching(TeachError::OtherEncoder), Fault::Busy(_)));
        // A file that is missing is the sender's fault.
        let missing = Fault::of_sent_bundle(&io_error(ErrorKind::NotFound));
        assert!(matches!(missing, Fault::Request(_)), "{missing:?}");
    }
}
