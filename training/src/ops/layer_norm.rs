//! Layer norms with trained gain and bias.

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor};

use super::{
    storage::{check_last_dim, read, slice},
    vector::{dot, norm_moments, sum, vectorised},
};

/// Normalises the last axis to mean 0 and variance 1 (epsilon 1e-5), then applies gain and bias.
pub fn layer_norm(x: &Tensor, gain: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.contiguous()?
        .apply_op3(&gain.contiguous()?, &bias.contiguous()?, LayerNorm)
}

struct LayerNorm;

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
        let width = check_last_dim(x_layout.dims(), gain.len(), "layer norm")?;
        let mut y = vec![0f32; x.len()];
        vectorised(|| {
            for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
                let (mean, scale) = norm_moments(x);
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
                            let (mean, scale) = norm_moments(x);
                            for i in 0..width {
                                normal[i] = (x[i] - mean) * scale;
                                scaled[i] = grad[i] * gain[i];
                                gain_grad[i] += grad[i] * normal[i];
                                bias_grad[i] += grad[i];
                            }
                            let mean = sum(&scaled, |g| g) / width as f32;
                            let projection = dot(&scaled, &normal) / width as f32;
                            for i in 0..width {
                                out[i] = (scaled[i] - mean - normal[i] * projection) * scale;
                            }
                        }
                    })
                })
            })
        })???;
        let tracked = |t: &Tensor, values: Vec<f32>| {
            let gradient = || Tensor::from_vec(values, t.shape(), &Device::Cpu);
            t.track_op().then(gradient).transpose()
        };
        Ok((
            tracked(x, x_grad)?,
            tracked(gain, gain_grad)?,
            tracked(bias, bias_grad)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_utils::{check_against, random};
    use super::*;
    use candle_core::D;

    #[test]
    fn layer_norm_equals_the_composed_operations() {
        for width in [3, 16, 50] {
            let (x, g, b) = (
                random(&[7, width], 1),
                random(&[width], 2),
                random(&[width], 3),
            );
            check_against(
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
    fn wrong_shapes_are_errors() {
        let x = random(&[2, 3], 1);
        assert!(layer_norm(&x, &random(&[4], 2), &random(&[4], 3)).is_err());
    }
}
