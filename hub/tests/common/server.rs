//! A hub of the tests' own on 127.0.0.1, which also breaks off, lies and refuses.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "tests of several crates use a part each"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const TOKEN: &str = "hf_secretSecret";

/// What a hub does wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
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

pub struct Hub {
    pub files: BTreeMap<String, Vec<u8>>,
    fault: Mutex<Fault>,
    /// Of files: name and `Range`.
    requests: Mutex<Vec<(String, String)>>,
    pub address: String,
}

impl Hub {
    /// Serves the files of a folder as org/clip, until the test ends.
    pub fn serve(folder: &Path) -> Arc<Hub> {
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

    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Asserts that a command has the same answer for org/clip, downloaded and then offline, as for `local`, the same model
    /// in a folder, and what it says of other models. `command` makes it for the value of `--clip`. Returns what it wrote to
    /// stderr with org/clip, without the note of the commit.
    pub fn check_command(
        &self,
        local: &Path,
        home: &Path,
        command: impl Fn(&str) -> Command,
    ) -> Vec<String> {
        let run = |clip: &str, offline: &str| {
            let output = command(clip)
                .env("HF_ENDPOINT", format!("http://{}/", self.address))
                .env("HF_HOME", home)
                .env("HF_HUB_OFFLINE", offline)
                .env("HF_TOKEN", TOKEN)
                .output()
                .unwrap();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            let (stdout, stderr) = (text(output.stdout), text(output.stderr));
            (output.status.code(), stdout, stderr)
        };
        self.set(Fault::Refuses);
        let (code, expected, stderr) = run(local.to_str().unwrap(), "");
        assert_eq!(code, Some(0), "{stderr}");
        assert!(!expected.is_empty());
        let note = format!("note: org/clip is commit {COMMIT} of the hub\n");
        let mut said = vec![];
        for (offline, downloaded) in [("0", true), ("1", false)] {
            let (code, found, stderr) = run("hf:org/clip", offline);
            assert_eq!((code, &found), (Some(0), &expected), "{stderr}");
            assert_eq!(stderr.contains(&note), downloaded, "{stderr}");
            said.push(stderr.replace(&note, ""));
        }
        for (clip, offline, expected, reason) in [
            (
                "hf:org/other",
                "1",
                1,
                "error: org/other: not complete in the cache",
            ),
            ("hf:nothing", "0", 2, "expected hf:ORGANISATION/NAME"),
        ] {
            let (code, _, stderr) = run(clip, offline);
            assert_eq!(code, Some(expected), "{clip}");
            assert!(stderr.contains(reason), "{stderr}");
        }
        said
    }

    /// The requests of files since the last call.
    pub fn requests(&self) -> Vec<(String, String)> {
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

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
