//! How near the chosen kernels come to the processor's limits, on the shapes of ViT-B/32:
//!
//!     cargo run --release -p pinhole-kernels --example throughput [THREADS]
//!
//! Limits are measured first: multiply-adds from registers, reading memory, sharing work. Then each linear layer,
//! in f32 and in 8-bit integers, with its weights in the cache, attention, and the linear layers of all twelve
//! blocks in a row, whose weights come from memory. `PINHOLE_KERNELS` compares variants. What no such limit bounds,
//! and how much a time varies, is in `benches/kernels.rs`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use pinhole_kernels::{
    Activation, Before, Input, PackedLinear, PackedLinearInt8, Rows, attention, check,
    patch_embedding, patch_embedding_int8,
};
use rayon::prelude::*;

/// `$products` multiply-adds in each of `$chains` independent chains: enough of them to hide the latency, few
/// enough for the registers.
macro_rules! peak {
    ($function:ident, $features:literal, $products:literal, $chains:literal, $start:expr, $step:expr) => {
        fn $function() -> f64 {
            const ROUNDS: usize = 1 << 16;
            #[target_feature(enable = $features)]
            fn run() {
                let x = black_box($start);
                let mut sums = [x; $chains];
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        *sum = $step(*sum, x);
                    }
                }
                black_box(sums);
            }
            // SAFETY: called only if the kernels of these instructions were chosen.
            let seconds = best(|| unsafe { run() });
            (ROUNDS * $products * $chains) as f64 / seconds / 1e9
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
    let (float, int8) = limits::peaks(name);
    let (float, int8) = (float * threads as f64, int8 * threads as f64);
    println!("kernels {name}, threads {threads}");
    println!(
        "peak from registers {float:.1} GMAC/s in f32, {int8:.1} in 8-bit integers (one thread's times {threads})"
    );
    println!(
        "reading memory {:.1} GB/s on one thread",
        memory_gigabytes()
    );
    if threads > 1 {
        for pause in [0, 20, 300] {
            let seconds = sharing_seconds(threads, Duration::from_micros(pause));
            println!(
                "sharing work {pause} us after the section before: {:.1} us",
                seconds * 1e6
            );
        }
    }
    if let Some(idle) = idle_seconds() {
        println!("idle for 500 ms: {:.2} ms of processor time", idle * 1e3);
    }

    println!("\nweights in the cache      m      k      n       us   GMAC/s  of peak");
    for m in [1, 8, 50, 197] {
        for (k, n) in [
            (768, 768),
            (768, 2304),
            (768, 3072),
            (3072, 768),
            (512, 512),
        ] {
            let x = values(m * k);
            let mut out = vec![0.0; m * n];
            let layer = layer(k, n);
            let seconds = best(|| layer.apply(&x, m, Activation::None, None, &mut out));
            row("linear f32", m, k, n, seconds, float);
            let layer = layer_int8(k, n);
            let input = Input::F32 {
                x: &x,
                before: Before::Nothing,
            };
            let seconds = best(|| layer.apply(input, m, Activation::None, None, &mut out));
            row("linear int8", m, k, n, seconds, int8);
        }
    }
    let (wide, wide_int8) = (layer(768, 3072), layer_int8(768, 3072));
    let x = values(50 * 768);
    let mut out = vec![0.0; 50 * 3072];
    for (name, activation) in [
        ("QuickGELU", Activation::QuickGelu),
        ("GELU", Activation::Gelu),
    ] {
        let seconds = best(|| wide.apply(&x, 50, activation, None, &mut out));
        row(&format!("f32 {name}"), 50, 768, 3072, seconds, float);
        let input = Input::F32 {
            x: &x,
            before: Before::Nothing,
        };
        let seconds = best(|| wide_int8.apply(input, 50, activation, None, &mut out));
        row(&format!("int8 {name}"), 50, 768, 3072, seconds, int8);
    }
    let pixels: Vec<u8> = (0..224 * 224 * 3).map(|i| (i * 7919 % 256) as u8).collect();
    let mut out = vec![0.0; 49 * 768];
    let patches = layer(3072, 768);
    let seconds = best(|| patch_embedding(&pixels, 224, 224, 32, &patches, &mut out));
    row("patches f32", 49, 3072, 768, seconds, float);
    let patches = layer_int8(3072, 768);
    let seconds = best(|| patch_embedding_int8(&pixels, 224, 224, 32, &patches, 1.0, &mut out));
    row("patches int8", 49, 3072, 768, seconds, int8);
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
        row("attention (12 heads)", t, 2 * t, 768, seconds, float);
    }

    println!("\nweights from memory");
    let shapes = [(768, 2304), (768, 768), (768, 3072), (3072, 768)];
    let all = || shapes.iter().cycle().take(12 * shapes.len());
    let layers: Vec<_> = all().map(|&(k, n)| layer(k, n)).collect();
    let quantized: Vec<_> = all().map(|&(k, n)| layer_int8(k, n)).collect();
    for m in [1, 50, 197] {
        let wide = values(m * 3072);
        let mut out = vec![0.0; m * 3072];
        let seconds = best(|| {
            for layer in &layers {
                let (x, out) = (&wide[..m * layer.inputs()], &mut out[..m * layer.outputs()]);
                layer.apply(x, m, Activation::None, None, out);
            }
        });
        blocks("f32", m, 4, seconds, float);
        let seconds = best(|| {
            for layer in &quantized {
                let input = Input::F32 {
                    x: &wide[..m * layer.inputs()],
                    before: Before::Nothing,
                };
                let out = &mut out[..m * layer.outputs()];
                layer.apply(input, m, Activation::None, None, out);
            }
        });
        blocks("int8", m, 1, seconds, int8);
    }
}

/// A line on the linear layers of twelve blocks.
fn blocks(name: &str, m: usize, bytes: usize, seconds: f64, peak: f64) {
    let weights = 12 * 12 * 768 * 768;
    let gmacs = (weights * m) as f64 / seconds / 1e9;
    println!(
        "12 blocks {name:4}, m {m:3}: {:.2} ms, {gmacs:.1} GMAC/s, {:.0} % of peak, {:.1} GB/s of weights",
        seconds * 1e3,
        100.0 * gmacs / peak,
        (weights * bytes) as f64 / seconds / 1e9
    );
}

/// What it costs to share work among the threads and to wait for them, beyond the work: the middle of many
/// sections of 4 parts a thread, of 10 us each, `pause` after the one before. Threads that find no work fall asleep
/// within that pause.
fn sharing_seconds(threads: usize, pause: Duration) -> f64 {
    const PART: Duration = Duration::from_micros(10);
    let work = |time: Duration| {
        let start = Instant::now();
        while start.elapsed() < time {}
    };
    let mut sections: Vec<_> = (0..1000)
        .map(|_| {
            work(pause);
            let start = Instant::now();
            let parts = (0..4 * threads).into_par_iter().with_max_len(1);
            parts.for_each(|_| work(PART));
            start.elapsed().as_secs_f64() - 4.0 * PART.as_secs_f64()
        })
        .collect();
    sections.sort_by(f64::total_cmp);
    sections[sections.len() / 2]
}

/// Processor time of all threads while nobody does anything for half a second; none where there is no Linux.
fn idle_seconds() -> Option<f64> {
    let used = || -> Option<f64> {
        let tasks = std::fs::read_dir("/proc/self/task").ok()?;
        let nanoseconds = tasks.map(|task| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<f64>().ok()
        });
        Some(nanoseconds.sum::<Option<f64>>()? / 1e9)
    };
    let before = used()?;
    std::thread::sleep(Duration::from_millis(500));
    Some(used()? - before)
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

fn layer_int8(k: usize, n: usize) -> PackedLinearInt8 {
    let weight: Vec<i8> = (0..k * n)
        .map(|i| ((i * 7919 % 255) as i16 - 127) as i8)
        .collect();
    PackedLinearInt8::from_out_in(&weight, &vec![0.01; n], n, k, Some(&values(n)))
        .expect("weights in range")
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

/// One thread's 1e9 multiply-adds a second in the instructions of the kernels `name`, of f32 and of bytes; NaN
/// for the scalar ones, whose instructions the compiler picks.
#[cfg(target_arch = "x86_64")]
mod limits {
    use super::{best, black_box};
    use std::arch::x86_64::*;

    peak!(avx512, "avx512f", 16, 16, _mm512_set1_ps(0.5), |sum, x| {
        _mm512_fmadd_ps(sum, x, x)
    });
    peak!(avx2, "avx2,fma", 8, 12, _mm256_set1_ps(0.5), |sum, x| {
        _mm256_fmadd_ps(sum, x, x)
    });
    peak!(
        vnni_int8,
        "avx512f,avx512vnni",
        64,
        16,
        _mm512_set1_epi8(1),
        |sum, x| { _mm512_dpbusd_epi32(sum, x, x) }
    );
    peak!(avx2_int8, "avx2", 16, 12, _mm256_set1_epi8(1), |sum, x| {
        // Each product depends on the sum before it, or the compiler would take it out of the loop.
        _mm256_add_epi32(sum, _mm256_madd_epi16(sum, x))
    });

    pub(super) fn peaks(name: &str) -> (f64, f64) {
        match name {
            "avx512vnni" => (avx512(), vnni_int8()),
            "avx512" => (avx512(), avx2_int8()),
            "avx2" => (avx2(), avx2_int8()),
            _ => (f64::NAN, f64::NAN),
        }
    }
}

/// As on x86.
#[cfg(target_arch = "aarch64")]
mod limits {
    use super::{best, black_box};
    use std::arch::aarch64::*;
    use std::arch::asm;

    /// One instruction on a sum and two operands.
    macro_rules! instruction {
        ($name:literal) => {
            |mut sum: int32x4_t, x: int32x4_t| {
                // SAFETY: the caller's promise; the instruction touches registers alone.
                unsafe {
                    asm!(
                        concat!($name, " {0:v}.4s, {1:v}.16b, {1:v}.16b"),
                        inout(vreg) sum,
                        in(vreg) x,
                        options(pure, nomem, nostack)
                    );
                }
                sum
            }
        };
    }

    peak!(neon, "neon", 4, 16, vdupq_n_f32(0.5), |sum, x| vfmaq_f32(
        sum, x, x
    ));
    peak!(neon_int8, "neon", 16, 8, vdupq_n_s32(1), |sum, x| {
        let (a, x) = (vreinterpretq_s8_s32(sum), vreinterpretq_s8_s32(x));
        let low = vmull_s8(vget_low_s8(a), vget_low_s8(x));
        vpadalq_s16(sum, vmlal_high_s8(low, a, x))
    });
    peak!(
        dotprod,
        "neon,dotprod",
        16,
        16,
        vdupq_n_s32(1),
        instruction!("sdot")
    );
    peak!(
        i8mm,
        "neon,i8mm",
        32,
        16,
        vdupq_n_s32(1),
        instruction!("smmla")
    );

    pub(super) fn peaks(name: &str) -> (f64, f64) {
        match name {
            "i8mm" => (neon(), i8mm()),
            "dotprod" => (neon(), dotprod()),
            "neon" => (neon(), neon_int8()),
            _ => (f64::NAN, f64::NAN),
        }
    }
}

/// As on x86.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod limits {
    pub(super) fn peaks(_: &str) -> (f64, f64) {
        (f64::NAN, f64::NAN)
    }
}
