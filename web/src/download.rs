//! The bundle as a tar archive.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use axum::body::Bytes;
use pinhole::Bundle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Bytes of a piece, and pieces that wait for the client.
const PIECE: usize = 64 << 10;
const PIECES: usize = 4;

/// The files of a bundle, open: an exchange of the folder does not change them.
struct OpenFiles(Vec<(String, File)>);

impl OpenFiles {
    /// Opens the bundle in `folder`, and checks its hashes.
    fn open(folder: &Path) -> Result<Self, String> {
        let bundle = Bundle::open(folder).map_err(|e| e.to_string())?;
        let listed = bundle.manifest().files.iter().map(|file| &*file.path);
        let names: Vec<&str> = listed.chain(["manifest.json"]).collect();
        let opened = bundle.read_files(|folder| {
            let open = |name: &&str| Ok((name.to_string(), File::open(folder.join(name))?));
            names.iter().map(open).collect::<io::Result<Vec<_>>>()
        });
        opened
            .map(Self)
            .map_err(|e| format!("{}: {e}", folder.display()))
    }

    /// Writes the archive, with all files in a folder `name`.
    fn write(self, name: &str, out: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(out);
        for (path, mut file) in self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_size(file.metadata()?.len());
            header.set_mode(0o644);
            archive.append_data(&mut header, format!("{name}/{path}"), &mut file)?;
        }
        archive.into_inner()?.flush()
    }
}

/// Reads the bundle in `folder` in a thread of its own, which ends with the archive or when the receiver is dropped. An
/// error breaks the archive off.
///
/// # Errors
/// The bundle cannot be read.
pub(crate) async fn archive(
    folder: &Path,
    name: String,
    permit: OwnedSemaphorePermit,
) -> Result<Receiver<io::Result<Bytes>>, String> {
    let folder = folder.to_owned();
    let (pieces, receiver) = channel(PIECES);
    let (opened, answer) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("download".into());
    let spawned = thread.spawn(move || {
        crate::threads::yield_to_classification();
        let _permit = permit;
        let files = match OpenFiles::open(&folder) {
            Ok(files) => files,
            Err(e) => {
                let _ = opened.send(Err(e));
                return;
            }
        };
        let _ = opened.send(Ok(()));
        let out = io::BufWriter::with_capacity(PIECE, Pieces(pieces.clone()));
        if let Err(e) = files.write(&name, out) {
            let _ = pieces.blocking_send(Err(e));
        }
    });
    spawned.map_err(|e| format!("cannot start a thread: {e}"))?;
    let gone = |_| "the thread has ended".to_owned();
    answer.await.map_err(gone)?.map(|()| receiver)
}

/// Sends what is written.
struct Pieces(Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(piece)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
