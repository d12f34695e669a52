//! Kills a program again and again, at times that are spread over its run. Part of the tests of several crates; the
//! command `tests/kill/run` runs them with 200 kills.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How many kills: `PINHOLE_KILLS`, else `few`.
pub fn kills(few: u32) -> u32 {
    let asked = std::env::var("PINHOLE_KILLS");
    asked.map_or(few, |count| count.parse().expect("PINHOLE_KILLS: a number"))
}

/// How long a program takes that is not killed: what its kills are spread over.
pub struct Spread {
    whole: Duration,
    /// In (0, 1), moved by the golden ratio each time, which spreads any number of values evenly.
    at: f64,
}

impl Spread {
    /// Runs the program to its end, which must succeed.
    #[track_caller]
    pub fn measure(command: &mut Command) -> Self {
        let start = Instant::now();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Self {
            whole: start.elapsed(),
            at: 0.0,
        }
    }

    /// Starts the program and kills it at the next time. Returns its output if it ended before.
    pub fn kill(&mut self, command: &mut Command) -> Option<std::process::Output> {
        self.at = (self.at + 0.618_034) % 1.0;
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let alive = self.whole.mul_f64(1.1 * self.at);
        if !ended_within(&mut child, alive) {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let ended = output.status.code().is_some();
        // The machine's speed may change.
        if ended {
            self.whole = self.whole.min(start.elapsed());
        } else if self.at > 0.9 {
            self.whole = self.whole.mul_f64(1.1);
        }
        ended.then_some(output)
    }
}

fn ended_within(child: &mut Child, time: Duration) -> bool {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    false
}

/// Temporary files and folders in `folder`.
pub fn temporaries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let hidden = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with('.')
    };
    paths.filter(hidden).collect()
}

/// The program, for files of at most `blocks` of 512 bytes: writing more fails, as on a full disk.
pub fn with_small_files(command: &Command, blocks: u32) -> Command {
    let mut limited = Command::new("sh");
    limited
        .arg("-c")
        // The signal would end the program before it sees the error.
        .arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\""))
        .arg("sh")
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            limited.env(name, value);
        }
    }
    limited
}

/// The program as a user who may not write to folders of mode 0555: root is made another user.
pub fn without_privileges(command: &mut Command, folder: &Path) {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    let (uid, gid) = (65_534, 65_534);
    let probe = folder.join("probe");
    std::fs::write(&probe, "").unwrap();
    let is_root = std::os::unix::fs::chown(&probe, Some(uid), Some(gid)).is_ok()
        && std::fs::metadata(&probe).unwrap().uid() == uid;
    std::fs::remove_file(&probe).unwrap();
    if is_root {
        command.uid(uid).gid(gid);
    }
}

/// Runs a shell script that mounts, in a namespace of its own. `None` if the system does not permit that.
pub fn with_mounts(script: &str, environment: &[(&str, &Path)]) -> Option<std::process::Output> {
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]);
        command.args(arguments).envs(environment.iter().copied());
        command.output().ok()
    };
    // Containers often forbid it.
    let probe = unshare(&["sh", "-c", "mount -t tmpfs tmpfs /mnt"])?;
    if !probe.status.success() {
        println!("skipped: this system does not permit mounts: {probe:?}");
        return None;
    }
    unshare(&["sh", "-ec", script])
}
