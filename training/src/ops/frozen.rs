//! Operations with frozen weights: only their inputs get gradients, so an update costs two matrix products
//! per linear layer instead of three.
//!
//! They run on the threads of rayon's current pool. No sum is split, so results do not depend on the number
//! of threads.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Device, Error, Layout, Result, Shape, Tensor};
use pinhole_kernels::{self as kernels, PackedLinear};
use pinhole_model::Activation;
use rayon::prelude::*;

use super::{
    storage::{check_last_dim, read, slice},
    vector::{dot, exp, norm_moments, quick_gelu_gradient, sum, vectorised},
};

/// The epsilon of CLIP's layer norms (OpenAI's model.py).
const EPSILON: f32 = 1e-5;

/// Values per chunk of one thread.
const CHUNK: usize = 1 << 15;

/// A linear layer, packed once for the kernels: the weight for the forward pass, its transpose for the
/// backward pass.
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
    /// For lengths that do not fit the sizes.
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
                "frozen linear: expected a weight [{outputs}, {inputs}], found {} values and {:?} biases",
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
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
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
        check_last_dim(x.1.dims(), inputs, "frozen linear")?;
        let mut dims = x.1.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        let x = slice(x.0, x.1)?;
        let residual = match residual {
            Some((_, layout)) if layout.dims() != dims => {
                return Err(Error::Msg(format!(
                    "frozen linear: residual: expected shape {dims:?}, found {:?}",
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
        "frozen linear with residual"
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

/// A layer norm (epsilon 1e-5) with its gain and bias.
#[derive(Clone)]
pub struct FrozenNorm(Arc<(Vec<f32>, Vec<f32>)>);

impl FrozenNorm {
    /// From gain and bias `[width]`.
    ///
    /// # Errors
    /// For different lengths, or empty slices.
    pub fn new(gain: Vec<f32>, bias: Vec<f32>) -> Result<Self> {
        if gain.len() != bias.len() || gain.is_empty() {
            return Err(Error::Msg(format!(
                "frozen layer norm: expected as many gains as biases, found {} and {}",
                gain.len(),
                bias.len()
            )));
        }
        Ok(Self(Arc::new((gain, bias))))
    }

    /// Normalises the last axis to mean 0 and variance 1, then applies gain and bias.
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
        let width = check_last_dim(layout.dims(), gain.len(), "frozen layer norm")?;
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
                let (mean, scale) = norm_moments(x);
                for i in 0..width {
                    normal[i] = (x[i] - mean) * scale;
                    scaled[i] = grad[i] * gain[i];
                }
                let mean = sum(&scaled, |g| g) / width as f32;
                let projection = dot(&scaled, &normal) / width as f32;
                for i in 0..width {
                    out[i] = (scaled[i] - mean - normal[i] * projection) * scale;
                }
            }
        };
        in_chunks(x, grad, &mut out, size, chunk)?;
        Tensor::from_vec(out, x.shape(), &Device::Cpu).map(Some)
    }
}

/// The activation function of an MLP.
///
/// # Errors
/// For a tensor that is not f32 on the CPU.
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
        let gradient = match self.0 {
            Activation::QuickGelu => quick_gelu_gradient,
            Activation::Gelu => gelu_gradient,
            Activation::GeluTanh => gelu_tanh_gradient,
        };
        in_chunks(x, grad, &mut out, CHUNK, gradient)?;
        Tensor::from_vec(out, x.shape(), &Device::Cpu).map(Some)
    }
}

/// The gradient of GELU's input: Phi(x) + x phi(x), with the normal distribution and its density. The error
/// function is formula 7.1.26 of Abramowitz and Stegun, "Handbook of mathematical functions", with an error
/// of 1.5e-7.
#[inline(always)]
fn gelu_gradient(x: &[f32], grad: &[f32], out: &mut [f32]) {
    for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
        let gauss = exp(-0.5 * x * x);
        let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
        let mut tail = 1.061_405_4;
        for c in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
            tail = tail * t + c;
        }
        let below = 0.5 * tail * t * gauss;
        let phi = if x < 0.0 { below } else { 1.0 - below };
        *out = grad * (phi + x * gauss * 0.398_942_3);
    }
}

/// The gradient of x s(x) with s(x) = sigmoid(2 u), u = √(2/π) (x + 0.044715 x³): s + x s (1 - s) 2 u'.
#[inline(always)]
fn gelu_tanh_gradient(x: &[f32], grad: &[f32], out: &mut [f32]) {
    // 2 √(2/π)
    const FACTOR: f32 = 1.595_769_2;
    for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
        let square = x * x;
        let twice_u = FACTOR * x * (1.0 + 0.044_715 * square);
        let s = 1.0 / (1.0 + exp(-twice_u));
        let slope = FACTOR * (1.0 + 3.0 * 0.044_715 * square);
        *out = grad * (s + x * s * (1.0 - s) * slope);
    }
}

/// Calls `f` with chunks of `size` values of both tensors and `out`, on all threads.
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
    use super::super::{
        layer_norm::layer_norm,
        linear::linear,
        quick_gelu::quick_gelu,
        test_utils::{check_against, random},
    };
    use super::*;

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn frozen_linear_equals_linear() {
        for rows in [1, 5, 300] {
            let (x, residual) = (random(&[rows, 17], 1), random(&[rows, 6], 4));
            let (w, b) = (random(&[6, 17], 2), random(&[6], 3));
            let (w, b) = (w.as_detached_tensor(), b.as_detached_tensor());
            let frozen = FrozenLinear::new(&values(&w), 6, 17, Some(&values(&b))).unwrap();
            check_against(
                std::slice::from_ref(&x),
                || frozen.forward(&x),
                || linear(&x, &w, Some(&b)),
            );
            check_against(
                &[x.clone(), residual.clone()],
                || frozen.forward_add(&x, &residual),
                || linear(&x, &w, Some(&b))? + residual.as_tensor(),
            );
        }
    }

    #[test]
    fn frozen_layer_norm_equals_layer_norm() {
        for (rows, width) in [(7, 3), (7, 16), (300, 130)] {
            let (x, g, b) = (
                random(&[rows, width], 1),
                random(&[width], 2),
                random(&[width], 3),
            );
            let frozen = FrozenNorm::new(values(&g), values(&b)).unwrap();
            let (g, b) = (g.as_detached_tensor(), b.as_detached_tensor());
            check_against(
                std::slice::from_ref(&x),
                || frozen.forward(&x),
                || layer_norm(&x, &g, &b),
            );
        }
    }

    #[test]
    fn activations_equal_the_composed_operations() {
        let x = random(&[33, 1024], 1);
        check_against(
            std::slice::from_ref(&x),
            || activate(&x, Activation::QuickGelu),
            || quick_gelu(&x),
        );
        let wide = candle_core::Var::from_tensor(&(x.as_tensor() * 3.0).unwrap()).unwrap();
        check_against(
            std::slice::from_ref(&wide),
            || activate(&wide, Activation::Gelu),
            || wide.gelu_erf(),
        );
        check_against(
            std::slice::from_ref(&wide),
            || activate(&wide, Activation::GeluTanh),
            || wide.gelu(),
        );
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let x = random(&[2, 3], 1);
        let layer = FrozenLinear::new(&[0.0; 8], 2, 4, None).unwrap();
        assert!(layer.forward(&x).is_err());
        assert!(layer.forward_add(&random(&[2, 4], 2), &x).is_err());
        assert!(FrozenLinear::new(&[0.0; 7], 2, 4, None).is_err());
        assert!(FrozenNorm::new(vec![], vec![]).is_err());
        let norm = FrozenNorm::new(vec![1.0; 4], vec![0.0; 4]).unwrap();
        assert!(norm.forward(&x).is_err());
    }
}
