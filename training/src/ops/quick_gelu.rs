//! The activation function of OpenAI's CLIP.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};

use super::{
    storage::{read, slice},
    vector::{quick_gelu_gradient, sigmoid, vectorised},
};

/// x * sigmoid(1.702 x).
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(QuickGelu)
}

struct QuickGelu;

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
                vectorised(|| quick_gelu_gradient(x, grad, &mut out))
            })
        })??;
        Tensor::from_vec(out, x.shape(), &Device::Cpu).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_utils::{check_against, random};
    use super::*;

    #[test]
    fn quick_gelu_equals_the_composed_operations() {
        let x = random(&[5, 31], 1);
        check_against(
            std::slice::from_ref(&x),
            || quick_gelu(&x),
            || &*x / ((&*x * -1.702)?.exp()? + 1.0)?,
        );
    }
}
