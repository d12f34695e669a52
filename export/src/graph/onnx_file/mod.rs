//! Image encoders of other programs, an ONNX file each: read and checked.

mod elements;
mod formats;
mod interface;
mod tensors;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use pinhole::internal::{NetworkOperator, decode_onnx, graph_values};
use pinhole_bundle::dialect::{Op, Storage};
use pinhole_model::{Precision, PreprocessConfig};
use tract_onnx::pb::ModelProto;

use super::options::GraphOptions;
use super::standard_encoder::{PixelLayout, StandardEncoder, write_compiled};
use crate::quantization::QuantizationPlan;

/// Longest message that protobuf can hold.
const MAX_BYTES: u64 = 1 << 31;
/// The longest embedding.
const MAX_EMBEDDING: usize = 1 << 16;

/// How to read a file that leaves something open.
#[derive(Clone, Debug)]
pub struct OnnxOptions {
    /// Side of the image where the file's sides are symbolic.
    pub image_size: u32,
    /// Name of the value that is the embedding; by default the only output `[N, D]` that depends on pixels alone.
    pub output: Option<String>,
}

/// An ONNX file that takes normalised pixels f32 `[N, 3, S, S]` or `[N, S, S, 3]` and computes an embedding f32
/// `[N, D]`.
pub struct OnnxEncoder {
    path: PathBuf,
    encoder: StandardEncoder,
}

impl OnnxEncoder {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// They name the file, the node or tensor that is not as expected, and the remedy.
    pub fn open(path: &Path, options: &OnnxOptions) -> Result<Self> {
        Self::read(path, options).with_context(|| path.display().to_string())
    }

    fn read(path: &Path, options: &OnnxOptions) -> Result<Self> {
        let length = std::fs::metadata(path)?.len();
        ensure!(
            length <= MAX_BYTES,
            "expected at most {MAX_BYTES} bytes, found {length}; save the weights as external data \
             (onnx.save(..., save_as_external_data=True))"
        );
        let bytes = std::fs::read(path)?;
        ensure!(
            !bytes.starts_with(b"version https://git-lfs"),
            "expected an ONNX file, found a pointer of Git LFS; fetch the file itself with git lfs pull"
        );
        let model = decode_onnx(&bytes)
            .map_err(anyhow::Error::msg)
            .context("expected an ONNX file (a checkpoint is for --clip)")?;
        drop(bytes);
        let opset_version = formats::opset_version(&model)?;
        if let Some(function) = model.functions.first() {
            bail!(
                "function {}: expected none; inline the model-local functions first (onnx.inliner.inline_local_functions)",
                function.name()
            );
        }
        let mut graph = model.graph.context("graph: expected one, found none")?;
        let interface = interface::choose(&mut graph, options.output.as_deref())?;
        let (input, output) = (interface.pixels, interface.embedding);
        for node in &graph.node {
            formats::check_node(node)?;
        }
        tensors::load(&mut graph, path.parent().unwrap_or(Path::new(".")))?;
        let image_size = interface.side.unwrap_or(options.image_size);
        let side = image_size as usize;
        let shape = match input.layout {
            PixelLayout::ChannelsFirst => [1, 3, side, side],
            PixelLayout::ChannelsLast => [1, side, side, 3],
        };
        let values = graph_values(&graph, &shape).map_err(anyhow::Error::msg);
        let values = values.with_context(|| format!("with one image of {side} pixels"))?;
        let found = values.get(&output).map(|value| &value.shape[..]);
        let embedding_size = match found {
            Some(&[1, size]) if (1..=MAX_EMBEDDING).contains(&size) => size,
            _ => bail!(
                "output {output}: expected an embedding [1, D] for one image, found the shape {:?}; name a value of \
                 this shape with --output NAME, or pool the tokens in the model before the export",
                found.unwrap_or_default()
            ),
        };
        Ok(OnnxEncoder {
            path: path.to_owned(),
            encoder: StandardEncoder {
                graph,
                opset_version,
                input,
                output,
                image_size,
                embedding_size,
            },
        })
    }

    /// S.
    pub fn image_size(&self) -> u32 {
        self.encoder.image_size
    }

    /// D.
    pub fn embedding_size(&self) -> usize {
        self.encoder.embedding_size
    }

    /// Writes it to `folder` as `image_encoder.onnx`, as [`crate::graph::write`] does with a checkpoint's encoder: in the dialect
    /// as far as the passes of `encoder_graph` recognise it, in f32 where the file is.
    ///
    /// # Errors
    /// A graph that no board could run, or a node that is quantised in a way that it would compute incorrectly; a file
    /// that cannot be written.
    pub fn write(
        &self,
        preprocessing: &PreprocessConfig,
        folder: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<()> {
        let plan = &mut QuantizationPlan::default();
        self.write_planned(preprocessing, folder, GraphOptions::F32, plan, progress)
    }

    /// [`OnnxEncoder::write`] in another precision: in int8 the float linear layers and convolutions have the form that
    /// `plan` chooses for them and records, in f16 their weights are stored in f16.
    ///
    /// # Errors
    /// As [`OnnxEncoder::write`]; a weight that does not fit f16; a file without linear layers and convolutions.
    pub(crate) fn write_planned(
        &self,
        preprocessing: &PreprocessConfig,
        folder: &Path,
        options: GraphOptions,
        plan: &mut QuantizationPlan,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<()> {
        let model = self
            .encoder
            .compiled(preprocessing, options.precision, plan);
        let model = model.with_context(|| self.path.display().to_string())?;
        write_compiled(model, folder, options, progress)
    }

    /// The graph before the passes, in standard operators: with nodes before it that normalise the pixels by mean and
    /// standard deviation, and nodes behind it that normalise the embedding.
    pub fn wrapped(&self, preprocessing: &PreprocessConfig) -> ModelProto {
        self.encoder.wrapped(preprocessing)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without extension, for display.
    pub fn name(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }

    /// Checks that it fits a model with these embeddings and this preprocessing.
    ///
    /// # Errors
    /// Another image size or embedding size than the model's.
    pub fn check(&self, preprocessing: &PreprocessConfig, embedding_size: usize) -> Result<()> {
        let path = self.path.display();
        ensure!(
            self.encoder.embedding_size == embedding_size,
            "{path}: output: expected embeddings of {embedding_size} as those of the classes, found {}; pass the model that \
             the encoder belongs to with --clip, or its --class-embeddings",
            self.encoder.embedding_size
        );
        ensure!(
            self.encoder.image_size == preprocessing.size,
            "{path}: input: expected images of {} pixels as from the checkpoint's preprocessing, found {}",
            preprocessing.size,
            self.encoder.image_size
        );
        Ok(())
    }
}

/// The precision that the runtime computes the matrix products in.
pub fn precision(operators: &[NetworkOperator]) -> Precision {
    let integers = |op: &NetworkOperator| match op.function {
        Some(Op::PatchEmbedding(storage)) => storage == Storage::Int8,
        Some(Op::Linear(layer)) => layer.storage == Storage::Int8,
        Some(Op::AffineLinear(..) | Op::AffineConvolution(..)) => true,
        _ => false,
    };
    match operators.iter().any(integers) {
        true => Precision::Int8,
        false => Precision::F32,
    }
}
