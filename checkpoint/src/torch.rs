//! PyTorch files: zip archives by `torch.save` and TorchScript, and the pickle streams that
//! `torch.save` wrote before PyTorch 1.6.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use crate::budget::Budget;
use crate::pickle::{self, Node, Pickle, Value};
use crate::state_dict::{Entry, StateDict, View};
use crate::storage::{Source, Storage};
use crate::wrapper::{Dictionaries, Scalar};
use crate::{Error, TensorInfo, archive};

/// First bytes of a legacy file: protocol 2, then torch's magic number as a ten-byte integer.
pub(crate) const LEGACY_MAGIC: &[u8] = &[
    0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19,
];
const LEGACY_VERSION: i64 = 1001;
const MAX_TENSORS: usize = 1 << 16;
const MAX_NAME: usize = 1 << 10;
/// Dictionaries inside dictionaries: a training's checkpoint has the model at the second level.
const MAX_DICTIONARY_DEPTH: usize = 4;
/// Modules inside modules; CLIP has seven levels.
const MAX_MODULE_DEPTH: usize = 32;

/// Reads a zip archive: the layout is `<folder>/data.pkl` with storages in `<folder>/data/<key>`.
pub(crate) fn read_zip(source: &Arc<Source>) -> Result<Dictionaries, Error> {
    let path = source.path();
    let entries = archive::entries(source)?;
    let is_root = |name: &&String| {
        name.strip_suffix("data.pkl")
            .is_some_and(|f| f.is_empty() || f.find('/') == Some(f.len() - 1))
    };
    let mut roots = entries.keys().filter(is_root);
    let (Some(root), None) = (roots.next(), roots.next()) else {
        return Err(Error::malformed(
            path,
            "expected a zip archive with one data.pkl, as torch.save writes it",
        ));
    };
    let folder = root.strip_suffix("data.pkl").unwrap_or("");
    let whole = |name: String, limit: u64| -> Result<Option<Vec<u8>>, Error> {
        let Some(entry) = entries.get(&name) else {
            return Ok(None);
        };
        if entry.length > limit {
            return Err(Error::malformed(
                path,
                format!(
                    "{name} has {} bytes; at most {limit} are accepted",
                    entry.length
                ),
            ));
        }
        let mut bytes = Vec::new();
        entry.read(0, entry.length, |piece| bytes.extend_from_slice(piece))?;
        Ok(Some(bytes))
    };
    if let Some(order) = whole(format!("{folder}byteorder"), 16)?
        && order != b"little"
    {
        return Err(Error::malformed(
            path,
            format!(
                "expected byte order little, found {}",
                String::from_utf8_lossy(&order)
            ),
        ));
    }
    let bytes = whole(root.clone(), pickle::MAX_BYTES)?.unwrap_or_default();
    let mut budget = Budget::new();
    let pickle = pickle::read(bytes.as_slice(), &mut budget)
        .map_err(|reason| Error::malformed(path, format!("{root}: {reason}")))?;
    let storage = |key: &str| {
        entries
            .get(&format!("{folder}data/{key}"))
            .cloned()
            .ok_or_else(|| format!("its data, {folder}data/{key}, is missing from the archive"))
    };
    dictionaries(&pickle, path, storage, &mut budget)
}

/// Reads a legacy file: pickles of the magic number, the version, the machine, the object and the
/// storages' keys, then for each key the number of elements (i64) and the elements.
pub(crate) fn read_legacy(source: &Arc<Source>) -> Result<Dictionaries, Error> {
    let path = source.path();
    let mut position = 0;
    let mut budget = Budget::new();
    let mut next = |what: &str| -> Result<Pickle, Error> {
        let reader = BufReader::new(source.reader(position, pickle::MAX_BYTES));
        let pickle = pickle::read(reader, &mut budget)
            .map_err(|reason| Error::malformed(path, format!("{what}: {reason}")))?;
        position += pickle.length;
        Ok(pickle)
    };
    next("magic number")?;
    let version = next("version")?;
    if !matches!(version.root, Value::Int(LEGACY_VERSION)) {
        return Err(Error::malformed(
            path,
            format!(
                "expected torch.save version {LEGACY_VERSION}, found {:?}",
                version.root
            ),
        ));
    }
    next("machine")?;
    let pickle = next("object")?;
    let keys = next("storage keys")?;
    let Some(Node::List(list)) = keys.node(keys.root) else {
        return Err(Error::malformed(path, "expected a list of storage keys"));
    };
    let known: HashMap<&str, _> = pickle
        .storages()
        .map(|storage| (&*storage.key, storage))
        .collect();
    let mut storages = HashMap::new();
    for key in list {
        let key = keys
            .text(*key)
            .ok_or_else(|| Error::malformed(path, "expected storage keys to be text"))?;
        let wrong = |reason: String| Error::malformed(path, format!("storage {key}: {reason}"));
        let Some(storage) = known.get(key) else {
            return Err(wrong(
                "its type is unknown, so what follows it cannot be found".into(),
            ));
        };
        let header = source.bytes(position, 8)?;
        let Ok(header) = <[u8; 8]>::try_from(header) else {
            return Err(wrong(format!("the file ends at {}", source.length())));
        };
        let elements = u64::from_le_bytes(header);
        if elements != storage.elements {
            return Err(wrong(format!(
                "expected {} elements, found {elements}",
                storage.elements
            )));
        }
        let offset = position + 8;
        let length = elements.checked_mul(storage.dtype.bitsize() as u64 / 8);
        let end = length.and_then(|length| offset.checked_add(length));
        let (Some(length), Some(end)) = (length, end.filter(|end| *end <= source.length())) else {
            return Err(wrong(format!(
                "expected {elements} elements at {offset}, but the file ends at {}",
                source.length()
            )));
        };
        let source = Arc::clone(source);
        let storage = Storage {
            source,
            offset,
            length,
            deflated: None,
            crc: None,
        };
        storages.insert(key.to_owned(), Arc::new(storage));
        position = end;
    }
    let storage = |key: &str| {
        storages
            .get(key)
            .cloned()
            .ok_or_else(|| format!("its storage {key} is not in the file"))
    };
    dictionaries(&pickle, path, storage, &mut budget)
}

/// The dictionaries of tensors in a file: a state dict, those of a checkpoint around one, or a TorchScript module.
fn dictionaries(
    pickle: &Pickle,
    path: &Path,
    storage: impl Fn(&str) -> Result<Arc<Storage>, String>,
    budget: &mut Budget,
) -> Result<Dictionaries, Error> {
    let malformed = |reason| Error::malformed(path, reason);
    let root = pickle.root;
    let mut found = Dictionaries::new(path);
    match pickle.node(root) {
        Some(Node::Dict(items)) => {
            let keys = items.iter().filter_map(|(key, _)| pickle.text(*key));
            found.set_keys(keys);
            let state_dict = pickle.get(root, "state_dict");
            if let Some(Node::Object { global, .. }) = state_dict.and_then(|v| pickle.node(v)) {
                return Err(only_code_can_read(path, global));
            }
            for (name, values) in walk_dictionaries(pickle, root, budget).map_err(malformed)? {
                for (key, value) in &values {
                    if let Some(scalar) = scalar(pickle, *value) {
                        found.push_scalar(&name, key, scalar);
                    }
                }
                let entries = entries(pickle, path, values, &storage)?;
                found.push(name, StateDict::new(path, entries));
            }
        }
        Some(Node::Object {
            state: Some(_),
            global,
        }) if global.starts_with("__torch__.") => {
            let mut values = vec![];
            walk_modules(pickle, root, &mut values, budget).map_err(malformed)?;
            let entries = entries(pickle, path, values, &storage)?;
            found.push(String::new(), StateDict::new(path, entries));
        }
        Some(Node::Object { global, .. }) => return Err(only_code_can_read(path, global)),
        // One tensor alone, which gets the name of the file.
        Some(Node::Tensor(_)) => {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let entries = entries(pickle, path, vec![(name.into_owned(), root)], &storage)?;
            found.push(String::new(), StateDict::new(path, entries));
        }
        _ => return Err(Error::malformed(path, "expected a dictionary of tensors")),
    }
    Ok(found)
}

fn scalar(pickle: &Pickle, value: Value) -> Option<Scalar> {
    match value {
        Value::Int(value) => Some(Scalar::Number(value as f64)),
        Value::Float(value) => Some(Scalar::Number(value)),
        _ => {
            let text = pickle.text(value).filter(|text| text.len() <= MAX_NAME);
            text.map(|text| Scalar::Text(text.to_owned()))
        }
    }
}

fn only_code_can_read(path: &Path, global: &str) -> Error {
    Error::malformed(
        path,
        format!(
            "expected a state dict, found an object of {global}, which only its own code can read; save \
             model.state_dict() instead"
        ),
    )
}

/// The tensors among the values of a dictionary, by name.
fn entries(
    pickle: &Pickle,
    path: &Path,
    values: Vec<(String, Value)>,
    storage: &impl Fn(&str) -> Result<Arc<Storage>, String>,
) -> Result<BTreeMap<String, Entry>, Error> {
    let mut entries = BTreeMap::new();
    for (name, value) in values {
        let entry = match pickle.node(value) {
            Some(Node::Tensor(tensor)) => {
                let wrong = |reason| Error::malformed(path, format!("tensor {name}: {reason}"));
                let storage = storage(&tensor.storage.key).map_err(wrong)?;
                let info = TensorInfo {
                    dtype: tensor.storage.dtype,
                    shape: tensor.shape.clone(),
                };
                let expected = (tensor.storage.elements)
                    .checked_mul(tensor.storage.dtype.bitsize() as u64 / 8);
                if expected != Some(storage.length) {
                    return Err(wrong(format!(
                        "expected {} elements of {}, found {} bytes",
                        tensor.storage.elements, tensor.storage.dtype, storage.length
                    )));
                }
                let view = View::strided(tensor, storage).map_err(wrong)?;
                Entry::Tensor { info, view }
            }
            Some(Node::Object { global, .. }) => Entry::Unknown {
                global: Arc::clone(global),
            },
            // Numbers, text and the like are no parameters.
            _ => continue,
        };
        entries.insert(name, entry);
    }
    Ok(entries)
}

/// A dictionary's dotted keys, and its values by key.
type NamedDictionary = (String, Vec<(String, Value)>);

/// The dictionary at `root` and the dictionaries in it, except those without text keys.
fn walk_dictionaries(
    pickle: &Pickle,
    root: Value,
    budget: &mut Budget,
) -> Result<Vec<NamedDictionary>, String> {
    let mut found = vec![];
    let mut todo = VecDeque::from([(String::new(), root, 0)]);
    // Each is walked once, as modules are.
    let mut seen = HashSet::new();
    let mut names = 0;
    while let Some((path, dictionary, depth)) = todo.pop_front() {
        let Some(Node::Dict(items)) = pickle.node(dictionary) else {
            continue;
        };
        let mut values = vec![];
        for (key, value) in items {
            let Some(key) = pickle.text(*key) else {
                continue;
            };
            values.push((dotted("", key, names, budget)?, *value));
            names += 1;
            if let (Some(Node::Dict(_)), Value::Node(index)) = (pickle.node(*value), *value)
                && depth < MAX_DICTIONARY_DEPTH
                && seen.insert(index)
            {
                todo.push_back((dotted(&path, key, names, budget)?, *value, depth + 1));
            }
        }
        found.push((path, values));
    }
    Ok(found)
}

/// Collects the tensors of a TorchScript module and the modules in it, by dotted names.
fn walk_modules(
    pickle: &Pickle,
    root: Value,
    found: &mut Vec<(String, Value)>,
    budget: &mut Budget,
) -> Result<(), String> {
    let mut todo = vec![(String::new(), root, 0)];
    // Each module is walked once: a small file could otherwise describe a huge tree, or a cycle.
    let mut seen = HashSet::new();
    while let Some((prefix, module, depth)) = todo.pop() {
        let Some(Node::Object {
            state: Some(state), ..
        }) = pickle.node(module)
        else {
            continue;
        };
        let Some(Node::Dict(attributes)) = pickle.node(*state) else {
            continue;
        };
        if depth > MAX_MODULE_DEPTH {
            return Err(format!("modules are nested deeper than {MAX_MODULE_DEPTH}"));
        }
        for (key, value) in attributes {
            let Some(key) = pickle.text(*key) else {
                continue;
            };
            match (pickle.node(*value), *value) {
                (Some(Node::Tensor(_)), _) => {
                    found.push((dotted(&prefix, key, found.len(), budget)?, *value));
                }
                (
                    Some(Node::Object {
                        state: Some(_),
                        global,
                    }),
                    Value::Node(index),
                ) if global.starts_with("__torch__.") && seen.insert(index) => {
                    todo.push((dotted(&prefix, key, seen.len(), budget)?, *value, depth + 1));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The full name. Its length is checked before it is copied, because one long text may be in many names.
fn dotted(prefix: &str, name: &str, others: usize, budget: &mut Budget) -> Result<String, String> {
    if prefix.len() + name.len() > MAX_NAME || others > MAX_TENSORS {
        return Err(format!(
            "more than {MAX_TENSORS} names, or one of more than {MAX_NAME} bytes"
        ));
    }
    // The name, and what is kept with it.
    budget.take(prefix.len() + name.len() + 2 * size_of::<(String, Entry)>())?;
    Ok(if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    })
}
