//! Options and memory limits of decoding.

use pinhole_model::PreprocessConfig;

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
    /// JPEG files that this allows are decoded to planes first where planes and RGB image together are within the limit too.
    ///
    /// 256 MiB by default, which suits a board with 512 MB: 89 megapixels of a baseline JPEG.
    pub max_memory: u64,
    /// Decode JPEG files faster, at a fraction of their size; other formats are not affected. `None`, the default,
    /// decodes every pixel.
    pub reduction: Option<Reduction>,
}

/// How far JPEG files may be reduced: to 1/8, 1/4 or 1/2 of their size, the smallest that leaves enough pixels.
///
/// libjpeg then computes each block of 8 x 8 pixels at 1 x 1, 2 x 2 or 4 x 4 pixels, from its lowest frequencies. The image
/// is that of Pillow's `Image.draft("RGB", (side, side))`. What is computed from it differs slightly from the
/// result of the whole image. Files are refused for the same reasons as without it.
///
/// ```
/// use pinhole_model::PreprocessConfig;
/// use pinhole_preprocessing::{DecodeOptions, Reduction};
/// let config = PreprocessConfig::openai(224);
/// // A JPEG file of 1920 x 1080 is decoded at 480 x 270.
/// let options = DecodeOptions {
///     reduction: Some(Reduction::to(&config)),
///     ..DecodeOptions::default()
/// };
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduction {
    /// Pixels that width and height keep at least.
    pub side: u32,
    /// Width and height of the part of the image that is used, in pixels of the whole image; `None` for all of it.
    pub part: Option<(u32, u32)>,
}

impl Reduction {
    /// For images that are preprocessed by `config`: what it scales to is never larger than the reduced image.
    pub fn to(config: &PreprocessConfig) -> Self {
        Self {
            side: config.scaled(),
            part: None,
        }
    }
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            apply_orientation: false,
            max_memory: 256 << 20,
            reduction: None,
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

    /// What JPEG files of this size are divided by: 1, 2, 4 or 8.
    pub(crate) fn divisor(&self, width: u32, height: u32) -> u32 {
        let Some(Reduction { side, part }) = self.reduction else {
            return 1;
        };
        let (width, height) = part.unwrap_or((width, height));
        let short = width.min(height);
        let enough = |divisor: &u32| short / divisor >= side;
        [8, 4, 2].into_iter().find(enough).unwrap_or(1)
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
