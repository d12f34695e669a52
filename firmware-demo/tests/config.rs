//! The file that the package installs: it is right, its examples are, and it has every field with its default.

use std::path::Path;

use pinhole_firmware::config::{
    Config, Display, Error, Framebuffer, Screen, Source, Ssd1306, Tft, Thresholds,
};

const FILE: &str = include_str!("../pinhole-firmware.toml");

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, Path::new("/etc/pinhole/firmware.toml"))
}

/// What is between two lines that are empty.
fn blocks() -> Vec<&'static str> {
    FILE.split("\n\n").collect()
}

/// An example's TOML; `None` for a line that is none.
fn example(line: &str) -> Option<&str> {
    line.strip_prefix('#')
        .filter(|rest| !rest.is_empty() && !rest.starts_with(' '))
}

/// A block whose header is an example, switched on.
fn switched_on(block: &str) -> Option<String> {
    let lines: Vec<_> = block.lines().filter_map(example).collect();
    lines
        .first()
        .filter(|line| line.starts_with('['))
        .map(|_| lines.join("\n"))
}

/// The file with `block` in the place of the table of its name, if it has one.
fn with(block: &str) -> String {
    let header = block.lines().next().unwrap();
    let mut kept: Vec<_> = (blocks().into_iter())
        .filter(|old| !old.lines().any(|line| line == header))
        .collect();
    kept.push(block);
    kept.join("\n\n")
}

fn display(kind: &str) -> Display {
    let kind = format!("kind = {kind:?}");
    let mut found = (blocks().into_iter())
        .filter_map(switched_on)
        .filter(|block| block.contains(&kind));
    let block = found.next().unwrap();
    assert_eq!(found.next(), None, "{kind} twice");
    parse(&with(&block)).unwrap().display
}

#[test]
fn the_file_has_the_defaults() {
    let config = parse(FILE).unwrap();
    let least = parse("bundle = 'b'\nsource.command = ['c']\nlog.folder = 'l'").unwrap();
    assert_eq!(config.bundle, Path::new("/usr/share/pinhole/demo"));
    assert_eq!(config.threads, None);
    let command = config.source.command.clone();
    assert_eq!(command.as_deref().unwrap()[0], "rpicam-vid");
    assert_eq!(
        config.source,
        Source {
            command,
            ..Source::default()
        }
    );
    assert_eq!(config.thresholds, Thresholds::default());
    assert_eq!(config.display, Display::None);
    assert_eq!(config.screen, Screen::default());
    let (log, least_log) = (config.log.unwrap(), least.log.unwrap());
    assert_eq!(log.folder, Path::new("/var/lib/pinhole/log"));
    assert_eq!(log.megabytes, least_log.megabytes);
    assert_eq!(log.interval_seconds, least_log.interval_seconds);
    assert_eq!(config.mqtt, None);
}

#[test]
fn examples_of_tables_are_right_and_have_the_defaults() {
    let lines = [Some(27), Some(24)];
    let tft = |size: [u32; 2], rotation, inverted, bgr| Tft {
        reset: lines[0],
        backlight: lines[1],
        width: Some(size[0]),
        height: Some(size[1]),
        rotation: Some(rotation),
        inverted: Some(inverted),
        bgr: Some(bgr),
        ..Tft::default()
    };
    assert_eq!(display("ssd1306"), Display::Ssd1306(Ssd1306::default()));
    let st7789 = tft([240, 240], 0, true, false);
    assert_eq!(display("st7789"), Display::St7789(st7789));
    let ili9341 = tft([320, 240], 90, false, true);
    assert_eq!(display("ili9341"), Display::Ili9341(ili9341));
    let framebuffer = Framebuffer::default();
    assert_eq!(display("framebuffer"), Display::Framebuffer(framebuffer));
    let Display::Simulator(simulator) = display("simulator") else {
        panic!("expected a simulator");
    };
    assert_eq!(simulator.folder, Path::new("/var/lib/pinhole/screens"));

    let mqtt = (blocks().into_iter().filter_map(switched_on))
        .find(|block| block.starts_with("[mqtt]"))
        .unwrap();
    let mqtt = parse(&with(&mqtt)).unwrap().mqtt.unwrap();
    let least = parse("bundle = 'b'\nsource.command = ['c']\nmqtt.host = 'h'").unwrap();
    let least = least.mqtt.unwrap();
    assert_eq!(
        (mqtt.port, &mqtt.topic, mqtt.keep),
        (least.port, &least.topic, least.keep)
    );
}

/// What a TFT's layout comes to is the same with the example's fields and without any.
#[test]
fn a_display_is_as_its_example_without_a_field_too() {
    use pinhole_firmware::panel::{Controller, Layout};
    let plain = Tft::default();
    for (kind, controller) in [
        ("st7789", Controller::St7789),
        ("ili9341", Controller::Ili9341),
    ] {
        let (Display::St7789(tft) | Display::Ili9341(tft)) = display(kind) else {
            panic!("{kind}: expected a TFT");
        };
        assert_eq!(
            Layout::new(controller, &tft),
            Layout::new(controller, &plain),
            "{kind}"
        );
    }
}

#[test]
fn examples_of_fields_are_right() {
    let mut tried = 0;
    for block in blocks()
        .into_iter()
        .filter(|block| switched_on(block).is_none())
    {
        for line in block.lines().filter_map(example) {
            let field = line.split(" = ").next().unwrap();
            // A source is one thing.
            let instead = ["command", "mjpeg", "y4m", "folder", "device"].contains(&field);
            let changed: Vec<_> = (block.lines())
                .filter(|old| !(instead && old.starts_with("command = ")))
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

/// A field that is not known is answered with those that are: the file has them all.
#[test]
fn the_file_has_every_field() {
    let mut tables = vec![String::new()];
    tables
        .extend(["source", "thresholds", "screen", "log", "mqtt"].map(|name| format!("[{name}]")));
    tables.extend(
        ["ssd1306", "st7789", "ili9341", "framebuffer", "simulator"]
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
                    let text = switched_on(block).unwrap_or_else(|| block.replace('#', ""));
                    text.contains(&table)
                })
                .unwrap_or_else(|| panic!("{table}: expected it in the file"))
                .to_owned(),
        };
        assert!(!known.is_empty(), "{table}: {error}");
        for field in known {
            // Below, each is a table of the file.
            let header = format!("[{field}]");
            let named = (block.lines()).any(|line| {
                let line = example(line).unwrap_or(line);
                line.starts_with(&format!("{field} = "))
            });
            assert!(
                named || (table.is_empty() && FILE.contains(&header)),
                "{table}: expected the field {field} in the file"
            );
        }
    }
}

#[test]
fn a_geometry_that_does_not_fit_is_found_with_the_file() {
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
        assert!(matches!(error, Error::Field { .. }), "{error}");
        let error = error.to_string();
        assert!(error.starts_with("/etc/pinhole/firmware.toml: "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}
