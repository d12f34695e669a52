//! Measures of a classification, and of several seeds together.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One image's class, the class that it was given, and how sure that was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// The true class.
    pub class: usize,
    /// The class given.
    pub given: usize,
    /// The given class's probability, 0..1.
    pub confidence: f64,
}

/// The expected calibration error, 0..1, as [`pinhole::expected_calibration_error`] defines it.
pub fn calibration_error(answers: &[Answer]) -> f64 {
    let pairs = answers.iter();
    pinhole::expected_calibration_error(pairs.map(|a| (a.confidence, a.class == a.given)))
}

/// The harmonic mean of two accuracies, 2ab / (a + b); 0 where both are 0.
pub fn harmonic_mean(a: f64, b: f64) -> f64 {
    match a + b > 0.0 {
        true => 2.0 * a * b / (a + b),
        false => 0.0,
    }
}

/// Mean and spread of one measure over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation (n - 1); none for one value.
    pub sd: Option<f64>,
}

impl Spread {
    /// Of some values; `None` of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let sd = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        Some(Self { mean, sd })
    }

    /// In per cent: "82.69", or "82.69 ± 0.41".
    pub fn percent(&self) -> String {
        let mean = format!("{:.2}", 100.0 * self.mean);
        match self.sd {
            Some(sd) => format!("{mean} ± {:.2}", 100.0 * sd),
            None => mean,
        }
    }
}

/// How often each class was taken for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The classes chosen from.
    pub classes: Vec<String>,
    /// Number of images by true class (row) and given class (column).
    pub confusion: Vec<Vec<u64>>,
}

/// One cell of a confusion table off the diagonal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Confusion {
    /// The true class.
    pub class: String,
    /// The class given instead.
    pub taken_for: String,
    /// Number of images.
    pub images: u64,
}

impl Evaluation {
    /// Counts pairs of true and given class; indices outside the classes are left out.
    pub fn new(classes: Vec<String>, pairs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut confusion = vec![vec![0; classes.len()]; classes.len()];
        for (class, given) in pairs {
            if let Some(cell) = confusion.get_mut(class).and_then(|row| row.get_mut(given)) {
                *cell += 1;
            }
        }
        Self { classes, confusion }
    }

    /// Counts answers.
    pub fn of(classes: Vec<String>, answers: &[Answer]) -> Self {
        Self::new(classes, answers.iter().map(|a| (a.class, a.given)))
    }

    /// Adds the counts of another table of the same classes.
    pub fn add(&mut self, other: &Self) {
        let cells = (self.confusion.iter_mut().flatten()).zip(other.confusion.iter().flatten());
        cells.for_each(|(sum, count)| *sum += count);
    }

    /// Number of images.
    pub fn images(&self) -> u64 {
        self.confusion.iter().flatten().sum()
    }

    /// Share of images given their class; 0 without images.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.classes.len()).map(|i| self.confusion[i][i]).sum();
        right as f64 / self.images().max(1) as f64
    }

    /// Accuracy of each class that has images: name, images, accuracy.
    pub fn per_class(&self) -> Vec<(&str, u64, f64)> {
        (self.classes.iter().zip(&self.confusion).enumerate())
            .map(|(i, (class, row))| (&**class, row.iter().sum::<u64>(), row[i]))
            .filter(|(_, images, _)| *images > 0)
            .map(|(class, images, right)| (class, images, right as f64 / images as f64))
            .collect()
    }

    /// The most frequent confusions, the worst first.
    pub fn top_confusions(&self, count: usize) -> Vec<Confusion> {
        let mut cells: Vec<Confusion> = Vec::new();
        for (i, row) in self.confusion.iter().enumerate() {
            for (j, &images) in row.iter().enumerate() {
                if i != j && images > 0 {
                    let (class, taken_for) = (self.classes[i].clone(), self.classes[j].clone());
                    cells.push(Confusion {
                        class,
                        taken_for,
                        images,
                    });
                }
            }
        }
        cells.sort_by_key(|cell| std::cmp::Reverse(cell.images));
        cells.truncate(count);
        cells
    }

    /// The whole table as CSV: true classes down, given classes across.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let csv = |e: csv::Error| Error::Io {
            path: path.into(),
            reason: e.into(),
        };
        let mut writer = csv::Writer::from_path(path).map_err(csv)?;
        let heading = ["class"]
            .into_iter()
            .chain(self.classes.iter().map(|c| &**c));
        writer.write_record(heading).map_err(csv)?;
        for (class, row) in self.classes.iter().zip(&self.confusion) {
            let cells = row.iter().map(u64::to_string);
            let record = [class.clone()].into_iter().chain(cells);
            writer.write_record(record).map_err(csv)?;
        }
        writer.flush().map_err(crate::error::io(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_class() {
        let classes = ["a", "b", "c"].map(String::from).to_vec();
        let pairs = [(0, 0), (0, 1), (0, 1), (1, 1), (2, 0), (9, 0)];
        let table = Evaluation::new(classes, pairs);
        assert_eq!(table.images(), 5);
        assert_eq!(table.accuracy(), 0.4);
        let per_class = table.per_class();
        assert_eq!(per_class[0], ("a", 3, 1.0 / 3.0));
        let top = table.top_confusions(1);
        assert_eq!(
            (&*top[0].class, &*top[0].taken_for, top[0].images),
            ("a", "b", 2)
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.csv");
        table.write_csv(&path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, "class,a,b,c\na,1,2,0\nb,0,1,0\nc,1,0,0\n");
    }

    #[test]
    fn tables_of_seeds_add_up() {
        let classes = ["a", "b"].map(String::from).to_vec();
        let mut sum = Evaluation::new(classes.clone(), [(0, 0), (0, 1)]);
        sum.add(&Evaluation::new(classes, [(0, 1), (1, 1)]));
        assert_eq!(sum.confusion, [[1, 2], [0, 1]]);
    }

    fn answers(of: &[(f64, bool)]) -> Vec<Answer> {
        of.iter()
            .map(|&(confidence, right)| Answer {
                class: 0,
                given: usize::from(!right),
                confidence,
            })
            .collect()
    }

    #[test]
    fn calibration_error_by_hand() {
        // Three bins of width 1/15: (0.8667, 0.9333] with 0.9, 0.9, 0.92, one of them wrong: distance
        // |2 - 2.72|; (0.4667, 0.5333] with 0.5, wrong: 0.5; (0.9333, 1] with 1, right: 0.
        let own = answers(&[
            (0.9, true),
            (0.9, false),
            (0.92, true),
            (0.5, false),
            (1.0, true),
        ]);
        assert!((calibration_error(&own) - (0.72 + 0.5) / 5.0).abs() < 1e-12);
        // The upper border belongs to the bin: apart, 1/3 and 0.34 do not cancel.
        let own = answers(&[(1.0 / 3.0, true), (0.34, false)]);
        assert!((calibration_error(&own) - (2.0 / 3.0 + 0.34) / 2.0).abs() < 1e-12);
        let own = answers(&[(0.3, true), (1.0 / 3.0, false)]);
        assert!((calibration_error(&own) - (1.0 - 0.3 - 1.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(calibration_error(&answers(&[(0.0, false)])), 0.0);
        assert_eq!(calibration_error(&[]), 0.0);
    }

    #[test]
    fn measures_of_seeds_by_hand() {
        // CoCoOp's averages in its paper.
        assert!((harmonic_mean(0.8047, 0.7169) - 0.7583).abs() < 5e-5);
        assert_eq!(harmonic_mean(0.0, 0.0), 0.0);
        let spread = Spread::of(&[0.5, 0.6, 0.8]).unwrap();
        assert!((spread.mean - 1.9 / 3.0).abs() < 1e-12);
        // Deviations -2/15, -1/30, 1/6: squares sum to 0.04667, halved and rooted.
        assert!((spread.sd.unwrap() - 0.152_752_523).abs() < 1e-8);
        assert_eq!(spread.percent(), "63.33 ± 15.28");
        assert_eq!(
            Spread::of(&[0.5]),
            Some(Spread {
                mean: 0.5,
                sd: None
            })
        );
        assert_eq!(Spread::of(&[0.5]).unwrap().percent(), "50.00");
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn no_image_is_no_accuracy() {
        assert_eq!(Evaluation::new(vec!["a".into()], []).accuracy(), 0.0);
    }
}
