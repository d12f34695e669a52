//! Times one runtime in Rust on one file: time-peer tract|rten FILE.onnx PIXELS.npy THREADS RUNS [embeddings]
//!
//! Prints the same as `benches/time_peer.py` for runtimes in Python. `PIXELS.npy` is f32 [N, 3, S, S]; a run uses the first
//! image. tract runs on one thread, its default.

use std::io::BufReader;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rten_tensor::AsView;
use serde_json::json;
use tract_onnx::prelude::*;

type Run = Box<dyn Fn(&[f32]) -> Result<Vec<f32>>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (peer, file, pixels, threads, runs, embeddings) = match arguments.as_slice() {
        [peer, file, pixels, threads, runs] => (peer, file, pixels, threads, runs, false),
        [peer, file, pixels, threads, runs, word] if word == "embeddings" => {
            (peer, file, pixels, threads, runs, true)
        }
        _ => bail!("usage: time-peer tract|rten FILE.onnx PIXELS.npy THREADS RUNS [embeddings]"),
    };
    let (threads, runs): (usize, usize) = (threads.parse()?, runs.parse()?);
    let reader = std::fs::File::open(pixels).with_context(|| pixels.clone())?;
    let array = npyz::NpyFile::new(BufReader::new(reader))?;
    let shape = array.shape().to_vec();
    let [_, 3, side, _] = shape[..] else {
        bail!("{pixels}: expected f32 [N, 3, S, S], found {shape:?}");
    };
    let pixels = array.into_vec::<f32>()?;
    let side = side as usize;
    let images: Vec<&[f32]> = pixels.chunks_exact(3 * side * side).collect();
    ensure!(!images.is_empty(), "expected an image");

    let start = Instant::now();
    let run: Run = match peer.as_str() {
        "tract" => tract(file, side, threads)?,
        "rten" => rten(file, side, threads)?,
        _ => bail!("expected tract or rten, found {peer}"),
    };
    let open_ms = milliseconds(start);
    let mut run_ms = vec![];
    for _ in 0..runs {
        let start = Instant::now();
        run(images[0])?;
        run_ms.push(milliseconds(start));
    }
    let mut result = json!({ "open_ms": open_ms, "run_ms": run_ms, "peak_bytes": peak_bytes()? });
    if embeddings {
        let all: Result<Vec<_>> = images.iter().map(|image| run(image)).collect();
        result["embeddings"] = json!(all?);
    }
    println!("{result}");
    Ok(())
}

fn milliseconds(start: Instant) -> f64 {
    1e3 * start.elapsed().as_secs_f64()
}

fn tract(file: &str, side: usize, threads: usize) -> Result<Run> {
    ensure!(threads == 1, "tract: expected 1 thread, found {threads}");
    let plan = tract_onnx::onnx()
        .model_for_path(file)?
        .with_input_fact(0, f32::fact([1, 3, side, side]).into())?
        .into_optimized()?
        .into_runnable()?;
    Ok(Box::new(move |pixels| {
        let input = Tensor::from_shape(&[1, 3, side, side], pixels)?;
        let output = plan.run(tvec!(input.into()))?;
        Ok(output[0]
            .to_plain_array_view::<f32>()?
            .iter()
            .copied()
            .collect())
    }))
}

fn rten(file: &str, side: usize, threads: usize) -> Result<Run> {
    let pool = rten::ThreadPool::with_num_threads(threads);
    let model = rten::ModelOptions::with_all_ops()
        .prepack_weights(true)
        .load_file(file)?;
    let pool = std::sync::Arc::new(pool);
    Ok(Box::new(move |pixels| {
        let input = rten_tensor::NdTensorView::from_data([1, 3, side, side], pixels);
        let options = rten::RunOptions::default().with_thread_pool(Some(pool.clone()));
        let output = model.run_one(input.into(), Some(options))?;
        let output = output.into_tensor::<f32>().context("expected f32")?;
        Ok(output.to_vec())
    }))
}

/// The peak memory of this process, from Linux.
fn peak_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(1024 * kilobytes.context("no VmHWM")?.parse::<u64>()?)
}
