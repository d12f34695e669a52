//! The orientation in a file's metadata, read as Pillow's `ImageOps.exif_transpose` reads it.

use image::metadata::Orientation;

/// Metadata that may state an orientation: EXIF (a TIFF file, with or without the prefix `Exif`) and XMP (XML).
#[derive(Default)]
pub(super) struct Metadata {
    pub(super) exif: Vec<u8>,
    pub(super) xmp: Vec<u8>,
}

const EXIF_PREFIX: &[u8] = b"Exif\0\0";
const XMP_PREFIX: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

impl Metadata {
    /// Reads the body of a JPEG file's APP1 segment. EXIF data longer than a segment continues in the next.
    pub(super) fn add_app1(&mut self, body: &[u8]) {
        if let Some(exif) = body.strip_prefix(EXIF_PREFIX) {
            self.exif.extend(exif);
        } else if let Some(xmp) = body.strip_prefix(XMP_PREFIX) {
            self.xmp = xmp.to_vec();
        }
    }

    /// The orientation; of EXIF if that states one, else of XMP. Damaged metadata states none.
    pub(super) fn orientation(&self) -> Orientation {
        from_exif(&self.exif)
            .or_else(|| from_xmp(&self.xmp))
            .and_then(|value| Orientation::from_exif(u8::try_from(value).ok()?))
            .unwrap_or(Orientation::NoTransforms)
    }
}

/// The value of the tag `Orientation` in the first directory; 0 if it is no number.
fn from_exif(mut exif: &[u8]) -> Option<u32> {
    const ORIENTATION: u32 = 0x0112;
    while let Some(rest) = exif.strip_prefix(EXIF_PREFIX) {
        exif = rest;
    }
    let little = match exif.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let number = |at: usize, len: usize| -> Option<u32> {
        let bytes = exif.get(at..at.checked_add(len)?)?.iter();
        let join = |sum: u32, byte: &u8| sum << 8 | u32::from(*byte);
        Some(if little {
            bytes.rev().fold(0, join)
        } else {
            bytes.fold(0, join)
        })
    };
    let directory = number(4, 4)? as usize;
    let entries = number(directory, 2)? as usize;
    (0..entries).find_map(|entry| {
        let at = directory.checked_add(2 + entry * 12)?;
        if number(at, 2)? != ORIENTATION {
            return None;
        }
        match (number(at + 2, 2)?, number(at + 4, 4)?) {
            // The numbers of Pillow: SBYTE; SHORT; LONG; and signed ones.
            (6, 1) => number(at + 8, 1),
            (3 | 8, 1) => number(at + 8, 2),
            (4 | 9, 1) => number(at + 8, 4),
            _ => Some(0),
        }
    })
}

/// The digit after `tiff:Orientation`, as attribute or element.
fn from_xmp(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    xmp.windows(NAME.len())
        .enumerate()
        .filter(|(_, window)| *window == NAME)
        .find_map(|(at, _)| {
            let value = &xmp[at + NAME.len()..];
            let digit = value
                .strip_prefix(b"=\"")
                .or_else(|| value.strip_prefix(b">"))?
                .first()?;
            char::from(*digit).to_digit(10)
        })
}
