//! Resize and crop against Pillow's own results and against a transcription of Pillow in plain loops.

use pinhole_model::{CropRounding, Filter, PreprocessConfig, Resize};
use pinhole_preprocessing::{Error, RgbImage, RgbView, preprocess};
use proptest::prelude::*;
use serde::Deserialize;

use crate::support::{draw, reference, sha256};

/// One line of golden/resize.json; see tests/reference/make_preprocessing.py.
#[derive(Deserialize)]
struct Case {
    width: u32,
    height: u32,
    seed: u32,
    size: u32,
    resize: Resize,
    #[serde(default)]
    resize_to: Option<u32>,
    filter: Filter,
    crop: CropRounding,
    fill: [u8; 3],
    sha256: Option<String>,
    pixels: Option<String>,
    #[serde(default)]
    error: bool,
}

fn config(
    size: u32,
    resize: Resize,
    filter: Filter,
    crop: CropRounding,
    fill: [u8; 3],
) -> PreprocessConfig {
    PreprocessConfig {
        size,
        resize,
        filter,
        crop,
        fill,
        ..PreprocessConfig::openai(size)
    }
}

/// If this fails, the encoder sees other pixels than in training.
#[test]
fn equals_pillow_torchvision_open_clip_and_transformers() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../golden/resize.json")).unwrap();
    assert!(cases.len() >= 250, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let name = format!(
            "{} x {} to {}: {:?}, {:?}, {:?}",
            case.width, case.height, case.size, case.resize, case.filter, case.crop
        );
        let image = draw(case.width, case.height, case.seed);
        let config = PreprocessConfig {
            resize_to: case.resize_to,
            ..config(case.size, case.resize, case.filter, case.crop, case.fill)
        };
        let result = preprocess(&config, &image);
        if case.error {
            assert!(
                matches!(result, Err(Error::Degenerate { .. })),
                "{name}: {result:?}"
            );
            continue;
        }
        let data = result.unwrap_or_else(|e| panic!("{name}: {e}")).data;
        if sha256(&data) != case.sha256.as_deref().unwrap() {
            let found = data.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let detail = case
                .pixels
                .as_ref()
                .map(|p| format!("\n  expected {p}\n  found    {found}"));
            wrong.push(name + &detail.unwrap_or_default());
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

fn configs() -> impl Strategy<Value = PreprocessConfig> {
    let resize = prop::sample::select(vec![Resize::Shortest, Resize::Longest, Resize::Squash]);
    let filter = prop::sample::select(vec![
        Filter::Nearest,
        Filter::Box,
        Filter::Bilinear,
        Filter::Hamming,
        Filter::Bicubic,
        Filter::Lanczos,
    ]);
    let crop = prop::sample::select(vec![CropRounding::HalfEven, CropRounding::Floor]);
    let extra = prop_oneof![Just(None), (0_u32..60).prop_map(Some)];
    (1_u32..150, extra, resize, filter, crop, any::<[u8; 3]>()).prop_map(
        |(size, extra, resize, filter, crop, fill)| PreprocessConfig {
            resize_to: extra.map(|extra| size + extra),
            ..config(size, resize, filter, crop, fill)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// If this fails, blocks, segments or lanes of the fast path overlap or leave gaps.
    #[test]
    fn equals_the_reference_loops(config in configs(), width in 1_u32..700, height in 1_u32..160, turn: bool, seed: u32) {
        let (width, height) = if turn { (height, width) } else { (width, height) };
        let image = draw(width, height, seed);
        match (preprocess(&config, &image), reference(&image, &config)) {
            (Ok(pixels), Some(expected)) => prop_assert!(pixels.data == expected),
            (Err(Error::Degenerate { .. }), None) => {}
            (found, expected) => prop_assert!(false, "{found:?}, expected {expected:?}"),
        }
    }
}

/// If this fails, a thin image needs memory for its whole scaled size.
#[test]
fn thin_images_stay_small() {
    // Scaled as a whole, the first would have 22 million rows.
    for (width, height) in [(1, 100_000), (100_000, 1), (1, 1 << 20), (1 << 20, 1)] {
        let image = draw(width, height, 3);
        for resize in [Resize::Shortest, Resize::Squash] {
            for filter in [Filter::Bicubic, Filter::Nearest] {
                let config = config(224, resize, filter, CropRounding::HalfEven, [0; 3]);
                let pixels = preprocess(&config, &image).unwrap();
                assert_eq!(pixels.data.len(), 224 * 224 * 3);
            }
        }
        let longest = config(
            224,
            Resize::Longest,
            Filter::Bicubic,
            CropRounding::HalfEven,
            [0; 3],
        );
        assert!(matches!(
            preprocess(&longest, &image),
            Err(Error::Degenerate { .. })
        ));
    }
    let longer = RgbImage::new(1, (1 << 20) + 1, vec![0; 3 * ((1 << 20) + 1)]).unwrap();
    assert!(matches!(
        preprocess(&PreprocessConfig::openai(224), &longer),
        Err(Error::Degenerate { .. })
    ));
}

/// If this fails, a damaged manifest leads to a division by zero or an allocation of gigabytes.
#[test]
fn config_fields_out_of_range_are_errors() {
    let good = PreprocessConfig::openai(224);
    good.validate().unwrap();
    let with = |change: fn(&mut PreprocessConfig)| {
        let mut config = good.clone();
        change(&mut config);
        let image = draw(3, 3, 0);
        assert!(preprocess(&config, &image).is_err());
        config.validate().unwrap_err().to_string()
    };
    assert_eq!(
        with(|r| r.size = 0),
        "preprocessing.size: expected 1..=4096, found 0"
    );
    assert!(with(|r| r.size = 4097).contains("4097"));
    assert!(with(|r| r.mean[1] = f32::NAN).contains("mean"));
    assert!(with(|r| r.std[2] = 0.0).contains("std"));
    assert!(with(|r| r.std[0] = -1.0).contains("std"));
    assert!(with(|r| r.std[0] = f32::INFINITY).contains("std"));
}

/// If this fails, sides that do not match the data cause a panic or wrong pixels.
#[test]
fn shapes_are_checked() {
    assert!(RgbImage::new(2, 2, vec![0; 12]).is_ok());
    assert!(
        RgbImage::new(2, 2, vec![0; 11])
            .unwrap_err()
            .to_string()
            .contains("12 bytes")
    );
    assert!(RgbImage::new(0, 2, vec![]).is_err());
    assert!(RgbView::new(u32::MAX, u32::MAX, &[]).is_err());
    let broken = RgbImage {
        width: 5,
        height: 5,
        data: vec![0; 3],
    };
    assert!(matches!(
        preprocess(&PreprocessConfig::openai(8), &broken),
        Err(Error::Shape { .. })
    ));
}

/// If this fails, frames in the caller's memory give other pixels than owned images. Tall frames filter columns first,
/// and nearest has a loop of its own.
#[test]
fn borrowed_frames_with_and_without_padding_equal_owned_images() {
    for (width, height) in [(37, 21), (9, 70)] {
        let image = draw(width, height, 4);
        let row = width as usize * 3;
        let padded: Vec<u8> = image
            .data
            .chunks_exact(row)
            .flat_map(|row| [row, &[0xA5; 7]].concat())
            .collect();
        for filter in [Filter::Bicubic, Filter::Nearest] {
            let config = PreprocessConfig {
                filter,
                ..PreprocessConfig::openai(16)
            };
            let expected = preprocess(&config, &image).unwrap();
            let view = RgbView::new(width, height, &image.data).unwrap();
            assert_eq!(preprocess(&config, view).unwrap(), expected);
            for end in [padded.len(), padded.len() - 7] {
                let view = RgbView::with_stride(width, height, row + 7, &padded[..end]).unwrap();
                assert_eq!(preprocess(&config, view).unwrap(), expected);
            }
        }
    }
}

/// If this fails, a stride that does not fit the buffer causes a panic or a skewed picture.
#[test]
fn strides_are_checked() {
    let data = [0; 40];
    // 3 rows of 9 bytes with 2 of padding: 31 to 33 bytes.
    for (stride, len, fits) in [
        (11, 31, true),
        (11, 33, true),
        (11, 30, false),
        (11, 34, false),
        (8, 27, false),
        (usize::MAX, 27, false),
    ] {
        let view = RgbView::with_stride(3, 3, stride, &data[..len]);
        assert_eq!(view.is_ok(), fits, "stride {stride}, {len} bytes");
    }
    let error = RgbView::with_stride(3, 3, 8, &data)
        .unwrap_err()
        .to_string();
    assert!(error.contains("at least 9 bytes"), "{error}");
}
