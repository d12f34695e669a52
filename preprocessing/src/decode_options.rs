//! Options and memory limits of decoding.

use crate::Error;

/// How to decode an image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Rotate and mirror the image by its EXIF orientation (JPEG, PNG, WebP).
    ///
    /// Off by default: CLIP's reference preprocessing ignores the orientation, in training too.
    pub apply_orientation: bool,
    /// Most bytes that decoding one image may use, and most bytes of a file.
    ///
    /// What an image needs is computed from its header before memory is allocated: 3 bytes per pixel for most JPEG and
    /// PNG files, more where the decoder keeps intermediate values (progressive JPEG, WebP) or the file has more bytes
    /// per pixel (16-bit PNG, CMYK). The decoder's tables and metadata come on top, at most 64 MiB.
    ///
    /// 256 MiB by default, which suits a board with 512 MB: 89 megapixels of a baseline JPEG.
    pub max_memory: u64,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            apply_orientation: false,
            max_memory: 256 << 20,
        }
    }
}

impl DecodeOptions {
    /// For programs that run on a workstation: 4 GiB of memory.
    pub fn workstation() -> Self {
        Self {
            max_memory: 4 << 30,
            ..Self::default()
        }
    }

    /// Refuses an image whose decoding needs more than `max_memory` bytes.
    pub(crate) fn check_memory(&self, width: u32, height: u32, needed: u64) -> Result<(), Error> {
        if needed > self.max_memory {
            return Err(Error::TooLarge {
                width,
                height,
                needed,
                max_memory: self.max_memory,
            });
        }
        Ok(())
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
