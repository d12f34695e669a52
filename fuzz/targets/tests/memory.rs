//! The multiples of a file's size that SECURITY.md states: each kind of file takes at most that much memory, and 64 MiB. Each
//! is read by a process of its own, because memory is measured for the whole process. Images and checkpoints have tests of
//! their own.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use pinhole_fuzz_targets::TARGETS;
use serde_json::{Value, json};

const TARGET: &str = "PINHOLE_TEST_TARGET";
const FILE: &str = "PINHOLE_TEST_FILE";
const MIB: usize = 1 << 20;

/// A line of `/proc/self/status`, in bytes.
fn memory(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Reads the file that the environment names; run by [`measure`].
#[test]
#[ignore = "run by the other test"]
fn child() {
    let name = std::env::var(TARGET).unwrap();
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let bytes = std::fs::read(std::env::var(FILE).unwrap()).unwrap();
    let before = memory("VmRSS");
    (target.run)(&bytes);
    println!("took {} bytes", memory("VmHWM").saturating_sub(before));
}

/// The memory that the target `name` takes for `bytes`, beside them.
fn measure(name: &str, bytes: &[u8]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, bytes).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(TARGET, name)
        .env(FILE, file)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {stdout}{stderr}");
    let (_, took) = stdout.split_once("took ").unwrap();
    let (took, _) = took.split_once(' ').unwrap();
    took.parse().unwrap()
}

fn golden(path: &str) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    serde_json::from_slice(&std::fs::read(root.join(path)).unwrap()).unwrap()
}

/// A field of a protobuf message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let (mut bytes, mut length) = (vec![number << 3 | 2], content.len());
    while length > 0x7f {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    [&bytes, content].concat()
}

/// An ONNX file with `graph`.
fn onnx(graph: &[u8]) -> Vec<u8> {
    let version = field(8, &[field(1, b""), vec![2 << 3, 17]].concat());
    [vec![1 << 3, 8], version, field(7, graph)].concat()
}

/// Tokenizers of 100,000 tokens: Unigram, and BPE with as many merges.
fn tokenizers() -> [Value; 2] {
    let mut unigram = golden("tests/golden/siglip/open-clip/tokenizer.json");
    let tokens = unigram["model"]["vocab"].as_array_mut().unwrap();
    tokens.extend((0..100_000).map(|i| json!([format!("w{i}"), -9.0])));
    let mut bpe = golden("tests/golden/siglip/open-clip-2/tokenizer.json");
    let tokens = bpe["model"]["vocab"].as_object_mut().unwrap();
    let first = tokens.len();
    tokens.extend((0..100_000).map(|i| (format!("{i:06}"), json!(first + i))));
    let merges = bpe["model"]["merges"].as_array_mut().unwrap();
    merges.extend(
        (0..100_000).map(|i| json!([format!("{:03}", i / 1000), format!("{:03}", i % 1000)])),
    );
    [unigram, bpe]
}

/// SentencePiece's file of pieces that begin differently.
fn sentencepiece() -> Vec<u8> {
    let piece = |text: &[u8], kind: u8| {
        let piece = [field(1, text), vec![3 << 3, kind]].concat();
        field(1, &piece)
    };
    let mut state = 1u64;
    let mut letter = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        b'a' + (state >> 40) as u8 % 26
    };
    let mut file = [piece(b"<unk>", 2), piece(b"<s>", 3), piece(b"</s>", 3)].concat();
    for _ in 0..4_000 {
        let text: Vec<u8> = (0..250).map(|_| letter()).collect();
        file.extend(piece(&text, 1));
    }
    file
}

#[test]
fn files_take_the_memory_that_is_stated() {
    // Nodes of one input each, as small as they can be, and one large tensor.
    let nodes = field(1, &field(1, b"x")).repeat(4 * MIB / 5);
    let tensor = [vec![2 << 3, 1], field(9, &vec![0; 16 * MIB])].concat();
    let mut embeddings = String::from(r#"{"min_cosine": 0.9999, "images": ["#);
    let values = "0.1,".repeat(127) + "0.1";
    for i in 0..8_000 {
        let comma = if i == 0 { "" } else { "," };
        write!(
            embeddings,
            r#"{comma}{{"file":"golden/{i}.png","embedding":[{values}]}}"#
        )
        .unwrap();
    }
    embeddings += "]}";
    let npy_header = format!(
        "{:<117}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (8192, 512), }"
    );
    let npy = [
        b"\x93NUMPY\x01\0\x76\0",
        npy_header.as_bytes(),
        &vec![0; 16 * MIB],
    ]
    .concat();
    let images: Vec<Value> = (0..150_000)
        .map(|i| json!(["x/a.png", i % 7, "z"]))
        .collect();
    let split = json!({ "train": images, "val": [], "test": [] });
    let [unigram, bpe] = tokenizers();
    for (name, bytes, multiple) in [
        ("onnx_check", onnx(&nodes), 10),
        ("onnx_check", onnx(&field(5, &tensor)), 10),
        ("golden", embeddings.into_bytes(), 4),
        ("npy", npy, 3),
        ("split_file", split.to_string().into_bytes(), 16),
        ("tokenizer_file", unigram.to_string().into_bytes(), 20),
        ("tokenizer_file", bpe.to_string().into_bytes(), 20),
        ("sentencepiece", sentencepiece(), 360),
        ("classes", "a\n".repeat(MIB - 1).into_bytes(), 8),
        ("templates", "{}\n".repeat(2 * MIB / 3 - 1).into_bytes(), 8),
    ] {
        let took = measure(name, &bytes);
        let most = 64 * MIB + multiple * bytes.len();
        println!(
            "{name}: {} KiB for a file of {} KiB",
            took >> 10,
            bytes.len() >> 10
        );
        assert!(
            took <= most,
            "{name}: expected at most {most} bytes, found {took}"
        );
    }
}
