//! Shared by the camera tests: small images, a stub classifier, and a run to the end of the source.

use pinhole::camera::{
    Camera, CameraError, CameraOptions, FrameAnswer, FrameCounters, FrameSource, Pipeline,
    PipelineEvent, SourceEventKind, StreamInput, TrackerOptions,
};
use pinhole::{Classification, Image, Latency, Ranked};

/// A uniformly grey JPEG; its class is `grey / 64`.
pub(crate) fn jpeg(grey: u8, width: u32, height: u32) -> Vec<u8> {
    let pixels = vec![grey; (width * height * 3) as usize];
    let mut bytes = vec![];
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90)
        .encode(&pixels, width, height, image::ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

/// A stub classifier: the class of a grey level.
pub(crate) fn by_grey(image: &Image) -> Result<Classification, pinhole::Error> {
    let class = usize::from(image.to_rgb().data[0]) / 64;
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
        score: pinhole::Score::Softmax,
        unknown: false,
        latency: Latency::default(),
    })
}

pub(crate) struct CameraRun {
    pub(crate) answers: Vec<FrameAnswer>,
    pub(crate) events: Vec<SourceEventKind>,
    pub(crate) error: Option<CameraError>,
    pub(crate) counters: FrameCounters,
}

impl CameraRun {
    pub(crate) fn frames(&self) -> Vec<u64> {
        self.answers.iter().map(|a| a.frame).collect()
    }

    pub(crate) fn classes(&self) -> Vec<&str> {
        let best = |a: &'_ FrameAnswer| -> usize { a.tracked.ranking[0].index };
        (self.answers.iter())
            .map(|a| ["black", "dark", "light", "white"][best(a)])
            .collect()
    }

    pub(crate) fn reasons(&self) -> String {
        let lines: Vec<String> = self.events.iter().map(|r| r.to_string()).collect();
        lines.join("\n")
    }
}

pub(crate) const NO_SMOOTHING: TrackerOptions = TrackerOptions {
    smoothing: 0.0,
    hysteresis: 1,
    hysteresis_time: std::time::Duration::ZERO,
    margin: None,
    cool_down: std::time::Duration::ZERO,
};

/// Runs a camera to its end.
#[track_caller]
pub(crate) fn run(source: FrameSource, options: CameraOptions) -> CameraRun {
    run_with(Camera::open(source, options).unwrap(), by_grey)
}

#[track_caller]
pub(crate) fn run_with(
    camera: Camera,
    classify: impl FnMut(&Image) -> Result<Classification, pinhole::Error>,
) -> CameraRun {
    let mut pipeline = Pipeline::new(camera, classify, NO_SMOOTHING);
    let (mut answers, mut events, mut error) = (vec![], vec![], None);
    for event in pipeline.by_ref() {
        match event {
            Ok(PipelineEvent::Answer(answer)) => answers.push(*answer),
            Ok(PipelineEvent::Source(event)) => events.push(event.kind),
            Err(e) => error = Some(e),
        }
    }
    let counters = pipeline.camera().counters();
    assert_adds_up(&counters);
    CameraRun {
        answers,
        events,
        error,
        counters,
    }
}

#[track_caller]
pub(crate) fn assert_adds_up(c: &FrameCounters) {
    let sum = c.classified + c.still + c.skipped + c.dropped + c.corrupt;
    assert_eq!(c.read, sum, "{c:?}");
}

pub(crate) fn mjpeg(bytes: Vec<u8>) -> FrameSource {
    FrameSource::mjpeg(StreamInput::Reader(Box::new(std::io::Cursor::new(bytes))))
}

pub(crate) fn every_frame() -> CameraOptions {
    CameraOptions {
        live: Some(false),
        ..Default::default()
    }
}
