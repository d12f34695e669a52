//! Downloads from a hub of the test's own.

#[path = "common/server.rs"]
mod server;

use std::fs;
use std::path::{Path, PathBuf};

use pinhole_checkpoint::{Checkpoint, OpenOptions};
use pinhole_hub::{HubModel, HubSettings, Network, fetch};
use server::{COMMIT, Fault, Hub, TOKEN, hex};
use sha2::{Digest, Sha256};

fn golden(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/models")
        .join(model)
}

fn settings(hub: &Hub, cache: &Path) -> HubSettings {
    HubSettings {
        endpoint: format!("http://{}", hub.address),
        cache: cache.join("hub"),
        token: None,
        network: Network::Online,
    }
}

fn model() -> HubModel {
    "hf:org/clip".parse().unwrap()
}

fn failure(hub: &Hub, cache: &Path) -> String {
    format!("{:#}", fetch(&model(), &settings(hub, cache)).unwrap_err())
}

/// Every file below a folder, links among them.
fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(all_files(&path)),
            false => found.push(path),
        }
    }
    found
}

const WEIGHTS: &str = "open_clip_model.safetensors";

#[test]
fn a_model_is_downloaded_once_and_then_found_without_a_network() {
    let hub = Hub::serve(&golden("vit-gelu/open-clip"));
    let cache = tempfile::tempdir().unwrap();
    let settings = settings(&hub, cache.path());
    let path = fetch(&model(), &settings).unwrap();
    assert!(
        path.ends_with(format!("snapshots/{COMMIT}/{WEIGHTS}")),
        "{}",
        path.display()
    );
    let found = Checkpoint::open(&path, &OpenOptions::default()).unwrap();
    let local = Checkpoint::open(&golden("vit-gelu/open-clip"), &OpenOptions::default()).unwrap();
    assert_eq!(found.config(), local.config());
    assert_eq!(found.assumptions(), [""; 0]);
    assert!(!hub.requests().is_empty());

    assert_eq!(fetch(&model(), &settings).unwrap(), path);
    let pinned: HubModel = format!("hf:org/clip@{COMMIT}").parse().unwrap();
    assert_eq!(fetch(&pinned, &settings).unwrap(), path);
    assert_eq!(hub.requests(), []);

    let offline = HubSettings {
        network: Network::Offline,
        ..settings.clone()
    };
    // Nothing listens on port 1.
    let away = HubSettings {
        endpoint: "http://127.0.0.1:1".into(),
        ..settings
    };
    for settings in [offline, away] {
        assert_eq!(fetch(&model(), &settings).unwrap(), path);
        assert_eq!(fetch(&pinned, &settings).unwrap(), path);
    }
}

#[test]
fn an_interrupted_download_continues() {
    let hub = Hub::serve(&golden("vit-gelu/open-clip"));
    let cache = tempfile::tempdir().unwrap();
    hub.set(Fault::Breaks {
        bytes: 20_000,
        times: 2,
    });
    let path = fetch(&model(), &settings(&hub, cache.path())).unwrap();
    assert_eq!(fs::read(&path).unwrap(), hub.files[WEIGHTS]);
    let ranges: Vec<String> = (hub.requests().into_iter())
        .filter(|(name, range)| name == WEIGHTS && range != "bytes=0-0")
        .map(|(_, range)| range)
        .collect();
    assert_eq!(ranges, ["bytes=0-", "bytes=20000-", "bytes=40000-"]);

    // In one process, and in the next.
    let cache = tempfile::tempdir().unwrap();
    hub.set(Fault::Breaks {
        bytes: 30_000,
        times: 1,
    });
    let half = {
        let folder = cache.path().join("hub/models--org--clip/blobs");
        fs::create_dir_all(&folder).unwrap();
        folder.join(format!(
            "{}.part",
            hex(&Sha256::digest(&hub.files[WEIGHTS]))
        ))
    };
    fs::write(&half, &hub.files[WEIGHTS][..10_000]).unwrap();
    let path = fetch(&model(), &settings(&hub, cache.path())).unwrap();
    assert_eq!(fs::read(&path).unwrap(), hub.files[WEIGHTS]);
    assert!(
        hub.requests()
            .contains(&(WEIGHTS.into(), "bytes=10000-".into()))
    );
    assert!(!half.exists());
}

#[test]
fn a_download_that_gets_no_further_ends() {
    let hub = Hub::serve(&golden("vit-gelu/open-clip"));
    let cache = tempfile::tempdir().unwrap();
    hub.set(Fault::Breaks {
        bytes: 0,
        times: usize::MAX,
    });
    let error = failure(&hub, cache.path());
    assert!(
        error.contains("run the command again to continue")
            && error.contains("hf download org/clip"),
        "{error}"
    );
    let snapshot = cache.path().join("hub/models--org--clip/snapshots");
    assert_eq!(all_files(&snapshot), [""; 0].map(PathBuf::from));
}

#[test]
fn a_damaged_file_is_not_kept() {
    let hub = Hub::serve(&golden("vit-gelu/open-clip"));
    let cache = tempfile::tempdir().unwrap();
    hub.set(Fault::Damages);
    let error = failure(&hub, cache.path());
    assert!(error.contains("expected SHA-256"), "{error}");
    hub.set(Fault::None);
    let path = fetch(&model(), &settings(&hub, cache.path())).unwrap();
    assert_eq!(fs::read(&path).unwrap(), hub.files[WEIGHTS]);
    // A part that is longer than the file is none of it.
    let other = tempfile::tempdir().unwrap();
    let folder = other.path().join("hub/models--org--clip/blobs");
    fs::create_dir_all(&folder).unwrap();
    let part = folder.join(format!(
        "{}.part",
        hex(&Sha256::digest(&hub.files[WEIGHTS]))
    ));
    fs::write(part, vec![0; hub.files[WEIGHTS].len() + 1]).unwrap();
    let path = fetch(&model(), &settings(&hub, other.path())).unwrap();
    assert_eq!(fs::read(&path).unwrap(), hub.files[WEIGHTS]);
}

#[test]
fn a_hub_cannot_write_outside_of_the_cache() {
    let hub = Hub::serve(&golden("vit-gelu/open-clip"));
    let folder = tempfile::tempdir().unwrap();
    for fault in [Fault::Climbs, Fault::ClimbsByCommit] {
        hub.set(fault);
        let error = failure(&hub, &folder.path().join("a/b/c/d"));
        assert!(error.contains("escaped"), "{error}");
    }
    let written = all_files(folder.path());
    assert!(
        written
            .iter()
            .all(|path| !path.to_string_lossy().contains("escaped")),
        "{written:?}"
    );
}

#[test]
fn shards_are_fetched_by_their_index() {
    let hub = Hub::serve(&golden("vit-gelu/transformers-sharded"));
    let cache = tempfile::tempdir().unwrap();
    let path = fetch(&model(), &settings(&hub, cache.path())).unwrap();
    assert!(path.ends_with("model.safetensors.index.json"));
    Checkpoint::open(&path, &OpenOptions::default()).unwrap();
}

#[test]
fn a_private_model_needs_the_token_which_no_message_shows() {
    let hub = Hub::serve(&golden("vit-gelu/open-clip"));
    let cache = tempfile::tempdir().unwrap();
    hub.set(Fault::Refuses);
    let error = failure(&hub, cache.path());
    assert!(
        error.contains("HTTP 401") && error.contains("HF_TOKEN"),
        "{error}"
    );
    let with = |token: &str| HubSettings {
        token: Some(token.into()),
        ..settings(&hub, cache.path())
    };
    let error = format!("{:#}", fetch(&model(), &with("hf_wrongWrong")).unwrap_err());
    assert!(
        error.contains("HTTP 401") && !error.contains("wrongWrong"),
        "{error}"
    );
    fetch(&model(), &with(TOKEN)).unwrap();
}

#[test]
fn errors_say_what_to_do_and_show_no_password() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::serve(&golden("vit-gelu/open-clip"));
    let missing: HubModel = "hf:org/clip@v9".parse().unwrap();
    let error = format!(
        "{:#}",
        fetch(&missing, &settings(&hub, cache.path())).unwrap_err()
    );
    assert!(error.contains("revision v9 (HTTP 404)"), "{error}");

    let away = HubSettings {
        endpoint: "http://user:secret@127.0.0.1:1".into(),
        ..settings(&hub, cache.path())
    };
    let error = format!("{:#}", fetch(&model(), &away).unwrap_err());
    assert!(
        error.contains("hf download org/clip --local-dir FOLDER") && !error.contains("secret"),
        "{error}"
    );
    let offline = HubSettings {
        network: Network::Offline,
        ..settings(&hub, cache.path())
    };
    let error = format!("{:#}", fetch(&model(), &offline).unwrap_err());
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
}
