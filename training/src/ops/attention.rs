//! Multi-head self-attention.

use candle_core::{
    CpuStorage, CustomOp1, Device, Error, Layout, Result, Shape, Storage, Tensor,
    backend::BackendStorage,
};

use super::vector::{dot, exp, sum, vectorised};

/// Which tokens a token attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// All of them.
    None,
    /// Itself and those before it.
    Causal,
}

/// softmax(q k^T / sqrt(w)) v per head of width w: qkv [batch, tokens, 3 * width], each row q, k and v,
/// to [batch, tokens, width].
pub fn attention(qkv: &Tensor, heads: usize, mask: AttentionMask) -> Result<Tensor> {
    qkv.contiguous()?.apply_op1(Attention { heads, mask })
}

struct Attention {
    heads: usize,
    mask: AttentionMask,
}

impl Attention {
    fn dims(&self, dims: &[usize]) -> Result<(usize, usize, usize)> {
        match *dims {
            [batch, tokens, triple] if self.heads > 0 && triple % (3 * self.heads) == 0 => {
                Ok((batch, tokens, triple / (3 * self.heads)))
            }
            _ => Err(Error::Msg(format!(
                "attention: expected [batch, tokens, 3 * width] with {} heads, found {dims:?}",
                self.heads
            ))),
        }
    }

    /// softmax(q k^T / sqrt(head width)) of one sequence, [heads, tokens, tokens]; `part(0)` and
    /// `part(1)` are the layouts of q and k.
    fn probabilities(
        &self,
        qkv: &CpuStorage,
        part: impl Fn(usize) -> Layout,
        tokens: usize,
        head: usize,
    ) -> Result<CpuStorage> {
        let shape = (self.heads, tokens, tokens, head);
        let mut scores = qkv.matmul(qkv, shape, &part(0), &part(1).transpose(1, 2)?)?;
        if let CpuStorage::F32(scores) = &mut scores {
            let scale = 1.0 / (head as f32).sqrt();
            vectorised(|| {
                for (i, row) in scores.chunks_exact_mut(tokens).enumerate() {
                    let end = match self.mask {
                        AttentionMask::None => tokens,
                        AttentionMask::Causal => i % tokens + 1,
                    };
                    let (row, rest) = row.split_at_mut(end);
                    rest.fill(0.0);
                    let max = row.iter().fold(f32::NEG_INFINITY, |m, &s| m.max(s));
                    for s in row.iter_mut() {
                        *s = exp((*s - max) * scale);
                    }
                    let total = sum(row, |s| s);
                    for s in row {
                        *s /= total;
                    }
                }
            });
        }
        Ok(scores)
    }
}

/// The layout, as [heads, tokens, head width], of matrix `part` of the `parts` that are side by side in the
/// rows of sequence `index`.
fn per_head(
    start: usize,
    index: usize,
    part: usize,
    parts: usize,
    (heads, tokens, head): (usize, usize, usize),
) -> Layout {
    let row = parts * heads * head;
    let start = start + index * tokens * row + part * heads * head;
    Layout::new(
        Shape::from((heads, tokens, head)),
        vec![head, row, 1],
        start,
    )
}

/// Copies [heads, tokens, head width] into rows of `row` values at `start`.
fn scatter(from: &CpuStorage, to: &mut [f32], tokens: usize, head: usize, row: usize) {
    let CpuStorage::F32(from) = from else { return };
    for (i, values) in from.chunks_exact(head).enumerate() {
        let (h, t) = (i / tokens, i % tokens);
        let at = t * row + h * head;
        to[at..at + head].copy_from_slice(values);
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, tokens, head) = self.dims(layout.dims())?;
        let (heads, width) = (self.heads, self.heads * head);
        let mut out = vec![0f32; batch * tokens * width];
        for (index, out) in out.chunks_exact_mut(tokens * width).enumerate() {
            let start = layout.start_offset();
            let part = |p| per_head(start, index, p, 3, (heads, tokens, head));
            let p = self.probabilities(qkv, part, tokens, head)?;
            let square = Layout::contiguous((heads, tokens, tokens));
            let y = p.matmul(qkv, (heads, tokens, head, tokens), &square, &part(2))?;
            scatter(&y, out, tokens, head, width);
        }
        Ok((CpuStorage::F32(out), (batch, tokens, width).into()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, tokens, head) = self.dims(qkv.dims())?;
        let (heads, width) = (self.heads, self.heads * head);
        let grad = grad.contiguous()?;
        let (qkv_storage, qkv_layout) = qkv.storage_and_layout();
        let (grad_storage, grad_layout) = grad.storage_and_layout();
        let (Storage::Cpu(values), Storage::Cpu(grad)) = (&*qkv_storage, &*grad_storage) else {
            return Err(Error::Msg("attention: the tensor is not on the CPU".into()));
        };
        let mut out = vec![0f32; qkv.elem_count()];
        let scale = 1.0 / (head as f32).sqrt();
        let square = Layout::contiguous((heads, tokens, tokens));
        let square_t = square.transpose(1, 2)?;
        for (index, out) in out.chunks_exact_mut(tokens * 3 * width).enumerate() {
            let part = |p| {
                per_head(
                    qkv_layout.start_offset(),
                    index,
                    p,
                    3,
                    (heads, tokens, head),
                )
            };
            let dy = per_head(
                grad_layout.start_offset(),
                index,
                0,
                1,
                (heads, tokens, head),
            );
            let p = self.probabilities(values, part, tokens, head)?;
            let narrow = (heads, tokens, head, tokens);
            let dv = p.matmul(grad, narrow, &square_t, &dy)?;
            let wide = (heads, tokens, tokens, head);
            let mut ds = grad.matmul(values, wide, &dy, &part(2).transpose(1, 2)?)?;
            if let (CpuStorage::F32(ds), CpuStorage::F32(p)) = (&mut ds, &p) {
                vectorised(|| {
                    for (ds, p) in ds.chunks_exact_mut(tokens).zip(p.chunks_exact(tokens)) {
                        let projection = dot(ds, p);
                        for (ds, p) in ds.iter_mut().zip(p) {
                            *ds = p * (*ds - projection) * scale;
                        }
                    }
                });
            }
            let dq = ds.matmul(values, narrow, &square, &part(1))?;
            let dk = ds.matmul(values, narrow, &square_t, &part(0))?;
            for (p, d) in [dq, dk, dv].iter().enumerate() {
                scatter(d, &mut out[p * width..], tokens, head, 3 * width);
            }
        }
        Tensor::from_vec(out, qkv.shape(), &Device::Cpu).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_utils::{check_against, random};
    use super::*;
    use candle_core::D;

    fn softmax(x: &Tensor) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
        x.broadcast_div(&x.sum_keepdim(D::Minus1)?)
    }

    #[test]
    fn attention_equals_the_composed_operations() {
        use AttentionMask::{Causal, None};
        for (kind, tokens) in [(None, 5), (Causal, 5), (Causal, 1), (None, 19)] {
            let (batch, heads, head) = (3, 2, 8);
            let qkv = random(&[batch, tokens, 3 * heads * head], 1);
            let part = |i: usize| {
                let x = qkv.narrow(2, i * heads * head, heads * head)?;
                x.reshape((batch, tokens, heads, head))?
                    .transpose(1, 2)?
                    .contiguous()
            };
            let mask: Vec<f32> = (0..tokens * tokens)
                .map(|i| {
                    if kind == Causal && i % tokens > i / tokens {
                        -1e9
                    } else {
                        0.0
                    }
                })
                .collect();
            let mask = Tensor::from_vec(mask, (tokens, tokens), &Device::Cpu).unwrap();
            check_against(
                std::slice::from_ref(&qkv),
                || attention(&qkv, heads, kind),
                || {
                    let scores = part(0)?.matmul(&part(1)?.t()?.contiguous()?)?;
                    let scores = (scores / (head as f64).sqrt())?.broadcast_add(&mask)?;
                    let y = softmax(&scores)?.matmul(&part(2)?)?;
                    y.transpose(1, 2)?.reshape((batch, tokens, heads * head))
                },
            );
        }
    }

    #[test]
    fn wrong_shapes_are_errors() {
        assert!(attention(&random(&[1, 2, 7], 1), 2, AttentionMask::None).is_err());
    }
}
