//! Learned prompts compared with CoOp's and CoCoOp's formulas in PyTorch.

use std::collections::BTreeMap;

use pinhole_prompts::{Conditional, Error, Tokenizer, learned_embeddings};

use crate::common::Golden;

/// Largest difference of a logit, at a logit scale of 100.
const TOLERANCE: f32 = 0.002;

/// The logits [images][classes] of each case.
fn logits(golden: &Golden) -> BTreeMap<String, Vec<Vec<f32>>> {
    serde_json::from_value(golden.json["logits"].clone()).unwrap()
}

fn logit(golden: &Golden, class: &[f32], image: &[f32]) -> f32 {
    let dot: f32 = class.iter().zip(image).map(|(c, f)| c * f).sum();
    golden.json["logit_scale"].as_f64().unwrap() as f32 * dot
}

#[test]
fn coop_in_every_form_equals_the_reference() {
    let golden = Golden::read();
    let (encoder, classes, images) = (golden.encoder(), golden.classes(), golden.features());
    let mut cases = 0;
    for (case, expected) in logits(&golden) {
        let Some((context, position)) = case.split_once('-') else {
            continue;
        };
        let (learner, tokenizer) = (golden.coop(context), Tokenizer::new());
        let position = position.parse().unwrap();
        let found = learned_embeddings(
            &encoder,
            &tokenizer,
            &classes,
            &learner,
            position,
            &mut |_, _| {},
        )
        .unwrap();
        for (image, expected) in images.iter().zip(&expected) {
            for (class, expected) in found.data.chunks(found.dim).zip(expected) {
                let logit = logit(&golden, class, image);
                assert!(
                    (logit - expected).abs() <= TOLERANCE,
                    "{case}: {logit} for {expected}"
                );
            }
        }
        cases += 1;
    }
    assert_eq!(cases, 6, "unified and class-specific, at each position");
}

#[test]
fn cocoop_equals_the_reference() {
    let golden = Golden::read();
    let (encoder, classes) = (golden.encoder(), golden.classes());
    let conditional =
        Conditional::new(&encoder, &Tokenizer::new(), &classes, &golden.cocoop()).unwrap();
    for (image, expected) in golden
        .features()
        .iter()
        .zip(&logits(&golden)["conditional"])
    {
        let found = conditional.exact(&encoder, image, None).unwrap();
        let similarities = conditional.similarities(&encoder, image, None).unwrap();
        assert_eq!(found.len(), expected.len() * image.len());
        for (i, class) in found.chunks(image.len()).enumerate() {
            let logit = logit(&golden, class, image);
            let apart = (logit - expected[i]).abs();
            assert!(apart <= TOLERANCE, "{logit} for {}", expected[i]);
            assert!((logit - 100.0 * similarities[i]).abs() < 1e-4);
        }
        // A subset of the classes, in another order.
        let some = conditional
            .exact(&encoder, image, Some(&[4, 0, 4]))
            .unwrap();
        let (first, fourth) = (
            &found[..image.len()],
            &found[4 * image.len()..][..image.len()],
        );
        assert_eq!(some, [fourth, first, fourth].concat());
        assert!(
            conditional
                .exact(&encoder, image, Some(&[]))
                .unwrap()
                .is_empty()
        );
    }
    // The golden file holds only the rows of the prompts' tokens and of CoOp's "X".
    let ids = conditional.token_ids();
    assert!(
        ids.is_sorted() && !ids.contains(&343) && ids.len() == 19,
        "{ids:?}"
    );
}

#[test]
fn an_encoder_without_the_tokens_of_a_class_is_an_error() {
    let golden = Golden::read();
    let encoder = golden.encoder();
    let classes = pinhole_prompts::Classes::new(["cat", "tractor"]).unwrap();
    let error = Conditional::new(&encoder, &Tokenizer::new(), &classes, &golden.cocoop());
    let error = error.unwrap_err();
    assert!(
        matches!(error, Error::TokenNotHere { tokens: 20, .. }),
        "{error}"
    );
}
