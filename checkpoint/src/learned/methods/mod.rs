//! The registry of learned methods: one file for each, and one entry here.

mod clip_adapter;
pub(super) mod clip_lora;
mod cocoop;
mod coop;
mod ivlp;
mod kgcoop;
pub(super) mod linear;
mod maple;
mod prograd;
mod taskres;
pub(super) mod tip_adapter;
mod vpt;

use super::method::Method;

/// Every method that is read.
pub(super) static METHODS: &[&Method] = &[
    &coop::COOP,
    &cocoop::COCOOP,
    &kgcoop::KGCOOP,
    &prograd::PROGRAD,
    &taskres::TASKRES,
    &linear::LINEAR,
    &tip_adapter::TIP_ADAPTER,
    &tip_adapter::TIP_ADAPTER_F,
    &clip_lora::CLIP_LORA,
    &clip_adapter::CLIP_ADAPTER,
    &maple::MAPLE,
    &maple::COPROMPT,
    &ivlp::IVLP,
    &ivlp::PROMPTSRC,
    &vpt::VPT,
];
