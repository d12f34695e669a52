//! Named tensors in a file, read on request.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use pinhole_model::Tensor;
pub use safetensors::Dtype;

use crate::Error;
use crate::pickle::TensorRef;
use crate::storage::Storage;

/// How many times the bytes of its storages the tensors of a file may read. Tied weights are read twice.
const MAX_READS: u64 = 2;
/// What they may read beside that: small tensors that share one storage.
const READ_ALLOWANCE: u64 = 16 << 20;
/// The types that weights may have, for messages.
pub(crate) const FLOATS: &str = "F64, F32, F16 or BF16";

/// Type and shape of a tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Length of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
}

/// The named tensors of a file. Opening reads names and shapes only.
#[derive(Clone, Debug)]
pub struct StateDict {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl StateDict {
    pub(crate) fn new(path: &Path, entries: BTreeMap<String, Entry>) -> Self {
        Self {
            path: path.to_owned(),
            entries,
            metadata: BTreeMap::new(),
        }
    }

    /// With the metadata of a safetensors header.
    pub(crate) fn with_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = metadata;
        self
    }

    /// An entry of `__metadata__` in the header of a safetensors file.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Type and shape; `None` also for a tensor that only code in the file could build.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        match self.entries.get(name) {
            Some(Entry::Tensor { info, .. }) => Some(info),
            _ => None,
        }
    }

    /// Reads one tensor of type F64, F32, F16 or BF16 as f32.
    ///
    /// # Errors
    /// No such tensor, another type, NaN or infinity in it (also an F64 beyond f32), or a damaged file.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let (info, view) = self.entry(name)?;
        view.read(info, name)
    }

    /// The file (for a sharded checkpoint, its index).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Type and shape.
    pub(crate) fn checked_info(&self, name: &str) -> Result<&TensorInfo, Error> {
        self.entry(name).map(|(info, _)| info)
    }

    /// The value of an I64 scalar, if there is one of this name.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Error> {
        let Some(Entry::Tensor { info, view }) = self.entries.get(name) else {
            return Ok(None);
        };
        if info.dtype != Dtype::I64 || info.shape.iter().product::<usize>() != 1 {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        view.storage
            .read(view.start * 8, 8, |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes.try_into().ok().map(i64::from_le_bytes))
    }

    /// Adds the tensors of another file. A name in both is an error.
    pub(crate) fn extend(&mut self, other: StateDict) -> Result<(), Error> {
        for (name, entry) in other.entries {
            if self.entries.contains_key(&name) {
                return Err(Error::malformed(
                    &other.path,
                    format!("tensor {name} is in another file of this checkpoint too"),
                ));
            }
            self.entries.insert(name, entry);
        }
        Ok(())
    }

    fn entry(&self, name: &str) -> Result<(&TensorInfo, &View), Error> {
        let path = self.path.clone();
        let name = name.to_owned();
        match self.entries.get(&name) {
            Some(Entry::Tensor { info, view }) => Ok((info, view)),
            Some(Entry::Unknown { global }) => Err(Error::UnknownGlobal {
                path,
                name,
                global: global.to_string(),
            }),
            None => Err(Error::NoSuchTensor { path, name }),
        }
    }

    /// Refuses tensors that together read more than the file holds, as a small file could make a reader read one
    /// storage any number of times.
    pub(crate) fn check_reads(&self) -> Result<(), Error> {
        let mut storages = std::collections::HashSet::new();
        let (mut held, mut read) = (0u64, 0u64);
        for entry in self.entries.values() {
            if let Entry::Tensor { info, view } = entry {
                read = read.saturating_add(view.cost(info.dtype));
                if storages.insert(Arc::as_ptr(&view.storage)) {
                    held = held.saturating_add(view.storage.length);
                }
            }
        }
        let accepted = held.saturating_mul(MAX_READS);
        if read > accepted.saturating_add(READ_ALLOWANCE) {
            return Err(Error::malformed(
                &self.path,
                format!(
                    "its tensors share storages: they read {read} bytes of {held}, at most {MAX_READS} times as many \
                     and {READ_ALLOWANCE} are accepted; clone each tensor and save them again"
                ),
            ));
        }
        Ok(())
    }

    /// Whether it has no tensors, and nothing that would be one.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is a name that starts so, without going through all.
    pub(crate) fn any(&self, prefix: &str) -> bool {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        (self.entries.range::<str, _>(from).next())
            .is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// With the names that `rename` gives; what it gives no name is left out.
    pub(crate) fn renamed(
        self,
        rename: impl Fn(&str) -> Option<String>,
    ) -> Result<StateDict, Error> {
        let mut entries = BTreeMap::new();
        for (name, entry) in self.entries {
            let Some(new) = rename(&name) else {
                continue;
            };
            if entries.contains_key(&new) {
                return Err(Error::malformed(
                    &self.path,
                    format!("tensor {name}: expected one tensor for {new}, found several"),
                ));
            }
            entries.insert(new, entry);
        }
        Ok(StateDict { entries, ..self })
    }
}

/// What a name refers to.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Tensor {
        info: TensorInfo,
        view: View,
    },
    /// An object that only the code of this global could build.
    Unknown {
        global: Arc<str>,
    },
}

/// The elements of a tensor in a storage.
#[derive(Clone, Debug)]
pub(crate) struct View {
    storage: Arc<Storage>,
    /// First element.
    start: u64,
    /// Elements from the first to the last, in storage order.
    span: usize,
    /// Distance in elements along each dimension, unless the tensor is row-major without gaps.
    strides: Option<Vec<usize>>,
}

impl View {
    /// A whole storage, row-major.
    pub(crate) fn whole(storage: Arc<Storage>, elements: usize) -> View {
        View {
            storage,
            start: 0,
            span: elements,
            strides: None,
        }
    }

    /// A view in PyTorch's terms. It must lie inside the storage, and have no more elements than it.
    pub(crate) fn strided(tensor: &TensorRef, storage: Arc<Storage>) -> Result<View, String> {
        let elements = tensor.storage.elements;
        let outside = || {
            format!(
                "shape {:?} with strides {:?} from element {} does not fit the {elements} \
                 elements of its storage",
                tensor.shape, tensor.strides, tensor.offset
            )
        };
        let count = tensor
            .shape
            .iter()
            .try_fold(1u64, |count, size| count.checked_mul(*size as u64))
            .filter(|count| *count <= elements)
            .ok_or_else(outside)?;
        // The offset of an empty tensor does not matter.
        let span = if count == 0 {
            0
        } else {
            tensor
                .shape
                .iter()
                .zip(&tensor.strides)
                .try_fold(1u64, |span, (size, stride)| {
                    (*size as u64 - 1)
                        .checked_mul(*stride as u64)?
                        .checked_add(span)
                })
                .filter(|span| {
                    tensor
                        .offset
                        .checked_add(*span)
                        .is_some_and(|end| end <= elements)
                })
                .ok_or_else(outside)?
        };
        let mut row_major = 1;
        let mut contiguous = true;
        for (size, stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
            // The stride along a dimension of one element is never used.
            contiguous &= *size == 1 || *stride == row_major;
            row_major = row_major.saturating_mul(*size);
        }
        Ok(View {
            storage,
            start: if count == 0 { 0 } else { tensor.offset },
            span: usize::try_from(span).map_err(|_| outside())?,
            strides: (!contiguous && count > 0).then(|| tensor.strides.clone()),
        })
    }

    /// The bytes that reading the tensor reads or inflates.
    pub(crate) fn cost(&self, dtype: Dtype) -> u64 {
        // What is deflated can only be read from its start.
        let skipped = self.storage.deflated.map_or(0, |_| self.start);
        (skipped + self.span as u64).saturating_mul(dtype.bitsize() as u64) / 8
    }

    fn read(&self, info: &TensorInfo, name: &str) -> Result<Tensor, Error> {
        let path = self.storage.source.path();
        let data = match info.dtype {
            Dtype::F32 => self.elements(info, name, 4, |piece, data| {
                data.extend(piece.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
            }),
            Dtype::F16 => self.elements(info, name, 2, |piece, data| {
                let halves = piece.as_chunks().0.iter();
                data.extend(halves.map(|b| f16::from_le_bytes(*b).to_f32()));
            }),
            Dtype::BF16 => self.elements(info, name, 2, |piece, data| {
                let halves = piece.as_chunks().0.iter();
                data.extend(halves.map(|b| bf16::from_le_bytes(*b).to_f32()));
            }),
            Dtype::F64 => self.elements(info, name, 8, |piece, data| {
                data.extend((piece.as_chunks().0.iter()).map(|b| f64::from_le_bytes(*b) as f32));
            }),
            _ => Err(self.wrong_type(info, name, FLOATS)),
        }?;
        if let Some(index) = data.iter().position(|value| !value.is_finite()) {
            return Err(Error::NotFinite {
                path: path.to_owned(),
                name: name.to_owned(),
                index,
                value: data[index],
            });
        }
        Ok(Tensor {
            shape: info.shape.clone(),
            data,
        })
    }

    /// The elements, of `size` bytes each, row-major, as `append` decodes them.
    fn elements<T: Copy>(
        &self,
        info: &TensorInfo,
        name: &str,
        size: u64,
        append: impl Fn(&[u8], &mut Vec<T>),
    ) -> Result<Vec<T>, Error> {
        let mut data = Vec::new();
        data.try_reserve_exact(self.span).map_err(|_| {
            Error::malformed(
                self.storage.source.path(),
                format!(
                    "tensor {name}: {} elements do not fit into memory",
                    self.span
                ),
            )
        })?;
        let (start, length) = (self.start * size, self.span as u64 * size);
        self.storage
            .read(start, length, |piece| append(piece, &mut data))?;
        Ok(match &self.strides {
            Some(strides) => gather(&data, &info.shape, strides),
            None => data,
        })
    }

    fn wrong_type(&self, info: &TensorInfo, name: &str, expected: &'static str) -> Error {
        Error::Dtype {
            path: self.storage.source.path().to_owned(),
            name: name.to_owned(),
            expected,
            found: info.dtype.to_string(),
        }
    }
}

/// The elements of a strided view in row-major order.
fn gather<T: Copy>(data: &[T], shape: &[usize], strides: &[usize]) -> Vec<T> {
    let count = shape.iter().product();
    let mut gathered = Vec::with_capacity(count);
    let mut index = vec![0; shape.len()];
    let mut offset = 0;
    while gathered.len() < count {
        gathered.push(data[offset]);
        // The next index, whose last dimension is the fastest.
        for (axis, (size, stride)) in shape.iter().zip(strides).enumerate().rev() {
            index[axis] += 1;
            offset += stride;
            if index[axis] < *size {
                break;
            }
            index[axis] = 0;
            offset -= stride * size;
        }
    }
    gathered
}
