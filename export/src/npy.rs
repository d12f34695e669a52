//! NumPy's `.npy` files of a float matrix.
//!
//! The format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use half::f16;

/// The first bytes of a file.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";
/// The longest header; NumPy writes 118 bytes.
const MAX_HEADER: usize = 1 << 16;

/// Reads a matrix `[rows, columns]` of f16, f32 or f64, as row-major f32.
///
/// # Errors
/// What was expected and found; the file is not named.
pub(crate) fn read_matrix(bytes: &[u8]) -> Result<([usize; 2], Vec<f32>), String> {
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
    let (header, data) = rest
        .split_at_checked(length)
        .ok_or_else(|| format!("header: expected {length} bytes, found {}", rest.len()))?;
    let header =
        std::str::from_utf8(header).map_err(|_| "header: expected text, found other bytes")?;
    let header = Header::parse(header)?;
    let [rows, columns] = header.shape[..] else {
        return Err(format!(
            "shape: expected a matrix (classes, values), found {:?}",
            header.shape
        ));
    };
    let (width, to_f32): (usize, fn(&[u8]) -> f32) = match &*header.descr {
        "<f2" => (2, |b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
        "<f4" => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        "<f8" => (8, |b| {
            f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32
        }),
        other => {
            return Err(format!(
                "descr: expected '<f4', '<f2' or '<f8', found {other:?}; save embeddings.astype('float32')"
            ));
        }
    };
    let bytes = rows.checked_mul(columns).and_then(|n| n.checked_mul(width));
    if bytes != Some(data.len()) {
        return Err(format!(
            "data: expected the bytes of {rows} x {columns} values, found {}",
            data.len()
        ));
    }
    let values: Vec<f32> = data.chunks_exact(width).map(to_f32).collect();
    let values = match header.fortran_order {
        false => values,
        true => (0..rows)
            .flat_map(|row| (0..columns).map(move |column| (row, column)))
            .map(|(row, column)| values[column * rows + row])
            .collect(),
    };
    Ok(([rows, columns], values))
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

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    const VALUES: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

    fn data() -> Vec<u8> {
        VALUES.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn matrices_are_read_in_every_order_and_width() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }          \n";
        assert_eq!(
            read_matrix(&file(header, &data())),
            Ok(([2, 3], VALUES.to_vec()))
        );
        let columns = header.replace("False", "True");
        let expected = vec![1.0, 3.0, 5.0, 2.0, 4.0, 6.0];
        assert_eq!(
            read_matrix(&file(&columns, &data())),
            Ok(([2, 3], expected))
        );
        let wide = header.replace("<f4", "<f8");
        let values: Vec<u8> = VALUES
            .iter()
            .flat_map(|v| f64::from(*v).to_le_bytes())
            .collect();
        assert_eq!(
            read_matrix(&file(&wide, &values)),
            Ok(([2, 3], VALUES.to_vec()))
        );
        let narrow = header.replace("<f4", "<f2");
        let values: Vec<u8> = (VALUES.iter())
            .flat_map(|v| f16::from_f32(*v).to_le_bytes())
            .collect();
        assert_eq!(
            read_matrix(&file(&narrow, &values)),
            Ok(([2, 3], VALUES.to_vec()))
        );
        // Version 2 has a longer length.
        let mut second = file(header, &data());
        second[6] = 2;
        second.splice(10..10, [0, 0]);
        assert_eq!(read_matrix(&second), Ok(([2, 3], VALUES.to_vec())));
    }

    #[test]
    fn other_files_are_errors_that_name_the_field() {
        for (header, expected) in [
            (
                "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 3)}",
                "descr: expected '<f4'",
            ),
            (
                "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3)}",
                "descr: expected '<f4', found records",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}",
                "shape: expected a matrix (classes, values), found [6]",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4)}",
                "data: expected the bytes of 2 x 4 values, found 24",
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
            let error = read_matrix(&file(header, &data())).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        let whole = file(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}",
            &data(),
        );
        for length in 0..whole.len() {
            assert!(read_matrix(&whole[..length]).is_err(), "{length}");
        }
    }
}
