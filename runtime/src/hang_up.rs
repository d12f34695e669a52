//! SIGHUP, which ends a program when its terminal is closed.

/// Whether this process ignores SIGHUP, as `nohup` makes it and what it starts: then a program is to go on.
pub fn ignores_hang_up() -> bool {
    // Bit 0 of the mask (proc_pid_status(5)).
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}
