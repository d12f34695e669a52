//! Decoding compared with Pillow, and truncated, damaged and foreign files.

use std::path::{Path, PathBuf};

use pinhole_model::PreprocessConfig;
use pinhole_preprocessing::{DecodeOptions, Error, Pixels, decode, open, preprocess};
use proptest::prelude::*;
use serde::Deserialize;

use crate::support::{draw, sha256};

/// One line of golden/decode.json; see tests/reference/preprocessing_files.py.
#[derive(Deserialize)]
struct Case {
    file: String,
    mode: String,
    width: u32,
    height: u32,
    turned: [u32; 2],
    sha256: String,
    turned_sha256: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/decode")
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../golden/decode.json")).unwrap()
}

fn bytes(case: &Case) -> Vec<u8> {
    std::fs::read(folder().join(&case.file)).unwrap()
}

/// A limit slightly above what the largest golden file needs.
const SMALL: DecodeOptions = DecodeOptions {
    apply_orientation: false,
    reduction: None,
    max_memory: 60_000,
};
const TURNED: DecodeOptions = DecodeOptions {
    apply_orientation: true,
    reduction: None,
    max_memory: 1 << 20,
};

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
        check(sha256(&image.data) == case.sha256, "pixels".into());
        check(
            sha256(&turned.data) == case.turned_sha256,
            "pixels turned".into(),
        );
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
                    assert!(image.data.len() as u64 <= SMALL.max_memory);
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
            Err(e @ Error::TooLarge { .. }) => {
                let e = e.to_string();
                assert!(e.contains("more than the limit of 256 MiB"), "{e}");
                assert!(e.contains("; --max-image-memory "), "{e}");
            }
            other => panic!("{other:?}"),
        }
    }
    // Exactly what 23 x 17 pixels need: their bytes, twice if they are rotated or wider than their result, and more
    // where the decoder keeps intermediate values.
    const PIXELS: u64 = 23 * 17;
    for (name, bytes_per_pixel) in [
        ("rgb.png", 3),
        ("grey.png", 1 + 3),
        ("rgba16.png", 8),
        ("rgb.bmp", 3),
        ("palette.gif", 4 + 4),
        ("lossless.webp", 3 + 5),
        ("orientation1.jpg", 3),
    ] {
        let limited = |max_memory| {
            let options = DecodeOptions {
                max_memory,
                ..DecodeOptions::default()
            };
            decode(&find(name), &options)
        };
        let needed = PIXELS * bytes_per_pixel;
        limited(needed).unwrap_or_else(|e| panic!("{name}: {e}"));
        match limited(needed - 1) {
            Err(Error::TooLarge { needed: found, .. }) => assert_eq!(found, needed, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
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
        format!("not an image: it starts with \"Dear diary,\\n\"; {formats}")
    );
    assert_eq!(
        written("short.jpg", &[0xFF]),
        format!("not an image: it starts with \"\\xff\"; {formats}")
    );
    let whole = std::fs::read(self::folder().join("rgb420.jpg")).unwrap();
    assert_eq!(
        written("half.jpg", &whole[..whole.len() / 2]),
        "damaged or unsupported JPEG image: the file is truncated: it has no end marker"
    );
    let missing = open(folder.path().join("missing.jpg"), &DecodeOptions::default())
        .unwrap_err()
        .to_string();
    let expected = "missing.jpg: expected an image file, found no such file";
    assert!(missing.contains(expected), "{missing}");
    assert!(open(folder.path(), &DecodeOptions::default()).is_err());

    let large = folder.path().join("large.bin");
    std::fs::File::create(&large)
        .unwrap()
        .set_len((16 << 20) + 9)
        .unwrap();
    let tiny = DecodeOptions {
        max_memory: 16 << 20,
        ..DecodeOptions::default()
    };
    let error = open(&large, &tiny).unwrap_err().to_string();
    assert!(error.contains("more than 16 MiB"), "{error}");
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

/// The marker segments of a JPEG file before its first scan's data, by the marker's code, and the rest.
fn segments(jpeg: &[u8]) -> (Vec<(u8, Vec<u8>)>, Vec<u8>) {
    let mut found = vec![];
    let mut at = 2;
    loop {
        let len = usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        let marker = jpeg[at + 1];
        found.push((marker, jpeg[at..at + 2 + len].to_vec()));
        at += 2 + len;
        if marker == 0xDA {
            return (found, jpeg[at..].to_vec());
        }
    }
}

/// `jpeg` without the segments of `dropped`, with `inserted` behind the start marker.
fn edited(jpeg: &[u8], dropped: &[u8], inserted: &[u8]) -> Vec<u8> {
    let (segments, rest) = segments(jpeg);
    let kept = segments.into_iter().filter(|(m, _)| !dropped.contains(m));
    let kept = kept.flat_map(|(_, segment)| segment);
    ([0xFF, 0xD8].into_iter())
        .chain(inserted.iter().copied())
        .chain(kept)
        .chain(rest)
        .collect()
}

const DEFAULTS: DecodeOptions = DecodeOptions {
    apply_orientation: false,
    reduction: None,
    max_memory: 1 << 20,
};

/// If this fails, frames of webcams that leave out the standard's Huffman tables are refused. Pillow writes these tables.
#[test]
fn jpegs_without_huffman_tables_use_those_of_the_standard() {
    let whole = std::fs::read(folder().join("rgb422.jpg")).unwrap();
    let expected = decode(&whole, &DEFAULTS).unwrap();
    let avi1 = [b"\xFF\xE0\0\x10AVI1".as_slice(), &[0; 10]].concat();
    for (dropped, inserted) in [
        (&[0xC4][..], &[][..]),
        (&[0xC4, 0xE0], &[]),
        (&[0xC4, 0xE0], &avi1),
        (
            &[0xC4, 0xE0],
            &avi1[..8]
                .iter()
                .map(|b| if *b == 0x10 { 6 } else { *b })
                .collect::<Vec<_>>(),
        ),
    ] {
        let file = edited(&whole, dropped, inserted);
        assert_eq!(decode(&file, &DEFAULTS).unwrap(), expected, "{inserted:?}");
    }
}

/// If this fails, an RGB file is shown in the colours of YCbCr, or the other way round. libjpeg decides by JFIF, then
/// Adobe's marker, then the components' names.
#[test]
fn colours_of_jpegs_follow_jfif_then_adobe_then_names() {
    let adobe = |transform| {
        [
            b"\xFF\xEE\0\x0EAdobe\0\x64\0\0\0\0".as_slice(),
            &[transform],
        ]
        .concat()
    };
    let ycc = std::fs::read(folder().join("rgb444.jpg")).unwrap();
    let as_ycc = decode(&ycc, &DEFAULTS).unwrap();
    let stored_rgb = std::fs::read(folder().join("stored-rgb.jpg")).unwrap();
    let as_rgb = decode(&edited(&ycc, &[0xE0], &adobe(0)), &DEFAULTS).unwrap();
    assert_ne!(as_rgb, as_ycc);
    // Behind JFIF the marker has no say.
    let (head, tail) = ycc.split_at(20);
    let behind = [head, &adobe(0), tail].concat();
    assert_eq!(decode(&behind, &DEFAULTS).unwrap(), as_ycc);
    assert_eq!(
        decode(&edited(&ycc, &[0xE0], &adobe(1)), &DEFAULTS).unwrap(),
        as_ycc
    );
    assert_eq!(
        decode(&edited(&ycc, &[0xE0], &[]), &DEFAULTS).unwrap(),
        as_ycc
    );
    // Components named R, G, B.
    let expected = decode(&stored_rgb, &DEFAULTS).unwrap();
    let by_names = edited(&stored_rgb, &[0xE0, 0xEE], &[]);
    assert_eq!(decode(&by_names, &DEFAULTS).unwrap(), expected);
}

/// If this fails, half a picture over grey or shifted blocks is classified as if it were whole.
#[test]
fn damaged_jpeg_data_is_an_error() {
    let refused = |name: &str, bytes: &[u8]| {
        let error = decode(bytes, &DEFAULTS).unwrap_err().to_string();
        assert!(
            error.starts_with("damaged or unsupported JPEG image: "),
            "{name}: {error}"
        );
    };
    for name in ["rgb420.jpg", "progressive.jpg", "grey.jpg", "restart.jpg"] {
        let whole = std::fs::read(folder().join(name)).unwrap();
        let scan = whole.len() - segments(&whole).1.len();
        for part in 1..10 {
            let len = scan + (whole.len() - scan) * part / 10;
            refused(name, &[&whole[..len], &[0xFF, 0xD9]].concat());
        }
    }
    let restart = std::fs::read(folder().join("restart.jpg")).unwrap();
    let marks: Vec<usize> = (0..restart.len() - 1)
        .filter(|at| restart[*at] == 0xFF && (0xD0..0xD8).contains(&restart[at + 1]))
        .collect();
    assert!(!marks.is_empty());
    for at in marks {
        refused(
            "a lost restart marker",
            &[&restart[..at], &restart[at + 2..]].concat(),
        );
    }
    // A progressive file whose last scans are missing is a blurred picture.
    let progressive = std::fs::read(folder().join("progressive.jpg")).unwrap();
    let scans: Vec<usize> = (0..progressive.len() - 1)
        .filter(|at| progressive[*at..at + 2] == [0xFF, 0xDA])
        .collect();
    assert_eq!(scans.len(), 10);
    for at in &scans[1..] {
        refused(
            "missing scans",
            &[&progressive[..*at], &[0xFF, 0xD9]].concat(),
        );
    }
}

/// If this fails, pictures of cameras that write zeros or nothing in place of the end marker are refused.
#[test]
fn a_baseline_jpeg_may_lack_its_end_marker() {
    let whole = std::fs::read(folder().join("rgb420.jpg")).unwrap();
    let expected = decode(&whole, &DEFAULTS).unwrap();
    let (image, end) = whole.split_at(whole.len() - 2);
    assert_eq!(end, [0xFF, 0xD9]);
    for tail in [&[][..], &[0xFF], &[0, 0], &[0; 600]] {
        let file = [image, tail].concat();
        assert_eq!(
            decode(&file, &DEFAULTS).unwrap(),
            expected,
            "{}",
            tail.len()
        );
    }
    // Of a progressive file whole scans could be missing.
    let progressive = std::fs::read(folder().join("progressive.jpg")).unwrap();
    let error = decode(&progressive[..progressive.len() - 2], &DEFAULTS).unwrap_err();
    assert!(
        error.to_string().contains("it has no end marker"),
        "{error}"
    );
}

/// If this fails, files are refused for metadata that nothing here reads.
#[test]
fn unusual_application_segments_have_no_effect() {
    let whole = std::fs::read(folder().join("rgb420.jpg")).unwrap();
    let expected = decode(&whole, &DEFAULTS).unwrap();
    for segment in [
        &b"\xFF\xE0\0\x02"[..],
        b"\xFF\xE1\0\x0AExif\0\0II",
        b"\xFF\xE2\0\x12ICC_PROFILE\0\x03\x07\0\0",
        b"\xFF\xEE\0\x05Ado",
        b"\xFF\xFE\0\x08\xFF\xD8\xFF\xD9\xFF\xDA",
    ] {
        let file = edited(&whole, &[], segment);
        assert_eq!(
            decode(&file, &DEFAULTS).unwrap(),
            expected,
            "{}",
            segment.escape_ascii()
        );
    }
}

/// If this fails, the user is shown bytes instead of the name of the format and the remedy.
#[test]
fn unsupported_formats_are_named() {
    for (bytes, name) in [
        (&b"\0\0\0\x18ftypheic\0\0\0\0"[..], "a HEIC image"),
        (b"\0\0\0\x1Cftypavif\0\0\0\0", "an AVIF image"),
        (b"II*\0\x08\0\0\0", "a TIFF or camera raw image"),
        (b"MM\0*\0\0\0\x08", "a TIFF or camera raw image"),
        (b"\0\0\0\x0CjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"\xFF\x0A\0\0", "a JPEG XL codestream"),
        (b"%PDF-1.7", "a PDF document"),
        (
            b"\0\0\0\x20ftypisom\0\0\x02\0",
            "a video (MP4 or QuickTime)",
        ),
    ] {
        let error = decode(bytes, &DEFAULTS).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "not an image: this is {name}; convert it to JPEG or PNG; supported are JPEG, PNG, WebP, BMP, GIF"
            )
        );
    }
}
