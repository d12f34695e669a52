//! The types of the fields of [`Manifest`](crate::Manifest).

pub use pinhole_bundle::{
    CacheInfo, Calibration, ConditionalInfo, Fidelity, FileEntry, HeadForm, HeadKind, ModelInfo,
    PromptLearnerInfo, TextEncoderInfo, TextFidelity, UnknownPolicy,
};
pub use pinhole_model::{
    Activation, Agreement, ClassPosition, CropRounding, Filter, Resize, TextEncoderConfig,
};
