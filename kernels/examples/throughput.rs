//! How near the chosen kernels come to the processor's limits, on the shapes of ViT-B/32:
//!
//!     cargo run --release -p pinhole-kernels --example throughput [THREADS]
//!
//! Two limits are measured first: fused multiply-adds from registers, and reading memory. Then each linear
//! layer with its weights in the cache, attention, and the linear layers of all twelve blocks in a row, whose
//! weights come from memory. `PINHOLE_KERNELS` compares variants.

use std::hint::black_box;
use std::time::Instant;

use pinhole_kernels::{Activation, PackedLinear, Rows, attention, check, layer_norm};

/// Independent chains of multiply-adds: enough of them to hide the latency, few enough for the registers.
macro_rules! peak {
    ($function:ident, $features:literal, $lanes:literal, $chains:literal, $splat:path, $fma:path) => {
        fn $function() -> f64 {
            const ROUNDS: usize = 1 << 16;
            #[target_feature(enable = $features)]
            unsafe fn run(x: f32) {
                let x = $splat(x);
                let mut sums = [x; $chains];
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        *sum = $fma(*sum, x, x);
                    }
                }
                black_box(sums);
            }
            // SAFETY: called only if the kernels of these instructions were chosen.
            let seconds = best(|| unsafe { run(black_box(0.5)) });
            (ROUNDS * $lanes * $chains) as f64 / seconds / 1e9
        }
    };
}

fn main() {
    let name = check().unwrap_or_else(|e| {
        eprintln!("error: {e}");
        std::process::exit(1);
    });
    let threads: usize = match std::env::args().nth(1).map(|a| a.parse()) {
        None => 1,
        Some(Ok(threads)) => threads,
        Some(Err(e)) => {
            eprintln!("error: THREADS: {e}");
            std::process::exit(2);
        }
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("a thread pool");
    pool.install(|| run(name, threads));
}

fn run(name: &str, threads: usize) {
    let peak = peak_gmacs(name) * threads as f64;
    println!("kernels {name}, threads {threads}");
    println!("peak from registers {peak:.1} GMAC/s (one thread's times {threads})");
    println!(
        "reading memory {:.1} GB/s on one thread",
        memory_gigabytes()
    );

    println!("\nweights in the cache      m      k      n       us   GMAC/s  of peak");
    for m in [1, 8, 50, 197] {
        for (k, n) in [
            (768, 768),
            (768, 2304),
            (768, 3072),
            (3072, 768),
            (512, 512),
        ] {
            let layer = layer(k, n);
            let x = values(m * k);
            let mut out = vec![0.0; m * n];
            let seconds = best(|| layer.apply(&x, m, Activation::None, None, &mut out));
            row("linear", m, k, n, seconds, peak);
        }
    }
    let wide = layer(768, 3072);
    let x = values(50 * 768);
    let mut out = vec![0.0; 50 * 3072];
    for (name, activation) in [
        ("QuickGELU", Activation::QuickGelu),
        ("GELU", Activation::Gelu),
    ] {
        let seconds = best(|| wide.apply(&x, 50, activation, None, &mut out));
        row(&format!("linear {name}"), 50, 768, 3072, seconds, peak);
    }
    for t in [50, 197] {
        let qkv = values(t * 2304);
        let mut out = vec![0.0; t * 768];
        let part = |i: usize| Rows {
            data: &qkv[i * 768..],
            stride: 2304,
        };
        let seconds = best(|| {
            attention(
                part(0),
                t,
                part(1),
                part(2),
                t,
                12,
                64,
                false,
                0.125,
                &mut out,
            )
        });
        row("attention (12 heads)", t, 2 * t, 768, seconds, peak);
        let (gain, x) = (values(768), values(t * 768));
        let seconds = best(|| layer_norm(&x, 768, &gain, &gain, 1e-5, &mut out));
        println!(
            "layer norm           {t:6} {:6} {:6} {:8.1}",
            "",
            768,
            seconds * 1e6
        );
    }

    println!("\nweights from memory");
    let blocks: Vec<_> = (0..12)
        .map(|_| {
            [
                layer(768, 2304),
                layer(768, 768),
                layer(768, 3072),
                layer(3072, 768),
            ]
        })
        .collect();
    for m in [1, 50, 197] {
        let wide = values(m * 3072);
        let mut out = vec![0.0; m * 3072];
        let seconds = best(|| {
            for layer in blocks.iter().flatten() {
                let (x, out) = (&wide[..m * layer.inputs()], &mut out[..m * layer.outputs()]);
                layer.apply(x, m, Activation::None, None, out);
            }
        });
        let weights: usize = blocks
            .iter()
            .flatten()
            .map(|l| l.inputs() * l.outputs())
            .sum();
        let gmacs = (weights * m) as f64 / seconds / 1e9;
        println!(
            "12 blocks, m {m:3}: {:.2} ms, {gmacs:.1} GMAC/s, {:.0} % of peak, {:.1} GB/s of weights",
            seconds * 1e3,
            100.0 * gmacs / peak,
            (weights * 4) as f64 / seconds / 1e9
        );
    }
}

fn row(name: &str, m: usize, k: usize, n: usize, seconds: f64, peak: f64) {
    let gmacs = (m * k * n) as f64 / seconds / 1e9;
    let share = 100.0 * gmacs / peak;
    println!(
        "{name:20} {m:6} {k:6} {n:6} {:8.1} {gmacs:8.1} {share:6.0} %",
        seconds * 1e6
    );
}

/// The shortest of many runs, in seconds.
fn best(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 5 || start.elapsed().as_millis() < 300 {
        let run = Instant::now();
        f();
        best = best.min(run.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5)
        .collect()
}

fn layer(k: usize, n: usize) -> PackedLinear {
    PackedLinear::from_in_out(&values(k * n), k, n, Some(&values(n)))
}

/// One thread's reading of 512 MiB, in 1e9 bytes a second.
fn memory_gigabytes() -> f64 {
    let data = vec![1u64; 64 << 20];
    let seconds = best(|| {
        black_box(data.iter().fold(0u64, |sum, v| sum.wrapping_add(*v)));
    });
    (data.len() * 8) as f64 / seconds / 1e9
}

#[cfg(target_arch = "x86_64")]
mod limits {
    use super::{best, black_box};
    use std::arch::x86_64::*;

    peak!(avx512, "avx512f", 16, 16, _mm512_set1_ps, _mm512_fmadd_ps);
    peak!(avx2, "avx2,fma", 8, 12, _mm256_set1_ps, _mm256_fmadd_ps);

    pub(super) fn vector(name: &str) -> Option<f64> {
        match name {
            "avx512" => Some(avx512()),
            "avx2" => Some(avx2()),
            _ => None,
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod limits {
    use super::{best, black_box};
    use std::arch::aarch64::*;

    peak!(neon, "neon", 4, 16, vdupq_n_f32, vfmaq_f32);

    pub(super) fn vector(name: &str) -> Option<f64> {
        (name == "neon").then(neon)
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod limits {
    pub(super) fn vector(_: &str) -> Option<f64> {
        None
    }
}

/// One thread's 1e9 multiply-adds a second in the instructions of the kernels `name`; NaN for the scalar
/// ones, whose instructions the compiler picks.
fn peak_gmacs(name: &str) -> f64 {
    limits::vector(name).unwrap_or(f64::NAN)
}
