//! Methods side by side, over parts of the classes and over seeds.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    dataset::Part,
    evaluate::Outcome,
    metrics::{Evaluation, Spread, harmonic_mean},
};

/// What one method came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    /// Its name, such as "CoOp".
    pub name: String,
    /// One a seed; one alone for what does not depend on any.
    pub runs: Vec<Run>,
}

/// A method with one seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Which: "seed 1", or a file's name.
    pub name: String,
    /// What came of each part, chosen from that part's own classes. A part that the method cannot
    /// answer for is not there.
    pub outcomes: BTreeMap<Part, Outcome>,
}

impl Run {
    /// Accuracy on a part.
    pub fn accuracy(&self, part: Part) -> Option<f64> {
        Some(self.outcomes.get(&part)?.table.accuracy())
    }

    /// Expected calibration error on a part.
    pub fn calibration_error(&self, part: Part) -> Option<f64> {
        Some(self.outcomes.get(&part)?.calibration_error)
    }

    /// Of base and new accuracy.
    pub fn harmonic_mean(&self) -> Option<f64> {
        let (base, new) = (self.accuracy(Part::Base)?, self.accuracy(Part::New)?);
        Some(harmonic_mean(base, new))
    }

    fn json(&self) -> Value {
        let mut object = json!({"name": self.name});
        for (part, outcome) in &self.outcomes {
            object[part.to_string()] = outcome.json();
        }
        if let Some(mean) = self.harmonic_mean() {
            object["harmonic_mean"] = mean.into();
        }
        object
    }
}

impl Method {
    /// Mean and spread over the seeds.
    pub fn spread(&self, measure: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
        let values: Vec<f64> = self.runs.iter().filter_map(measure).collect();
        Spread::of(&values)
    }

    /// The tables of a part, added up over the seeds.
    pub fn table(&self, part: Part) -> Option<Evaluation> {
        let mut tables = self.runs.iter().filter_map(|run| run.outcomes.get(&part));
        let mut sum = tables.next()?.table.clone();
        tables.for_each(|outcome| sum.add(&outcome.table));
        Some(sum)
    }

    /// Everything measured: `runs` with each seed's parts, and mean and standard deviation under the
    /// name of each part and `harmonic_mean`.
    pub fn json(&self) -> Value {
        let mut object = json!({"method": self.name});
        for part in [Part::All, Part::Base, Part::New] {
            if let Some(accuracy) = self.spread(|run| run.accuracy(part)) {
                object[part.to_string()] = json!({
                    "accuracy": accuracy,
                    "calibration_error": self.spread(|run| run.calibration_error(part)),
                });
            }
        }
        if let Some(mean) = self.spread(Run::harmonic_mean) {
            object["harmonic_mean"] = json!(mean);
        }
        object["runs"] = self.runs.iter().map(Run::json).collect();
        object
    }
}

impl Outcome {
    /// Images, accuracy, calibration error, and accuracy by class.
    pub fn json(&self) -> Value {
        let classes: serde_json::Map<_, _> = (self.table.per_class().into_iter())
            .map(|(class, images, accuracy)| {
                let value = json!({"images": images, "accuracy": accuracy});
                (class.to_owned(), value)
            })
            .collect();
        json!({
            "images": self.table.images(),
            "accuracy": self.table.accuracy(),
            "calibration_error": self.calibration_error,
            "classes": classes,
        })
    }
}

/// A heading and a line for each method, in per cent: accuracy on each part, the harmonic mean H where
/// there are base and new, and the expected calibration error on each part.
pub fn summary(methods: &[Method], parts: &[Part]) -> Vec<Vec<String>> {
    let both = parts.contains(&Part::Base) && parts.contains(&Part::New);
    let mut heading = vec![String::new()];
    heading.extend(parts.iter().map(Part::to_string));
    heading.extend(both.then(|| "H".to_owned()));
    heading.extend(parts.iter().map(|part| format!("ECE {part}")));
    let cell = |spread: Option<Spread>| spread.map_or("-".into(), |spread| spread.percent());
    let lines = methods.iter().map(|method| {
        let mut line = vec![method.name.clone()];
        let accuracy = |part: &Part| cell(method.spread(|run| run.accuracy(*part)));
        line.extend(parts.iter().map(accuracy));
        line.extend(both.then(|| cell(method.spread(Run::harmonic_mean))));
        let error = |part: &Part| cell(method.spread(|run| run.calibration_error(*part)));
        line.extend(parts.iter().map(error));
        line
    });
    [heading].into_iter().chain(lines).collect()
}

/// A heading and a line for each class of a part that has images: name, images, and each method's
/// accuracy in per cent, the mean over its seeds.
pub fn by_class(methods: &[Method], part: Part) -> Vec<Vec<String>> {
    let tables = methods.iter().map(|method| method.table(part));
    let tables: Vec<Option<Evaluation>> = tables.collect();
    let mut lines = vec![vec!["class".to_owned(), "images".to_owned()]];
    lines[0].extend(methods.iter().map(|method| method.name.clone()));
    let runs = methods.iter().zip(&tables).find_map(|(method, table)| {
        let with = |run: &&Run| run.outcomes.contains_key(&part);
        Some((table.as_ref()?, method.runs.iter().filter(with).count()))
    });
    let Some((first, runs)) = runs else {
        return lines;
    };
    for (i, (class, images, _)) in first.per_class().into_iter().enumerate() {
        let mut line = vec![class.to_owned(), (images / runs as u64).to_string()];
        for table in &tables {
            // All tables are of the same images, so the classes with images are the same.
            let accuracy = table.as_ref().and_then(|t| Some(t.per_class().get(i)?.2));
            line.push(accuracy.map_or("-".into(), |a| format!("{:.2}", 100.0 * a)));
        }
        lines.push(line);
    }
    lines
}

/// Lines as aligned text, the first column to the left.
pub fn text(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate();
        let cells = cells.map(|(i, (cell, width))| match i {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Lines as a Markdown table.
pub fn markdown(lines: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (i, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line.iter().map(|cell| cell.replace('|', "\\|")).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
        if i == 0 {
            text.push_str(&format!("|{}\n", "---|".repeat(line.len())));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run with so many of ten images right, on base and on new.
    fn run(name: &str, right: [usize; 2]) -> Run {
        let parts = [Part::Base, Part::New].into_iter().zip(right);
        let outcome = |right: usize| {
            let classes = ["a", "b"].map(String::from).to_vec();
            let pairs = (0..10).map(|i| (i % 2, (i % 2 + usize::from(i >= right)) % 2));
            Outcome {
                table: Evaluation::new(classes, pairs),
                calibration_error: 0.1,
            }
        };
        Run {
            name: name.into(),
            outcomes: parts.map(|(part, right)| (part, outcome(right))).collect(),
        }
    }

    fn methods() -> Vec<Method> {
        let mut specific = run("seed 1", [10, 0]);
        specific.outcomes.remove(&Part::New);
        let method = |name: &str, runs| Method {
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
    fn the_summary_by_hand() {
        let lines = summary(&methods(), &[Part::Base, Part::New]);
        // H of seeds: 2 * 48 / 14 = 6.857 and 2 * 36 / 13 = 5.538.
        let expected = "\
                       base            new             H    ECE base     ECE new
zero-shot             60.00          80.00         68.57       10.00       10.00
CoOp           85.00 ± 7.07  50.00 ± 14.14  61.98 ± 9.32  10.00 ± 0.00  10.00 ± 0.00
specific             100.00              -             -       10.00           -
";
        let squeezed = |text: &str| -> Vec<Vec<String>> {
            let words = |line: &str| line.split_whitespace().map(String::from).collect();
            text.lines().map(words).collect()
        };
        let found = text(&lines);
        assert_eq!(squeezed(&found), squeezed(expected), "{found}");
        let widths: Vec<usize> = found.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{found}");
        let table = markdown(&lines);
        assert!(table.starts_with("|  | base | new | H | ECE base | ECE new |\n|---|---|"));
        assert!(table.contains("| CoOp | 85.00 ± 7.07 | 50.00 ± 14.14 | 61.98 ± 9.32 |"));
    }

    #[test]
    fn classes_have_the_mean_over_seeds() {
        let lines = by_class(&methods(), Part::Base);
        assert_eq!(
            lines[0],
            ["class", "images", "zero-shot", "CoOp", "specific"]
        );
        // Of a, images 0, 2, 4, 6, 8: with 8 right one is wrong, with 9 right none.
        assert_eq!(lines[1], ["a", "5", "60.00", "90.00", "100.00"]);
        assert_eq!(by_class(&methods(), Part::New)[1][4], "-");
        assert_eq!(by_class(&methods(), Part::All).len(), 1);
    }

    #[test]
    fn json_has_every_seed_and_the_spread() {
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
