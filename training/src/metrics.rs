//! Measures of classification, and of several seeds.

use std::path::Path;

use serde::Serialize;

use crate::{Error, Result, error::io};

/// The classification of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The true class.
    pub label: usize,
    /// The predicted class.
    pub predicted: usize,
    /// The predicted class's probability, 0..1.
    pub confidence: f64,
}

/// The expected calibration error, 0..1, see [`pinhole_bundle::expected_calibration_error`].
pub fn calibration_error(predictions: &[Prediction]) -> f64 {
    let pairs = predictions.iter();
    pinhole_bundle::expected_calibration_error(
        pairs.map(|p| (p.confidence, p.label == p.predicted)),
    )
}

/// The harmonic mean of two accuracies, 2ab / (a + b); 0 if both are 0.
pub fn harmonic_mean(a: f64, b: f64) -> f64 {
    if a + b > 0.0 {
        2.0 * a * b / (a + b)
    } else {
        0.0
    }
}

/// Mean and standard deviation of a measure over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MeanSd {
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation (n - 1); `None` for one value.
    pub sd: Option<f64>,
}

impl MeanSd {
    /// Of some values; `None` for no values.
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

    /// As a percentage: "82.69" or "82.69 ± 0.41".
    pub fn percent(&self) -> String {
        let mean = format!("{:.2}", 100.0 * self.mean);
        match self.sd {
            Some(sd) => format!("{mean} ± {:.2}", 100.0 * sd),
            None => mean,
        }
    }
}

/// A confusion matrix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfusionMatrix {
    /// The classes.
    pub classes: Vec<String>,
    /// Number of images by true class (row) and predicted class (column).
    #[serde(rename = "confusion")]
    pub counts: Vec<Vec<u64>>,
}

/// The accuracy on one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassAccuracy {
    /// Its index in the list of classes.
    pub index: usize,
    /// Its name.
    pub class: String,
    /// Number of images.
    pub images: u64,
    /// Fraction of them classified correctly.
    pub accuracy: f64,
}

/// A cell off the diagonal of a confusion matrix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfusedPair {
    /// The true class.
    pub class: String,
    /// Its index in the list of classes.
    pub index: usize,
    /// The predicted class.
    #[serde(rename = "taken_for")]
    pub predicted: String,
    /// Its index in the list of classes.
    #[serde(rename = "taken_for_index")]
    pub predicted_index: usize,
    /// Number of images.
    pub images: u64,
}

impl ConfusionMatrix {
    /// Counts pairs of true and predicted class; indices outside the classes are ignored.
    pub fn new(classes: Vec<String>, pairs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut counts = vec![vec![0; classes.len()]; classes.len()];
        for (label, predicted) in pairs {
            if let Some(cell) = counts.get_mut(label).and_then(|row| row.get_mut(predicted)) {
                *cell += 1;
            }
        }
        Self { classes, counts }
    }

    /// Adds the counts of another matrix of the same classes.
    pub fn add(&mut self, other: &Self) {
        let cells = (self.counts.iter_mut().flatten()).zip(other.counts.iter().flatten());
        cells.for_each(|(sum, count)| *sum += count);
    }

    /// Number of images.
    pub fn images(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// Fraction of images classified correctly; 0 without images.
    pub fn accuracy(&self) -> f64 {
        let correct: u64 = (0..self.classes.len()).map(|i| self.counts[i][i]).sum();
        correct as f64 / self.images().max(1) as f64
    }

    /// Images and accuracy of each class that has images, in the order of the classes.
    pub fn per_class(&self) -> Vec<ClassAccuracy> {
        (self.classes.iter().zip(&self.counts).enumerate())
            .map(|(index, (class, row))| {
                let images = row.iter().sum::<u64>();
                ClassAccuracy {
                    index,
                    class: class.clone(),
                    images,
                    accuracy: row[index] as f64 / images.max(1) as f64,
                }
            })
            .filter(|class| class.images > 0)
            .collect()
    }

    /// The most frequent confusions, in descending order.
    pub fn top_confusions(&self, count: usize) -> Vec<ConfusedPair> {
        let mut cells: Vec<ConfusedPair> = Vec::new();
        for (i, row) in self.counts.iter().enumerate() {
            for (j, &images) in row.iter().enumerate() {
                if i != j && images > 0 {
                    cells.push(ConfusedPair {
                        class: self.classes[i].clone(),
                        index: i,
                        predicted: self.classes[j].clone(),
                        predicted_index: j,
                        images,
                    });
                }
            }
        }
        cells.sort_by_key(|cell| std::cmp::Reverse(cell.images));
        cells.truncate(count);
        cells
    }

    /// Writes the matrix as CSV: one row per true class, one column per predicted class.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let csv = |e: csv::Error| Error::Io {
            path: path.into(),
            reason: e.into(),
        };
        let mut writer = csv::Writer::from_writer(Vec::new());
        let heading = ["class"]
            .into_iter()
            .chain(self.classes.iter().map(|c| &**c));
        writer.write_record(heading).map_err(csv)?;
        for (class, row) in self.classes.iter().zip(&self.counts) {
            let cells = row.iter().map(u64::to_string);
            let record = [class.clone()].into_iter().chain(cells);
            writer.write_record(record).map_err(csv)?;
        }
        let text = writer.into_inner().map_err(|e| io(path)(e.into_error()))?;
        pinhole_fs::write(path, &text).map_err(io(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confusion_matrix_counts_by_class() {
        let classes = ["a", "b", "c"].map(String::from).to_vec();
        let pairs = [(0, 0), (0, 1), (0, 1), (1, 1), (2, 0), (9, 0)];
        let matrix = ConfusionMatrix::new(classes, pairs);
        assert_eq!(matrix.images(), 5);
        assert_eq!(matrix.accuracy(), 0.4);
        let first = &matrix.per_class()[0];
        assert_eq!((&*first.class, first.index), ("a", 0));
        assert_eq!((first.images, first.accuracy), (3, 1.0 / 3.0));
        let top = matrix.top_confusions(1);
        assert_eq!(
            (&*top[0].class, &*top[0].predicted, top[0].images),
            ("a", "b", 2)
        );
        assert_eq!((top[0].index, top[0].predicted_index), (0, 1));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("matrix.csv");
        matrix.write_csv(&path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, "class,a,b,c\na,1,2,0\nb,0,1,0\nc,1,0,0\n");
    }

    #[test]
    fn matrices_of_several_seeds_are_summed() {
        let classes = ["a", "b"].map(String::from).to_vec();
        let mut sum = ConfusionMatrix::new(classes.clone(), [(0, 0), (0, 1)]);
        sum.add(&ConfusionMatrix::new(classes, [(0, 1), (1, 1)]));
        assert_eq!(sum.counts, [[1, 2], [0, 1]]);
    }

    fn predictions(of: &[(f64, bool)]) -> Vec<Prediction> {
        of.iter()
            .map(|&(confidence, correct)| Prediction {
                label: 0,
                predicted: usize::from(!correct),
                confidence,
            })
            .collect()
    }

    #[test]
    fn calibration_error_by_hand() {
        // Three bins of width 1/15: (0.8667, 0.9333] with 0.9, 0.9, 0.92, one of them wrong: distance
        // |2 - 2.72|; (0.4667, 0.5333] with 0.5, wrong: 0.5; (0.9333, 1] with 1, correct: 0.
        let own = predictions(&[
            (0.9, true),
            (0.9, false),
            (0.92, true),
            (0.5, false),
            (1.0, true),
        ]);
        assert!((calibration_error(&own) - (0.72 + 0.5) / 5.0).abs() < 1e-12);
        // A bin includes its upper bound: in separate bins 1/3 and 0.34 do not cancel.
        let own = predictions(&[(1.0 / 3.0, true), (0.34, false)]);
        assert!((calibration_error(&own) - (2.0 / 3.0 + 0.34) / 2.0).abs() < 1e-12);
        let own = predictions(&[(0.3, true), (1.0 / 3.0, false)]);
        assert!((calibration_error(&own) - (1.0 - 0.3 - 1.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(calibration_error(&predictions(&[(0.0, false)])), 0.0);
        assert_eq!(calibration_error(&[]), 0.0);
    }

    #[test]
    fn mean_and_deviation_by_hand() {
        // CoCoOp's averages in its paper.
        assert!((harmonic_mean(0.8047, 0.7169) - 0.7583).abs() < 5e-5);
        assert_eq!(harmonic_mean(0.0, 0.0), 0.0);
        let found = MeanSd::of(&[0.5, 0.6, 0.8]).unwrap();
        assert!((found.mean - 1.9 / 3.0).abs() < 1e-12);
        // Deviations -2/15, -1/30, 1/6: the squares sum to 0.04667.
        assert!((found.sd.unwrap() - 0.152_752_523).abs() < 1e-8);
        assert_eq!(found.percent(), "63.33 ± 15.28");
        assert_eq!(
            MeanSd::of(&[0.5]),
            Some(MeanSd {
                mean: 0.5,
                sd: None
            })
        );
        assert_eq!(MeanSd::of(&[0.5]).unwrap().percent(), "50.00");
        assert_eq!(MeanSd::of(&[]), None);
    }

    #[test]
    fn accuracy_without_images_is_zero() {
        assert_eq!(ConfusionMatrix::new(vec!["a".into()], []).accuracy(), 0.0);
    }
}
