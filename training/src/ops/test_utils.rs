//! Helpers of the operations' tests.

use candle_core::{Device, Result, Tensor, Var};

use crate::random::SeededRng;

pub(super) fn random(shape: &[usize], seed: u64) -> Var {
    let mut rng = SeededRng::new(seed, 0);
    let count: usize = shape.iter().product();
    let values = (0..count).map(|_| rng.normal()).collect();
    Var::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Compares the values of `ours` and `theirs`, and the gradients of each input for a random inner product
/// with them.
pub(super) fn check_against(
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
