//! CLIP weights by canonical name: readers for every common checkpoint format, one writer.
//!
//! [`Checkpoint::open`] takes a file or a folder and tells its format by its first bytes:
//!
//! | file | written by |
//! |---|---|
//! | `ViT-B-32.pt` and so on | OpenAI: TorchScript archives |
//! | `open_clip_model.safetensors`, `open_clip_pytorch_model.bin` | open_clip, models on the Hugging Face hub |
//! | `epoch_N.pt` | open_clip's training: `state_dict` beside the optimiser's state |
//! | `model.safetensors`, `pytorch_model.bin`, and their `*.index.json` with shards | transformers' `CLIPModel` |
//! | any `.safetensors`, or any `.pt`, `.pth`, `.bin` by `torch.save`, old or new | with the tensor names of any of these |
//!
//! Weights are F32, F16 or BF16; they stay in the file until [`Checkpoint::tensor`] reads one and
//! widens it to f32. Pickles are interpreted by a small machine that knows tensors and ordered
//! dictionaries and never executes anything; files are bounded in what they can claim, and
//! everything that is read is checked against the shapes that the model must have.
//!
//! # Configuration
//! The architecture is told from the shapes of the tensors: a ViT or a ModifiedResNet with the
//! causal CLIP text tower. What shapes cannot say comes from the files beside the weights, which
//! must agree with the shapes in all else:
//!
//! - tensors with OpenAI's and open_clip's names: `open_clip_config.json`;
//! - tensors with transformers' names: `config.json`, and `preprocessor_config.json` or
//!   `processor_config.json`.
//!
//! Where no file says it, attention heads are one for every 64 of width and preprocessing is
//! OpenAI's; [`Checkpoint::assumptions`] says so. The activation function is never guessed: it
//! is known of OpenAI's archives, and else [`OpenOptions::activation`] must say it.
//!
//! # Names
//! [`ClipConfig::tensors`](pinhole_model::ClipConfig::tensors) lists the canonical names, which are OpenAI's and open_clip's, with
//! their shapes. [`write()`] writes them as a folder that open_clip and this crate read without
//! further hints. [`read_state_dict`] reads any file of these formats without asking that it be a
//! CLIP model.
//!
//! # Prompt learners
//! [`read_prompt_learner`] reads what CoOp and CoCoOp learned, from the reference's files or from
//! those of [`write_prompt_learner`].

mod archive;
mod checkpoint;
mod config_file;
mod error;
mod infer;
mod names;
mod pickle;
mod prompt_learner;
mod safetensors_file;
mod state_dict;
mod storage;
mod torch;
mod write;

pub use checkpoint::{Checkpoint, OpenOptions};
pub use error::Error;
pub use prompt_learner::{read_prompt_learner, write_prompt_learner};
pub use state_dict::{Dtype, StateDict, TensorInfo, read_state_dict};
pub use write::{Existing, write};
