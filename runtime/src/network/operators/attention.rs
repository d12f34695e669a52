//! Multi-head attention of the dialect.

use pinhole_bundle::dialect::Op;
use pinhole_kernels::{self as kernels, StridedRows};
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Compute, build, floats};
use super::parameters::positive_integer;

/// Attention over `query` and `key_value`, or over one input that contains all three.
#[derive(Debug)]
struct Attention {
    heads: usize,
}

pub(super) fn attention(node: &NodeProto, op: Op) -> Built {
    let heads = positive_integer(node, "heads")?;
    build(op, Attention { heads })
}

impl Compute for Attention {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let heads = self.heads;
        match *inputs {
            [&[n, t, joint]] => {
                ensure!(
                    joint % (3 * heads) == 0,
                    "expected [N, T, 3W] with {heads} heads, found {:?}",
                    inputs[0]
                );
                Ok(tvec![n, t, joint / 3])
            }
            [&[n, t, width], &[m, _, both]] => {
                ensure!(
                    n == m && both == 2 * width && width % heads == 0,
                    "expected [N, T, W] and [N, U, 2W] with {heads} heads, found {inputs:?}"
                );
                Ok(tvec![n, t, width])
            }
            _ => bail!("expected values of 3 dimensions, found {inputs:?}"),
        }
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let &[.., tq, columns] = inputs[0].shape() else {
            bail!("expected 3 dimensions");
        };
        // The tensor of keys and values, and the column of the first key.
        let (keys, first) = match inputs.len() {
            1 => (&inputs[0], columns / 3),
            _ => (&inputs[1], 0),
        };
        let &[.., tk, stride] = keys.shape() else {
            bail!("expected 3 dimensions");
        };
        let width = (stride - first) / 2;
        let queries = floats(&inputs[0])?.chunks_exact(tq * columns);
        let keys = floats(keys)?.chunks_exact(tk * stride);
        let outs = output.chunks_exact_mut(tq * width);
        for ((query, key), out) in queries.zip(keys).zip(outs) {
            let rows = |data, stride| StridedRows { data, stride };
            kernels::attention(
                rows(query, columns),
                tq,
                rows(&key[first..], stride),
                rows(&key[first + width..], stride),
                tk,
                self.heads,
                width / self.heads,
                false,
                1.0,
                out,
            );
        }
        Ok(())
    }
}
