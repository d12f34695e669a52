//! Wrong usage of a program: its message, and its exit code.

use std::error::Error;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use pinhole_model::without_credentials;

/// Arguments that cannot be used, whatever the files hold that they name: a value that no file can make right, or options
/// that exclude each other. Programs exit with 2 for it ([`exit_code`]), as clap does for what it finds itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

impl UsageError {
    /// `message` is another error, or text: the argument, what was expected and what was found.
    pub fn new(message: impl Display) -> Self {
        Self(message.to_string())
    }
}

/// Returns a [`UsageError`] from the function, as anyhow's `bail!` returns other errors.
#[doc(hidden)]
#[macro_export]
macro_rules! wrong_usage {
    ($($message:tt)*) => {
        return Err($crate::internal::UsageError::new(format_args!($($message)*)).into())
    };
}

/// An error about a text of the command line, `argument`. What is wrong is in the file of this name, if there is one or it
/// is missing; else it is wrong usage.
pub fn text_error<E: From<pinhole_prompts::Error> + From<UsageError>>(
    argument: &str,
    error: pinhole_prompts::Error,
) -> E {
    let is_of_file = matches!(error, pinhole_prompts::Error::NoFile { .. });
    match is_of_file || Path::new(argument).exists() {
        true => error.into(),
        false => UsageError::new(error).into(),
    }
}

/// The exit code of a program that ends with `error`: 2 if it or one of its causes is a [`UsageError`], else 1.
pub fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    match causes.any(|cause| cause.is::<UsageError>()) {
        true => ExitCode::from(2),
        false => ExitCode::FAILURE,
    }
}

/// Ends a program after an error that clap found in its arguments, or after its help. `text` is the message, which repeats
/// arguments: if they are URLs with passwords, it is printed without these; else `print` prints it, with its colours.
pub fn end_with_usage(text: &str, code: i32, print: impl FnOnce() -> std::io::Result<()>) -> ! {
    let safe = without_credentials(text);
    // Standard streams may be closed.
    let _ = match safe == text {
        true => print(),
        false => std::io::stderr().write_all(safe.as_bytes()),
    };
    std::process::exit(code);
}
