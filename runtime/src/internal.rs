//! For the other crates of this repository, such as the exporter. Unstable: anything in it can change in any release.

pub use crate::conditional::fit_conditional;
pub use crate::network::{NetworkOperator, Observed};
pub use crate::selftest::cosine;
pub use crate::standalone::StandaloneEncoder;
pub use crate::text::text_encoder_in;
