//! Runs the kernels of ViT-B/32's image encoder for one image, on synthetic weights and pixels: patch embedding, twelve
//! blocks, projection; without the graph's executor, class token and position embeddings. `tests/arm/count --kernels` counts
//! its instructions.
//!
//!     cargo run --release -p pinhole-kernels --example encoder_shapes f32|f16|int8 ITERATIONS
//!
//! All blocks share weights, so that creating them is a small part of the run. Prints the variant, the sum of the last
//! embedding, and the minimum and the median time of an iteration.

use std::time::Instant;

use pinhole_kernels::{
    Int8Input, PackedLinear, PackedLinearF16, PackedLinearInt8, Prologue, StridedRows, attention,
    check, l2_normalize, layer_norm, patch_embedding, patch_embedding_f16, patch_embedding_int8,
};
use pinhole_model::Activation;

const WIDTH: usize = 768;
const HEADS: usize = 12;
const MLP: usize = 3072;
const BLOCKS: usize = 12;
const EMBEDDING: usize = 512;
const SIDE: usize = 224;
const PATCH: usize = 32;
const TOKENS: usize = 1 + (SIDE / PATCH) * (SIDE / PATCH);
const EPSILON: f32 = 1e-5;

fn main() {
    let usage = || -> ! {
        eprintln!("error: expected f32, f16 or int8, and the number of iterations");
        std::process::exit(2);
    };
    let mut arguments = std::env::args().skip(1);
    let (Some(precision), Some(Ok(iterations))) =
        (arguments.next(), arguments.next().map(|a| a.parse()))
    else {
        usage()
    };
    let name = check().unwrap_or_else(|e| {
        eprintln!("error: {e}");
        std::process::exit(1);
    });
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a thread pool");
    let (sum, times) = pool.install(|| match precision.as_str() {
        "f32" => run::<PackedLinear>(iterations),
        "f16" => run::<PackedLinearF16>(iterations),
        "int8" => run::<PackedLinearInt8>(iterations),
        _ => usage(),
    });
    print!("{name}, {precision}, {iterations} iterations, sum {sum}");
    if let Some(median) = times.get(times.len() / 2) {
        print!(
            ", min {:.2} ms, median {:.2} ms",
            times[0] * 1e3,
            median * 1e3
        );
    }
    println!();
}

/// A linear layer in one of the precisions.
trait Linear {
    fn random(inputs: usize, outputs: usize) -> Self;
    fn patches(&self, pixels: &[u8], out: &mut [f32]);
    /// `norm`: gain and bias of a preceding layer norm.
    fn apply(
        &self,
        x: &[f32],
        norm: Option<&[f32]>,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    );
}

impl Linear for PackedLinear {
    fn random(inputs: usize, outputs: usize) -> Self {
        let weight = values(inputs * outputs, 0.05);
        PackedLinear::from_out_in(&weight, outputs, inputs, Some(&values(outputs, 0.1)))
    }

    fn patches(&self, pixels: &[u8], out: &mut [f32]) {
        patch_embedding(pixels, SIDE, SIDE, PATCH, self, out);
    }

    fn apply(
        &self,
        x: &[f32],
        norm: Option<&[f32]>,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let rows = x.len() / self.inputs();
        after_norm(x, norm, |x| self.apply(x, rows, activation, residual, out));
    }
}

impl Linear for PackedLinearF16 {
    fn random(inputs: usize, outputs: usize) -> Self {
        // Magnitudes of at most 0.03, of either sign.
        let weight: Vec<u16> = (0..inputs * outputs)
            .map(|i| ((i * 7919 % 0x2800) | ((i % 2) << 15)) as u16)
            .collect();
        PackedLinearF16::from_out_in(&weight, outputs, inputs, Some(&values(outputs, 0.1)))
            .expect("finite weights")
    }

    fn patches(&self, pixels: &[u8], out: &mut [f32]) {
        patch_embedding_f16(pixels, SIDE, SIDE, PATCH, self, 1.0 / 255.0, out);
    }

    fn apply(
        &self,
        x: &[f32],
        norm: Option<&[f32]>,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let rows = x.len() / self.inputs();
        after_norm(x, norm, |x| self.apply(x, rows, activation, residual, out));
    }
}

/// `layer` on x, after a layer norm if there is one.
fn after_norm(x: &[f32], norm: Option<&[f32]>, layer: impl FnOnce(&[f32])) {
    match norm {
        None => layer(x),
        Some(norm) => {
            let mut normed = vec![0.0; x.len()];
            layer_norm(x, WIDTH, norm, norm, EPSILON, &mut normed);
            layer(&normed);
        }
    }
}

impl Linear for PackedLinearInt8 {
    fn random(inputs: usize, outputs: usize) -> Self {
        let weight: Vec<i8> = (0..inputs * outputs)
            .map(|i| ((i * 7919 % 255) as i16 - 127) as i8)
            .collect();
        let (scales, bias) = (vec![0.0004; outputs], values(outputs, 0.1));
        PackedLinearInt8::from_out_in(&weight, &scales, outputs, inputs, Some(&bias))
            .expect("weights in range")
    }

    fn patches(&self, pixels: &[u8], out: &mut [f32]) {
        patch_embedding_int8(pixels, SIDE, SIDE, PATCH, self, 1.0 / 255.0, out);
    }

    fn apply(
        &self,
        x: &[f32],
        norm: Option<&[f32]>,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let prologue = match norm {
            None => Prologue::None,
            Some(norm) => Prologue::LayerNorm {
                gain: norm,
                bias: norm,
                epsilon: EPSILON,
            },
        };
        let rows = x.len() / self.inputs();
        let x = match self.inputs() {
            // The outputs of an activation function.
            MLP => Int8Input::Offset { x, offset: 0.17 },
            _ => Int8Input::F32 { x, prologue },
        };
        self.apply(x, rows, activation, residual, out);
    }
}

/// The sum of the last embedding, and the iterations' times in seconds, sorted.
fn run<L: Linear>(iterations: usize) -> (f32, Vec<f64>) {
    let pixels: Vec<u8> = (0..SIDE * SIDE * 3)
        .map(|i| (i * 7919 % 256) as u8)
        .collect();
    let patches = L::random(PATCH * PATCH * 3, WIDTH);
    let (qkv, projection) = (L::random(WIDTH, 3 * WIDTH), L::random(WIDTH, WIDTH));
    let (up, down) = (L::random(WIDTH, MLP), L::random(MLP, WIDTH));
    let last = L::random(WIDTH, EMBEDDING);
    let norm = values(WIDTH, 2.0);
    let [mut x, mut y, mut z] = [(); 3].map(|()| vec![0.0; TOKENS * WIDTH]);
    let (mut heads, mut wide) = (vec![0.0; TOKENS * 3 * WIDTH], vec![0.0; TOKENS * MLP]);
    let mut embedding = vec![0.0; EMBEDDING];
    let mut times = Vec::new();
    for _ in 0..iterations {
        let start = Instant::now();
        x[..WIDTH].fill(0.1);
        patches.patches(&pixels, &mut x[WIDTH..]);
        layer_norm(&x, WIDTH, &norm, &norm, EPSILON, &mut y);
        std::mem::swap(&mut x, &mut y);
        for _ in 0..BLOCKS {
            qkv.apply(&x, Some(&norm), None, None, &mut heads);
            let part = |i: usize| StridedRows {
                data: &heads[i * WIDTH..],
                stride: 3 * WIDTH,
            };
            let width = WIDTH / HEADS;
            attention(
                part(0),
                TOKENS,
                part(1),
                part(2),
                TOKENS,
                HEADS,
                width,
                false,
                1.0 / (width as f32).sqrt(),
                &mut y,
            );
            projection.apply(&y, None, None, Some(&x), &mut z);
            up.apply(
                &z,
                Some(&norm),
                Some(Activation::QuickGelu),
                None,
                &mut wide,
            );
            down.apply(&wide, None, None, Some(&z), &mut x);
        }
        last.apply(&x[..WIDTH], Some(&norm), None, None, &mut embedding);
        l2_normalize(&mut embedding);
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    (embedding.iter().sum(), times)
}

/// In -size / 2 .. size / 2.
fn values(len: usize, size: f32) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * size)
        .collect()
}
