//! JPEG files that are decoded to planes, of which only what is needed is converted to RGB, and files that are decoded at a
//! fraction of their size.

use std::path::Path;

use mozjpeg::ColorSpace::{JCS_GRAYSCALE, JCS_YCbCr};
use pinhole_model::{CropRounding, Filter, PreprocessConfig, Resize};
use pinhole_preprocessing::{
    DecodeOptions, Error, Image, ImageView, Reduction, RgbImage, decode, preprocess,
};
use serde::Deserialize;

use crate::support::{draw, sha256};

/// A JPEG file of `image`; `pixels` per chroma sample, across and down; none for grey.
fn jpeg(image: &RgbImage, pixels: Option<(u8, u8)>, progressive: bool) -> Vec<u8> {
    let mut encoder = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    encoder.set_size(image.width as usize, image.height as usize);
    encoder.set_fastest_defaults();
    encoder.set_quality(80.0);
    match pixels {
        Some(pixels) => {
            encoder.set_color_space(JCS_YCbCr);
            encoder.set_chroma_sampling_pixel_sizes(pixels, pixels);
        }
        None => encoder.set_color_space(JCS_GRAYSCALE),
    }
    if progressive {
        encoder.set_progressive_mode();
    }
    let mut encoder = encoder.start_compress(Vec::new()).unwrap();
    encoder.write_scanlines(&image.data).unwrap();
    encoder.finish().unwrap()
}

/// The image as libjpeg converts it to RGB: there is no memory for planes.
fn by_libjpeg(file: &[u8]) -> RgbImage {
    let with = |max_memory| DecodeOptions {
        max_memory,
        ..DecodeOptions::default()
    };
    let Err(Error::TooLarge { needed, .. }) = decode(file, &with(0)) else {
        panic!("expected a file that needs memory");
    };
    // The file too must be within the limit.
    let image = Image::decode(file, &with(needed)).unwrap();
    assert!(matches!(ImageView::from(&image), ImageView::Rgb(_)));
    image.into_rgb()
}

fn configs() -> Vec<PreprocessConfig> {
    let clip = PreprocessConfig::openai(16);
    vec![
        clip.clone(),
        PreprocessConfig::siglip(9),
        PreprocessConfig {
            resize: Resize::Longest,
            filter: Filter::Bilinear,
            ..clip.clone()
        },
        PreprocessConfig {
            filter: Filter::Nearest,
            crop: CropRounding::HalfEven,
            resize_to: Some(21),
            ..clip
        },
    ]
}

/// If this fails, an answer depends on whether its JPEG file was converted to RGB as a whole.
#[test]
fn planes_give_the_pixels_of_libjpeg() {
    let sizes = [
        (1, 1),
        (3, 2),
        (4, 4),
        (5, 7),
        (16, 16),
        (33, 17),
        (64, 40),
        (65, 31),
        (50, 171),
        (171, 48),
    ];
    let samplings = [None, Some((1, 1)), Some((2, 1)), Some((1, 2)), Some((2, 2))];
    for (seed, (width, height)) in sizes.into_iter().enumerate() {
        for sampling in samplings {
            for progressive in [false, true] {
                let name = format!("{width} x {height}, {sampling:?}, progressive {progressive}");
                let file = jpeg(&draw(width, height, seed as u32), sampling, progressive);
                let expected = by_libjpeg(&file);
                let image = Image::decode(&file, &DecodeOptions::default()).unwrap();
                assert!(
                    matches!(ImageView::from(&image), ImageView::Yuv(_)),
                    "{name}"
                );
                assert!(*image.to_rgb() == expected, "{name}");
                for config in configs() {
                    let pixels = preprocess(&config, &image).map_err(|e| e.to_string());
                    let of_rgb = preprocess(&config, &expected).map_err(|e| e.to_string());
                    assert!(pixels == of_rgb, "{name}, {config:?}");
                }
                let expected = Image::from(expected);
                for (x, y, w, h) in [
                    (0, 0, width, height),
                    (
                        width / 2,
                        height / 3,
                        width - width / 2,
                        height - height / 3,
                    ),
                    (width / 3, height / 2, 1, 1),
                ] {
                    let part = image.part(x, y, w, h).unwrap();
                    let of_rgb = expected.part(x, y, w, h).unwrap();
                    assert!(part.to_rgb().unwrap() == of_rgb.to_rgb().unwrap(), "{name}");
                    let [part, of_rgb] = [part, of_rgb].map(|v| preprocess(&configs()[0], v));
                    assert!(part.unwrap() == of_rgb.unwrap(), "{name}");
                }
            }
        }
    }
}

#[test]
fn parts_are_inside_of_the_image() {
    let image = Image::from(RgbImage::new(4, 3, (0..36).collect()).unwrap());
    let part = image.part(1, 1, 2, 2).unwrap().to_rgb().unwrap();
    assert_eq!(part.data, [15, 16, 17, 18, 19, 20, 27, 28, 29, 30, 31, 32]);
    for (x, y, width, height) in [
        (3, 0, 2, 1),
        (0, 3, 1, 1),
        (0, 0, 0, 1),
        (u32::MAX, 0, 2, 1),
    ] {
        assert!(image.part(x, y, width, height).is_none(), "{x} {y}");
    }
}

/// One line of golden/reduced.json; see tests/reference/make_reduced.py.
#[derive(Deserialize)]
struct Case {
    file: String,
    side: u32,
    width: u32,
    height: u32,
    sha256: String,
}

fn reduced_to(side: u32, part: Option<(u32, u32)>) -> DecodeOptions {
    DecodeOptions {
        reduction: Some(Reduction { side, part }),
        ..DecodeOptions::default()
    }
}

/// If this fails, what is published of the effect of reduction on answers does not hold.
#[test]
fn reduced_files_equal_pillows_draft() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let cases: Vec<Case> = serde_json::from_str(include_str!("../golden/reduced.json")).unwrap();
    for case in &cases {
        let file = std::fs::read(golden.join("decode").join(&case.file)).unwrap();
        let image = Image::decode(&file, &reduced_to(case.side, None)).unwrap();
        let name = format!("{} to {}", case.file, case.side);
        let size = (image.width(), image.height());
        assert_eq!(size, (case.width, case.height), "{name}");
        let whole = Image::decode(&file, &DecodeOptions::default()).unwrap();
        let whole = (whole.width(), whole.height());
        assert_eq!(image.original_size(), whole, "{name}");
        assert_eq!(sha256(&image.to_rgb().data), case.sha256, "{name}");
    }
}

/// If this fails, a damaged file is classified because its damage is where reduction does not look, or the user is told
/// something else about it.
#[test]
fn reduced_files_are_refused_for_the_same_reasons() {
    let mut refused = 0;
    for sampling in [None, Some((2, 2))] {
        for progressive in [false, true] {
            let file = jpeg(&draw(40, 33, 3), sampling, progressive);
            let damaged = (0..file.len()).step_by(3).map(|at| {
                let mut file = file.clone();
                file[at] ^= 0x55;
                file
            });
            let cut = (0..file.len()).step_by(7).map(|len| file[..len].to_vec());
            for file in damaged.chain(cut) {
                let reason = |options| decode(&file, &options).err().map(|e| e.to_string());
                let exact = reason(DecodeOptions::default());
                assert_eq!(reason(reduced_to(4, None)), exact);
                refused += usize::from(exact.is_some());
            }
        }
    }
    assert!(refused > 300, "{refused}");
    let small = DecodeOptions {
        max_memory: 1000,
        ..reduced_to(4, None)
    };
    let file = jpeg(&draw(40, 33, 3), None, false);
    assert!(matches!(
        decode(&file[..], &small),
        Err(Error::TooLarge { .. } | Error::FileTooLarge { .. })
    ));
}

/// If this fails, a region of interest is enlarged from fewer pixels than the encoder sees, or shows something else.
#[test]
fn parts_of_reduced_files_are_large_enough() {
    let file = jpeg(&draw(400, 300, 1), Some((2, 2)), false);
    for (side, part, expected) in [
        (16, None, (50, 38)),
        (40, None, (100, 75)),
        (100, None, (200, 150)),
        (151, None, (400, 300)),
        (16, Some((100, 70)), (100, 75)),
        (16, Some((31, 90)), (400, 300)),
    ] {
        let image = Image::decode(&file, &reduced_to(side, part)).unwrap();
        assert_eq!((image.width(), image.height()), expected, "{side} {part:?}");
        assert_eq!(image.original_size(), (400, 300));
        if let Some((width, height)) = part {
            let view = image.part(7, 11, width, height).unwrap().to_rgb().unwrap();
            assert!(view.width.min(view.height) >= side);
            assert!(image.part(301, 0, 100, 1).is_none());
        }
    }
}
