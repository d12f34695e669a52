//! Image encoders of other programs, an ONNX file each: wrapped so that they take pixels and return a normalised embedding.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use pinhole::internal::{NetworkOperator, check_imported, decode_onnx};
use pinhole_bundle::dialect::{Op, Storage};
use pinhole_bundle::{IMAGE_ENCODER, dialect};
use pinhole_model::{Precision, PreprocessConfig};
use prost::Message;
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataLocation,
    tensor_proto::DataType, tensor_shape_proto, type_proto,
};

use super::proto::{int, ints, node, opset, tensor, value};
use super::weights::WeightFile;
use crate::encoder_graph;

/// Longest message that protobuf can hold.
const MAX_BYTES: u64 = 1 << 31;

/// Smaller tensors stay inside the ONNX file: shapes, scales and biases, which readers inspect.
const INLINE_BYTES: usize = 1 << 16;

/// An ONNX file that takes normalised pixels f32 `[N, 3, S, S]` and returns an embedding f32 `[N, D]`; N may be fixed
/// to 1.
pub struct OnnxEncoder {
    path: PathBuf,
    graph: GraphProto,
    /// Version of the standard operator set.
    opset_version: i64,
    /// S.
    pub image_size: u32,
    /// D.
    pub embedding_size: usize,
    batch_is_1: bool,
}

impl OnnxEncoder {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// They name the file, and the node or tensor that is not as expected.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).with_context(|| path.display().to_string())
    }

    fn read(path: &Path) -> Result<Self> {
        let length = std::fs::metadata(path)?.len();
        ensure!(
            length <= MAX_BYTES,
            "expected at most {MAX_BYTES} bytes, found {length}"
        );
        let model = decode_onnx(&std::fs::read(path)?)
            .map_err(anyhow::Error::msg)
            .context("expected an ONNX file (a checkpoint is for --clip)")?;
        let mut graph = model.graph.context("graph: expected one, found none")?;
        let standard = (model.opset_import.iter())
            .find(|o| o.domain.is_empty() || o.domain == "ai.onnx")
            .context("opset_import: expected the standard operators, found none")?;
        let opset_version = standard.version;
        let versions = dialect::FOREIGN_OPSETS;
        ensure!(
            versions.contains(&opset_version),
            "opset_import: expected version {} to {}, found {opset_version}; export with opset {}",
            versions.start(),
            versions.end(),
            dialect::OPSET
        );
        if let Some(function) = model.functions.first() {
            bail!(
                "function {}: expected none; inline the model-local functions (onnx.inliner) first",
                function.name()
            );
        }
        for node in &graph.node {
            let inner = (node.attribute.iter()).any(|a| a.g.is_some() || !a.graphs.is_empty());
            ensure!(
                !inner,
                "node {} ({}): expected no control flow, found a graph inside; trace the model with a fixed input",
                node.name,
                node.op_type
            );
        }
        let initial: HashSet<&str> = graph.initializer.iter().map(|t| &*t.name).collect();
        // Before IR version 4, files list the initialisers among the inputs.
        let inputs = graph.input.iter().filter(|i| !initial.contains(&*i.name));
        let inputs: Vec<ValueInfoProto> = inputs.cloned().collect();
        let expected = "input: expected one, f32 [N, 3, S, S]";
        let [input] = &inputs[..] else {
            bail!("{expected}, found {} of them", inputs.len());
        };
        let found = dims(input);
        let (Some(DataType::Float), &[_, Some(3), Some(height), Some(width)]) =
            (data_type(input), &found[..])
        else {
            bail!("{expected}, found {}", described(input));
        };
        ensure!(
            height == width && (1..=1 << 14).contains(&height),
            "{expected}, found {}",
            described(input)
        );
        let expected = "output: expected one, f32 [N, D]";
        let [output] = &graph.output[..] else {
            bail!("{expected}, found {} of them", graph.output.len());
        };
        let size = dims(output);
        let (Some(DataType::Float), &[_, Some(embedding)]) = (data_type(output), &size[..]) else {
            bail!("{expected}, found {}", described(output));
        };
        ensure!(
            (1..=1 << 16).contains(&embedding),
            "{expected}, found {}",
            described(output)
        );
        let batch_is_1 = found[0] == Some(1);
        graph.input = inputs;
        let folder = path.parent().unwrap_or(Path::new("."));
        for tensor in &mut graph.initializer {
            let name = tensor.name.clone();
            inline_data(tensor, folder).with_context(|| format!("initializer {name}"))?;
        }
        Ok(OnnxEncoder {
            path: path.to_owned(),
            graph,
            opset_version,
            image_size: height as u32,
            embedding_size: embedding as usize,
            batch_is_1,
        })
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
            self.embedding_size == embedding_size,
            "{path}: output: expected embeddings of {embedding_size} as from the checkpoint's text encoder, found {}; pass the \
             model that the encoder belongs to with --clip",
            self.embedding_size
        );
        ensure!(
            self.image_size == preprocessing.size,
            "{path}: input: expected images of {} pixels as from the checkpoint's preprocessing, found {}",
            preprocessing.size,
            self.image_size
        );
        Ok(())
    }

    /// Writes it to `folder` as `image_encoder.onnx`, as [`super::write`] does with a checkpoint's encoder: in the dialect
    /// as far as the passes of [`encoder_graph`] recognise it.
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
        let mut model = self.wrapped(preprocessing);
        let (side, size) = (self.image_size as usize, self.embedding_size);
        check_imported(&model, side, size)
            .and_then(|()| encoder_graph::compile(&mut model))
            .map_err(anyhow::Error::msg)
            .with_context(|| self.path.display().to_string())?;
        if let Some(graph) = &mut model.graph {
            let mut weights = WeightFile::create(folder, Precision::F32)?;
            let total = graph.initializer.len() as u64;
            for (i, t) in graph.initializer.drain(..).enumerate() {
                let shape: Vec<usize> = t.dims.iter().map(|&d| d as usize).collect();
                let data_type = DataType::try_from(t.data_type)?;
                match t.raw_data.len() < INLINE_BYTES {
                    true => weights.inline(&t.name, data_type, &shape, t.raw_data),
                    false => drop(weights.write(&t.name, data_type, &shape, &t.raw_data)?),
                }
                progress(i as u64 + 1, total);
            }
            graph.initializer = weights.finish()?;
        }
        let path = folder.join(IMAGE_ENCODER);
        std::fs::write(&path, model.encode_to_vec())
            .with_context(|| format!("{}: cannot write", path.display()))
    }

    /// The graph before the passes, in standard operators: with nodes before it that normalise the pixels by mean and
    /// standard deviation, and nodes behind it that normalise the embedding.
    pub fn wrapped(&self, preprocessing: &PreprocessConfig) -> ModelProto {
        let mut graph = self.graph.clone();
        let (input, output) = (&*self.graph.input[0].name, &*self.graph.output[0].name);
        // `pixels` and `embedding` are the names in the bundle, so the file's own get a prefix.
        let inner = |name: &str| -> String {
            let mut inner = name.to_owned();
            if [input, output, "pixels", "embedding"].contains(&name) {
                inner.insert_str(0, "encoder.");
            }
            inner
        };
        let mut names: HashSet<String> = HashSet::new();
        for tensor in &mut graph.initializer {
            tensor.name = inner(&tensor.name);
            names.insert(tensor.name.clone());
        }
        for node in &mut graph.node {
            for name in node.input.iter_mut().chain(&mut node.output) {
                *name = inner(name);
            }
            names.extend(node.output.iter().cloned());
        }
        let fresh = |name: &str| {
            let mut name = format!("pinhole.{name}");
            while names.contains(&name) {
                name.push('_');
            }
            name
        };
        let (scale, offset, axis) = (fresh("scale"), fresh("offset"), fresh("axis"));
        let scales: Vec<f32> = preprocessing
            .std
            .iter()
            .map(|std| 1.0 / (255.0 * std))
            .collect();
        let offsets = preprocessing.mean.iter().zip(&preprocessing.std);
        let offsets: Vec<f32> = offsets.map(|(mean, std)| -mean / std).collect();
        for (name, data_type, count, raw_data) in [
            (&scale, DataType::Float, 3, floats(&scales)),
            (&offset, DataType::Float, 3, floats(&offsets)),
            (&axis, DataType::Int64, 1, (-1i64).to_le_bytes().to_vec()),
        ] {
            graph.initializer.push(TensorProto {
                raw_data,
                ..tensor(name, data_type, &[count])
            });
        }
        let step = |op: &str, inputs: &[&str], output: &str| node("", op, inputs, output, vec![]);
        let with = |mut node: NodeProto, attribute| {
            node.attribute.push(attribute);
            node
        };
        let names = ["float", "scaled", "normalized", "squares", "sum", "norm"].map(fresh);
        let [float, scaled, normalized, squares, sum, norm] = &names;
        let (first, last) = (inner(input), inner(output));
        let before = [
            with(
                step("Cast", &["pixels"], float),
                int("to", DataType::Float as i64),
            ),
            step("Mul", &[float, &scale], scaled),
            step("Add", &[scaled, &offset], normalized),
            with(
                step("Transpose", &[normalized], &first),
                ints("perm", &[0, 3, 1, 2]),
            ),
        ];
        let after = [
            step("Mul", &[&last, &last], squares),
            with(
                step("ReduceSum", &[squares, &axis], sum),
                int("keepdims", 1),
            ),
            step("Sqrt", &[sum], norm),
            step("Div", &[&last, norm], "embedding"),
        ];
        let nodes = std::mem::take(&mut graph.node);
        let side = i64::from(self.image_size);
        let mut input = value("pixels", DataType::Uint8, &[side, side, 3]);
        let size = self.embedding_size as i64;
        let mut output = value("embedding", DataType::Float, &[size]);
        if self.batch_is_1 {
            set_batch_to_1(&mut input);
            set_batch_to_1(&mut output);
        }
        let mut imports = vec![opset("", self.opset_version)];
        if nodes.iter().any(|n| n.domain == "com.microsoft") {
            imports.push(opset("com.microsoft", 1));
        }
        ModelProto {
            ir_version: 8,
            producer_name: "pinhole-export".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            opset_import: imports,
            graph: Some(GraphProto {
                name: "image_encoder".into(),
                input: vec![input],
                output: vec![output],
                node: before.into_iter().chain(nodes).chain(after).collect(),
                initializer: graph.initializer,
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// The precision that the runtime computes the matrix products in.
pub fn precision(operators: &[NetworkOperator]) -> Precision {
    let integers = |op: &NetworkOperator| match op.function {
        Some(Op::PatchEmbedding(storage)) => storage == Storage::Int8,
        Some(Op::Linear(layer)) => layer.storage == Storage::Int8,
        Some(Op::AffineLinear(..) | Op::AffinePatches(_)) => true,
        _ => false,
    };
    match operators.iter().any(integers) {
        true => Precision::Int8,
        false => Precision::F32,
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn set_batch_to_1(value: &mut ValueInfoProto) {
    if let Some(type_proto::Value::TensorType(tensor)) =
        value.r#type.as_mut().and_then(|t| t.value.as_mut())
        && let Some(dim) = tensor.shape.as_mut().and_then(|s| s.dim.first_mut())
    {
        dim.value = Some(tensor_shape_proto::dimension::Value::DimValue(1));
    }
}

fn tensor_type(value: &ValueInfoProto) -> Option<&type_proto::Tensor> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    Some(tensor)
}

fn data_type(value: &ValueInfoProto) -> Option<DataType> {
    DataType::try_from(tensor_type(value)?.elem_type).ok()
}

/// The sizes; `None` where they are symbolic.
fn dims(value: &ValueInfoProto) -> Vec<Option<i64>> {
    let shape = tensor_type(value).and_then(|t| t.shape.as_ref());
    let dims = shape.into_iter().flat_map(|s| &s.dim);
    dims.map(|d| match d.value {
        Some(tensor_shape_proto::dimension::Value::DimValue(v)) => Some(v),
        _ => None,
    })
    .collect()
}

fn described(value: &ValueInfoProto) -> String {
    let dims: Vec<String> = dims(value)
        .into_iter()
        .map(|d| d.map_or("N".into(), |d| d.to_string()))
        .collect();
    let data_type = match data_type(value) {
        Some(DataType::Float) => "f32".into(),
        Some(other) => format!("{other:?}").to_lowercase(),
        None => "no tensor".into(),
    };
    format!("{} {data_type} [{}]", value.name, dims.join(", "))
}

/// Moves the values of `t` into its `raw_data`, from an external file in `folder` or from the typed fields.
fn inline_data(t: &mut TensorProto, folder: &Path) -> Result<()> {
    let width = match DataType::try_from(t.data_type) {
        Ok(DataType::Float | DataType::Int32) => 4,
        Ok(DataType::Float16) => 2,
        Ok(DataType::Int64) => 8,
        Ok(DataType::Int8 | DataType::Uint8 | DataType::Bool) => 1,
        _ => bail!(
            "data_type: expected f32, f16, int8, uint8, int32, int64 or bool, found {}",
            t.data_type
        ),
    };
    let count = (t.dims.iter()).try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
    let bytes = count
        .and_then(|n| n.checked_mul(width))
        .filter(|&b| b <= MAX_BYTES * 8);
    let bytes = bytes.with_context(|| format!("dims: expected sizes, found {:?}", t.dims))?;
    if t.data_location == Some(DataLocation::External as i32) {
        let entry = |key: &str| {
            let found = t.external_data.iter().find(|e| e.key == key);
            found.map(|e| e.value.clone())
        };
        let location = entry("location").unwrap_or_default();
        let inside = Path::new(&location).components();
        ensure!(
            !location.is_empty() && inside.clone().all(|c| matches!(c, Component::Normal(_))),
            "external_data.location: expected a file in the folder of the ONNX file, found {location:?}"
        );
        let offset: u64 = entry("offset").unwrap_or("0".into()).parse()?;
        let path = folder.join(&location);
        let mut file = File::open(&path).with_context(|| path.display().to_string())?;
        file.seek(SeekFrom::Start(offset))?;
        let mut data = Vec::new();
        file.take(bytes).read_to_end(&mut data)?;
        t.raw_data = data;
    } else if t.raw_data.is_empty() {
        let data_type = DataType::try_from(t.data_type)?;
        let int32 = || t.int32_data.iter();
        t.raw_data = match data_type {
            DataType::Float => floats(&t.float_data),
            DataType::Int64 => t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DataType::Int32 => int32().flat_map(|v| v.to_le_bytes()).collect(),
            DataType::Float16 => int32().flat_map(|v| (*v as u16).to_le_bytes()).collect(),
            _ => int32().map(|v| *v as u8).collect(),
        };
    }
    ensure!(
        t.raw_data.len() as u64 == bytes,
        "expected {bytes} bytes of data for {:?}, found {}",
        t.dims,
        t.raw_data.len()
    );
    let shape: Vec<usize> = t.dims.iter().map(|&d| d as usize).collect();
    *t = TensorProto {
        raw_data: std::mem::take(&mut t.raw_data),
        ..tensor(&t.name, DataType::try_from(t.data_type)?, &shape)
    };
    Ok(())
}
