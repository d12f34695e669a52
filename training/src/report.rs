//! What a training on the generated world came to, in JSON for programs and Markdown for people.

use std::{fmt::Write, path::Path};

use serde::Serialize;

use crate::{
    Error, Result,
    error::io,
    metrics::Evaluation,
    shapes::{self, Split},
    train::{Record, TrainOptions, Training},
};

/// Seed of the generated pictures that are tested on.
const TEST_SEED: u64 = 1_000_003;

/// A report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The command that made it.
    pub command: String,
    /// Hyper-parameters.
    pub options: TrainOptions,
    /// Weights of the image tower.
    pub image_parameters: usize,
    /// Weights of the text tower, the token rows in use only.
    pub text_parameters: usize,
    /// Last line of the log: images seen, wall and processor time.
    pub training: Record,
    /// Threads.
    pub threads: usize,
    /// Pairs that training neither shows nor names.
    pub held_out: Vec<String>,
    /// The template that names the classes in the test.
    pub template: String,
    /// Seed of the test pictures.
    pub test_seed: u64,
    /// Pictures of pairs that training shows; chosen from all 64 classes.
    pub seen: Tested,
    /// Pictures of held-out pairs; chosen from all 64 classes.
    pub unseen: Tested,
}

/// One test.
#[derive(Clone, Debug, Serialize)]
pub struct Tested {
    /// Pictures.
    pub images: u64,
    /// Share of pictures given their class.
    pub accuracy: f64,
    /// Counts by true and given class.
    pub table: Evaluation,
}

impl Report {
    /// Tests a model on `per_class` new pictures of every class.
    ///
    /// # Errors
    /// Where the model does not fit its configuration.
    pub fn new(
        training: &Training,
        log: &[Record],
        command: String,
        template: &str,
        per_class: u64,
    ) -> Result<Self> {
        let Some(last) = log.last() else {
            return Err(Error::Config("nothing to report: the log is empty".into()));
        };
        let test = |split: Split| {
            let count = per_class * split.classes().len() as u64;
            let table = crate::zero_shot::evaluate_shapes(
                &training.model,
                &training.config,
                &training.vocabulary,
                template,
                (split, TEST_SEED, count),
            )?;
            let (images, accuracy) = (table.images(), table.accuracy());
            Ok::<_, Error>(Tested {
                images,
                accuracy,
                table,
            })
        };
        let count = |image: bool| {
            let of = (training.parameters.iter())
                .filter(|p| p.name.starts_with("visual.") == image && p.name != "logit_scale");
            of.map(|p| p.var.elem_count()).sum()
        };
        let held_out = Split::Unseen.classes();
        Ok(Self {
            command,
            options: training.options.clone(),
            image_parameters: count(true),
            text_parameters: count(false),
            training: last.clone(),
            threads: rayon::current_num_threads(),
            held_out: held_out.into_iter().map(shapes::class_name).collect(),
            template: template.into(),
            test_seed: TEST_SEED,
            seen: test(Split::Seen)?,
            unseen: test(Split::Unseen)?,
        })
    }

    /// Writes `report.json`, `report.md`, and the confusion tables `seen.csv` and `unseen.csv`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join("report.json");
        let json = serde_json::to_string_pretty(self).map_err(|e| io(&path)(e.into()))?;
        pinhole_fs::write(&path, json.as_bytes()).map_err(io(&path))?;
        let path = folder.join("report.md");
        pinhole_fs::write(&path, self.markdown().as_bytes()).map_err(io(&path))?;
        self.seen.table.write_csv(&folder.join("seen.csv"))?;
        self.unseen.table.write_csv(&folder.join("unseen.csv"))
    }

    /// The report for people.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.put(&mut text);
        text
    }

    fn put(&self, text: &mut String) -> std::fmt::Result {
        let t = &self.training;
        writeln!(
            text,
            "# Training on the generated world\n\n    {}\n",
            self.command
        )?;
        let cpu = t
            .cpu_seconds
            .map_or("unknown".into(), |s| format!("{:.1} min", s / 60.0));
        writeln!(
            text,
            "{} updates, {} pictures, each new; {:.1} min of wall time and {cpu} of processor time \
             on {} threads. Image tower {} weights, text tower {} (token rows in use).\n",
            t.step,
            t.images,
            t.seconds / 60.0,
            self.threads,
            self.image_parameters,
            self.text_parameters
        )?;
        writeln!(
            text,
            "Zero-shot accuracy, always among all 64 classes, named {:?}, on new 320 x 240 \
             pictures (seed {}):\n",
            self.template, self.test_seed
        )?;
        writeln!(text, "| pictures of | number | accuracy |\n|---|---|---|")?;
        for (name, tested) in [
            ("pairs that training showed", &self.seen),
            ("pairs that training never showed or named", &self.unseen),
        ] {
            let percent = 100.0 * tested.accuracy;
            writeln!(text, "| {name} | {} | {percent:.2} % |", tested.images)?;
        }
        writeln!(text, "\nHeld-out pairs: {}.", self.held_out.join(", "))?;
        for (name, tested) in [("shown", &self.seen), ("held-out", &self.unseen)] {
            writeln!(text, "\n## Accuracy per class, {name} pairs\n")?;
            for (class, images, accuracy) in tested.table.per_class() {
                writeln!(text, "- {class}: {:.1} % of {images}", 100.0 * accuracy)?;
            }
            writeln!(text, "\n## Most frequent confusions, {name} pairs\n")?;
            for c in tested.table.top_confusions(12) {
                writeln!(
                    text,
                    "- {} taken for {}: {}",
                    c.class, c.taken_for, c.images
                )?;
            }
        }
        writeln!(text, "\nThe whole tables are in seen.csv and unseen.csv.")
    }
}
