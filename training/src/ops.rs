//! Network operations with hand-written gradients.
//!
//! Candle's own composed versions keep every intermediate and run scalar transcendental functions;
//! these recompute what is cheap and let the compiler use the machine's vectors. Each runs on one
//! thread: training is parallel over chunks of the batch, see [`crate::train`]. The tests hold them
//! against candle's composed operations.

pub mod frozen;
pub mod tree;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Error, Layout, Result, Shape,
    Storage, Tensor, backend::BackendStorage,
};

/// x W^T + b: x `[..., in]`, weight `[out, in]`, bias `[out]` to `[..., out]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (x, op) = (x.contiguous()?, Linear);
    match bias {
        Some(bias) => x.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op),
        None => x.apply_op2(&weight.contiguous()?, op),
    }
}

/// Normalises the last axis to mean 0 and variance 1 (eps 1e-5), then gain and bias.
pub fn layer_norm(x: &Tensor, gain: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.contiguous()?
        .apply_op3(&gain.contiguous()?, &bias.contiguous()?, LayerNorm)
}

/// x * sigmoid(1.702 x), the activation of OpenAI's CLIP.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(QuickGelu)
}

/// softmax(q k^T / sqrt(w)) v per head of width w: qkv [batch, tokens, 3 * width], rows of q, k and
/// v one after the other, -> [batch, tokens, width]. A causal token attends to itself and those
/// before it.
pub fn attention(qkv: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    qkv.contiguous()?.apply_op1(Attention { heads, causal })
}

struct Linear;

impl Linear {
    fn forward(
        (x, x_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let mut dims = x_layout.dims().to_vec();
        if dims.last() != Some(&inputs) {
            return Err(Error::Msg(format!(
                "linear: input of shape {:?} for a weight of shape {:?}",
                x_layout.dims(),
                weight_layout.dims()
            )));
        }
        let rows = x_layout.shape().elem_count() / inputs;
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        let x_layout = Layout::contiguous_with_offset((rows, inputs), x_layout.start_offset());
        let mut y = x.matmul(
            weight,
            (1, rows, outputs, inputs),
            &x_layout,
            &weight_layout.transpose(0, 1)?,
        )?;
        if let (Some((bias, layout)), CpuStorage::F32(y)) = (bias, &mut y) {
            let bias = slice(bias, layout)?;
            vectorised(|| {
                for row in y.chunks_exact_mut(outputs) {
                    for (y, b) in row.iter_mut().zip(bias) {
                        *y += b;
                    }
                }
            });
        }
        Ok((y, dims.into()))
    }

    fn backward(
        x: &Tensor,
        weight: &Tensor,
        bias: bool,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (outputs, inputs) = weight.dims2()?;
        let rows = x.elem_count() / inputs;
        let grad = grad.contiguous()?.reshape((rows, outputs))?;
        let x_grad = match x.track_op() {
            true => Some(grad.matmul(&weight.detach())?.reshape(x.shape())?),
            false => None,
        };
        let weight_grad = match weight.track_op() {
            true => {
                let x = x.detach().contiguous()?.reshape((rows, inputs))?;
                Some(grad.t()?.matmul(&x)?)
            }
            false => None,
        };
        let bias_grad = if bias {
            let mut sum = vec![0f32; outputs];
            read(&grad, |grad| {
                vectorised(|| {
                    for row in grad.chunks_exact(outputs) {
                        for (s, g) in sum.iter_mut().zip(row) {
                            *s += g;
                        }
                    }
                })
            })?;
            Some(Tensor::from_vec(sum, outputs, &Device::Cpu)?)
        } else {
            None
        };
        Ok([x_grad, weight_grad, bias_grad])
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::forward((x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, weight, _] = Self::backward(x, weight, false, grad)?;
        Ok((x, weight))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear with bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::forward(
            (x, x_layout),
            (weight, weight_layout),
            Some((bias, bias_layout)),
        )
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, weight, bias] = Self::backward(x, weight, bias.track_op(), grad)?;
        Ok((x, weight, bias))
    }
}

struct LayerNorm;

/// Mean and reciprocal standard deviation of a row.
#[inline(always)]
fn moments(row: &[f32]) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = sum(row, |x| x) / count;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + 1e-5).sqrt())
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gain: &CpuStorage,
        gain_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gain) = (slice(x, x_layout)?, slice(gain, gain_layout)?);
        let bias = slice(bias, bias_layout)?;
        let width = last_dim(x_layout.dims(), gain.len(), "layer norm")?;
        let mut y = vec![0f32; x.len()];
        vectorised(|| {
            for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
                let (mean, scale) = moments(x);
                for (((y, x), g), b) in y.iter_mut().zip(x).zip(gain).zip(bias) {
                    *y = (x - mean) * scale * g + b;
                }
            }
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let width = gain.elem_count();
        let mut x_grad = vec![0f32; x.elem_count()];
        let (mut gain_grad, mut bias_grad) = (vec![0f32; width], vec![0f32; width]);
        read(x, |x| {
            read(gain, |gain| {
                read(grad, |grad| {
                    vectorised(|| {
                        let mut normal = vec![0f32; width];
                        let mut scaled = vec![0f32; width];
                        let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
                        for ((x, grad), out) in rows.zip(x_grad.chunks_exact_mut(width)) {
                            let (mean, scale) = moments(x);
                            for i in 0..width {
                                normal[i] = (x[i] - mean) * scale;
                                scaled[i] = grad[i] * gain[i];
                                gain_grad[i] += grad[i] * normal[i];
                                bias_grad[i] += grad[i];
                            }
                            let mean = sum(&scaled, |g| g) / width as f32;
                            let along = dot(&scaled, &normal) / width as f32;
                            for i in 0..width {
                                out[i] = (scaled[i] - mean - normal[i] * along) * scale;
                            }
                        }
                    })
                })
            })
        })???;
        let tracked = |t: &Tensor, values: Vec<f32>| match t.track_op() {
            true => Tensor::from_vec(values, t.shape(), &Device::Cpu).map(Some),
            false => Ok(None),
        };
        Ok((
            tracked(x, x_grad)?,
            tracked(gain, gain_grad)?,
            tracked(bias, bias_grad)?,
        ))
    }
}

struct QuickGelu;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

impl CustomOp1 for QuickGelu {
    fn name(&self) -> &'static str {
        "quick gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut y = vec![0f32; x.len()];
        vectorised(|| {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x * sigmoid(1.702 * x);
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut out = vec![0f32; x.elem_count()];
        read(x, |x| {
            read(grad, |grad| {
                vectorised(|| {
                    for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
                        let s = sigmoid(1.702 * x);
                        *out = grad * s * (1.0 + 1.702 * x * (1.0 - s));
                    }
                })
            })
        })??;
        Tensor::from_vec(out, x.shape(), &Device::Cpu).map(Some)
    }
}

struct Attention {
    heads: usize,
    causal: bool,
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
                    let end = if self.causal { i % tokens + 1 } else { tokens };
                    let (row, rest) = row.split_at_mut(end);
                    rest.fill(0.0);
                    let most = row.iter().fold(f32::NEG_INFINITY, |m, &s| m.max(s));
                    for s in row.iter_mut() {
                        *s = exp((*s - most) * scale);
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

/// The layout of one of `parts` matrices that lie side by side in rows, of sequence `index`, as
/// [heads, tokens, head width].
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
                        let along = dot(ds, p);
                        for (ds, p) in ds.iter_mut().zip(p) {
                            *ds = p * (*ds - along) * scale;
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

/// Runs `f` compiled for the widest vectors that the machine has. Nothing is contracted or
/// reordered, so the result does not depend on them.
fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// e^x within 2 units in the last place for x in -87..88, and 0 or about e^88 beyond.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.3, 88.0);
    // Adding 1.5 * 2^23 rounds to a whole number in the low bits.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let whole = shifted - 12_582_912.0;
    let r = x - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    let mut y = 1.987_569_1e-4f32;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
        1.0,
        1.0,
    ] {
        y = y * r + c;
    }
    let exponent = shifted.to_bits().wrapping_add(127) << 23;
    y * f32::from_bits(exponent)
}

/// The sum of `f` over a slice in sixteen interleaved partial sums, an order that vectorises.
#[inline(always)]
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = values.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().map(|&v| f(v)).sum();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The inner product, in the order of [`sum`].
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest = a16.remainder().iter().zip(b16.remainder());
    let rest: f32 = rest.map(|(a, b)| a * b).sum();
    for (a, b) in a16.zip(b16) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

fn last_dim(dims: &[usize], expected: usize, name: &str) -> Result<usize> {
    if dims.last() == Some(&expected) && expected > 0 {
        return Ok(expected);
    }
    Err(Error::Msg(format!(
        "{name}: expected a last axis of {expected}, found {dims:?}"
    )))
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| Error::Msg("expected a contiguous tensor".into()))?;
    match storage {
        CpuStorage::F32(values) => Ok(&values[start..end]),
        _ => Err(Error::UnsupportedDTypeForOp(storage.dtype(), "f32 operation").bt()),
    }
}

/// Calls `f` with the values of a tensor in order.
pub(crate) fn read<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.to_dtype(DType::F32)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(slice(storage, layout)?)),
        _ => Err(Error::Msg("the tensor is not on the CPU".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::Dice;
    use candle_core::{D, Var};

    pub(super) fn random(shape: &[usize], seed: u64) -> Var {
        let mut dice = Dice::new(seed, 0);
        let count: usize = shape.iter().product();
        let values = (0..count).map(|_| dice.normal()).collect();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Compares the values of `ours` and `theirs`, and the gradients that a random inner product
    /// with them has for each input.
    pub(super) fn agree(
        inputs: &[Var],
        ours: impl Fn() -> Result<Tensor>,
        theirs: impl Fn() -> Result<Tensor>,
    ) {
        let close = |a: &Tensor, b: &Tensor, what: &str| {
            assert_eq!(a.dims(), b.dims(), "{what}");
            let distance = (a - b).unwrap().sqr().unwrap().sum_all().unwrap();
            let size = b.sqr().unwrap().sum_all().unwrap();
            let ratio = distance.to_scalar::<f32>().unwrap() / size.to_scalar::<f32>().unwrap();
            assert!(
                ratio.sqrt() < 2e-6,
                "{what}: relative distance {}",
                ratio.sqrt()
            );
        };
        let (a, b) = (ours().unwrap(), theirs().unwrap());
        close(&a, &b, "forward");
        let weights = random(a.dims(), 99).as_detached_tensor();
        let gradients = |y: &Tensor| {
            (y * &weights)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap()
        };
        let (a, b) = (gradients(&a), gradients(&b));
        for (i, input) in inputs.iter().enumerate() {
            let (a, b) = (a.get(input).unwrap(), b.get(input).unwrap());
            close(a, b, &format!("gradient of input {i}"));
        }
    }

    fn softmax(x: &Tensor) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
        x.broadcast_div(&x.sum_keepdim(D::Minus1)?)
    }

    #[test]
    fn linear_is_a_product_and_a_sum() {
        let (x, w) = (random(&[3, 5, 17], 1), random(&[6, 17], 2));
        let b = random(&[6], 3);
        let product = || x.reshape((15, 17))?.matmul(&w.t()?)?.reshape((3, 5, 6));
        agree(
            &[x.clone(), w.clone(), b.clone()],
            || linear(&x, &w, Some(&b)),
            || product()?.broadcast_add(&b),
        );
        agree(&[x.clone(), w.clone()], || linear(&x, &w, None), product);
    }

    #[test]
    fn linear_gives_frozen_weights_no_gradient() {
        let (x, w) = (random(&[4, 3], 1), random(&[2, 3], 2).as_detached_tensor());
        let gradients = linear(&x, &w, None)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        assert!(gradients.get(&x).is_some());
        assert!(gradients.get(&w).is_none());
    }

    #[test]
    fn layer_norm_is_the_composed_one() {
        for width in [3, 16, 50] {
            let (x, g, b) = (
                random(&[7, width], 1),
                random(&[width], 2),
                random(&[width], 3),
            );
            agree(
                &[x.clone(), g.clone(), b.clone()],
                || layer_norm(&x, &g, &b),
                || {
                    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
                    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
                    let normal = centred.broadcast_div(&(variance + 1e-5)?.sqrt()?)?;
                    normal.broadcast_mul(&g)?.broadcast_add(&b)
                },
            );
        }
    }

    #[test]
    fn quick_gelu_is_the_composed_one() {
        let x = random(&[5, 31], 1);
        agree(
            std::slice::from_ref(&x),
            || quick_gelu(&x),
            || &*x / ((&*x * -1.702)?.exp()? + 1.0)?,
        );
    }

    #[test]
    fn attention_is_the_composed_one() {
        for (causal, tokens) in [(false, 5), (true, 5), (true, 1), (false, 19)] {
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
                    if causal && i % tokens > i / tokens {
                        -1e9
                    } else {
                        0.0
                    }
                })
                .collect();
            let mask = Tensor::from_vec(mask, (tokens, tokens), &Device::Cpu).unwrap();
            agree(
                std::slice::from_ref(&qkv),
                || attention(&qkv, heads, causal),
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
    fn exp_is_exact_to_a_few_units() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!(
                (f64::from(exp(x)) / exact - 1.0).abs() < 3e-7,
                "{x}: {} {exact}",
                exp(x)
            );
        }
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let x = random(&[2, 3], 1);
        assert!(linear(&x, &random(&[4, 5], 2), None).is_err());
        assert!(layer_norm(&x, &random(&[4], 2), &random(&[4], 3)).is_err());
        assert!(attention(&random(&[1, 2, 7], 1), 2, false).is_err());
    }
}
