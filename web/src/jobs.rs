//! A thread that does what clients ask for, one request after the other.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::WebError;
use crate::fault::Fault;

/// A request, and the way of its answer, JSON; it is closed if the client has gone, or was told to try again.
pub(crate) struct Job<R> {
    pub(crate) request: R,
    pub(crate) reply: oneshot::Sender<Result<String, Fault>>,
}

/// The thread's inlet. The thread ends when this is dropped.
pub(crate) struct Jobs<R> {
    queue: SyncSender<Job<R>>,
    /// Why a request is not done while others are.
    busy: &'static str,
}

impl<R: Send + 'static> Jobs<R> {
    /// Starts the thread `name`, in which `run` does the jobs. At most `waiting` wait; `busy` says why not more.
    pub(crate) fn start(
        name: &'static str,
        waiting: usize,
        busy: &'static str,
        run: impl FnOnce(&Receiver<Job<R>>) + Send + 'static,
    ) -> Result<Self, WebError> {
        let (queue, jobs) = sync_channel(waiting);
        let thread = std::thread::Builder::new().name(name.into());
        let spawned = thread.spawn(move || {
            crate::threads::yield_to_classification();
            run(&jobs);
        });
        spawned.map_err(|error| WebError::Thread { name, error })?;
        Ok(Self { queue, busy })
    }

    /// The answer to a request, if there is one within `time`.
    pub(crate) async fn ask(&self, request: R, time: Duration) -> Result<String, Fault> {
        let busy = || Fault::Busy(self.busy.into());
        let gone = || Fault::Server("the thread has ended".into());
        let (reply, answer) = oneshot::channel();
        match self.queue.try_send(Job { request, reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(busy()),
            Err(TrySendError::Disconnected(_)) => return Err(gone()),
        }
        let answer = timeout(time, answer).await.map_err(|_| busy())?;
        answer.map_err(|_| gone())?
    }
}
