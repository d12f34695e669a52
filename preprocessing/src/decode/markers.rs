//! The marker segments of a JPEG file (ITU-T T.81, annex B): what a decoder needs, checked before any pixel is decoded.

use super::orientation::Metadata;

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;

/// Most scans of a file. Each scan of a progressive file visits every block, so their number bounds the time. libjpeg
/// writes 10; no more than a hundred are known of other encoders.
const MAX_SCANS: u32 = 200;

/// The structure of a JPEG file.
pub(super) struct Structure {
    /// Marker segments and scans from start to end marker, without stray bytes and metadata.
    pub(super) data: Vec<u8>,
    pub(super) width: u32,
    pub(super) height: u32,
    /// 1 (grey), 3 (colour) or 4 (CMYK).
    pub(super) components: usize,
    /// Bytes of the coefficients of the whole image, which a decoder keeps if a component has several scans or a scan
    /// of its own; else 0.
    pub(super) coefficient_bytes: u64,
    /// Bytes of the samples of all components.
    pub(super) plane_bytes: u64,
    pub(super) metadata: Metadata,
}

/// A component of the frame header.
struct Component {
    id: u8,
    horizontal: u64,
    vertical: u64,
    scanned: bool,
    /// Of a progressive file: the lowest bit of each coefficient that a scan has sent.
    low_bits: [Option<u8>; 64],
}

impl Component {
    /// What is missing is guessed by decoders, each in its way: they smooth blocks whose first ten coefficients are not
    /// fully known. Higher coefficients that no scan sends are 0.
    fn is_incomplete(&self) -> bool {
        let unsent = self.low_bits[..10].contains(&None);
        unsent || self.low_bits.iter().flatten().any(|bit| *bit > 0)
    }
}

#[derive(Default)]
struct Frame {
    marker: u8,
    width: u32,
    height: u32,
    components: Vec<Component>,
}

impl Frame {
    /// Whether the data is complete can be told from the entropy-coded data alone: a decoder of Huffman codes runs out
    /// of bits, one of arithmetic codes does not, and of progressive files whole scans may be missing.
    fn shows_missing_data(&self) -> bool {
        matches!(self.marker, 0xC0 | 0xC1)
    }

    fn is_progressive(&self) -> bool {
        matches!(self.marker, 0xC2 | 0xCA)
    }
}

impl Structure {
    /// Walks the markers of `bytes`, which begin with the start marker.
    ///
    /// Like libjpeg it skips stray bytes between segments, and of a baseline file it accepts a missing end marker: if
    /// data is missing too, the decoder finds out.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let truncated = || "the file is truncated: it has no end marker".to_owned();
        let mut rest = &bytes[2..];
        let mut data = vec![0xFF, SOI];
        let mut metadata = Metadata::default();
        let mut frame = Frame::default();
        let mut scans = 0;
        let mut whole_image = false;
        let ended = loop {
            let Some(marker) = next_marker(&mut rest) else {
                break false;
            };
            match marker {
                EOI => break true,
                SOI => {
                    return Err("it has a second start marker: the first image is cut off".into());
                }
                // Markers without a length: stuffed zero, TEM, restart outside a scan.
                0x00 | 0x01 | 0xD0..=0xD7 => continue,
                _ => {}
            }
            let Some(segment) = segment(rest) else {
                // The entropy-coded data may be followed by any bytes, if the end marker is missing.
                break false;
            };
            rest = &rest[segment.len()..];
            let body = segment.get(2..).unwrap_or_default();
            match marker {
                0xE1 => {
                    metadata.add_app1(body);
                    continue;
                }
                // libjpeg reads APP0 (JFIF) and APP14 (Adobe) alone; a comment has no effect.
                0xE2..=0xED | 0xEF | 0xFE => continue,
                0xDC => {
                    return Err(
                        "its number of lines is in a DNL segment, which is not supported".into(),
                    );
                }
                0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                    if frame.marker != 0 {
                        return Err("it has two frame headers".into());
                    }
                    frame = frame_header(marker, body)?;
                }
                SOS => {
                    scans += 1;
                    if scans > MAX_SCANS {
                        return Err(format!("it has more than {MAX_SCANS} scans"));
                    }
                    let scanned = scan_header(&mut frame, body)?;
                    whole_image |= frame.is_progressive() || scanned < frame.components.len();
                }
                _ => {}
            }
            data.extend([0xFF, marker]);
            data.extend(segment);
            if marker == SOS {
                let len = scan_len(rest);
                data.extend(&rest[..len]);
                rest = &rest[len..];
            }
        };
        if scans == 0 || (!ended && !frame.shows_missing_data()) {
            return Err(truncated());
        }
        let progressive = frame.is_progressive();
        let incomplete = |c: &Component| !c.scanned || (progressive && c.is_incomplete());
        if let Some(missing) = frame.components.iter().position(incomplete) {
            return Err(format!(
                "the file is incomplete: scans of component {} of {} are missing",
                missing + 1,
                frame.components.len()
            ));
        }
        data.extend([0xFF, EOI]);
        Ok(Self {
            data,
            width: frame.width,
            height: frame.height,
            components: frame.components.len(),
            coefficient_bytes: if whole_image { samples(&frame) * 2 } else { 0 },
            plane_bytes: samples(&frame),
            metadata,
        })
    }
}

/// Skips to the code of the next marker; `None` at the end of the file.
fn next_marker(rest: &mut &[u8]) -> Option<u8> {
    let start = rest.iter().position(|b| *b == 0xFF)?;
    let code = start + rest[start..].iter().position(|b| *b != 0xFF)?;
    let marker = rest[code];
    *rest = &rest[code + 1..];
    Some(marker)
}

/// The segment at the start of `rest` with its two bytes of length; `None` if it is cut off.
fn segment(rest: &[u8]) -> Option<&[u8]> {
    let [high, low, ..] = *rest else {
        return None;
    };
    rest.get(..usize::from(u16::from_be_bytes([high, low])).max(2))
}

/// Length of the entropy-coded data before the next marker other than a restart marker, or of all of `bytes`.
fn scan_len(bytes: &[u8]) -> usize {
    let mut len = 0;
    loop {
        let Some(next) = bytes[len..].iter().position(|b| *b == 0xFF) else {
            return bytes.len();
        };
        len += next;
        match bytes.get(len + 1) {
            Some(0x00 | 0xD0..=0xD7) => len += 2,
            Some(0xFF) => len += 1,
            // The first half of a marker is not data.
            Some(_) | None => return len,
        }
    }
}

fn frame_header(marker: u8, body: &[u8]) -> Result<Frame, String> {
    let kind = match marker {
        0xC0..=0xC2 | 0xC9 | 0xCA => None,
        0xC3 | 0xCB => Some("lossless"),
        _ => Some("hierarchical"),
    };
    if let Some(kind) = kind {
        return Err(format!("{kind} coding is not supported"));
    }
    let short = || "its frame header is cut off".to_owned();
    let (fixed, list) = body.split_at_checked(6).ok_or_else(short)?;
    if fixed[0] != 8 {
        return Err(format!("{} bits per sample are not supported", fixed[0]));
    }
    let side = |at: usize| u32::from(u16::from_be_bytes([fixed[at], fixed[at + 1]]));
    let (height, width) = (side(1), side(3));
    if height == 0 {
        return Err("its number of lines is in a DNL segment, which is not supported".into());
    }
    let count = usize::from(fixed[5]);
    if !matches!(count, 1 | 3 | 4) {
        return Err(format!("{count} components are not supported"));
    }
    let mut components = Vec::new();
    for entry in list.get(..count * 3).ok_or_else(short)?.chunks_exact(3) {
        let (horizontal, vertical) = (entry[1] >> 4, entry[1] & 15);
        if !(1..=4).contains(&horizontal) || !(1..=4).contains(&vertical) {
            return Err(format!(
                "a sampling factor of {horizontal} x {vertical}, expected 1 to 4"
            ));
        }
        components.push(Component {
            id: entry[0],
            horizontal: horizontal.into(),
            vertical: vertical.into(),
            scanned: false,
            low_bits: [None; 64],
        });
    }
    Ok(Frame {
        marker,
        width,
        height,
        components,
    })
}

/// Marks the components of a scan; their number.
fn scan_header(frame: &mut Frame, body: &[u8]) -> Result<usize, String> {
    if frame.marker == 0 {
        return Err("it has a scan before its frame header".into());
    }
    let count = usize::from(*body.first().unwrap_or(&0));
    let Some(list) = body.get(1..1 + count * 2) else {
        return Err("a scan header is cut off".into());
    };
    let [first, last, bits] = match body.get(1 + count * 2..) {
        Some(&[first, last, bits]) => [first, last, bits & 15],
        _ => return Err("a scan header has a wrong length".into()),
    };
    for entry in list.chunks_exact(2) {
        // An unknown component is an error of the decoder.
        for component in frame.components.iter_mut().filter(|c| c.id == entry[0]) {
            component.scanned = true;
            let band = usize::from(first)..=usize::from(last);
            component
                .low_bits
                .get_mut(band)
                .unwrap_or_default()
                .fill(Some(bits));
        }
    }
    Ok(count)
}

/// Coefficients, or samples, of all components in whole minimum coded units.
fn samples(frame: &Frame) -> u64 {
    let most =
        |factor: fn(&Component) -> u64| frame.components.iter().map(factor).max().unwrap_or(1);
    let (horizontal, vertical) = (most(|c| c.horizontal), most(|c| c.vertical));
    let units = u64::from(frame.width).div_ceil(8 * horizontal)
        * u64::from(frame.height).div_ceil(8 * vertical);
    let blocks: u64 = frame
        .components
        .iter()
        .map(|c| c.horizontal * c.vertical)
        .sum();
    units * blocks * 64
}
