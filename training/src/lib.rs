//! CLIP pre-training, evaluation and the generated data set, on candle.

pub mod contrastive;
pub mod data;
mod error;
pub mod evaluate;
pub mod model;
pub mod ops;
pub mod optimiser;
pub mod plot;
pub mod report;
pub mod schedule;
pub mod shapes;
pub mod state;
pub mod train;
pub mod vocabulary;

pub use error::{Error, Result};
