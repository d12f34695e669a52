//! From `image_encoder.onnx` to a tract plan with our operators.

mod attach;
pub mod attributes;
mod budget;
mod check;
pub(crate) mod initializer;
mod operators;
mod optimizer;
mod sizes;
mod structure;
pub(crate) mod window;

use std::path::Path;
use std::sync::{Arc, Mutex};

use pinhole_bundle::{Bundle, IMAGE_ENCODER, IMAGE_ENCODER_WEIGHTS, dialect};
use prost::Message;
use serde::Serialize;
use tract_onnx::pb;
use tract_onnx::tract_core::plan;
use tract_onnx::tract_hir::internal::*;

use budget::{Budget, FileLength};
pub use check::graph_values;
pub(crate) use check::{GraphKind, model as check_model};
pub use operators::nonlinearity;
use operators::{operator, weights};
pub use sizes::GraphValue;

use crate::error::Error;
use crate::panics;

/// An operator of the image encoder as it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkOperator {
    /// Name of the node in the ONNX file.
    pub name: String,
    /// A function of the dialect, or an operator of tract.
    pub operator: String,
    /// The function of the dialect.
    #[serde(skip)]
    pub function: Option<dialect::Op>,
    /// Data type and kernel variant, for example "int8 dotprod"; "tract" for an operator of tract.
    pub kernel: String,
}

/// The image encoder, ready to run on one image at a time.
pub(crate) struct ImageEncoder {
    plan: Arc<TypedSimplePlan>,
    /// Idle plan states. Each call takes one, so that several threads can run.
    idle: Mutex<Vec<TypedSimpleState>>,
    image_size: usize,
    embedding_size: usize,
}

/// An operator that has run; see [`crate::StandaloneEncoder::observe`].
#[doc(hidden)]
pub struct Observed<'a> {
    /// Name in the graph.
    pub name: &'a str,
    /// The function of the dialect that it computes.
    pub function: Option<dialect::Op>,
    /// The f32 inputs; pixels are u8.
    pub inputs: Vec<&'a [f32]>,
    /// Shape of the first input.
    pub shape: &'a [usize],
    /// The output, which the observer may change.
    pub output: &'a mut [f32],
}

/// Size limit of a protobuf message. Larger weights are in a separate file.
const MAX_ONNX_BYTES: u64 = 1 << 31;

impl ImageEncoder {
    /// Loads the encoder of `bundle`, whose files have been checked. If `f16`, f16 weights are multiplied in f16, else
    /// in f32.
    pub(crate) fn load(bundle: &Bundle, f16: bool) -> Result<Self, Error> {
        let manifest = bundle.manifest();
        let listed = |name: &str| {
            let file = manifest.files.iter().find(|f| f.path == name);
            file.map(|f| f.bytes)
        };
        let image_size = manifest.model.image_size as usize;
        let embedding_size = manifest.model.embedding_size;
        Self::load_checked(bundle.folder(), image_size, embedding_size, &listed, f16)
    }

    /// Like [`ImageEncoder::load`], for a graph and its weights in `folder` without a manifest.
    pub(crate) fn load_graph(
        folder: &Path,
        image_size: usize,
        embedding_size: usize,
        f16: bool,
    ) -> Result<Self, Error> {
        let weights = |name: &str| {
            let path = (name == IMAGE_ENCODER_WEIGHTS).then(|| folder.join(name))?;
            std::fs::metadata(path).ok().map(|m| m.len())
        };
        Self::load_checked(folder, image_size, embedding_size, &weights, f16)
    }

    fn load_checked(
        folder: &Path,
        image_size: usize,
        embedding_size: usize,
        external: FileLength,
        f16: bool,
    ) -> Result<Self, Error> {
        let path = folder.join(IMAGE_ENCODER);
        let fail = |reason: String| Error::Network {
            path: path.clone(),
            reason,
        };

        let mut proto = read(&path)?;
        let kind = GraphKind::Deployed;
        let values =
            check::model(&proto, kind, external, image_size, embedding_size).map_err(fail)?;
        let graph = proto.graph.as_ref();
        let budget = graph.map_or_else(Budget::default, |graph| Budget::of(graph, external));
        attach::parameters(&mut proto, folder, &values).map_err(fail)?;
        let plan = catch_panic(|| build(&proto, folder, image_size, f16, budget))
            .and_then(|plan| {
                let output = plan.model().output_fact(0)?;
                ensure!(
                    *output == f32::fact([1, embedding_size]),
                    "output embedding: expected f32 [1, {embedding_size}], found {output:?}"
                );
                Ok(plan)
            })
            .map_err(|e| fail(format!("{e:#}")))?;
        Ok(Self {
            plan,
            idle: Mutex::default(),
            image_size,
            embedding_size,
        })
    }

    /// The embedding of `pixels` (u8 `[S, S, 3]`), f32 `[D]`.
    pub(crate) fn embed(&self, pixels: &[u8]) -> Result<Vec<f32>, Error> {
        self.embed_with(pixels, |state, input| state.run(input))
    }

    /// Like [`ImageEncoder::embed`]; calls `observer` after each of our operators with a result in f32.
    pub(crate) fn observe(
        &self,
        pixels: &[u8],
        observer: &mut dyn FnMut(&mut Observed),
    ) -> Result<Vec<f32>, Error> {
        self.embed_with(pixels, |state, input| {
            state.run_plan_with_eval(input, |context, state, node, inputs| {
                let outputs = plan::eval(context, state, node, inputs.clone())?;
                let floats = outputs.iter().all(|o| o.datum_type() == f32::datum_type());
                if !operator::is_ours(node.op()) || !floats {
                    return Ok(outputs);
                }
                let mut output = outputs
                    .into_iter()
                    .next()
                    .context("no output")?
                    .into_tensor();
                let floats = inputs
                    .iter()
                    .filter(|i| i.datum_type() == f32::datum_type());
                observer(&mut Observed {
                    name: &node.name,
                    function: operator::function(node.op()),
                    inputs: floats.map(operator::floats).collect::<TractResult<_>>()?,
                    shape: inputs[0].shape(),
                    output: output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
                });
                TractResult::Ok(tvec![output.into()])
            })
        })
    }

    fn embed_with(
        &self,
        pixels: &[u8],
        run: impl FnOnce(&mut TypedSimpleState, TVec<TValue>) -> TractResult<TVec<TValue>>,
    ) -> Result<Vec<f32>, Error> {
        let side = self.image_size;
        let run = || {
            let input = Tensor::from_shape(&[1, side, side, 3], pixels)?;
            let idle = self.idle.lock().unwrap_or_else(|e| e.into_inner()).pop();
            let mut state = match idle {
                Some(state) => state,
                None => TypedSimpleState::new(&self.plan)?,
            };
            let output = run(&mut state, tvec![input.into()])?;
            let embedding = output[0].try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
            self.idle
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .push(state);
            Ok(embedding)
        };
        let embedding = catch_panic(run).map_err(|e| Error::Run(format!("{e:#}")))?;
        if embedding.len() != self.embedding_size {
            return Err(Error::Run(format!(
                "embedding: expected {} values, found {}",
                self.embedding_size,
                embedding.len()
            )));
        }
        if embedding.iter().any(|v| !v.is_finite()) {
            return Err(Error::Run(
                "embedding: expected numbers, found NaN or infinity; export the bundle again, in f32 if it is f16"
                    .into(),
            ));
        }
        Ok(embedding)
    }

    /// The operators of the plan in execution order.
    pub(crate) fn operators(&self) -> Vec<NetworkOperator> {
        let nodes = self.plan.model().nodes();
        let order = self.plan.order_without_consts().iter();
        let operators = order.map(|&id| NetworkOperator {
            name: nodes[id].name.clone(),
            operator: nodes[id].op.name().to_string(),
            function: operator::function(nodes[id].op.as_op()),
            kernel: operator::kernel(nodes[id].op.as_ref()).unwrap_or("tract".into()),
        });
        operators.collect()
    }
}

fn read(path: &Path) -> Result<pb::ModelProto, Error> {
    let fail = |reason: String| Error::Network {
        path: path.to_owned(),
        reason,
    };
    let length = std::fs::metadata(path)
        .map_err(|e| fail(e.to_string()))?
        .len();
    if length > MAX_ONNX_BYTES {
        return Err(fail(format!(
            "expected at most {MAX_ONNX_BYTES} bytes, found {length}"
        )));
    }
    let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    decode(&bytes).map_err(fail)
}

/// Decodes an ONNX file, in a bounded amount of memory beside its weights.
///
/// # Errors
/// What was expected and found; the file is not named.
pub fn decode(bytes: &[u8]) -> Result<pb::ModelProto, String> {
    structure::check(bytes)?;
    pb::ModelProto::decode(bytes).map_err(|e| format!("expected an ONNX file: {e}"))
}

fn build(
    proto: &pb::ModelProto,
    folder: &Path,
    image_size: usize,
    f16: bool,
    budget: Budget,
) -> TractResult<Arc<TypedSimplePlan>> {
    let mut onnx = tract_onnx::onnx();
    operators::register(&mut onnx, f16);
    let folder = folder
        .to_str()
        .context("the bundle's path is not valid UTF-8")?;
    let parsed = onnx.parse(proto, Some(folder));
    weights::free_spare();
    let mut model = parsed?.model;
    let pixels = u8::fact([1, image_size, image_size, 3]);
    model.set_input_fact(0, pixels.into())?;
    let model = model.into_typed()?;
    let mut model = optimizer::optimize(model, budget.comparisons())?;
    operator::share_outputs(&mut model);
    SimplePlan::new(model)
}

/// Runs `f` and turns a panic into an error: some files reach `unimplemented!` and assertions in tract.
fn catch_panic<T>(f: impl FnOnce() -> TractResult<T>) -> TractResult<T> {
    panics::catch(f)
        .unwrap_or_else(|reason| Err(format_err!("tract cannot run this graph: {reason}")))
}
