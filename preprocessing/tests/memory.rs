//! Memory of decoding: at most what the header makes [`DecodeOptions::check_memory`] expect, and 64 MiB. Each file is decoded by
//! a process of its own, with that limit on its address space.
//!
//! [`DecodeOptions::check_memory`]: pinhole_preprocessing::DecodeOptions::max_memory

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use image::ImageEncoder;
use image::codecs::webp::WebPEncoder;
use pinhole_preprocessing::{DecodeOptions, Error, decode};

const FILE: &str = "PINHOLE_TEST_FILE";
const LIMIT: &str = "PINHOLE_TEST_LIMIT";
/// Program, libraries, stacks, tables and metadata.
const REST: u64 = 64 << 20;
const SIDE: u32 = 3000;

/// Decodes the file that the environment names; run by [`decode_within`].
#[test]
#[ignore = "run by the other tests"]
fn child() {
    let bytes = std::fs::read(std::env::var(FILE).unwrap()).unwrap();
    let options = DecodeOptions {
        max_memory: std::env::var(LIMIT).unwrap().parse().unwrap(),
        ..DecodeOptions::default()
    };
    match decode(&bytes, &options) {
        Ok(image) => println!("decoded {} x {}", image.width, image.height),
        Err(e) => println!("refused: {e}"),
    }
}

/// The output of [`child`] for `bytes` and [`DecodeOptions::max_memory`], with an address space of `limit` bytes.
fn decode_within(bytes: &[u8], max_memory: u64, limit: u64) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let test = std::env::current_exe().unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new("sh")
        .args([
            "-c",
            "ulimit -v \"$1\" && exec \"$2\" --exact child --ignored --nocapture",
            "sh",
        ])
        .arg((limit >> 10).to_string())
        .arg(test)
        .env(FILE, file.path())
        .env(LIMIT, max_memory.to_string())
        // An arena of another thread reserves 64 MiB of addresses.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    assert!(
        status.success(),
        "{stdout}{}",
        String::from_utf8_lossy(&stderr)
    );
    stdout
}

/// What decoding needs by the file's header: the error of a limit of 0 says it.
fn needed(bytes: &[u8]) -> u64 {
    let nothing = DecodeOptions {
        max_memory: 0,
        ..DecodeOptions::default()
    };
    match decode(bytes, &nothing) {
        Err(Error::TooLarge { needed, .. }) => needed,
        other => panic!("{other:?}"),
    }
}

/// A black PNG of [`SIDE`].
fn png(bits: u8, colour: u8, channels: usize, interlaced: bool) -> Vec<u8> {
    let chunk = |name: &[u8], data: &[u8]| {
        let body = [name, data].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&body);
        [
            &(data.len() as u32).to_be_bytes()[..],
            &body,
            &crc.sum().to_be_bytes(),
        ]
        .concat()
    };
    let mut header = [SIDE.to_be_bytes(), SIDE.to_be_bytes()].concat();
    header.extend([bits, colour, 0, 0, interlaced.into()]);
    let mut data = ZlibEncoder::new(Vec::new(), Compression::fast());
    // Start and step of the passes (PNG, section 8.2).
    let passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ];
    let whole = [(0, 0, 1, 1)];
    let side = SIDE as usize;
    for (x, y, dx, dy) in if interlaced { &passes[..] } else { &whole } {
        let row = vec![0; 1 + (side - x).div_ceil(*dx) * channels * usize::from(bits / 8)];
        for _ in 0..(side - y).div_ceil(*dy) {
            data.write_all(&row).unwrap();
        }
    }
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &header),
        chunk(b"IDAT", &data.finish().unwrap()),
        chunk(b"IEND", b""),
    ]
    .concat()
}

fn jpeg(space: mozjpeg::ColorSpace, channels: usize, progressive: bool) -> Vec<u8> {
    let side = SIDE as usize;
    let mut encoder = mozjpeg::Compress::new(space);
    encoder.set_fastest_defaults();
    encoder.set_size(side, side);
    if progressive {
        encoder.set_progressive_mode();
    }
    let mut encoder = encoder.start_compress(Vec::new()).unwrap();
    let row: Vec<u8> = (0..side * channels).map(|x| (x / 40 % 200) as u8).collect();
    for _ in 0..side {
        encoder.write_scanlines(&row).unwrap();
    }
    encoder.finish().unwrap()
}

fn webp(channels: usize) -> Vec<u8> {
    let side = SIDE as usize;
    let pixels: Vec<u8> = (0..side * side * channels)
        .map(|x| (x / 997) as u8)
        .collect();
    let mut file = vec![];
    let color = if channels == 4 {
        image::ExtendedColorType::Rgba8
    } else {
        image::ExtendedColorType::Rgb8
    };
    WebPEncoder::new_lossless(&mut file)
        .write_image(&pixels, SIDE, SIDE, color)
        .unwrap();
    file
}

/// If this fails, an image that the memory limit lets pass exhausts the memory of a board.
#[test]
fn decoding_needs_no_more_memory_than_its_header_says() {
    use mozjpeg::ColorSpace::{JCS_CMYK, JCS_RGB};
    for (name, file, bytes_per_pixel) in [
        ("png, grey", png(8, 0, 1, false), 4),
        ("png, grey, 16 bits", png(16, 0, 1, false), 5),
        ("png, RGB", png(8, 2, 3, false), 3),
        ("png, RGB, interlaced", png(8, 2, 3, true), 3),
        ("png, RGBA, 16 bits", png(16, 6, 4, false), 8),
        ("jpeg", jpeg(JCS_RGB, 3, false), 3),
        ("jpeg, progressive", jpeg(JCS_RGB, 3, true), 6),
        ("jpeg, CMYK", jpeg(JCS_CMYK, 4, false), 4),
        ("jpeg, CMYK, progressive", jpeg(JCS_CMYK, 4, true), 12),
        ("webp", webp(3), 8),
        ("webp, alpha", webp(4), 4 + 5),
    ] {
        let needed = needed(&file);
        let pixels = u64::from(SIDE) * u64::from(SIDE);
        // Coefficients are kept in whole units.
        assert_eq!(
            needed * 10 / pixels,
            bytes_per_pixel * 10,
            "{name}: {needed}"
        );
        // With twice the memory, JPEG files are decoded to planes first.
        for limit in [needed, 2 * needed] {
            let printed = decode_within(&file, limit, limit + file.len() as u64 + REST);
            assert!(printed.contains("decoded 3000 x 3000"), "{name}: {printed}");
        }
    }
}

/// If this fails, a file of a few bytes exhausts the memory by what it declares.
#[test]
fn declared_sizes_are_not_reserved() {
    let max_memory = DecodeOptions::default().max_memory;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/decode");
    // A WebP with a chunk of metadata of 4 GB.
    let simple = std::fs::read(golden.join("lossless.webp")).unwrap();
    let mut extended = b"RIFF\0\0\0\0WEBPVP8X\x0A\0\0\0\x08\0\0\0\x16\0\0\x10\0\0".to_vec();
    extended.extend(&simple[12..]);
    extended.extend(b"EXIF\xF0\xFF\xFF\xFFII*\0");
    let len = extended.len() as u32 - 8;
    extended[4..8].copy_from_slice(&len.to_le_bytes());
    let printed = decode_within(&extended, max_memory, 2 * REST);
    assert!(
        printed.contains("refused: damaged or unsupported WebP image: the file is truncated: "),
        "{printed}"
    );
    // A run-length coded BMP and a GIF of 65,535 pixels a side.
    let mut bmp =
        b"BM\0\0\0\0\0\0\0\0\x36\x04\0\0\x28\0\0\0\xFF\xFF\0\0\xFF\xFF\0\0\x01\0\x08\0\x01\0\0\0"
            .to_vec();
    bmp.resize(0x436, 0);
    bmp.extend([0, 1]);
    let gif =
        b"GIF89a\xFF\xFF\xFF\xFF\0\0\0,\0\0\0\0\xFF\xFF\xFF\xFF\0\x02\x02\x44\x01\0;".to_vec();
    for file in [bmp, gif] {
        let printed = decode_within(&file, max_memory, 2 * REST);
        assert!(
            printed.contains("more than the limit of 256 MiB"),
            "{printed}"
        );
    }
}
