//! Options and memory limits of decoding.

use crate::Error;

/// How to decode an image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Rotate and mirror the image by its EXIF orientation (JPEG, PNG, WebP).
    ///
    /// Off by default: CLIP's reference preprocessing ignores the orientation, in training too.
    pub apply_orientation: bool,
    /// Images with more pixels than this are refused before memory for the pixels is allocated.
    ///
    /// 100 million by default: 300 MB as RGB, which fits on a board with 1 GB. Pillow's limit is 178,956,970.
    pub max_pixels: u64,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            apply_orientation: false,
            max_pixels: 100_000_000,
        }
    }
}

impl DecodeOptions {
    /// Refuses an image of more than `max_pixels`.
    pub(crate) fn check_size(&self, width: u32, height: u32) -> Result<(), Error> {
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(Error::TooManyPixels {
                width,
                height,
                max_pixels: self.max_pixels,
            });
        }
        Ok(())
    }

    /// Most bytes that a file or a buffer of an image within the limit can have: 8 per pixel, and room for metadata.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_pixels.saturating_mul(8).saturating_add(16 << 20)
    }
}

/// A zeroed buffer of `len` bytes for decoded pixels; an error where memory is short.
pub(crate) fn zeros(format: &'static str, len: u64) -> Result<Vec<u8>, Error> {
    let mut data = Vec::new();
    let reserved = usize::try_from(len)
        .ok()
        .filter(|len| data.try_reserve_exact(*len).is_ok());
    let Some(len) = reserved else {
        return Err(Error::Decode {
            format,
            reason: format!("cannot allocate {len} bytes for its pixels"),
        });
    };
    data.resize(len, 0);
    Ok(data)
}
