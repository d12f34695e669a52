//! The appliance for some time with faults at random: damaged frames, a source that stalls or closes, a display, a
//! log and a broker that fail, bundles that come and are bad. It must not crash or grow, and its counters must add up.
//!
//! `PINHOLE_SOAK_SECONDS=1200 tests/firmware/run` does so for 20 minutes; `cargo test` for 10 seconds.
//! The broker is mosquitto where it is installed, else nobody.

mod support;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pinhole_firmware::log::{self, What};
use pinhole_firmware::totals::Totals;
use support::{Program, assert_sums, assets, copy, make_pipe, scenes};

/// A linear congruential generator (Numerical Recipes): any faults will do.
struct Chance(u32);

impl Chance {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(self.0) * u64::from(n)) >> 32) as u32
    }
}

/// The camera's end of the pipe: 25 frames a second until `until`, with faults.
fn film(pipe: &Path, until: Instant) {
    let scenes = scenes();
    let mut chance = Chance(1);
    let mut out = open_pipe(pipe, until);
    let mut scene = 0;
    let mut number = 0;
    while Instant::now() < until {
        let frame = &scenes[scene];
        number += 1;
        let sent = match chance.below(200) {
            _ if number % 50 == 0 => out.write_all(&without_tables(frame)),
            // Truncated; zeros; noise; a frame without an end.
            0 => out.write_all(&frame[..frame.len() / 2]),
            1 => out.write_all(&[0; 5000]),
            2 => {
                let noise: Vec<u8> = (0..50_000).map(|_| chance.below(256) as u8).collect();
                out.write_all(&noise)
            }
            3 => {
                let endless = vec![0x55; 100_000];
                out.write_all(&frame[..frame.len() - 2])
                    .and_then(|()| (0..40).try_for_each(|_| out.write_all(&endless)))
            }
            4 if chance.below(4) == 0 => {
                std::thread::sleep(Duration::from_secs(3));
                Ok(())
            }
            5 if chance.below(4) == 0 => {
                out = open_pipe(pipe, until);
                Ok(())
            }
            6..10 => {
                scene = chance.below(scenes.len() as u32) as usize;
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

/// A JPEG that is whole but cannot be decoded: its Huffman tables (ITU T.81, B.2.4.2) are zeros.
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

/// Opens the pipe for writing once somebody reads it.
fn open_pipe(pipe: &Path, until: Instant) -> File {
    use std::os::unix::fs::OpenOptionsExt;
    loop {
        // Without a reader this fails at once, so that the test ends in any case.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().write(true).custom_flags(flags).open(pipe);
        if let Ok(file) = file {
            rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::empty()).unwrap();
            return file;
        }
        let late = Instant::now() > until + Duration::from_secs(60);
        assert!(!late, "nobody reads the pipe");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// mosquitto on `port`, if it is installed.
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

/// Memory in use, threads and open files of a process.
fn size(child: &Child) -> (u64, u64, usize) {
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
fn faults_at_random_do_no_lasting_harm() {
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
        eprintln!("mosquitto is not installed: nobody takes the events");
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
    let mut chance = Chance(2);
    let mut sizes = vec![];
    let network = at("bundle/image_encoder.onnx");
    let good = std::fs::read(&network).unwrap();
    let mut faults = [0_u32; 4];
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(500));
        if let Some(status) = appliance.0.try_wait().unwrap() {
            panic!("{status}: {}", std::fs::read_to_string(&stderr).unwrap());
        }
        sizes.push(size(&appliance.0));
        match chance.below(24) {
            // The display fails, or works again.
            0 | 1 => {
                let _ = std::fs::remove_dir_all(at("screens"));
                // The appliance may have made it again meanwhile.
                let wrote = std::fs::write(at("screens"), "no folder");
                faults[0] += u32::from(wrote.is_ok());
            }
            2..5 if at("screens").is_file() => std::fs::remove_file(at("screens")).unwrap(),
            // Another bundle, bad or good.
            5 => {
                let mut bad = good.clone();
                bad[chance.below(good.len() as u32) as usize] ^= 0x10;
                std::fs::write(&network, &bad).unwrap();
                faults[1] += 1;
            }
            6 | 7 => std::fs::write(&network, &good).unwrap(),
            // The broker goes or comes.
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
            // The log's folder is gone, or cannot be made.
            10 => {
                let _ = std::fs::remove_dir_all(at("log"));
                faults[3] += 1;
            }
            _ => {}
        }
    }
    // All is well at the end, so that what is left can be written.
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

    let said = std::fs::read_to_string(&stderr).unwrap();
    assert!(status.success(), "{status}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(ending < Duration::from_secs(20), "{ending:?}");
    let totals: Totals = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let t = &totals;
    eprintln!(
        "faults: display {}, bundle {}, broker {}, log {}",
        faults[0], faults[1], faults[2], faults[3]
    );
    eprintln!("{}", serde_json::to_string(t).unwrap());
    assert_sums(t);
    assert_eq!(t.published, t.events, "{t:?}");
    assert!(t.classified > 0 && t.events > 0 && t.corrupt > 0, "{t:?}");
    let last = log::read(at("log")).unwrap().last().unwrap().unwrap();
    assert!(matches!(last.what, What::End { .. }), "{last:?}");
    let bytes: u64 = std::fs::read_dir(at("log"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= 200_000, "{bytes}");

    // The second quarter of the time beside the last: no growth of memory (kB), threads or files.
    let quarter = sizes.len() / 4;
    let of = |part: &[(u64, u64, usize)]| {
        (
            median(part.iter().map(|s| s.0).collect()),
            median(part.iter().map(|s| s.1).collect()),
            median(part.iter().map(|s| s.2 as u64).collect()),
        )
    };
    let quarters = [0, 1, 2, 3].map(|i| of(&sizes[i * quarter..(i + 1) * quarter]));
    eprintln!("kB, threads, files, in the quarters of the time: {quarters:?}");
    let (early, late) = (quarters[1], quarters[3]);
    assert!(late.0 < early.0 + early.0 / 4, "{early:?} {late:?}");
    assert!(
        late.1 <= early.1 + 2 && late.2 <= early.2 + 4,
        "{early:?} {late:?}"
    );
}
