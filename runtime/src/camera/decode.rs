//! From an encoded frame to the pixels of the region of interest.

use std::path::PathBuf;
use std::time::Instant;

use pinhole_preprocessing::{DecodeOptions, RgbImage, decode};

use super::report::Counters;
use super::slot::{Captured, Shared};
use super::still::{StillGate, Thumbnail};
use super::yuv::{Yuv, to_rgb};
use super::{Error, Frame};

/// A frame as the source brings it.
pub(super) enum Encoded {
    Jpeg(Vec<u8>),
    UnendedJpeg(Vec<u8>),
    File { path: PathBuf, bytes: Vec<u8> },
    Yuv(Yuv),
}

/// A rectangle of a frame, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Columns left of it.
    pub x: u32,
    /// Rows above it.
    pub y: u32,
    /// Its width, at least 1.
    pub width: u32,
    /// Its height, at least 1.
    pub height: u32,
}

impl std::fmt::Display for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{},{},{},{}", self.x, self.y, self.width, self.height)
    }
}

impl Region {
    /// This part of `image`; `None` where it is not inside.
    pub fn of(&self, image: &RgbImage) -> Option<RgbImage> {
        let right = self.x.checked_add(self.width)?;
        let bottom = self.y.checked_add(self.height)?;
        if self.width == 0 || self.height == 0 || right > image.width || bottom > image.height {
            return None;
        }
        let row_bytes = image.width as usize * 3;
        let columns = self.x as usize * 3..right as usize * 3;
        let rows = image.data.chunks_exact(row_bytes);
        let data = rows
            .skip(self.y as usize)
            .take(self.height as usize)
            .flat_map(|row| &row[columns.clone()])
            .copied()
            .collect();
        RgbImage::new(self.width, self.height, data).ok()
    }
}

/// Decodes a JPEG image without an end marker if nothing but that is missing. A decoder takes missing data for
/// zeros and says nothing, so the image is decoded twice with other data behind it each time: it is whole if that
/// makes no difference.
///
/// # Errors
/// Those of [`decode`]; where the image is cut off too.
pub fn decode_unended(
    mut bytes: Vec<u8>,
    options: &DecodeOptions,
) -> Result<RgbImage, pinhole_preprocessing::Error> {
    // The first half of a marker is no data.
    while bytes.last() == Some(&0xFF) {
        bytes.pop();
    }
    let len = bytes.len();
    let mut decode_with = |filler: u8| {
        bytes.truncate(len);
        bytes.extend([filler; 64]);
        bytes.extend([0xFF, 0xD9]);
        decode(&bytes, options)
    };
    let image = decode_with(0)?;
    match decode_with(0b1010_1010) {
        Ok(again) if again == image => Ok(image),
        _ => Err(pinhole_preprocessing::Error::Decode {
            format: "JPEG",
            reason: "the image is cut off".into(),
        }),
    }
}

/// Decodes until the source ends, each frame when the caller is about to be ready for it.
pub(super) struct Decoder {
    pub(super) options: DecodeOptions,
    pub(super) region: Option<Region>,
    pub(super) gate: Option<StillGate>,
}

impl Decoder {
    pub(super) fn run(mut self, shared: &Shared) -> Result<(), Error> {
        let mut fits = false;
        while let Some(frame) = shared.next_encoded() {
            let start = Instant::now();
            let Captured {
                number,
                at,
                time,
                encoded,
            } = frame;
            let (file, image) = match encoded {
                Encoded::Jpeg(bytes) => (None, decode(&bytes, &self.options)),
                Encoded::UnendedJpeg(bytes) => (None, decode_unended(bytes, &self.options)),
                Encoded::File { path, bytes } => (Some(path), decode(&bytes, &self.options)),
                Encoded::Yuv(frame) => (None, to_rgb(&frame)),
            };
            let mut image = match image {
                Ok(image) => image,
                Err(e) => {
                    shared.corrupt(number, file, e.to_string());
                    continue;
                }
            };
            if let Some(region) = self.region {
                let Some(part) = region.of(&image) else {
                    let outside = Error::Region {
                        region,
                        width: image.width,
                        height: image.height,
                    };
                    // After a frame that it was inside of, the frame is at fault and not the region.
                    if fits {
                        shared.corrupt(number, file, outside.to_string());
                        continue;
                    }
                    shared.count(|c| c.corrupt += 1);
                    return Err(outside);
                };
                image = part;
            }
            fits = true;
            let still =
                (self.gate.as_mut()).is_some_and(|gate| gate.is_still(Thumbnail::new(&image)));
            shared.put_decoded(Frame {
                number,
                file,
                captured: at,
                time,
                decode: start.elapsed(),
                image: (!still).then_some(image),
                counters: Counters::default(),
            });
        }
        Ok(())
    }
}
