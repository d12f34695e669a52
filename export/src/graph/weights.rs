//! The graph's weights, written to disk one at a time.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use half::f16;
use pinhole_bundle::IMAGE_ENCODER_WEIGHTS;
use pinhole_model::Precision;
use tract_onnx::pb::{
    StringStringEntryProto, TensorProto,
    tensor_proto::{DataLocation, DataType},
};

use super::proto::tensor;

/// Collects initialisers. Their data is written to a file immediately, so that one tensor is in memory at a time.
pub struct WeightFile {
    path: PathBuf,
    file: BufWriter<File>,
    length: u64,
    half: bool,
    tensors: Vec<TensorProto>,
}

/// A cache line, so that ONNX Runtime can map the tensors.
const ALIGNMENT: u64 = 64;

impl WeightFile {
    /// Weights of at most this many bytes are stored inside the ONNX file.
    pub const INLINE_BYTES: u64 = 64 << 20;

    /// Creates the weight file in `folder`. Matrices are stored in f16 unless `precision` is f32.
    pub(super) fn create(folder: &Path, precision: Precision) -> Result<Self> {
        let path = folder.join(IMAGE_ENCODER_WEIGHTS);
        let file =
            File::create(&path).with_context(|| format!("{}: cannot create", path.display()))?;
        Ok(Self {
            path,
            file: BufWriter::new(file),
            length: 0,
            half: precision != Precision::F32,
            tensors: vec![],
        })
    }

    /// A tensor stored in f32 in every precision. Returns its name.
    pub(super) fn f32(&mut self, name: &str, shape: &[usize], data: &[f32]) -> Result<String> {
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.write(name, DataType::Float, shape, &bytes)
    }

    /// A tensor stored in the graph's precision. Returns its name.
    pub(super) fn matrix(&mut self, name: &str, shape: &[usize], data: &[f32]) -> Result<String> {
        if !self.half {
            return self.f32(name, shape, data);
        }
        let mut bytes = Vec::with_capacity(data.len() * 2);
        for &v in data {
            let narrow = f16::from_f32(v);
            ensure!(
                narrow.is_finite(),
                "{name}: the weight {v} does not fit f16; use --precision f32"
            );
            bytes.extend(narrow.to_le_bytes());
        }
        self.write(name, DataType::Float16, shape, &bytes)
    }

    /// A quantised matrix [inputs, outputs]. Returns its name.
    pub(super) fn s8(&mut self, name: &str, shape: &[usize], data: &[i8]) -> Result<String> {
        let bytes: Vec<u8> = data.iter().map(|v| v.cast_unsigned()).collect();
        self.write(name, DataType::Int8, shape, &bytes)
    }

    /// Integers, for shapes and axes. Returns its name.
    pub(super) fn i64(&mut self, name: &str, data: &[i64]) -> Result<String> {
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        // Shape inference needs them inside the graph.
        self.inline(name, DataType::Int64, &[data.len()], bytes);
        Ok(name.to_owned())
    }

    /// A tensor stored inside the ONNX file whatever its size.
    pub(super) fn inline(
        &mut self,
        name: &str,
        data_type: DataType,
        shape: &[usize],
        bytes: Vec<u8>,
    ) {
        self.tensors.push(TensorProto {
            raw_data: bytes,
            ..tensor(name, data_type, shape)
        });
    }

    /// A tensor given as bytes. Returns its name.
    pub(super) fn write(
        &mut self,
        name: &str,
        data_type: DataType,
        shape: &[usize],
        bytes: &[u8],
    ) -> Result<String> {
        let failed = || format!("{}: cannot write", self.path.display());
        let padding = self.length.next_multiple_of(ALIGNMENT) - self.length;
        self.file
            .write_all(&[0; ALIGNMENT as usize][..padding as usize])
            .with_context(failed)?;
        self.file.write_all(bytes).with_context(failed)?;
        let offset = self.length + padding;
        self.length = offset + bytes.len() as u64;
        let entry = |key: &str, value: String| StringStringEntryProto {
            key: key.into(),
            value,
        };
        self.tensors.push(TensorProto {
            data_location: Some(DataLocation::External as i32),
            external_data: vec![
                entry("location", IMAGE_ENCODER_WEIGHTS.into()),
                entry("offset", offset.to_string()),
                entry("length", bytes.len().to_string()),
            ],
            ..tensor(name, data_type, shape)
        });
        Ok(name.to_owned())
    }

    /// The initialisers. A weight file of at most [`Self::INLINE_BYTES`] is moved into them and deleted.
    pub(super) fn finish(mut self) -> Result<Vec<TensorProto>> {
        let failed = || format!("{}: cannot write", self.path.display());
        self.file.flush().with_context(failed)?;
        if self.length > Self::INLINE_BYTES {
            return Ok(self.tensors);
        }
        let all = std::fs::read(&self.path).with_context(failed)?;
        std::fs::remove_file(&self.path).with_context(failed)?;
        for tensor in &mut self.tensors {
            if tensor.data_location.take().is_none() {
                continue;
            }
            let number = |i: usize| tensor.external_data[i].value.parse::<usize>();
            let (offset, length) = (number(1)?, number(2)?);
            tensor.raw_data = all[offset..offset + length].to_vec();
            tensor.external_data.clear();
        }
        Ok(self.tensors)
    }
}
