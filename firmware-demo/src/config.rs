//! The one TOML file: what it may say, and that it says nothing else.
//!
//! `pinhole-firmware.toml` in this crate's folder has every field with its default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::panel::{Controller, Layout};

/// The configuration. Relative paths are relative to the file's folder.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder of the bundle. It is watched: a new one in its place is taken if it passes its self-test.
    pub bundle: PathBuf,
    /// Threads to classify with; all processors when not given.
    pub threads: Option<usize>,
    /// Where frames come from.
    pub source: Source,
    /// When an answer becomes the state, and when it is "unknown".
    #[serde(default)]
    pub thresholds: Thresholds,
    /// What shows it.
    #[serde(default)]
    pub display: Display,
    /// How screens look.
    #[serde(default)]
    pub screen: Screen,
    /// The log of results; none when not given.
    pub log: Option<Log>,
    /// Events to an MQTT broker; none when not given.
    pub mqtt: Option<Mqtt>,
    /// The file's folder.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// Where frames come from: exactly one of `command`, `mjpeg`, `y4m`, `folder` and `device`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// A program with its arguments, whose standard output is MJPEG. It runs in the file's folder, and is started again
    /// when it ends or stalls.
    pub command: Option<Vec<String>>,
    /// A file, named pipe or device with MJPEG; "-" for standard input.
    pub mjpeg: Option<PathBuf>,
    /// The same with Y4M.
    pub y4m: Option<PathBuf>,
    /// A folder of images, watched for new ones.
    pub folder: Option<PathBuf>,
    /// A V4L2 device.
    pub device: Option<PathBuf>,
    /// Use every n-th frame.
    pub every: u64,
    /// The part of each frame to look at: x, y, width, height in pixels.
    pub region: Option<[u32; 4]>,
    /// Pass over frames that differ by no more than this much luma (0..255).
    pub still_threshold: Option<f32>,
    /// Seconds without a frame until the source counts as stalled; 0 for never.
    pub timeout_seconds: f64,
}

/// When an answer becomes the state, and when it is "unknown".
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// Least cosine similarity of the best class, in place of the bundle's.
    pub min_similarity: Option<f32>,
    /// Least difference of similarity between the best class and the second, in place of the bundle's.
    pub min_margin: Option<f32>,
    /// Time constant of the smoothing, in answers; 0 for none.
    pub smoothing: f32,
    /// Answers for which a class must lead before it becomes the state, at least 1.
    pub hysteresis: u32,
    /// A lead in probability (0..1) that makes a class the state at once.
    pub lead: Option<f32>,
}

/// What shows the screens.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Display {
    /// No display.
    #[default]
    None,
    /// OLED of 128 x 64 pixels by I2C.
    Ssd1306(Ssd1306),
    /// Colour TFT by SPI, 240 x 240 when not said otherwise.
    St7789(Tft),
    /// Colour TFT by SPI, 320 x 240 when not said otherwise.
    Ili9341(Tft),
    /// Linux's framebuffer, such as an HDMI screen without a desktop.
    Framebuffer(Framebuffer),
    /// PNG files in the place of a display.
    Simulator(Simulator),
}

impl Display {
    /// Whether a pixel is either black or lit.
    pub fn is_monochrome(&self) -> bool {
        match self {
            Self::Ssd1306(_) => true,
            Self::Simulator(simulator) => simulator.monochrome,
            Self::None | Self::St7789(_) | Self::Ili9341(_) | Self::Framebuffer(_) => false,
        }
    }
}

/// An SSD1306.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ssd1306 {
    /// The I2C bus.
    pub i2c: PathBuf,
    /// Its 7-bit address: 0x3c or 0x3d.
    pub address: u8,
    /// Turned by 180 degrees.
    pub upside_down: bool,
    /// 0 to 255.
    pub brightness: u8,
}

/// An ST7789 or ILI9341.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tft {
    /// The SPI device.
    pub spi: PathBuf,
    /// Its clock in MHz.
    pub mhz: u32,
    /// The bus's mode: 0, or 3 for a display without a chip select line.
    pub spi_mode: u32,
    /// The GPIO device of the lines below.
    pub gpio: PathBuf,
    /// Line that tells data from commands.
    pub dc: u32,
    /// Line that resets the display, if it has one.
    pub reset: Option<u32>,
    /// Line of the backlight, if it has one.
    pub backlight: Option<u32>,
    /// Pixels as mounted, after the rotation; the display's own when not given.
    pub width: Option<u32>,
    /// The same.
    pub height: Option<u32>,
    /// First column and row of the controller's memory that the glass shows, before the rotation.
    pub offset: [u32; 2],
    /// Clockwise: 0, 90, 180 or 270 degrees; as usual for the display when not given.
    pub rotation: Option<u32>,
    /// Whether the panel wants inverted colours; as usual for the display when not given.
    pub inverted: Option<bool>,
    /// Whether blue and red are exchanged.
    pub bgr: Option<bool>,
}

/// A framebuffer device.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Framebuffer {
    /// The device; its geometry is read under /sys/class/graphics.
    pub device: PathBuf,
}

/// PNG files in the place of a display.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Simulator {
    /// Folder that the pictures go to. `screen.png` is always the newest.
    pub folder: PathBuf,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Whether a pixel is either black or lit.
    pub monochrome: bool,
    /// Newest pictures to keep beside `screen.png`, as 000001.png and so on.
    pub keep: u32,
}

/// How screens look.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Screen {
    /// Most pictures a second.
    pub rate: f64,
    /// Seconds without a change of state until the idle screen; 0 for never.
    pub idle_seconds: f64,
    /// Font files (TTF, OTF, TTC) for what the built-in fonts lack, in the order of preference.
    pub fonts: Vec<PathBuf>,
}

/// The log of results.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Its folder.
    pub folder: PathBuf,
    /// Most bytes that it may take, in MB (1,000,000 bytes).
    #[serde(default = "log_megabytes")]
    pub megabytes: f64,
    /// Seconds between two records while nothing changes; 0 for none.
    #[serde(default = "log_interval")]
    pub interval_seconds: f64,
}

/// Events to an MQTT broker.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqtt {
    /// Name or address of the broker.
    pub host: String,
    /// Its port.
    #[serde(default = "mqtt_port")]
    pub port: u16,
    /// Topic of the events; the appliance's own state goes to this with `/status` behind it.
    #[serde(default = "mqtt_topic")]
    pub topic: String,
    /// Name of this client, the same at most once at a broker; the topic when not given.
    pub client_id: Option<String>,
    /// For a broker that asks for it.
    pub user: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// Events kept while the broker is away. Of more, the oldest are lost, and counted.
    #[serde(default = "mqtt_keep")]
    pub keep: usize,
}

fn log_megabytes() -> f64 {
    10.0
}
fn log_interval() -> f64 {
    60.0
}
fn mqtt_port() -> u16 {
    1883
}
fn mqtt_topic() -> String {
    "pinhole".into()
}
fn mqtt_keep() -> usize {
    1000
}

impl Default for Source {
    fn default() -> Self {
        Self {
            command: None,
            mjpeg: None,
            y4m: None,
            folder: None,
            device: None,
            every: 1,
            region: None,
            still_threshold: None,
            timeout_seconds: 5.0,
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        let tracker = pinhole::camera::TrackerOptions::default();
        Self {
            min_similarity: None,
            min_margin: None,
            smoothing: tracker.smoothing,
            hysteresis: tracker.hysteresis,
            lead: tracker.margin,
        }
    }
}

impl Default for Ssd1306 {
    fn default() -> Self {
        Self {
            i2c: "/dev/i2c-1".into(),
            address: 0x3c,
            upside_down: false,
            brightness: 0x7f,
        }
    }
}

impl Default for Tft {
    fn default() -> Self {
        Self {
            spi: "/dev/spidev0.0".into(),
            mhz: 32,
            spi_mode: 0,
            gpio: "/dev/gpiochip0".into(),
            dc: 25,
            reset: None,
            backlight: None,
            width: None,
            height: None,
            offset: [0, 0],
            rotation: None,
            inverted: None,
            bgr: None,
        }
    }
}

impl Default for Framebuffer {
    fn default() -> Self {
        Self {
            device: "/dev/fb0".into(),
        }
    }
}

impl Default for Simulator {
    fn default() -> Self {
        Self {
            folder: "screens".into(),
            width: 240,
            height: 240,
            monochrome: false,
            keep: 0,
        }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self {
            rate: 10.0,
            idle_seconds: 300.0,
            fonts: vec![],
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: cannot read: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        reason: String,
    },
    /// It is no TOML, lacks a field, or has one that is not known.
    #[error("{}: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// With line and column.
        reason: String,
    },
    /// A field is out of range.
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Such as `source.every`.
        field: &'static str,
        /// Its range.
        expected: &'static str,
        /// Its value.
        found: String,
    },
}

/// A configuration is read no further: nobody writes as much.
const MAX_BYTES: u64 = 1 << 20;

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        use std::io::Read;
        let read = || {
            let mut text = String::new();
            (std::fs::File::open(path)?.take(MAX_BYTES)).read_to_string(&mut text)?;
            Ok(text)
        };
        let text = read().map_err(|e: std::io::Error| Error::Read {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
        Self::parse(&text, path)
    }

    /// The configuration that `text` says; `path` is for messages and relative paths.
    ///
    /// # Errors
    /// [`Error::Parse`], [`Error::Field`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let mut config: Self = toml::from_str(text).map_err(|e| Error::Parse {
            path: path.to_owned(),
            reason: e.to_string().trim_end().to_owned(),
        })?;
        config
            .check()
            .map_err(|(field, expected, found)| Error::Field {
                path: path.to_owned(),
                field,
                expected,
                found,
            })?;
        config.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, &'static str, String)> {
        let source = &self.source;
        let given = [
            source.command.is_some(),
            source.mjpeg.is_some(),
            source.y4m.is_some(),
            source.folder.is_some(),
            source.device.is_some(),
        ];
        let given = given.into_iter().filter(|given| *given).count();
        need(
            "source",
            "one of command, mjpeg, y4m, folder and device",
            given,
            given == 1,
        )?;
        if let Some(command) = &source.command {
            let name = command.first().map_or("", String::as_str);
            need(
                "source.command",
                "a program and its arguments",
                format_args!("{command:?}"),
                !name.is_empty(),
            )?;
        }
        if let Some(threads) = self.threads {
            need("threads", "1 or more", threads, threads > 0)?;
        }
        need("source.every", "1 or more", source.every, source.every > 0)?;
        if let Some([_, _, width, height]) = source.region {
            let found = format_args!("{width} x {height}");
            need(
                "source.region",
                "a width and height of 1 or more",
                found,
                width > 0 && height > 0,
            )?;
        }
        if let Some(luma) = source.still_threshold {
            let fits = (0.0..=255.0).contains(&luma);
            need("source.still_threshold", "0 to 255", luma, fits)?;
        }
        seconds("source.timeout_seconds", source.timeout_seconds)?;
        self.check_thresholds()?;
        self.check_display()?;
        seconds("screen.idle_seconds", self.screen.idle_seconds)?;
        let rate = self.screen.rate;
        need(
            "screen.rate",
            "0.1 to 60",
            rate,
            (0.1..=60.0).contains(&rate),
        )?;
        if let Some(log) = &self.log {
            let size = log.megabytes;
            let fits = (0.1..=1e6).contains(&size);
            need("log.megabytes", "0.1 to 1000000", size, fits)?;
            seconds("log.interval_seconds", log.interval_seconds)?;
        }
        if let Some(mqtt) = &self.mqtt {
            need(
                "mqtt.host",
                "a name or an address",
                format_args!("{:?}", mqtt.host),
                !mqtt.host.trim().is_empty(),
            )?;
            need("mqtt.port", "1 to 65535", mqtt.port, mqtt.port > 0)?;
            let topic = &mqtt.topic;
            // MQTT 3.1.1, 4.7: no wildcards in a topic that is published to.
            let fits = (1..=1000).contains(&topic.len()) && !topic.contains(['#', '+', '\0']);
            need(
                "mqtt.topic",
                "1 to 1000 bytes without #, + and NUL",
                format_args!("{topic:?}"),
                fits,
            )?;
            let keep = mqtt.keep;
            let fits = (1..=1_000_000).contains(&keep);
            need("mqtt.keep", "1 to 1000000", keep, fits)?;
        }
        Ok(())
    }

    fn check_thresholds(&self) -> Result<(), (&'static str, &'static str, String)> {
        let t = &self.thresholds;
        for (field, value) in [
            ("thresholds.min_similarity", t.min_similarity),
            ("thresholds.min_margin", t.min_margin),
        ] {
            if let Some(value) = value {
                need(field, "-1 to 1", value, (-1.0..=1.0).contains(&value))?;
            }
        }
        let smoothing = t.smoothing;
        let fits = (0.0..=1e6).contains(&smoothing);
        need("thresholds.smoothing", "0 to 1000000", smoothing, fits)?;
        need(
            "thresholds.hysteresis",
            "1 or more",
            t.hysteresis,
            t.hysteresis > 0,
        )?;
        if let Some(lead) = t.lead {
            let fits = (0.0..=1.0).contains(&lead);
            need("thresholds.lead", "0 to 1", lead, fits)?;
        }
        Ok(())
    }

    fn check_display(&self) -> Result<(), (&'static str, &'static str, String)> {
        match &self.display {
            Display::None | Display::Framebuffer(_) => Ok(()),
            Display::Ssd1306(oled) => {
                let fits = [0x3c, 0x3d].contains(&oled.address);
                let found = format_args!("{:#x}", oled.address);
                need("display.address", "0x3c or 0x3d", found, fits)
            }
            Display::St7789(tft) | Display::Ili9341(tft) => {
                need(
                    "display.mhz",
                    "1 to 125",
                    tft.mhz,
                    (1..=125).contains(&tft.mhz),
                )?;
                let mode = tft.spi_mode;
                need("display.spi_mode", "0 or 3", mode, [0, 3].contains(&mode))?;
                let controller = match self.display {
                    Display::St7789(_) => Controller::St7789,
                    _ => Controller::Ili9341,
                };
                Layout::new(controller, tft).map(drop)
            }
            Display::Simulator(simulator) => {
                let (width, height) = (simulator.width, simulator.height);
                let fits = (64..=4096).contains(&width) && (64..=4096).contains(&height);
                let found = format_args!("{width} x {height}");
                need(
                    "display.width, display.height",
                    "64 to 4096 each",
                    found,
                    fits,
                )?;
                let keep = simulator.keep;
                need("display.keep", "0 to 100000", keep, keep <= 100_000)
            }
        }
    }

    fn resolve(&mut self, folder: &Path) {
        self.folder = folder.to_owned();
        let source = &mut self.source;
        let mqtt = self.mqtt.as_mut();
        let simulator = match &mut self.display {
            Display::Simulator(simulator) => Some(&mut simulator.folder),
            _ => None,
        };
        let paths = [Some(&mut self.bundle), simulator]
            .into_iter()
            .flatten()
            .chain(&mut source.mjpeg)
            .chain(&mut source.y4m)
            .chain(&mut source.folder)
            .chain(&mut source.device)
            .chain(&mut self.screen.fonts)
            .chain(self.log.as_mut().map(|log| &mut log.folder))
            .chain(mqtt.and_then(|mqtt| mqtt.password_file.as_mut()));
        for path in paths.filter(|path| path.as_os_str() != "-") {
            *path = folder.join(&*path);
        }
    }
}

fn need(
    field: &'static str,
    expected: &'static str,
    found: impl std::fmt::Display,
    fits: bool,
) -> Result<(), (&'static str, &'static str, String)> {
    match fits {
        true => Ok(()),
        false => Err((field, expected, found.to_string())),
    }
}

/// Ten years are as good as never, and fit every clock.
fn seconds(field: &'static str, value: f64) -> Result<(), (&'static str, &'static str, String)> {
    let fits = (0.0..=3.2e8).contains(&value);
    need(field, "0 to 320000000", value, fits)
}

/// The duration of checked seconds; `None` for 0.
pub(crate) fn duration(seconds: f64) -> Option<Duration> {
    (seconds > 0.0).then(|| Duration::from_secs_f64(seconds))
}
