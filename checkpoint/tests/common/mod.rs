//! What the tests of this crate share: where the golden models are, and how to forge files.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use pinhole_checkpoint::{Checkpoint, Error, OpenOptions};
use pinhole_model::Tensor;
use safetensors::{Dtype, tensor::TensorView};
use sha2::{Digest, Sha256};

/// Every committed model file of a family, relative to tests/golden/models.
pub const FILES: [(&str, &str); 12] = [
    ("vit-quickgelu", "open-clip/open_clip_model.safetensors"),
    ("vit-quickgelu", "open-clip-bin/open_clip_pytorch_model.bin"),
    ("vit-quickgelu", "legacy/open_clip_pytorch_model.bin"),
    ("vit-quickgelu", "training/epoch_1.pt"),
    ("vit-quickgelu", "transformers/model.safetensors"),
    ("vit-quickgelu", "transformers-bin/pytorch_model.bin"),
    ("vit-gelu", "custom-text/open_clip_pytorch_model.bin"),
    ("vit-openai", "openai.pt"),
    ("resnet", "open-clip-bin/open_clip_pytorch_model.bin"),
    ("resnet", "open-clip/open_clip_model.safetensors"),
    ("resnet-openai", "openai.pt"),
    ("vit-gelu", "open-clip/open_clip_model.safetensors"),
];

/// Writes a safetensors file of f32 `tensors`, with entries of metadata.
pub fn write_tensors(path: &Path, tensors: &[(&str, Tensor)], metadata: &[(&str, &str)]) {
    let bytes: Vec<Vec<u8>> = (tensors.iter())
        .map(|(_, t)| t.data.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, t), bytes)| {
        let view = TensorView::new(Dtype::F32, t.shape.clone(), bytes).unwrap();
        (*name, view)
    });
    let entries = (metadata.iter()).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let metadata = (!metadata.is_empty()).then(|| entries.collect());
    fs::write(path, safetensors::serialize(views, metadata).unwrap()).unwrap();
}

pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models")
}

pub fn golden(family: &str) -> serde_json::Value {
    let path = models().join(family).join("golden.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub fn open(path: &Path) -> Result<Checkpoint, Error> {
    Checkpoint::open(path, &OpenOptions::default())
}

/// The error of a file that must not open, in one line.
pub fn refusal(path: &Path) -> String {
    match open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "{text}");
            assert!(
                text.contains(path.file_name().unwrap().to_str().unwrap()),
                "{text}"
            );
            text
        }
    }
}

/// SHA-256 of each tensor as little-endian f32, and its shape.
pub fn digests(checkpoint: &Checkpoint) -> Result<BTreeMap<String, (Vec<usize>, String)>, Error> {
    checkpoint
        .tensors()
        .iter()
        .map(|(name, _)| {
            let tensor = checkpoint.tensor(name)?;
            let bytes: Vec<u8> = tensor
                .data
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            let digest = Sha256::digest(bytes)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            Ok((name.clone(), (tensor.shape, digest)))
        })
        .collect()
}

pub fn golden_digests(golden: &serde_json::Value) -> BTreeMap<String, (Vec<usize>, String)> {
    let tensors = golden["tensors"].as_object().unwrap();
    tensors
        .iter()
        .map(|(name, tensor)| {
            let shape = serde_json::from_value(tensor["shape"].clone()).unwrap();
            (
                name.clone(),
                (shape, tensor["sha256"].as_str().unwrap().to_owned()),
            )
        })
        .collect()
}

/// Copies a model file and the configuration files beside it into a new folder.
pub fn copy(family: &str, file: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let from = models().join(family).join(file);
    for entry in fs::read_dir(from.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path == from || path.to_str().unwrap().ends_with("config.json") {
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let copied = folder.path().join(from.file_name().unwrap());
    (folder, copied)
}

/// One entry of a forged zip archive, with what its headers claim.
pub struct Forged {
    pub name: String,
    pub data: Vec<u8>,
    pub deflated: bool,
    pub size: u64,
    /// Bytes in the archive.
    pub packed: u64,
    pub crc: u32,
}

impl Forged {
    pub fn stored(name: &str, data: &[u8]) -> Forged {
        let (size, packed, crc) = (data.len() as u64, data.len() as u64, crc(data));
        Forged {
            name: name.to_owned(),
            data: data.to_vec(),
            deflated: false,
            size,
            packed,
            crc,
        }
    }

    pub fn deflated(name: &str, data: &[u8]) -> Forged {
        use std::io::Write;
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(data).unwrap();
        let deflated = encoder.finish().unwrap();
        Forged {
            deflated: true,
            packed: deflated.len() as u64,
            data: deflated,
            ..Forged::stored(name, data)
        }
    }
}

fn crc(data: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(data);
    crc.sum()
}

/// A zip archive whose sizes are in ZIP64 fields, so that they can claim anything.
pub fn zip(entries: &[Forged]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for entry in entries {
        let offset = file.len() as u32;
        let method: u16 = if entry.deflated { 8 } else { 0 };
        let mut sizes = vec![1, 0, 16, 0];
        sizes.extend(entry.size.to_le_bytes());
        sizes.extend(entry.packed.to_le_bytes());
        let mut common = Vec::new();
        common.extend([45, 0, 0, 0]);
        common.extend(method.to_le_bytes());
        common.extend([0; 4]);
        common.extend(entry.crc.to_le_bytes());
        common.extend([0xff; 8]);
        common.extend((entry.name.len() as u16).to_le_bytes());
        common.extend((sizes.len() as u16).to_le_bytes());
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend(entry.name.as_bytes());
        file.extend(&sizes);
        file.extend(&entry.data);
        directory.extend(b"PK\x01\x02\x2d\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(entry.name.as_bytes());
        directory.extend(&sizes);
    }
    let (start, count) = (file.len() as u32, entries.len() as u16);
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(count.to_le_bytes());
    file.extend(count.to_le_bytes());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0, 0]);
    file
}

/// Opcodes of forged pickles.
pub mod op {
    pub fn text(text: &str) -> Vec<u8> {
        [
            b"X".as_slice(),
            &(text.len() as u32).to_le_bytes(),
            text.as_bytes(),
        ]
        .concat()
    }

    pub fn int(value: i32) -> Vec<u8> {
        [b"J".as_slice(), &value.to_le_bytes()].concat()
    }

    pub fn long(value: i64) -> Vec<u8> {
        [[0x8a, 8].as_slice(), &value.to_le_bytes()].concat()
    }

    pub fn global(module: &str, name: &str) -> Vec<u8> {
        format!("c{module}\n{name}\n").into_bytes()
    }

    pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
        [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
    }

    pub fn call(callable: Vec<u8>, arguments: &[Vec<u8>]) -> Vec<u8> {
        [callable, tuple(arguments), b"R".to_vec()].concat()
    }

    pub fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let items: Vec<_> = items
            .iter()
            .map(|(k, v)| [text(k), v.clone()].concat())
            .collect();
        [b"}(".to_vec(), items.concat(), b"u".to_vec()].concat()
    }

    pub fn storage(class: &str, key: &str, elements: i64) -> Vec<u8> {
        let items = [
            text("storage"),
            global("torch", class),
            text(key),
            text("cpu"),
            long(elements),
        ];
        [tuple(&items), b"Q".to_vec()].concat()
    }

    pub fn tensor(storage: Vec<u8>, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
        let sizes = |sizes: &[i64]| tuple(&sizes.iter().map(|s| long(*s)).collect::<Vec<_>>());
        let arguments = [storage, long(offset), sizes(shape), sizes(strides)];
        call(global("torch._utils", "_rebuild_tensor_v2"), &arguments)
    }

    pub fn pickle(body: Vec<u8>) -> Vec<u8> {
        [b"\x80\x02".to_vec(), body, b".".to_vec()].concat()
    }
}

/// A torch.save archive of one pickle and its storages.
pub fn torch_save(body: Vec<u8>, storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut entries = vec![Forged::stored("archive/data.pkl", &op::pickle(body))];
    for (key, data) in storages {
        entries.push(Forged::stored(&format!("archive/data/{key}"), data));
    }
    zip(&entries)
}

/// Writes bytes to `forged.pt` in a new folder.
pub fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forged.pt");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}
