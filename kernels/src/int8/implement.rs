//! Implements [`Int8Kernels`](crate::dispatch::Int8Kernels) for the token of an instruction set, as `implement.rs` for f32.

/// Implements [`crate::dispatch::Int8Kernels`] for `$token` with `$features` enabled, which the token must prove.
macro_rules! vector_int8 {
    ($token:ident, $name:literal, $features:literal) => {
        impl crate::dispatch::Int8Kernels for $token {
            fn name(&self) -> &'static str {
                $name
            }

            fn layout(&self) -> crate::int8::pack::Layout {
                <$token as crate::int8::group::Int8Simd>::LAYOUT
            }

            #[cfg(test)]
            fn depth(&self) -> usize {
                <$token as crate::int8::group::Int8Simd>::DEPTH
            }

            #[cfg(test)]
            fn activate(&self, x: &mut [f32], function: Option<crate::types::Nonlinearity>) {
                let float = crate::int8::group::Int8Simd::float(*self);
                crate::dispatch::FloatKernels::activate(&float, x, function);
            }

            unsafe fn group(&self, group: &crate::dispatch::Int8Group, sums: &mut [i32]) {
                #[target_feature(enable = $features)]
                unsafe fn run(token: $token, group: &crate::dispatch::Int8Group, sums: &mut [i32]) {
                    // SAFETY: the caller's promise.
                    unsafe { crate::int8::group::group(token, group, sums) }
                }
                // SAFETY: the token proves the features; the rest is the caller's promise.
                unsafe { run(*self, group, sums) }
            }

            unsafe fn depthwise(&self, block: &crate::dispatch::DepthwiseBlock) {
                #[target_feature(enable = $features)]
                unsafe fn run(
                    token: $token,
                    block: &crate::dispatch::DepthwiseBlock,
                    memory: &mut crate::int8::depthwise::Memory,
                ) {
                    // SAFETY: the caller's promise.
                    unsafe { crate::int8::depthwise::block(token, block, memory) }
                }
                let operand = <$token as crate::int8::group::Int8Simd>::LAYOUT.operand;
                let pixels = <$token as crate::int8::group::Int8Simd>::PIXELS;
                crate::int8::depthwise::Memory::with(operand, pixels, block, |mut memory| {
                    // SAFETY: the token proves the features; the rest is the caller's promise.
                    unsafe { run(*self, block, &mut memory) }
                });
            }
        }
    };
}

/// Implements `Int8Simd::tiles` with a function for each number of rows.
macro_rules! tiles_int8 {
    ($token:ident, $features:literal, $($rows:literal => $tile:expr),+ $(,)?) => {
        #[inline(always)]
        unsafe fn tiles(self, rows: usize, count: usize, t: crate::int8::group::Int8Tile) {
            match rows {
                $($rows => {
                    #[target_feature(enable = $features)]
                    #[inline(never)]
                    unsafe fn run(token: $token, count: usize, mut t: crate::int8::group::Int8Tile) {
                        let columns = <$token as crate::int8::group::Int8Simd>::LAYOUT.columns;
                        for _ in 0..count {
                            // SAFETY: the caller's promise.
                            unsafe { $tile(token, &t) }
                            t.advance(1, $rows, columns);
                        }
                    }
                    // SAFETY: the token proves the features; the rest is the caller's promise.
                    unsafe { run(self, count, t) }
                })+
                _ => unreachable!("a tile of {rows} rows"),
            }
        }
    };
}

pub(crate) use {tiles_int8, vector_int8};
