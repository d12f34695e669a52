//! Compares every screen on every kind of display with the reviewed picture in tests/screens/, pixel by pixel.
//!
//! `PINHOLE_UPDATE_SCREENS=1 cargo test -p pinhole-firmware --test all screens::` writes new pictures: review the changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use embedded_graphics::prelude::*;
use pinhole::camera::SceneState;
use pinhole::{DecodeOptions, PreprocessConfig};
use pinhole_firmware::canvas::Canvas;
use pinhole_firmware::image_file::write_png;
use pinhole_firmware::screens::{
    BootScreen, BootStep, CroppedFrame, ErrorScreen, IdleScreen, LiveScreen, Screen, draw,
};
use pinhole_firmware::text::Fonts;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/screens")
}

fn displays() -> [(&'static str, Size, bool); 4] {
    [
        ("oled-128x64", Size::new(128, 64), true),
        ("tft-240x240", Size::new(240, 240), false),
        ("tft-320x240", Size::new(320, 240), false),
        ("framebuffer-800x480", Size::new(800, 480), false),
    ]
}

fn sample(name: &str) -> CroppedFrame {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/samples");
    let image = pinhole::open_image(path.join(name), &DecodeOptions::default()).unwrap();
    CroppedFrame {
        image: Arc::new(image.into()),
        preprocessing: Arc::new(PreprocessConfig::openai(224)),
    }
}

fn live(state: Option<SceneState>, top: [(&str, f32); 3], sample_name: &str) -> LiveScreen {
    LiveScreen {
        state,
        top: top.map(|(name, p)| (name.to_owned(), p)).to_vec(),
        frame: Some(sample(sample_name)),
        rate: 5.24,
        temperature_c: Some(53.7),
        throttled: false,
        notice: None,
    }
}

fn class(name: &str) -> Option<SceneState> {
    Some(SceneState::Class {
        index: Some(0),
        name: name.into(),
    })
}

/// The screens, and how long each has been shown, in milliseconds.
fn screens() -> Vec<(&'static str, Screen, u64)> {
    let step = |name, result: Option<&str>| BootStep {
        name,
        result: result.map(str::to_owned),
    };
    let long = "a photograph of a European green woodpecker, Picus viridis, on a lawn";
    vec![
        (
            "boot",
            Screen::Boot(BootScreen {
                bundle: "shapes, 64 classes, f16".into(),
                steps: vec![
                    step("bundle", Some("0.2 s")),
                    step("self-test", Some("4 of 4")),
                    step("camera", None),
                ],
            }),
            0,
        ),
        (
            "live",
            Screen::Live(live(
                class("red heart"),
                [("red heart", 0.934), ("pink heart", 0.051), ("red star", 0.012)],
                "red-heart.png",
            )),
            0,
        ),
        (
            "live-unknown",
            Screen::Live(LiveScreen {
                throttled: true,
                temperature_c: Some(84.2),
                rate: 12.4,
                ..live(
                    Some(SceneState::Unknown),
                    [
                        ("orange cross", 0.31),
                        ("yellow triangle", 0.28),
                        ("purple crescent", 0.11),
                    ],
                    "orange-cross.png",
                )
            }),
            0,
        ),
        (
            "live-long",
            Screen::Live(live(
                class(long),
                [(long, 0.62), ("Rhododendron ferrugineum (alpenrose)", 0.2), ("x", 0.18)],
                "green-star.png",
            )),
            0,
        ),
        (
            "live-long-later",
            Screen::Live(live(
                class(long),
                [(long, 0.62), ("Rhododendron ferrugineum (alpenrose)", 0.2), ("x", 0.18)],
                "green-star.png",
            )),
            5000,
        ),
        (
            "live-scripts",
            Screen::Live(live(
                class("красное сердце"),
                [("赤いハート 하트", 0.9), ("قلب أحمر", 0.08), ("ไทย हृदय ❤ 🫀", 1.0)],
                "red-heart.png",
            )),
            0,
        ),
        (
            "live-notice",
            Screen::Live(LiveScreen {
                notice: Some("new bundle refused: manifest.json: expected version 1, found 7".into()),
                throttled: true,
                ..live(
                    class("blue square"),
                    [("blue square", 0.999), ("purple square", 0.001), ("blue ring", 0.0)],
                    "blue-square.png",
                )
            }),
            0,
        ),
        (
            "waiting",
            Screen::Live(LiveScreen {
                state: None,
                top: vec![],
                frame: None,
                rate: 0.0,
                temperature_c: None,
                throttled: false,
                notice: None,
            }),
            0,
        ),
        (
            "error",
            Screen::Error(ErrorScreen {
                title: "Camera",
                reason: "rpicam-vid: exit status 255 (no cameras available)".into(),
                action: "again in 4 s".into(),
            }),
            0,
        ),
        (
            "error-long",
            Screen::Error(ErrorScreen {
                title: "Bundle",
                reason: "/usr/share/pinhole/demo/image_encoder.onnx: expected the SHA-256 \
                         9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 of manifest.json, found \
                         another: the copy is damaged, copy it again"
                    .into(),
                action: "waiting for another bundle".into(),
            }),
            0,
        ),
        (
            "idle",
            Screen::Idle(IdleScreen {
                state: class("white heart"),
                unchanged: Duration::from_secs(760),
                temperature_c: Some(47.1),
            }),
            12_000,
        ),
    ]
}

#[test]
fn screens_equal_the_reviewed_pictures() {
    let update = std::env::var_os("PINHOLE_UPDATE_SCREENS").is_some();
    let mut differing = vec![];
    for (display, size, monochrome) in displays() {
        let mut fonts = Fonts::new(&[], monochrome).unwrap();
        for (name, screen, shown) in screens() {
            let mut canvas = Canvas::new(size);
            let shown = Duration::from_millis(shown);
            draw(&screen, &mut canvas, &mut fonts, monochrome, shown);
            let path = folder().join(format!("{display}-{name}.png"));
            if update {
                let mut bytes = vec![];
                write_png(&mut bytes, &canvas).unwrap();
                std::fs::write(&path, bytes).unwrap();
            }
            let drawn: Vec<u8> = (canvas.pixels().iter())
                .flat_map(|pixel| [pixel.r(), pixel.g(), pixel.b()])
                .collect();
            let expected = pinhole::open_image(&path, &DecodeOptions::default())
                .unwrap_or_else(|e| panic!("{e}: create it with PINHOLE_UPDATE_SCREENS=1"));
            if drawn != expected.data {
                let actual = Path::new(env!("CARGO_TARGET_TMPDIR")).join(path.file_name().unwrap());
                write_png(std::fs::File::create(&actual).unwrap(), &canvas).unwrap();
                differing.push(format!("{} (drawn: {})", path.display(), actual.display()));
            }
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
