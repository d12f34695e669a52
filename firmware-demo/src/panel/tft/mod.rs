//! What the colour TFTs over SPI share. Each controller has its own file in the parent folder.

mod config;
#[cfg(feature = "mipidsi")]
mod driver;
mod layout;

pub use config::TftConfig;
#[cfg(feature = "mipidsi")]
pub(super) use driver::open;
#[cfg(feature = "mipidsi")]
pub use driver::{TftPanel, TftPins};
pub use layout::{TftController, TftLayout};
