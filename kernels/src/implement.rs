//! Implements the kernels of `dispatch.rs` for every instruction set, from code that is generic over its operations.

use std::ops::Range;

use crate::dispatch::{
    AttentionHead, DepthwiseBlock, FloatDepthwiseBlock, FloatKernels, Int8Group, Int8Kernels,
    LinearGroup, PixelKernels, Shape, WinogradImage, WinogradPanel,
};
use crate::int8::depthwise::Memory;
use crate::int8::group::Int8Simd;
use crate::int8::pack::Layout;
use crate::resample::{FilteredLines, LINES, LineFilter};
use crate::simd::Simd;
#[cfg(test)]
use crate::simd::map_in_place;
use crate::types::{Affine, CentredRows, Nonlinearity, StridedRows};
use crate::yuv::YuvMatrix;
use crate::{
    activation, affine, attention, float_depthwise, int8, linear, norm, quantize, resample,
    winograd, yuv,
};

impl<S: Simd> FloatKernels for S {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn shape(&self) -> Shape {
        Shape {
            rows: S::ROWS,
            columns: S::COLUMNS,
            depth: S::DEPTH,
            in_place: S::IN_PLACE,
        }
    }

    unsafe fn group(&self, group: &LinearGroup, sums: &mut [f32]) {
        self.enter(
            #[inline(always)]
            // SAFETY: the caller's promise.
            |simd| unsafe { linear::tile::group(simd, group, sums) },
        );
    }

    unsafe fn head(&self, head: &AttentionHead, memory: &mut [f32]) {
        let shape = self.shape();
        self.enter(
            #[inline(always)]
            // SAFETY: the caller's promise.
            |simd| unsafe { attention::head(simd, shape, head, memory) },
        );
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
        self.enter(
            #[inline(always)]
            |simd| norm::layer_norm_rows(simd, x, width, gain, bias, epsilon, out),
        );
    }

    fn activate(&self, x: &mut [f32], function: Option<Nonlinearity>) {
        self.enter(
            #[inline(always)]
            |simd| activation::activate_slice(simd, x, function),
        );
    }

    unsafe fn depthwise(&self, block: &FloatDepthwiseBlock) {
        float_depthwise::with_memory::<S>(block, |ring, sums| {
            self.enter(
                #[inline(always)]
                // SAFETY: the caller's promise.
                |simd| unsafe { float_depthwise::block(simd, block, ring, sums) },
            );
        });
    }

    fn winograd_input(&self, image: &WinogradImage, tiles: Range<usize>, to: &mut [f32]) {
        let shape = self.shape();
        self.enter(
            #[inline(always)]
            |simd| winograd::input(simd, shape, image, tiles, to),
        );
    }

    unsafe fn winograd_panel(&self, panel: &WinogradPanel, products: &mut [f32]) {
        let shape = self.shape();
        self.enter(
            #[inline(always)]
            // SAFETY: the caller's promise.
            |simd| unsafe { winograd::panel(simd, shape, panel, products) },
        );
    }

    fn quantize(&self, x: &[f32], out: &mut [i8]) -> f32 {
        self.enter(
            #[inline(always)]
            |simd| quantize::quantize_row(simd, x, out),
        )
    }

    fn quantize_offset(&self, x: &[f32], offset: f32, out: &mut [u8]) -> f32 {
        self.enter(
            #[inline(always)]
            |simd| quantize::quantize_row_offset(simd, x, offset, out),
        )
    }

    fn quantize_affine(&self, x: &[f32], by: Affine, out: &mut [i8]) -> bool {
        self.enter(
            #[inline(always)]
            |simd| affine::quantize_slice(simd, x, by, out),
        )
    }

    fn fake_quantize(&self, x: &[f32], by: Affine, out: &mut [f32]) {
        self.enter(
            #[inline(always)]
            |simd| affine::fake_quantize_slice(simd, x, by, out),
        );
    }

    fn column_means(&self, rows: StridedRows, count: usize, means: &mut [f32]) {
        self.enter(
            #[inline(always)]
            |simd| int8::attention::column_means(simd, rows, count, means),
        );
    }

    fn quantize_rows(&self, x: CentredRows, out: &mut [i8], scales: &mut [f32]) {
        self.enter(
            #[inline(always)]
            |simd| int8::attention::quantize_rows(simd, x, out, scales),
        );
    }

    fn quantize_columns(
        &self,
        x: CentredRows,
        scales: &mut [f32],
        factors: &mut [f32],
        out: &mut [i8],
    ) {
        self.enter(
            #[inline(always)]
            |simd| int8::attention::quantize_columns(simd, x, scales, factors, out),
        );
    }

    fn shares(
        &self,
        scores: &[f32],
        stride: usize,
        seen: usize,
        scale: f32,
        out: &mut [u8],
        scales: &mut [f32],
    ) {
        self.enter(
            #[inline(always)]
            |simd| int8::attention::shares(simd, scores, stride, seen, scale, out, scales),
        );
    }

    fn range(&self, x: &[f32]) -> [f32; 3] {
        self.enter(
            #[inline(always)]
            |simd| affine::range_slice(simd, x),
        )
    }

    #[cfg(test)]
    fn exp2(&self, x: &mut [f32]) {
        self.enter(
            #[inline(always)]
            |simd| {
                map_in_place(
                    simd,
                    x,
                    #[inline(always)]
                    |v| activation::exp2(simd, v),
                )
            },
        );
    }
}

impl<S: Simd> PixelKernels for S {
    fn filter_lines(
        &self,
        lines: &[&[u8]; LINES],
        first: usize,
        filter: &LineFilter,
        strip: Range<usize>,
        out: &mut FilteredLines,
    ) {
        resample::Memory::with(strip.len(), |memory| {
            self.enter(
                #[inline(always)]
                |simd| resample::filter_lines(simd, lines, first, filter, strip, memory, out),
            );
        });
    }

    fn add_lines(&self, sums: &mut [i32], lines: &FilteredLines, weights: &[i32; LINES]) {
        self.enter(
            #[inline(always)]
            |_| resample::add_lines(sums, lines, weights),
        );
    }

    fn mix_rows(&self, near: &[u8], far: &[u8], sums: &mut [u16]) {
        self.enter(
            #[inline(always)]
            |_| yuv::mix_rows(near, far, sums),
        );
    }

    fn double_row(&self, sums: &[u16], biases: [u16; 2], shift: u32, pixels: &mut [u8]) {
        self.enter(
            #[inline(always)]
            |_| yuv::double_row(sums, biases, shift, pixels),
        );
    }

    fn yuv_to_rgb(&self, matrix: &YuvMatrix, luma: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
        self.enter(
            #[inline(always)]
            |simd| yuv::to_rgb(simd, matrix, luma, cb, cr, rgb),
        );
    }
}

impl<I: Int8Simd> Int8Kernels for I {
    fn name(&self) -> &'static str {
        I::NAME
    }

    fn layout(&self) -> Layout {
        I::LAYOUT
    }

    #[cfg(test)]
    fn depth(&self) -> usize {
        I::DEPTH
    }

    #[cfg(test)]
    fn activate(&self, x: &mut [f32], function: Option<Nonlinearity>) {
        FloatKernels::activate(&self.float(), x, function);
    }

    unsafe fn group(&self, group: &Int8Group, sums: &mut [i32]) {
        self.enter(
            #[inline(always)]
            // SAFETY: the caller's promise.
            |simd| unsafe { int8::group::group(simd, group, sums) },
        );
    }

    unsafe fn depthwise(&self, block: &DepthwiseBlock) {
        Memory::with(I::LAYOUT.operand, I::PIXELS, block, |mut memory| {
            self.enter(
                #[inline(always)]
                // SAFETY: the caller's promise.
                |simd| unsafe { int8::depthwise::block(simd, block, &mut memory) },
            );
        });
    }
}
