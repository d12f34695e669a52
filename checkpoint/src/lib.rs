//! CLIP weights by canonical name: readers for every common checkpoint format, one writer

mod archive;
mod checkpoint;
mod config_file;
mod error;
mod infer;
mod model;
mod names;
mod pickle;
mod safetensors_file;
mod state_dict;
mod storage;
mod torch;
mod write;

pub use checkpoint::{Checkpoint, OpenOptions};
pub use error::Error;
pub use model::{Activation, ClipConfig, ImageTower, TextTower};
pub use state_dict::{Dtype, StateDict, Tensor, TensorInfo, read_state_dict};
pub use write::{Existing, write};
