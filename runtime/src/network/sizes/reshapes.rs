//! Sizes of operators that arrange values: reshapes, slices, pads, gathers, constants.

use super::known::strides;
use super::{Computed, Known, Node, Value, axis, broadcast, count};
use crate::network::attributes;

pub(super) fn compute(node: &Node) -> Result<Computed, String> {
    match &*node.proto.op_type {
        "Transpose" => transpose(node),
        "Reshape" => reshape(node),
        "Flatten" => {
            let shape = node.shape(0)?;
            // The axis may be behind the last dimension.
            let split = match node.integer("axis", 1) {
                last if last == shape.len() as i64 => shape.len(),
                other => axis(other, shape.len())?,
            };
            let product = |part: &[usize]| count(part).map(|n| n as usize);
            Ok(Computed::one(vec![
                product(&shape[..split])?,
                product(&shape[split..])?,
            ]))
        }
        "Squeeze" => squeeze(node),
        "Unsqueeze" => unsqueeze(node),
        "Concat" => concat(node),
        "Split" => split(node),
        "Slice" => slice(node),
        "Gather" => gather(node),
        "GatherElements" => {
            if node.shape(0)?.len() != node.shape(1)?.len() {
                return node.refuse(1, "as many dimensions as the input");
            }
            node.axis(0, node.shape(0)?.len())?;
            Ok(Computed::one(node.shape(1)?.to_vec()))
        }
        "GatherND" => gather_nd(node),
        "ScatterElements" => {
            let (data, indices) = (node.shape(0)?, node.shape(1)?);
            if data.len() != indices.len() || indices != node.shape(2)? {
                return node.refuse(
                    1,
                    "the shape of the updates, with as many dimensions as the input",
                );
            }
            node.axis(0, data.len())?;
            Ok(Computed::one(data.to_vec()))
        }
        "ScatterND" => {
            let (data, indices, updates) = (node.shape(0)?, node.shape(1)?, node.shape(2)?);
            match indices.split_last() {
                Some((&depth, rows))
                    if depth <= data.len() && [rows, &data[depth..]].concat() == updates =>
                {
                    Ok(Computed::one(data.to_vec()))
                }
                _ => node.refuse(
                    1,
                    "indices whose last dimension is at most the input's rank, and updates to fit",
                ),
            }
        }
        "Expand" => {
            let shape = broadcast([node.shape(0)?, &positive(node, 1, "shape")?])?;
            let known = node.input(0)?.known.as_ref();
            let one = known.filter(|known| known.values.len() == 1);
            let values =
                (count(&shape)? <= 1024).then(|| one?.at((0..count(&shape).ok()?).map(|_| 0)));
            Ok(Computed::known(shape, values.flatten()))
        }
        "Tile" => {
            let shape = node.shape(0)?;
            let repeats = positive(node, 1, "repeats")?;
            if repeats.len() != shape.len() {
                return Err(format!(
                    "repeats: expected {} of them, found {repeats:?}",
                    shape.len()
                ));
            }
            let tiled = shape
                .iter()
                .zip(&repeats)
                .map(|(d, n)| d.saturating_mul(*n));
            Ok(Computed::one(tiled.collect()))
        }
        "Pad" => pad(node),
        "Shape" => {
            let shape = node.shape(0)?;
            let bound = |name: &str, default: usize| {
                let rank = shape.len() as i64;
                let at = node.integer(name, default as i64);
                (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize
            };
            let (start, end) = (bound("start", 0), bound("end", shape.len()));
            let sizes = shape.get(start..end).unwrap_or(&[]);
            let known = Known::of_integers(sizes.iter().map(|&d| d as i64));
            Ok(fixed(vec![sizes.len()], known))
        }
        "Size" => {
            let known = Known::of_integers([count(node.shape(0)?)? as i64]);
            Ok(fixed(vec![], known))
        }
        "Range" => range(node),
        "ConstantOfShape" => {
            let shape = positive(node, 0, "shape")?;
            let value = attributes::find(node.proto, "value").and_then(|a| a.t.as_ref());
            let known = match value {
                Some(tensor) => Known::of_tensor(tensor),
                None => Known::of_integers([0]).map(|zero| Known {
                    integer: false,
                    ..zero
                }),
            };
            if known.as_ref().is_some_and(|known| known.values.len() != 1) {
                return Err("value: expected one value".into());
            }
            let length = count(&shape)?;
            let values = known
                .filter(|_| length <= 1024)
                .and_then(|one| one.at((0..length).map(|_| 0)));
            Ok(Computed::known(shape, values))
        }
        "Constant" => constant(node),
        "DepthToSpace" | "SpaceToDepth" => blocks(node),
        other => Err(format!(
            "expected an operator of image encoders whose size can be computed, found {other}; export the encoder \
             with standard operators and a fixed input, or take it out of the graph"
        )),
    }
}

/// A value that depends on no image, because it depends only on shapes.
fn fixed(shape: Vec<usize>, known: Option<Known>) -> Computed {
    let value = Value {
        shape,
        known,
        constant: true,
    };
    Computed {
        outputs: vec![value],
        products: 0,
    }
}

/// A constant input of sizes from 0.
fn positive(node: &Node, index: usize, name: &str) -> Result<Vec<usize>, String> {
    let sizes = node.integers(index)?;
    let converted: Option<Vec<usize>> = sizes.iter().map(|&d| usize::try_from(d).ok()).collect();
    converted.ok_or_else(|| format!("{name}: expected numbers from 0, found {sizes:?}"))
}

fn transpose(node: &Node) -> Result<Computed, String> {
    let input = node.input(0)?;
    let rank = input.shape.len();
    let perm = match attributes::find(node.proto, "perm") {
        Some(perm) => perm.ints.clone(),
        None => (0..rank as i64).rev().collect(),
    };
    if perm.len() != rank {
        return Err(format!("perm: expected {rank} dimensions, found {perm:?}"));
    }
    let mut from = Vec::with_capacity(rank);
    for &axis in &perm {
        match usize::try_from(axis) {
            Ok(axis) if axis < rank && !from.contains(&axis) => from.push(axis),
            _ => {
                let last = rank as i64 - 1;
                return Err(format!(
                    "perm: expected each of 0 to {last} once, found {perm:?}"
                ));
            }
        }
    }
    let shape: Vec<usize> = from.iter().map(|&axis| input.shape[axis]).collect();
    let strides = strides(&input.shape);
    let strides: Vec<isize> = from.iter().map(|&axis| strides[axis]).collect();
    let known = input.known.as_ref();
    let known = known.and_then(|known| known.view(0, &shape, &strides));
    Ok(Computed::known(shape, known))
}

fn reshape(node: &Node) -> Result<Computed, String> {
    let input = node.input(0)?;
    let total = count(&input.shape)?;
    let sizes = node.integers(1)?;
    let zero_copies = node.integer("allowzero", 0) == 0;
    let mut shape = Vec::with_capacity(sizes.len());
    let mut inferred = None;
    for (i, &size) in sizes.iter().enumerate() {
        shape.push(match size {
            0 if zero_copies => *(input.shape.get(i)).ok_or_else(|| {
                format!(
                    "shape: expected {} sizes or no 0, found {sizes:?}",
                    input.shape.len()
                )
            })?,
            -1 if inferred.is_none() => {
                inferred = Some(i);
                1
            }
            0.. => size as usize,
            _ => {
                return Err(format!(
                    "shape: expected sizes and one -1 at most, found {sizes:?}"
                ));
            }
        });
    }
    let rest = count(&shape)?;
    if let Some(at) = inferred
        && rest > 0
    {
        shape[at] = (total / rest) as usize;
    }
    if count(&shape)? != total {
        return Err(format!(
            "shape: expected {total} values as in the shape {:?}, found {sizes:?}",
            input.shape
        ));
    }
    Ok(Computed::known(shape, input.known.clone()))
}

/// The axes of Squeeze and Unsqueeze in a value of `rank`, ascending.
fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    let axes = list.iter().map(|&a| axis(a, rank));
    let mut axes = axes.collect::<Result<Vec<usize>, _>>()?;
    axes.sort_unstable();
    match axes.windows(2).any(|pair| pair[0] == pair[1]) {
        false => Ok(axes),
        true => Err(format!("axes: expected each once, found {list:?}")),
    }
}

fn squeeze(node: &Node) -> Result<Computed, String> {
    let input = node.input(0)?;
    let mut shape = input.shape.clone();
    match node.list("axes", 1)? {
        None => shape.retain(|&d| d != 1),
        Some(list) => {
            for axis in axes(&list, shape.len())?.into_iter().rev() {
                if shape.remove(axis) != 1 {
                    return Err(format!(
                        "axes: expected dimensions of 1 in {:?}, found {list:?}",
                        input.shape
                    ));
                }
            }
        }
    }
    Ok(Computed::known(shape, input.known.clone()))
}

fn unsqueeze(node: &Node) -> Result<Computed, String> {
    let input = node.input(0)?;
    let list = node
        .list("axes", 1)?
        .ok_or("axes: expected some, found none")?;
    let mut shape = input.shape.clone();
    for axis in axes(&list, shape.len() + list.len())? {
        shape.insert(axis, 1);
    }
    Ok(Computed::known(shape, input.known.clone()))
}

fn concat(node: &Node) -> Result<Computed, String> {
    let mut shape = node.shape(0)?.to_vec();
    let axis = node.axis(i64::MAX, shape.len())?;
    for index in 1..node.inputs.len() {
        let other = node.shape(index)?;
        let fits = other.len() == shape.len()
            && (other.iter().zip(&shape).enumerate()).all(|(i, (a, b))| i == axis || a == b);
        if !fits {
            return node.refuse(index, &format!("{shape:?} but for dimension {axis}"));
        }
        shape[axis] = shape[axis].saturating_add(other[axis]);
    }
    let known = (axis == 0)
        .then(|| {
            let parts = node
                .inputs
                .iter()
                .map(|value| value.and_then(|v| v.known.as_ref()));
            let parts = parts.collect::<Option<Vec<_>>>()?;
            let values: Vec<f64> = parts
                .iter()
                .flat_map(|known| &known.values)
                .copied()
                .collect();
            (values.len() <= 1024).then_some(Known {
                values,
                integer: parts.iter().all(|known| known.integer),
            })
        })
        .flatten();
    Ok(Computed::known(shape, known))
}

fn split(node: &Node) -> Result<Computed, String> {
    let input = node.input(0)?;
    let axis = node.axis(0, input.shape.len())?;
    let size = input.shape[axis];
    let outputs = node.proto.output.len();
    let lengths = match node.list("split", 1)? {
        Some(lengths) => lengths,
        None => {
            let each = size.div_ceil(outputs.max(1));
            let last = size as i64 - (each * outputs.saturating_sub(1)) as i64;
            let mut lengths = vec![each as i64; outputs];
            lengths
                .iter_mut()
                .last()
                .into_iter()
                .for_each(|l| *l = last);
            lengths
        }
    };
    let sum = lengths
        .iter()
        .try_fold(0i64, |sum, &l| sum.checked_add(l).filter(|_| l >= 0));
    if lengths.len() != outputs || sum != Some(size as i64) {
        return Err(format!(
            "split: expected {outputs} lengths of {size} in all, found {lengths:?}"
        ));
    }
    let mut from = 0;
    let outputs = lengths.iter().map(|&length| {
        let length = length as usize;
        let mut shape = input.shape.clone();
        shape[axis] = length;
        let known = (shape.len() == 1)
            .then(|| input.known.as_ref()?.at(from..from + length))
            .flatten();
        from += length;
        Value {
            known,
            ..Value::of_shape(shape)
        }
    });
    Ok(Computed {
        outputs: outputs.collect(),
        products: 0,
    })
}

fn slice(node: &Node) -> Result<Computed, String> {
    let input = node.input(0)?;
    let mut shape = input.shape.clone();
    let (starts, ends) = (node.integers(1)?, node.integers(2)?);
    let axes = match node.optional(3) {
        Some(_) => axes_in_order(&node.integers(3)?, shape.len())?,
        None => (0..starts.len()).collect(),
    };
    let steps = match node.optional(4) {
        Some(_) => node.integers(4)?,
        None => vec![1; starts.len()],
    };
    let counts = [starts.len(), ends.len(), axes.len(), steps.len()];
    if counts.iter().any(|&n| n != starts.len()) || axes.iter().any(|&a| a >= shape.len()) {
        return Err(format!(
            "expected as many starts, ends, axes and steps as dimensions, found {counts:?}"
        ));
    }
    let mut strides = strides(&shape);
    let mut from = 0;
    for (((&start, &end), &axis), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let size = shape[axis] as i64;
        let from_end = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
        let (first, length) = match step {
            0 => return Err("steps: expected no 0, found one".into()),
            1.. => {
                let first = from_end(start).clamp(0, size);
                let last = from_end(end).clamp(0, size);
                (first, (last - first).max(0))
            }
            _ => {
                let first = from_end(start).clamp(-1, size - 1);
                let last = from_end(end).clamp(-1, size - 1);
                (first, (first - last).max(0))
            }
        };
        shape[axis] = (length as u64).div_ceil(step.unsigned_abs()) as usize;
        from = (first as isize)
            .saturating_mul(strides[axis])
            .saturating_add(from);
        strides[axis] = strides[axis].saturating_mul(step as isize);
    }
    let known = input.known.as_ref();
    let known = known.and_then(|known| known.view(from, &shape, &strides));
    Ok(Computed::known(shape, known))
}

fn axes_in_order(list: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    axes(list, rank)?;
    list.iter().map(|&a| axis(a, rank)).collect()
}

fn gather(node: &Node) -> Result<Computed, String> {
    let (data, indices) = (node.input(0)?, node.input(1)?);
    let axis = node.axis(0, data.shape.len())?;
    let size = data.shape[axis] as i64;
    let at = indices.known.as_ref().map(Known::integers);
    if let Some(wrong) = at.iter().flatten().find(|i| !(-size..size).contains(*i)) {
        return Err(format!(
            "indices: expected -{size} to {}, found {wrong}",
            size - 1
        ));
    }
    let shape = [&data.shape[..axis], &indices.shape, &data.shape[axis + 1..]].concat();
    let known = (data.shape.len() == 1)
        .then(|| {
            let at = at?
                .into_iter()
                .map(|i| (if i < 0 { i + size } else { i }) as usize);
            data.known.as_ref()?.at(at)
        })
        .flatten();
    Ok(Computed::known(shape, known))
}

fn gather_nd(node: &Node) -> Result<Computed, String> {
    let (data, indices) = (node.shape(0)?, node.shape(1)?);
    let batch = usize::try_from(node.integer("batch_dims", 0)).unwrap_or(usize::MAX);
    let Some((&depth, rows)) = indices.split_last() else {
        return node.refuse(1, "indices of one dimension or more");
    };
    if batch > rows.len() || batch > data.len() || data[..batch] != rows[..batch] {
        return Err(format!(
            "batch_dims: expected at most the common first dimensions, found {batch}"
        ));
    }
    if !(1..=data.len() - batch).contains(&depth) {
        return node.refuse(
            1,
            &format!("a last dimension of 1 to {}", data.len() - batch),
        );
    }
    Ok(Computed::one([rows, &data[batch + depth..]].concat()))
}

fn pad(node: &Node) -> Result<Computed, String> {
    let mut shape = node.shape(0)?.to_vec();
    let pads = positive(node, 1, "pads")?;
    let axes = match node.optional(3) {
        Some(_) => axes_in_order(&node.integers(3)?, shape.len())?,
        None => (0..shape.len()).collect(),
    };
    if let Some(value) = node.optional(2)
        && count(&value.shape)? != 1
    {
        return node.refuse(2, "one value");
    }
    if pads.len() != 2 * axes.len() {
        return Err(format!(
            "pads: expected {} numbers, found {pads:?}",
            2 * axes.len()
        ));
    }
    let mode = attributes::text(node.proto, "mode");
    for (i, &axis) in axes.iter().enumerate() {
        let (before, after) = (pads[i], pads[axes.len() + i]);
        let most = match &*mode {
            "" | "constant" => 1 << 16,
            "reflect" => shape[axis].saturating_sub(1),
            "edge" if shape[axis] > 0 => 1 << 16,
            other => {
                return Err(format!(
                    "mode: expected constant, reflect or edge, found {other:?}"
                ));
            }
        };
        if before.max(after) > most {
            return Err(format!(
                "pads: expected at most {most} at dimension {axis}, found {before} and {after}"
            ));
        }
        shape[axis] = shape[axis].saturating_add(before + after);
    }
    Ok(Computed::one(shape))
}

fn range(node: &Node) -> Result<Computed, String> {
    let scalar = |index: usize| match &node.constant(index)?.values[..] {
        &[value] if value.is_finite() => Ok(value),
        _ => node.refuse(index, "one finite number"),
    };
    let (start, limit, delta) = (scalar(0)?, scalar(1)?, scalar(2)?);
    let length = ((limit - start) / delta).ceil().max(0.0);
    if delta == 0.0 || length > f64::from(1 << 24) {
        return Err(format!(
            "expected at most {} values, found a range from {start} to {limit} in steps of {delta}",
            1 << 24
        ));
    }
    let values = (0..length as u64).map(|i| start + i as f64 * delta);
    let known = (length <= 1024.0).then(|| Known {
        values: values.collect(),
        integer: node.constant(0).is_ok_and(|known| known.integer),
    });
    Ok(Computed::known(vec![length as usize], known))
}

fn constant(node: &Node) -> Result<Computed, String> {
    let [attribute] = &node.proto.attribute[..] else {
        return Err("expected one attribute".into());
    };
    let values = |values: Vec<f64>, integer| Some(Known { values, integer });
    Ok(match (&*attribute.name, &attribute.t) {
        ("value", Some(tensor)) => {
            let value = super::constant(tensor);
            fixed(value.shape, value.known)
        }
        ("value_int", _) => fixed(vec![], Known::of_integers([attribute.i])),
        ("value_ints", _) => fixed(
            vec![attribute.ints.len()],
            Known::of_integers(attribute.ints.iter().copied()),
        ),
        ("value_float", _) => fixed(vec![], values(vec![attribute.f.into()], false)),
        ("value_floats", _) => {
            let floats = attribute.floats.iter().map(|&v| v.into()).collect();
            fixed(vec![attribute.floats.len()], values(floats, false))
        }
        (other, _) => return Err(format!("expected a tensor or numbers, found {other}")),
    })
}

fn blocks(node: &Node) -> Result<Computed, String> {
    let &[n, channels, height, width] = node.shape(0)? else {
        return node.refuse(0, "[N, C, H, W]");
    };
    let block = node.integer("blocksize", 0);
    let shape = match usize::try_from(block) {
        Ok(b @ 1..=1024)
            if &*node.proto.op_type == "DepthToSpace" && channels.is_multiple_of(b * b) =>
        {
            vec![
                n,
                channels / (b * b),
                height.saturating_mul(b),
                width.saturating_mul(b),
            ]
        }
        Ok(b @ 1..=1024)
            if &*node.proto.op_type == "SpaceToDepth"
                && height.is_multiple_of(b)
                && width.is_multiple_of(b) =>
        {
            vec![n, channels.saturating_mul(b * b), height / b, width / b]
        }
        _ => {
            return Err(format!(
                "blocksize: expected one that divides {:?}, found {block}",
                node.shape(0)?
            ));
        }
    };
    Ok(Computed::one(shape))
}
