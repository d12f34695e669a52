//! The text encoder compared with reference loops and with embeddings of open_clip.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pinhole_checkpoint::{Checkpoint, OpenOptions};
use pinhole_model::{Activation, Tensor, TextEncoderConfig as Config};
use pinhole_prompts::{
    Classes, Error, Prefix, Templates, TextEncoder, Tokenizer, Weight, class_embeddings,
};

const EMBEDDING: usize = 12;

type Weights = BTreeMap<String, Tensor>;

fn config(vocabulary: usize, layers: usize) -> Config {
    Config {
        context_length: 16,
        vocabulary,
        width: 24,
        layers,
        heads: 3,
        form: Default::default(),
    }
}

/// Pseudo-random weights, by their names in open_clip.
fn weights(config: &Config) -> Weights {
    let (w, mut state) = (config.width, 1u32);
    let mut shapes = vec![
        (
            "token_embedding.weight".to_string(),
            vec![config.vocabulary, w],
        ),
        (
            "positional_embedding".to_string(),
            vec![config.context_length, w],
        ),
        ("ln_final.weight".to_string(), vec![w]),
        ("ln_final.bias".to_string(), vec![w]),
        ("text_projection".to_string(), vec![w, EMBEDDING]),
    ];
    for i in 0..config.layers {
        let layers: [(&str, Vec<usize>); 6] = [
            ("ln_1", vec![w]),
            ("attn.in_proj_", vec![3 * w, w]),
            ("attn.out_proj", vec![w, w]),
            ("ln_2", vec![w]),
            ("mlp.c_fc", vec![4 * w, w]),
            ("mlp.c_proj", vec![w, 4 * w]),
        ];
        for (layer, shape) in layers {
            let dot = if layer.ends_with('_') { "" } else { "." };
            let name = format!("transformer.resblocks.{i}.{layer}{dot}");
            shapes.push((format!("{name}bias"), vec![shape[0]]));
            shapes.push((format!("{name}weight"), shape));
        }
    }
    let mut value = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let data = (0..shape.iter().product()).map(|_| value()).collect();
        (name, Tensor { shape, data })
    };
    shapes.into_iter().map(tensor).collect()
}

fn encoder(
    config: &Config,
    activation: Activation,
    weights: &Weights,
) -> Result<TextEncoder, Error> {
    let tensor = |name: &str| {
        Ok(weights
            .get(name)
            .unwrap_or_else(|| panic!("{name}"))
            .clone())
    };
    TextEncoder::new(config.clone(), EMBEDDING, activation, tensor)
}

/// The tensor as in an int8 bundle.
fn int8(name: &str, tensor: Tensor) -> Weight {
    match TextEncoder::takes_int8(name) {
        true => Weight::int8(name, &tensor).unwrap(),
        false => Weight::F32(tensor),
    }
}

fn int8_encoder(config: &Config, activation: Activation, weights: &Weights) -> TextEncoder {
    let tensor = |name: &str| Ok(int8(name, weights[name].clone()));
    TextEncoder::new(config.clone(), EMBEDDING, activation, tensor).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// open_clip's `encode_text` as plain loops in f64, over all positions including padding.
fn reference(
    config: &Config,
    activation: Activation,
    weights: &Weights,
    tokens: &[u32],
) -> Vec<f64> {
    let w = config.width;
    let get = |name: &str| &weights[name].data;
    let linear = |x: &[f64], name: &str, n: usize| -> Vec<f64> {
        let (weight, bias) = (get(&format!("{name}weight")), get(&format!("{name}bias")));
        let dot = |o: usize| {
            x.iter()
                .zip(&weight[o * x.len()..])
                .map(|(x, w)| x * *w as f64)
        };
        (0..n)
            .map(|o| dot(o).sum::<f64>() + bias[o] as f64)
            .collect()
    };
    let norm = |x: &[f64], name: &str| -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / w as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / w as f64;
        let (gain, bias) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        let scale = 1.0 / (variance + 1e-5).sqrt();
        (0..w)
            .map(|i| (x[i] - mean) * scale * gain[i] as f64 + bias[i] as f64)
            .collect()
    };
    let activate = |x: f64| match activation {
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Activation::Gelu => {
            // x Φ(x), with the Taylor series of the normal distribution.
            let (mut term, mut sum) = (x, x);
            for k in 1..200 {
                term *= -x * x / (2.0 * k as f64);
                sum += term / (2 * k + 1) as f64;
            }
            x * (0.5 + sum / (2.0 * std::f64::consts::PI).sqrt())
        }
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            x / 2.0 * (1.0 + u.tanh())
        }
    };
    let embedding = get("token_embedding.weight");
    let positions = get("positional_embedding");
    let mut x: Vec<Vec<f64>> = (0..tokens.len())
        .map(|t| {
            let row = tokens[t] as usize * w;
            (0..w)
                .map(|i| (embedding[row + i] + positions[t * w + i]) as f64)
                .collect()
        })
        .collect();
    for block in 0..config.layers {
        let name = format!("transformer.resblocks.{block}");
        let qkv: Vec<Vec<f64>> = x
            .iter()
            .map(|x| {
                linear(
                    &norm(x, &format!("{name}.ln_1")),
                    &format!("{name}.attn.in_proj_"),
                    3 * w,
                )
            })
            .collect();
        let head_width = w / config.heads;
        for t in 0..x.len() {
            let mut mixed = vec![0.0; w];
            for head in 0..config.heads {
                let at = head * head_width;
                let score = |s: usize| {
                    let dot = (at..at + head_width)
                        .map(|i| qkv[t][i] * qkv[s][w + i])
                        .sum::<f64>();
                    (dot / (head_width as f64).sqrt()).exp()
                };
                let scores: Vec<f64> = (0..=t).map(score).collect();
                for i in at..at + head_width {
                    let sum = (0..=t).map(|s| scores[s] * qkv[s][2 * w + i]).sum::<f64>();
                    mixed[i] = sum / scores.iter().sum::<f64>();
                }
            }
            let out = linear(&mixed, &format!("{name}.attn.out_proj."), w);
            x[t].iter_mut().zip(out).for_each(|(x, out)| *x += out);
        }
        for x in &mut x {
            let normed = norm(x, &format!("{name}.ln_2"));
            let hidden = linear(&normed, &format!("{name}.mlp.c_fc."), 4 * w);
            let hidden: Vec<f64> = hidden.into_iter().map(activate).collect();
            let out = linear(&hidden, &format!("{name}.mlp.c_proj."), w);
            x.iter_mut().zip(out).for_each(|(x, out)| *x += out);
        }
    }
    let end = (0..tokens.len()).rev().max_by_key(|&t| tokens[t]).unwrap();
    let normed = norm(&x[end], "ln_final");
    let projection = get("text_projection");
    let project = |d: usize| {
        (0..w)
            .map(|i| normed[i] * projection[i * EMBEDDING + d] as f64)
            .sum()
    };
    let out: Vec<f64> = (0..EMBEDDING).map(project).collect();
    let length = out.iter().map(|v| v * v).sum::<f64>().sqrt();
    out.into_iter().map(|v| v / length).collect()
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        assert!(
            (*f as f64 - e).abs() < 1e-5,
            "{what}: {found:?} for {expected:?}"
        );
    }
}

#[test]
fn encoder_equals_reference_loops() {
    let texts: [&[u32]; 5] = [
        &[38, 39],
        &[39],
        &[38, 1, 2, 3, 39, 0, 0, 0],
        &[38, 5, 39, 5, 39, 1],
        &[38, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 39],
    ];
    for activation in [Activation::QuickGelu, Activation::Gelu] {
        for layers in [1, 3] {
            let config = config(40, layers);
            let weights = weights(&config);
            let encoder = encoder(&config, activation, &weights).unwrap();
            let together = encoder.embed_batch(&texts).unwrap();
            for (text, batched) in texts.into_iter().zip(together.chunks(EMBEDDING)) {
                let what = format!("{activation:?}, {layers} layers, {text:?}");
                let expected = reference(&config, activation, &weights, text);
                assert_close(&encoder.embed_tokens(text).unwrap(), &expected, &what);
                assert_close(batched, &expected, &what);
            }
            let rows = encoder.token_rows(&[38, 5, 39]).unwrap();
            let by_rows = encoder.embed_rows(&rows).unwrap();
            assert_eq!(by_rows, encoder.embed_tokens(&[38, 5, 39]).unwrap());
        }
    }
}

/// The token rows of the texts, one text after the other, and the numbers of tokens.
fn joined(encoder: &TextEncoder, texts: &[Vec<u32>]) -> (Vec<f32>, Vec<usize>) {
    let rows = texts.iter().map(|text| encoder.token_rows(text).unwrap());
    (
        rows.collect::<Vec<_>>().concat(),
        texts.iter().map(Vec::len).collect(),
    )
}

#[test]
fn texts_after_a_prefix_equal_whole_texts() {
    for layers in [1, 3] {
        let config = config(40, layers);
        let weights = weights(&config);
        let quick = Activation::QuickGelu;
        let encoder = encoder(&config, quick, &weights).unwrap();
        let start: [u32; 5] = [38, 7, 8, 9, 10];
        let ends: Vec<Vec<u32>> = vec![
            vec![3, 39],
            vec![39],
            vec![1, 2, 3, 4, 5, 6, 0, 39],
            vec![9, 39],
        ];
        let (rows, lengths) = joined(&encoder, &ends);
        let prefix = |tokens: &[u32], after: Option<&Prefix>| {
            let rows = encoder.token_rows(tokens).unwrap();
            encoder.prefix(&rows, after).unwrap()
        };
        let whole = prefix(&start, None);
        // Without a prefix, and with the shared rows split in two.
        for split in 0..=5 {
            let before = (split > 0).then(|| prefix(&start[..split], None));
            let trunk = encoder.token_rows(&start[split..]).unwrap();
            let found = encoder
                .embed_branches(before.as_ref(), &trunk, &rows, &lengths)
                .unwrap();
            assert_eq!(
                found,
                encoder.embed_after(Some(&whole), &rows, &lengths).unwrap()
            );
        }
        let parts = prefix(
            &start[3..],
            Some(&prefix(&start[1..3], Some(&prefix(&start[..1], None)))),
        );
        for prefix in [whole, parts] {
            assert_eq!(prefix.rows(), 5);
            let found = encoder.embed_after(Some(&prefix), &rows, &lengths).unwrap();
            for (end, found) in ends.iter().zip(found.chunks(EMBEDDING)) {
                let text = [&start[..], end].concat();
                let expected = reference(&config, quick, &weights, &text);
                assert_close(found, &expected, &format!("{layers} layers, {text:?}"));
            }
        }
    }
}

#[test]
fn results_are_bit_identical_for_any_number_of_threads() {
    let config = config(40, 2);
    let weights = weights(&config);
    assert_bit_identical_for_any_number_of_threads(
        &encoder(&config, Activation::Gelu, &weights).unwrap(),
    );
    assert_bit_identical_for_any_number_of_threads(&int8_encoder(
        &config,
        Activation::Gelu,
        &weights,
    ));
}

fn assert_bit_identical_for_any_number_of_threads(encoder: &TextEncoder) {
    let prefix = encoder
        .prefix(&encoder.token_rows(&[38, 7, 8]).unwrap(), None)
        .unwrap();
    // More rows than one batch, and enough for several threads.
    let texts: Vec<Vec<u32>> = (0..500u32)
        .map(|i| {
            (0..i % 7)
                .map(|j| (i * 3 + j * 5) % 38)
                .chain([39])
                .collect()
        })
        .collect();
    let (rows, lengths) = joined(encoder, &texts);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let both = || {
            let behind = encoder.embed_after(Some(&prefix), &rows, &lengths).unwrap();
            let trunk = encoder.token_rows(&[38, 7, 8]).unwrap();
            let branches = encoder
                .embed_branches(None, &trunk, &rows, &lengths)
                .unwrap();
            assert_eq!(branches, behind);
            (behind, encoder.embed_batch(&texts).unwrap())
        };
        pool.install(both)
    };
    let (behind, alone) = on(1);
    for threads in [2, 3] {
        assert!(
            (&behind, &alone) == (&on(threads).0, &on(threads).1),
            "{threads} threads"
        );
    }
    // Nor do they depend on the other texts.
    let last = encoder.embed_after(Some(&prefix), &rows[rows.len() - 24 * 3..], &[3]);
    assert_eq!(lengths[499], 3);
    assert_eq!(last.unwrap(), behind[499 * EMBEDDING..]);
    for (text, batched) in texts.iter().zip(alone.chunks(EMBEDDING)).take(20) {
        assert_eq!(encoder.embed_tokens(text).unwrap(), batched, "{text:?}");
    }
}

#[test]
fn int8_is_close_to_f32() {
    for layers in [1, 3] {
        let config = config(40, layers);
        let mut weights = weights(&config);
        // Output channels of very different magnitude, so that each needs its own scale.
        for (name, tensor) in &mut weights {
            if TextEncoder::takes_int8(name) {
                let inputs = tensor.shape[1];
                for (i, row) in tensor.data.chunks_exact_mut(inputs).enumerate() {
                    let factor = [0.02, 1.0, 0.3][i % 3];
                    row.iter_mut().for_each(|v| *v *= factor);
                }
            }
        }
        let quick = Activation::QuickGelu;
        let exact = encoder(&config, quick, &weights).unwrap();
        let found = int8_encoder(&config, quick, &weights);
        let flat = |name: &str| {
            Ok(match int8(name, weights[name].clone()) {
                Weight::Int8 { weight, mut scales } => {
                    let mean = scales.data.iter().sum::<f32>() / scales.data.len() as f32;
                    scales.data.fill(mean);
                    Weight::Int8 { weight, scales }
                }
                floats => floats,
            })
        };
        let flat = TextEncoder::new(config.clone(), EMBEDDING, quick, flat).unwrap();
        let texts: Vec<Vec<u32>> = (0..40)
            .map(|i| vec![38, i % 38, (7 * i) % 38, 39])
            .collect();
        let worst = |encoder: &TextEncoder| {
            let (a, b) = (
                exact.embed_batch(&texts).unwrap(),
                encoder.embed_batch(&texts).unwrap(),
            );
            let pairs = a.chunks(EMBEDDING).zip(b.chunks(EMBEDDING));
            pairs.map(|(a, b)| cosine(a, b)).fold(1.0, f32::min)
        };
        let (found, flat) = (worst(&found), worst(&flat));
        assert!(found > 0.9998, "{layers} layers: {found}");
        assert!(flat < 0.99, "one scale for all outputs: {flat}");
    }
}

#[test]
fn damaged_int8_tensors_are_refused_by_name() {
    let config = config(40, 2);
    let weights = weights(&config);
    const LAYER: &str = "transformer.resblocks.1.attn.in_proj_weight";
    let build = |at: &str, change: &dyn Fn(&mut Weight)| {
        let tensor = |name: &str| {
            let mut weight = int8(name, weights[name].clone());
            if name == at {
                change(&mut weight);
            }
            Ok(weight)
        };
        let quick = Activation::QuickGelu;
        TextEncoder::new(config.clone(), EMBEDDING, quick, tensor).map(drop)
    };
    build(LAYER, &|_| ()).unwrap();
    let scale = |value: f32| {
        move |weight: &mut Weight| match weight {
            Weight::Int8 { scales, .. } => scales.data[5] = value,
            Weight::F32(_) => panic!("{LAYER} is in integers"),
        }
    };
    let values =
        |change: &dyn Fn(&mut Tensor<i8>, &mut Tensor)| match build(LAYER, &|weight| match weight {
            Weight::Int8 { weight, scales } => change(weight, scales),
            Weight::F32(_) => panic!("{LAYER} is in integers"),
        }) {
            Err(error) => error.to_string(),
            Ok(()) => panic!("accepted"),
        };
    for (value, part) in [
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (0.0, "0 at 5"),
        (-1.0, "-1 at 5"),
    ] {
        let error = build(LAYER, &scale(value)).unwrap_err().to_string();
        let named = error.contains(&format!("{LAYER}_scale"));
        assert!(named && error.contains(part), "{error}");
    }
    for (error, part) in [
        // In the rows of the values, after those of the queries.
        (values(&|w, _| w.data[60 * 24 + 3] = -128), "-128"),
        (values(&|w, _| w.data[3] = -128), "output 0, input 3"),
        (values(&|w, _| w.shape = vec![24, 72]), "[72, 24]"),
        (values(&|w, _| w.data.truncate(9)), "[72, 24]"),
        (values(&|_, s| s.data.truncate(71)), "_scale"),
        (values(&|_, s| s.shape = vec![72, 1]), "_scale"),
    ] {
        assert!(error.contains(LAYER) && error.contains(part), "{error}");
    }
    for name in [
        "ln_final.weight",
        "text_projection",
        "token_embedding.weight",
    ] {
        let error = build(name, &|weight| {
            let matrix = Tensor {
                shape: vec![2, 2],
                data: vec![1.0; 4],
            };
            *weight = Weight::int8(name, &matrix).unwrap();
        });
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("expected floats"),
            "{error}"
        );
    }
    let vector = Tensor {
        shape: vec![4],
        data: vec![1.0; 4],
    };
    assert!(Weight::int8("a.bias", &vector).is_err());
}

#[test]
fn an_encoder_can_be_stored_with_the_tokens_in_use() {
    let config = config(40, 2);
    let weights = weights(&config);
    let quick = Activation::QuickGelu;
    let whole = encoder(&config, quick, &weights).unwrap();
    let ids = vec![0, 7, 38, 39];
    // The tensors of a file, by the list of required tensors.
    let stored: Weights = TextEncoder::tensors(&config, EMBEDDING, ids.len())
        .into_iter()
        .map(|(name, shape)| {
            let data = match name.as_str() {
                "token_embedding.weight" => whole.token_rows(&ids).unwrap(),
                _ => weights[&name].data.clone(),
            };
            (name, Tensor { shape, data })
        })
        .collect();
    assert_eq!(stored.len(), weights.len());
    let build = |ids: Vec<u32>| {
        let tensor = |name: &str| Ok(stored[name].clone());
        TextEncoder::with_token_ids(config.clone(), EMBEDDING, quick, ids, tensor)
    };
    let part = build(ids).unwrap();
    let text = [38, 7, 0, 39];
    assert_eq!(
        part.embed_tokens(&text).unwrap(),
        whole.embed_tokens(&text).unwrap()
    );
    let error = part.embed_tokens(&[38, 8, 39]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TokenNotHere {
                token: 8,
                position: 1,
                tokens: 4
            }
        ),
        "{error}"
    );
    assert!(matches!(
        part.token_rows(&[40]),
        Err(Error::UnknownToken { .. })
    ));
    assert!(matches!(
        build(vec![0, 7, 7, 39]),
        Err(Error::TokenIds {
            id: 7,
            index: 2,
            ..
        })
    ));
    assert!(matches!(
        build(vec![0, 7, 38, 40]),
        Err(Error::TokenIds {
            id: 40,
            index: 3,
            ..
        })
    ));
    let error = build(vec![0, 7]).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}

#[test]
fn rows_that_do_not_fit_after_a_prefix_are_refused() {
    let config = config(40, 2);
    let weights = weights(&config);
    let encoder = encoder(&config, Activation::QuickGelu, &weights).unwrap();
    let rows = |count: usize| vec![0.1; count * 24];
    let prefix = encoder.prefix(&rows(15), None).unwrap();
    assert!(encoder.embed_after(Some(&prefix), &rows(1), &[1]).is_ok());
    assert!(
        encoder
            .embed_after(Some(&prefix), &[], &[])
            .unwrap()
            .is_empty()
    );
    let input = |result: Result<Vec<f32>, Error>| match result {
        Err(Error::Input {
            found, expected, ..
        }) => (found, expected),
        other => panic!("{other:?}"),
    };
    let long = input(encoder.embed_after(Some(&prefix), &rows(2), &[2]));
    assert_eq!(long, (2, "1 to 1, as 15 rows come before".to_string()));
    assert_eq!(input(encoder.embed_after(None, &rows(3), &[2, 2])).0, 3);
    assert_eq!(input(encoder.embed_after(None, &rows(2), &[2, 0])).0, 0);
    let more = encoder.prefix(&rows(1), Some(&prefix)).map(|_| vec![]);
    assert_eq!(input(more).0, 1, "no room for a text behind it");
    let trunk = input(encoder.embed_branches(Some(&prefix), &rows(1), &rows(1), &[1]));
    assert_eq!(trunk, (1, "1 to 0, as 16 rows come before".to_string()));
    let none = encoder.prefix(&[], None).map(|_| vec![]);
    assert_eq!(input(none).0, 0);

    let other = Config {
        layers: 1,
        ..config
    };
    let other = self::encoder(&other, Activation::QuickGelu, &weights).unwrap();
    let error = other
        .embed_after(Some(&prefix), &rows(1), &[1])
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Prefix {
                layers: 2,
                expected_layers: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn bad_input_is_refused() {
    let config = config(40, 1);
    let mut weights = weights(&config);
    let quick = Activation::QuickGelu;
    let good = encoder(&config, quick, &weights).unwrap();
    let unknown = good.embed_tokens(&[38, 40]).unwrap_err();
    assert!(matches!(
        unknown,
        Error::UnknownToken {
            token: 40,
            position: 1,
            vocabulary: 40
        }
    ));
    assert!(matches!(
        good.embed_tokens(&[]),
        Err(Error::Input { found: 0, .. })
    ));
    assert!(
        good.embed_tokens(&[5; 17]).is_ok(),
        "read at its first token"
    );
    let long: Vec<u32> = (0..17).collect();
    assert!(matches!(
        good.embed_tokens(&long),
        Err(Error::Input { found: 17, .. })
    ));
    assert!(matches!(
        good.embed_rows(&[0.0; 25]),
        Err(Error::Input { found: 25, .. })
    ));
    assert!(matches!(
        good.embed_rows(&[]),
        Err(Error::Input { found: 0, .. })
    ));

    let odd = Config {
        heads: 5,
        ..config.clone()
    };
    let error = encoder(&odd, quick, &weights).unwrap_err();
    assert!(matches!(
        error,
        Error::Configuration {
            field: "heads",
            found: 5,
            ..
        }
    ));
    let bias = "transformer.resblocks.0.mlp.c_fc.bias";
    weights.get_mut(bias).unwrap().data[3] = f32::NAN;
    let error = encoder(&config, quick, &weights).unwrap_err();
    assert!(
        matches!(&error, Error::NotFinite { tensor, index: 3, .. } if tensor == bias),
        "{error}"
    );
    weights.get_mut(bias).unwrap().data[3] = 0.0;
    weights.get_mut("ln_final.weight").unwrap().data.fill(0.0);
    weights.get_mut("ln_final.bias").unwrap().data.fill(0.0);
    let zero = encoder(&config, quick, &weights).unwrap();
    assert!(matches!(
        zero.embed_tokens(&[1]),
        Err(Error::DegenerateText { text: 0 })
    ));
    weights
        .get_mut("transformer.resblocks.0.ln_2.bias")
        .unwrap()
        .shape = vec![23];
    let message = encoder(&config, quick, &weights).unwrap_err().to_string();
    assert_eq!(
        message,
        "tensor transformer.resblocks.0.ln_2.bias: expected shape [24], found [23]"
    );
}

#[test]
fn class_embeddings_are_normalised_means() {
    let config = config(49408, 1);
    let weights = weights(&config);
    let quick = Activation::QuickGelu;
    let encoder = encoder(&config, quick, &weights).unwrap();
    let tokenizer = Tokenizer::new();
    // More prompts than one batch holds.
    let names: Vec<String> = (0..40).map(|i| format!("class_{i}")).collect();
    let classes = Classes::new(&names).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a {}\nthe {} there\n{}!").unwrap();
    let templates = Templates::read(file.path()).unwrap();
    let mut calls = Vec::new();
    let mut progress = |done, total| calls.push((done, total));
    let found =
        class_embeddings(&encoder, &tokenizer, &classes, &templates, &mut progress).unwrap();
    assert_eq!((calls[0], calls[calls.len() - 1]), ((0, 120), (120, 120)));
    assert!(calls.len() > 2 && calls.is_sorted());
    assert_eq!((&found.classes, found.dim), (&names, EMBEDDING));
    for (i, row) in found.data.chunks(EMBEDDING).enumerate() {
        let mut mean = vec![0.0; EMBEDDING];
        for text in [
            format!("a class {i}"),
            format!("the class {i} there"),
            format!("class {i}!"),
        ] {
            let tokens = tokenizer.tokens(&text, 16).unwrap();
            let embedding = reference(&config, quick, &weights, &tokens);
            mean.iter_mut()
                .zip(embedding)
                .for_each(|(mean, value)| *mean += value);
        }
        let length = mean.iter().map(|v| v * v).sum::<f64>().sqrt();
        mean.iter_mut().for_each(|value| *value /= length);
        assert_close(row, &mean, &names[i]);
    }
    let long = Classes::new([
        "cat",
        "one two three four five six seven eight nine ten eleven twelve thirteen",
    ])
    .unwrap();
    let mut called = false;
    let mut progress = |_, _| called = true;
    let error =
        class_embeddings(&encoder, &tokenizer, &long, &templates, &mut progress).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLong {
                context_length: 16,
                ..
            }
        ) && !called,
        "{error}"
    );
}

/// Models and embeddings by open_clip, from tests/reference/make_models.py.
#[test]
fn embeddings_equal_those_of_open_clip() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    let read = |path: PathBuf| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let cases = [
        ("vit-quickgelu/open-clip", Activation::QuickGelu, 32),
        ("vit-gelu/custom-text", Activation::Gelu, 32),
        ("vit-openai/openai.pt", Activation::QuickGelu, 32),
        ("resnet/open-clip-bin", Activation::QuickGelu, 64),
    ];
    for (model, activation, inputs) in cases {
        let golden = read(models.join(model).parent().unwrap().join("golden.json"));
        let expected: Vec<Vec<f32>> =
            serde_json::from_value(golden["text_embeddings"].clone()).unwrap();
        let inputs = read(models.join(format!("inputs-{inputs}.json")));
        let texts: Vec<Vec<u32>> = serde_json::from_value(inputs["texts"].clone()).unwrap();
        let options = OpenOptions {
            activation: Some(activation),
            ..OpenOptions::default()
        };
        let checkpoint = Checkpoint::open(&models.join(model), &options).unwrap();
        let encoder = TextEncoder::load(&checkpoint).unwrap();
        let found = encoder.embed_batch(&texts).unwrap();
        assert_eq!(expected.len(), texts.len());
        for (found, expected) in found.chunks(encoder.embedding()).zip(&expected) {
            let length = expected.iter().map(|v| v * v).sum::<f32>().sqrt();
            let dot = found.iter().zip(expected).map(|(f, e)| f * e).sum::<f32>();
            assert!(dot / length >= 0.99999, "{model}: cosine {}", dot / length);
        }
        let tensor = |name: &str| Ok(int8(name, checkpoint.tensor(name).unwrap()));
        let (config, embedding) = (encoder.config().clone(), encoder.embedding());
        let integers = TextEncoder::new(config, embedding, activation, tensor).unwrap();
        let integers = integers.embed_batch(&texts).unwrap();
        for (a, b) in integers.chunks(embedding).zip(found.chunks(embedding)) {
            let cosine = cosine(a, b);
            assert!(cosine >= 0.998, "{model}: int8's cosine {cosine}");
        }
    }
}
