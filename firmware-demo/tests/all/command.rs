//! The command line: notifications to systemd, a clean stop, errors about the configuration.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use pinhole_firmware::log::{self, RecordKind};

use crate::support::{Program, assets};

fn firmware() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pinhole-firmware"))
}

/// A configuration in `folder` whose source repeats the scenes endlessly.
fn configuration(folder: &Path, more: &str) -> PathBuf {
    let path = folder.join("firmware.toml");
    let scenes = assets("scenes.mjpeg");
    let program = format!("while cat '{}'; do sleep 0.1; done", scenes.display());
    let text = format!(
        "bundle = {:?}\n[source]\ncommand = [\"sh\", \"-c\", {program:?}]\n[log]\nfolder = \"log\"\n{more}",
        assets("demo"),
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[track_caller]
fn wait(program: &mut Program, seconds: u64) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = program.0.try_wait().unwrap() {
            return status;
        }
        assert!(
            start.elapsed() < Duration::from_secs(seconds),
            "the program does not stop"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn terminate(program: &Program) {
    let pid = rustix::process::Pid::from_child(&program.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

#[test]
fn systemd_is_notified_of_start_watchdog_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let receiver = UnixDatagram::bind(&socket).unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let notification = || {
        let mut buffer = [0; 1000];
        let length = receiver.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    let child = firmware()
        .arg("run")
        .arg(configuration(folder.path(), ""))
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "600000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut appliance = Program(child);
    assert_eq!(notification(), "READY=1");
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(notification(), "WATCHDOG=1");
        assert!(
            start.elapsed() < Duration::from_millis(600),
            "{:?}",
            start.elapsed()
        );
    }
    terminate(&appliance);
    while notification() != "STOPPING=1" {}
    let status = wait(&mut appliance, 30);
    assert!(status.success(), "{status}");
    let records: Vec<RecordKind> = log::read(folder.path().join("log"))
        .unwrap()
        .map(|record| record.unwrap().kind)
        .collect();
    assert!(
        matches!(records.last(), Some(RecordKind::End { .. })),
        "{records:?}"
    );
}

#[test]
fn record_writes_an_animated_png() {
    let folder = tempfile::tempdir().unwrap();
    let config = configuration(folder.path(), "");
    let record = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let output = firmware()
            .arg("record")
            .arg(&config)
            .arg("--out")
            .arg(&out)
            .args(["--seconds", "3"])
            .args(more)
            .output()
            .unwrap();
        (out, output)
    };
    let (moving, output) = record("moving.png", &["--display", "320x240"]);
    assert!(output.status.success(), "{output:?}");
    let bytes = std::fs::read(&moving).unwrap();
    let reader = png::Decoder::new(std::io::Cursor::new(&bytes))
        .read_info()
        .unwrap();
    assert_eq!((reader.info().width, reader.info().height), (320, 240));
    let frames = reader.info().animation_control().unwrap().num_frames;
    assert!(frames >= 2, "{frames}");
    let oled = [
        "--display",
        "128x64",
        "--monochrome",
        "--still",
        "--scale",
        "2",
    ];
    let (still, output) = record("still.png", &oled);
    assert!(output.status.success(), "{output:?}");
    let image = pinhole::open_image(&still, &pinhole::DecodeOptions::default()).unwrap();
    assert_eq!((image.width, image.height), (256, 128));
    assert!(image.data.iter().all(|v| [0, 255].contains(v)));
    // An existing file is not overwritten.
    let (_, output) = record("still.png", &oled);
    assert_error(&output, "still.png: exists already");
}

#[track_caller]
fn assert_error(output: &Output, expected: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(stderr.contains(expected), "{stderr}");
}

#[test]
fn check_reports_results_and_errors() {
    let folder = tempfile::tempdir().unwrap();
    let check = |more: &str| {
        let config = configuration(folder.path(), more);
        firmware().arg("check").arg(config).output().unwrap()
    };
    let simulator = "[display]\nkind = \"simulator\"\n";
    let output = check(simulator);
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    for line in ["bundle: ", "fonts: every", "log: ", "display: 240 x 240"] {
        assert!(stdout.contains(line), "{stdout}");
    }
    assert!(folder.path().join("screens/screen.png").exists());
    for (more, expected) in [
        ("[screen]\nfonts = [\"firmware.toml\"]\n", "screen.fonts: "),
        ("[screen]\nfonts = [\"none.ttf\"]\n", "none.ttf"),
        (
            "[screen]\nrate = 0\n",
            "screen.rate: expected 0.1 to 60, found 0",
        ),
        ("[screen]\ncolour = \"red\"\n", "unknown field `colour`"),
        ("[display]\nkind = \"paper\"\n", "unknown variant `paper`"),
        (
            "[display]\nkind = \"ssd1306\"\naddress = 12\n",
            "display.address: expected 0x3c or 0x3d, found 0xc",
        ),
        (
            "[display]\nkind = \"ssd1306\"\ni2c = \"/nowhere/i2c\"\n",
            "/nowhere/i2c",
        ),
        (
            "[display]\nkind = \"framebuffer\"\ndevice = \"/nowhere/fb0\"\n",
            "/nowhere/fb0",
        ),
        (
            "[mqtt]\nhost = \"\"\n",
            "mqtt.host: expected a name or an address",
        ),
        (
            "[thresholds]\nhysteresis = 0\n",
            "thresholds.hysteresis: expected 1 or more, found 0",
        ),
        ("[", "TOML parse error"),
    ] {
        assert_error(&check(more), expected);
    }
    let nowhere = folder.path().join("none.toml");
    let output = firmware().arg("run").arg(nowhere).output().unwrap();
    assert_error(&output, "none.toml: cannot read");
}

/// Everything that `run` would fail with later, each with its field.
#[test]
fn check_reports_every_field_that_cannot_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("firmware.toml");
    let check = |text: &str| {
        std::fs::write(&path, text).unwrap();
        firmware().arg("check").arg(&path).output().unwrap()
    };
    let bundle = format!("bundle = {:?}\n", assets("demo"));
    for (lines, expected) in [
        (
            "[source]\ncommand = [\"pinhole-no-such-camera\", \"-o\", \"-\"]\n",
            "source.command: pinhole-no-such-camera: expected a program, found none in PATH",
        ),
        (
            "[source]\ncommand = [\"./firmware.toml\"]\n",
            "source.command: ./firmware.toml: Permission denied",
        ),
        ("[source]\nmjpeg = \"nowhere\"\n", "source.mjpeg: "),
        ("[source]\ny4m = \".\"\n", "source.y4m: "),
        ("[source]\nfolder = \"firmware.toml\"\n", "source.folder: "),
        ("[source]\ndevice = \"/nowhere/video0\"\n", "source.device"),
        (
            "[source]\nurl = \"http://127.0.0.1/a.jpg\"\ninterval_seconds = 5\n",
            "source.interval_seconds: expected less than source.timeout_seconds (5 s), found 5 s",
        ),
    ] {
        let output = check(&format!("{bundle}{lines}"));
        assert_error(&output, expected);
        // The other parts were checked too.
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(stdout.contains("display: none"), "{stdout}");
    }
    let source = "[source]\nmjpeg = \"-\"\n";
    let log = "[log]\nfolder = \"firmware.toml/log\"\n";
    assert_error(&check(&format!("{bundle}{source}{log}")), "log.folder: ");
    #[cfg(feature = "mqtt")]
    {
        let mqtt = "[mqtt]\nhost = \"mqtt://broker.local\"\nport = 8883\n";
        let output = check(&format!("{bundle}{source}{mqtt}"));
        assert_error(&output, "mqtt.host: expected a name or an address alone");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            stdout.contains("mqtt.port: 8883 is usually a port for TLS"),
            "{stdout}"
        );
        let mqtt = "[mqtt]\nhost = \"broker\"\nuser = \"a\"\npassword_file = \"nowhere\"\n";
        assert_error(
            &check(&format!("{bundle}{source}{mqtt}")),
            "mqtt.password_file: ",
        );
        let mqtt = mqtt.replace("nowhere", "password");
        std::fs::write(folder.path().join("password"), "secret").unwrap();
        for (mode, warned) in [(0o644, true), (0o640, false)] {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.path().join("password"), mode).unwrap();
            let output = check(&format!("{bundle}{source}{mqtt}"));
            assert!(output.status.success(), "{output:?}");
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert_eq!(
                stdout.contains("every user of this machine can read"),
                warned,
                "{stdout}"
            );
        }
    }
    // A disk that is not mounted.
    std::fs::create_dir(folder.path().join("disk")).unwrap();
    assert_error(
        &check(&format!("bundle = \"disk\"\n{source}")),
        "disk: expected a bundle, found an empty folder; if a disk belongs there, mount it",
    );
    // Several at once.
    let output = check(&format!("bundle = \"nowhere\"\n{log}{source}"));
    assert_error(&output, "bundle: ");
    assert_error(&output, "log.folder: ");
}

#[test]
fn more_threads_than_the_machine_has_are_reported_and_clamped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("firmware.toml");
    let text = format!(
        "bundle = {:?}\nthreads = 100000\n[source]\nmjpeg = \"-\"\n",
        assets("demo")
    );
    std::fs::write(&path, text).unwrap();
    let output = firmware().arg("check").arg(&path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("threads: expected 1 to "), "{stdout}");
    assert!(stdout.contains("found 100000; using "), "{stdout}");
}

#[test]
fn a_configuration_in_another_encoding_is_an_error_that_names_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("firmware.toml");
    for (bytes, expected) in [
        (
            &b"bundle = \"b\"\n[source]\n# T\xFCr\nmjpeg = \"-\"\n"[..],
            "firmware.toml: line 3: expected UTF-8, found the byte 0xFC; save the file as UTF-8",
        ),
        (
            b"\xFF\xFEb\0u\0",
            "firmware.toml: expected UTF-8, found UTF-16",
        ),
    ] {
        std::fs::write(&path, bytes).unwrap();
        for command in ["check", "run"] {
            let output = firmware().arg(command).arg(&path).output().unwrap();
            assert_error(&output, expected);
        }
    }
    // A byte order mark is no error.
    std::fs::write(&path, b"\xEF\xBB\xBFnonsense = 1").unwrap();
    let output = firmware().arg("check").arg(&path).output().unwrap();
    assert_error(&output, "unknown field `nonsense`");
}

/// A missing font or password must not stop what the appliance is for.
#[test]
fn optional_parts_do_not_stop_the_appliance() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("firmware.toml");
    let text = format!(
        "bundle = {:?}\n[source]\nmjpeg = {:?}\n[screen]\nfonts = [\"none.ttf\"]\n\
         [mqtt]\nhost = \"mqtt://broker\"\nuser = \"a\"\npassword_file = \"none\"\n",
        assets("demo"),
        assets("scenes.mjpeg"),
    );
    std::fs::write(&path, text).unwrap();
    let output = firmware().arg("run").arg(&path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("screen.fonts: ") && stderr.contains("none.ttf"),
        "{stderr}"
    );
}

#[test]
fn two_sources_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("two.toml");
    std::fs::write(
        &path,
        "bundle = \"b\"\n[source]\nmjpeg = \"-\"\nfolder = \"f\"\n",
    )
    .unwrap();
    let output = firmware().arg("check").arg(path).output().unwrap();
    assert_error(
        &output,
        "source: expected one of command, url, mjpeg, y4m, folder and device, found 2",
    );
}

#[test]
fn wrong_usage_has_exit_code_2() {
    let output = firmware()
        .arg("https://me:secret@example.org/a.pt")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("secret"));
    let output = firmware()
        .args(["record", "a.toml", "--out", "b", "--display", "9x9"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
