//! The numbers of a cache head (Tip-Adapter): given, or searched on labelled images.

use anyhow::{Result, bail, ensure};
use pinhole::internal::CalibrationLabel;
use pinhole_bundle::{CacheInfo, CacheTerms, Head, HeadForm};
use pinhole_model::ExampleCache;
use rayon::prelude::*;

use crate::images::CalibrationImages;

/// The reference's values before its search, which the cache has while none are known.
const INITIAL: CacheInfo = CacheInfo {
    alpha: 1.0,
    beta: 5.5,
};
/// Values of alpha and of beta that the reference's configurations search, from 0.1 and below the end.
const ALPHA: (usize, f32) = (20, 3.0);
const BETA: (usize, f32) = (200, 7.0);
/// Images that the search uses at most, evenly spaced.
const MAX_IMAGES: usize = 512;
/// Least number of images of classes to search on.
const MIN_IMAGES: usize = 8;

/// Checks that the numbers are given, or that there are images to search them on.
///
/// # Errors
/// Neither.
pub(crate) fn check(cache: &ExampleCache, images: &CalibrationImages) -> Result<()> {
    let given = cache.alpha.is_some() && cache.beta.is_some();
    let known = |label: &&CalibrationLabel| matches!(label, CalibrationLabel::Class(_));
    let labelled = images
        .labels()
        .map_or(0, |l| l.iter().filter(known).count());
    ensure!(
        given || labelled >= MIN_IMAGES,
        "--learned: the files of Tip-Adapter do not state alpha and beta: expected --method-option alpha=VALUE and \
         --method-option beta=VALUE, or --calibration with at least {MIN_IMAGES} images in folders named after the \
         classes, better other ones than the examples, found {labelled}"
    );
    Ok(())
}

/// The numbers as given, else the initial ones.
pub(crate) fn initial(cache: &ExampleCache) -> CacheInfo {
    CacheInfo {
        alpha: cache.alpha.unwrap_or(INITIAL.alpha),
        beta: cache.beta.unwrap_or(INITIAL.beta),
    }
}

/// Gives a head of class embeddings the cache with these numbers.
pub(crate) fn set(head: &mut Head, cache: &ExampleCache, info: CacheInfo, logit_scale: f32) {
    head.form = HeadForm::Cache(CacheTerms {
        keys: cache.keys.data.clone(),
        labels: cache.labels.clone(),
        weight: info.alpha / logit_scale,
        sharpness: info.beta,
    });
}

/// The numbers with which most of the labelled images are classified correctly, the first of them in the order of the
/// reference (`search_hp` of utils.py). What is given stays.
///
/// # Errors
/// A head without a cache.
pub(crate) fn search(
    head: &Head,
    cache: &ExampleCache,
    embeddings: &[Vec<f32>],
    labels: &[CalibrationLabel],
    logit_scale: f32,
) -> Result<CacheInfo> {
    let HeadForm::Cache(terms) = &head.form else {
        bail!("expected a head with a cache");
    };
    let plain = Head {
        form: HeadForm::ClassEmbeddings,
        ..head.clone()
    };
    let labelled: Vec<(&[f32], usize)> = (embeddings.iter().zip(labels))
        .filter_map(|(embedding, label)| match label {
            CalibrationLabel::Class(class) => Some((embedding.as_slice(), *class)),
            CalibrationLabel::Unknown => None,
        })
        .collect();
    let step = labelled.len().div_ceil(MAX_IMAGES).max(1);
    let images: Vec<(Vec<f32>, Vec<f32>, usize)> = (labelled.par_iter().step_by(step))
        .map(|(embedding, class)| {
            let affinities = terms.affinities(embedding);
            (plain.similarities(embedding), affinities, *class)
        })
        .collect();
    let values = |given: Option<f32>, (steps, end): (usize, f32)| match given {
        Some(value) => vec![value],
        None => {
            let step = (end - 0.1) / steps as f32;
            (0..steps).map(|i| i as f32 * step + 0.1).collect()
        }
    };
    let (alphas, betas) = (values(cache.alpha, ALPHA), values(cache.beta, BETA));
    // (correct answers, alpha) of each beta.
    let found: Vec<(usize, f32)> = (betas.par_iter())
        .map(|&beta| {
            let unit = CacheTerms {
                keys: vec![],
                labels: terms.labels.clone(),
                weight: 1.0 / logit_scale,
                sharpness: beta,
            };
            let sums: Vec<Vec<f32>> = (images.iter())
                .map(|(similarities, affinities, _)| {
                    let mut sums = vec![0.0; similarities.len()];
                    unit.add(affinities, &mut sums);
                    sums
                })
                .collect();
            first_best(alphas.iter().map(|&alpha| {
                let right = images
                    .iter()
                    .zip(&sums)
                    .filter(|((similarities, _, class), sums)| {
                        let all = similarities.iter().zip(*sums);
                        best(all.map(|(similarity, sum)| similarity + alpha * sum)) == Some(*class)
                    });
                (right.count(), alpha)
            }))
        })
        .collect();
    let (_, (alpha, beta)) = first_best(
        (found.iter().zip(&betas)).map(|((right, alpha), beta)| (*right, (*alpha, *beta))),
    );
    Ok(CacheInfo { alpha, beta })
}

/// The first with the most correct answers.
fn first_best<T: Default>(candidates: impl Iterator<Item = (usize, T)>) -> (usize, T) {
    let better = |best: (usize, T), next: (usize, T)| if next.0 > best.0 { next } else { best };
    candidates.reduce(better).unwrap_or_default()
}

/// The first of the greatest values.
fn best(values: impl Iterator<Item = f32>) -> Option<usize> {
    let pairs = values.enumerate();
    pairs
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinhole_model::Tensor;

    /// If this fails, the search takes other values than the reference's, or ignores what is given.
    #[test]
    fn the_search_takes_the_first_best_values() {
        // The class embeddings say class 0 for everything; the cache knows class 1's example.
        let head = |form| Head {
            classes: 2,
            embedding_size: 2,
            class_embeddings: vec![0.6, 0.8, 0.0, 1.0],
            form,
            ..Head::default()
        };
        let mut cache = ExampleCache {
            keys: Tensor {
                shape: vec![2, 2],
                data: vec![0.6, 0.8, 1.0, 0.0],
            },
            labels: vec![0, 1],
            classes: 2,
            alpha: None,
            beta: None,
        };
        let mut with_cache = head(HeadForm::ClassEmbeddings);
        set(&mut with_cache, &cache, INITIAL, 1.0);
        let embeddings = [vec![1.0, 0.0], vec![0.6, 0.8]];
        let labels = [CalibrationLabel::Class(1), CalibrationLabel::Class(0)];
        let right = |info: CacheInfo| {
            let mut head = with_cache.clone();
            set(&mut head, &cache, info, 1.0);
            (embeddings.iter().zip([1, 0]))
                .filter(|(e, class)| best(head.similarities(e).into_iter()) == Some(*class))
                .count()
        };
        let found = search(&with_cache, &cache, &embeddings, &labels, 1.0).unwrap();
        assert_eq!(right(found), 2);
        assert_eq!(
            right(CacheInfo {
                alpha: 0.1,
                beta: 0.1
            }),
            1
        );
        // Every value before it in the order of the reference is worse.
        let earlier = (0..200).map(|i| i as f32 * (7.0 - 0.1) / 200.0 + 0.1);
        for beta in earlier.take_while(|beta| *beta < found.beta - 1e-4) {
            for i in 0..20 {
                let alpha = i as f32 * (3.0 - 0.1) / 20.0 + 0.1;
                assert!(right(CacheInfo { alpha, beta }) < 2, "{alpha} {beta}");
            }
        }
        cache.alpha = Some(0.5);
        let given = search(&with_cache, &cache, &embeddings, &labels, 1.0).unwrap();
        assert_eq!(given.alpha, 0.5);
    }
}
