//! The priority of the server's threads.

/// How much lower than that of classification.
const NICENESS: i32 = 10;

/// Gives the calling thread a lower priority than the threads that classify. Where the system refuses, it stays.
pub(crate) fn yield_to_classification() {
    // On Linux this is a property of the thread, not of the process (setpriority(2)).
    let _ = rustix::process::setpriority_process(None, NICENESS);
}
