//! Which files of a folder are images.

use std::path::Path;

/// The extensions of the formats that [`decode`](crate::decode) reads, in lower case.
pub const EXTENSIONS: [&str; 10] = [
    "jpg", "jpeg", "jpe", "jfif", "jif", "png", "webp", "bmp", "dib", "gif",
];

/// Whether the path has one of [`EXTENSIONS`], in any case.
pub fn has_image_extension(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    EXTENSIONS.iter().any(|e| extension.eq_ignore_ascii_case(e))
}

/// Whether a file or folder is no part of a data set by its name: it is hidden (`.git`, `.ipynb_checkpoints`,
/// `._photo.jpg`, or unfinished), or macOS added it to an archive (`__MACOSX`).
pub fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b".") || name == b"__MACOSX"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_recognised_by_their_extension_and_hidden_names_by_their_start() {
        for (name, is_image, hidden) in [
            ("photos/a.JPG", true, false),
            ("a.jfif", true, false),
            ("a.b.webp", true, false),
            ("a.tiff", false, false),
            ("jpg", false, false),
            ("photos/._cat.jpg", true, true),
            (".git", false, true),
            ("photos/__MACOSX", false, true),
            ("__MACOSX_photos", false, false),
            ("", false, false),
        ] {
            let path = Path::new(name);
            assert_eq!(has_image_extension(path), is_image, "{name}");
            assert_eq!(is_hidden(path), hidden, "{name}");
        }
    }
}
