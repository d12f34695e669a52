//! The zip archives that `torch.save` and TorchScript write.

use std::collections::BTreeMap;
use std::sync::Arc;

use rawzip::{CompressionMethod, MAX_CENTRAL_DIRECTORY_RECORD_SIZE, ZipLocator};

use crate::Error;
use crate::storage::{Source, Storage};

/// A model has one entry per tensor and a few dozen others.
const MAX_ENTRIES: usize = 1 << 17;
/// The largest tensor of any CLIP model is below half of this.
const MAX_INFLATED: u64 = 1 << 30;
/// How many times its own size an archive may inflate to, beside [`INFLATED_ALLOWANCE`]. Trained weights deflate by a
/// tenth.
const MAX_RATIO: u64 = 16;
/// What every archive may inflate to: small tables of zeros deflate a thousandfold.
const INFLATED_ALLOWANCE: u64 = 64 << 20;

/// The entries of a zip archive by name, each checked to lie inside the file and to overlap no
/// other.
pub(crate) fn entries(source: &Arc<Source>) -> Result<BTreeMap<String, Arc<Storage>>, Error> {
    let path = source.path();
    let damaged = |error: rawzip::Error| {
        Error::malformed(
            path,
            format!("the zip archive is damaged or cut short: {error}"),
        )
    };
    let mut buffer = vec![0; MAX_CENTRAL_DIRECTORY_RECORD_SIZE];
    let archive = ZipLocator::new()
        .locate_in_reader(source, &mut buffer, source.length())
        .map_err(|(_, error)| damaged(error))?;
    let expected = archive.entries_hint();
    let mut found = BTreeMap::new();
    let mut inflated = 0;
    let mut iterator = archive.entries(&mut buffer);
    while let Some(entry) = iterator.next_entry().map_err(damaged)? {
        let name = String::from_utf8_lossy(entry.file_path().as_bytes()).into_owned();
        let wrong = |reason: String| Error::malformed(path, format!("zip entry {name}: {reason}"));
        let length = entry.uncompressed_size_hint();
        let (start, end) = archive
            .get_entry(entry.wayfinder())
            .map_err(damaged)?
            .compressed_data_range();
        if end > source.length() {
            return Err(wrong(format!(
                "expected {} bytes at {start}, but the file ends at {}",
                end - start,
                source.length()
            )));
        }
        if entry.flags().is_encrypted() {
            return Err(wrong("is encrypted".into()));
        }
        let deflated = match entry.compression_method() {
            CompressionMethod::STORE if length == end - start => None,
            CompressionMethod::STORE => {
                return Err(wrong(format!(
                    "{length} bytes are stored in {}",
                    end - start
                )));
            }
            CompressionMethod::DEFLATE => Some(end - start),
            other => {
                return Err(wrong(format!(
                    "unknown compression method {}",
                    other.as_u16()
                )));
            }
        };
        if let Some(deflated) = deflated {
            if length > MAX_INFLATED {
                return Err(wrong(format!(
                    "inflates from {deflated} to {length} bytes; at most {MAX_INFLATED} are accepted"
                )));
            }
            inflated += length;
            let most = INFLATED_ALLOWANCE.saturating_add(source.length().saturating_mul(MAX_RATIO));
            if inflated > most {
                return Err(Error::malformed(
                    path,
                    format!(
                        "the zip archive of {} bytes inflates to more than {most}; save it again with torch.save, \
                         which does not compress",
                        source.length()
                    ),
                ));
            }
        }
        if found.len() >= MAX_ENTRIES {
            return Err(Error::malformed(
                path,
                format!("the zip archive has more than {MAX_ENTRIES} entries"),
            ));
        }
        let crc = Some(entry.crc32());
        let source = Arc::clone(source);
        let storage = Arc::new(Storage {
            source,
            offset: start,
            length,
            deflated,
            crc,
        });
        if found.insert(name.clone(), storage).is_some() {
            return Err(Error::malformed(
                path,
                format!("zip entry {name} occurs twice"),
            ));
        }
    }
    if found.len() as u64 != expected {
        return Err(Error::malformed(
            path,
            format!("expected {expected} zip entries, found {}", found.len()),
        ));
    }
    check_overlap(source, &found)?;
    Ok(found)
}

fn check_overlap(source: &Source, entries: &BTreeMap<String, Arc<Storage>>) -> Result<(), Error> {
    let mut ranges: Vec<_> = entries
        .iter()
        .map(|(name, entry)| (entry.offset, entry.deflated.unwrap_or(entry.length), name))
        .filter(|(_, length, _)| *length > 0)
        .collect();
    ranges.sort();
    for pair in ranges.windows(2) {
        if let [(offset, length, first), (next, _, second)] = pair
            && offset + length > *next
        {
            return Err(Error::malformed(
                source.path(),
                format!("zip entries {first} and {second} overlap"),
            ));
        }
    }
    Ok(())
}
