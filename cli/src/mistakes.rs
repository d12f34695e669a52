//! Natural mistakes in arguments: what was given instead of a bundle, an image or a stream, and what to do.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow, bail};
use pinhole::internal::{images_in, printable, printable_path, without_credentials};
use pinhole::wrong_usage;
use pinhole_preprocessing::missing;

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

/// Refuses URLs, which are not read from the network.
pub(crate) fn check_file(path: &Path, expected: &str) -> Result<()> {
    match url(path) {
        Some((_, url)) => wrong_usage!(
            "{url}: expected {expected}, found a URL; download it first, for example with `curl -LO`"
        ),
        None => Ok(()),
    }
}

/// Refuses URLs, and a path where nothing is, as a folder of images.
pub(crate) fn check_folder(path: &Path, expected: &str) -> Result<()> {
    check_file(path, expected)?;
    match missing(path) {
        Some(found) => bail!("{}: expected {expected}, {found}", printable_path(path)),
        None => Ok(()),
    }
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
    check_file(path, "an image file")?;
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
    let entries: Vec<PathBuf> = entries.take(10_000).collect();
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
