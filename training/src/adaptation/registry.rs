//! The registry of adaptation methods.

use super::{adapter::Adapter, linear, lora, tip_adapter};

static ADAPTERS: &[&Adapter] = &[
    &tip_adapter::TIP_ADAPTER,
    &tip_adapter::TIP_ADAPTER_F,
    &linear::LINEAR,
    &lora::CLIP_LORA,
];

impl Adapter {
    /// All methods.
    pub fn all() -> &'static [&'static Self] {
        ADAPTERS
    }

    /// The method with a key, such as "linear".
    pub fn by_key(key: &str) -> Option<&'static Self> {
        ADAPTERS.iter().copied().find(|adapter| adapter.key == key)
    }
}
