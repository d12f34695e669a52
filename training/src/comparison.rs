//! Comparison of methods, by subset of the classes and over seeds.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    dataset::ClassSubset,
    evaluate::Evaluation,
    metrics::{ConfusionMatrix, MeanSd, harmonic_mean},
};

/// The results of one method.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodResults {
    /// Its name, such as "CoOp".
    pub name: String,
    /// One per seed; a single one for a method without randomness.
    pub runs: Vec<RunResult>,
}

/// The results of one run of a method.
#[derive(Clone, Debug, PartialEq)]
pub struct RunResult {
    /// Its name: "seed 1", or a file's.
    pub name: String,
    /// The evaluation on each subset, among that subset's classes; without subsets that the method does not
    /// support.
    pub evaluations: BTreeMap<ClassSubset, Evaluation>,
}

impl RunResult {
    /// Accuracy on a subset.
    pub fn accuracy(&self, subset: ClassSubset) -> Option<f64> {
        Some(self.evaluations.get(&subset)?.confusion.accuracy())
    }

    /// Expected calibration error on a subset.
    pub fn calibration_error(&self, subset: ClassSubset) -> Option<f64> {
        Some(self.evaluations.get(&subset)?.calibration_error)
    }

    /// Harmonic mean of base and new accuracy.
    pub fn harmonic_mean(&self) -> Option<f64> {
        let (base, new) = (
            self.accuracy(ClassSubset::Base)?,
            self.accuracy(ClassSubset::New)?,
        );
        Some(harmonic_mean(base, new))
    }

    fn json(&self) -> Value {
        let mut object = json!({"name": self.name});
        for (subset, evaluation) in &self.evaluations {
            object[subset.to_string()] = evaluation.json();
        }
        if let Some(mean) = self.harmonic_mean() {
            object["harmonic_mean"] = mean.into();
        }
        object
    }
}

impl MethodResults {
    /// The results of a method with a single run.
    pub fn single(name: &str, evaluations: BTreeMap<ClassSubset, Evaluation>) -> Self {
        let name = name.to_owned();
        let run = RunResult {
            name: name.clone(),
            evaluations,
        };
        Self {
            name,
            runs: vec![run],
        }
    }

    /// Mean and standard deviation over the runs.
    pub fn mean_sd(&self, measure: impl Fn(&RunResult) -> Option<f64>) -> Option<MeanSd> {
        let values: Vec<f64> = self.runs.iter().filter_map(measure).collect();
        MeanSd::of(&values)
    }

    /// The confusion matrix of a subset, summed over the runs.
    pub fn confusion(&self, subset: ClassSubset) -> Option<ConfusionMatrix> {
        let mut evaluations = self
            .runs
            .iter()
            .filter_map(|run| run.evaluations.get(&subset));
        let mut sum = evaluations.next()?.confusion.clone();
        evaluations.for_each(|evaluation| sum.add(&evaluation.confusion));
        Some(sum)
    }

    /// All results: `runs` with each run's subsets, and mean and standard deviation under the name of each
    /// subset and `harmonic_mean`.
    pub fn json(&self) -> Value {
        let mut object = json!({"method": self.name});
        for subset in [ClassSubset::All, ClassSubset::Base, ClassSubset::New] {
            if let Some(accuracy) = self.mean_sd(|run| run.accuracy(subset)) {
                object[subset.to_string()] = json!({
                    "accuracy": accuracy,
                    "calibration_error": self.mean_sd(|run| run.calibration_error(subset)),
                });
            }
        }
        if let Some(mean) = self.mean_sd(RunResult::harmonic_mean) {
            object["harmonic_mean"] = json!(mean);
        }
        object["runs"] = self.runs.iter().map(RunResult::json).collect();
        object
    }
}

/// A table with a heading and a row per method, as percentages: accuracy on each subset, the harmonic mean H
/// if both base and new are given, and the expected calibration error on each subset.
pub fn summary(methods: &[MethodResults], subsets: &[ClassSubset]) -> Vec<Vec<String>> {
    let both = subsets.contains(&ClassSubset::Base) && subsets.contains(&ClassSubset::New);
    let mut heading = vec![String::new()];
    heading.extend(subsets.iter().map(ClassSubset::to_string));
    heading.extend(both.then(|| "H".to_owned()));
    heading.extend(subsets.iter().map(|subset| format!("ECE {subset}")));
    let cell = |value: Option<MeanSd>| value.map_or("-".into(), |value| value.percent());
    let rows = methods.iter().map(|method| {
        let mut row = vec![method.name.clone()];
        let accuracy = |subset: &ClassSubset| cell(method.mean_sd(|run| run.accuracy(*subset)));
        row.extend(subsets.iter().map(accuracy));
        row.extend(both.then(|| cell(method.mean_sd(RunResult::harmonic_mean))));
        let error =
            |subset: &ClassSubset| cell(method.mean_sd(|run| run.calibration_error(*subset)));
        row.extend(subsets.iter().map(error));
        row
    });
    [heading].into_iter().chain(rows).collect()
}

/// A table with a heading and a row per class of a subset that has images: name, images, and each method's
/// accuracy as a percentage, the mean over its runs.
pub fn by_class(methods: &[MethodResults], subset: ClassSubset) -> Vec<Vec<String>> {
    let matrices = methods.iter().map(|method| method.confusion(subset));
    let matrices: Vec<Option<ConfusionMatrix>> = matrices.collect();
    let mut rows = vec![vec!["class".to_owned(), "images".to_owned()]];
    rows[0].extend(methods.iter().map(|method| method.name.clone()));
    let runs = methods.iter().zip(&matrices).find_map(|(method, matrix)| {
        let with = |run: &&RunResult| run.evaluations.contains_key(&subset);
        Some((matrix.as_ref()?, method.runs.iter().filter(with).count()))
    });
    let Some((first, runs)) = runs else {
        return rows;
    };
    for (i, class) in first.per_class().into_iter().enumerate() {
        let mut row = vec![class.class, (class.images / runs as u64).to_string()];
        for matrix in &matrices {
            // All matrices are of the same images, so the same classes have images.
            let accuracy = matrix
                .as_ref()
                .and_then(|m| Some(m.per_class().get(i)?.accuracy));
            row.push(accuracy.map_or("-".into(), |a| format!("{:.2}", 100.0 * a)));
        }
        rows.push(row);
    }
    rows
}

/// A table as text with aligned columns, the first one left-aligned.
pub fn text(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(i, (cell, width))| match i {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A table as Markdown.
pub fn markdown(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
        if i == 0 {
            text.push_str(&format!("|{}\n", "---|".repeat(row.len())));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run with the given numbers of correct predictions of ten images, on base and on new.
    fn run(name: &str, correct: [usize; 2]) -> RunResult {
        let subsets = [ClassSubset::Base, ClassSubset::New]
            .into_iter()
            .zip(correct);
        let evaluation = |correct: usize| {
            let classes = ["a", "b"].map(String::from).to_vec();
            let pairs = (0..10).map(|i| (i % 2, (i % 2 + usize::from(i >= correct)) % 2));
            Evaluation {
                confusion: ConfusionMatrix::new(classes, pairs),
                calibration_error: 0.1,
            }
        };
        RunResult {
            name: name.into(),
            evaluations: subsets
                .map(|(subset, correct)| (subset, evaluation(correct)))
                .collect(),
        }
    }

    fn methods() -> Vec<MethodResults> {
        let mut specific = run("seed 1", [10, 0]);
        specific.evaluations.remove(&ClassSubset::New);
        let method = |name: &str, runs| MethodResults {
            name: name.into(),
            runs,
        };
        vec![
            method("zero-shot", vec![run("", [6, 8])]),
            method("CoOp", vec![run("seed 1", [8, 6]), run("seed 2", [9, 4])]),
            method("specific", vec![specific]),
        ]
    }

    #[test]
    fn summary_by_hand() {
        let rows = summary(&methods(), &[ClassSubset::Base, ClassSubset::New]);
        // H of seeds: 2 * 48 / 14 = 6.857 and 2 * 36 / 13 = 5.538.
        let expected = "\
                       base            new             H    ECE base     ECE new
zero-shot             60.00          80.00         68.57       10.00       10.00
CoOp           85.00 ± 7.07  50.00 ± 14.14  61.98 ± 9.32  10.00 ± 0.00  10.00 ± 0.00
specific             100.00              -             -       10.00           -
";
        let squeezed = |text: &str| -> Vec<Vec<String>> {
            let words = |row: &str| row.split_whitespace().map(String::from).collect();
            text.lines().map(words).collect()
        };
        let found = text(&rows);
        assert_eq!(squeezed(&found), squeezed(expected), "{found}");
        let widths: Vec<usize> = found.lines().map(|row| row.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{found}");
        let table = markdown(&rows);
        assert!(table.starts_with("|  | base | new | H | ECE base | ECE new |\n|---|---|"));
        assert!(table.contains("| CoOp | 85.00 ± 7.07 | 50.00 ± 14.14 | 61.98 ± 9.32 |"));
    }

    #[test]
    fn accuracy_by_class_is_the_mean_over_runs() {
        let rows = by_class(&methods(), ClassSubset::Base);
        assert_eq!(
            rows[0],
            ["class", "images", "zero-shot", "CoOp", "specific"]
        );
        // Class a has images 0, 2, 4, 6, 8: with 8 correct one of them is wrong, with 9 none.
        assert_eq!(rows[1], ["a", "5", "60.00", "90.00", "100.00"]);
        assert_eq!(by_class(&methods(), ClassSubset::New)[1][4], "-");
        assert_eq!(by_class(&methods(), ClassSubset::All).len(), 1);
    }

    #[test]
    fn json_has_every_run_and_the_deviation() {
        let json = methods()[1].json();
        assert_eq!(json["runs"][1]["name"], "seed 2");
        assert_eq!(json["runs"][1]["new"]["accuracy"], 0.4);
        assert_eq!(json["runs"][0]["base"]["classes"]["b"]["images"], 5);
        assert_eq!(json["new"]["accuracy"]["mean"], 0.5);
        let sd = json["harmonic_mean"]["sd"].as_f64().unwrap();
        assert!((sd - 0.0932).abs() < 1e-4, "{sd}");
        assert_eq!(methods()[2].json().get("harmonic_mean"), None);
    }
}
