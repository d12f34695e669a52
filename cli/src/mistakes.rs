//! Natural mistakes in arguments: what was given instead of a bundle, an image or a stream, and what to do.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow, bail};
use pinhole::internal::{images_in, most_similar, printable, printable_path, without_credentials};
use pinhole::wrong_usage;
use pinhole_preprocessing::has_image_extension;

/// Most entries of a folder that are searched for what was probably meant.
const MAX_ENTRIES: usize = 10_000;

const EXPORT: &str = "make a bundle of it with `pinhole-export bundle --clip FILE --classes classes.txt --out my-bundle`";
const EXPORT_ONNX: &str = "make a bundle of it with `pinhole-export onnx --encoder FILE.onnx --clip CHECKPOINT --classes \
     classes.txt --out my-bundle`";
const ORDER: &str = "the bundle comes first: `pinhole classify BUNDLE IMAGE...`";

/// The scheme of a URL, and the URL without passwords.
fn url(path: &Path) -> Option<(&str, String)> {
    let text = path.to_str()?;
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let shown = printable(&without_credentials(text)).into_owned();
    is_scheme.then_some((scheme, shown))
}

/// Whether `path` stands for standard input. A file of this name is `./-`.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Refuses URLs, which are not read from the network.
pub(crate) fn check_file(path: &Path, expected: &str) -> Result<()> {
    match url(path) {
        Some((_, url)) => wrong_usage!(
            "{url}: expected {expected}, found a URL; download it first, for example with `curl -LO`"
        ),
        None => Ok(()),
    }
}

/// As [`check_file`], and refuses a path where nothing is, with what was probably meant.
pub(crate) fn check_exists(path: &Path, expected: &str) -> Result<()> {
    check_file(path, expected)?;
    // What cannot be looked up is an error of opening it.
    if is_stdin(path) || path.try_exists().unwrap_or(true) {
        return Ok(());
    }
    let shown = printable_path(path);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        let folder = printable_path(folder);
        bail!("{shown}: expected {expected}, found no folder {folder}; check the path");
    }
    match similar(path, folder) {
        Some(meant) => {
            let meant = printable_path(&meant);
            bail!("{shown}: expected {expected}, found no such file; did you mean {meant}?")
        }
        None => bail!("{shown}: expected {expected}, found no such file; check the path"),
    }
}

/// The image or folder in `folder` whose name is most similar to that of `path`.
fn similar(path: &Path, folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten().take(MAX_ENTRIES);
    let entries = entries.map(|entry| entry.path());
    let mut names: Vec<String> = entries
        .filter(|entry| has_image_extension(entry) || entry.is_dir())
        .filter_map(|entry| Some(entry.file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    let meant = most_similar(path.file_name()?.to_str()?, names.iter().map(|n| &**n))?;
    Some(path.with_file_name(meant))
}

/// Refuses URLs as the file or pipe of `flag`, with the command that reads them.
pub(crate) fn check_stream(path: &Path, flag: &str) -> Result<()> {
    let Some((_, url)) = url(path) else {
        return Ok(());
    };
    wrong_usage!(
        "{flag} {url}: expected a file, a named pipe or -, found a URL; read it with --url"
    )
}

/// The images to read: a folder stands for the images in it and in its subfolders.
pub(crate) fn image_files(path: &Path) -> Result<Vec<PathBuf>> {
    check_exists(path, "an image file or a folder of them")?;
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let shown = printable_path(path);
    if path.join("manifest.json").exists() {
        bail!("{shown}: expected an image, found a bundle; {ORDER}");
    }
    let images = images_in(path).map_err(|e| anyhow!("{shown}: cannot read the folder: {e}"))?;
    if images.is_empty() {
        bail!("{shown}: expected JPEG, PNG, WebP, BMP or GIF files in the folder, found none");
    }
    Ok(images)
}

/// An error of opening a bundle, with what was given instead of one.
pub(crate) fn explain(bundle: &Path, error: Error) -> Error {
    if let Err(url) = check_file(bundle, "the folder of a bundle") {
        return url;
    }
    match instead_of_bundle(bundle) {
        Some(hint) => anyhow!("{error:#}; {hint}"),
        None => error,
    }
}

fn instead_of_bundle(path: &Path) -> Option<String> {
    if path.is_dir() {
        return instead_of_folder(path);
    }
    if path.file_name()? == "manifest.json" {
        return Some("give the folder that holds it".into());
    }
    if !path.exists() {
        return is_hub_name(path).then(|| {
            format!(
                "of a model of the Hugging Face hub, make a bundle with \
                 `pinhole-export bundle --clip hf:{} --classes classes.txt --out my-bundle`",
                path.display()
            )
        });
    }
    match extension(path).as_str() {
        "onnx" => return Some(format!("this is an ONNX file: {EXPORT_ONNX}")),
        "pt" | "pth" | "bin" | "ckpt" | "safetensors" => {
            return Some(format!("this is a checkpoint: {EXPORT}"));
        }
        _ => {}
    }
    let mut start = vec![];
    let file = std::fs::File::open(path).ok()?;
    file.take(16).read_to_end(&mut start).ok()?;
    match start[..] {
        _ if pinhole_preprocessing::is_image(&start) => Some(format!("this is an image: {ORDER}")),
        // A zip archive or a pickle, as PyTorch writes them.
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => {
            Some(format!("this may be a checkpoint: {EXPORT}"))
        }
        _ => None,
    }
}

fn instead_of_folder(path: &Path) -> Option<String> {
    if path.join("manifest.json").exists() {
        // A bundle, whatever its error is.
        return None;
    }
    let entries = std::fs::read_dir(path).ok()?.flatten().map(|e| e.path());
    let entries: Vec<PathBuf> = entries.take(MAX_ENTRIES).collect();
    let has = |extensions: &[&str]| entries.iter().any(|e| extensions.contains(&&*extension(e)));
    if has(&["safetensors", "bin", "pt", "pth"]) {
        return Some(format!("it holds a checkpoint: {EXPORT}"));
    }
    if has(&["onnx"]) {
        return Some(format!("it holds an ONNX file: {EXPORT_ONNX}"));
    }
    let has_images = images_in(path).is_ok_and(|images| !images.is_empty());
    has_images.then(|| format!("it holds images: {ORDER}"))
}

/// The extension in lower case.
fn extension(path: &Path) -> String {
    let extension = path.extension().unwrap_or_default();
    extension.to_string_lossy().to_ascii_lowercase()
}

/// `hf:ORG/NAME`, or ORG/NAME where no such folder exists.
fn is_hub_name(path: &Path) -> bool {
    let Some(text) = path.to_str() else {
        return false;
    };
    let name = text.strip_prefix("hf:");
    let parts: Vec<&str> = name.unwrap_or(text).split('/').collect();
    let is_name = |part: &&str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && (part.chars()).all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c))
    };
    parts.len() == 2
        && parts.iter().all(is_name)
        && (name.is_some() || !Path::new(parts[0]).exists())
}
