//! From text to class embeddings: tokenizer, templates, text encoder, learned prompts.
//!
//! ```no_run
//! # use pinhole_prompts::*;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = std::path::Path::new("model.safetensors");
//! let checkpoint = pinhole_checkpoint::Checkpoint::open(path, &Default::default())?;
//! let encoder = TextEncoder::load(&checkpoint)?;
//! let classes = Classes::new(["cat", "polar_bear"])?;
//! let templates = Templates::parse("a photo of a {}.")?;
//! let embeddings =
//!     class_embeddings(&encoder, &Tokenizer::new(), &classes, &templates, &mut |_, _| {})?;
//! assert_eq!(embeddings.data.len(), 2 * embeddings.dim);
//! # Ok(())
//! # }
//! ```

mod bpe;
mod canonical;
mod classes;
mod clean;
pub mod conditional;
mod embeddings;
mod encoder;
mod entities;
mod error;
mod folders;
mod layout;
mod templates;
mod text_list;
mod tokenizer;
mod trained_names;
mod unicode;

pub use canonical::canonicalize;
pub use classes::{Classes, class_indices};
pub use conditional::Conditional;
pub use embeddings::{ClassEmbeddings, class_embeddings};
pub use encoder::{Prefix, TextEncoder, Weight};
pub use error::Error;
pub use folders::FolderNames;
pub use layout::{deep_embeddings, learned_embeddings, prompt_rows};
pub use templates::Templates;
pub use text_list::{TextList, read_text};
pub use tokenizer::{EOT, SOT, TextTokenizer, Tokenizer, fitting};
pub use trained_names::check_trained_names;
