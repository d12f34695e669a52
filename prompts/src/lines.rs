//! Reading text files of the user.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::Error;

/// Upper bound for a list of names or templates.
const MAX_BYTES: u64 = 16 << 20;

/// Reads a UTF-8 file of at most 16 MiB; a byte order mark is removed.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let not_text = |expected| Error::NotText {
        path: path.to_path_buf(),
        expected,
    };
    let read = |source| Error::Read {
        path: path.to_path_buf(),
        source,
    };
    // Opening a named pipe would block until it has a writer.
    if !std::fs::metadata(path).map_err(read)?.is_file() {
        return Err(not_text("a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(read)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(not_text("a text file of at most 16 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| not_text("text in UTF-8"))?;
    Ok(text
        .strip_prefix('\u{feff}')
        .map(str::to_string)
        .unwrap_or(text))
}
