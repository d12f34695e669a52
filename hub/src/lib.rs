//! Models of the Hugging Face hub, `hf:ORG/NAME[@REVISION]`: which files of a repository a CLIP is, and their download
//! into the cache that Python's huggingface_hub uses too.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::{ProgressBar, ProgressStyle};
use pinhole::internal::UsageError;
use pinhole::note;
use pinhole_checkpoint::shard_names;
use pinhole_model::without_credentials;
use sha2::{Digest, Sha256};

/// What an argument of the command line starts with that names a model of the hub.
const SCHEME: &str = "hf:";
const ENDPOINT: &str = "https://huggingface.co";
/// Weights in the order of preference, each with the configuration that describes it. Files of safetensors come first:
/// they are checked before they are read, and most hubs store them in full precision.
const WEIGHTS: [(&str, &str); 6] = [
    ("open_clip_model.safetensors", "open_clip_config.json"),
    ("model.safetensors", "config.json"),
    ("model.safetensors.index.json", "config.json"),
    ("open_clip_pytorch_model.bin", "open_clip_config.json"),
    ("pytorch_model.bin", "config.json"),
    ("pytorch_model.bin.index.json", "config.json"),
];
/// Extensions of weights under other names.
const EXTENSIONS: [&str; 4] = [".safetensors", ".pt", ".pth", ".bin"];
/// What is read beside the weights.
const CONFIGURATIONS: [&str; 7] = [
    "open_clip_config.json",
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "spiece.model",
];
/// Attempts in a row that get no further, and all attempts, after which a download fails.
const MAX_FAILURES: u32 = 5;
const MAX_ATTEMPTS: u32 = 100;
/// Time without a byte after which a download is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A model of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    /// `ORG/NAME`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
}

impl FromStr for HubModel {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            anyhow!(
                "{text}: expected hf:ORGANISATION/NAME or hf:ORGANISATION/NAME@REVISION, such as \
                 hf:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
            )
        };
        let name = text.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let (repository, revision) = name.split_once('@').unwrap_or((name, "main"));
        let parts: Vec<&str> = repository.split('/').collect();
        let valid = parts.len() == 2
            && parts.iter().chain(&[revision]).all(|part| is_plain(part))
            && !revision.contains("..");
        if !valid {
            return Err(wrong());
        }
        Ok(HubModel {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

impl HubModel {
    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(
            self.repository.clone(),
            RepoType::Model,
            revision.to_owned(),
        )
    }
}

/// Whether `part` can be a part of a URL's path and of a file's.
fn is_plain(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
}

/// Whether models may be downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// What the cache lacks is downloaded.
    Online,
    /// Only the cache is read (`HF_HUB_OFFLINE`).
    Offline,
}

/// Where models come from and go to.
#[derive(Clone)]
pub struct HubSettings {
    /// URL of the hub, without a slash at its end.
    pub endpoint: String,
    /// Folder of the cache, `hub` in huggingface_hub's home.
    pub cache: PathBuf,
    /// Access token.
    pub token: Option<String>,
    /// Whether the network is used.
    pub network: Network,
}

impl HubSettings {
    /// The settings of huggingface_hub: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN` or the file `token` that its
    /// login writes, and `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// A value that cannot be used; no home directory.
    pub fn from_environment() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = match variable("HF_HOME") {
            Some(home) => PathBuf::from(home),
            None => {
                let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
                let cache = cache.or(variable("HOME").map(|home| Path::new(&home).join(".cache")));
                let cache = cache.context(
                    "the cache of models: expected a folder in HF_HOME, found neither HF_HOME nor HOME",
                )?;
                cache.join("huggingface")
            }
        };
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        ensure!(
            endpoint.starts_with("https://") || endpoint.starts_with("http://"),
            "HF_ENDPOINT: expected a URL that starts with https://, found {:?}",
            without_credentials(&endpoint)
        );
        let token = variable("HF_TOKEN").or_else(|| fs::read_to_string(home.join("token")).ok());
        let token = token.map(|token| token.trim().to_owned());
        if let Some(token) = &token {
            ensure!(
                token.chars().all(|c| c.is_ascii_graphic()),
                "HF_TOKEN: expected a token of the Hugging Face hub, found other characters than those of one"
            );
        }
        let offline = variable("HF_HUB_OFFLINE").is_some_and(|value| {
            ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str())
        });
        Ok(HubSettings {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            token: token.filter(|token| !token.is_empty()),
            network: match offline {
                true => Network::Offline,
                false => Network::Online,
            },
        })
    }
}

/// Whether `argument` of the command line names a model of the hub: no file has this name.
pub fn is_model(argument: &Path) -> bool {
    (argument.to_str()).is_some_and(|name| name.starts_with(SCHEME) && !argument.exists())
}

/// `argument` of the command line, the path of a checkpoint or the name of a model of the hub: the path, of a model that of its
/// [`fetch`]ed weights, with the settings of the environment.
///
/// # Errors
/// As [`HubSettings::from_environment`] and [`fetch`]; a name that is none.
pub fn local_path(argument: &Path) -> Result<PathBuf> {
    match argument.to_str() {
        Some(name) if is_model(argument) => {
            let model = name.parse().map_err(UsageError::new)?;
            fetch(&model, &HubSettings::from_environment()?)
        }
        _ => Ok(argument.to_owned()),
    }
}

/// The path of the model's weights, with their configuration beside them; what the cache lacks is downloaded. An
/// interrupted download continues where it ended, in this call and in the next.
///
/// # Errors
/// A repository without a CLIP, or that may not be read; no network, and no copy in the cache; a download that breaks off,
/// stalls, or has another checksum.
pub fn fetch(model: &HubModel, settings: &HubSettings) -> Result<PathBuf> {
    if settings.network == Network::Offline {
        return cached(model, settings).with_context(|| {
            format!(
                "{}: not complete in the cache {}, and HF_HUB_OFFLINE forbids downloads; unset it once, or copy the \
                 model's folder here and pass it to --clip",
                model.repository,
                settings.cache.display()
            )
        });
    }
    let activity = Activity::default();
    let (sender, receiver) = mpsc::channel();
    let download = Download {
        model: model.clone(),
        settings: settings.clone(),
        activity: activity.clone(),
    };
    // By a thread of its own, as its client has no time-outs.
    std::thread::spawn(move || sender.send(download.run()));
    loop {
        match receiver.recv_timeout(Duration::from_millis(200)) {
            Ok(result) => return result,
            Err(mpsc::RecvTimeoutError::Timeout) if activity.idle() < PATIENCE => {}
            Err(mpsc::RecvTimeoutError::Timeout) => bail!(
                "{}: no data for {} s; run the command again to continue the download",
                without_credentials(&settings.endpoint),
                PATIENCE.as_secs()
            ),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!(
                "{}: expected the answers of a Hugging Face hub, found others; check HF_ENDPOINT",
                without_credentials(&settings.endpoint)
            ),
        }
    }
}

/// When something last happened.
#[derive(Clone)]
struct Activity(Arc<Mutex<Instant>>);

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Activity {
    fn note(&self) {
        if let Ok(mut last) = self.0.lock() {
            *last = Instant::now();
        }
    }

    fn idle(&self) -> Duration {
        self.0.lock().map_or(Duration::MAX, |last| last.elapsed())
    }
}

/// A bar on a terminal; indicatif draws none elsewhere.
struct Bar {
    bar: ProgressBar,
    activity: Activity,
}

impl Progress for Bar {
    fn init(&mut self, size: usize, filename: &str) {
        let style = ProgressStyle::with_template(
            "{msg:<30} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
        );
        self.bar.set_length(size as u64);
        self.bar.set_position(0);
        self.bar
            .set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.set_message(filename.to_owned());
        self.activity.note();
    }

    fn update(&mut self, size: usize) {
        self.bar.inc(size as u64);
        self.activity.note();
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

struct Download {
    model: HubModel,
    settings: HubSettings,
    activity: Activity,
}

impl Download {
    fn run(&self) -> Result<PathBuf> {
        let cache = Cache::new(self.settings.cache.clone());
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(self.settings.endpoint.clone())
            .with_token(self.settings.token.clone())
            .build()
            .map_err(|error| self.explain(&error))?;
        let (model, revision) = (&self.model, &self.model.revision);
        let listed = api.repo(model.repo(revision)).info();
        self.activity.note();
        let info = match listed {
            Ok(info) => info,
            Err(error) => {
                // The hub may be away, and the model here.
                if let (Kind::Unreachable, Ok(path)) = (kind(&error), cached(model, &self.settings))
                {
                    let endpoint = without_credentials(&self.settings.endpoint);
                    note!(
                        "note: {endpoint} cannot be reached; {} is taken from the cache",
                        model.repository
                    );
                    return Ok(path);
                }
                return Err(self.explain(&error));
            }
        };
        ensure!(
            is_plain(&info.sha),
            "{}: expected a commit from the hub, found {:?}",
            model.repository,
            info.sha
        );
        let names: Vec<&str> = (info.siblings.iter().map(|file| file.rfilename.as_str()))
            .filter(|name| is_plain(name))
            .collect();
        let weights = choose(&names).with_context(|| model.repository.clone())?;
        // One commit for all files, whatever the branch does meanwhile.
        let repo = api.repo(model.repo(&info.sha));
        let files = cache.repo(model.repo(&info.sha));
        let get = |name: &str| match files.get(name) {
            Some(path) => Ok(path),
            None => self.file(&api, &repo, name),
        };
        for name in names.iter().filter(|name| CONFIGURATIONS.contains(*name)) {
            get(name)?;
        }
        let path = get(weights)?;
        for shard in shards(&path)? {
            ensure!(
                names.contains(&shard.as_str()),
                "{}: {weights}: names {shard}, which the repository does not have",
                model.repository
            );
            get(&shard)?;
        }
        // What finds it by the branch's name without a network.
        (cache.repo(model.repo(revision)).create_ref(&info.sha))
            .with_context(|| format!("{}: cannot write", self.settings.cache.display()))?;
        note!(
            "note: {} is commit {} of the hub",
            model.repository,
            info.sha
        );
        Ok(path)
    }

    /// Downloads one file.
    fn file(&self, api: &Api, repo: &ApiRepo, name: &str) -> Result<PathBuf> {
        let url = repo.url(name);
        let mut failures = 0;
        for attempt in 1.. {
            let metadata = api.metadata(&url);
            self.activity.note();
            let error = match metadata {
                Err(error) => error,
                Ok(metadata) => {
                    let (etag, size) = (metadata.etag(), metadata.size() as u64);
                    ensure!(
                        is_plain(etag) && !etag.contains('.') && is_plain(metadata.commit_hash()),
                        "{name}: expected the checksum and the commit of a file from the hub, found {etag:?} and {:?}",
                        metadata.commit_hash()
                    );
                    let part = Cache::new(self.settings.cache.clone())
                        .repo(self.model.repo(&self.model.revision))
                        .blob_path(etag)
                        .with_extension("part");
                    let length = || fs::metadata(&part).map_or(0, |m| m.len());
                    let before = length();
                    let bar = Bar {
                        bar: ProgressBar::new(size),
                        activity: self.activity.clone(),
                    };
                    match repo.download_with_progress(name, bar) {
                        Ok(path) => return check(path, etag, size, name),
                        // More than the file has: not a part of it.
                        Err(ApiError::InvalidResume) => {
                            let _ = fs::remove_file(&part);
                            ApiError::InvalidResume
                        }
                        Err(error) => {
                            if length() > before {
                                failures = 0;
                            }
                            error
                        }
                    }
                }
            };
            failures += 1;
            if kind(&error) == Kind::Refused || failures >= MAX_FAILURES || attempt >= MAX_ATTEMPTS
            {
                return Err(self.explain(&error)).with_context(|| name.to_owned());
            }
            self.activity.note();
            std::thread::sleep(Duration::from_millis(50 << failures));
        }
        unreachable!("the loop returns")
    }

    /// What happened and what to do, without passwords.
    fn explain(&self, error: &ApiError) -> anyhow::Error {
        let name = &self.model.repository;
        let endpoint = without_credentials(&self.settings.endpoint);
        let status = match error {
            ApiError::RequestError(error) => match **error {
                ureq::Error::StatusCode(status) => Some(status),
                _ => None,
            },
            _ => None,
        };
        match status {
            Some(status @ (401 | 403)) => anyhow!(
                "{name}: {endpoint} refuses access (HTTP {status}): check the name; for a private or gated model accept \
                 its terms on its page, and set HF_TOKEN to a token that may read it"
            ),
            Some(404) => anyhow!(
                "{name}: {endpoint} has no such model, or not the revision {} (HTTP 404)",
                self.model.revision
            ),
            Some(status) => {
                anyhow!("{name}: {endpoint} answers with HTTP {status}; try again later")
            }
            None => {
                let error = error.to_string();
                anyhow!(
                    "{name}: cannot be downloaded from {endpoint}: {}; run the command again to continue, or without \
                     a network here: run `hf download {name} --local-dir FOLDER` where there is one, copy FOLDER, and \
                     pass it to --clip",
                    without_credentials(&error)
                )
            }
        }
    }
}

/// What an error means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The hub answers that it will not.
    Refused,
    /// The hub does not answer, or not to the end.
    Unreachable,
    Other,
}

fn kind(error: &ApiError) -> Kind {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(429 | 500..) => Kind::Unreachable,
            ureq::Error::StatusCode(_) => Kind::Refused,
            _ => Kind::Unreachable,
        },
        ApiError::IoError(_) | ApiError::TooManyRetries(_) => Kind::Unreachable,
        _ => Kind::Other,
    }
}

/// The name of the weights among the files of a repository.
fn choose<'a>(names: &[&'a str]) -> Result<&'a str> {
    let has = |wanted: &str| names.iter().copied().find(|name| *name == wanted);
    let described = (WEIGHTS.iter()).find_map(|(weights, config)| has(config).and(has(weights)));
    let known = || WEIGHTS.iter().find_map(|(weights, _)| has(weights));
    if let Some(weights) = described.or_else(known) {
        return Ok(weights);
    }
    let others =
        (names.iter().copied()).filter(|name| EXTENSIONS.iter().any(|e| name.ends_with(e)));
    let others: Vec<&str> = others.collect();
    match others.as_slice() {
        [weights] => Ok(weights),
        [] => bail!(
            "expected a file of weights such as {}, found {}",
            WEIGHTS[0].0,
            listed(names)
        ),
        several => bail!(
            "expected one file of weights such as {}, found {}; download the one to use, and pass its path to --clip",
            WEIGHTS[0].0,
            listed(several)
        ),
    }
}

fn listed(names: &[&str]) -> String {
    match names {
        [] => "no files".to_owned(),
        names if names.len() > 8 => format!("{}, ...", names[..8].join(", ")),
        names => names.join(", "),
    }
}

/// The files that an index names; none for other files.
fn shards(path: &Path) -> Result<Vec<String>> {
    match path.extension() {
        Some(extension) if extension == "json" => Ok(shard_names(path)?),
        _ => Ok(vec![]),
    }
}

/// The path of the model's weights in the cache, if it is complete.
fn cached(model: &HubModel, settings: &HubSettings) -> Result<PathBuf> {
    let cache = Cache::new(settings.cache.clone());
    let repo = model.repo(&model.revision);
    let reference = (settings.cache.join(repo.folder_name()).join("refs")).join(&model.revision);
    let commit = fs::read_to_string(reference).unwrap_or_else(|_| model.revision.clone());
    ensure!(is_plain(commit.trim()), "expected a commit in refs");
    let folder = cache.repo(repo).pointer_path(commit.trim());
    let mut names = vec![];
    for entry in fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry?.path();
        // A link to a file that is not there yet does not count.
        if let (true, Some(name)) = (path.exists(), path.file_name()) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let path = folder.join(choose(&names)?);
    for shard in shards(&path)? {
        ensure!(names.contains(&shard.as_str()), "{shard} is missing");
    }
    Ok(path)
}

/// The downloaded file, if it is what the hub announced. Of large files the name in the cache is their SHA-256.
fn check(path: PathBuf, etag: &str, size: u64, name: &str) -> Result<PathBuf> {
    let blob = fs::canonicalize(&path).with_context(|| format!("{}: lost", path.display()))?;
    let length = fs::metadata(&blob)?.len();
    let sha256 = etag.len() == 64 && etag.chars().all(|c| c.is_ascii_hexdigit());
    let wrong = if length != size {
        Some(format!("expected {size} bytes, found {length}"))
    } else if sha256 {
        let mut hasher = Sha256::new();
        let mut file = fs::File::open(&blob)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        let found: String = (hasher.finalize().iter())
            .map(|byte| format!("{byte:02x}"))
            .collect();
        (found != etag).then(|| format!("expected SHA-256 {etag}, found {found}"))
    } else {
        None
    };
    match wrong {
        None => Ok(path),
        Some(reason) => {
            for file in [&path, &blob] {
                let _ = fs::remove_file(file);
            }
            bail!("{name}: damaged on its way: {reason}; run the command again to download it anew")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models() {
        let model: HubModel = "hf:openai/clip-vit-base-patch32".parse().unwrap();
        assert_eq!(
            (model.repository.as_str(), model.revision.as_str()),
            ("openai/clip-vit-base-patch32", "main")
        );
        let model: HubModel = "hf:a/b.c_d@v1.0".parse().unwrap();
        assert_eq!(
            (model.repository.as_str(), model.revision.as_str()),
            ("a/b.c_d", "v1.0")
        );
        for wrong in [
            "hf:clip",
            "hf:a/b/c",
            "hf:../b",
            "hf:a/..",
            "hf:a/b@",
            "hf:a/b@..",
            "hf:a/b@x/../y",
            "hf:a/b c",
            "a/b",
            "hf:/b",
        ] {
            let error = wrong.parse::<HubModel>().unwrap_err().to_string();
            assert!(error.contains("expected hf:ORGANISATION/NAME"), "{error}");
        }
    }

    #[test]
    fn safetensors_with_their_configuration_come_first() {
        for (names, expected) in [
            (
                &[
                    "config.json",
                    "model.safetensors",
                    "open_clip_config.json",
                    "open_clip_model.safetensors",
                    "open_clip_pytorch_model.bin",
                    "pytorch_model.bin",
                ][..],
                "open_clip_model.safetensors",
            ),
            (
                &[
                    "config.json",
                    "model.safetensors",
                    "open_clip_model.safetensors",
                ],
                "model.safetensors",
            ),
            (
                &["config.json", "flax_model.msgpack", "pytorch_model.bin"],
                "pytorch_model.bin",
            ),
            (
                &[
                    "config.json",
                    "model-00001-of-00002.safetensors",
                    "model-00002-of-00002.safetensors",
                    "model.safetensors.index.json",
                    "pytorch_model.bin",
                ],
                "model.safetensors.index.json",
            ),
            (&["README.md", "TinyCLIP.pt"], "TinyCLIP.pt"),
        ] {
            assert_eq!(choose(names).unwrap(), expected);
        }
        let error = choose(&["a.pt", "b.pt"]).unwrap_err().to_string();
        assert!(error.contains("found a.pt, b.pt; download"), "{error}");
        let error = choose(&["README.md"]).unwrap_err().to_string();
        assert!(error.ends_with("found README.md"), "{error}");
    }
}
