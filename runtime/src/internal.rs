//! For the other crates of this repository, such as the exporter. Unstable: anything in it can change in any release.

use crate::Classifier;
pub use crate::conditional_fit::fit_conditional;
pub use crate::network::{NetworkOperator, Observed};
pub use crate::selftest::cosine;
pub use crate::standalone::StandaloneEncoder;
pub use crate::text_encoder::text_encoder_in;

/// The operators of the image encoder in execution order, and the kernel that runs each.
pub fn operators(classifier: &Classifier) -> Vec<NetworkOperator> {
    classifier.operators()
}
