//! Opening a file of named tensors in any known format.

use std::path::Path;

use crate::storage::Source;
use crate::{Error, StateDict, locate, safetensors_file, torch};

/// Reads any safetensors or PyTorch file as plain named tensors.
///
/// Supported are `.safetensors`, `torch.save` (zip archives, and the pickle streams of PyTorch
/// before 1.6) and TorchScript archives, recognised by their first bytes. Of a
/// checkpoint with a `state_dict`, that is read; the prefixes `module.` (DataParallel) and `_orig_mod.`
/// (torch.compile) are removed if every name has them. Pickles are never executed.
///
/// # Errors
/// A file that cannot be opened, is damaged, or is none of these.
pub fn read_state_dict(path: &Path) -> Result<StateDict, Error> {
    let source = Source::open(path)?;
    let start = source.bytes(0, 32)?;
    let mut state = if start.starts_with(b"PK") {
        torch::read_zip(&source)?
    } else if start.starts_with(torch::LEGACY_MAGIC) {
        torch::read_legacy(&source)?
    } else if start.get(8) == Some(&b'{') {
        safetensors_file::read(&source)?
    } else {
        let found = locate::describe(path, &start);
        return Err(Error::malformed(
            path,
            format!("expected a .safetensors or a PyTorch file, found {found}"),
        ));
    };
    state.strip_prefixes();
    Ok(state)
}
