//! Prompt learning: training the context vectors around a class name with frozen encoders.
//!
//! | file | subject |
//! |---|---|
//! | `method`, `methods/` | what differs between methods, and the methods: CoOp, CoCoOp |
//! | `options` | hyper-parameters, by default the reference's |
//! | `features` | image embeddings, computed once |
//! | `prompt_tree` | the prompts of all classes as one tree of rows |
//! | `text_encoder` | the frozen text encoder on such a tree |
//! | `text_model` | the loss of context vectors and its gradient |
//! | `learner` | initial weights |
//! | `sgd` | PyTorch's SGD and Dassl's learning rate |
//! | `training` | batches, log, state |
//!
//! The reference is KaiyangZhou/CoOp with KaiyangZhou/Dassl.pytorch. It encodes 77 tokens per class in each
//! update. Here a text is as long as its prompt, rows that prompts have in common are computed once, and
//! rows before the first context vector once for the whole training. The losses are equal.

mod event;
mod features;
mod learner;
mod method;
mod methods;
mod options;
mod prompt_tree;
mod sgd;
mod text_encoder;
mod text_model;
mod training;
mod weight;

pub use event::TrainingEvent;
pub use features::{ImageFeatures, image_features};
pub use method::{PromptForms, Recipe};
pub use methods::Method;
pub use options::PromptOptions;
pub use training::{Intervals, LEARNER_FILE, PromptOutput, PromptTraining, Start, train};
