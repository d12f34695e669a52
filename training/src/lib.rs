//! CLIP pre-training, prompt learning, evaluation and a synthetic data set, on candle.
//!
//! The command is `pinhole-train`; `pinhole-train clip --data shapes --out DIR` trains a model on 64 classes
//! of coloured shapes, without a download. In the order of data flow:
//!
//! | file | subject |
//! |---|---|
//! | [`random`] | random numbers that are equal on every machine |
//! | [`shapes`] | the synthetic data set: scenes, images and captions |
//! | [`image_files`], [`pairs`] | image-text pairs from the shapes, lists and class folders |
//! | [`dataset`] | labelled images for few-shot training and tests |
//! | [`image_encoder`] | their embeddings |
//! | [`vocabulary`] | texts as tokens; only the embeddings in use are trained |
//! | [`model`], [`ops`] | CLIP's encoders, and their operations with hand-written gradients |
//! | [`contrastive`] | loss and gradients of a batch, in chunks on all cores |
//! | [`optimiser`], [`schedule`] | AdamW and the learning rate |
//! | [`pretraining`] | the training loop, its state and report |
//! | [`prompt_learning`] | CoOp and CoCoOp with frozen encoders |
//! | [`adaptation`] | caches of examples, linear heads and LoRA, from few images |
//! | [`log`], [`log_plot`] | the log of a training |
//! | [`class_head`], [`evaluate`], [`metrics`] | accuracy and calibration of prompts and bundles |
//! | [`comparison`], [`confusion_plot`] | results of several methods and seeds as tables and plots |
//! | [`protocol`] | what the few-shot protocols share: methods, drawn images, trainings in folders, tests |
//! | [`few_shot`] | the protocol over numbers of shots |
//! | [`base_to_new`] | the protocol that trains on half of the classes and tests on both halves |
//!
//! Results do not depend on the number of threads, and a resumed training is bit-identical to an
//! uninterrupted one on the same machine. Other instruction sets round matrix products differently.

pub mod adaptation;
pub mod base_to_new;
pub mod class_head;
pub mod comparison;
pub mod confusion_plot;
pub mod contrastive;
mod counted;
pub mod dataset;
mod error;
pub mod evaluate;
pub mod few_shot;
mod fingerprint;
pub mod image_encoder;
pub mod image_files;
pub mod log;
pub mod log_plot;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod optimiser;
pub mod pairs;
pub mod pretraining;
pub mod prompt_learning;
pub mod protocol;
pub mod random;
pub mod schedule;
pub mod shapes;
mod state_file;
pub mod vocabulary;

pub use counted::counted;
pub use error::{Error, Result};
