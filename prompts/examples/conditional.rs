//! Times CoCoOp's text side for one image, with random weights of ViT-B's text encoder (12
//! layers, width 512, 8 heads), 4 context vectors and a meta-net of 32 hidden units:
//!
//!     cargo run --release -p pinhole-prompts --example conditional [THREADS] [RUNS]
//!
//! Prints medians in milliseconds: the exact class embeddings of 100 classes, of 5 of them, both also with
//! the text encoder in int8, run in turns with f32, and the similarities of the first-order head with 1,000
//! classes, as large as `FitOptions` allow it.

use std::time::Instant;

use pinhole_model::{Activation, MetaNet, PromptLearner, Tensor, TextEncoderConfig as Config};
use pinhole_prompts::conditional::{FitOptions, LinearHead, LinearTerms};
use pinhole_prompts::{Classes, Conditional, TextEncoder, Tokenizer, Weight};

const EMBEDDING: usize = 512;
const HIDDEN: usize = 32;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() {
    if let Err(error) = run() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |a| a.parse::<usize>());
    let (threads, runs) = (number(2)?, number(15)?.max(1));
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?;
    println!(
        "kernels {}, threads {threads}, medians of {runs} runs",
        pinhole_kernels::chosen()
    );
    pool.install(|| measure(runs))
}

fn measure(runs: usize) -> Result<(), Failure> {
    let config = Config {
        context_length: 77,
        vocabulary: 49408,
        width: 512,
        layers: 12,
        heads: 8,
        form: Default::default(),
    };
    let shapes = TextEncoder::tensors(&config, EMBEDDING, config.vocabulary);
    let build = |int8: bool| {
        let mut seed = 1;
        TextEncoder::new(config.clone(), EMBEDDING, Activation::QuickGelu, |name| {
            seed += 1;
            let shape = shapes.iter().find(|(n, _)| n == name);
            let shape = shape.map_or(vec![], |(_, shape)| shape.clone());
            let centre = f32::from(name.contains("ln_") && name.ends_with("weight"));
            let tensor = random(shape, 0.02, centre, seed);
            match int8 && TextEncoder::takes_int8(name) {
                true => Weight::int8(name, &tensor),
                false => Ok(tensor.into()),
            }
        })
    };
    let (encoder, int8) = (build(false)?, build(true)?);
    let learner = PromptLearner {
        context: random(vec![4, 512], 0.02, 0.0, 3),
        meta_net: Some(MetaNet {
            linear1_weight: random(vec![HIDDEN, EMBEDDING], 0.05, 0.0, 4),
            linear1_bias: random(vec![HIDDEN], 0.05, 0.0, 5),
            linear2_weight: random(vec![512, HIDDEN], 0.1, 0.0, 6),
            linear2_bias: random(vec![512], 0.02, 0.0, 7),
        }),
        class_position: None,
    };
    // Names of two tokens, as most data sets' are: with the full stop and EOT four rows a class.
    let words = "red blue green dark light small big old wild tame";
    let nouns = "cat dog bird fish car boat tree house road bear";
    let names = words
        .split(' ')
        .flat_map(|a| nouns.split(' ').map(move |b| format!("{a} {b}")));
    let classes = Classes::new(names)?;
    let conditional = Conditional::new(&encoder, &Tokenizer::new(), &classes, &learner)?;
    let image = unit(random(vec![EMBEDDING], 1.0, 0.0, 8).data);

    let quantized = Conditional::new(&int8, &Tokenizer::new(), &classes, &learner)?;
    let five = [3, 14, 15, 92, 65];
    for (what, picked) in [("100 classes", None), ("5 of them", Some(&five[..]))] {
        let exact = || conditional.exact(&encoder, &image, picked).map(drop);
        let in_int8 = || quantized.exact(&int8, &image, picked).map(drop);
        let (exact, in_int8) = medians(runs, exact, in_int8)?;
        println!("exact, {what}: {exact:.2}");
        println!("exact in int8, {what}: {in_int8:.2}");
    }

    let (count, r, s) = (1000, 16, FitOptions::default().most_terms / 16);
    let terms = LinearTerms {
        mean: random(vec![HIDDEN], 0.1, 0.1, 9),
        class_embeddings: random(vec![count, EMBEDDING], 0.04, 0.0, 10),
        common: random(vec![HIDDEN, EMBEDDING], 0.01, 0.0, 11),
        directions: random(vec![r, HIDDEN], 0.2, 0.0, 12),
        basis: random(vec![s, EMBEDDING], 0.04, 0.0, 13),
        core: random(vec![count, r, s], 0.01, 0.0, 14),
    };
    let head = LinearHead::new(&terms, count, HIDDEN)?;
    // As on a board, where the image encoder pushes the head out of the cache.
    let others = vec![1u8; 64 << 20];
    let mut times = Vec::with_capacity(runs);
    for _ in 0..=runs {
        std::hint::black_box(
            others
                .iter()
                .step_by(64)
                .fold(0u64, |s, v| s + u64::from(*v)),
        );
        let start = Instant::now();
        let hidden = conditional.hidden(&image)?;
        std::hint::black_box(head.similarities(&image, &hidden)?);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    println!("linear, 1000 classes: {:.3}", middle(times));
    Ok(())
}

/// Of two, run in turns.
fn medians<E>(
    runs: usize,
    mut a: impl FnMut() -> Result<(), E>,
    mut b: impl FnMut() -> Result<(), E>,
) -> Result<(f64, f64), E> {
    let (mut first, mut second) = (vec![], vec![]);
    for run in 0..=runs {
        let start = Instant::now();
        a()?;
        let between = Instant::now();
        b()?;
        // The first ones warm up.
        if run > 0 {
            first.push((between - start).as_secs_f64() * 1e3);
            second.push(between.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok((middle(first), middle(second)))
}

fn middle(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Values of this deviation around a centre; equal seeds, equal values.
fn random(shape: Vec<usize>, deviation: f32, centre: f32, seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let scale = deviation * 12f32.sqrt();
    let data = std::iter::repeat_with(uniform).take(shape.iter().product());
    let data = data.map(|u| centre + scale * u).collect();
    Tensor { shape, data }
}

fn unit(mut x: Vec<f32>) -> Vec<f32> {
    pinhole_kernels::l2_normalize(&mut x);
    x
}
