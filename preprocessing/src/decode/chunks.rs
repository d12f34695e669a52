//! The chunks of PNG and WebP files: their metadata, and lengths that a file does not have.

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::orientation::Metadata;

/// Most bytes that a text chunk may decompress to.
const MAX_TEXT: u64 = 1 << 20;

/// The metadata of a PNG file. A cut-off chunk ends the walk; what it means for the pixels is the decoder's to say.
pub(super) fn png_metadata(bytes: &[u8]) -> Metadata {
    let mut metadata = Metadata::default();
    let mut rest = &bytes[8..];
    while let Some((head, tail)) = rest.split_at_checked(8) {
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(body) = tail.get(..len) else {
            break;
        };
        match &head[4..] {
            b"eXIf" => metadata.exif = body.to_vec(),
            b"tEXt" | b"zTXt" | b"iTXt" => text(&head[4..], body, &mut metadata),
            _ => {}
        }
        // The checksum follows.
        rest = tail.get(len + 4..).unwrap_or_default();
    }
    metadata
}

/// A text chunk: XMP, or EXIF in hexadecimal digits, as ImageMagick writes it.
fn text(kind: &[u8], body: &[u8], metadata: &mut Metadata) {
    let Some((keyword, value)) = split_at_zero(body) else {
        return;
    };
    let is_exif = keyword == b"Raw profile type exif";
    if !is_exif && keyword != b"XML:com.adobe.xmp" {
        return;
    }
    let (compressed, value) = match (kind, value) {
        (b"tEXt", value) => (false, value),
        (b"zTXt", [0, value @ ..]) => (true, value),
        // Compression, its method, language, translated keyword.
        (b"iTXt", [flag, _, value @ ..]) => {
            let language = split_at_zero(value).map(|(_, value)| value);
            let Some((_, value)) = language.and_then(split_at_zero) else {
                return;
            };
            (*flag == 1, value)
        }
        _ => return,
    };
    let mut inflated = vec![];
    let value = if compressed {
        // What a damaged chunk has before the damage may do.
        let _ = ZlibDecoder::new(value)
            .take(MAX_TEXT)
            .read_to_end(&mut inflated);
        &inflated
    } else {
        value
    };
    if is_exif {
        // A line with a name, one with the length, then digits.
        let digits = value.split(|b| *b == b'\n').skip(3).flatten();
        let nibbles: Vec<u8> = digits
            .filter_map(|digit| Some(char::from(*digit).to_digit(16)? as u8))
            .collect();
        if metadata.exif.is_empty() {
            metadata.exif = nibbles.chunks_exact(2).map(|n| n[0] << 4 | n[1]).collect();
        }
    } else {
        metadata.xmp = value.to_vec();
    }
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = bytes.iter().position(|b| *b == 0)?;
    Some((&bytes[..zero], &bytes[zero + 1..]))
}

/// The metadata of a WebP file.
///
/// # Errors
/// A chunk that declares more bytes than the file has: the decoder would allocate them, or read them as zeros.
pub(super) fn webp_metadata(bytes: &[u8]) -> Result<Metadata, String> {
    let length = |at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    };
    let truncated = |declared: usize| {
        let found = bytes.len();
        format!("the file is truncated: {declared} bytes declared, {found} found")
    };
    let end = length(4).map_or(usize::MAX, |len| len.saturating_add(8));
    if end > bytes.len() {
        return Err(truncated(end));
    }
    let mut metadata = Metadata::default();
    let mut at = 12;
    while at + 8 <= end {
        let len = length(at + 4).unwrap_or(usize::MAX);
        let body_end = (at + 8).saturating_add(len);
        let Some(body) = bytes.get(at + 8..body_end) else {
            return Err(truncated(body_end));
        };
        match &bytes[at..at + 4] {
            b"EXIF" => metadata.exif = body.to_vec(),
            b"XMP " => metadata.xmp = body.to_vec(),
            _ => {}
        }
        // Chunks are padded to an even length.
        at = body_end + len % 2;
    }
    Ok(metadata)
}
