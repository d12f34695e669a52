//! Image embeddings, computed once before the training.

use pinhole_checkpoint::Checkpoint;
use pinhole_model::{ImageEncoderConfig, PreprocessConfig, Resize};
use pinhole_preprocessing::{RgbImage, preprocess};
use rayon::prelude::*;

use crate::{
    Error, Result,
    dataset::Item,
    features::{CHUNK, ImageEncoder},
    prompt_learning::{Progress, PromptOptions},
    shapes::Dice,
};

/// The embeddings of some images.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Views of each image, at least one.
    pub views: usize,
    /// Length of an embedding.
    pub embedding: usize,
    /// [images, views, embedding], each L2-normalised.
    pub data: Vec<f32>,
}

impl Features {
    /// The embedding of a view of an image.
    pub(super) fn get(&self, image: usize, view: usize) -> &[f32] {
        &self.data[(image * self.views + view) * self.embedding..][..self.embedding]
    }
}

/// Encodes images: with `options.views` that many random views of each, else each as it will be
/// classified. The views depend on the seed and on the image's place alone.
///
/// The reference augments anew in every epoch. The encoder being frozen, its embeddings can be computed
/// once, but then the views of an image repeat.
///
/// # Errors
/// [`Error::Config`] for a ModifiedResNet without a bundle in `options.encoder`, or a bundle with
/// embeddings of another length; [`Error::Image`]; [`Error::Bundle`].
pub fn image_features(
    clip: &Checkpoint,
    items: &[Item],
    options: &PromptOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Features> {
    options.check()?;
    let encoder = match (&options.encoder, &clip.config().image) {
        (Some(folder), _) => ImageEncoder::from_bundle(clip, folder)?,
        (None, ImageEncoderConfig::ModifiedResNet { .. }) => {
            return Err(Error::Config(
                "the image tower is a ModifiedResNet, which runs from a bundle only: export the \
                 checkpoint with pinhole-export bundle (any classes will do) and give that folder as \
                 --encoder"
                    .into(),
            ));
        }
        (None, _) => ImageEncoder::open(clip)?,
    };
    let (views, embedding) = (options.views.max(1), clip.config().embedding);
    let mut data = Vec::new();
    let all = items.len().saturating_mul(views);
    if data
        .try_reserve_exact(all.saturating_mul(embedding))
        .is_err()
    {
        return Err(Error::Config(format!(
            "no memory for {views} embeddings of each of {} images; lower --views",
            items.len()
        )));
    }
    let rule = &clip.config().preprocessing;
    let picture = |job: usize| {
        let image = items[job / views].image()?;
        match options.views {
            0 => Ok(image),
            _ => augment(
                image,
                rule,
                options,
                &mut Dice::new(options.seed ^ 0x7669_6577, job as u64),
            ),
        }
    };
    // In rounds, between which progress is told.
    let round = CHUNK * 2 * rayon::current_num_threads();
    for start in (0..all).step_by(round) {
        progress(Progress::Encoding { done: start, all });
        let chunks: Vec<usize> = (start..all.min(start + round)).step_by(CHUNK).collect();
        let chunks = chunks.into_par_iter().map(|first| {
            let jobs = first..all.min(start + round).min(first + CHUNK);
            let images = jobs.clone().map(picture).collect::<Result<Vec<_>>>()?;
            let rows = encoder.embed_images(&images)?;
            let items: Vec<Item> = jobs.map(|job| items[job / views].clone()).collect();
            encoder.check(&rows, &items)?;
            Ok(rows)
        });
        for chunk in chunks.collect::<Result<Vec<_>>>()? {
            data.extend(chunk);
        }
    }
    progress(Progress::Encoding { done: all, all });
    Ok(Features {
        views,
        embedding,
        data,
    })
}

/// torchvision's RandomResizedCrop with the model's filter, and RandomHorizontalFlip: a part with a
/// random share of the area and a ratio of its sides in 3/4..4/3, scaled to the model's square.
fn augment(
    image: RgbImage,
    rule: &PreprocessConfig,
    options: &PromptOptions,
    dice: &mut Dice,
) -> Result<RgbImage> {
    let (left, top, width, height) = crop(image.width, image.height, options.crop, dice);
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
    let part = RgbImage::new(width, height, data)?;
    let squash = PreprocessConfig {
        resize: Resize::Squash,
        ..rule.clone()
    };
    let mut square = preprocess(&squash, &part)?;
    if options.flip && dice.chance(0.5) {
        for row in square.data.chunks_exact_mut(rule.size as usize * 3) {
            let (pixels, _) = row.as_chunks_mut::<3>();
            pixels.reverse();
        }
    }
    Ok(RgbImage::new(square.size, square.size, square.data)?)
}

/// Left, top, width and height, as RandomResizedCrop.get_params draws them: ten attempts, then the
/// largest part in the middle whose ratio is allowed.
fn crop(width: u32, height: u32, least: f32, dice: &mut Dice) -> (u32, u32, u32, u32) {
    let area = f64::from(width) * f64::from(height);
    let (narrow, wide) = (0.75f64, 4.0f64 / 3.0);
    for _ in 0..10 {
        let target = area * f64::from(dice.range(least, 1.0));
        let logarithm = dice.range(narrow.ln() as f32, wide.ln() as f32);
        let ratio = f64::from(logarithm).exp();
        let (w, h) = (
            (target * ratio).sqrt().round(),
            (target / ratio).sqrt().round(),
        );
        if w >= 1.0 && w <= f64::from(width) && h >= 1.0 && h <= f64::from(height) {
            let (w, h) = (w as u32, h as u32);
            let top = dice.below((height - h + 1) as usize) as u32;
            return (dice.below((width - w + 1) as usize) as u32, top, w, h);
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

    #[test]
    fn crops_stay_inside_and_vary() {
        let mut dice = Dice::new(1, 0);
        let (mut shares, mut least, mut most) = (Vec::new(), f64::MAX, 0f64);
        for _ in 0..2000 {
            let (left, top, w, h) = crop(200, 100, 0.08, &mut dice);
            assert!(w > 0 && h > 0 && left + w <= 200 && top + h <= 100);
            shares.push(f64::from(w * h) / 20_000.0);
            let ratio = f64::from(w) / f64::from(h);
            (least, most) = (least.min(ratio), most.max(ratio));
        }
        assert!(
            least > 0.7 && least < 0.8 && most > 1.25 && most < 1.4,
            "{least} {most}"
        );
        let smallest = shares.iter().copied().fold(1.0, f64::min);
        assert!((0.07..0.1).contains(&smallest), "{smallest}");
        // No part of a thread is within the ratios but the middle of it.
        assert_eq!(crop(1, 1000, 0.9, &mut dice), (0, 499, 1, 1));
        assert_eq!(crop(1000, 1, 0.9, &mut dice), (499, 0, 1, 1));
    }

    #[test]
    fn a_view_is_the_part_scaled_and_perhaps_mirrored() {
        let data: Vec<u8> = (0..48u8 * 4).collect();
        let image = RgbImage::new(8, 8, data).unwrap();
        let rule = PreprocessConfig::openai(8);
        let options = PromptOptions {
            crop: 1.0,
            ..PromptOptions::coop(1, 1)
        };
        let mut whole = [0, 0];
        for index in 0..40 {
            // With the whole area only a ratio of 1 fits, which ten attempts hardly ever find.
            let view = augment(image.clone(), &rule, &options, &mut Dice::new(9, index)).unwrap();
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
