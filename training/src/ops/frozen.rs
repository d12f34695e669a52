//! Operations whose weights stay as they are: only their inputs get gradients, so that a step through
//! a frozen tower costs two products a layer, and no product for a weight is ever computed.
//!
//! Unlike those of the parent module these share their work among the threads of rayon's current
//! pool; no sum is split, so that the number of threads does not change a bit.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Device, Error, Layout, Result, Shape, Tensor};
use pinhole_kernels::{self as kernels, PackedLinear};
use pinhole_model::Activation;
use rayon::prelude::*;

use super::{dot, exp, last_dim, moments, read, sigmoid, slice, sum, vectorised};

/// CLIP's layer norms all have it (OpenAI's model.py).
const EPSILON: f32 = 1e-5;

/// Values of a chunk that one thread takes.
const CHUNK: usize = 1 << 15;

/// A linear layer, packed once for the kernels: the weight for the way forward, and its transpose
/// for the gradient.
#[derive(Clone)]
pub struct FrozenLinear(Arc<Packed>);

struct Packed {
    forward: PackedLinear,
    backward: PackedLinear,
}

impl FrozenLinear {
    /// From a weight `[out, in]`, row-major, and its bias `[out]`.
    ///
    /// # Errors
    /// Where the lengths do not fit the sizes.
    pub fn new(
        weight: &[f32],
        outputs: usize,
        inputs: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self> {
        if Some(weight.len()) != outputs.checked_mul(inputs)
            || bias.is_some_and(|b| b.len() != outputs)
        {
            return Err(Error::Msg(format!(
                "frozen linear: {} weights and {:?} biases for [{outputs}, {inputs}]",
                weight.len(),
                bias.map(<[f32]>::len)
            )));
        }
        Ok(Self(Arc::new(Packed {
            forward: PackedLinear::from_out_in(weight, outputs, inputs, bias),
            backward: PackedLinear::from_in_out(weight, outputs, inputs, None),
        })))
    }

    /// x W^T + b: `[.., in]` to `[.., out]`.
    ///
    /// # Errors
    /// For an input of another width.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(self.clone())
    }

    /// x W^T + b + residual.
    ///
    /// # Errors
    /// For an input of another width, or a residual of another shape than the output's.
    pub fn forward_onto(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        x.contiguous()?
            .apply_op2(&residual.contiguous()?, self.clone())
    }

    fn apply(
        &self,
        x: (&CpuStorage, &Layout),
        residual: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let layer = &self.0.forward;
        let (inputs, outputs) = (layer.inputs(), layer.outputs());
        last_dim(x.1.dims(), inputs, "frozen linear")?;
        let mut dims = x.1.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        let x = slice(x.0, x.1)?;
        let residual = match residual {
            Some((_, layout)) if layout.dims() != dims => {
                return Err(Error::Msg(format!(
                    "frozen linear: a residual of shape {:?} for an output of {dims:?}",
                    layout.dims()
                )));
            }
            Some((values, layout)) => Some(slice(values, layout)?),
            None => None,
        };
        let rows = x.len() / inputs;
        let mut y = vec![0f32; rows * outputs];
        layer.apply(x, rows, None, residual, &mut y);
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn input_gradient(&self, x: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        let mut out = vec![0f32; x.elem_count()];
        let layer = &self.0.backward;
        read(grad, |grad| {
            let rows = grad.len() / layer.inputs();
            layer.apply(grad, rows, None, None, &mut out);
        })?;
        Tensor::from_vec(out, x.shape(), &Device::Cpu).map(Some)
    }
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.apply((x, layout), None)
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.input_gradient(x, grad)
    }
}

impl CustomOp2 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen linear onto a residual"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.apply((x, layout), Some((residual, residual_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.input_gradient(x, grad)?, Some(grad.clone())))
    }
}

/// A layer norm (eps 1e-5) with its gain and bias.
#[derive(Clone)]
pub struct FrozenNorm(Arc<(Vec<f32>, Vec<f32>)>);

impl FrozenNorm {
    /// From gain and bias `[width]`.
    ///
    /// # Errors
    /// Where they are of different lengths, or empty.
    pub fn new(gain: Vec<f32>, bias: Vec<f32>) -> Result<Self> {
        if gain.len() != bias.len() || gain.is_empty() {
            return Err(Error::Msg(format!(
                "frozen layer norm: {} gains and {} biases",
                gain.len(),
                bias.len()
            )));
        }
        Ok(Self(Arc::new((gain, bias))))
    }

    /// Normalises the last axis to mean 0 and variance 1, then gain and bias.
    ///
    /// # Errors
    /// For an input of another width.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(self.clone())
    }
}

impl CustomOp1 for FrozenNorm {
    fn name(&self) -> &'static str {
        "frozen layer norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gain, bias) = &*self.0;
        let width = last_dim(layout.dims(), gain.len(), "frozen layer norm")?;
        let x = slice(x, layout)?;
        let mut y = vec![0f32; x.len()];
        kernels::layer_norm(x, width, gain, bias, EPSILON, &mut y);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let gain = &self.0.0;
        let width = gain.len();
        let size = width * (CHUNK / width).max(1);
        let mut out = vec![0f32; x.elem_count()];
        let chunk = |x: &[f32], grad: &[f32], out: &mut [f32]| {
            let (mut normal, mut scaled) = (vec![0f32; width], vec![0f32; width]);
            let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
            for ((x, grad), out) in rows.zip(out.chunks_exact_mut(width)) {
                let (mean, scale) = moments(x);
                for i in 0..width {
                    normal[i] = (x[i] - mean) * scale;
                    scaled[i] = grad[i] * gain[i];
                }
                let mean = sum(&scaled, |g| g) / width as f32;
                let along = dot(&scaled, &normal) / width as f32;
                for i in 0..width {
                    out[i] = (scaled[i] - mean - normal[i] * along) * scale;
                }
            }
        };
        in_chunks(x, grad, &mut out, size, chunk)?;
        Tensor::from_vec(out, x.shape(), &Device::Cpu).map(Some)
    }
}

/// The activation function of a tower's MLP.
///
/// # Errors
/// For what is not f32 on the CPU.
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Activate(activation))
}

struct Activate(Activation);

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = slice(x, layout)?.to_vec();
        kernels::activate(&mut y, self.0);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut out = vec![0f32; x.elem_count()];
        let slope = match self.0 {
            Activation::QuickGelu => quick_gelu_slopes,
            Activation::Gelu => gelu_slopes,
        };
        in_chunks(x, grad, &mut out, CHUNK, slope)?;
        Tensor::from_vec(out, x.shape(), &Device::Cpu).map(Some)
    }
}

#[inline(always)]
fn quick_gelu_slopes(x: &[f32], grad: &[f32], out: &mut [f32]) {
    for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
        let s = sigmoid(1.702 * x);
        *out = grad * s * (1.0 + 1.702 * x * (1.0 - s));
    }
}

/// Phi(x) + x phi(x), the normal distribution and its density. The error function is 7.1.26 of
/// Abramowitz and Stegun, "Handbook of mathematical functions", which is exact to 1.5e-7.
#[inline(always)]
fn gelu_slopes(x: &[f32], grad: &[f32], out: &mut [f32]) {
    for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
        let bell = exp(-0.5 * x * x);
        let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
        let mut tail = 1.061_405_4;
        for c in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
            tail = tail * t + c;
        }
        let below = 0.5 * tail * t * bell;
        let phi = if x < 0.0 { below } else { 1.0 - below };
        *out = grad * (phi + x * bell * 0.398_942_3);
    }
}

/// Calls `f` with chunks of `size` values of both tensors and of `out`, on all threads.
fn in_chunks(
    x: &Tensor,
    grad: &Tensor,
    out: &mut [f32],
    size: usize,
    f: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) -> Result<()> {
    read(x, |x| {
        read(grad, |grad| {
            let chunks = x.par_chunks(size).zip(grad.par_chunks(size));
            chunks
                .zip(out.par_chunks_mut(size))
                .for_each(|((x, grad), out)| vectorised(|| f(x, grad, out)));
        })
    })?
}

#[cfg(test)]
mod tests {
    use super::super::tests::{agree, random};
    use super::super::{layer_norm, linear, quick_gelu};
    use super::*;

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn linear_is_the_trained_one_with_the_weight_held() {
        for rows in [1, 5, 300] {
            let (x, residual) = (random(&[rows, 17], 1), random(&[rows, 6], 4));
            let (w, b) = (random(&[6, 17], 2), random(&[6], 3));
            let (w, b) = (w.as_detached_tensor(), b.as_detached_tensor());
            let frozen = FrozenLinear::new(&values(&w), 6, 17, Some(&values(&b))).unwrap();
            agree(
                std::slice::from_ref(&x),
                || frozen.forward(&x),
                || linear(&x, &w, Some(&b)),
            );
            agree(
                &[x.clone(), residual.clone()],
                || frozen.forward_onto(&x, &residual),
                || linear(&x, &w, Some(&b))? + residual.as_tensor(),
            );
        }
    }

    #[test]
    fn layer_norm_is_the_trained_one_with_the_gain_held() {
        for (rows, width) in [(7, 3), (7, 16), (300, 130)] {
            let (x, g, b) = (
                random(&[rows, width], 1),
                random(&[width], 2),
                random(&[width], 3),
            );
            let frozen = FrozenNorm::new(values(&g), values(&b)).unwrap();
            let (g, b) = (g.as_detached_tensor(), b.as_detached_tensor());
            agree(
                std::slice::from_ref(&x),
                || frozen.forward(&x),
                || layer_norm(&x, &g, &b),
            );
        }
    }

    #[test]
    fn activations_are_the_composed_ones() {
        let x = random(&[33, 1024], 1);
        agree(
            std::slice::from_ref(&x),
            || activate(&x, Activation::QuickGelu),
            || quick_gelu(&x),
        );
        let wide = candle_core::Var::from_tensor(&(x.as_tensor() * 3.0).unwrap()).unwrap();
        agree(
            std::slice::from_ref(&wide),
            || activate(&wide, Activation::Gelu),
            || wide.gelu_erf(),
        );
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let x = random(&[2, 3], 1);
        let layer = FrozenLinear::new(&[0.0; 8], 2, 4, None).unwrap();
        assert!(layer.forward(&x).is_err());
        assert!(layer.forward_onto(&random(&[2, 4], 2), &x).is_err());
        assert!(FrozenLinear::new(&[0.0; 7], 2, 4, None).is_err());
        assert!(FrozenNorm::new(vec![], vec![]).is_err());
        let norm = FrozenNorm::new(vec![1.0; 4], vec![0.0; 4]).unwrap();
        assert!(norm.forward(&x).is_err());
    }
}
