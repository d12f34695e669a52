//! Image embeddings, computed once before training.

use pinhole_checkpoint::Checkpoint;
use pinhole_model::{PreprocessConfig, Resize};
use pinhole_preprocessing::{RgbImage, preprocess};
use rayon::prelude::*;

use super::{event::TrainingEvent, options::PromptOptions};
use crate::{
    Error, Result,
    dataset::LabelledImage,
    image_encoder::{CHUNK, ImageEncoder},
    random::SeededRng,
};

/// The embeddings of the training images.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFeatures {
    /// Views of each image, at least one.
    pub views: usize,
    /// Length of an embedding.
    pub embedding: usize,
    /// [images, views, embedding], each L2-normalised.
    pub data: Vec<f32>,
}

impl ImageFeatures {
    /// The embedding of a view of an image.
    pub(super) fn get(&self, image: usize, view: usize) -> &[f32] {
        &self.data[(image * self.views + view) * self.embedding..][..self.embedding]
    }
}

/// Encodes images: `options.views` random views of each, or if that is 0 the unaugmented image. The views
/// depend only on the seed and the image's index.
///
/// The reference augments images anew in every epoch. Since the encoder is frozen, embeddings can be computed
/// once instead; the views of an image then repeat.
///
/// # Errors
/// [`Error::Config`] for a ModifiedResNet without a bundle in `options.encoder`, or a bundle of another
/// embedding length; [`Error::Image`]; [`Error::Bundle`].
pub fn image_features(
    clip: &Checkpoint,
    images: &[LabelledImage],
    options: &PromptOptions,
    progress: &mut dyn FnMut(TrainingEvent),
) -> Result<ImageFeatures> {
    options.check()?;
    let encoder = match &options.encoder {
        Some(folder) => ImageEncoder::from_bundle(clip, folder)?,
        None => ImageEncoder::open(clip)?,
    };
    let (views, embedding) = (options.views.max(1), clip.config().embedding);
    let mut data = Vec::new();
    let total = images.len().saturating_mul(views);
    if data
        .try_reserve_exact(total.saturating_mul(embedding))
        .is_err()
    {
        return Err(Error::Config(format!(
            "not enough memory for {views} embeddings of each of {} images; lower --views",
            images.len()
        )));
    }
    let preprocessing = &clip.config().preprocessing;
    let view = |index: usize| {
        let image = images[index / views].decode()?;
        match options.views {
            0 => Ok(image),
            _ => augment(
                image,
                preprocessing,
                options,
                &mut SeededRng::new(options.seed ^ 0x7669_6577, index as u64),
            ),
        }
    };
    // In rounds, to report progress between them.
    let round = CHUNK * 2 * rayon::current_num_threads();
    for start in (0..total).step_by(round) {
        progress(TrainingEvent::Encoded { done: start, total });
        let chunks: Vec<usize> = (start..total.min(start + round)).step_by(CHUNK).collect();
        let chunks = chunks.into_par_iter().map(|first| {
            let indices = first..total.min(start + round).min(first + CHUNK);
            let pixels = indices.clone().map(view).collect::<Result<Vec<_>>>()?;
            let rows = encoder.embed_images(&pixels)?;
            let sources: Vec<LabelledImage> = indices.map(|i| images[i / views].clone()).collect();
            encoder.check_finite(&rows, &sources)?;
            Ok(rows)
        });
        for chunk in chunks.collect::<Result<Vec<_>>>()? {
            data.extend(chunk);
        }
    }
    progress(TrainingEvent::Encoded { done: total, total });
    Ok(ImageFeatures {
        views,
        embedding,
        data,
    })
}

/// torchvision's RandomResizedCrop with the model's filter, and RandomHorizontalFlip: a random region with an
/// aspect ratio of 3/4..4/3, scaled to the model's square.
fn augment(
    image: RgbImage,
    preprocessing: &PreprocessConfig,
    options: &PromptOptions,
    rng: &mut SeededRng,
) -> Result<RgbImage> {
    let (left, top, width, height) = random_region(image.width, image.height, options.crop, rng);
    let stride = image.width as usize * 3;
    let mut data = Vec::with_capacity(width as usize * height as usize * 3);
    for row in image
        .data
        .chunks_exact(stride)
        .skip(top as usize)
        .take(height as usize)
    {
        data.extend(&row[left as usize * 3..][..width as usize * 3]);
    }
    let region = RgbImage::new(width, height, data)?;
    let squash = PreprocessConfig {
        resize: Resize::Squash,
        resize_to: None,
        ..preprocessing.clone()
    };
    let mut square = preprocess(&squash, &region)?;
    if options.flip && rng.chance(0.5) {
        for row in square
            .data
            .chunks_exact_mut(preprocessing.size as usize * 3)
        {
            let (pixels, _) = row.as_chunks_mut::<3>();
            pixels.reverse();
        }
    }
    Ok(RgbImage::new(square.size, square.size, square.data)?)
}

/// Left, top, width and height, as in RandomResizedCrop.get_params: ten attempts, then the largest centred
/// region of an allowed aspect ratio.
fn random_region(
    width: u32,
    height: u32,
    min_area: f32,
    rng: &mut SeededRng,
) -> (u32, u32, u32, u32) {
    let area = f64::from(width) * f64::from(height);
    let (narrow, wide) = (0.75f64, 4.0f64 / 3.0);
    for _ in 0..10 {
        let target = area * f64::from(rng.range(min_area, 1.0));
        let logarithm = rng.range(narrow.ln() as f32, wide.ln() as f32);
        let ratio = f64::from(logarithm).exp();
        let (w, h) = (
            (target * ratio).sqrt().round(),
            (target / ratio).sqrt().round(),
        );
        if w >= 1.0 && w <= f64::from(width) && h >= 1.0 && h <= f64::from(height) {
            let (w, h) = (w as u32, h as u32);
            let top = rng.below((height - h + 1) as usize) as u32;
            return (rng.below((width - w + 1) as usize) as u32, top, w, h);
        }
    }
    let ratio = f64::from(width) / f64::from(height);
    let (w, h) = if ratio < narrow {
        let h = (f64::from(width) / narrow).round() as u32;
        (width, h.clamp(1, height))
    } else if ratio > wide {
        let w = (f64::from(height) * wide).round() as u32;
        (w.clamp(1, width), height)
    } else {
        (width, height)
    };
    ((width - w) / 2, (height - h) / 2, w, h)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt_learning::methods::Method;

    #[test]
    fn regions_stay_inside_the_image_and_vary() {
        let mut rng = SeededRng::new(1, 0);
        let (mut areas, mut min, mut max) = (Vec::new(), f64::MAX, 0f64);
        for _ in 0..2000 {
            let (left, top, w, h) = random_region(200, 100, 0.08, &mut rng);
            assert!(w > 0 && h > 0 && left + w <= 200 && top + h <= 100);
            areas.push(f64::from(w * h) / 20_000.0);
            let ratio = f64::from(w) / f64::from(h);
            (min, max) = (min.min(ratio), max.max(ratio));
        }
        assert!(
            min > 0.7 && min < 0.8 && max > 1.25 && max < 1.4,
            "{min} {max}"
        );
        let smallest = areas.iter().copied().fold(1.0, f64::min);
        assert!((0.07..0.1).contains(&smallest), "{smallest}");
        // Of an image one pixel wide only the centre pixel has an allowed aspect ratio.
        assert_eq!(random_region(1, 1000, 0.9, &mut rng), (0, 499, 1, 1));
        assert_eq!(random_region(1000, 1, 0.9, &mut rng), (499, 0, 1, 1));
    }

    #[test]
    fn a_view_of_the_whole_image_is_the_image_or_its_mirror() {
        let data: Vec<u8> = (0..48u8 * 4).collect();
        let image = RgbImage::new(8, 8, data).unwrap();
        let preprocessing = PreprocessConfig::openai(8);
        let options = PromptOptions {
            crop: 1.0,
            ..PromptOptions::new(Method::COOP, 1, 1)
        };
        let mut whole = [0, 0];
        for index in 0..40 {
            // Only the aspect ratio 1 fits the whole area, so almost always all ten attempts fail.
            let view = augment(
                image.clone(),
                &preprocessing,
                &options,
                &mut SeededRng::new(9, index),
            )
            .unwrap();
            let mut mirrored = view.clone();
            for row in mirrored.data.chunks_exact_mut(24) {
                row.as_chunks_mut::<3>().0.reverse();
            }
            whole[0] += usize::from(view == image);
            whole[1] += usize::from(mirrored == image);
        }
        assert!(
            whole[0] > 5 && whole[1] > 5 && whole[0] + whole[1] > 30,
            "{whole:?}"
        );
    }
}
