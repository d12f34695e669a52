//! NumPy's files of arrays: `.npy` with one, `.npz` with several by name.
//!
//! The format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pickle::{StorageRef, TensorRef};
use crate::state_dict::{Entry, View};
use crate::storage::{Source, Storage};
use crate::{Dtype, Error, StateDict, TensorInfo, archive};

/// The first bytes of a `.npy` file.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";
/// The longest header; NumPy writes 118 bytes.
const MAX_HEADER: usize = 1 << 16;
/// What is before the header: [`MAGIC`], the version, and the length of the header.
const START: u64 = 12;

/// Reads a `.npy` file; its array gets the name of the file.
pub(crate) fn read_npy(source: &Arc<Source>) -> Result<StateDict, Error> {
    let path = source.path();
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let storage = Storage {
        source: Arc::clone(source),
        offset: 0,
        length: source.length(),
        deflated: None,
        crc: None,
    };
    let entry = array(Arc::new(storage)).map_err(|reason| Error::malformed(path, reason))?;
    Ok(StateDict::new(path, [(name.into_owned(), entry)].into()))
}

/// Reads a `.npz` file, deflated or not; `None` for a zip archive of another kind.
pub(crate) fn read_npz(source: &Arc<Source>) -> Result<Option<StateDict>, Error> {
    let path = source.path();
    let files = archive::entries(source)?;
    if files.is_empty() || !files.keys().all(|name| name.ends_with(".npy")) {
        return Ok(None);
    }
    let mut entries = BTreeMap::new();
    for (file, storage) in files {
        // Arrays are read from behind their headers, so the checksum of the whole is compared here.
        storage.read(0, storage.length, |_| ())?;
        let name = file.trim_end_matches(".npy").to_owned();
        let entry = array(storage);
        let entry = entry.map_err(|reason| Error::malformed(path, format!("{file}: {reason}")))?;
        entries.insert(name, entry);
    }
    Ok(Some(StateDict::new(path, entries)))
}

/// The array in the bytes of a `.npy` file.
fn array(storage: Arc<Storage>) -> Result<Entry, String> {
    let mut bytes = vec![];
    let start = storage.length.min(START + MAX_HEADER as u64);
    let read = storage.read(0, start, |piece| bytes.extend_from_slice(piece));
    read.map_err(|error| error.to_string())?;
    let (header, offset) = header(&bytes)?;
    let Some(dtype) = dtype(&header.descr) else {
        // Names of classes and the like, which only matter if they are asked for.
        let global = format!("numpy array of {}", header.descr).into();
        return Ok(Entry::Unknown { global });
    };
    let size = dtype.bitsize() as u64 / 8;
    let shape = header.shape;
    let count = (shape.iter()).try_fold(1u64, |count, size| count.checked_mul(*size as u64));
    let found = storage.length - offset;
    if count.and_then(|count| count.checked_mul(size)) != Some(found) {
        return Err(format!(
            "data: expected the bytes of an array {shape:?} of {}, found {found}",
            header.descr
        ));
    }
    // NumPy aligns the data; other writers may not.
    let (storage, offset) = match storage.deflated {
        None => {
            let data = Storage {
                source: Arc::clone(&storage.source),
                offset: storage.offset + offset,
                length: found,
                deflated: None,
                crc: None,
            };
            (Arc::new(data), 0)
        }
        Some(_) if offset.is_multiple_of(size) => (storage, offset),
        Some(_) => {
            return Err(format!(
                "data: expected it at a multiple of {size}, found it at {offset}"
            ));
        }
    };
    let mut strides = vec![1; shape.len()];
    let mut distance = 1;
    for at in 0..shape.len() {
        let at = if header.fortran_order {
            at
        } else {
            shape.len() - 1 - at
        };
        strides[at] = distance;
        distance *= shape[at];
    }
    let tensor = TensorRef {
        storage: Arc::new(StorageRef {
            key: "".into(),
            dtype,
            elements: storage.length / size,
        }),
        offset: offset / size,
        shape: shape.clone(),
        strides,
    };
    let view = View::strided(&tensor, storage)?;
    let info = TensorInfo { dtype, shape };
    Ok(Entry::Tensor { info, view })
}

fn dtype(descr: &str) -> Option<Dtype> {
    Some(match descr {
        "<f2" => Dtype::F16,
        "<f4" => Dtype::F32,
        "<f8" => Dtype::F64,
        "<i8" => Dtype::I64,
        "<i4" => Dtype::I32,
        _ => return None,
    })
}

/// The header of a `.npy` file, and where the data starts.
fn header(bytes: &[u8]) -> Result<(Header, u64), String> {
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or("expected a .npy file, found another format")?;
    let (&[major, _], rest) = rest
        .split_first_chunk()
        .ok_or("version: expected two bytes, found the end of the file")?;
    let cut = "header: expected its length, found the end of the file";
    let (length, rest) = match major {
        1 => {
            let (length, rest) = rest.split_first_chunk().ok_or(cut)?;
            (u16::from_le_bytes(*length) as usize, rest)
        }
        2 | 3 => {
            let (length, rest) = rest.split_first_chunk().ok_or(cut)?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        other => return Err(format!("version: expected 1 to 3, found {other}")),
    };
    if length > MAX_HEADER {
        return Err(format!(
            "header: expected at most {MAX_HEADER} bytes, found {length}"
        ));
    }
    let start = bytes.len() - rest.len() + length;
    let header = rest
        .get(..length)
        .ok_or_else(|| format!("header: expected {length} bytes, found {}", rest.len()))?;
    let header =
        std::str::from_utf8(header).map_err(|_| "header: expected text, found other bytes")?;
    Ok((Header::parse(header)?, start as u64))
}

/// The dictionary before the data.
#[derive(Debug, Default)]
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Parses Python's text of a dictionary with these three keys.
    fn parse(text: &str) -> Result<Header, String> {
        let wrong = || {
            "header: expected {'descr': '<f4', 'fortran_order': False, 'shape': (classes, values)}, found another text".to_owned()
        };
        let mut rest = text
            .trim()
            .strip_prefix('{')
            .ok_or_else(wrong)?
            .trim_start();
        let (mut descr, mut order, mut shape) = (None, None, None);
        while !rest.starts_with('}') {
            let (key, after) = quoted(rest).ok_or_else(wrong)?;
            rest = after
                .trim_start()
                .strip_prefix(':')
                .ok_or_else(wrong)?
                .trim_start();
            match key {
                "descr" => {
                    // A list describes records.
                    let (value, after) =
                        quoted(rest).ok_or("descr: expected '<f4', found records")?;
                    (descr, rest) = (Some(value.to_owned()), after);
                }
                "fortran_order" => {
                    let flags = [("True", true), ("False", false)];
                    let found = flags
                        .iter()
                        .find_map(|(name, flag)| Some((*flag, rest.strip_prefix(name)?)));
                    let (flag, after) = found.ok_or_else(wrong)?;
                    (order, rest) = (Some(flag), after);
                }
                "shape" => {
                    let inside = rest.strip_prefix('(').ok_or_else(wrong)?;
                    let (inside, after) = inside.split_once(')').ok_or_else(wrong)?;
                    let sizes = inside
                        .split(',')
                        .map(str::trim)
                        .filter(|size| !size.is_empty());
                    let sizes = sizes.map(|size| size.parse().map_err(|_| wrong()));
                    (shape, rest) = (Some(sizes.collect::<Result<_, _>>()?), after);
                }
                _ => return Err(wrong()),
            }
            rest = rest.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        Ok(Header {
            descr: descr.ok_or_else(wrong)?,
            fortran_order: order.ok_or_else(wrong)?,
            shape: shape.ok_or_else(wrong)?,
        })
    }
}

/// A text in quotes, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_state_dict;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        // Padded as NumPy does it, so that the data is aligned.
        let header = format!("{header:<117}\n");
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<(Vec<usize>, Vec<f32>), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weight.npy");
        std::fs::write(&path, bytes).unwrap();
        let state = read_state_dict(&path).map_err(|error| error.to_string())?;
        let tensor = state.tensor("weight").map_err(|error| error.to_string())?;
        Ok((tensor.shape, tensor.data))
    }

    const VALUES: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

    fn data() -> Vec<u8> {
        VALUES.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn arrays_are_read_in_every_order_and_width() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        let rows = Ok((vec![2, 3], VALUES.to_vec()));
        assert_eq!(read(&file(header, &data())), rows);
        let columns = header.replace("False", "True");
        let expected = vec![1.0, 3.0, 5.0, 2.0, 4.0, 6.0];
        assert_eq!(read(&file(&columns, &data())), Ok((vec![2, 3], expected)));
        let one = header.replace("(2, 3)", "(6,)");
        assert_eq!(read(&file(&one, &data())), Ok((vec![6], VALUES.to_vec())));
        let wide = header.replace("<f4", "<f8");
        let values: Vec<u8> = VALUES
            .iter()
            .flat_map(|v| f64::from(*v).to_le_bytes())
            .collect();
        assert_eq!(read(&file(&wide, &values)), rows);
        let narrow = header.replace("<f4", "<f2");
        let values: Vec<u8> = (VALUES.iter())
            .flat_map(|v| half::f16::from_f32(*v).to_le_bytes())
            .collect();
        assert_eq!(read(&file(&narrow, &values)), rows);
        // Version 2 has a longer length.
        let mut second = file(header, &data());
        second[6] = 2;
        second[8] -= 2;
        second.splice(10..10, [0, 0]);
        second.remove(127);
        second.remove(126);
        assert_eq!(read(&second), rows);
    }

    #[test]
    fn other_files_are_errors_that_name_the_field() {
        for (header, expected) in [
            (
                "{'descr': '<U8', 'fortran_order': False, 'shape': (2, 3)}",
                "numpy array of <U8",
            ),
            (
                "{'descr': '<i8', 'fortran_order': False, 'shape': (3,)}",
                "found I64",
            ),
            (
                "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3)}",
                "descr: expected '<f4', found records",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4)}",
                "data: expected the bytes of an array [2, 4] of <f4, found 24",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551615, 2)}",
                "data: expected",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3)}",
                "header: expected",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False}",
                "header: expected",
            ),
            ("{'descr': '<f4', ", "header: expected"),
            ("no dictionary", "header: expected"),
        ] {
            let error = read(&file(header, &data())).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let whole = file(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}",
            &data(),
        );
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
    }
}
