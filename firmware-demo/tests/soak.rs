//! Runs the appliance under random faults: damaged frames, a source that stalls or closes, failures of the display, the
//! log and the broker, new bundles, some of them bad. It must not crash or leak, and its counters must add up.
//!
//! The default is 10 seconds; `PINHOLE_SOAK_SECONDS=1200 tests/firmware/run` takes 20 minutes. The broker is mosquitto;
//! without it, there is no broker.

mod support;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pinhole_firmware::counters::RunCounters;
use pinhole_firmware::log::{self, RecordKind};
use support::{Program, assert_sums, assets, copy, make_pipe, scenes};

/// A linear congruential generator (Numerical Recipes).
struct Random(u32);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(self.0) * u64::from(n)) >> 32) as u32
    }
}

/// Writes 25 frames per second to the pipe until `until`, with faults.
fn film(pipe: &Path, until: Instant) {
    let scenes = scenes();
    let mut random = Random(1);
    let mut out = open_pipe(pipe, until);
    let mut scene = 0;
    let mut number = 0;
    while Instant::now() < until {
        let frame = &scenes[scene];
        number += 1;
        let sent = match random.below(200) {
            _ if number % 50 == 0 => out.write_all(&without_tables(frame)),
            // Truncated; zeros; noise; a frame without an end.
            0 => out.write_all(&frame[..frame.len() / 2]),
            1 => out.write_all(&[0; 5000]),
            2 => {
                let noise: Vec<u8> = (0..50_000).map(|_| random.below(256) as u8).collect();
                out.write_all(&noise)
            }
            3 => {
                let endless = vec![0x55; 100_000];
                out.write_all(&frame[..frame.len() - 2])
                    .and_then(|()| (0..40).try_for_each(|_| out.write_all(&endless)))
            }
            4 if random.below(4) == 0 => {
                std::thread::sleep(Duration::from_secs(3));
                Ok(())
            }
            5 if random.below(4) == 0 => {
                out = open_pipe(pipe, until);
                Ok(())
            }
            6..10 => {
                scene = random.below(scenes.len() as u32) as usize;
                Ok(())
            }
            _ => out.write_all(frame),
        };
        if sent.is_err() {
            out = open_pipe(pipe, until);
        }
        std::thread::sleep(Duration::from_millis(40));
    }
}

/// A complete JPEG that cannot be decoded: its Huffman tables (ITU T.81, B.2.4.2) are zeros.
fn without_tables(jpeg: &[u8]) -> Vec<u8> {
    let mut damaged = jpeg.to_vec();
    for at in 0..jpeg.len() - 4 {
        if jpeg[at..at + 2] == [0xFF, 0xC4] {
            let length = usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
            damaged[at + 4..at + 2 + length].fill(0);
        }
    }
    damaged
}

/// Opens the pipe for writing once it has a reader.
fn open_pipe(pipe: &Path, until: Instant) -> File {
    use std::os::unix::fs::OpenOptionsExt;
    loop {
        // Without a reader this fails at once, so that the test always ends.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().write(true).custom_flags(flags).open(pipe);
        if let Ok(file) = file {
            rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::empty()).unwrap();
            return file;
        }
        let late = Instant::now() > until + Duration::from_secs(60);
        assert!(!late, "the pipe has no reader");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Starts mosquitto on `port`, if it is installed.
fn broker(folder: &Path, port: u16) -> Option<Program> {
    let config = folder.join("mosquitto.conf");
    std::fs::write(
        &config,
        format!("listener {port} 127.0.0.1\nallow_anonymous true\n"),
    )
    .unwrap();
    for program in ["mosquitto", "/usr/sbin/mosquitto"] {
        let broker = Command::new(program)
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(broker) = broker {
            return Some(Program(broker));
        }
    }
    None
}

/// Memory in kB, number of threads and number of open files of a process.
fn usage(child: &Child) -> (u64, u64, usize) {
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.unwrap().split_whitespace().next().unwrap();
        number.parse().unwrap()
    };
    let files = std::fs::read_dir(proc.join("fd")).unwrap().count();
    (field("VmRSS:"), field("Threads:"), files)
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

#[test]
fn random_faults_cause_no_crash_or_leak() {
    let seconds = std::env::var("PINHOLE_SOAK_SECONDS").map_or(10, |s| s.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    copy(&assets("demo"), &at("bundle"));
    make_pipe(&at("camera"));
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    std::fs::write(
        at("firmware.toml"),
        format!(
            "bundle = \"bundle\"\nthreads = 1\n[source]\nmjpeg = \"camera\"\ntimeout_seconds = 1.5\n\
             [display]\nkind = \"simulator\"\nfolder = \"screens\"\nwidth = 320\nheight = 240\nkeep = 20\n\
             [screen]\nidle_seconds = 4\n\
             [log]\nfolder = \"log\"\nmegabytes = 0.2\ninterval_seconds = 1\n\
             [mqtt]\nhost = \"127.0.0.1\"\nport = {port}\nkeep = 20\n"
        ),
    )
    .unwrap();
    let mut mosquitto = broker(folder.path(), port);
    if mosquitto.is_none() {
        eprintln!("mosquitto is not installed: there is no broker");
    }
    let stderr = at("stderr");
    let child = Command::new(env!("CARGO_BIN_EXE_pinhole-firmware"))
        .arg("run")
        .arg(at("firmware.toml"))
        .stdout(Stdio::null())
        .stderr(File::create(&stderr).unwrap())
        .spawn()
        .unwrap();
    let mut appliance = Program(child);
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let film = {
        let pipe = at("camera");
        std::thread::spawn(move || film(&pipe, end))
    };
    let mut random = Random(2);
    let mut usages = vec![];
    let network = at("bundle/image_encoder.onnx");
    let good = std::fs::read(&network).unwrap();
    let mut faults = [0_u32; 4];
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(500));
        if let Some(status) = appliance.0.try_wait().unwrap() {
            panic!("{status}: {}", std::fs::read_to_string(&stderr).unwrap());
        }
        usages.push(usage(&appliance.0));
        match random.below(24) {
            // The display fails or works again.
            0 | 1 => {
                let _ = std::fs::remove_dir_all(at("screens"));
                // The appliance may have created it again.
                let wrote = std::fs::write(at("screens"), "not a folder");
                faults[0] += u32::from(wrote.is_ok());
            }
            2..5 if at("screens").is_file() => std::fs::remove_file(at("screens")).unwrap(),
            // A new bundle, bad or good.
            5 => {
                let mut bad = good.clone();
                bad[random.below(good.len() as u32) as usize] ^= 0x10;
                std::fs::write(&network, &bad).unwrap();
                faults[1] += 1;
            }
            6 | 7 => std::fs::write(&network, &good).unwrap(),
            // The broker stops or starts.
            8 | 9 => {
                mosquitto = match mosquitto.take() {
                    Some(running) => {
                        drop(running);
                        faults[2] += 1;
                        None
                    }
                    None => broker(folder.path(), port),
                }
            }
            // The log's folder is deleted.
            10 => {
                let _ = std::fs::remove_dir_all(at("log"));
                faults[3] += 1;
            }
            _ => {}
        }
    }
    // End all faults, so that what is waiting can be written.
    if at("screens").is_file() {
        std::fs::remove_file(at("screens")).unwrap();
    }
    if mosquitto.is_none() {
        mosquitto = broker(folder.path(), port);
    }
    std::thread::sleep(Duration::from_secs(2));
    let pid = rustix::process::Pid::from_child(&appliance.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let stopped = Instant::now();
    let status = appliance.0.wait().unwrap();
    let ending = stopped.elapsed();
    film.join().unwrap();
    drop(mosquitto);

    let stderr = std::fs::read_to_string(&stderr).unwrap();
    assert!(status.success(), "{status}: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(ending < Duration::from_secs(20), "{ending:?}");
    let counters: RunCounters = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    let t = &counters;
    eprintln!(
        "faults: display {}, bundle {}, broker {}, log {}",
        faults[0], faults[1], faults[2], faults[3]
    );
    eprintln!("{}", serde_json::to_string(t).unwrap());
    assert_sums(t);
    assert_eq!(t.published, t.events, "{t:?}");
    assert!(t.classified > 0 && t.events > 0 && t.corrupt > 0, "{t:?}");
    let last = log::read(at("log")).unwrap().last().unwrap().unwrap();
    assert!(matches!(last.kind, RecordKind::End { .. }), "{last:?}");
    let bytes: u64 = std::fs::read_dir(at("log"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= 200_000, "{bytes}");

    // Compare the second quarter of the time with the last: memory, threads and files must not grow.
    let quarter = usages.len() / 4;
    let of = |part: &[(u64, u64, usize)]| {
        (
            median(part.iter().map(|s| s.0).collect()),
            median(part.iter().map(|s| s.1).collect()),
            median(part.iter().map(|s| s.2 as u64).collect()),
        )
    };
    let quarters = [0, 1, 2, 3].map(|i| of(&usages[i * quarter..(i + 1) * quarter]));
    eprintln!("kB, threads and files in each quarter: {quarters:?}");
    let (early, late) = (quarters[1], quarters[3]);
    assert!(late.0 < early.0 + early.0 / 4, "{early:?} {late:?}");
    assert!(
        late.1 <= early.1 + 2 && late.2 <= early.2 + 4,
        "{early:?} {late:?}"
    );
}
