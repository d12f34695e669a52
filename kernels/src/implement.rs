//! Implements [`FloatKernels`](crate::dispatch::FloatKernels) for the token of an instruction set: each operation's generic
//! code in a function that enables the instruction set.

/// Implements [`crate::dispatch::FloatKernels`] for `$token` with `$features` enabled, which the token must prove.
macro_rules! vector {
    ($token:ident, $name:literal, $features:literal) => {
        impl crate::dispatch::FloatKernels for $token {
            fn name(&self) -> &'static str {
                $name
            }

            fn shape(&self) -> crate::dispatch::Shape {
                crate::dispatch::Shape {
                    rows: <$token as crate::simd::Simd>::ROWS,
                    columns: <$token as crate::simd::Simd>::COLUMNS,
                    depth: <$token as crate::simd::Simd>::DEPTH,
                }
            }

            unsafe fn group(&self, group: &crate::dispatch::LinearGroup, sums: &mut [f32]) {
                #[target_feature(enable = $features)]
                unsafe fn run(
                    token: $token,
                    group: &crate::dispatch::LinearGroup,
                    sums: &mut [f32],
                ) {
                    // SAFETY: the caller's promise.
                    unsafe { crate::linear::tile::group(token, group, sums) }
                }
                // SAFETY: the token proves the features; the rest is the caller's promise.
                unsafe { run(*self, group, sums) }
            }

            unsafe fn head(&self, head: &crate::dispatch::AttentionHead, memory: &mut [f32]) {
                #[target_feature(enable = $features)]
                unsafe fn run(
                    token: $token,
                    head: &crate::dispatch::AttentionHead,
                    memory: &mut [f32],
                ) {
                    let shape = crate::dispatch::FloatKernels::shape(&token);
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

            fn activate(&self, x: &mut [f32], function: Option<crate::types::Nonlinearity>) {
                #[target_feature(enable = $features)]
                fn run(token: $token, x: &mut [f32], function: Option<crate::types::Nonlinearity>) {
                    crate::activation::activate_slice(token, x, function)
                }
                // SAFETY: the token proves the features.
                unsafe { run(*self, x, function) }
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

            fn quantize_affine(&self, x: &[f32], by: crate::types::Affine, out: &mut [i8]) -> bool {
                #[target_feature(enable = $features)]
                fn run(token: $token, x: &[f32], by: crate::types::Affine, out: &mut [i8]) -> bool {
                    crate::affine::quantize_slice(token, x, by, out)
                }
                // SAFETY: the token proves the features.
                unsafe { run(*self, x, by, out) }
            }

            fn fake_quantize(&self, x: &[f32], by: crate::types::Affine, out: &mut [f32]) {
                #[target_feature(enable = $features)]
                fn run(token: $token, x: &[f32], by: crate::types::Affine, out: &mut [f32]) {
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

/// Implements `Simd::tile` and `Simd::tile_in_place` with a function for each number of rows.
macro_rules! tiles {
    ($token:ident, $features:literal, $vectors:literal, $rows:tt) => {
        crate::implement::tiles!(tile, false, $token, $features, $vectors, $rows);
        crate::implement::tiles!(tile_in_place, true, $token, $features, $vectors, $rows);
    };
    ($name:ident, $in_place:literal, $token:ident, $features:literal, $vectors:literal, [$($rows:literal)*]) => {
        #[inline(always)]
        unsafe fn $name(self, rows: usize, t: crate::simd::Tile) {
            #[target_feature(enable = $features)]
            #[inline(never)]
            unsafe fn run<const ROWS: usize>(token: $token, t: crate::simd::Tile) {
                // SAFETY: the caller's promise.
                unsafe { crate::linear::tile::tile::<$token, ROWS, $vectors, $in_place>(token, t) }
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

pub(crate) use {tiles, vector};
