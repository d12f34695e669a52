//! The numbers of a cache head (Tip-Adapter): given, or searched on labelled images.

use anyhow::{Context, Result, ensure};
use pinhole::internal::CalibrationLabel;
use pinhole_bundle::{CacheInfo, CacheTerms, Head, HeadForm, INITIAL_CACHE, search_cache};
use pinhole_model::ExampleCache;

use crate::images::CalibrationImages;

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
        "--learned: this file of Tip-Adapter does not state alpha and beta: expected --method-option alpha=VALUE and \
         --method-option beta=VALUE, or --calibration with at least {MIN_IMAGES} images in folders named after the \
         classes, better other ones than the examples, found {labelled}"
    );
    Ok(())
}

/// The numbers as given, else the initial ones.
pub(crate) fn initial(cache: &ExampleCache) -> CacheInfo {
    CacheInfo {
        alpha: cache.alpha.unwrap_or(INITIAL_CACHE.alpha),
        beta: cache.beta.unwrap_or(INITIAL_CACHE.beta),
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

/// The numbers with which most of the labelled images are classified correctly ([`search_cache`]).
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
    let labelled: Vec<(&[f32], usize)> = (embeddings.iter().zip(labels))
        .filter_map(|(embedding, label)| match label {
            CalibrationLabel::Class(class) => Some((embedding.as_slice(), *class)),
            CalibrationLabel::Unknown => None,
        })
        .collect();
    search_cache(head, [cache.alpha, cache.beta], &labelled, logit_scale)
        .context("expected a head with a cache")
}
