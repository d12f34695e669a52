//! A pickle machine that executes nothing.
//!
//! It knows the opcodes of protocols 2 to 5 that `torch.save` and TorchScript write. Calls to the
//! few functions that describe tensors and ordered dictionaries are interpreted; every other
//! global becomes a [`Node::Object`] with its name, and nothing is ever called.
//!
//! Values live in one flat arena and refer to each other by index: the machine has no recursion,
//! cycles leak nothing, and a [`Budget`] bounds the memory, copies included.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use safetensors::Dtype;

use crate::budget::Budget;

/// Bytes of pickle; a training checkpoint of ViT-L has half a megabyte.
pub(crate) const MAX_BYTES: u64 = 16 << 20;
/// Bytes in the name of a global, or in the key of a storage.
const MAX_NAME: usize = 1 << 10;
/// Open marks: the nesting of lists, tuples and dictionaries.
const MAX_DEPTH: usize = 1 << 10;
/// Dimensions of a tensor.
const MAX_DIMENSIONS: usize = 16;

/// A value on the machine's stack.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    None,
    Bool,
    Int(i64),
    Float(f64),
    Node(usize),
}

/// A value that is too large for the stack, or shared.
#[derive(Debug)]
pub(crate) enum Node {
    Text(Arc<str>),
    List(Vec<Value>),
    Tuple(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// A function or class by its dotted name.
    Global(Arc<str>),
    Storage(Arc<StorageRef>),
    Tensor(TensorRef),
    /// An object of an unknown global, with the state that BUILD would set.
    Object {
        global: Arc<str>,
        state: Option<Value>,
    },
    /// Bytes and long integers, which are never part of a tensor.
    Opaque,
}

/// The bytes of a tensor, by their key in the container.
#[derive(Clone, Debug)]
pub(crate) struct StorageRef {
    pub(crate) key: Arc<str>,
    pub(crate) dtype: Dtype,
    pub(crate) elements: u64,
}

/// A view of a storage; offset and strides count elements.
#[derive(Clone, Debug)]
pub(crate) struct TensorRef {
    pub(crate) storage: Arc<StorageRef>,
    pub(crate) offset: u64,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

/// The values of one pickle.
pub(crate) struct Pickle {
    nodes: Vec<Node>,
    pub(crate) root: Value,
    /// Number of bytes read.
    pub(crate) length: u64,
}

impl Pickle {
    pub(crate) fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(index) => self.nodes.get(index),
            _ => None,
        }
    }

    pub(crate) fn text(&self, value: Value) -> Option<&str> {
        match self.node(value) {
            Some(Node::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The value under a text key of a dictionary.
    pub(crate) fn get(&self, dict: Value, key: &str) -> Option<Value> {
        match self.node(dict) {
            Some(Node::Dict(items)) => {
                // The last entry counts, as in Python.
                items
                    .iter()
                    .rev()
                    .find(|(k, _)| self.text(*k) == Some(key))
                    .map(|(_, v)| *v)
            }
            _ => None,
        }
    }

    pub(crate) fn storages(&self) -> impl Iterator<Item = &StorageRef> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Storage(storage) => Some(storage.as_ref()),
            _ => None,
        })
    }
}

/// Reads one pickle up to its STOP. The error does not name the file.
pub(crate) fn read(reader: impl Read, budget: &mut Budget) -> Result<Pickle, String> {
    let mut machine = Machine {
        reader: reader.take(MAX_BYTES),
        budget,
        length: 0,
        deepest: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    match machine.run() {
        Ok(root) => Ok(Pickle {
            nodes: machine.nodes,
            root,
            length: machine.length,
        }),
        Err(reason) if machine.length >= MAX_BYTES => Err(format!(
            "the pickle is longer than {MAX_BYTES} bytes ({reason})"
        )),
        Err(reason) => Err(format!(
            "the pickle cannot be read at byte {}: {reason}",
            machine.length
        )),
    }
}

struct Machine<'a, R> {
    reader: std::io::Take<R>,
    budget: &'a mut Budget,
    length: u64,
    /// The greatest number of values that were on the stack.
    deepest: usize,
    nodes: Vec<Node>,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
}

impl<R: Read> Machine<'_, R> {
    fn run(&mut self) -> Result<Value, String> {
        if self.u8()? != 0x80 {
            return Err("it does not start with a protocol of 2 or above".into());
        }
        let protocol = self.u8()?;
        if !(2..=5).contains(&protocol) {
            return Err(format!("expected protocol 2 to 5, found {protocol}"));
        }
        loop {
            match self.u8()? {
                b'.' => return self.pop(),
                b'(' => {
                    if self.marks.len() >= MAX_DEPTH {
                        return Err(format!("it is nested deeper than {MAX_DEPTH}"));
                    }
                    self.marks.push(self.stack.len());
                }
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.push(top)?;
                }
                b'N' => self.push(Value::None)?,
                0x88 | 0x89 => self.push(Value::Bool)?,
                b'J' => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(value.into()))?;
                }
                b'K' => {
                    let value = self.u8()?;
                    self.push(Value::Int(value.into()))?;
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(value.into()))?;
                }
                0x8a => {
                    let length = self.u8()?.into();
                    self.long(length)?;
                }
                0x8b => {
                    let length = u32::from_le_bytes(self.array()?).into();
                    self.long(length)?;
                }
                b'G' => {
                    let value = f64::from_be_bytes(self.array()?);
                    self.push(Value::Float(value))?;
                }
                // Text, and Python 2's byte strings, which old files use for names.
                0x8c | b'U' => {
                    let length = self.u8()?.into();
                    self.text(length)?;
                }
                b'X' | b'T' => {
                    let length = u32::from_le_bytes(self.array()?).into();
                    self.text(length)?;
                }
                0x8d => {
                    let length = u64::from_le_bytes(self.array()?);
                    self.text(length)?;
                }
                b'C' => {
                    let length = self.u8()?.into();
                    self.opaque_bytes(length)?;
                }
                b'B' => {
                    let length = u32::from_le_bytes(self.array()?).into();
                    self.opaque_bytes(length)?;
                }
                0x8e | 0x96 => {
                    let length = u64::from_le_bytes(self.array()?);
                    self.opaque_bytes(length)?;
                }
                b']' | 0x8f => self.push_node(Node::List(Vec::new()))?,
                b')' => self.push_node(Node::Tuple(Vec::new()))?,
                b'}' => self.push_node(Node::Dict(Vec::new()))?,
                b'l' => {
                    let items = self.pop_mark()?;
                    self.push_node(Node::List(items))?;
                }
                b't' | 0x91 => {
                    let items = self.pop_mark()?;
                    self.push_node(Node::Tuple(items))?;
                }
                opcode @ 0x85..=0x87 => {
                    let count = usize::from(opcode - 0x84);
                    let start = self.floor(count)?;
                    let items = self.split_off(start)?;
                    self.push_node(Node::Tuple(items))?;
                }
                b'd' => {
                    let items = pairs(&self.pop_mark()?)?;
                    self.push_node(Node::Dict(items))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.budget.take_values::<Value>(1)?;
                    self.append(&[item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_mark()?;
                    self.append(&items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.budget.take_values::<Value>(2)?;
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set_items(&items)?;
                }
                b'q' => {
                    let key = self.u8()?.into();
                    self.memoize(key)?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.array()?).into();
                    self.memoize(key)?;
                }
                0x94 => self.memoize(self.memo.len() as u64)?,
                b'h' => {
                    let key = self.u8()?.into();
                    self.recall(key)?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.array()?).into();
                    self.recall(key)?;
                }
                0x95 => drop(self.array::<8>()?),
                b'c' => {
                    let module = self.line()?;
                    let name = self.line()?;
                    self.budget.take(module.len() + name.len() + 1)?;
                    self.push_node(Node::Global(format!("{module}.{name}").into()))?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    self.budget.take(2 * MAX_NAME)?;
                    let global = match (self.node(module), self.node(name)) {
                        (Some(Node::Text(module)), Some(Node::Text(name)))
                            if module.len() <= MAX_NAME && name.len() <= MAX_NAME =>
                        {
                            format!("{module}.{name}")
                        }
                        _ => return Err("expected a short text as the name of a global".into()),
                    };
                    self.push_node(Node::Global(global.into()))?;
                }
                b'R' | 0x81 => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    self.call(callable, arguments)?;
                }
                0x92 => {
                    self.pop()?;
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    self.call(callable, arguments)?;
                }
                b'b' => {
                    let state = self.pop()?;
                    let target = self.top()?;
                    // State matters only on unknown objects. On an ordered dictionary it is torch's
                    // `_metadata`.
                    if let Value::Node(index) = target
                        && let Some(Node::Object { state: slot, .. }) = self.nodes.get_mut(index)
                    {
                        *slot = Some(state);
                    }
                }
                b'Q' => {
                    let identifier = self.pop()?;
                    let node = self.storage(identifier);
                    self.push_node(node)?;
                }
                opcode => {
                    return Err(format!(
                        "opcode 0x{opcode:02x} is not one that torch writes"
                    ));
                }
            }
        }
    }

    /// The result of calling a global that describes tensors; an opaque object for any other.
    fn call(&mut self, callable: Value, arguments: Value) -> Result<(), String> {
        let global = match self.node(callable) {
            Some(Node::Global(global)) => global.clone(),
            Some(Node::Object { global, .. }) => global.clone(),
            _ => return Err("expected a global to be called, found another value".into()),
        };
        // A tensor has up to MAX_DIMENSIONS sizes and strides, wherever it is copied from.
        self.budget.take(2 * MAX_DIMENSIONS * size_of::<usize>())?;
        let arguments = match self.node(arguments) {
            Some(Node::Tuple(arguments)) => arguments.as_slice(),
            _ => &[],
        };
        let known = match (&*global, arguments) {
            ("collections.OrderedDict", []) => Some(Node::Dict(Vec::new())),
            ("collections.OrderedDict", [items]) => {
                let items = *items;
                let count = match self.node(items) {
                    Some(Node::List(items)) => items.len(),
                    _ => 0,
                };
                self.budget.take_values::<(Value, Value)>(count)?;
                self.pair_list(items).map(Node::Dict)
            }
            (
                "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor",
                [storage, offset, shape, strides, ..],
            ) => self
                .tensor(*storage, *offset, *shape, *strides)
                .map(Node::Tensor),
            ("torch._utils._rebuild_parameter", [data, ..]) => match self.node(*data) {
                Some(Node::Tensor(tensor)) => Some(Node::Tensor(tensor.clone())),
                Some(Node::Object { global, .. }) => Some(Node::Object {
                    global: global.clone(),
                    state: None,
                }),
                _ => None,
            },
            _ => None,
        };
        self.push_node(known.unwrap_or(Node::Object {
            global,
            state: None,
        }))
    }

    fn pair_list(&self, items: Value) -> Option<Vec<(Value, Value)>> {
        let Some(Node::List(items)) = self.node(items) else {
            return None;
        };
        let pair = |item: &Value| match self.node(*item) {
            Some(Node::Tuple(pair) | Node::List(pair)) => match pair.as_slice() {
                [key, value] => Some((*key, *value)),
                _ => None,
            },
            _ => None,
        };
        items.iter().map(pair).collect()
    }

    fn tensor(
        &self,
        storage: Value,
        offset: Value,
        shape: Value,
        strides: Value,
    ) -> Option<TensorRef> {
        let Some(Node::Storage(storage)) = self.node(storage) else {
            return None;
        };
        let Value::Int(offset) = offset else {
            return None;
        };
        let sizes = |value| match self.node(value) {
            Some(Node::Tuple(items) | Node::List(items)) if items.len() <= MAX_DIMENSIONS => items
                .iter()
                .map(|item| match item {
                    Value::Int(size) => usize::try_from(*size).ok(),
                    _ => None,
                })
                .collect::<Option<Vec<usize>>>(),
            _ => None,
        };
        let (shape, strides) = (sizes(shape)?, sizes(strides)?);
        (shape.len() == strides.len()).then_some(TensorRef {
            storage: storage.clone(),
            offset: u64::try_from(offset).ok()?,
            shape,
            strides,
        })
    }

    /// `("storage", type, key, location, elements, ...)`; anything else becomes an object.
    fn storage(&self, identifier: Value) -> Node {
        let unknown = |global: &str| Node::Object {
            global: global.into(),
            state: None,
        };
        let Some(Node::Tuple(items)) = self.node(identifier) else {
            return unknown("a persistent id that is not a tuple");
        };
        // The sixth item describes views in files that were written before PyTorch 0.4.
        let [tag, class, key, _, Value::Int(elements), rest @ ..] = items.as_slice() else {
            return unknown("a persistent id that is not a storage");
        };
        let (Some(Node::Text(tag)), Some(Node::Global(class)), Some(Node::Text(key))) =
            (self.node(*tag), self.node(*class), self.node(*key))
        else {
            return unknown("a persistent id that is not a storage");
        };
        match (storage_dtype(class), u64::try_from(*elements), rest) {
            (Some(dtype), Ok(elements), [] | [Value::None])
                if &**tag == "storage" && key.len() <= MAX_NAME =>
            {
                Node::Storage(Arc::new(StorageRef {
                    key: key.clone(),
                    dtype,
                    elements,
                }))
            }
            _ => unknown(class),
        }
    }

    fn u8(&mut self) -> Result<u8, String> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.reader
            .read_exact(&mut bytes)
            .map_err(|error| error.to_string())?;
        self.length += N as u64;
        Ok(bytes)
    }

    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let found = (&mut self.reader).take(length).read_to_end(&mut bytes);
        self.length += bytes.len() as u64;
        match found {
            Ok(found) if found as u64 == length => Ok(bytes),
            Ok(found) => Err(format!("expected {length} more bytes, found {found}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn text(&mut self, length: u64) -> Result<(), String> {
        let bytes = self.bytes(length)?;
        // Each byte that is no UTF-8 becomes three.
        let growth = if bytes.is_ascii() { 1 } else { 3 };
        self.budget.take(growth * bytes.len())?;
        self.push_node(Node::Text(String::from_utf8_lossy(&bytes).into()))
    }

    fn opaque_bytes(&mut self, length: u64) -> Result<(), String> {
        self.bytes(length)?;
        self.push_node(Node::Opaque)
    }

    /// A little-endian two's complement integer of any length.
    fn long(&mut self, length: u64) -> Result<(), String> {
        let bytes = self.bytes(length)?;
        if bytes.len() > 8 {
            return self.push_node(Node::Opaque);
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut all = [if negative { 0xff } else { 0 }; 8];
        all.iter_mut()
            .zip(&bytes)
            .for_each(|(to, from)| *to = *from);
        self.push(Value::Int(i64::from_le_bytes(all)))
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = Vec::new();
        loop {
            match self.u8()? {
                b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
                _ if line.len() >= MAX_NAME => return Err("a global's name is too long".into()),
                byte => line.push(byte),
            }
        }
    }

    fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(index) => self.nodes.get(index),
            _ => None,
        }
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        if self.stack.len() >= self.deepest {
            self.budget.take_values::<Value>(1)?;
            self.deepest += 1;
        }
        self.stack.push(value);
        Ok(())
    }

    /// Adds a value to the arena. What it holds in memory of its own has been taken from the budget.
    fn push_node(&mut self, node: Node) -> Result<(), String> {
        self.budget.take_values::<Node>(1)?;
        self.nodes.push(node);
        self.push(Value::Node(self.nodes.len() - 1))
    }

    /// Where the topmost `count` values start, none of them below the last mark.
    fn floor(&self, count: usize) -> Result<usize, String> {
        let mark = self.marks.last().copied().unwrap_or(0);
        self.stack
            .len()
            .checked_sub(count)
            .filter(|start| *start >= mark)
            .ok_or_else(|| "its stack is empty".into())
    }

    fn top(&self) -> Result<Value, String> {
        self.stack
            .get(self.floor(1)?)
            .copied()
            .ok_or_else(|| "its stack is empty".into())
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.floor(1)?;
        self.stack.pop().ok_or_else(|| "its stack is empty".into())
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        self.split_off(mark)
    }

    /// The values from `start` on, off the stack.
    fn split_off(&mut self, start: usize) -> Result<Vec<Value>, String> {
        self.budget
            .take_values::<Value>(self.stack.len().saturating_sub(start))?;
        Ok(self.stack.split_off(start))
    }

    fn memoize(&mut self, key: u64) -> Result<(), String> {
        let top = self.top()?;
        if !self.memo.contains_key(&key) {
            // A hash table that grows holds its entries twice for a while.
            self.budget.take_values::<[(u64, Value); 2]>(1)?;
        }
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        let value = *self
            .memo
            .get(&key)
            .ok_or_else(|| format!("memo {key} is not set"))?;
        self.push(value)
    }

    fn append(&mut self, items: &[Value]) -> Result<(), String> {
        match self.top_node()? {
            Node::List(list) => list.extend_from_slice(items),
            // A list's subclass: opaque, whatever is in it.
            Node::Object { .. } => {}
            _ => return Err("expected a list to append to, found another value".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Value]) -> Result<(), String> {
        let items = pairs(items)?;
        match self.top_node()? {
            Node::Dict(dict) => dict.extend(items),
            Node::Object { .. } => {}
            _ => return Err("expected a dictionary to set an item of, found another value".into()),
        }
        Ok(())
    }

    fn top_node(&mut self) -> Result<&mut Node, String> {
        match self.top()? {
            Value::Node(index) => self.nodes.get_mut(index),
            _ => None,
        }
        .ok_or_else(|| "expected a container, found a plain value".into())
    }
}

fn pairs(items: &[Value]) -> Result<Vec<(Value, Value)>, String> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("a dictionary has a key without a value".into());
    }
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}

fn storage_dtype(class: &str) -> Option<Dtype> {
    let name = class.strip_prefix("torch.")?;
    // CUDA tensors keep their class's module in files of PyTorch before 0.4.
    let name = name.strip_prefix("cuda.").unwrap_or(name);
    Some(match name {
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "DoubleStorage" => Dtype::F64,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        "ComplexFloatStorage" => Dtype::C64,
        _ => return None,
    })
}
