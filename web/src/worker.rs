//! The thread that classifies images which clients send. It takes the time that the camera leaves.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use pinhole::internal::{ImageAnswer, catch_panic};
use pinhole::{DecodeOptions, Image};

use crate::error::WebError;
use crate::fault::{Fault, panicked};
use crate::jobs::{Job, Jobs};
use crate::live::Shared;

/// Images that wait for their turn.
const QUEUE: usize = 8;
/// Longest pause between two images.
const MAX_REST: Duration = Duration::from_secs(10);

/// An image file that a client sends, to classify: the answer is that of `pinhole classify --json`.
pub(crate) struct SentImage {
    pub(crate) bytes: Bytes,
    /// Number of classes.
    pub(crate) top: usize,
}

/// Starts the thread.
pub(crate) fn start(
    shared: Arc<Shared>,
    decode: DecodeOptions,
) -> Result<Jobs<SentImage>, WebError> {
    let busy = "other images are being classified";
    Jobs::start("classify", QUEUE, busy, move |jobs| {
        run(jobs, &shared, &decode);
    })
}

fn run(jobs: &Receiver<Job<SentImage>>, shared: &Shared, decode: &DecodeOptions) {
    for Job { request, reply } in jobs {
        if reply.is_closed() {
            continue;
        }
        let start = Instant::now();
        let answer = catch_panic(|| classify(&request, shared, decode));
        let answer = answer.unwrap_or_else(|panic| Err(panicked(panic)));
        let took = start.elapsed();
        let _ = reply.send(answer);
        // With a share of 1/4 it rests for three times as long as it worked.
        let rest = took.mul_f64(1.0 / shared.free_share() - 1.0);
        std::thread::sleep(rest.min(MAX_REST));
    }
}

fn classify(sent: &SentImage, shared: &Shared, decode: &DecodeOptions) -> Result<String, Fault> {
    let classifier = shared.classifier().ok_or_else(Fault::no_bundle)?;
    let start = Instant::now();
    let image = Image::decode(&sent.bytes, decode).map_err(|e| Fault::Request(e.to_string()))?;
    let decoded = start.elapsed();
    let answer = classifier.classify(&image)?;
    serde_json::to_string(&ImageAnswer::new(None, &answer, sent.top, decoded))
        .map_err(|e| Fault::Server(e.to_string()))
}
