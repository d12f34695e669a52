//! How long the chosen kernels take on the shapes of ViT-B/32, on one thread:
//!
//!     cargo bench -p pinhole-kernels [-- PART_OF_A_NAME]
//!
//! Each line's name begins with the variant, which is chosen once for a process. Another one that the processor has:
//!
//!     PINHOLE_KERNELS=avx2 cargo bench -p pinhole-kernels
//!
//! "50x768x3072" are rows, inputs and outputs.
//!
//! An element is a multiply-add of linear layers, attention and patches, so that Gelem/s are GMAC/s, and a value of
//! all else. Weights lie in the cache where it holds them; linear layers in 8-bit integers quantise their rows
//! on the way in, as in the network. `examples/throughput.rs` says how near this is to the processor's limits.

use std::time::Duration;

use criterion::{BatchSize, Bencher, Criterion, Throughput};
use pinhole_kernels::{
    Activation, Before, Input, PackedLinear, PackedLinearInt8, Rows, activate, attention, check,
    layer_norm, patch_embedding, patch_embedding_int8, quantize_rows,
};

const WIDTH: usize = 768;
const HEADS: usize = 12;
const MLP: usize = 3072;
const SIDE: usize = 224;
const PATCH: usize = 32;
const PATCHES: usize = (SIDE / PATCH) * (SIDE / PATCH);
const TOKENS: usize = 1 + PATCHES;
const EPSILON: f32 = 1e-5;

fn main() {
    let name = check().unwrap_or_else(|e| {
        eprintln!("error: {e}");
        std::process::exit(1);
    });
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a thread pool");
    pool.install(|| {
        let criterion = Criterion::default()
            .without_plots()
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1))
            .sample_size(20)
            .nresamples(10_000)
            .configure_from_args();
        let mut bench = Bench { criterion, name };
        bench.linear_layers();
        bench.rows();
        bench.attention();
        bench.activations();
        bench.patches();
        bench.criterion.final_summary();
    });
}

struct Bench {
    criterion: Criterion,
    /// The kernels' variant.
    name: &'static str,
}

impl Bench {
    fn measure(&mut self, what: &str, elements: usize, run: impl FnMut(&mut Bencher)) {
        let mut group = self.criterion.benchmark_group(self.name);
        group.throughput(Throughput::Elements(elements as u64));
        group.bench_function(what, run);
        group.finish();
    }

    fn linear_layers(&mut self) {
        for m in [1, TOKENS] {
            for (k, n, activation) in [
                (WIDTH, WIDTH, Activation::None),
                (WIDTH, 3 * WIDTH, Activation::None),
                (WIDTH, MLP, Activation::None),
                (WIDTH, MLP, Activation::QuickGelu),
                (MLP, WIDTH, Activation::None),
            ] {
                let behind = match activation {
                    Activation::None => "",
                    Activation::QuickGelu => " QuickGELU",
                    Activation::Gelu => " GELU",
                };
                let x = values(m * k);
                let mut out = vec![0.0; m * n];
                let (f32, int8) = (layer(k, n), layer_int8(k, n));
                self.measure(&format!("f32 linear {m}x{k}x{n}{behind}"), m * k * n, |b| {
                    b.iter(|| f32.apply(&x, m, activation, None, &mut out));
                });
                let input = Input::F32 {
                    x: &x,
                    before: Before::Nothing,
                };
                self.measure(
                    &format!("int8 linear {m}x{k}x{n}{behind}"),
                    m * k * n,
                    |b| {
                        b.iter(|| int8.apply(input, m, activation, None, &mut out));
                    },
                );
            }
        }
    }

    /// What works on a row: quantisation and layer norm.
    fn rows(&mut self) {
        let (x, gain) = (values(TOKENS * WIDTH), values(WIDTH));
        let mut scales = vec![0.0; TOKENS];
        let mut quantized = vec![0; x.len()];
        let norm = Before::LayerNorm {
            gain: &gain,
            bias: &gain,
            epsilon: EPSILON,
        };
        for (what, before) in [
            ("quantise rows", Before::Nothing),
            ("quantise rows behind layer norm", norm),
        ] {
            self.measure(&format!("{what} {TOKENS}x{WIDTH}"), x.len(), |b| {
                b.iter(|| quantize_rows(&x, WIDTH, before, &mut quantized, &mut scales));
            });
        }
        let mut out = vec![0.0; x.len()];
        self.measure(&format!("layer norm {TOKENS}x{WIDTH}"), x.len(), |b| {
            b.iter(|| layer_norm(&x, WIDTH, &gain, &gain, EPSILON, &mut out));
        });
    }

    fn attention(&mut self) {
        let qkv = values(TOKENS * 3 * WIDTH);
        let part = |i: usize| Rows {
            data: &qkv[i * WIDTH..],
            stride: 3 * WIDTH,
        };
        let (q, k, v) = (part(0), part(1), part(2));
        let width = WIDTH / HEADS;
        let scale = 1.0 / (width as f32).sqrt();
        let mut out = vec![0.0; TOKENS * WIDTH];
        let what = format!("attention, {HEADS} heads, {TOKENS} tokens");
        self.measure(&what, 2 * TOKENS * TOKENS * WIDTH, |b| {
            b.iter(|| {
                attention(
                    q, TOKENS, k, v, TOKENS, HEADS, width, false, scale, &mut out,
                );
            });
        });
    }

    fn activations(&mut self) {
        let x = values(TOKENS * MLP);
        for (what, activation) in [
            ("QuickGELU", Activation::QuickGelu),
            ("GELU", Activation::Gelu),
        ] {
            self.measure(&format!("{what} {TOKENS}x{MLP}"), x.len(), |b| {
                // A copy each time: applied again and again, the function leaves subnormal numbers.
                b.iter_batched_ref(
                    || x.clone(),
                    |x| activate(x, activation),
                    BatchSize::PerIteration,
                );
            });
        }
    }

    fn patches(&mut self) {
        let pixels: Vec<u8> = (0..SIDE * SIDE * 3)
            .map(|i| (i * 7919 % 256) as u8)
            .collect();
        let inputs = PATCH * PATCH * 3;
        let (f32, int8) = (layer(inputs, WIDTH), layer_int8(inputs, WIDTH));
        let mut out = vec![0.0; PATCHES * WIDTH];
        let shape = format!("{PATCHES}x{inputs}x{WIDTH}");
        let products = PATCHES * inputs * WIDTH;
        self.measure(&format!("f32 patch embedding {shape}"), products, |b| {
            b.iter(|| patch_embedding(&pixels, SIDE, SIDE, PATCH, &f32, &mut out));
        });
        self.measure(&format!("u8 patch embedding {shape}"), products, |b| {
            b.iter(|| patch_embedding_int8(&pixels, SIDE, SIDE, PATCH, &int8, 1.0, &mut out));
        });
    }
}

/// In -0.5 .. 0.5.
fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5)
        .collect()
}

fn layer(k: usize, n: usize) -> PackedLinear {
    PackedLinear::from_in_out(&values(k * n), k, n, Some(&values(n)))
}

fn layer_int8(k: usize, n: usize) -> PackedLinearInt8 {
    let weight: Vec<i8> = (0..k * n)
        .map(|i| ((i * 7919 % 255) as i16 - 127) as i8)
        .collect();
    PackedLinearInt8::from_out_in(&weight, &vec![0.01; n], n, k, Some(&values(n)))
        .expect("weights in range")
}
