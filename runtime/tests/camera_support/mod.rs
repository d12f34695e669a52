//! What tests of cameras share: small pictures, a stand-in for the classifier, and a run to the end.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use pinhole::camera::{
    Answer, Camera, Counters, Error, Input, Options, Pipeline, ReportKind, Source, TrackerOptions,
    Update,
};
use pinhole::{Classification, Latency, Ranked, RgbImage};

/// A JPEG of one grey, whose class is `grey / 64`.
pub fn jpeg(grey: u8, width: u32, height: u32) -> Vec<u8> {
    let pixels = vec![grey; (width * height * 3) as usize];
    let mut bytes = vec![];
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90)
        .encode(&pixels, width, height, image::ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

/// Answers with the class of an image's grey.
pub fn by_grey(image: &RgbImage) -> Result<Classification, pinhole::Error> {
    let class = usize::from(image.data[0]) / 64;
    let mut ranking: Vec<Ranked> = ["black", "dark", "light", "white"]
        .iter()
        .enumerate()
        .map(|(index, name)| Ranked {
            index,
            name: (*name).into(),
            probability: if index == class { 0.97 } else { 0.01 },
            similarity: 0.0,
        })
        .collect();
    ranking.swap(0, class);
    Ok(Classification {
        ranking,
        unknown: false,
        latency: Latency::default(),
    })
}

pub struct Ran {
    pub answers: Vec<Answer>,
    pub reports: Vec<ReportKind>,
    pub error: Option<Error>,
    pub counters: Counters,
}

impl Ran {
    pub fn frames(&self) -> Vec<u64> {
        self.answers.iter().map(|a| a.frame).collect()
    }

    pub fn classes(&self) -> Vec<&str> {
        let best = |a: &'_ Answer| -> usize { a.tracked.ranking[0].index };
        (self.answers.iter())
            .map(|a| ["black", "dark", "light", "white"][best(a)])
            .collect()
    }

    pub fn reasons(&self) -> String {
        let lines: Vec<String> = self.reports.iter().map(|r| r.to_string()).collect();
        lines.join("\n")
    }
}

pub const PLAIN: TrackerOptions = TrackerOptions {
    smoothing: 0.0,
    hysteresis: 1,
    margin: None,
};

/// Runs a camera to its end.
#[track_caller]
pub fn run(source: Source, options: Options) -> Ran {
    run_with(Camera::open(source, options).unwrap(), by_grey)
}

#[track_caller]
pub fn run_with(
    camera: Camera,
    classify: impl FnMut(&RgbImage) -> Result<Classification, pinhole::Error>,
) -> Ran {
    let mut pipeline = Pipeline::new(camera, classify, PLAIN);
    let (mut answers, mut reports, mut error) = (vec![], vec![], None);
    for update in pipeline.by_ref() {
        match update {
            Ok(Update::Answer(answer)) => answers.push(*answer),
            Ok(Update::Report(report)) => reports.push(report.kind),
            Err(e) => error = Some(e),
        }
    }
    let counters = pipeline.camera().counters();
    assert_adds_up(&counters);
    Ran {
        answers,
        reports,
        error,
        counters,
    }
}

#[track_caller]
pub fn assert_adds_up(c: &Counters) {
    let sum = c.classified + c.still + c.skipped + c.dropped + c.corrupt;
    assert_eq!(c.read, sum, "{c:?}");
}

pub fn mjpeg(bytes: Vec<u8>) -> Source {
    Source::Mjpeg(Input::Reader(Box::new(std::io::Cursor::new(bytes))))
}

pub fn every_frame() -> Options {
    Options {
        live: Some(false),
        ..Default::default()
    }
}
