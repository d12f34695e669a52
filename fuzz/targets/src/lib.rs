//! One function for each parser that reads files of strangers. It takes any bytes, and may do anything but panic, run
//! for long, or take much memory; SECURITY.md states the limits.
//!
//! `fuzz/run` runs them under libFuzzer, and `cargo test -p pinhole-fuzz-targets` on their seeds and on
//! mutations of those, for a bounded time.

mod bundle;
mod checkpoint;
mod image;
mod onnx;
mod scratch;
mod seeds;
mod stream;
mod text;
mod training;
mod web;

/// A parser and the inputs to start from.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of the fuzz target and of the folder in `fuzz/seeds`.
    pub name: &'static str,
    /// Reads bytes with the parser.
    pub run: fn(&[u8]),
    /// Files and folders of the repository to start from, beside those in `fuzz/seeds`.
    pub seeds: &'static [&'static str],
    /// How the names of seeds end.
    pub ends: &'static str,
}

pub use seeds::seeds;

const MODELS: &str = "tests/golden/models/vit-quickgelu";
const SHARDS: &str = "tests/golden/models/vit-gelu/transformers-sharded";
const LEARNERS: &str = "tests/golden/prompt_learners";
const LEARNED: &str = "tests/golden/learned";
const DECODED: &str = "preprocessing/tests/golden/decode";

const fn target(
    name: &'static str,
    run: fn(&[u8]),
    seeds: &'static [&'static str],
    ends: &'static str,
) -> Target {
    Target {
        name,
        run,
        seeds,
        ends,
    }
}

/// Every target. A new parser adds a line here and a file in `fuzz/fuzz_targets`.
pub const TARGETS: &[Target] = &[
    target("jpeg", image::decode, &[DECODED], ".jpg"),
    target("png", image::decode, &[DECODED, "assets/samples"], ".png"),
    target("gif", image::decode, &[DECODED], ".gif"),
    target("bmp", image::decode, &[DECODED], ".bmp"),
    target("webp", image::decode, &[DECODED], ".webp"),
    target("mjpeg", stream::mjpeg, &[DECODED], ".jpg"),
    target("y4m", stream::y4m, &[], ".y4m"),
    target("www_authenticate", stream::www_authenticate, &[], ".txt"),
    target("pickle", checkpoint::pickle, &[], ".pkl"),
    target(
        "zip_checkpoint",
        checkpoint::state_dict,
        &[LEARNERS],
        ".pth.tar",
    ),
    target(
        "legacy_checkpoint",
        checkpoint::state_dict,
        &[LEARNERS],
        "-legacy.pth.tar",
    ),
    target(
        "safetensors",
        checkpoint::state_dict,
        &[SHARDS],
        ".safetensors",
    ),
    target(
        "tensor_file",
        bundle::tensor_file,
        &["assets/demo"],
        ".safetensors",
    ),
    target("npy", checkpoint::npy, &[], ".npy"),
    target("npz", checkpoint::learned, &[LEARNED], ".npz"),
    target(
        "open_clip_config",
        checkpoint::open_clip_config,
        &[MODELS],
        "open_clip_config.json",
    ),
    target(
        "transformers_config",
        checkpoint::transformers_config,
        &[MODELS],
        "config.json",
    ),
    target(
        "shard_index",
        checkpoint::shard_index,
        &[SHARDS],
        ".index.json",
    ),
    target(
        "prompt_learner",
        checkpoint::learned,
        &[LEARNERS, LEARNED],
        "",
    ),
    target(
        "manifest",
        bundle::manifest,
        &["assets/demo"],
        "manifest.json",
    ),
    target("head", bundle::head, &["assets/demo"], "head.safetensors"),
    target("examples", bundle::examples, &[], ".safetensors"),
    target("golden", bundle::golden, &["assets/demo/golden"], ".json"),
    target(
        "onnx_check",
        onnx::check,
        &["tests/golden/foreign", "assets/demo"],
        ".onnx",
    ),
    target("onnx_dialect", onnx::load, &["assets/demo"], ".onnx"),
    target(
        "onnx_foreign",
        onnx::foreign,
        &["tests/golden/foreign"],
        ".onnx",
    ),
    target("classes", text::classes, &["assets"], "classes.txt"),
    target("folder_names", text::folder_names, &[], ".txt"),
    target("templates", text::templates, &[], ".txt"),
    target("tokenizer", text::tokenize, &["assets"], ".txt"),
    target(
        "tokenizer_file",
        text::tokenizer_file,
        &[
            "tests/golden/siglip/open-clip",
            "tests/golden/siglip/open-clip-2",
        ],
        "tokenizer.json",
    ),
    target(
        "sentencepiece",
        text::sentencepiece,
        &["tests/golden/siglip/spiece"],
        ".model",
    ),
    target(
        "firmware_config",
        text::firmware_config,
        &["firmware-demo"],
        ".toml",
    ),
    target("log", text::log, &[], ".jsonl"),
    target("split_file", training::split_file, &[], ".json"),
    target("captions", training::captions, &[], ".tsv"),
    target("web_request", web::request, &[], ".txt"),
    target("web_password", web::password, &[], ".txt"),
    target("web_archive", web::archive, &[], ".tar"),
    target("web_settings", web::settings, &[], ".json"),
];

fn find(name: &str) -> &'static Target {
    let target = TARGETS.iter().find(|target| target.name == name);
    target.unwrap_or_else(|| panic!("expected one of the fuzz targets, found {name}"))
}

/// Runs the target of this name.
///
/// # Panics
/// If there is none, or if the parser panics.
pub fn run(name: &str, bytes: &[u8]) {
    (find(name).run)(bytes);
}

/// If `PINHOLE_FUZZ_SEEDS` names a folder, writes the seeds of the target there and ends the program: a corpus to start
/// from.
///
/// # Panics
/// If a seed cannot be read or written.
pub fn write_seeds(name: &str) {
    let Some(folder) = std::env::var_os("PINHOLE_FUZZ_SEEDS") else {
        return;
    };
    for (path, bytes) in seeds(find(name)) {
        let path = std::path::Path::new(&folder).join(path.replace('/', "-"));
        std::fs::write(&path, bytes).expect("a folder for the seeds");
    }
    std::process::exit(0);
}
