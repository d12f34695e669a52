//! Which value of a graph is the embedding, and which input the pixels.

use std::collections::{HashMap, HashSet};

use anyhow::{Result, bail, ensure};
use tract_onnx::pb::{GraphProto, ValueInfoProto, tensor_shape_proto, type_proto};

use super::elements::ElementType;
use crate::graph::standard_encoder::{Batch, PixelInput, PixelLayout};

/// The sides of an image.
const SIDES: std::ops::RangeInclusive<i64> = 1..=1 << 14;

/// What a graph takes and returns.
pub(super) struct Interface {
    pub pixels: PixelInput,
    /// The side of the image, if it is fixed.
    pub side: Option<u32>,
    /// The name of the embedding.
    pub embedding: String,
}

/// Reduces `graph` to what the embedding is computed from, and returns the names of its pixels and its embedding. The
/// embedding is the value `wanted`, or the only output that can be one: `[N, D]`, from pixels alone.
///
/// # Errors
/// No such value, or several; what it is computed from is no image. They list the outputs.
pub(super) fn choose(graph: &mut GraphProto, wanted: Option<&str>) -> Result<Interface> {
    let initial: HashSet<&str> = graph.initializer.iter().map(|t| &*t.name).collect();
    // Before IR version 4, files list the initialisers among the inputs.
    graph.input = {
        let inputs = graph.input.iter().filter(|i| !initial.contains(&*i.name));
        inputs.cloned().collect()
    };
    let ancestry = Ancestry::of(graph)?;
    let output = match wanted {
        Some(name) => {
            ensure!(
                ancestry.0.contains_key(name),
                "--output {name}: expected an output or another value of the graph, found none; its outputs are {}",
                described_all(&graph.output)
            );
            name.to_owned()
        }
        None => only_embedding(graph, &ancestry)?,
    };
    let inputs = ancestry.inputs(graph, &output);
    let [input] = inputs[..] else {
        bail!(
            "output {output}: expected a value that depends on the pixels alone, found one that depends on {}; {}",
            names(inputs.iter().map(|i| &*i.name)),
            ancestry.advice(graph)
        );
    };
    let (pixels, side) = pixel_input(input)?;
    let input = input.clone();
    prune(graph, &output);
    graph.input = vec![input];
    graph.output = vec![ValueInfoProto {
        name: output.clone(),
        ..Default::default()
    }];
    Ok(Interface {
        pixels,
        side,
        embedding: output,
    })
}

/// The output `[N, D]` that depends on pixels alone.
fn only_embedding(graph: &GraphProto, ancestry: &Ancestry) -> Result<String> {
    let can_be = |output: &&ValueInfoProto| {
        let rank = dims(output).map(|dims| dims.len());
        matches!(ancestry.inputs(graph, &output.name)[..], [input] if pixel_input(input).is_ok())
            && element(output).is_none_or(ElementType::is_float)
            && rank.is_none_or(|rank| rank == 2)
    };
    let found: Vec<&ValueInfoProto> = graph.output.iter().filter(can_be).collect();
    match (&found[..], &graph.output[..]) {
        ([output], _) => Ok(output.name.clone()),
        // What is wrong with it is reported in detail.
        ([], [only]) if ancestry.inputs(graph, &only.name).len() == 1 => {
            pixel_input(ancestry.inputs(graph, &only.name)[0])?;
            bail!(
                "output: expected an embedding f32 [N, D], found {}; name a value of this shape with --output NAME, or \
                 pool the tokens in the model before the export",
                described(only)
            )
        }
        ([], outputs) => bail!(
            "output: expected an embedding f32 [N, D] that depends on the pixels alone, found {}; {}",
            described_all(outputs),
            ancestry.advice(graph)
        ),
        (several, _) => bail!(
            "output: expected one embedding f32 [N, D], found {}; choose one with --output NAME",
            described_all(several.iter().copied())
        ),
    }
}

/// The inputs that every value depends on, as a set of bits by name of the value.
struct Ancestry(HashMap<String, u64>);

/// As many inputs as a set of bits holds; whole CLIPs have three.
const MAX_INPUTS: usize = u64::BITS as usize;

impl Ancestry {
    fn of(graph: &GraphProto) -> Result<Ancestry> {
        let found = graph.input.len();
        ensure!(
            (1..=MAX_INPUTS).contains(&found),
            "input: expected pixels f32 [N, 3, S, S], found {found} inputs"
        );
        let bits = graph.input.iter().enumerate();
        let mut sets: HashMap<String, u64> = bits
            .map(|(i, input)| (input.name.clone(), 1 << i))
            .collect();
        for node in &graph.node {
            let inputs = node.input.iter().filter_map(|name| sets.get(name));
            let all = inputs.fold(0, |all, set| all | set);
            sets.extend(node.output.iter().map(|name| (name.clone(), all)));
        }
        Ok(Ancestry(sets))
    }

    /// The inputs that `value` depends on.
    fn inputs<'a>(&self, graph: &'a GraphProto, value: &str) -> Vec<&'a ValueInfoProto> {
        let set = self.0.get(value).copied().unwrap_or(0);
        let inputs = graph.input.iter().enumerate();
        inputs
            .filter(|(i, _)| set >> i & 1 == 1)
            .map(|(_, input)| input)
            .collect()
    }

    /// How to name the image encoder's embedding: the values that are computed from the pixels alone and used together
    /// with others.
    fn advice(&self, graph: &GraphProto) -> String {
        let mut last: Vec<&str> = vec![];
        for node in &graph.node {
            let (Some(output), true) = (node.output.first(), last.len() < 3) else {
                continue;
            };
            if self.inputs(graph, output).len() < 2 {
                continue;
            }
            for input in &node.input {
                let [of] = self.inputs(graph, input)[..] else {
                    continue;
                };
                if pixel_input(of).is_ok() && !last.contains(&&**input) {
                    last.push(input);
                }
            }
        }
        let hint = match &last[..] {
            [] => String::new(),
            names => format!(" (the image part ends in {})", names.join(", ")),
        };
        format!(
            "name the image embedding, an output or another value of the graph, with --output NAME{hint}, or export \
             the image encoder alone"
        )
    }
}

/// Removes everything that `output` is not computed from.
fn prune(graph: &mut GraphProto, output: &str) {
    let mut read: HashSet<&str> = HashSet::from([output]);
    let mut live = vec![false; graph.node.len()];
    for (live, node) in live.iter_mut().zip(&graph.node).rev() {
        *live = node
            .output
            .iter()
            .any(|o| !o.is_empty() && read.contains(&**o));
        if *live {
            read.extend(node.input.iter().map(|name| &**name));
        }
    }
    let read: HashSet<String> = read.into_iter().map(str::to_owned).collect();
    let mut live = live.into_iter();
    graph.node.retain(|_| live.next().unwrap_or(true));
    graph.initializer.retain(|t| read.contains(&t.name));
    graph.sparse_initializer.retain(|t| {
        let name = t.values.as_ref().map(|values| &values.name);
        name.is_some_and(|name| read.contains(name))
    });
}

/// Reads the declared shape of the input for pixels, and the side of the image. Where it is symbolic, the model's preprocessing
/// decides.
///
/// # Errors
/// What is expected and found.
fn pixel_input(value: &ValueInfoProto) -> Result<(PixelInput, Option<u32>)> {
    let expected = "input: expected normalised pixels, f32 [N, 3, S, S]";
    let found = described(value);
    ensure!(
        element(value).is_some_and(ElementType::is_float),
        "{expected}, found {found}"
    );
    let dims = match dims(value).as_deref() {
        None => [None; 4],
        Some(&[n, a, b, c]) => [n, a, b, c],
        Some(_) => bail!("{expected}, found {found}"),
    };
    let [batch, a, b, c] = dims;
    let (layout, height, width) = match (a, c) {
        (Some(3), _) => (PixelLayout::ChannelsFirst, b, c),
        (_, Some(3)) => (PixelLayout::ChannelsLast, a, b),
        (None, _) => (PixelLayout::ChannelsFirst, b, c),
        _ => bail!("{expected}, found {found}"),
    };
    let side = match (height, width) {
        (None, None) => None,
        (Some(side), None) | (None, Some(side)) => Some(side),
        (Some(height), Some(width)) if height == width => Some(height),
        _ => bail!("{expected}, found {found}; export it for square images"),
    };
    ensure!(
        side.is_none_or(|side| SIDES.contains(&side)),
        "{expected}, found {found}"
    );
    let batch = match batch {
        None => Batch::Any,
        Some(1) => Batch::One,
        Some(_) => bail!(
            "input: expected a batch of 1 or of any size, found {found}; export it again with one image, or with \
             dynamic_axes={{\"{}\": {{0: \"batch\"}}}}",
            value.name
        ),
    };
    let name = value.name.clone();
    let pixels = PixelInput {
        name,
        layout,
        batch,
    };
    Ok((pixels, side.map(|side| side as u32)))
}

fn tensor_type(value: &ValueInfoProto) -> Option<&type_proto::Tensor> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    Some(tensor)
}

fn element(value: &ValueInfoProto) -> Option<ElementType> {
    Some(ElementType::of(tensor_type(value)?.elem_type))
}

/// The declared sizes; `None` where they are symbolic. `None` if the number of dimensions is open too.
fn dims(value: &ValueInfoProto) -> Option<Vec<Option<i64>>> {
    let shape = tensor_type(value)?.shape.as_ref()?;
    let dims = shape.dim.iter().map(|d| match d.value {
        // Zero and negative sizes stand for symbolic ones in files of some converters.
        Some(tensor_shape_proto::dimension::Value::DimValue(v)) if v > 0 => Some(v),
        _ => None,
    });
    Some(dims.collect())
}

/// Name, element type and shape, with the names of symbolic sizes.
fn described(value: &ValueInfoProto) -> String {
    let shape = tensor_type(value).and_then(|t| t.shape.as_ref());
    let shape = match shape {
        None => "of unknown shape".to_owned(),
        Some(shape) => {
            let dims = shape.dim.iter().map(|d| match &d.value {
                Some(tensor_shape_proto::dimension::Value::DimValue(v)) => v.to_string(),
                Some(tensor_shape_proto::dimension::Value::DimParam(name)) if !name.is_empty() => {
                    name.clone()
                }
                _ => "?".into(),
            });
            format!("[{}]", dims.collect::<Vec<_>>().join(", "))
        }
    };
    let element = element(value).map_or("no tensor".into(), |e| e.to_string());
    format!("{} {element} {shape}", value.name)
}

/// At most eight values, described.
fn described_all<'a>(values: impl IntoIterator<Item = &'a ValueInfoProto>) -> String {
    let mut all: Vec<String> = values.into_iter().map(described).collect();
    if all.len() > 8 {
        all.truncate(8);
        all.push("others".into());
    }
    match all.is_empty() {
        true => "none".into(),
        false => all.join(", "),
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.take(8).collect();
    match names.is_empty() {
        true => "no input".into(),
        false => names.join(", "),
    }
}
