//! The ONNX graph of an image encoder: u8 pixels in, L2-normalised embedding out.
//!
//! `vit` and `siglip` each write one family of encoders with `builder`, in the dialect. `resnet` writes standard operators, as
//! another program's file has (`onnx_file`); `standard_encoder` compiles both into the dialect.

mod attention_bodies;
mod body;
mod builder;
mod convolution_bodies;
mod flat;
pub(crate) mod functions;
mod imported_bodies;
mod onnx_file;
mod options;
pub(crate) mod proto;
mod resnet;
mod siglip;
mod standard_encoder;
mod vit;
mod weights;

use std::path::Path;

use anyhow::{Context, Result, bail};
use pinhole_bundle::dialect;
use pinhole_checkpoint::Checkpoint;
use pinhole_model::{ImageEncoderConfig, Precision, VitPooling};
use prost::Message;
use tract_onnx::pb::{GraphProto, ModelProto, tensor_proto::DataType};

pub use flat::inline;
pub use onnx_file::{OnnxEncoder, OnnxOptions, precision};
pub use options::GraphOptions;
pub use weights::WeightFile;

use crate::quantization::QuantizationPlan;
use builder::GraphBuilder;
use proto::{opset, value};
use resnet::ResNetShape;
use standard_encoder::write_compiled;
use vit::VitShape;

/// Writes the image encoder of `checkpoint` to `folder` as `image_encoder.onnx`, with a separate weight file if the
/// weights exceed [`WeightFile::INLINE_BYTES`]. In int8 each layer is quantised without calibration. `progress` is
/// called with (done, total) tensors.
///
/// # Errors
/// A tensor that cannot be read, a file that cannot be written, a weight that does not fit f16.
pub fn write(
    checkpoint: &Checkpoint,
    folder: &Path,
    options: GraphOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let plan = &mut QuantizationPlan::default();
    write_planned(checkpoint, folder, options, plan, progress)
}

/// [`write`] with the linear layers and convolutions of an int8 graph in the form that `plan` chooses for them and records.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_planned(
    checkpoint: &Checkpoint,
    folder: &Path,
    options: GraphOptions,
    plan: &mut QuantizationPlan,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let config = checkpoint.config();
    let activation = config.activation;
    let build: &dyn Fn(&mut GraphBuilder) -> Result<()> = match config.image {
        ImageEncoderConfig::VisionTransformer {
            image_size,
            patch_size,
            width,
            layers,
            heads,
            mlp: _,
            input_norm,
            pooling,
        } => {
            let shape = VitShape {
                image_size: image_size as usize,
                patch: patch_size as usize,
                width,
                layers,
                heads,
                input_norm,
                pooling,
            };
            &move |graph| vit::build(graph, &shape, activation)
        }
        ImageEncoderConfig::SigLip {
            image_size,
            patch_size,
            width,
            layers,
            heads,
            mlp: _,
        } => {
            let shape = VitShape {
                image_size: image_size as usize,
                patch: patch_size as usize,
                width,
                layers,
                heads,
                input_norm: false,
                pooling: VitPooling::Average,
            };
            &move |graph| siglip::build(graph, &shape, activation)
        }
        ImageEncoderConfig::ModifiedResNet {
            layers,
            width,
            heads,
            ..
        } => {
            let shape = ResNetShape {
                layers,
                width,
                heads,
            };
            let encoder = resnet::encoder(checkpoint, &shape)?;
            let model = encoder.compiled(&config.preprocessing, options.precision, plan)?;
            return write_compiled(model, folder, options, progress);
        }
        ImageEncoderConfig::Timm { .. } => bail!("an encoder of timm has no tensors to read"),
    };
    let mut graph = GraphBuilder {
        nodes: vec![],
        weights: WeightFile::create(folder, options.precision)?,
        checkpoint,
        plan: (options.precision == Precision::Int8).then_some(plan),
        progress,
        done: 0,
        total: 0,
    };
    build(&mut graph)?;
    let side = i64::from(config.image.image_size());
    let GraphBuilder { nodes, weights, .. } = graph;
    let functions = functions::called(&nodes, dialect::OPSET);
    let version = functions::domain_version(&nodes).context("a graph without functions")?;
    let mut model = ModelProto {
        ir_version: 8,
        producer_name: "pinhole-export".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import: vec![opset("", dialect::OPSET), opset(dialect::DOMAIN, version)],
        graph: Some(GraphProto {
            name: "image_encoder".into(),
            input: vec![value("pixels", DataType::Uint8, &[side, side, 3])],
            output: vec![value(
                "embedding",
                DataType::Float,
                &[config.embedding as i64],
            )],
            node: nodes,
            initializer: weights.finish()?,
            ..Default::default()
        }),
        functions,
        ..Default::default()
    };
    if options.flat {
        flat::inline(&mut model)?;
    }
    let path = folder.join(pinhole_bundle::IMAGE_ENCODER);
    std::fs::write(&path, model.encode_to_vec())
        .with_context(|| format!("{}: cannot write", path.display()))
}

/// The linear layer that reads patches of the pixels: its node's name and the side of a patch. `None` for encoders
/// that begin with convolutions.
pub(crate) fn patch_layer(config: &ImageEncoderConfig) -> Option<(&'static str, usize)> {
    match *config {
        ImageEncoderConfig::VisionTransformer { patch_size, .. }
        | ImageEncoderConfig::SigLip { patch_size, .. } => {
            Some((vit::PATCH_EMBEDDING, patch_size as usize))
        }
        ImageEncoderConfig::ModifiedResNet { .. } | ImageEncoderConfig::Timm { .. } => None,
    }
}
