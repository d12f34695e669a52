//! The format of an image file, by its first bytes.

/// A supported format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
    Bmp,
    Gif,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Gif => "GIF",
        }
    }

    /// # Errors
    /// What the file is or begins with instead.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, String> {
        Ok(match bytes {
            [0xFF, 0xD8, 0xFF, ..] => Self::Jpeg,
            [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Self::Png,
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Self::WebP,
            [b'B', b'M', ..] => Self::Bmp,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Self::Gif,
            [] => return Err("the file is empty".into()),
            _ => return Err(other(bytes)),
        })
    }
}

/// Names what is not supported.
fn other(bytes: &[u8]) -> String {
    // Offset, bytes, name.
    const KNOWN: [(usize, &[u8], &str); 20] = [
        (4, b"ftyphei", "a HEIC image"),
        (4, b"ftyphev", "a HEIC image sequence"),
        (4, b"ftypmif1", "a HEIF image"),
        (4, b"ftypmsf1", "a HEIF image sequence"),
        (4, b"ftypavi", "an AVIF image"),
        (4, b"ftypcrx", "a Canon raw image"),
        (4, b"ftyp", "a video (MP4 or QuickTime)"),
        (0, b"II*\0", "a TIFF or camera raw image"),
        (0, b"MM\0*", "a TIFF or camera raw image"),
        (0, b"II+\0", "a BigTIFF image"),
        (0, b"MM\0+", "a BigTIFF image"),
        (4, b"jP  \r\n\x87\n", "a JPEG 2000 image"),
        (0, b"\xFF\x4F\xFF\x51", "a JPEG 2000 codestream"),
        (4, b"JXL \r\n\x87\n", "a JPEG XL image"),
        (0, b"\xFF\x0A", "a JPEG XL codestream"),
        (0, b"8BPS", "a Photoshop document"),
        (0, b"%PDF", "a PDF document"),
        (0, b"\0\0\x01\0", "a Windows icon"),
        (0, b"<svg", "an SVG drawing"),
        (0, b"PK\x03\x04", "a zip archive"),
    ];
    let known = KNOWN.iter().find(|(offset, magic, _)| {
        bytes
            .get(*offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    });
    if let Some((.., name)) = known {
        return format!("this is {name}; convert it to JPEG or PNG");
    }
    let start = &bytes[..bytes.len().min(12)];
    format!("it starts with \"{}\"", start.escape_ascii())
}
