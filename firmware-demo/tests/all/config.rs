//! The configuration file that the package installs: it and its examples are valid and list every field with its
//! default.

use std::path::Path;

use pinhole_firmware::config::{
    ApplianceConfig, ConfigError, HomeAssistantConfig, ScreenConfig, SourceConfig, ThresholdsConfig,
};
use pinhole_firmware::panel::DisplayConfig;
use pinhole_firmware::panel::framebuffer::FramebufferConfig;
use pinhole_firmware::panel::ili9341::{ILI9341, Ili9341Config};
use pinhole_firmware::panel::sh1106::Sh1106Config;
use pinhole_firmware::panel::ssd1306::Ssd1306Config;
use pinhole_firmware::panel::st7789::{ST7789, St7789Config};
use pinhole_firmware::panel::tft::{TftConfig, TftLayout};

const FILE: &str = include_str!("../../pinhole-firmware.toml");

fn parse(text: &str) -> Result<ApplianceConfig, ConfigError> {
    ApplianceConfig::parse(text, Path::new("/etc/pinhole/firmware.toml"))
}

/// The paragraphs of the file.
fn blocks() -> Vec<&'static str> {
    FILE.split("\n\n").collect()
}

/// The TOML of an example line; `None` for any other line.
fn example(line: &str) -> Option<&str> {
    line.strip_prefix('#')
        .filter(|rest| !rest.is_empty() && !rest.starts_with(' '))
}

/// A block whose header is an example, uncommented.
fn uncommented(block: &str) -> Option<String> {
    let lines: Vec<_> = block.lines().filter_map(example).collect();
    lines
        .first()
        .filter(|line| line.starts_with('['))
        .map(|_| lines.join("\n"))
}

/// The file with `block` replacing or adding its table.
fn with(block: &str) -> String {
    let header = block.lines().next().unwrap();
    let mut kept: Vec<_> = (blocks().into_iter())
        .filter(|old| !old.lines().any(|line| line == header))
        .collect();
    kept.push(block);
    kept.join("\n\n")
}

fn display(kind: &str) -> DisplayConfig {
    let kind = format!("kind = {kind:?}");
    let mut found = (blocks().into_iter())
        .filter_map(uncommented)
        .filter(|block| block.contains(&kind));
    let block = found.next().unwrap();
    assert_eq!(found.next(), None, "{kind}: expected one example");
    parse(&with(&block)).unwrap().display
}

#[test]
fn the_file_states_the_defaults() {
    let config = parse(FILE).unwrap();
    let minimal = parse("bundle = 'b'\nsource.command = ['c']\nlog.folder = 'l'").unwrap();
    assert_eq!(config.bundle, Path::new("/usr/share/pinhole/demo"));
    assert_eq!(config.threads, None);
    let command = config.source.command.clone();
    let command_line = command.as_deref().unwrap();
    // Without the option it prints a line for each frame. With a space, 0 would be another argument.
    assert_eq!(command_line[..2], ["rpicam-vid", "--verbose=0"]);
    assert_eq!(
        config.source,
        SourceConfig {
            command,
            ..SourceConfig::default()
        }
    );
    assert_eq!(config.thresholds, ThresholdsConfig::default());
    assert_eq!(config.display, DisplayConfig::None);
    assert_eq!(config.screen, ScreenConfig::default());
    let (log, minimal_log) = (config.log.unwrap(), minimal.log.unwrap());
    assert_eq!(log.folder, Path::new("/var/lib/pinhole/log"));
    assert_eq!(log.megabytes, minimal_log.megabytes);
    assert_eq!(log.interval_seconds, minimal_log.interval_seconds);
    assert_eq!(config.mqtt, None);
}

#[test]
fn example_tables_are_valid_and_state_the_defaults() {
    let lines = [Some(27), Some(24)];
    let tft = |size: [u32; 2], rotation, inverted, bgr| TftConfig {
        reset: lines[0],
        backlight: lines[1],
        width: Some(size[0]),
        height: Some(size[1]),
        rotation: Some(rotation),
        inverted: Some(inverted),
        bgr: Some(bgr),
        ..TftConfig::default()
    };
    let ssd1306 = Ssd1306Config::default();
    assert_eq!(display("ssd1306"), DisplayConfig::Ssd1306(ssd1306.clone()));
    assert_eq!(
        display("sh1106"),
        DisplayConfig::Sh1106(Sh1106Config(ssd1306))
    );
    let st7789 = St7789Config(tft([240, 240], 0, true, false));
    assert_eq!(display("st7789"), DisplayConfig::St7789(st7789));
    let ili9341 = Ili9341Config(tft([320, 240], 90, false, true));
    assert_eq!(display("ili9341"), DisplayConfig::Ili9341(ili9341));
    let framebuffer = FramebufferConfig::default();
    assert_eq!(
        display("framebuffer"),
        DisplayConfig::Framebuffer(framebuffer)
    );
    let DisplayConfig::Simulator(simulator) = display("simulator") else {
        panic!("expected a simulator");
    };
    assert_eq!(simulator.folder, Path::new("/var/lib/pinhole/screens"));

    let mqtt = (blocks().into_iter().filter_map(uncommented))
        .find(|block| block.starts_with("[mqtt]"))
        .unwrap();
    let mqtt = parse(&with(&mqtt)).unwrap().mqtt.unwrap();
    let minimal = parse("bundle = 'b'\nsource.command = ['c']\nmqtt.host = 'h'").unwrap();
    let minimal = minimal.mqtt.unwrap();
    assert_eq!((mqtt.port, mqtt.keep), (minimal.port, minimal.keep));
    let tables = (blocks().into_iter().filter_map(uncommented))
        .filter(|block| block.starts_with("[mqtt"))
        .collect::<Vec<_>>();
    let mqtt = parse(&with(&tables.join("\n"))).unwrap().mqtt.unwrap();
    let home_assistant = HomeAssistantConfig::default();
    assert_eq!(mqtt.home_assistant, Some(home_assistant));
}

/// If this fails, configurations that were written for earlier versions are refused.
#[test]
fn the_margin_may_have_its_former_name() {
    for name in ["margin", "lead"] {
        let config = parse(&with(&format!("[thresholds]\n{name} = 0.5"))).unwrap();
        assert_eq!(config.thresholds.margin, Some(0.5), "{name}");
        let error = parse(&with(&format!("[thresholds]\n{name} = 2.0"))).unwrap_err();
        assert!(error.to_string().contains("thresholds.margin"), "{error}");
    }
    parse(&with("[thresholds]\nmargin = 0.5\nlead = 0.5")).unwrap_err();
}

/// If this fails, everybody on the network sees what the camera sees.
#[test]
fn the_page_needs_a_password_where_others_reach_it() {
    let mut examples = blocks().into_iter().filter_map(uncommented);
    let example = examples.find(|block| block.starts_with("[web]")).unwrap();
    let web = parse(&with(&example)).unwrap().web.unwrap();
    let minimal = parse(&with("[web]")).unwrap().web.unwrap();
    assert_eq!(
        (web.listen, &web.host_names),
        (minimal.listen, &minimal.host_names)
    );
    assert!(minimal.listen.ip().is_loopback() && minimal.password_file.is_none());
    let local = parse(&with("[web]\nlisten = 'localhost:80'")).unwrap();
    assert_eq!(local.web.unwrap().listen, ([127, 0, 0, 1], 80).into());
    let name = parse(&with("[web]\nlisten = 'board.lan:80'")).unwrap_err();
    assert!(name.to_string().contains("localhost:8642"), "{name}");
    for listen in ["0.0.0.0:1", "[::]:1", "192.0.2.1:8642"] {
        let table = format!("[web]\nlisten = {listen:?}");
        let error = parse(&with(&table)).unwrap_err().to_string();
        assert!(error.contains("web.password_file"), "{error}");
        let web = parse(&with(&format!("{table}\npassword_file = 'p'")))
            .unwrap()
            .web;
        let password_file = web.unwrap().password_file.unwrap();
        assert_eq!(password_file, Path::new("/etc/pinhole/p"));
    }
}

/// If this fails, the page prints lines that the appliance refuses, or that change something.
#[cfg(feature = "web")]
#[test]
fn the_lines_that_the_page_prints_keep_the_settings() {
    use pinhole::UnknownThresholds;
    use pinhole::camera::{Region, TrackerOptions};
    use pinhole_web::{Keeper, Settings};
    let changed = Settings {
        smoothing: 0.25,
        hysteresis: 7,
        hysteresis_seconds: 1.5,
        cool_down_seconds: 1e-3,
        margin: Some(0.9),
        min_similarity: Some(-0.5),
        min_margin: Some(2.0),
        region: Some([1, 2, 30, 40]),
    };
    let nothing = Settings {
        margin: None,
        min_similarity: None,
        min_margin: None,
        region: None,
        ..changed.clone()
    };
    for settings in [changed, nothing] {
        let lines = settings.kept_by(Keeper::Configuration);
        let config = parse(&format!(
            "bundle = 'b'\n{}",
            lines.replace("[source]", "[source]\nmjpeg = '-'")
        ));
        let config = config.unwrap_or_else(|e| panic!("{lines}: {e}"));
        let thresholds = &config.thresholds;
        let tracker = TrackerOptions {
            smoothing: thresholds.smoothing,
            hysteresis: thresholds.hysteresis,
            hysteresis_time: std::time::Duration::from_secs_f64(thresholds.hysteresis_seconds),
            margin: thresholds.margin,
            cool_down: std::time::Duration::from_secs_f64(thresholds.cool_down_seconds),
        };
        let unknown = UnknownThresholds {
            min_similarity: thresholds.min_similarity,
            min_margin: thresholds.min_margin,
        };
        let region = config.source.region.map(|[x, y, width, height]| Region {
            x,
            y,
            width,
            height,
        });
        let expected = Settings {
            min_similarity: settings.min_similarity.or(Some(-1.0)),
            min_margin: settings.min_margin.or(Some(0.0)),
            ..settings
        };
        assert_eq!(
            Settings::new(&tracker, unknown, region),
            expected,
            "{lines}"
        );
    }
}

#[test]
fn the_example_of_a_tft_states_the_defaults_of_its_controller() {
    let DisplayConfig::St7789(St7789Config(st7789)) = display("st7789") else {
        panic!("expected an ST7789");
    };
    let DisplayConfig::Ili9341(Ili9341Config(ili9341)) = display("ili9341") else {
        panic!("expected an ILI9341");
    };
    for (controller, example) in [(&ST7789, st7789), (&ILI9341, ili9341)] {
        assert_eq!(
            TftLayout::new(controller, &example),
            TftLayout::new(controller, &TftConfig::default())
        );
    }
}

#[test]
fn example_fields_are_valid_and_have_an_effect() {
    let mut tried = 0;
    for block in blocks()
        .into_iter()
        .filter(|block| uncommented(block).is_none())
    {
        for line in block.lines().filter_map(example) {
            let field = line.split(" = ").next().unwrap();
            // There is exactly one source.
            let replaces_command =
                ["command", "url", "mjpeg", "y4m", "folder", "device"].contains(&field);
            let changed: Vec<_> = (block.lines())
                .filter(|old| !(replaces_command && old.starts_with("command = ")))
                .map(|old| match example(old) == Some(line) {
                    true => line,
                    false => old,
                })
                .collect();
            let text = FILE.replace(block, &changed.join("\n"));
            let config = parse(&text).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert_ne!(config, parse(FILE).unwrap(), "{line}: expected an effect");
            tried += 1;
        }
    }
    assert!(tried >= 10, "found {tried} examples of fields");
}

#[test]
fn a_wrong_type_is_an_error_with_field_and_line() {
    let error = |text: &str| parse(text).unwrap_err().to_string();
    let found = error("bundle = 'b'\n[source]\nmjpeg = '-'\n[thresholds]\nmin_margin = 'a'");
    for part in [
        "field thresholds.min_margin: ",
        "line 5",
        "invalid type: string \"a\"",
    ] {
        assert!(found.contains(part), "{found}");
    }
    let found = error("bundle = 'b'\n[source]\nmjpeg = '-'\n[screen]\nfonts = ['a', 1]");
    assert!(found.contains("field screen.fonts[1]: "), "{found}");
}

/// The error about an unknown field lists the known ones.
#[test]
fn the_file_lists_every_field() {
    let mut tables = vec![String::new()];
    tables.extend(
        [
            "source",
            "thresholds",
            "screen",
            "log",
            "mqtt",
            "mqtt.tls",
            "mqtt.home_assistant",
        ]
        .map(|name| format!("[{name}]")),
    );
    tables.extend(
        [
            "ssd1306",
            "sh1106",
            "st7789",
            "ili9341",
            "framebuffer",
            "simulator",
        ]
        .map(|kind| format!("[display]\nkind = {kind:?}")),
    );
    for table in tables {
        let wrong = match table.is_empty() {
            true => "nonsense = 1".to_owned(),
            false => format!("bundle = 'b'\n{table}\nnonsense = 1"),
        };
        let error = parse(&wrong).unwrap_err().to_string();
        let (_, known) = (error.split_once("unknown field `nonsense`, expected"))
            .unwrap_or_else(|| panic!("{table}: {error}"));
        let known: Vec<_> = known.split('`').skip(1).step_by(2).collect();
        let block = match table.is_empty() {
            true => FILE.split_once("[source]").unwrap().0.to_owned(),
            false => (blocks().into_iter())
                .find(|block| {
                    let text = uncommented(block).unwrap_or_else(|| block.replace('#', ""));
                    text.contains(&table)
                })
                .unwrap_or_else(|| panic!("{table}: expected it in the file"))
                .to_owned(),
        };
        assert!(!known.is_empty(), "{table}: {error}");
        // The former name of a field, which serde lists too.
        for field in known.into_iter().filter(|field| *field != "lead") {
            // A field may be a table of its own.
            let header = match table.trim_matches(['[', ']']) {
                "" => format!("[{field}]"),
                table => format!("[{table}.{field}]"),
            };
            let named = (block.lines()).any(|line| {
                let line = example(line).unwrap_or(line);
                line.starts_with(&format!("{field} = "))
            });
            assert!(
                named || FILE.contains(&header),
                "{table}: expected the field {field} in the file"
            );
        }
    }
}

#[test]
fn a_network_camera_is_a_source() {
    let url = "rtsp://user:s3cret@camera.local/1";
    let config = parse(&format!("bundle = 'b'\nsource.url = {url:?}")).unwrap();
    assert_eq!(config.source.url.as_deref(), Some(url));
    let both = format!("bundle = 'b'\n[source]\nurl = {url:?}\nmjpeg = '-'");
    let error = parse(&both).unwrap_err().to_string();
    assert!(
        error.contains("source: expected one of command, url, mjpeg"),
        "{error}"
    );
    assert!(!error.contains("s3cret"), "{error}");
}

#[test]
fn invalid_fields_of_home_assistant_are_errors() {
    for (fields, expected) in [
        (
            "name = ' ! '",
            "name: expected 1 to 100 characters, one of them a letter or a digit, found \" ! \"",
        ),
        (
            "prefix = 'a/#'",
            "prefix: expected 1 to 1000 bytes without #, + and NUL",
        ),
        (
            "picture_seconds = -1",
            "picture_seconds: expected 0 to 320000000, found -1",
        ),
        ("binary_sensors = 'cat'", "binary_sensors: "),
    ] {
        let text = format!("[mqtt]\nhost = 'h'\n[mqtt.home_assistant]\n{fields}");
        let error = parse(&with(&text)).unwrap_err().to_string();
        let expected = format!("mqtt.home_assistant.{expected}");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn invalid_tft_fields_are_errors_that_name_file_and_field() {
    for (fields, expected) in [
        (
            "kind = 'st7789'\nwidth = 241",
            "display.width: expected 64 to 240 at this rotation, found 241",
        ),
        (
            "kind = 'ili9341'\nheight = 320",
            "display.height: expected 64 to 240 at this rotation, found 320",
        ),
        (
            "kind = 'st7789'\nrotation = 1",
            "display.rotation: expected 0, 90, 180 or 270, found 1",
        ),
        (
            "kind = 'st7789'\noffset = [0, 81]",
            "display.offset: expected the glass inside the controller's memory",
        ),
        (
            "kind = 'st7789'\nspi_mode = 1",
            "display.spi_mode: expected 0 or 3, found 1",
        ),
    ] {
        let error = parse(&with(&format!("[display]\n{fields}"))).unwrap_err();
        assert!(matches!(error, ConfigError::Field { .. }), "{error}");
        let error = error.to_string();
        assert!(error.starts_with("/etc/pinhole/firmware.toml: "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

/// Errors of TOML show the line, which may be a camera's URL.
#[test]
fn a_password_in_a_line_that_is_wrong_is_not_shown() {
    for line in [
        "url = \"rtsp://admin:s3cr\\qt@cam/1\"",
        "url = \"rtsp://admin:s3cret@cam/1\"\nurl = \"rtsp://admin:s3cret@cam/2\"",
    ] {
        let error = parse(&format!("bundle = \"b\"\n[source]\n{line}\n")).unwrap_err();
        let error = error.to_string();
        assert!(!error.contains("s3cr"), "{error}");
    }
}
