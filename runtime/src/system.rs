//! The state of the machine: temperature, clock, throttling, memory.
//!
//! Everything is read from Linux's /proc and /sys below a root folder, `/` except in tests. Values that a system does not
//! have, or that cannot be parsed, are `None`; nothing here fails or panics.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A machine, observed through its files.
///
/// ```
/// let machine = pinhole::system::System::new("/");
/// if let Some(celsius) = machine.temperature_c() {
///     println!("the processor has {celsius:.1} °C");
/// }
/// ```
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
}

/// Limit of each read: enough for every value, and for the first processor of /proc/cpuinfo.
const MAX_BYTES: u64 = 64 << 10;
/// `vcgencmd` answers within milliseconds, or never if the firmware hangs.
const VCGENCMD_TIMEOUT: Duration = Duration::from_secs(1);

impl System {
    /// The machine whose /proc and /sys are below `root`, usually "/".
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The board's name in the device tree ("Raspberry Pi 5 Model B Rev 1.0"), or else the processor's name in
    /// /proc/cpuinfo.
    pub fn machine(&self) -> Option<String> {
        let board = self.text("proc/device-tree/model");
        board.or_else(|| self.field("proc/cpuinfo", "model name"))
    }

    /// Temperature of the processor in degrees Celsius: the hottest of the thermal zones whose type names the processor
    /// (`cpu-thermal` on a Pi, `CPU-therm` on a Jetson, `x86_pkg_temp`), or else the hottest of all zones.
    pub fn temperature_c(&self) -> Option<f64> {
        let zones: Vec<(bool, f64)> = self
            .folders("sys/class/thermal", "thermal_zone")
            .filter_map(|zone| {
                let millidegrees: f64 = self.number(&zone, "temp")?;
                let celsius = millidegrees / 1e3;
                let kind = self.text(zone.join("type")).unwrap_or_default();
                let kind = kind.to_ascii_lowercase();
                let is_processor = kind.starts_with("cpu") || kind == "x86_pkg_temp";
                // A disabled sensor reports values such as -274.
                (-60.0..=150.0)
                    .contains(&celsius)
                    .then_some((is_processor, celsius))
            })
            .collect();
        let hottest = |of_processor: bool| {
            let zones = zones.iter().filter(|z| z.0 == of_processor);
            zones.map(|z| z.1).max_by(f64::total_cmp)
        };
        hottest(true).or_else(|| hottest(false))
    }

    /// Current clock in MHz, the mean over the processors (`scaling_cur_freq`).
    pub fn frequency_mhz(&self) -> Option<f64> {
        self.mean_frequency("scaling_cur_freq")
    }

    /// Maximum clock in MHz, the mean over the processors (`cpuinfo_max_freq`).
    pub fn max_frequency_mhz(&self) -> Option<f64> {
        self.mean_frequency("cpuinfo_max_freq")
    }

    fn mean_frequency(&self, file: &str) -> Option<f64> {
        let policies = self.folders("sys/devices/system/cpu/cpufreq", "policy");
        let kilohertz: Vec<f64> = policies
            .filter_map(|policy| self.number(&policy, file))
            .filter(|kilohertz| *kilohertz > 0.0)
            .collect();
        let sum: f64 = kilohertz.iter().sum();
        (!kilohertz.is_empty()).then(|| sum / kilohertz.len() as f64 / 1e3)
    }

    /// Whether the processor is throttled, by a Raspberry Pi's firmware or else by Linux's cooling devices.
    pub fn throttling(&self) -> Option<Throttling> {
        match self.firmware_flags() {
            Some(flags) => Some(Throttling { flags }),
            None => self.cooling(),
        }
    }

    /// The flags of a Raspberry Pi's firmware, from sysfs or else from `vcgencmd`.
    fn firmware_flags(&self) -> Option<u32> {
        let hexadecimal = |text: &str| {
            let text = text.trim().trim_start_matches("throttled=");
            u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
        };
        let file = self.text("sys/devices/platform/soc/soc:firmware/get_throttled");
        match file.as_deref().and_then(hexadecimal) {
            Some(flags) => Some(flags),
            None => hexadecimal(&output_of(
                &self.root.join("usr/bin/vcgencmd"),
                "get_throttled",
            )?),
        }
    }

    /// The state of cooling devices that lower the clock (the kernel's cpufreq_cooling, ACPI's `Processor`).
    fn cooling(&self) -> Option<Throttling> {
        let states: Vec<f64> = self
            .folders("sys/class/thermal", "cooling_device")
            .filter(|device| {
                let kind = self.text(device.join("type")).unwrap_or_default();
                kind.starts_with("cpufreq-")
                    || kind.starts_with("thermal-cpufreq-")
                    || kind == "Processor"
            })
            .filter_map(|device| self.number(&device, "cur_state"))
            .collect();
        let flags = if states.iter().any(|state| *state > 0.0) {
            Throttling::CAPPED
        } else {
            0
        };
        (!states.is_empty()).then_some(Throttling { flags })
    }

    /// Runnable processes, the mean over the last minute.
    pub fn load_average(&self) -> Option<f64> {
        let text = self.text("proc/loadavg")?;
        let load: f64 = text.split_whitespace().next()?.parse().ok()?;
        (0.0..1e6).contains(&load).then_some(load)
    }

    /// Processor time so far.
    pub fn cpu_time(&self) -> Option<CpuTime> {
        // USER_HZ, which is 100 on all architectures of today.
        let seconds = |ticks: u64| ticks as f64 / 100.0;
        let all = self.text("proc/stat")?;
        let all = all.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let all: Vec<u64> = all.map(|n| n.parse().ok()).collect::<Option<_>>()?;
        // user, nice, system, idle, iowait, irq, softirq, steal; then guests, which are part of user and nice.
        let [user, nice, system, _, _, irq, softirq, steal, ..] = all[..] else {
            return None;
        };
        let own = self.text("proc/self/stat")?;
        // The name in parentheses may contain spaces. Fields 14 and 15 are the times in user and kernel mode.
        let mut own = own.rsplit_once(')')?.1.split_whitespace().skip(11);
        let own = own.next()?.parse::<u64>().ok()? + own.next()?.parse::<u64>().ok()?;
        let all = [user, nice, system, irq, softirq, steal].iter().sum();
        Some(CpuTime {
            own: seconds(own),
            others: seconds(u64::saturating_sub(all, own)),
        })
    }

    /// Peak resident memory of this process in bytes (`VmHWM` of /proc/self/status).
    pub fn peak_rss_bytes(&self) -> Option<u64> {
        let text = self.field("proc/self/status", "VmHWM")?;
        let kibibytes: u64 = text.strip_suffix("kB")?.trim().parse().ok()?;
        kibibytes.checked_mul(1 << 10)
    }

    /// The value of the line `name: value`.
    fn field(&self, path: &str, name: &str) -> Option<String> {
        let text = self.text(path)?;
        let value = text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        });
        value.filter(|value| !value.is_empty())
    }

    fn number(&self, folder: &Path, file: &str) -> Option<f64> {
        let value: f64 = self.text(folder.join(file))?.parse().ok()?;
        value.is_finite().then_some(value)
    }

    /// A file's text without surrounding white space and NUL (device tree); `None` if that is empty.
    fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let mut bytes = vec![];
        let file = File::open(self.root.join(path)).ok()?;
        file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Folders in `parent` whose names begin with `prefix`, as paths below the root.
    fn folders(&self, parent: &'static str, prefix: &str) -> impl Iterator<Item = PathBuf> {
        let entries = std::fs::read_dir(self.root.join(parent)).into_iter();
        let names = entries.flatten().flatten().map(|entry| entry.file_name());
        names
            .filter(move |name| name.to_string_lossy().starts_with(prefix))
            .map(move |name| Path::new(parent).join(name))
    }
}

/// Processor time in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuTime {
    /// Of this process.
    pub own: f64,
    /// Of everything else on the machine, and what a hypervisor kept.
    pub others: f64,
}

impl CpuTime {
    /// The time since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            own: (self.own - earlier.own).max(0.0),
            others: (self.others - earlier.others).max(0.0),
        }
    }
}

/// The output of a program, if it exists and exits in time.
fn output_of(program: &Path, argument: &str) -> Option<String> {
    let mut child = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let start = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if start.elapsed() > VCGENCMD_TIMEOUT {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut text = String::new();
    let mut output = child.stdout.take()?.take(MAX_BYTES);
    output.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Reasons for throttling, as the flags that a Raspberry Pi's firmware returns for `get_throttled`: bits 0 to 3 are the
/// current state, bits 16 to 19 what has happened since boot.
/// <https://www.raspberrypi.com/documentation/computers/os.html#get_throttled>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// The flags.
    pub flags: u32,
}

impl Throttling {
    const UNDER_VOLTAGE: u32 = 1;
    const CAPPED: u32 = 2;
    const THROTTLED: u32 = 4;
    const SOFT_LIMIT: u32 = 8;

    /// Whether the clock is limited now. Under-voltage alone does not limit it.
    pub fn is_throttled(self) -> bool {
        self.flags & (Self::CAPPED | Self::THROTTLED | Self::SOFT_LIMIT) != 0
    }

    /// What happened between `before` and `self`: what holds now, and what the firmware recorded in between.
    pub fn since(self, before: Self) -> Self {
        let recorded = (self.flags & !before.flags) >> 16;
        Self {
            flags: (self.flags & 0xF) | (recorded & 0xF),
        }
    }

    /// The reasons of both.
    pub fn or(self, other: Self) -> Self {
        Self {
            flags: self.flags | other.flags,
        }
    }

    /// Names of the reasons that hold now.
    pub fn reasons(self) -> Vec<&'static str> {
        let names = [
            (Self::UNDER_VOLTAGE, "under-voltage"),
            (Self::CAPPED, "clock capped"),
            (Self::THROTTLED, "throttled"),
            (Self::SOFT_LIMIT, "soft temperature limit"),
        ];
        let set = names.into_iter().filter(|(bit, _)| self.flags & bit != 0);
        set.map(|(_, name)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these files.
    fn machine(files: &[(&str, &[u8])]) -> (tempfile::TempDir, System) {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let system = System::new(root.path());
        (root, system)
    }

    #[test]
    fn reads_a_raspberry_pi() {
        let (_root, pi) = machine(&[
            (
                "proc/device-tree/model",
                b"Raspberry Pi 5 Model B Rev 1.0\0",
            ),
            ("proc/self/status", b"Name:\tx\nVmHWM:\t  1234 kB\n"),
            ("sys/class/thermal/thermal_zone0/type", b"cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone0/temp", b"61850\n"),
            ("sys/class/thermal/thermal_zone1/type", b"rp1_adc\n"),
            ("sys/class/thermal/thermal_zone1/temp", b"70000\n"),
            (
                "sys/devices/platform/soc/soc:firmware/get_throttled",
                b"50005\n",
            ),
            (
                "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq",
                b"1500000\n",
            ),
            (
                "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq",
                b"2400000\n",
            ),
        ]);
        assert_eq!(
            pi.machine().as_deref(),
            Some("Raspberry Pi 5 Model B Rev 1.0")
        );
        assert_eq!(pi.peak_rss_bytes(), Some(1234 * 1024));
        assert_eq!(pi.temperature_c(), Some(61.85));
        assert_eq!(pi.frequency_mhz(), Some(1500.0));
        assert_eq!(pi.max_frequency_mhz(), Some(2400.0));
        let throttling = pi.throttling().unwrap();
        assert!(throttling.is_throttled());
        assert_eq!(throttling.reasons(), ["under-voltage", "throttled"]);
    }

    #[test]
    fn temperature_is_of_the_hottest_processor_zone_or_else_of_the_hottest_zone() {
        let zones: [(&str, &[u8]); 6] = [
            ("sys/class/thermal/thermal_zone0/type", b"CPU-therm"),
            ("sys/class/thermal/thermal_zone0/temp", b"40000"),
            ("sys/class/thermal/thermal_zone1/type", b"cpu1-thermal"),
            ("sys/class/thermal/thermal_zone1/temp", b"45000"),
            ("sys/class/thermal/thermal_zone2/type", b"GPU-therm"),
            ("sys/class/thermal/thermal_zone2/temp", b"90000"),
        ];
        assert_eq!(machine(&zones).1.temperature_c(), Some(45.0));
        assert_eq!(machine(&zones[4..]).1.temperature_c(), Some(90.0));
    }

    #[test]
    fn throttling_is_read_from_cooling_devices_without_pi_firmware() {
        let capped = |state: &'static [u8]| {
            let (_root, system) = machine(&[
                ("sys/class/thermal/cooling_device0/type", b"pwm-fan"),
                ("sys/class/thermal/cooling_device0/cur_state", b"3"),
                ("sys/class/thermal/cooling_device1/type", b"cpufreq-cpu0"),
                ("sys/class/thermal/cooling_device1/cur_state", state),
            ]);
            system.throttling().map(Throttling::is_throttled)
        };
        assert_eq!(capped(b"0"), Some(false));
        assert_eq!(capped(b"2"), Some(true));
        assert_eq!(capped(b"x"), None);
    }

    /// If this fails, firmware that hangs makes the caller hang.
    #[cfg(unix)]
    #[test]
    fn vcgencmd_is_run_with_a_timeout() {
        use std::os::unix::fs::PermissionsExt;
        let throttling = |script: &str| {
            let (root, system) = machine(&[("usr/bin/vcgencmd", script.as_bytes())]);
            let program = root.path().join("usr/bin/vcgencmd");
            std::fs::set_permissions(program, PermissionsExt::from_mode(0o755)).unwrap();
            system.throttling()
        };
        let flags = Some(Throttling { flags: 0x20002 });
        assert_eq!(throttling("#!/bin/sh\necho throttled=0x20002\n"), flags);
        assert_eq!(
            throttling("#!/bin/sh\necho VCHI initialization failed\n"),
            None
        );
        let start = Instant::now();
        assert_eq!(throttling("#!/bin/sh\nexec sleep 60\n"), None);
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn missing_and_malformed_values_are_none() {
        let (_root, nothing) = machine(&[]);
        let garbage: [&[u8]; 5] = [
            b"",
            b"\xFF\xFE\0",
            b"nan",
            b"999999999999999999999999",
            b"0x",
        ];
        let broken = garbage.map(|content| {
            machine(&[
                ("proc/self/status", content),
                ("proc/stat", content),
                ("proc/self/stat", content),
                ("proc/loadavg", content),
                ("sys/class/thermal/thermal_zone0/temp", content),
                ("sys/class/thermal/thermal_zone0/type", content),
                ("sys/class/thermal/cooling_device0/type", content),
                (
                    "sys/devices/platform/soc/soc:firmware/get_throttled",
                    content,
                ),
                (
                    "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq",
                    b"-1",
                ),
            ])
        });
        for system in broken.iter().map(|b| &b.1).chain([&nothing]) {
            assert_eq!(system.machine(), None);
            assert_eq!(system.temperature_c(), None);
            assert_eq!(system.frequency_mhz(), None);
            assert_eq!(system.max_frequency_mhz(), None);
            assert_eq!(system.throttling(), None);
            assert_eq!(system.peak_rss_bytes(), None);
            assert_eq!(system.cpu_time(), None);
            assert_eq!(system.load_average(), None);
        }
    }

    #[test]
    fn processor_time_is_split_by_program() {
        let (_root, system) = machine(&[
            (
                "proc/stat",
                b"cpu  1000 200 300 9000 50 7 8 5 100 0\ncpu0 500 1 1\n",
            ),
            (
                "proc/self/stat",
                b"42 (a) b) S 1 2 3 4 5 6 7 8 9 10 400 20 0 0 20 0\n",
            ),
            ("proc/loadavg", b"1.25 0.50 0.10 2/345 6789\n"),
        ]);
        let time = system.cpu_time().unwrap();
        assert_eq!((time.own, time.others), (4.2, 11.0));
        assert_eq!(system.load_average(), Some(1.25));
        assert_eq!(
            time.since(time),
            CpuTime {
                own: 0.0,
                others: 0.0
            }
        );
    }

    #[test]
    fn throttling_before_a_run_does_not_count() {
        let flags = |flags| Throttling { flags };
        // Throttled yesterday: nothing in this run.
        assert_eq!(flags(0x40000).since(flags(0x40000)), flags(0));
        // Capped between two looks.
        assert_eq!(
            flags(0x60000).since(flags(0x40000)).reasons(),
            ["clock capped"]
        );
        assert!(!flags(0x10001).is_throttled(), "under-voltage alone");
    }
}
