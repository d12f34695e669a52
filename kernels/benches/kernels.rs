//! Times each kernel of each variant on the shapes of ViT-B/32, on one thread:
//!
//!     cargo bench -p pinhole-kernels [-- PART_OF_A_NAME]
//!
//! A benchmark's name begins with the variant. As a variant is chosen once per process, each runs in a process of its own;
//! `PINHOLE_KERNELS` selects one. "50x768x3072" are rows, inputs and outputs.
//!
//! Throughput counts multiply-adds for linear layers, attention and patch embedding (Gelem/s are GMAC/s), and values for the
//! rest. The following line compares it with the peak: the same instructions on one thread from registers, measured first.
//! Weights stay in the cache if they fit; int8 linear layers include the quantisation of their rows, as in the network.
//! `examples/throughput.rs` includes the time to read weights from memory.

mod peaks;

use std::process::{Command, exit};
use std::time::{Duration, Instant};

use criterion::{BatchSize, Bencher, Criterion, Throughput};
use pinhole_kernels::{
    Affine, Int8Input, PackedLinear, PackedLinearAffine, PackedLinearF16, PackedLinearInt8,
    Prologue, StridedRows, activate, attention, available, check, f16_arithmetic, fake_quantize,
    layer_norm, patch_embedding, patch_embedding_int8, quantize_rows,
};
use pinhole_model::Activation;

use peaks::Peaks;

const VARIANT: &str = "PINHOLE_KERNELS";

const WIDTH: usize = 768;
const HEADS: usize = 12;
const MLP: usize = 3072;
const SIDE: usize = 224;
const PATCH: usize = 32;
const PATCHES: usize = (SIDE / PATCH) * (SIDE / PATCH);
const TOKENS: usize = 1 + PATCHES;
const EPSILON: f32 = 1e-5;

const SAMPLES: usize = 10;

fn main() {
    let name = check().unwrap_or_else(|e| {
        eprintln!("error: {e}");
        exit(1);
    });
    if std::env::var_os(VARIANT).is_some() {
        return run(name);
    }
    let program = std::env::current_exe().expect("the path of this program");
    for variant in available() {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1));
        let status = command.env(VARIANT, variant).status();
        if !status.is_ok_and(|status| status.success()) {
            exit(1);
        }
    }
}

fn run(name: &'static str) {
    let peaks = peaks::peaks();
    let shown = |peak: Option<f64>| peak.map_or("not known".into(), |p| format!("{p:.1} GMAC/s"));
    println!(
        "\n{name}: peak in f32 {}, in 8-bit integers {}{}\n",
        shown(peaks.float),
        shown(peaks.int8),
        match peaks.half {
            Some(half) => format!(", in f16 {half:.1} GMAC/s"),
            None => String::new(),
        }
    );
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a thread pool");
    pool.install(|| {
        let criterion = Criterion::default()
            .without_plots()
            .warm_up_time(Duration::from_millis(100))
            .measurement_time(Duration::from_millis(500))
            .sample_size(SAMPLES)
            .nresamples(10_000)
            .configure_from_args();
        let mut bench = Bench {
            criterion,
            name,
            peaks,
        };
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
    /// The variant.
    name: &'static str,
    peaks: Peaks,
}

impl Bench {
    fn measure(&mut self, what: &str, elements: usize, run: impl FnMut(&mut Bencher)) {
        let mut group = self.criterion.benchmark_group(self.name);
        group.throughput(Throughput::Elements(elements as u64));
        group.bench_function(what, run);
        group.finish();
    }

    /// [`Self::measure`] of `products` multiply-adds, compared with the peak of their instructions.
    fn products(&mut self, what: &str, products: usize, peak: Option<f64>, mut run: impl FnMut()) {
        // Seconds per run of each sample, after those of the warm-up.
        let mut seconds = vec![];
        self.measure(what, products, |b| {
            b.iter_custom(|runs| {
                let start = Instant::now();
                for _ in 0..runs {
                    run();
                }
                let time = start.elapsed();
                seconds.push(time.as_secs_f64() / runs as f64);
                time
            });
        });
        let samples = seconds.len().saturating_sub(SAMPLES);
        let samples = &mut seconds[samples..];
        samples.sort_by(f64::total_cmp);
        if let (Some(median), Some(peak)) = (samples.get(samples.len() / 2), peak) {
            let speed = products as f64 / median / 1e9;
            let share = 100.0 * speed / peak;
            println!("{:24}peak:   {share:.0} % of {peak:.1} GMAC/s\n", "");
        }
    }

    fn linear_layers(&mut self) {
        for m in [1, TOKENS] {
            for (k, n, activation) in [
                (WIDTH, WIDTH, None),
                (WIDTH, 3 * WIDTH, None),
                (WIDTH, MLP, None),
                (WIDTH, MLP, Some(Activation::QuickGelu)),
                (MLP, WIDTH, None),
            ] {
                let suffix = match activation {
                    None => "",
                    Some(Activation::QuickGelu) => " QuickGELU",
                    Some(Activation::Gelu) => " GELU",
                    Some(Activation::GeluTanh) => " GELU by tanh",
                };
                let (shape, products) = (format!("{m}x{k}x{n}{suffix}"), m * k * n);
                let Peaks { float, int8, half } = self.peaks;
                let x = values(m * k);
                let mut out = vec![0.0; m * n];
                let layer = layer(k, n);
                self.products(&format!("f32 linear {shape}"), products, float, || {
                    layer.apply(&x, m, activation, None, &mut out);
                });
                let layer = layer_int8(k, n);
                let input = Int8Input::F32 {
                    x: &x,
                    prologue: Prologue::None,
                };
                self.products(&format!("int8 linear {shape}"), products, int8, || {
                    layer.apply(input, m, activation, None, &mut out);
                });
                if f16_arithmetic() {
                    let layer = layer_f16(k, n);
                    self.products(&format!("f16 linear {shape}"), products, half, || {
                        layer.apply(&x, m, activation, None, &mut out);
                    });
                }
            }
        }
        let (x, layer) = (values(TOKENS * WIDTH), layer_affine(WIDTH, MLP));
        let mut out = vec![0.0; TOKENS * MLP];
        let what = format!("int8 linear with zero points {TOKENS}x{WIDTH}x{MLP}");
        self.products(&what, TOKENS * WIDTH * MLP, self.peaks.int8, || {
            layer.apply(&x, TOKENS, AFFINE, None, None, &mut out);
        });
    }

    /// Operations on rows: quantisation and layer norm.
    fn rows(&mut self) {
        let (x, gain) = (values(TOKENS * WIDTH), values(WIDTH));
        let mut scales = vec![0.0; TOKENS];
        let mut quantized = vec![0; x.len()];
        let norm = Prologue::LayerNorm {
            gain: &gain,
            bias: &gain,
            epsilon: EPSILON,
        };
        for (what, prologue) in [
            ("quantise rows", Prologue::None),
            ("layer norm and quantise rows", norm),
        ] {
            self.measure(&format!("{what} {TOKENS}x{WIDTH}"), x.len(), |b| {
                b.iter(|| quantize_rows(&x, WIDTH, prologue, &mut quantized, &mut scales));
            });
        }
        let mut out = vec![0.0; x.len()];
        self.measure(&format!("layer norm {TOKENS}x{WIDTH}"), x.len(), |b| {
            b.iter(|| layer_norm(&x, WIDTH, &gain, &gain, EPSILON, &mut out));
        });
        let what = format!("fake-quantise {TOKENS}x{WIDTH}");
        self.measure(&what, x.len(), |b| {
            b.iter(|| fake_quantize(&x, AFFINE, &mut out));
        });
    }

    fn attention(&mut self) {
        let qkv = values(TOKENS * 3 * WIDTH);
        let part = |i: usize| StridedRows {
            data: &qkv[i * WIDTH..],
            stride: 3 * WIDTH,
        };
        let (q, k, v) = (part(0), part(1), part(2));
        let width = WIDTH / HEADS;
        let scale = 1.0 / (width as f32).sqrt();
        let mut out = vec![0.0; TOKENS * WIDTH];
        for (causal, suffix) in [(false, ""), (true, ", causal")] {
            let what = format!("attention, {HEADS} heads, {TOKENS} tokens{suffix}");
            let products = 2 * TOKENS * TOKENS * WIDTH;
            self.products(&what, products, self.peaks.float, || {
                attention(
                    q, TOKENS, k, v, TOKENS, HEADS, width, causal, scale, &mut out,
                );
            });
        }
    }

    fn activations(&mut self) {
        let x = values(TOKENS * MLP);
        for (what, activation) in [
            ("QuickGELU", Activation::QuickGelu),
            ("GELU", Activation::Gelu),
            ("GELU by tanh", Activation::GeluTanh),
        ] {
            self.measure(&format!("{what} {TOKENS}x{MLP}"), x.len(), |b| {
                // A copy each time: repeated application would give subnormal numbers.
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
        let (f32, u8) = (layer(inputs, WIDTH), layer_int8(inputs, WIDTH));
        let mut out = vec![0.0; PATCHES * WIDTH];
        let shape = format!("{PATCHES}x{inputs}x{WIDTH}");
        let products = PATCHES * inputs * WIDTH;
        let Peaks { float, int8, .. } = self.peaks;
        let what = format!("f32 patch embedding {shape}");
        self.products(&what, products, float, || {
            patch_embedding(&pixels, SIDE, SIDE, PATCH, &f32, &mut out);
        });
        let what = format!("u8 patch embedding {shape}");
        self.products(&what, products, int8, || {
            patch_embedding_int8(&pixels, SIDE, SIDE, PATCH, &u8, 1.0, &mut out);
        });
    }
}

/// For values in -0.5 .. 0.5.
const AFFINE: Affine = Affine {
    scale: 1.0 / 255.0,
    zero_point: 3,
};

/// In -0.5 .. 0.5.
fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5)
        .collect()
}

/// In -127 ..= 127.
fn bytes(len: usize) -> Vec<i8> {
    (0..len)
        .map(|i| ((i * 7919 % 255) as i16 - 127) as i8)
        .collect()
}

fn layer(k: usize, n: usize) -> PackedLinear {
    PackedLinear::from_in_out(&values(k * n), k, n, Some(&values(n)))
}

fn layer_int8(k: usize, n: usize) -> PackedLinearInt8 {
    PackedLinearInt8::from_out_in(&bytes(k * n), &vec![0.01; n], n, k, Some(&values(n)))
        .expect("weights in range")
}

fn layer_affine(k: usize, n: usize) -> PackedLinearAffine {
    let zero_points = vec![1; n];
    let bias = values(n);
    PackedLinearAffine::from_out_in(
        &bytes(k * n),
        &vec![0.01; n],
        &zero_points,
        n,
        k,
        Some(&bias),
    )
    .expect("weights in range")
}

fn layer_f16(k: usize, n: usize) -> PackedLinearF16 {
    // Bits of f16 between 0.5 and 2.
    let weight: Vec<u16> = (0..k * n)
        .map(|i| 0x3800 + (i * 7919 % 2048) as u16)
        .collect();
    PackedLinearF16::from_out_in(&weight, n, k, Some(&values(n))).expect("finite weights")
}
