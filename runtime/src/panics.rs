//! Panics of other crates that become errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether a panic on this thread becomes an error, which needs no report of its own.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, which calls a crate that panics on some input; the panic is not reported on standard error.
///
/// # Errors
/// The panic's message.
pub fn catch<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = take_hook();
        set_hook(Box::new(move |panic| {
            if !CAUGHT.get() {
                report(panic);
            }
        }));
    });
    let outer = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    CAUGHT.set(outer);
    result.map_err(|panic| {
        let reason = panic.downcast_ref::<String>().map(String::as_str);
        let reason = reason.or_else(|| panic.downcast_ref::<&str>().copied());
        reason.unwrap_or("no reason given").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// In a process of its own, because standard error is the process's.
    #[test]
    fn a_panic_that_becomes_an_error_is_not_reported() {
        const CHILD: &str = "PINHOLE_TEST_OF_A_PANIC";
        if std::env::var_os(CHILD).is_some() {
            let reason = catch(|| panic!("a graph")).map(drop::<()>).unwrap_err();
            assert_eq!(reason, "a graph");
            return;
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "a_panic_that_becomes_an_error_is_not_reported",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}
