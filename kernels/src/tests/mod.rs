//! Compares each variant that this processor can run with the scalar reference.

mod affine;
mod attention;
mod convolution;
mod elementwise;
mod float_convolution;
mod half;
mod int8;
mod linear;
mod pixels;
mod quantize;

use pinhole_model::Activation;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::dispatch::{FloatKernels, Kernels};
use crate::scratch;
#[cfg(target_arch = "x86_64")]
use crate::select::leaked;
use crate::select::variants;

/// Half the distance from 1 to the next f32: the largest relative error of one rounding.
const UNIT: f64 = 1.0 / (1 << 24) as f64;

/// Every activation function, and none.
const ACTIVATIONS: [Option<Activation>; 4] = [
    None,
    Some(Activation::QuickGelu),
    Some(Activation::Gelu),
    Some(Activation::GeluTanh),
];

/// The distinct f32 kernels that this processor can run.
fn vectors() -> Vec<&'static dyn FloatKernels> {
    let mut vectors: Vec<_> = variants().into_iter().filter_map(|v| v.float).collect();
    vectors.sort_by_key(|v| v.name());
    vectors.dedup_by_key(|v| v.name());
    // Every aarch64 has NEON, and every x86-64 processor of a tester AVX2; without SIMD kernels most tests would compare
    // nothing.
    assert!(
        !vectors.is_empty(),
        "expected SIMD kernels for this processor, found none"
    );
    vectors
}

/// The variants with distinct int8 kernels, the scalar one among them; and one with an instruction that the processor may not
/// have, emulated.
fn int8_variants() -> Vec<Kernels> {
    let mut all = variants();
    all.sort_by_key(|v| v.int8.map(|v| v.name()));
    all.dedup_by_key(|v| v.int8.map(|v| v.name()));
    #[cfg(target_arch = "x86_64")]
    {
        use crate::x86_64::{Avx2, EmulatedVnni};
        fn emulated() -> Option<Kernels> {
            Some(Kernels {
                name: "avxvnni-emulated",
                float: Some(leaked(Avx2::new()?)),
                int8: Some(leaked(EmulatedVnni::new()?)),
                half: None,
            })
        }
        all.extend(emulated());
    }
    all
}

/// A variant with these f32 kernels and no others.
fn float(vector: &'static dyn FloatKernels) -> Kernels {
    Kernels {
        name: vector.name(),
        float: Some(vector),
        int8: None,
        half: None,
    }
}

/// `len` pseudo-random values in -1 ..= 1, at an address that no register is aligned to.
struct Values(Vec<f32>);

impl Values {
    fn new(seed: u64, len: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Values(
            (0..=len)
                .map(|_| random.next_u32() as f32 / (1u32 << 31) as f32 - 1.0)
                .collect(),
        )
    }
}

impl std::ops::Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0[1..]
    }
}

impl std::ops::DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0[1..]
    }
}

/// Fills this thread's working memory with NaN, to reveal values that are read before they are written.
fn poison() {
    scratch::with(1 << 16, |outer| {
        outer.fill(f32::NAN);
        scratch::with(1 << 16, |inner| inner.fill(f32::NAN));
    });
}

/// Sizes around a tile's.
fn edges(tile: usize) -> Vec<usize> {
    let mut edges = vec![1, tile - 1, tile, tile + 1, 2 * tile + 3];
    edges.retain(|&e| e > 0);
    edges.dedup();
    edges
}

/// Runs `f` in pools of 1, 2 and 3 threads and compares the results.
fn assert_bit_identical_for_any_threads(f: impl Fn() -> Vec<f32> + Sync) {
    let bits = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(&f)
            .into_iter()
            .map(f32::to_bits)
            .collect::<Vec<_>>()
    };
    let one = bits(1);
    assert!(one == bits(2), "two threads differ from one");
    assert!(one == bits(3), "three threads differ from one");
}
