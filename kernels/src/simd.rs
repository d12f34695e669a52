//! The vector operations that the kernels are written in, once for all instruction sets.
//!
//! An operation is a call of an intrinsic, which the compiler can inline only into a function that has the
//! instruction set turned on. So everything generic over [`Simd`] is `#[inline(always)]`, closures included,
//! up to the functions in `x86.rs` and `neon.rs` that turn it on.

use std::fmt::Debug;

/// Registers of f32, and what a matrix product needs to know of them.
///
/// A value of an implementor is the proof that the processor has its instructions: `new()` alone makes one,
/// after detection. So the operations are safe, apart from those that take a pointer.
pub(crate) trait Simd: Copy + Debug + Send + Sync + 'static {
    /// A register of [`Simd::LANES`] values.
    type V: Copy;
    /// Four adjacent values, one of which at a time multiplies a whole register.
    type Quad: Copy;

    const LANES: usize;
    /// Most rows of a tile; its sums fill the register file together with a row of the panel.
    const ROWS: usize;
    /// Columns of a tile and so of a panel.
    const COLUMNS: usize;
    /// Steps of k between two visits to memory for the sums, a multiple of 4: a panel's block of
    /// `DEPTH * COLUMNS` values and a block of `ROWS * DEPTH` stay in the first-level cache together.
    const DEPTH: usize;

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// NaN in `b` stays NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// NaN in `b` stays NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// To the nearest whole number, half to even.
    fn round(self, a: Self::V) -> Self::V;
    /// 2^n for whole n in -126 ..= 127; anything for other n.
    fn power_of_two(self, n: Self::V) -> Self::V;
    /// a · 2^n for whole n in -126 ..= 127; anything for other n.
    #[inline(always)]
    fn times_power_of_two(self, a: Self::V, n: Self::V) -> Self::V {
        self.mul(a, self.power_of_two(n))
    }
    fn sum(self, a: Self::V) -> f32;
    fn largest(self, a: Self::V) -> f32;

    /// The larger of `a`, whose signs are clear, and |b| by their bits, so that infinity lies above all numbers
    /// and NaN above infinity.
    fn larger_magnitude(self, a: Self::V, b: Self::V) -> Self::V;
    /// The bits of the largest lane of `a`, whose signs are clear.
    fn largest_magnitude(self, a: Self::V) -> u32;

    /// c + a * q[LANE], rounded once.
    fn mul_add_lane<const LANE: i32>(self, a: Self::V, q: Self::Quad, c: Self::V) -> Self::V;

    /// # Safety
    /// `from` points to [`Simd::LANES`] readable values.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// # Safety
    /// `to` points to [`Simd::LANES`] writable values.
    unsafe fn store(self, v: Self::V, to: *mut f32);
    /// Values that round to -128 ..= 127 to whole numbers, half to even.
    /// # Safety
    /// `to` points to 4 * [`Simd::LANES`] writable values.
    unsafe fn store_s8(self, v: [Self::V; 4], to: *mut i8);
    /// Values within -32768 ..= 32767 to whole numbers, half to even, those outside 0 ..= 255 to the nearer of the two.
    /// # Safety
    /// `to` points to 4 * [`Simd::LANES`] writable values.
    unsafe fn store_u8(self, v: [Self::V; 4], to: *mut u8);
    /// # Safety
    /// `from` points to 4 readable values, which stay readable and unchanged while the quad is used.
    unsafe fn quad(self, from: *const f32) -> Self::Quad;

    /// Asks for the cache line at `at`, which may be any address. Nothing where the processor's own
    /// prefetching is enough.
    fn prefetch(self, at: *const f32);

    /// Runs `crate::linear::tile::tile` for `rows` of 1 ..= [`Simd::ROWS`].
    /// # Safety
    /// As that function's.
    unsafe fn tile(self, rows: usize, tile: crate::linear::Tile);
    /// [`Simd::tile`] of rows in place.
    /// # Safety
    /// As that function's.
    unsafe fn tile_in_place(self, rows: usize, tile: crate::linear::Tile);
}

/// `f` on each of `x`'s registers in place; the last, incomplete one is filled up with zeros.
#[inline(always)]
pub(crate) fn map_in_place<S: Simd>(simd: S, x: &mut [f32], f: impl Fn(S::V) -> S::V) {
    let mut registers = x.chunks_exact_mut(S::LANES);
    for chunk in &mut registers {
        // SAFETY: the chunk has LANES values.
        unsafe { simd.store(f(simd.load(chunk.as_ptr())), chunk.as_mut_ptr()) };
    }
    let rest = registers.into_remainder();
    if !rest.is_empty() {
        let v = f(load_part(simd, rest));
        store_part(simd, v, rest);
    }
}

/// The most lanes that an implementor has.
pub(crate) const MOST_LANES: usize = 16;

/// Fewer than LANES values, filled up with zeros.
#[inline(always)]
pub(crate) fn load_part<S: Simd>(simd: S, from: &[f32]) -> S::V {
    let mut whole = [0.0; MOST_LANES];
    whole[..from.len()].copy_from_slice(from);
    // SAFETY: LANES <= MOST_LANES.
    unsafe { simd.load(whole.as_ptr()) }
}

/// The first values of `v`, as many as `to` holds.
#[inline(always)]
pub(crate) fn store_part<S: Simd>(simd: S, v: S::V, to: &mut [f32]) {
    let mut whole = [0.0; MOST_LANES];
    // SAFETY: LANES <= MOST_LANES.
    unsafe { simd.store(v, whole.as_mut_ptr()) };
    to.copy_from_slice(&whole[..to.len()]);
}

/// Gives the token `$token` its [`crate::select::Vector`]: each operation in a function with `$features`
/// turned on.
macro_rules! vector {
    ($token:ident, $name:literal, $features:literal) => {
        impl crate::select::Vector for $token {
            fn name(&self) -> &'static str {
                $name
            }

            fn shape(&self) -> crate::select::Shape {
                crate::select::Shape {
                    rows: <$token as Simd>::ROWS,
                    columns: <$token as Simd>::COLUMNS,
                    depth: <$token as Simd>::DEPTH,
                }
            }

            unsafe fn group(&self, group: &crate::linear::Group, sums: &mut [f32]) {
                #[target_feature(enable = $features)]
                unsafe fn run(token: $token, group: &crate::linear::Group, sums: &mut [f32]) {
                    // SAFETY: the caller's promise.
                    unsafe { crate::linear::group(token, group, sums) }
                }
                // SAFETY: the token proves the features; the rest is the caller's promise.
                unsafe { run(*self, group, sums) }
            }

            unsafe fn head(&self, head: &crate::attention::Head, memory: &mut [f32]) {
                #[target_feature(enable = $features)]
                unsafe fn run(token: $token, head: &crate::attention::Head, memory: &mut [f32]) {
                    let shape = crate::select::Vector::shape(&token);
                    // SAFETY: the caller's promise.
                    unsafe { crate::attention::head(token, shape, head, memory) }
                }
                // SAFETY: the token proves the features; the rest is the caller's promise.
                unsafe { run(*self, head, memory) }
            }

            fn layer_norm(
                &self,
                x: &[f32],
                width: usize,
                gain: &[f32],
                bias: &[f32],
                epsilon: f32,
                out: &mut [f32],
            ) {
                #[target_feature(enable = $features)]
                fn run(
                    token: $token,
                    x: &[f32],
                    width: usize,
                    gain: &[f32],
                    bias: &[f32],
                    epsilon: f32,
                    out: &mut [f32],
                ) {
                    crate::norm::layer_norm_rows(token, x, width, gain, bias, epsilon, out)
                }
                // SAFETY: the token proves the features.
                unsafe { run(*self, x, width, gain, bias, epsilon, out) }
            }

            fn activate(&self, x: &mut [f32], activation: Option<pinhole_model::Activation>) {
                #[target_feature(enable = $features)]
                fn run(
                    token: $token,
                    x: &mut [f32],
                    activation: Option<pinhole_model::Activation>,
                ) {
                    crate::activation::activate_slice(token, x, activation)
                }
                // SAFETY: the token proves the features.
                unsafe { run(*self, x, activation) }
            }

            fn quantize(&self, x: &[f32], out: &mut [i8]) -> f32 {
                #[target_feature(enable = $features)]
                fn run(token: $token, x: &[f32], out: &mut [i8]) -> f32 {
                    crate::quantize::quantize_row(token, x, out)
                }
                // SAFETY: the token proves the features.
                unsafe { run(*self, x, out) }
            }

            fn quantize_offset(&self, x: &[f32], offset: f32, out: &mut [u8]) -> f32 {
                #[target_feature(enable = $features)]
                fn run(token: $token, x: &[f32], offset: f32, out: &mut [u8]) -> f32 {
                    crate::quantize::quantize_row_offset(token, x, offset, out)
                }
                // SAFETY: the token proves the features.
                unsafe { run(*self, x, offset, out) }
            }

            fn quantize_affine(&self, x: &[f32], by: crate::Affine, out: &mut [i8]) -> bool {
                #[target_feature(enable = $features)]
                fn run(token: $token, x: &[f32], by: crate::Affine, out: &mut [i8]) -> bool {
                    crate::affine::quantize_slice(token, x, by, out)
                }
                // SAFETY: the token proves the features.
                unsafe { run(*self, x, by, out) }
            }

            fn fake_quantize(&self, x: &[f32], by: crate::Affine, out: &mut [f32]) {
                #[target_feature(enable = $features)]
                fn run(token: $token, x: &[f32], by: crate::Affine, out: &mut [f32]) {
                    crate::affine::fake_quantize_slice(token, x, by, out)
                }
                // SAFETY: the token proves the features.
                unsafe { run(*self, x, by, out) }
            }

            fn range(&self, x: &[f32]) -> [f32; 3] {
                #[target_feature(enable = $features)]
                fn run(token: $token, x: &[f32]) -> [f32; 3] {
                    crate::affine::range_slice(token, x)
                }
                // SAFETY: the token proves the features.
                unsafe { run(*self, x) }
            }

            #[cfg(test)]
            fn exp2(&self, x: &mut [f32]) {
                #[target_feature(enable = $features)]
                fn run(token: $token, x: &mut [f32]) {
                    crate::simd::map_in_place(
                        token,
                        x,
                        #[inline(always)]
                        |v| crate::activation::exp2(token, v),
                    )
                }
                // SAFETY: the token proves the features.
                unsafe { run(*self, x) }
            }
        }
    };
}

/// `Simd::tile` and `Simd::tile_in_place` by the function of each height up to the most rows.
macro_rules! tiles {
    ($token:ident, $features:literal, $vectors:literal, $rows:tt) => {
        crate::simd::tiles!(tile, false, $token, $features, $vectors, $rows);
        crate::simd::tiles!(tile_in_place, true, $token, $features, $vectors, $rows);
    };
    ($name:ident, $in_place:literal, $token:ident, $features:literal, $vectors:literal, [$($rows:literal)*]) => {
        #[inline(always)]
        unsafe fn $name(self, rows: usize, t: crate::linear::Tile) {
            #[target_feature(enable = $features)]
            #[inline(never)]
            unsafe fn run<const ROWS: usize>(token: $token, t: crate::linear::Tile) {
                // SAFETY: the caller's promise.
                unsafe { crate::linear::tile::<$token, ROWS, $vectors, $in_place>(token, t) }
            }
            // SAFETY: the token proves the features; the rest is the caller's promise.
            unsafe {
                match rows {
                    $($rows => run::<$rows>(self, t),)*
                    _ => unreachable!("a tile of {rows} rows"),
                }
            }
        }
    };
}

/// A SIMD operation that needs nothing but its instructions.
macro_rules! operations {
    ($($name:ident($($x:ident),+) = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($x: Self::V),+) -> Self::V {
            // SAFETY: the token proves that the processor has the instruction.
            unsafe { $body }
        }
    )*};
}

pub(crate) use {operations, tiles, vector};
