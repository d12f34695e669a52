//! Contrastive pre-training of a CLIP model from random weights.

mod options;
mod report;
mod run;
mod training;
mod zero_shot;

pub use options::{ModelSizes, PretrainingOptions};
pub use report::{PretrainingReport, SplitResult};
pub use run::{PretrainingOutput, pretrain};
pub use training::Pretraining;
pub use zero_shot::evaluate_shapes;
