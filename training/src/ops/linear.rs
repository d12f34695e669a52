//! Linear layers with trained weights.

use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, Device, Error, Layout, Result, Shape, Tensor,
    backend::BackendStorage,
};

use super::{
    storage::{read, slice},
    vector::vectorised,
};

/// x W^T + b: x `[..., in]`, weight `[out, in]`, bias `[out]` to `[..., out]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (x, op) = (x.contiguous()?, Linear);
    match bias {
        Some(bias) => x.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op),
        None => x.apply_op2(&weight.contiguous()?, op),
    }
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
                "linear: expected a last axis of {inputs}, found {:?}",
                x_layout.dims()
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

    /// The gradients of x and weight, if tracked.
    fn backward(
        x: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (outputs, inputs) = weight.dims2()?;
        let rows = x.elem_count() / inputs;
        let grad = grad.contiguous()?.reshape((rows, outputs))?;
        let x_grad = if x.track_op() {
            Some(grad.matmul(&weight.detach())?.reshape(x.shape())?)
        } else {
            None
        };
        let weight_grad = if weight.track_op() {
            let x = x.detach().contiguous()?.reshape((rows, inputs))?;
            Some(grad.t()?.matmul(&x)?)
        } else {
            None
        };
        Ok((x_grad, weight_grad))
    }

    fn bias_gradient(grad: &Tensor, outputs: usize) -> Result<Tensor> {
        let mut sum = vec![0f32; outputs];
        read(grad, |grad| {
            vectorised(|| {
                for row in grad.chunks_exact(outputs) {
                    for (s, g) in sum.iter_mut().zip(row) {
                        *s += g;
                    }
                }
            })
        })?;
        Tensor::from_vec(sum, outputs, &Device::Cpu)
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
        Self::backward(x, weight, grad)
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
        let (x_grad, weight_grad) = Self::backward(x, weight, grad)?;
        let bias_grad = if bias.track_op() {
            Some(Self::bias_gradient(grad, bias.elem_count())?)
        } else {
            None
        };
        Ok((x_grad, weight_grad, bias_grad))
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_utils::{check_against, random};
    use super::*;

    #[test]
    fn linear_equals_product_and_sum() {
        let (x, w) = (random(&[3, 5, 17], 1), random(&[6, 17], 2));
        let b = random(&[6], 3);
        let product = || x.reshape((15, 17))?.matmul(&w.t()?)?.reshape((3, 5, 6));
        check_against(
            &[x.clone(), w.clone(), b.clone()],
            || linear(&x, &w, Some(&b)),
            || product()?.broadcast_add(&b),
        );
        check_against(&[x.clone(), w.clone()], || linear(&x, &w, None), product);
    }

    #[test]
    fn frozen_weights_get_no_gradient() {
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
    fn wrong_shapes_are_errors() {
        let x = random(&[2, 3], 1);
        assert!(linear(&x, &random(&[4, 5], 2), None).is_err());
    }
}
