//! From the path that a user gives to a file, and what the path is if there is none.

use std::path::{Path, PathBuf};

use pinhole_model::without_credentials;

use crate::Error;

/// The names that open_clip and transformers use for weights.
const WEIGHTS: [&str; 6] = [
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// Extensions of files of weights.
const EXTENSIONS: [&str; 6] = ["pt", "pth", "bin", "ckpt", "safetensors", "onnx"];
/// The files that `pinhole-train` writes: learned context vectors, and what other methods learn.
const LEARNER: &str = "prompt_learner.safetensors";
const LEARNED: &str = "learned.safetensors";
/// The folder that most reference implementations write to, in the output of a training.
const LEARNERS: &str = "prompt_learner";
/// The folder of the checkpoint in the output of a pre-training.
const CHECKPOINT: &str = "checkpoint";

/// The file of weights for `path`: itself, or in a folder the one with a usual name, also in a training's output folder.
pub(crate) fn weights(path: &Path) -> Result<PathBuf, Error> {
    if !path.is_dir() {
        return present(path);
    }
    let folders = [path.to_owned(), path.join(CHECKPOINT)];
    let mut usual = folders
        .iter()
        .flat_map(|folder| WEIGHTS.map(|name| folder.join(name)));
    usual.find(|file| file.exists()).ok_or_else(|| {
        let found = if path.join("manifest.json").exists() {
            "a bundle; pass the checkpoint that it was exported from".to_owned()
        } else if !learners(path, &[LEARNERS]).is_empty() {
            "the output of a prompt learning (--prompt-learner); pass the CLIP checkpoint that it was learned on".to_owned()
        } else {
            match files(path, |name| EXTENSIONS.iter().any(|e| name.ends_with(&format!(".{e}")))).as_slice() {
                [] => "none".to_owned(),
                files => format!("{}; pass such a file itself", names(files)),
            }
        };
        let usual = WEIGHTS.join(", ");
        Error::malformed(path, format!("expected a folder with one of {usual}, found {found}"))
    })
}

/// The file of a learned method for `path`: itself, or the only one in a training's output folder, in which the trainers of
/// the methods write to `folders`.
pub(crate) fn learned(path: &Path, folders: &[&str]) -> Result<PathBuf, Error> {
    if !path.is_dir() {
        return present(path);
    }
    let mut found = learners(path, folders);
    match found.as_slice() {
        [_] => Ok(found.remove(0)),
        [] => Err(Error::malformed(
            path,
            format!(
                "expected a folder with {LEARNER}, {LEARNED} or {LEARNERS}/model.pth.tar-N, found none"
            ),
        )),
        several => Err(Error::malformed(
            path,
            format!(
                "expected one prompt learner, found {}; pass one of these files",
                names(several)
            ),
        )),
    }
}

/// The files of learned methods in a training's output folder, ours or a reference implementation's.
fn learners(folder: &Path, folders: &[&str]) -> Vec<PathBuf> {
    let ours = [LEARNER, LEARNED].map(|name| folder.join(name));
    if let Some(ours) = ours.into_iter().find(|file| file.is_file()) {
        return vec![ours];
    }
    let reference = |name: &str| name.starts_with("model") && name.contains(".pth.tar");
    let mut found = files(folder, reference);
    for inner in folders {
        found.extend(files(&folder.join(inner), reference));
    }
    found
}

/// The files of a folder with such names, sorted; none if it cannot be read.
pub(crate) fn files(folder: &Path, named: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = (entries.map(|entry| entry.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| named(&name.to_string_lossy()))
        })
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
}

/// Some of the files, for messages.
pub(crate) fn names(files: &[PathBuf]) -> String {
    let shown = files.iter().take(5).map(|file| file.display().to_string());
    let more = if files.len() > 5 { ", ..." } else { "" };
    format!("{}{more}", shown.collect::<Vec<_>>().join(", "))
}

/// `path`, if there is something; else an error for what was meant.
fn present(path: &Path) -> Result<PathBuf, Error> {
    let text = path.to_string_lossy();
    if path.exists() {
        return Ok(path.to_owned());
    }
    if text.contains("://") {
        return Err(Error::malformed(
            Path::new(&*without_credentials(&text)),
            "a URL; nothing is downloaded: download the file, and pass its path",
        ));
    }
    let hub = text.strip_prefix("hf-hub:").or(text.strip_prefix("hf:"));
    let name = hub.unwrap_or(&text);
    let plain = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
    };
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    let on_hub = hub.is_some()
        || name.split_once('/').is_some_and(|(organisation, model)| {
            let folder = Path::new(organisation).is_dir();
            plain(organisation) && plain(model) && !folder && !EXTENSIONS.contains(&extension)
        });
    if on_hub {
        return Err(Error::malformed(
            path,
            format!(
                "no such file or folder; if it is a model of the Hugging Face hub: pass hf:{name} to pinhole-export, or \
                 run hf download {name} --local-dir FOLDER, and pass the folder"
            ),
        ));
    }
    if extension.is_empty() && plain(name) {
        return Err(Error::malformed(
            path,
            "no such file or folder; models are not downloaded by their names: pass a file or folder (docs/guide.md)",
        ));
    }
    Ok(path.to_owned())
}

/// What a file that is no checkpoint is, by its first bytes.
pub(crate) fn describe(path: &Path, start: &[u8]) -> String {
    let onnx = path
        .extension()
        .is_some_and(|extension| extension == "onnx");
    // An ONNX file starts with the version of its format, and then usually its producer.
    if onnx || matches!(start, [0x08, 1..=20, 0x12 | 0x3a, ..]) {
        return "an ONNX file; pinhole-export onnx takes it as --encoder, beside the checkpoint of its text encoder".into();
    }
    let known = match start {
        [] => "an empty file",
        [0x80, ..] => "a pickle that torch.save did not write",
        [0xff, 0xd8, 0xff, ..] | [0x89, b'P', b'N', b'G', ..] => {
            "an image; are two arguments swapped?"
        }
        [0x1f, 0x8b, ..] => "a gzip archive; unpack it",
        [b'{' | b'[', ..] => "a JSON file; pass the folder that it is in, or the file of weights",
        _ if start.starts_with(b"version https://git-lfs") => {
            "a Git LFS pointer instead of the file itself (run git lfs pull)"
        }
        _ if start.to_ascii_lowercase().starts_with(b"<!doctype")
            || start.starts_with(b"<html") =>
        {
            "a web page instead of the file; download it again"
        }
        _ => "",
    };
    if !known.is_empty() {
        return known.into();
    }
    // The end may be in the middle of a character.
    let text = String::from_utf8_lossy(start);
    let text = text.trim_end_matches('\u{fffd}');
    if text
        .chars()
        .all(|c| !c.is_control() || c.is_ascii_whitespace())
        && !text.contains('\u{fffd}')
    {
        return format!("a text file that starts with {text:?}; are two arguments swapped?");
    }
    let bytes: Vec<String> = start
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("a file that starts with the bytes {}", bytes.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: PathBuf) -> PathBuf {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        path
    }

    fn prompt_learner(path: &Path) -> Result<PathBuf, Error> {
        learned(path, &[LEARNERS])
    }

    fn error(found: Result<PathBuf, Error>) -> String {
        found.unwrap_err().to_string()
    }

    #[test]
    fn an_output_folder_of_a_training_is_its_checkpoint_or_learner() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let clip = touch(file("clip/checkpoint/open_clip_model.safetensors"));
        assert_eq!(weights(&file("clip")).unwrap(), clip);
        assert_eq!(weights(&file("clip/checkpoint")).unwrap(), clip);
        let coop = touch(file("coop/prompt_learner.safetensors"));
        touch(file("coop/state.safetensors"));
        assert_eq!(prompt_learner(&file("coop")).unwrap(), coop);
        let reference = touch(file("run/prompt_learner/model.pth.tar-50"));
        touch(file("run/prompt_learner/checkpoint"));
        for path in ["run", "run/prompt_learner"] {
            assert_eq!(prompt_learner(&file(path)).unwrap(), reference);
        }
        touch(file("run/prompt_learner/model-best.pth.tar"));
        let several = error(prompt_learner(&file("run")));
        assert!(
            several.contains("model-best.pth.tar, ") && several.contains("tar-50"),
            "{several}"
        );
        assert!(error(prompt_learner(&file("clip"))).contains("found none"));
        for path in ["coop", "run"] {
            assert!(error(weights(&file(path))).contains("--prompt-learner"));
        }
        touch(file("bundle/manifest.json"));
        assert!(error(weights(&file("bundle"))).contains("found a bundle"));
        touch(file("loose/ViT-B-32.pt"));
        let loose = error(weights(&file("loose")));
        assert!(loose.contains("ViT-B-32.pt; pass such a file"), "{loose}");
    }

    #[test]
    fn what_is_no_path_is_explained() {
        for (argument, part) in [
            (
                "https://example.org/ViT-B-32.pt",
                "https://example.org/ViT-B-32.pt: a URL",
            ),
            (
                "openai/clip-vit-base-patch32",
                "hf download openai/clip-vit-base-patch32 ",
            ),
            (
                "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
                "hf download laion/CLIP",
            ),
            ("ViT-B-32", "not downloaded by their names"),
        ] {
            let weights = error(weights(Path::new(argument)));
            assert!(weights.contains(part), "{weights}");
            assert_eq!(error(prompt_learner(Path::new(argument))), weights);
        }
        let secret = error(weights(Path::new(
            "https://me:p@s/s@example.org/b.pt?token=t",
        )));
        assert!(
            secret.starts_with("https://...@example.org/b.pt?...: "),
            "{secret}"
        );
        // Plain missing paths are the system's error, when they are opened.
        for path in ["missing.pt", "models/missing.pt", "/missing", "../missing"] {
            assert_eq!(weights(Path::new(path)).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn other_files_are_named() {
        for (name, start, part) in [
            ("a.onnx", &b"\x08\x08\x12\x07pytorch"[..], "--encoder"),
            ("a.bin", b"\x08\x08\x12\x07pytorch", "an ONNX file"),
            ("a.pt", b"", "an empty file"),
            (
                "a.txt",
                b"cat\ndog\n",
                "starts with \"cat\\ndog\\n\"; are two",
            ),
            (
                "a.txt",
                "Katze\nMöwe\nHund\nPferd\nKuh\nMöw\u{e9}"
                    .as_bytes()
                    .split_last()
                    .unwrap()
                    .1,
                "a text file",
            ),
            ("a.json", b"{\"model_cfg\": {}}", "a JSON file"),
            ("a.pt", b"<!DOCTYPE html><html>", "a web page"),
            ("a.jpg", b"\xff\xd8\xff\xe0", "an image"),
            (
                "a.pt",
                b"version https://git-lfs.github.com",
                "git lfs pull",
            ),
            ("a.pt", b"\x01\x02\x03", "the bytes 01 02 03"),
        ] {
            let found = describe(Path::new(name), start);
            assert!(found.contains(part), "{name}: {found}");
        }
    }
}
