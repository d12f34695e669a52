//! Standard output and standard error of a program that runs for months.
//!
//! Either may be closed, full, or a pipe that nobody reads, and none of that may stop the appliance. Each is written by
//! a thread of its own, from a queue of bounded length. [`out`] and [`err`] never wait: a line that does not fit into
//! the queue, or that cannot be written, is lost and counted.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use pinhole::internal::PrintableWriter;

/// Maximum number of lines that wait for the reader of a stream.
const QUEUE_LINES: usize = 256;

static OUT: LazyLock<LineWriter> = LazyLock::new(|| LineWriter::start(std::io::stdout()));
static ERR: LazyLock<LineWriter> = LazyLock::new(|| LineWriter::start(std::io::stderr()));

/// Queues a line for standard output.
pub fn out(line: &str) {
    OUT.write(line);
}

/// Queues a line, or lines, for standard error.
pub fn err(line: &str) {
    ERR.write(line);
}

/// Number of lines lost so far.
pub fn lost() -> u64 {
    OUT.lost() + ERR.lost()
}

/// Waits until the queued lines are written, for at most `timeout`.
pub fn flush(timeout: Duration) {
    let until = Instant::now() + timeout;
    OUT.flush(until);
    ERR.flush(until);
}

/// Reports panics of any thread through [`err`]: the default hook would block in a pipe that nobody reads.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        err(&format!("thread {name}: {panic}"));
        // A panic of the main thread ends the program.
        flush(Duration::from_secs(1));
    }));
}

/// The thread of one stream.
struct LineWriter {
    /// `None` if the thread could not be started.
    sender: Option<SyncSender<String>>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    queued: AtomicU64,
    written: AtomicU64,
    lost: AtomicU64,
}

impl LineWriter {
    fn start(stream: impl Write + Send + 'static) -> Self {
        // A name from a bundle must not control a terminal.
        let mut stream = PrintableWriter(stream);
        let (sender, lines) = sync_channel::<String>(QUEUE_LINES);
        let counters = Arc::<Counters>::default();
        let counts = counters.clone();
        // Not joined: it may be blocked for ever.
        let thread = std::thread::Builder::new()
            .name("console".into())
            .spawn(move || {
                for line in lines {
                    let written = (stream.write_all(line.as_bytes())).and_then(|()| stream.flush());
                    let count = match written {
                        Ok(()) => &counts.written,
                        Err(_) => &counts.lost,
                    };
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
        Self {
            sender: thread.is_ok().then_some(sender),
            counters,
        }
    }

    fn write(&self, line: &str) {
        self.counters.queued.fetch_add(1, Ordering::SeqCst);
        let line = format!("{line}\n");
        let sender = self.sender.as_ref();
        if sender.is_none_or(|sender| sender.try_send(line).is_err()) {
            self.counters.lost.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn lost(&self) -> u64 {
        self.counters.lost.load(Ordering::SeqCst)
    }

    fn flush(&self, until: Instant) {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let counters = &self.counters;
        while count(&counters.written) + count(&counters.lost) < count(&counters.queued)
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A stream whose writes wait for a message, and fail if the message says so.
    struct Slow {
        results: Receiver<bool>,
        written: Arc<Mutex<String>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if !self.results.recv().unwrap_or(false) {
                return Err(std::io::Error::other("full"));
            }
            self.written
                .lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stream_that_nobody_reads_costs_lines_and_no_time() {
        let (release, results) = channel();
        let written = Arc::<Mutex<String>>::default();
        let writer = LineWriter::start(Slow {
            results,
            written: written.clone(),
        });
        let start = Instant::now();
        for n in 0..1000 {
            writer.write(&format!("line\x1b {n}"));
        }
        writer.flush(Instant::now() + Duration::from_millis(50));
        assert!(start.elapsed() < Duration::from_secs(5), "{start:?}");
        // The queue and the line that is being written.
        let lost = writer.lost();
        assert!((743..=745).contains(&lost), "{lost}");
        // The first lines are kept. One cannot be written.
        for n in 0..300 {
            release.send(n != 1).unwrap();
        }
        writer.flush(Instant::now() + Duration::from_secs(20));
        assert_eq!(writer.lost(), lost + 1);
        assert!(
            written
                .lock()
                .unwrap()
                .starts_with("line\\x1b 0\nline\\x1b 2\nline\\x1b 3\n")
        );
    }
}
