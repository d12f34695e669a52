//! The thread that classifies images which clients send. It takes the time that the camera leaves.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use pinhole::internal::{ImageAnswer, catch_panic};
use pinhole::{DecodeOptions, Image};
use tokio::sync::oneshot;

use crate::error::WebError;
use crate::fault::{Fault, panicked};
use crate::live::Shared;

/// Images that wait for their turn.
const QUEUE: usize = 8;
/// Longest pause between two images.
const MAX_REST: Duration = Duration::from_secs(10);
/// Why an image is not taken.
pub(crate) const BUSY: &str = "other images are being classified";

struct Job {
    bytes: Bytes,
    top: usize,
    reply: oneshot::Sender<Result<String, Fault>>,
}

/// The thread's inlet. It ends when all clones are dropped.
#[derive(Clone)]
pub(crate) struct Worker {
    jobs: SyncSender<Job>,
}

impl Worker {
    pub(crate) fn start(shared: Arc<Shared>, decode: DecodeOptions) -> Result<Self, WebError> {
        let (jobs, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("classify".into());
        let spawned = thread.spawn(move || {
            crate::threads::yield_to_classification();
            run(&receiver, &shared, &decode);
        });
        spawned.map_err(|error| WebError::Thread {
            name: "classify",
            error,
        })?;
        Ok(Self { jobs })
    }

    /// Classifies an image file; the answer is that of `pinhole classify --json`.
    pub(crate) async fn classify(&self, bytes: Bytes, top: usize) -> Result<String, Fault> {
        let (reply, answer) = oneshot::channel();
        match self.jobs.try_send(Job { bytes, top, reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(Fault::Busy(BUSY.into())),
            Err(TrySendError::Disconnected(_)) => {
                return Err(Fault::Server("the thread has ended".into()));
            }
        }
        let gone = |_| Fault::Server("the thread has ended".into());
        answer.await.map_err(gone)?
    }
}

fn run(jobs: &Receiver<Job>, shared: &Shared, decode: &DecodeOptions) {
    for job in jobs {
        // The client may have gone while it waited.
        if job.reply.is_closed() {
            continue;
        }
        let start = Instant::now();
        let answer = catch_panic(|| classify(&job, shared, decode));
        let answer = answer.unwrap_or_else(|panic| Err(panicked(panic)));
        let took = start.elapsed();
        let _ = job.reply.send(answer);
        // With a share of 1/4 it rests for three times as long as it worked.
        let rest = took.mul_f64(1.0 / shared.free_share() - 1.0);
        std::thread::sleep(rest.min(MAX_REST));
    }
}

fn classify(job: &Job, shared: &Shared, decode: &DecodeOptions) -> Result<String, Fault> {
    let classifier = shared.classifier().ok_or_else(Fault::no_bundle)?;
    let start = Instant::now();
    let image = Image::decode(&job.bytes, decode).map_err(|e| Fault::Request(e.to_string()))?;
    let decoded = start.elapsed();
    let answer = classifier.classify(&image)?;
    serde_json::to_string(&ImageAnswer::new(None, &answer, job.top, decoded))
        .map_err(|e| Fault::Server(e.to_string()))
}
