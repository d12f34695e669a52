//! Network operations with hand-written gradients.
//!
//! Candle's composed operations keep every intermediate and call scalar transcendental functions; these
//! recompute what is cheap and are vectorised by the compiler. Each runs on one thread, except those of
//! [`frozen`] and [`tree_attention`]: pre-training is parallel over chunks of the batch, see
//! [`crate::contrastive`]. Tests compare them with candle's composed operations.

mod attention;
mod cross_entropy;
pub mod frozen;
mod layer_norm;
mod linear;
mod quick_gelu;
mod storage;
#[cfg(test)]
mod test_utils;
pub mod tree_attention;
mod vector;

pub use attention::{AttentionMask, attention};
pub use cross_entropy::{cross_entropies, cross_entropy};
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use quick_gelu::quick_gelu;
pub(crate) use storage::read;
