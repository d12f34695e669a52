//! What linear layers of all element types have in common.

use std::fmt;
use std::ops::Range;

use super::pack::blocks;
use crate::scratch::{self, Plain};
use crate::threads;
use pinhole_model::Activation;

/// A linear layer with weights packed for the chosen variant: y = activation(x W + b) + residual. The type of the weights says
/// what a row of x is and how exact the product is.
#[derive(Clone)]
pub struct Packed<W> {
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) weights: W,
}

/// Weights of a [`Packed`] layer: those of f32, f16, 8-bit integers, and 8-bit integers with zero points.
pub trait Weights: Send + Sync {
    /// The element type, for display.
    const NAME: &'static str;

    /// Most rows of a product.
    #[doc(hidden)]
    const MOST_ROWS: usize = MOST_ROWS;

    /// Rows of x.
    #[doc(hidden)]
    type Rows<'a>: Rows;

    /// The name of the kernels that multiply by these weights.
    #[doc(hidden)]
    fn kernel(&self) -> &'static str;

    /// out [product.rows, product.n]; neither is 0.
    #[doc(hidden)]
    fn multiply(&self, x: Self::Rows<'_>, product: &Product, out: &mut [f32]);
}

/// Rows that weights are multiplied by.
#[doc(hidden)]
pub trait Rows: Copy {
    /// Panics unless these are m rows of k values.
    fn check(self, m: usize, k: usize);

    /// The rows first .. first + count of k values.
    fn part(self, first: usize, count: usize, k: usize) -> Self;
}

impl Rows for &[f32] {
    fn check(self, m: usize, k: usize) {
        assert_eq!(Some(self.len()), m.checked_mul(k), "x: [{m}, {k}]");
    }

    fn part(self, first: usize, count: usize, k: usize) -> Self {
        &self[first * k..][..count * k]
    }
}

/// Rows with what belongs to all of them.
impl<T: Copy> Rows for (&[f32], T) {
    fn check(self, m: usize, k: usize) {
        self.0.check(m, k);
    }

    fn part(self, first: usize, count: usize, k: usize) -> Self {
        (self.0.part(first, count, k), self.1)
    }
}

/// A product of at most [`Weights::MOST_ROWS`] rows with the weights.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) activation: Option<Activation>,
    /// [rows, n]
    pub(crate) residual: Option<&'a [f32]>,
}

/// More rows are computed in blocks of this many, so that the packed rows stay in the cache.
pub(crate) const MOST_ROWS: usize = 256;

/// Most bytes of sums that a group keeps between blocks of k.
const MOST_SUMS: usize = 96 << 10;

impl<W: Weights> Packed<W> {
    /// k: values of an input row.
    pub fn inputs(&self) -> usize {
        self.k
    }

    /// n: values of an output row.
    pub fn outputs(&self) -> usize {
        self.n
    }

    /// The name of the kernels that `apply` runs.
    pub fn kernel(&self) -> &'static str {
        self.weights.kernel()
    }

    /// out [m, n] = activation(x [m, k] W + b) + residual [m, n]
    pub(crate) fn multiply(
        &self,
        x: W::Rows<'_>,
        m: usize,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let (k, n) = (self.k, self.n);
        x.check(m, k);
        assert_eq!(Some(out.len()), m.checked_mul(n), "out: [{m}, {n}]");
        assert!(
            residual.is_none_or(|r| r.len() == m * n),
            "residual: [{m}, {n}]"
        );
        if out.is_empty() {
            return;
        }
        for (first, rows) in blocks(m, W::MOST_ROWS) {
            let product = Product {
                rows,
                k,
                n,
                activation,
                residual: residual.map(|r| &r[first * n..][..rows * n]),
            };
            let out = &mut out[first * n..][..rows * n];
            self.weights.multiply(x.part(first, rows, k), &product, out);
        }
    }
}

impl<W: Weights> fmt::Debug for Packed<W> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (k, n, kernel) = (self.k, self.n, self.kernel());
        write!(f, "Packed({k} -> {n}, {} {kernel})", W::NAME)
    }
}

impl<'a> Product<'a> {
    /// The residual of row i.
    pub(crate) fn residual_row(&self, i: usize) -> Option<&'a [f32]> {
        self.residual.map(|r| &r[i * self.n..][..self.n])
    }
}

/// Columns that are computed together.
pub(crate) struct Columns {
    /// Of the output.
    pub(crate) range: Range<usize>,
    /// Their panels.
    pub(crate) panels: Range<usize>,
}

/// Runs `job` for groups of panels of `width` columns each, `n` columns in all, on `threads`. Each job gets memory for `rows`
/// sums of each column of its panels.
pub(crate) fn for_each_group<T: Plain>(
    threads: usize,
    n: usize,
    width: usize,
    rows: usize,
    job: impl Fn(Columns, &mut [T]) + Sync + Send,
) {
    let panels = n.div_ceil(width);
    let together = group_size(panels, threads, rows * width * size_of::<T>());
    threads::for_each(threads, panels.div_ceil(together), |i| {
        let panels = i * together..panels.min((i + 1) * together);
        let sums = panels.len() * rows * width;
        let range = panels.start * width..n.min(panels.end * width);
        scratch::with(sums, |sums| job(Columns { range, panels }, sums));
    });
}

/// How many of `panels` to compute together: two groups per thread balance the load; their sums, `bytes` per panel, must fit
/// the cache.
fn group_size(panels: usize, threads: usize, bytes: usize) -> usize {
    let most = (MOST_SUMS / bytes).clamp(1, 16);
    let share = if threads == 1 {
        panels
    } else {
        panels.div_ceil(2 * threads)
    };
    share.div_ceil(share.div_ceil(most).max(1)).max(1)
}
