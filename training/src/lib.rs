//! CLIP pre-training, evaluation and the generated data set, on candle.
//!
//! The command is `pinhole-train`; `pinhole-train clip --data shapes --out DIR` trains a model that tells
//! 64 coloured shapes apart, with nothing downloaded. The files in the order that data flows:
//!
//! | file | its one job |
//! |---|---|
//! | [`shapes`] | the generated world: scenes, their pictures and captions |
//! | [`data`] | image-text pairs from there, from lists and from class folders |
//! | [`dataset`] | labelled images for few-shot training and tests |
//! | [`features`] | the embeddings of their images |
//! | [`vocabulary`] | texts as tokens; only the rows in use are trained |
//! | [`model`], [`ops`] | the towers, and their operations with hand-written gradients |
//! | [`contrastive`] | loss and gradients of a batch, in chunks on all cores |
//! | [`optimiser`], [`schedule`] | AdamW and the learning rate |
//! | [`train`], [`state`] | the loop, its log, and its exact state in a file |
//! | [`prompt_learning`] | CoOp and CoCoOp on the frozen towers |
//! | [`zero_shot`] | accuracy of a model in training |
//! | [`evaluate`], [`metrics`] | accuracy of every kind of prompt, and measures of it |
//! | [`comparison`] | methods side by side, over seeds |
//! | [`base_to_new`] | the protocol: train on half of the classes, test on both halves |
//! | [`report`], [`plot`], [`confusion`] | what came of it, in text and pictures |
//!
//! Results do not depend on the number of threads, and a resumed training gives the bits of an
//! uninterrupted one on the same machine. Other instruction sets round matrix products differently.

pub mod base_to_new;
pub mod comparison;
pub mod confusion;
pub mod contrastive;
pub mod data;
pub mod dataset;
mod error;
pub mod evaluate;
pub mod features;
mod fingerprint;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod optimiser;
pub mod plot;
pub mod prompt_learning;
pub mod report;
pub mod schedule;
pub mod shapes;
pub mod state;
pub mod train;
pub mod vocabulary;
pub mod zero_shot;

pub use error::{Error, Result};
