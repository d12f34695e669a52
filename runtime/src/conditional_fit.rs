//! Fitting the approximations of a conditional head.

use std::collections::BTreeMap;

use pinhole_bundle::{ConditionalInfo, Head};
use pinhole_kernels::l2_normalize;
use pinhole_model::{Agreement, PromptLearner, Tensor};
use pinhole_prompts::conditional::{FitOptions, LinearHead, fidelity, fit};
use pinhole_prompts::{Classes, Conditional, TextEncoder, Tokenizer};

use crate::Error;

/// Candidate lengths of the shortlist.
const SHORTLISTS: [usize; 5] = [3, 5, 10, 20, 50];
/// Top-1 agreement with mode `exact` from which a shortlist is long enough.
const SHORTLIST_AGREEMENT: f32 = 0.999;
/// Maximum number of images to fit to, and to compare on. Each costs one run of the text encoder over all classes.
const MAX_IMAGES: usize = 512;

/// Fits the approximations of a conditional head for `classes` to calibration images, given by their L2-normalised
/// `embeddings` `[N, D]`, and measures their agreement with mode `exact`.
///
/// Every fourth image is held out for the comparison; with fewer than 8 images, all are used for both. At most 512 images
/// are used for each, evenly spaced. Runs in rayon's current pool; `progress` gets the number of images done and in
/// total.
///
/// # Errors
/// [`Error::Text`] for a prompt learner that does not fit the text encoder, or without images.
pub fn fit_conditional(
    text_encoder: &TextEncoder,
    classes: &Classes,
    learner: &PromptLearner,
    embeddings: &[f32],
    logit_scale: f32,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Head, ConditionalInfo), Error> {
    let conditional = Conditional::new(text_encoder, &Tokenizer::new(), classes, learner)?;
    let dim = text_encoder.embedding();
    let images: Vec<&[f32]> = embeddings.chunks_exact(dim).collect();
    let (fitted, compared): (Vec<_>, Vec<_>) = match images.len() {
        0..8 => (images.clone(), images),
        _ => {
            let held_out = |i: &usize| i % 4 == 3;
            let select = |want: bool| {
                let picked = (0..images.len()).filter(move |i| held_out(i) == want);
                picked.map(|i| images[i]).collect::<Vec<_>>()
            };
            (select(false), select(true))
        }
    };
    let (fitted, compared) = (
        evenly_spaced(fitted, MAX_IMAGES),
        evenly_spaced(compared, MAX_IMAGES),
    );
    let (first, second) = (fitted.len() / dim, compared.len() / dim);
    let all = first + second;
    let mut at_fit = |done, _: usize| progress(done, all);
    let found = fit(
        &conditional,
        text_encoder,
        &fitted,
        FitOptions::default(),
        &mut at_fit,
    )?;
    let count = classes.names().len();
    let linear = LinearHead::new(&found.terms, count, conditional.hidden_len())?;
    let mut lengths: Vec<usize> = SHORTLISTS.into_iter().filter(|&k| k < count).collect();
    if lengths.is_empty() {
        lengths.push(count);
    }
    let mut at_compare = |done, _: usize| progress(first + done, all);
    let compared = fidelity(
        &conditional,
        text_encoder,
        &linear,
        &compared,
        logit_scale,
        &lengths,
        &mut at_compare,
    )?;
    let enough = |(_, agreement): &&(usize, Agreement)| agreement.top1 >= SHORTLIST_AGREEMENT;
    let lists = &compared.shortlists;
    let (length, shortlist) = match lists.iter().find(enough).or(lists.last()) {
        Some(&(length, agreement)) => (length, agreement),
        None => (count, compared.linear),
    };
    let info = ConditionalInfo {
        fitted_images: first,
        compared_images: compared.images,
        movement: found.movement,
        linear: compared.linear,
        shortlist_length: length,
        shortlist,
    };

    let mut class_embeddings = found.terms.class_embeddings.data.clone();
    class_embeddings
        .chunks_exact_mut(dim)
        .for_each(l2_normalize);
    let mut learned: BTreeMap<String, Tensor> = (found.terms.tensors().into_iter())
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    learned.insert("context".into(), learner.context.clone());
    if let Some(net) = &learner.meta_net {
        for (name, tensor) in [
            ("linear1.weight", &net.linear1_weight),
            ("linear1.bias", &net.linear1_bias),
            ("linear2.weight", &net.linear2_weight),
            ("linear2.bias", &net.linear2_bias),
        ] {
            learned.insert(format!("meta_net.{name}"), tensor.clone());
        }
    }
    let head = Head {
        classes: count,
        embedding_size: dim,
        class_embeddings,
        learned,
        ..Head::default()
    };
    Ok((head, info))
}

/// At most `max` of the rows, evenly spaced, concatenated.
fn evenly_spaced(rows: Vec<&[f32]>, max: usize) -> Vec<f32> {
    let step = rows.len().div_ceil(max).max(1);
    rows.into_iter().step_by(step).flatten().copied().collect()
}
