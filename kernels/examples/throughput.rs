//! Compares the chosen kernels with the processor's limits, on the shapes of ViT-B/32:
//!
//!     cargo run --release -p pinhole-kernels --example throughput [THREADS]
//!
//! It measures the limits (multiply-adds from registers, reading memory, splitting work among threads), then the linear
//! layers of all twelve blocks in sequence, so that weights are read from memory, in f32 and int8. `PINHOLE_KERNELS` selects a
//! variant. `benches/kernels.rs` times single kernels.

#[path = "../benches/peaks.rs"]
mod peaks;

use std::hint::black_box;
use std::time::{Duration, Instant};

use pinhole_kernels::{Int8Input, PackedLinear, PackedLinearInt8, Prologue, check};
use rayon::prelude::*;

use peaks::{Peaks, best, peaks};

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
    let Peaks { float, int8, .. } = peaks();
    let all = |peak: Option<f64>| peak.map_or(f64::NAN, |peak| peak * threads as f64);
    let (float, int8) = (all(float), all(int8));
    println!("kernels {name}, threads {threads}");
    println!(
        "peak from registers {float:.1} GMAC/s in f32, {int8:.1} in int8 (one thread's, times {threads})"
    );
    println!(
        "reading memory {:.1} GB/s on one thread",
        memory_gigabytes()
    );
    if threads > 1 {
        for pause in [0, 20, 300] {
            let seconds = sharing_seconds(threads, Duration::from_micros(pause));
            println!(
                "splitting work {pause} us after the previous section: {:.1} us",
                seconds * 1e6
            );
        }
    }
    if let Some(idle) = idle_seconds() {
        println!("idle for 500 ms: {:.2} ms of processor time", idle * 1e3);
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
                layer.apply(x, m, None, None, out);
            }
        });
        blocks("f32", m, 4, seconds, float);
        let seconds = best(|| {
            for layer in &quantized {
                let input = Int8Input::F32 {
                    x: &wide[..m * layer.inputs()],
                    prologue: Prologue::None,
                };
                let out = &mut out[..m * layer.outputs()];
                layer.apply(input, m, None, None, out);
            }
        });
        blocks("int8", m, 1, seconds, int8);
    }
}

/// Prints the result for the linear layers of twelve blocks.
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

/// The overhead of splitting work among threads and waiting for them: the median over many sections of 4 parts of 10 us per
/// thread, `pause` apart. Idle threads go to sleep within the pause.
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

/// Processor time of all threads during half a second without work; Linux only.
fn idle_seconds() -> Option<f64> {
    let used = || -> Option<f64> {
        let tasks = std::fs::read_dir("/proc/self/task").ok()?;
        let nanoseconds = tasks.map(|task| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<f64>().ok()
        });
        Some(nanoseconds.sum::<Option<f64>>()? / 1e9)
    };
    let prologue = used()?;
    std::thread::sleep(Duration::from_millis(500));
    Some(used()? - prologue)
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

/// One thread's speed of reading 512 MiB, in 1e9 bytes per second.
fn memory_gigabytes() -> f64 {
    let data = vec![1u64; 64 << 20];
    let seconds = best(|| {
        black_box(data.iter().fold(0u64, |sum, v| sum.wrapping_add(*v)));
    });
    (data.len() * 8) as f64 / seconds / 1e9
}
