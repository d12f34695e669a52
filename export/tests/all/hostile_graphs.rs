//! Graphs that are made to take long, of 1 MiB at most, end within the time that SECURITY.md states: on the board, and in the
//! exporter. Each is as long as it may be, and then as long as 1 MiB allows, which is refused.

use std::path::Path;
use std::time::Duration;

use pinhole_bundle::IMAGE_ENCODER;
use pinhole_export::graph::{OnnxEncoder, OnnxOptions};
use pinhole_model::PreprocessConfig;
use prost::Message;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType,
};

use crate::common::onnx::{self, Size};

/// The processor time for a file of 1 MiB.
const MOST: Duration = Duration::from_secs(2);
const SIDE: u32 = 32;
const SIZE: usize = 16;

/// The processor time of this thread: on a busy machine, a clock would count what others do.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds = text.split(' ').next().unwrap();
    Duration::from_nanos(nanoseconds.parse().unwrap())
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        ints: ints.to_vec(),
        r#type: AttributeType::Ints as i32,
        ..Default::default()
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        i,
        r#type: AttributeType::Int as i32,
        ..Default::default()
    }
}

/// A value [N, dims].
fn value(name: &str, data_type: DataType, dims: &[i64]) -> ValueInfoProto {
    let sizes: Vec<Size> = std::iter::once(Size::Named("N"))
        .chain(dims.iter().map(|&d| Size::Is(d)))
        .collect();
    onnx::value(name, data_type as i32, &sizes)
}

#[derive(Default)]
struct Builder {
    graph: GraphProto,
    names: usize,
}

impl Builder {
    fn name(&mut self) -> String {
        self.names += 1;
        format!("v{}", self.names)
    }

    fn node(&mut self, op: &str, inputs: &[&str], attributes: &[AttributeProto]) -> String {
        let output = self.name();
        self.push(op, inputs, std::slice::from_ref(&output), attributes);
        output
    }

    fn push(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: &[String],
        attributes: &[AttributeProto],
    ) {
        self.graph.node.push(NodeProto {
            name: outputs[0].clone(),
            op_type: op.into(),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: outputs.to_vec(),
            attribute: attributes.to_vec(),
            ..Default::default()
        });
    }

    fn floats(&mut self, dims: &[i64]) -> String {
        let count = dims.iter().product::<i64>() as usize;
        self.initializer(DataType::Float, dims, 0.1f32.to_le_bytes().repeat(count))
    }

    fn integers(&mut self, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializer(DataType::Int64, &[values.len() as i64], bytes)
    }

    fn initializer(&mut self, data_type: DataType, dims: &[i64], raw_data: Vec<u8>) -> String {
        let name = self.name();
        self.graph.initializer.push(TensorProto {
            name: name.clone(),
            dims: dims.to_vec(),
            data_type: data_type as i32,
            raw_data,
            ..Default::default()
        });
        name
    }
}

/// Adds at most so many nodes that compute f32 `[1, 3, 32, 32]` from the value of this name and shape.
type Kind = fn(&mut Builder, String, usize) -> String;

/// As many nodes as fit 1 MiB, more than may be.
const UNBOUNDED: usize = 12_000;

/// What each is made to be slow at, how many nodes may be, and its nodes.
const KINDS: &[(&str, usize, Kind)] = &[
    ("fused operators", 2000, |b, mut x, nodes| {
        for _ in 0..nodes {
            x = b.node("Relu", &[&x], &[]);
        }
        x
    }),
    ("moves that cancel", 2000, |b, mut x, nodes| {
        for _ in 0..nodes {
            x = b.node("Transpose", &[&x], &[ints("perm", &[0, 1, 3, 2])]);
        }
        x
    }),
    ("convolutions", 2000, |b, mut x, nodes| {
        let weight = b.floats(&[3, 3, 1, 1]);
        for _ in 0..nodes {
            x = b.node("Conv", &[&x, &weight], &[]);
        }
        x
    }),
    ("attention", 1400, |b, mut x, nodes| {
        let weight = b.floats(&[32, 32]);
        for _ in 0..nodes / 8 {
            let [q, k, v] = [(); 3].map(|()| b.node("MatMul", &[&x, &weight], &[]));
            let k = b.node("Transpose", &[&k], &[ints("perm", &[0, 1, 3, 2])]);
            let scores = b.node("MatMul", &[&q, &k], &[]);
            let scores = b.node("Softmax", &[&scores], &[int("axis", -1)]);
            let sum = b.node("MatMul", &[&scores, &v], &[]);
            x = b.node("Add", &[&x, &sum], &[]);
        }
        x
    }),
    ("slices", 2000, |b, mut x, nodes| {
        let [start, middle, end, axis] = [0, 16, 32, 2].map(|i| b.integers(&[i]));
        for _ in 0..nodes / 3 {
            let first = b.node("Slice", &[&x, &start, &middle, &axis], &[]);
            let second = b.node("Slice", &[&x, &middle, &end, &axis], &[]);
            x = b.node("Concat", &[&second, &first], &[int("axis", 2)]);
        }
        x
    }),
    ("operators of many nodes", 250, |b, mut x, nodes| {
        let scale = b.floats(&[32]);
        for _ in 0..nodes {
            x = b.node("LayerNormalization", &[&x, &scale, &scale], &[]);
        }
        x
    }),
    ("many operands", 128, |b, x, operands| {
        let together = b.node("Concat", &vec![&*x; operands], &[int("axis", 0)]);
        let parts: Vec<String> = (0..operands).map(|_| b.name()).collect();
        b.push("Split", &[&together], &parts, &[int("axis", 0)]);
        let parts: Vec<&str> = parts.iter().map(|part| &**part).collect();
        b.node("Max", &parts, &[])
    }),
    ("constants", 4000, |b, x, nodes| {
        let one = b.floats(&[1]);
        let mut sum = one.clone();
        for _ in 0..nodes {
            sum = b.node("Add", &[&sum, &one], &[]);
        }
        b.node("Add", &[&x, &sum], &[])
    }),
];

/// A file with `nodes` of `kind` between an image and an embedding.
fn file(kind: Kind, nodes: usize, pixels: &str) -> Vec<u8> {
    let mut b = Builder::default();
    let side = i64::from(SIDE);
    let (input, x) = match pixels {
        "pixels" => {
            let floats = b.node("Cast", &["pixels"], &[int("to", DataType::Float as i64)]);
            let x = b.node("Transpose", &[&floats], &[ints("perm", &[0, 3, 1, 2])]);
            (value("pixels", DataType::Uint8, &[side, side, 3]), x)
        }
        name => (
            value(name, DataType::Float, &[3, side, side]),
            name.to_owned(),
        ),
    };
    let last = kind(&mut b, x, nodes);
    let axes = b.integers(&[2, 3]);
    let mean = b.node("ReduceSum", &[&last, &axes], &[int("keepdims", 0)]);
    let weight = b.floats(&[3, SIZE as i64]);
    b.push("MatMul", &[&mean, &weight], &["embedding".to_owned()], &[]);
    b.graph.input = vec![input];
    b.graph.output = vec![value("embedding", DataType::Float, &[SIZE as i64])];
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: 17,
        }],
        graph: Some(b.graph),
        ..Default::default()
    };
    let bytes = model.encode_to_vec();
    assert!(bytes.len() <= 1 << 20, "{} bytes", bytes.len());
    bytes
}

/// Checks the processor time of `read`, and returns its result.
fn timed<T>(what: &str, read: impl FnOnce() -> T) -> T {
    let started = processor_time();
    let result = read();
    let took = processor_time() - started;
    println!("{what}: {took:?}");
    assert!(
        took < MOST,
        "{what}: expected less than {MOST:?}, found {took:?}"
    );
    result
}

fn load(folder: &Path, what: &str) -> Result<(), pinhole::Error> {
    timed(what, || {
        pinhole::internal::load_onnx(folder, SIDE as usize, SIZE)
    })
}

#[test]
fn the_board_reads_hostile_graphs_in_time() {
    for &(name, nodes, kind) in KINDS {
        for nodes in [nodes, UNBOUNDED] {
            let folder = tempfile::tempdir().unwrap();
            let bytes = file(kind, nodes, "pixels");
            std::fs::write(folder.path().join(IMAGE_ENCODER), bytes).unwrap();
            let result = load(folder.path(), &format!("{name}, {nodes}"));
            if nodes == UNBOUNDED {
                let error = result.unwrap_err().to_string();
                assert!(error.contains("expected at most"), "{name}: {error}");
            } else if let Err(error) = result {
                let error = error.to_string();
                assert!(error.contains("takes too long"), "{name}: {error}");
            }
        }
    }
}

#[test]
fn the_exporter_reads_hostile_graphs_in_time() {
    let options = OnnxOptions {
        image_size: SIDE,
        output: None,
    };
    for &(name, nodes, kind) in KINDS {
        for nodes in [nodes, UNBOUNDED] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("foreign.onnx");
            std::fs::write(&path, file(kind, nodes, "x")).unwrap();
            let result = timed(&format!("{name}, {nodes}"), || {
                let encoder = OnnxEncoder::open(&path, &options)?;
                let preprocessing = PreprocessConfig::openai(SIDE);
                encoder.write(&preprocessing, folder.path(), &mut |_, _| {})
            });
            if nodes == UNBOUNDED {
                let error = format!("{:#}", result.unwrap_err());
                assert!(error.contains("expected at most"), "{name}: {error}");
            } else if let Err(error) = result {
                panic!("{name}: {error:#}");
            }
        }
    }
}
