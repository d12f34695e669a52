//! Decoding compared with Pillow, and truncated, damaged and foreign files.

mod support;

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::ZlibDecoder;
use pinhole_model::PreprocessConfig;
use pinhole_preprocessing::{DecodeOptions, Error, Pixels, decode, open, preprocess};
use proptest::prelude::*;
use serde::Deserialize;
use support::{draw, sha256};

/// One line of golden/decode.json; see tests/reference/preprocessing_files.py.
#[derive(Deserialize)]
struct Case {
    file: String,
    mode: String,
    width: u32,
    height: u32,
    turned: [u32; 2],
    sha256: Option<String>,
    turned_sha256: Option<String>,
    /// Of a JPEG: the file with its pixels, [height, width, 3], packed by zlib.
    rgb: Option<String>,
    turned_rgb: Option<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/decode")
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("golden/decode.json")).unwrap()
}

fn bytes(case: &Case) -> Vec<u8> {
    std::fs::read(folder().join(&case.file)).unwrap()
}

/// A limit slightly above the largest golden file.
const SMALL: DecodeOptions = DecodeOptions {
    apply_orientation: false,
    max_pixels: 20_000,
};
const TURNED: DecodeOptions = DecodeOptions {
    apply_orientation: true,
    max_pixels: 1_000_000,
};

/// Largest and mean absolute difference of two images' values.
fn distance(a: &[u8], b: &[u8]) -> (u8, f64) {
    assert_eq!(a.len(), b.len());
    let distances = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    (
        distances.clone().max().unwrap(),
        distances.map(f64::from).sum::<f64>() / a.len() as f64,
    )
}

/// If this fails, a kind of file decodes to other pixels than in Pillow.
#[test]
fn equals_pillow_in_every_mode() {
    let mut wrong = Vec::new();
    for case in cases() {
        let name = format!("{} (Pillow's mode {})", case.file, case.mode);
        let image = match decode(&bytes(&case), &DecodeOptions::default()) {
            Ok(image) => image,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let turned = decode(&bytes(&case), &TURNED).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut check = |good: bool, what: String| {
            if !good {
                wrong.push(format!("{name}: {what}"));
            }
        };
        check(
            (image.width, image.height) == (case.width, case.height),
            "size".into(),
        );
        check(
            [turned.width, turned.height] == case.turned,
            "size turned".into(),
        );
        if let (Some(pixels), Some(turned_pixels)) = (&case.sha256, &case.turned_sha256) {
            check(sha256(&image.data) == *pixels, "pixels".into());
            check(
                sha256(&turned.data) == *turned_pixels,
                "pixels turned".into(),
            );
        } else {
            // zune-jpeg and libjpeg-turbo round differently in the inverse transform and the upsampling.
            for (data, file) in [(&image.data, &case.rgb), (&turned.data, &case.turned_rgb)] {
                let file = file.as_ref().unwrap();
                let packed = std::fs::read(folder().join(file)).unwrap();
                let mut expected = Vec::new();
                ZlibDecoder::new(&packed[..])
                    .read_to_end(&mut expected)
                    .unwrap();
                let (largest, mean) = distance(data, &expected);
                println!("{file}: largest difference {largest}, mean {mean:.3}");
                check(
                    largest <= 4 && mean <= 0.5,
                    format!("{file} differs by at most {largest}, on average {mean}"),
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// If this fails, a half-written photo is classified as if it were complete.
#[test]
fn truncated_files_are_errors() {
    for case in cases() {
        let bytes = bytes(&case);
        let whole = decode(&bytes, &SMALL).unwrap();
        let mut refused = 0;
        for len in 0..bytes.len() {
            match decode(&bytes[..len], &SMALL) {
                // Only bytes after the pixel data may be missing.
                Ok(image) => assert!(
                    image == whole,
                    "{} cut to {len} bytes gives other pixels",
                    case.file
                ),
                Err(e) => {
                    refused += 1;
                    assert!(!e.to_string().contains('\n'), "{e}");
                }
            }
        }
        assert!(refused > 40, "{}: {refused}", case.file);
    }
}

/// If this fails, a damaged or hostile file makes the program panic.
#[test]
fn damaged_files_do_not_panic() {
    for case in cases() {
        let bytes = bytes(&case);
        for at in 0..bytes.len() {
            for change in [1 << (at % 8), 0xFF, 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] ^= change;
                if let Ok(image) = decode(&damaged, &SMALL) {
                    assert!(u64::from(image.width) * u64::from(image.height) <= SMALL.max_pixels);
                    assert_eq!(
                        image.data.len(),
                        image.width as usize * image.height as usize * 3
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// If this fails, a combination of damages makes the program panic.
    #[test]
    fn files_damaged_in_several_places_do_not_panic(
        file: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        keep: prop::sample::Index,
    ) {
        let cases = cases();
        let mut bytes = bytes(&cases[file.index(cases.len())]);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = decode(&bytes, &SMALL);
        let _ = decode(&bytes[..keep.index(bytes.len())], &SMALL);
    }
}

/// If this fails, a small file whose header declares gigabytes makes the program allocate them.
#[test]
fn huge_headers_are_refused_before_allocating() {
    let find = |name: &str| std::fs::read(folder().join(name)).unwrap();
    let mut png = find("rgb.png");
    png[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    png[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    // CRC-32 of the header with these sides.
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let mut bmp = find("rgb.bmp");
    bmp[18..22].copy_from_slice(&60_000_u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&60_000_u32.to_le_bytes());
    let mut gif = find("palette.gif");
    gif[6..10].fill(0xFF);
    let mut jpeg = find("rgb444.jpg");
    let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].fill(0xFF);
    for file in [png, bmp, gif, jpeg] {
        match decode(&file, &DecodeOptions::default()) {
            Err(e @ Error::TooManyPixels { .. }) => {
                assert!(
                    e.to_string().contains("more than the limit of 100000000"),
                    "{e}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    // A limit of the caller: exactly 23 x 17 pixels.
    let exact = DecodeOptions {
        max_pixels: 23 * 17,
        ..DecodeOptions::default()
    };
    assert!(decode(&find("rgb.png"), &exact).is_ok());
    let below = DecodeOptions {
        max_pixels: 23 * 17 - 1,
        ..DecodeOptions::default()
    };
    for name in [
        "rgb.png",
        "rgb.bmp",
        "palette.gif",
        "lossless.webp",
        "orientation1.jpg",
    ] {
        assert!(
            matches!(
                decode(&find(name), &below),
                Err(Error::TooManyPixels { .. })
            ),
            "{name}"
        );
    }
}

fn crc32(data: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(data);
    crc.sum()
}

/// If this fails, an error does not name the file and its problem.
#[test]
fn errors_name_the_file_and_what_was_found() {
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, data: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, data).unwrap();
        let shown = path.display().to_string();
        let error = open(&path, &DecodeOptions::default())
            .unwrap_err()
            .to_string();
        error
            .strip_prefix(&format!("{shown}: "))
            .unwrap_or_else(|| panic!("{error}"))
            .to_owned()
    };
    let formats = "supported are JPEG, PNG, WebP, BMP, GIF";
    assert_eq!(
        written("empty.png", b""),
        format!("not an image: the file is empty; {formats}")
    );
    assert_eq!(
        written("text.jpg", b"Dear diary,\ntoday"),
        format!("not an image: starts with \"Dear diary,\\n\"; {formats}")
    );
    assert_eq!(
        written("short.jpg", &[0xFF]),
        format!("not an image: starts with \"\\xff\"; {formats}")
    );
    let whole = std::fs::read(self::folder().join("rgb420.jpg")).unwrap();
    assert_eq!(
        written("half.jpg", &whole[..whole.len() / 2]),
        "damaged or unsupported JPEG image: the file is truncated: it has no end marker"
    );
    let missing = open(folder.path().join("missing.jpg"), &DecodeOptions::default())
        .unwrap_err()
        .to_string();
    assert!(missing.contains("missing.jpg: cannot read: "), "{missing}");
    assert!(open(folder.path(), &DecodeOptions::default()).is_err());

    let large = folder.path().join("large.bin");
    std::fs::File::create(&large)
        .unwrap()
        .set_len((16 << 20) + 9)
        .unwrap();
    let tiny = DecodeOptions {
        max_pixels: 1,
        ..DecodeOptions::default()
    };
    let error = open(&large, &tiny).unwrap_err().to_string();
    assert!(error.contains("more than 16777224 bytes"), "{error}");
}

/// If this fails, a file with a wrong extension is refused.
#[test]
fn the_content_decides_the_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.jpg");
    std::fs::copy(self::folder().join("rgb.png"), &path).unwrap();
    let png = std::fs::read(self::folder().join("rgb.png")).unwrap();
    assert_eq!(
        open(&path, &TURNED).unwrap(),
        decode(&png, &TURNED).unwrap()
    );
}

/// If this fails, photos of cameras that pad JPEG headers are refused.
#[test]
fn stray_bytes_between_jpeg_markers_are_skipped() {
    let whole = std::fs::read(folder().join("rgb444.jpg")).unwrap();
    let table = whole.windows(2).position(|w| w == [0xFF, 0xDB]).unwrap();
    let mut padded = whole.clone();
    padded.splice(table..table, [0; 7]);
    padded.extend(b"behind the end");
    assert_eq!(
        decode(&padded, &TURNED).unwrap(),
        decode(&whole, &TURNED).unwrap()
    );
}

/// If this fails, `pinhole preprocess` writes other pixels than the encoder reads.
#[test]
fn the_crop_survives_png() {
    let pixels = preprocess(&PreprocessConfig::openai(32), &draw(50, 40, 3)).unwrap();
    let image = decode(&pixels.to_png().unwrap(), &DecodeOptions::default()).unwrap();
    assert_eq!(
        (image.width, image.height, &image.data),
        (32, 32, &pixels.data)
    );
    let broken = Pixels {
        size: 33,
        data: pixels.data,
    };
    assert!(matches!(broken.to_png(), Err(Error::Shape { .. })));
}
