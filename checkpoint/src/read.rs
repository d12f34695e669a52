//! Opening a file of named tensors in any known format.

use std::path::Path;

use crate::storage::Source;
use crate::wrapper::{Dictionaries, Scalar};
use crate::{Error, StateDict, locate, numpy, safetensors_file, torch};

/// Reads any safetensors or PyTorch file as plain named tensors.
///
/// Supported are `.safetensors`, `torch.save` (zip archives, and the pickle streams of PyTorch
/// before 1.6), TorchScript archives, and NumPy's `.npz` and `.npy`, recognised by their first bytes. Of a
/// checkpoint with a `state_dict`, that is read. The prefixes `module.` (DataParallel), `_orig_mod.`
/// (torch.compile), `model.` and `clip.` are removed if every name has them. Pickles are never executed.
///
/// # Errors
/// A file that cannot be opened, is damaged, or is none of these.
pub fn read_state_dict(path: &Path) -> Result<StateDict, Error> {
    read_dictionaries(path)?.plain()
}

/// All tensors, numbers and texts of a file of these formats, by their dotted keys where dictionaries are inside of others.
///
/// # Errors
/// As [`read_state_dict`].
pub(crate) fn read_flat(path: &Path) -> Result<(StateDict, Vec<(String, Scalar)>), Error> {
    read_dictionaries(path)?.flat()
}

/// The dictionaries of tensors in a file of these formats.
///
/// # Errors
/// As [`read_state_dict`].
pub(crate) fn read_dictionaries(path: &Path) -> Result<Dictionaries, Error> {
    let source = Source::open(path)?;
    let start = source.bytes(0, 32)?;
    if start.starts_with(b"PK") {
        match numpy::read_npz(&source)? {
            Some(arrays) => Ok(Dictionaries::from(arrays)),
            None => torch::read_zip(&source),
        }
    } else if start.starts_with(numpy::MAGIC) {
        Ok(Dictionaries::from(numpy::read_npy(&source)?))
    } else if start.starts_with(torch::LEGACY_MAGIC) {
        torch::read_legacy(&source)
    } else if start.get(8) == Some(&b'{') {
        Ok(Dictionaries::from(safetensors_file::read(&source)?))
    } else {
        let found = locate::describe(path, &start);
        Err(Error::malformed(
            path,
            format!("expected a .safetensors or a PyTorch file, found {found}"),
        ))
    }
}
