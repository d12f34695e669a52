//! CLIP weights by canonical name: readers for every common checkpoint format, one writer.
//!
//! [`Checkpoint::open`] takes a file or a folder and recognises the format by its first bytes:
//!
//! | file | written by |
//! |---|---|
//! | `ViT-B-32.pt` and so on | OpenAI: TorchScript archives |
//! | `open_clip_model.safetensors`, `open_clip_pytorch_model.bin` | open_clip, models on the Hugging Face hub |
//! | `epoch_N.pt` | open_clip's training: `state_dict` and the optimiser's state |
//! | `model.safetensors`, `pytorch_model.bin`, and their `*.index.json` with shards | transformers' `CLIPModel` |
//! | `.npz`, `.npy` (for learned methods and class embeddings) | NumPy |
//! | any `.safetensors`, or any `.pt`, `.pth`, `.bin` by `torch.save`, old or new | with the tensor names of any of these |
//!
//! Weights are F64, F32, F16 or BF16; they stay in the file until [`Checkpoint::tensor`] reads one as f32.
//! A model under a key of the file or behind a prefix, as trainings and wrapping modules save it, is taken with a note
//! if it is the only one. Pickles are interpreted by a small machine that knows tensors and ordered
//! dictionaries and never executes anything. All sizes in a file are limited, and every tensor is
//! checked against the shape that the model requires.
//!
//! # Configuration
//! The architecture is inferred from the shapes of the tensors: a ViT or a ModifiedResNet with the
//! causal CLIP text encoder. What shapes do not show is read from configuration files in the folder of the
//! weights, which must agree with the shapes in everything else:
//!
//! - tensors with OpenAI's and open_clip's names: `open_clip_config.json`;
//! - tensors with transformers' names: `config.json`, `preprocessor_config.json` or `processor_config.json`, and
//!   the kind of tokenizer in `tokenizer_config.json`.
//!
//! Without such a file, the number of attention heads is assumed to be one per 64 of width unless
//! [`OpenOptions::heads`] gives it, and what the embeddings are read from, the mask, the tokenizer and the preprocessing to
//! be OpenAI's; [`Checkpoint::assumptions`] lists this. The activation function is never
//! assumed: it is known for OpenAI's archives, and otherwise [`OpenOptions::activation`] must give it.
//!
//! # Names
//! [`ClipConfig::tensors`](pinhole_model::ClipConfig::tensors) lists the canonical names, which are OpenAI's and open_clip's, with
//! their shapes. [`write()`] writes them as a folder that open_clip and this crate read without
//! options. [`read_state_dict`] reads the tensors of any file in these formats, whatever the model.
//!
//! # Learned methods
//! [`read_learned`] reads what a method of [`Method::all`] learned, from its reference implementation's files or from those
//! of [`write_prompt_learner`] and [`write_learned`].

mod archive;
mod budget;
mod checkpoint;
mod declared;
mod encoders;
mod error;
mod infer;
#[doc(hidden)]
pub mod internal;
mod json;
mod learned;
mod locate;
mod names;
mod numpy;
mod open_clip;
mod pickle;
mod preprocessing;
mod read;
mod safetensors_file;
mod shapes;
mod siglip;
mod state_dict;
mod storage;
mod torch;
mod transformers;
mod wrapper;
mod write;

pub use checkpoint::{Checkpoint, OpenOptions, shard_names};
pub use error::Error;
pub use infer::Heads;
pub use learned::{
    CLIP_LORA_LAYERS, LearnedOptions, Method, MethodOption, check_method_options, read_learned,
    read_prompt_learner, write_learned, write_prompt_learner,
};
pub use preprocessing::read_preprocessing;
pub use read::read_state_dict;
pub use state_dict::{Dtype, StateDict, TensorInfo};
pub use write::{Existing, write};
