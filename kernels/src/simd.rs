//! The vector operations that the kernels are written in, generic over instruction sets.
//!
//! An operation calls an intrinsic, which the compiler inlines only into a function that enables the instruction set. So all
//! code generic over [`Simd`] is `#[inline(always)]`, closures included, up to [`InstructionSet::enter`].

use std::fmt::Debug;

/// An instruction set. A value of an implementor (a token) proves that the processor has the instructions: only `new()` makes
/// one, after detection.
pub(crate) trait InstructionSet: Copy + Debug + Send + Sync + 'static {
    const NAME: &'static str;

    /// Runs `f`, which must be `#[inline(always)]`, in a function of its own that enables the instruction set.
    fn enter<R>(self, f: impl FnOnce(Self) -> R) -> R;
}

/// Implements [`InstructionSet`] for `$token`, which must prove `$features`.
macro_rules! token {
    ($token:ident, $name:literal, $features:literal) => {
        impl crate::simd::InstructionSet for $token {
            const NAME: &'static str = $name;

            #[inline(always)]
            fn enter<R>(self, f: impl FnOnce(Self) -> R) -> R {
                #[target_feature(enable = $features)]
                #[inline(never)]
                fn run<R>(token: $token, f: impl FnOnce($token) -> R) -> R {
                    f(token)
                }
                // SAFETY: the token proves the features.
                unsafe { run(self, f) }
            }
        }
    };
}

/// An instruction set's operations on registers of f32, and the tile sizes of its matrix product. A token makes the operations
/// safe, apart from those that take a pointer.
pub(crate) trait Simd: InstructionSet {
    /// A register of [`Simd::LANES`] values.
    type V: Copy;
    /// Four adjacent values; [`Simd::mul_add_lane`] multiplies a register by one of them.
    type Quad: Copy;

    const LANES: usize;
    /// Most rows of a tile; its sums and a row of the panel fill the register file.
    const ROWS: usize;
    /// Columns of a tile and of a panel.
    const COLUMNS: usize;
    /// Steps of k between a load and a store of the sums, a multiple of 4: a panel's block of `DEPTH * COLUMNS` values and a
    /// rows' block of `ROWS * DEPTH` fit the first-level cache together.
    const DEPTH: usize;
    /// Whether a tile reads rows where they are as fast as packed ones: not where an instruction loads two packed rows.
    const IN_PLACE: bool;

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
    /// To the nearest integer, half to even.
    fn round(self, a: Self::V) -> Self::V;
    /// 2^n for integers n in -126 ..= 127; unspecified for other n.
    fn power_of_two(self, n: Self::V) -> Self::V;
    /// a · 2^n for integers n in -126 ..= 127; unspecified for other n.
    #[inline(always)]
    fn times_power_of_two(self, a: Self::V, n: Self::V) -> Self::V {
        self.mul(a, self.power_of_two(n))
    }
    fn sum(self, a: Self::V) -> f32;
    fn largest(self, a: Self::V) -> f32;

    /// The larger of `a` and |b|, compared as bits, so that infinity is above all finite numbers and NaN above infinity. The
    /// signs of `a` are clear.
    fn larger_magnitude(self, a: Self::V, b: Self::V) -> Self::V;
    /// The bits of the largest lane of `a`, whose signs are clear.
    fn largest_magnitude(self, a: Self::V) -> u32;

    /// c + a * q[LANE], rounded once.
    fn mul_add_lane<const LANE: i32>(self, a: Self::V, q: Self::Quad, c: Self::V) -> Self::V;

    /// # Safety
    /// `from` points to [`Simd::LANES`] readable values.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Loads integers and rounds them to f32.
    ///
    /// # Safety
    /// `from` points to [`Simd::LANES`] readable values.
    unsafe fn load_i32(self, from: *const i32) -> Self::V;
    /// # Safety
    /// `to` points to [`Simd::LANES`] writable values.
    unsafe fn store(self, v: Self::V, to: *mut f32);
    /// Rounds to integers, half to even; they must be in -128 ..= 127.
    ///
    /// # Safety
    /// `to` points to 4 * [`Simd::LANES`] writable values.
    unsafe fn store_s8(self, v: [Self::V; 4], to: *mut i8);
    /// Rounds values of -32768 ..= 32767 to integers, half to even, clamped to 0 ..= 255.
    ///
    /// # Safety
    /// `to` points to 4 * [`Simd::LANES`] writable values.
    unsafe fn store_u8(self, v: [Self::V; 4], to: *mut u8);
    /// Rounds to integers, half to even, clamped to 0 ..= 255; NaN becomes 0.
    ///
    /// # Safety
    /// `to` points to [`Simd::LANES`] writable values.
    unsafe fn store_bytes(self, v: Self::V, to: *mut u8);
    /// Writes the first byte of each of `planes`, then the second of each, and so on.
    ///
    /// # Safety
    /// `to` points to 48 writable bytes.
    unsafe fn store_rgb(self, planes: [&[u8; 16]; 3], to: *mut u8);
    /// # Safety
    /// `from` points to 4 readable values, which stay readable and unchanged while the quad is used.
    unsafe fn quad(self, from: *const f32) -> Self::Quad;

    /// Prefetches the cache line at `at`, which may be any address. Does nothing where hardware prefetching suffices.
    fn prefetch(self, at: *const f32);

    /// Runs `crate::linear::tile::tile` for `rows` of 1 ..= [`Simd::ROWS`].
    /// # Safety
    /// As that function's.
    unsafe fn tile<const IN_PLACE: bool>(self, rows: usize, tile: Tile);
}

/// The operands of [`Simd::tile`].
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// depth / 4 steps of one quad a row; or rows in place, `x_stride` apart.
    pub(crate) x: *const f32,
    /// For rows in place.
    pub(crate) x_stride: usize,
    /// [depth, columns]
    pub(crate) panel: *const f32,
    /// A multiple of 4.
    pub(crate) depth: usize,
    /// [rows, columns], rows `stride` apart.
    pub(crate) sums: *mut f32,
    pub(crate) stride: usize,
    /// Whether to add to `sums`, which then has the sums of previous steps of k.
    pub(crate) add: bool,
    /// What a later tile reads, to be prefetched: `ahead` cache lines in each step of a quad. May be any address.
    pub(crate) next: *const f32,
    pub(crate) ahead: usize,
}

/// Applies `f` to x, register by register, in place; the last, partial one is padded with zeros.
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

/// The most lanes of an implementor.
pub(crate) const MOST_LANES: usize = 16;

/// Loads fewer than LANES values, padded with zeros.
#[inline(always)]
pub(crate) fn load_part<S: Simd>(simd: S, from: &[f32]) -> S::V {
    let mut whole = [0.0; MOST_LANES];
    whole[..from.len()].copy_from_slice(from);
    // SAFETY: LANES <= MOST_LANES.
    unsafe { simd.load(whole.as_ptr()) }
}

/// Stores the first values of `v`, as many as `to` holds.
#[inline(always)]
pub(crate) fn store_part<S: Simd>(simd: S, v: S::V, to: &mut [f32]) {
    let mut whole = [0.0; MOST_LANES];
    // SAFETY: LANES <= MOST_LANES.
    unsafe { simd.store(v, whole.as_mut_ptr()) };
    to.copy_from_slice(&whole[..to.len()]);
}

/// Implements operations of [`Simd`] whose only requirement is the instruction set.
macro_rules! operations {
    ($($name:ident($($x:ident),+) = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($x: Self::V),+) -> Self::V {
            // SAFETY: the token proves that the processor has the instruction.
            unsafe { $body }
        }
    )*};
}

pub(crate) use {operations, token};
