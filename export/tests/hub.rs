//! Models from a hub: a server of the test's own on 127.0.0.1, which also breaks off, lies and refuses.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use pinhole_checkpoint::{Checkpoint, OpenOptions};
use pinhole_export::hub::{HubModel, HubSettings, Network, fetch};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secretSecret";

/// What a hub does wrong.
#[derive(Clone, Debug, PartialEq)]
enum Fault {
    None,
    /// The connection ends after so many bytes of a file's contents, so many times.
    Breaks {
        bytes: usize,
        times: usize,
    },
    /// One byte is another.
    Damages,
    /// The checksum is a path.
    Climbs,
    /// The commit is a path.
    ClimbsByCommit,
    /// Without the token.
    Refuses,
}

struct Hub {
    files: BTreeMap<String, Vec<u8>>,
    fault: Mutex<Fault>,
    /// Of files: name and `Range`.
    requests: Mutex<Vec<(String, String)>>,
    address: String,
}

impl Hub {
    /// Serves the files of a folder as org/clip, until the test ends.
    fn serve(folder: &Path) -> Arc<Hub> {
        let files = fs::read_dir(folder).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hub = Arc::new(Hub {
            files: files.collect(),
            fault: Mutex::new(Fault::None),
            requests: Mutex::default(),
            address: listener.local_addr().unwrap().to_string(),
        });
        let server = Arc::clone(&hub);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let server = Arc::clone(&server);
                std::thread::spawn(move || server.answer(stream.unwrap()));
            }
        });
        hub
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// The requests of files since the last call.
    fn requests(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let request = lines.next()?.ok()?;
        let path = request.split(' ').nth(1)?.to_owned();
        let headers: BTreeMap<String, String> = lines
            .map_while(|line| line.ok().filter(|line| !line.is_empty()))
            .filter_map(|line| {
                let (name, value) = line.split_once(": ")?;
                Some((name.to_lowercase(), value.to_owned()))
            })
            .collect();
        let fault = self.fault.lock().unwrap().clone();
        let mut stream = stream;
        if fault == Fault::Refuses
            && headers.get("authorization") != Some(&format!("Bearer {TOKEN}"))
        {
            return respond(&mut stream, "401 Unauthorized", "", b"");
        }
        if let Some(revision) = path.strip_prefix("/api/models/org/clip/revision/") {
            if revision != "main" && revision != COMMIT {
                return respond(&mut stream, "404 Not Found", "", b"");
            }
            let siblings: Vec<_> = (self.files.keys())
                .map(|name| serde_json::json!({ "rfilename": name }))
                .collect();
            let sha = match fault {
                Fault::ClimbsByCommit => "../../../escaped",
                _ => COMMIT,
            };
            let json = serde_json::json!({ "sha": sha, "siblings": siblings }).to_string();
            return respond(&mut stream, "200 OK", "", json.as_bytes());
        }
        let name = path.strip_prefix(&format!("/org/clip/resolve/{COMMIT}/"));
        let Some((name, data)) = name.and_then(|name| self.files.get_key_value(name)) else {
            return respond(&mut stream, "404 Not Found", "", b"");
        };
        let range = headers.get("range")?;
        (self.requests.lock().unwrap()).push((name.clone(), range.clone()));
        let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
        let start: usize = start.parse().ok()?;
        let end = end.parse().map_or(data.len(), |end: usize| end + 1);
        let mut body = data[start..end].to_vec();
        let etag = match fault {
            Fault::Climbs => "../../../../escaped".to_owned(),
            _ => hex(&Sha256::digest(data)),
        };
        if fault == Fault::Damages && body.len() > 1 {
            body[0] ^= 1;
        }
        let about = format!(
            "ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {start}-{}/{}\r\n",
            end - 1,
            data.len()
        );
        if let Fault::Breaks { bytes, times } = fault
            && body.len() > bytes.max(1)
            && times > 0
        {
            self.set(Fault::Breaks {
                bytes,
                times: times - 1,
            });
            return part(&mut stream, "206 Partial Content", &about, &body, bytes);
        }
        respond(&mut stream, "206 Partial Content", &about, &body)
    }
}

fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> Option<()> {
    part(stream, status, headers, body, body.len())
}

/// Announces the whole body, and sends `bytes` of it.
fn part(
    stream: &mut TcpStream,
    status: &str,
    headers: &str,
    body: &[u8],
    bytes: usize,
) -> Option<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body[..bytes]).ok()?;
    stream.flush().ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

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

#[test]
fn the_command_takes_models_of_the_hub_and_is_quiet_in_a_pipe() {
    let hub = Hub::serve(&common::checkpoint());
    let home = tempfile::tempdir().unwrap();
    let run = |clip: &str, offline: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_pinhole-export"))
            .args(["text", "--clip", clip, "a cat"])
            .env("HF_ENDPOINT", format!("http://{}/", hub.address))
            .env("HF_HOME", home.path())
            .env("HF_HUB_OFFLINE", offline)
            .env("HF_TOKEN", TOKEN)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    hub.set(Fault::Refuses);
    let expected = run(common::checkpoint().to_str().unwrap(), "");
    let note = format!("note: org/clip is commit {COMMIT} of the hub\n");
    for (offline, stderr) in [("0", note.as_str()), ("1", "")] {
        let found = run("hf:org/clip", offline);
        assert_eq!(found, (Some(0), expected.1.clone(), stderr.to_owned()));
    }
    let (code, _, stderr) = run("hf:org/other", "1");
    assert_eq!(code, Some(1));
    assert!(
        stderr.starts_with("error: org/other: not complete in the cache"),
        "{stderr}"
    );
    let (code, _, stderr) = run("hf:nothing", "0");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("expected hf:ORGANISATION/NAME"), "{stderr}");
}
