//! Safetensors files whose tensors are read one at a time.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use pinhole_model::Tensor;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::Error;
use crate::read::open_regular;

/// Largest header in bytes; a CLIP model's has a tenth of a megabyte.
const MAX_HEADER: u64 = 4 << 20;
/// Bytes read at once; a multiple of every element's size.
const PIECE: usize = 1 << 16;

/// An open safetensors file: its header is checked and in memory, its tensors stay in the file until one is
/// asked for.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Where the tensors start.
    data: u64,
}

impl TensorFile {
    /// Opens a file and checks its header against the length of the file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Field`] for what is no regular file; [`Error::Malformed`] for a header that is
    /// damaged, longer than 4 MiB, or does not describe a file of this length.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed {
            path: path.to_owned(),
            expected: "a valid safetensors file",
            reason,
        };
        let (file, file_length) = open_regular(path)?;
        let read = |start, length| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, start)
                .map_err(|e| Error::io(path, "cannot read", e))?;
            Ok(bytes)
        };
        let mut length = [0; 8];
        if file_length >= 8 {
            length.copy_from_slice(&read(0, 8)?);
        }
        let length = u64::from_le_bytes(length);
        let available = file_length.saturating_sub(8).min(MAX_HEADER);
        if !(1..=available).contains(&length) {
            return Err(malformed(format!(
                "expected a header of 1 to {available} bytes, found {length}"
            )));
        }
        // Offsets, shapes and types are checked against each other while this is parsed.
        let bytes = read(8, length as usize)?;
        let header = pinhole_fs::from_json_entries::<Metadata, TensorInfo>(&bytes, "__metadata__")
            .map_err(|e| malformed(format!("the header is damaged: {e}")))?;
        let data = 8 + length;
        if data.checked_add(header.data_len() as u64) != Some(file_length) {
            return Err(malformed(format!(
                "expected {} bytes of tensors after the header, found {}",
                header.data_len(),
                file_length - data
            )));
        }
        Ok(TensorFile {
            path: path.to_owned(),
            file,
            header,
            data,
        })
    }

    /// Element type of a tensor, if the file has it.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.header.info(name).map(|info| info.dtype)
    }

    /// Reads a tensor of type F32, F16 or BF16, widened to f32.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is missing, has another type, or holds NaN or infinity;
    /// [`Error::Io`].
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let info = self.info(name)?;
        let data: Vec<f32> = match info.dtype {
            Dtype::F32 => self.elements(info, 4, |piece, data| {
                data.extend(piece.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
            }),
            Dtype::F16 => self.elements(info, 2, |piece, data| {
                let halves = piece.as_chunks().0.iter();
                data.extend(halves.map(|b| f16::from_le_bytes(*b).to_f32()));
            }),
            Dtype::BF16 => self.elements(info, 2, |piece, data| {
                let halves = piece.as_chunks().0.iter();
                data.extend(halves.map(|b| bf16::from_le_bytes(*b).to_f32()));
            }),
            other => Err(self.wrong(name, "type F32, F16 or BF16", other)),
        }?;
        if let Some(index) = data.iter().position(|value| !value.is_finite()) {
            let found = format!("{} at element {index}", data[index]);
            return Err(self.wrong(name, "finite values", found));
        }
        let shape = info.shape.clone();
        Ok(Tensor { shape, data })
    }

    /// Reads a tensor of type I8.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is missing or has another type; [`Error::Io`].
    pub fn tensor_i8(&self, name: &str) -> Result<Tensor<i8>, Error> {
        let info = self.info(name)?;
        if info.dtype != Dtype::I8 {
            return Err(self.wrong(name, "type I8", info.dtype));
        }
        let data = self.elements(info, 1, |piece, data| {
            data.extend(piece.iter().map(|b| b.cast_signed()));
        })?;
        let shape = info.shape.clone();
        Ok(Tensor { shape, data })
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, Error> {
        let info = self.header.info(name);
        info.ok_or_else(|| self.wrong(name, "a tensor of this name", "no tensor"))
    }

    /// The elements of a tensor, of `size` bytes each, as `append` decodes them.
    fn elements<T>(
        &self,
        info: &TensorInfo,
        size: usize,
        append: impl Fn(&[u8], &mut Vec<T>),
    ) -> Result<Vec<T>, Error> {
        let (start, end) = info.data_offsets;
        // The header was checked against the length of the file, which bounds this.
        let mut data = Vec::with_capacity((end - start) / size);
        let mut buffer = [0; PIECE];
        for at in (start..end).step_by(PIECE) {
            let piece = &mut buffer[..PIECE.min(end - at)];
            self.file
                .read_exact_at(piece, self.data + at as u64)
                .map_err(|e| Error::io(&self.path, "cannot read", e))?;
            append(piece, &mut data);
        }
        Ok(data)
    }

    fn wrong(&self, tensor: &str, expected: &str, found: impl ToString) -> Error {
        Error::Tensor {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
            expected: expected.to_owned(),
            found: found.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn serialized(dtype: Dtype, shape: Vec<usize>, data: &[u8]) -> Vec<u8> {
        let view = TensorView::new(dtype, shape, data).unwrap();
        safetensors::serialize([("w", view)], None).unwrap()
    }

    #[test]
    fn each_type_is_widened_in_pieces() {
        let values: Vec<f32> = (0..50_000u16).map(|i| f32::from(i % 99)).collect();
        let f32s: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let f16s = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes());
        let bf16s = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes());
        for (dtype, bytes) in [
            (Dtype::F32, f32s),
            (Dtype::F16, f16s.collect()),
            (Dtype::BF16, bf16s.collect()),
        ] {
            let (_folder, path) = file(&serialized(dtype, vec![5, 10_000], &bytes));
            let tensor = TensorFile::open(&path).unwrap().tensor("w").unwrap();
            assert_eq!(tensor.shape, [5, 10_000]);
            assert_eq!(tensor.data, values, "{dtype:?}");
        }
        let (_folder, path) = file(&serialized(Dtype::I8, vec![2], &[0x80, 1]));
        let i8s = TensorFile::open(&path).unwrap().tensor_i8("w").unwrap();
        assert_eq!(i8s.data, [-128, 1]);
    }

    #[test]
    fn bad_files_are_refused_with_the_reason() {
        let nan = f32::NAN.to_le_bytes();
        let (_folder, path) = file(&serialized(Dtype::F32, vec![1], &nan));
        let open = TensorFile::open(&path).unwrap();
        for (error, part) in [
            (open.tensor("w").unwrap_err(), "found NaN at element 0"),
            (open.tensor("v").unwrap_err(), "tensor v: expected"),
            (
                open.tensor_i8("w").map(drop).unwrap_err(),
                "type I8, found F32",
            ),
        ] {
            assert!(error.to_string().contains(part), "{error}");
        }
        let good = serialized(Dtype::F32, vec![1], &[0; 4]);
        let mut long = good.clone();
        long.push(0);
        let mut huge = good.clone();
        huge[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
        for (bytes, part) in [
            (&good[..good.len() - 1], "bytes of tensors after the header"),
            (&long, "bytes of tensors after the header"),
            (&huge, "expected a header of"),
            (b"", "expected a header of"),
            (b"\x02\0\0\0\0\0\0\0[]", "the header is damaged"),
        ] {
            let (_folder, path) = file(bytes);
            let error = TensorFile::open(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
