//! Byte ranges of a checkpoint file, read on request.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::{Crc, read::DeflateDecoder};
use rawzip::{FileReader, RangeReader, ReaderAt};

use crate::Error;

/// The bytes of one tensor, or shared by several.
#[derive(Debug)]
pub(crate) struct Storage {
    pub(crate) source: Arc<Source>,
    /// Offset of the bytes in the file.
    pub(crate) offset: u64,
    /// Number of bytes after inflating.
    pub(crate) length: u64,
    /// Number of bytes in the file, if they are deflated.
    pub(crate) deflated: Option<u64>,
    /// CRC-32 of all `length` bytes, where the format has one.
    pub(crate) crc: Option<u32>,
}

impl Storage {
    /// Calls `take` with the bytes `start..start + length` in pieces; the length of all but the last is a
    /// multiple of 8. The checksum is compared when the whole storage is read.
    pub(crate) fn read(
        &self,
        start: u64,
        length: u64,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        let path = self.source.path();
        let end = start.checked_add(length).filter(|end| *end <= self.length);
        let Some(end) = end else {
            return Err(Error::malformed(
                path,
                "a tensor reaches beyond its storage",
            ));
        };
        let mut crc = (start == 0 && end == self.length).then(Crc::new);
        let mut buffer = [0; 1 << 16];
        let mut pass = |reader: &mut dyn Read, length: u64, take: &mut dyn FnMut(&[u8])| {
            let mut left = length;
            while left > 0 {
                let piece = &mut buffer[..left.min(1 << 16) as usize];
                reader.read_exact(piece)?;
                take(piece);
                left -= piece.len() as u64;
            }
            Ok::<_, io::Error>(())
        };
        let mut take = |piece: &[u8]| {
            if let Some(crc) = &mut crc {
                crc.update(piece);
            }
            take(piece);
        };
        match self.deflated {
            None => {
                let offset = self.offset + start;
                pass(&mut self.source.reader(offset, length), length, &mut take)
            }
            Some(deflated) => {
                let mut reader = DeflateDecoder::new(self.source.reader(self.offset, deflated));
                pass(&mut reader, start, &mut |_| ())
                    .and_then(|()| pass(&mut reader, length, &mut take))
            }
        }
        .map_err(Error::io(path, "read"))?;
        if let (Some(found), Some(expected)) = (crc, self.crc)
            && found.sum() != expected
        {
            return Err(Error::malformed(
                path,
                format!(
                    "the file is damaged: expected checksum {expected:08x}, found {:08x} over the \
                     {length} bytes stored at {}",
                    found.sum(),
                    self.offset
                ),
            ));
        }
        Ok(())
    }
}

/// An open file that several threads can read at any offset.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    file: FileReader,
    length: u64,
}

impl Source {
    /// Opens a regular file.
    pub(crate) fn open(path: &Path) -> Result<Arc<Source>, Error> {
        // Checked before opening, because opening a named pipe waits for a writer.
        let metadata = std::fs::metadata(path).map_err(Error::io(path, "open"))?;
        if !metadata.is_file() {
            return Err(Error::malformed(
                path,
                "expected a file, found something else",
            ));
        }
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let length = file.metadata().map_err(Error::io(path, "open"))?.len();
        Ok(Arc::new(Source {
            path: path.to_owned(),
            file: file.into(),
            length,
        }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// A reader of `length` bytes at `offset`, or of fewer at the end of the file.
    pub(crate) fn reader(&self, offset: u64, length: u64) -> RangeReader<&FileReader> {
        RangeReader::new(&self.file, offset..offset.saturating_add(length))
    }

    /// The whole file, of at most `limit` bytes.
    pub(crate) fn whole(&self, limit: u64) -> Result<Vec<u8>, Error> {
        if self.length > limit {
            return Err(Error::malformed(
                &self.path,
                format!("expected at most {limit} bytes, found {}", self.length),
            ));
        }
        self.bytes(0, limit)
    }

    /// Up to `length` bytes at `offset`, fewer at the end of the file.
    pub(crate) fn bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        let length = length.min(self.length.saturating_sub(offset));
        let mut bytes = Vec::new();
        self.reader(offset, length)
            .read_to_end(&mut bytes)
            .map_err(Error::io(&self.path, "read"))?;
        Ok(bytes)
    }
}

impl ReaderAt for Source {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
}
