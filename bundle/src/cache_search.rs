//! Search of a cache head's numbers (Tip-Adapter) on labelled images.

use rayon::prelude::*;

use crate::{CacheInfo, CacheTerms, Head, HeadForm};

/// Tip-Adapter's values before its search.
pub const INITIAL_CACHE: CacheInfo = CacheInfo {
    alpha: 1.0,
    beta: 5.5,
};
/// Values of alpha and of beta that the reference's configurations search, from 0.1 and below the end.
const ALPHA: (usize, f32) = (20, 3.0);
const BETA: (usize, f32) = (200, 7.0);
/// Images that the search uses at most, evenly spaced.
const MAX_IMAGES: usize = 512;

/// Alpha and beta with which most of the labelled embeddings are classified correctly, the first of them in the order of
/// the reference (`search_hp` of gaopengcuhk/Tip-Adapter, utils.py). What is `given`, [alpha, beta], stays. `None` for a head
/// without a cache.
pub fn search_cache(
    head: &Head,
    given: [Option<f32>; 2],
    images: &[(&[f32], usize)],
    logit_scale: f32,
) -> Option<CacheInfo> {
    let HeadForm::Cache(terms) = &head.form else {
        return None;
    };
    let plain = Head {
        form: HeadForm::ClassEmbeddings,
        ..head.clone()
    };
    let step = images.len().div_ceil(MAX_IMAGES).max(1);
    let images: Vec<(Vec<f32>, Vec<f32>, usize)> = (images.par_iter().step_by(step))
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
    let (alphas, betas) = (values(given[0], ALPHA), values(given[1], BETA));
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
    Some(CacheInfo { alpha, beta })
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

    /// If this fails, the search takes other values than the reference's, or ignores what is given.
    #[test]
    fn the_search_takes_the_first_best_values() {
        // The class embeddings say class 0 for everything; the cache knows class 1's example.
        let head = |info: CacheInfo| Head {
            classes: 2,
            embedding_size: 2,
            class_embeddings: vec![0.6, 0.8, 0.0, 1.0],
            form: HeadForm::Cache(CacheTerms {
                keys: vec![0.6, 0.8, 1.0, 0.0],
                labels: vec![0, 1],
                weight: info.alpha,
                sharpness: info.beta,
            }),
            ..Head::default()
        };
        let images: [(&[f32], usize); 2] = [(&[1.0, 0.0], 1), (&[0.6, 0.8], 0)];
        let right = |info: CacheInfo| {
            let head = head(info);
            (images.iter())
                .filter(|(e, class)| best(head.similarities(e).into_iter()) == Some(*class))
                .count()
        };
        let found = search_cache(&head(INITIAL_CACHE), [None; 2], &images, 1.0).unwrap();
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
        let given = search_cache(&head(INITIAL_CACHE), [Some(0.5), None], &images, 1.0);
        assert_eq!(given.unwrap().alpha, 0.5);
        let plain = Head::default();
        assert_eq!(search_cache(&plain, [None; 2], &images, 1.0), None);
    }
}
