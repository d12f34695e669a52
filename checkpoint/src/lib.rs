//! CLIP weights by canonical name: readers for every common checkpoint format, one writer

mod checkpoint;
mod error;
mod model;
mod state_dict;
mod write;

pub use checkpoint::{Checkpoint, OpenOptions};
pub use error::Error;
pub use model::{Activation, ClipConfig, ImageTower, TextTower};
pub use state_dict::{Dtype, StateDict, Tensor, TensorInfo, read_state_dict};
pub use write::{Existing, write};
