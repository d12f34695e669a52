//! The report of a pre-training on the synthetic shapes, as JSON and Markdown.

use std::{fmt::Write, path::Path};

use serde::Serialize;

use super::{options::PretrainingOptions, training::Pretraining, zero_shot::evaluate_shapes};
use crate::{
    Error, Result, counted,
    error::io,
    log::LogRecord,
    metrics::ConfusionMatrix,
    optimiser::Parameter,
    shapes::{self, Split},
};

/// Seed of the test images.
const TEST_SEED: u64 = 1_000_003;

/// Options, cost and zero-shot accuracy of a pre-training on the synthetic shapes.
#[derive(Clone, Debug, Serialize)]
pub struct PretrainingReport {
    /// The command line.
    pub command: String,
    /// Hyper-parameters.
    pub options: PretrainingOptions,
    /// Number of weights of the image encoder.
    pub image_parameters: usize,
    /// Number of weights of the text encoder, with the token rows in use only.
    pub text_parameters: usize,
    /// The last line of the log.
    pub training: LogRecord,
    /// Number of threads.
    pub threads: usize,
    /// Classes that training neither shows nor names.
    pub held_out: Vec<String>,
    /// The prompt template of the test.
    pub template: String,
    /// Seed of the test images.
    pub test_seed: u64,
    /// On images of training classes, among all 64 classes.
    pub seen: SplitResult,
    /// On images of held-out classes, among all 64 classes.
    pub unseen: SplitResult,
}

/// Zero-shot accuracy on one split.
#[derive(Clone, Debug, Serialize)]
pub struct SplitResult {
    /// Number of images.
    pub images: u64,
    /// Fraction of images classified correctly.
    pub accuracy: f64,
    /// Counts by true and predicted class.
    #[serde(rename = "table")]
    pub confusion: ConfusionMatrix,
}

impl PretrainingReport {
    /// Tests a model on `per_class` new images of every class.
    ///
    /// # Errors
    /// For an empty log, or a model that does not fit its configuration.
    pub fn new(
        training: &Pretraining,
        log: &[LogRecord],
        command: String,
        template: &str,
        per_class: u64,
    ) -> Result<Self> {
        let Some(last) = log.last() else {
            return Err(Error::Config("nothing to report: the log is empty".into()));
        };
        let test = |split: Split| {
            let count = per_class * split.classes().len() as u64;
            let confusion = evaluate_shapes(
                &training.model,
                &training.config,
                &training.vocabulary,
                template,
                (split, TEST_SEED, count),
            )?;
            let (images, accuracy) = (confusion.images(), confusion.accuracy());
            Ok::<_, Error>(SplitResult {
                images,
                accuracy,
                confusion,
            })
        };
        let (image, text): (Vec<_>, Vec<_>) = (training.parameters.iter())
            .filter(|p| p.name != "logit_scale")
            .partition(|p| p.name.starts_with("visual."));
        let count = |parameters: Vec<&Parameter>| {
            parameters.iter().map(|p| p.var.elem_count()).sum::<usize>()
        };
        let held_out = Split::Unseen.classes();
        Ok(Self {
            command,
            options: training.options.clone(),
            image_parameters: count(image),
            text_parameters: count(text),
            training: last.clone(),
            threads: rayon::current_num_threads(),
            held_out: held_out.into_iter().map(shapes::class_name).collect(),
            template: template.into(),
            test_seed: TEST_SEED,
            seen: test(Split::Seen)?,
            unseen: test(Split::Unseen)?,
        })
    }

    /// Writes `report.json`, `report.md`, and the confusion matrices `seen.csv` and `unseen.csv`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join("report.json");
        let json = serde_json::to_string_pretty(self).map_err(|e| io(&path)(e.into()))?;
        pinhole_fs::write(&path, json.as_bytes()).map_err(io(&path))?;
        let path = folder.join("report.md");
        pinhole_fs::write(&path, self.markdown().as_bytes()).map_err(io(&path))?;
        self.seen.confusion.write_csv(&folder.join("seen.csv"))?;
        self.unseen.confusion.write_csv(&folder.join("unseen.csv"))
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_markdown(&mut text);
        text
    }

    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        let t = &self.training;
        writeln!(
            text,
            "# Pre-training on the synthetic shapes\n\n    {}\n",
            self.command
        )?;
        let cpu = t
            .cpu_seconds
            .map_or("unknown".into(), |s| format!("{:.1} min", s / 60.0));
        writeln!(
            text,
            "{}, {}, all different; {:.1} min of wall time and {cpu} of processor time on {}. Image encoder: {} weights, text encoder: {} (token rows in use).\n",
            counted(t.step, "update"),
            counted(t.images, "image"),
            t.seconds / 60.0,
            counted(self.threads as u64, "thread"),
            self.image_parameters,
            self.text_parameters
        )?;
        writeln!(
            text,
            "Zero-shot accuracy among all 64 classes, with the prompt {:?}, on new 320 x 240 images \
             (seed {}):\n",
            self.template, self.test_seed
        )?;
        writeln!(text, "| classes | images | accuracy |\n|---|---|---|")?;
        for (name, tested) in [
            ("seen in training", &self.seen),
            (
                "held out: neither shown nor named in training",
                &self.unseen,
            ),
        ] {
            let percent = 100.0 * tested.accuracy;
            writeln!(text, "| {name} | {} | {percent:.2} % |", tested.images)?;
        }
        writeln!(text, "\nHeld-out classes: {}.", self.held_out.join(", "))?;
        for (name, tested) in [("seen", &self.seen), ("held-out", &self.unseen)] {
            writeln!(text, "\n## Accuracy per class, {name} classes\n")?;
            for class in tested.confusion.per_class() {
                let (name, images) = (&class.class, class.images);
                writeln!(
                    text,
                    "- {name}: {:.1} % of {images}",
                    100.0 * class.accuracy
                )?;
            }
            writeln!(text, "\n## Most frequent confusions, {name} classes\n")?;
            for c in tested.confusion.top_confusions(12) {
                writeln!(
                    text,
                    "- {} classified as {}: {}",
                    c.class, c.predicted, c.images
                )?;
            }
        }
        writeln!(
            text,
            "\nThe confusion matrices are in seen.csv and unseen.csv."
        )
    }
}
