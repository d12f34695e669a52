//! Fitting the first-order head to the exact class embeddings of calibration images.

use pinhole_kernels::PackedLinear;
use pinhole_model::{Tensor, dot};
use rayon::prelude::*;

use super::eigen::{eigen, leading};
use super::linear::LinearTerms;
use super::reuse::Movement;
use super::{Conditional, check_embedding};
use crate::TextEncoder;
use crate::error::Error;

/// Bounds for the reduction of the head.
#[derive(Clone, Copy, Debug)]
pub struct FitOptions {
    /// The ranks are the smallest that leave at most this share of the energy (sum of squares) of the image-dependent part
    /// of the similarities, per class, over the calibration images.
    pub unexplained: f32,
    /// Largest product r s of the ranks; it takes precedence over `unexplained`. A class costs D + r s multiply-adds.
    pub most_terms: usize,
}

impl Default for FitOptions {
    /// On a trained model, 0.003 is negligible compared with the error of the first order; 2,048 terms limit the weights of
    /// 1,000 classes to 10 MB.
    fn default() -> Self {
        FitOptions {
            unexplained: 0.003,
            most_terms: 2048,
        }
    }
}

/// A fitted head with the measurements of its fit.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The head.
    pub terms: LinearTerms,
    /// N, the number of calibration images.
    pub images: usize,
    /// The ridge penalty, chosen by generalised cross-validation.
    pub ridge: f64,
    /// The share of the class embeddings' variance over the calibration images that the first-order head leaves unexplained
    /// before its ranks are reduced.
    pub residual: f64,
    /// The share of energy that the reduction leaves unexplained, as in
    /// [`FitOptions::unexplained`].
    pub unexplained: f64,
    /// The largest measured |t_c(i) - t_c(j)| / |pi_i - pi_j|, for [`super::Reuse`].
    pub movement: f32,
}

/// Number of images on which the reduction is measured.
const MEASURED: usize = 64;

/// Largest number of rows of the basis E.
const MOST_BASIS: usize = 128;

/// Fits the head to images given by their L2-normalised embeddings [N, D]. `progress` is called with the number of images
/// done and their total, first with 0.
///
/// The class embeddings are fitted at unit length, as they are compared. With the centred hidden vectors d [N, H] = U S Vᵀ,
/// the ridge regression is diagonal in V: the exact embeddings T of the images are accumulated in Uᵀ T, which gives the
/// solution for every penalty, its residual and its degrees of freedom. The penalty minimises the generalised
/// cross-validation score (Golub, Heath and Wahba, 1979), which keeps the fit stable with few images and rare directions.
/// Memory: min(H, N - 1) x C x D values, for any number of images.
///
/// The derivative without its mean over the classes is reduced by a Tucker decomposition (Tucker, 1966) along the leading
/// directions of the hidden space, scaled to unit variance, and of the embedding space, whose first direction is the mean
/// image embedding.
///
/// # Errors
/// [`Error::Input`] for no images or values that are not rows of D; [`Error::NotUnit`]; those of
/// [`Conditional::exact`].
pub fn fit(
    conditional: &Conditional,
    encoder: &TextEncoder,
    embeddings: &[f32],
    options: FitOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Fit, Error> {
    let images = image_rows(conditional, embeddings)?;
    let design = Design::new(conditional, &images)?;
    let shifts = (design.hidden.iter())
        .map(|hidden| conditional.shift(hidden))
        .collect::<Result<Vec<_>, _>>()?;
    let mut movement = Movement::new(&shifts);
    let mut sums = Sums::default();
    progress(0, images.len());
    for (done, &image) in movement.order().to_vec().iter().enumerate() {
        let exact = conditional.exact_shifted(encoder, &shifts[image], None)?;
        sums.add(&exact, &design.factors(image));
        movement.add(image, exact, conditional.embedding());
        progress(done + 1, images.len());
    }
    let (ridge, residual) = design.ridge(&sums);
    let expansion = Expansion::new(&design, sums, ridge, conditional);
    let (terms, unexplained) = expansion.reduce(&design, &images, options);
    Ok(Fit {
        terms,
        images: images.len(),
        ridge,
        residual,
        unexplained,
        movement: movement.bound(),
    })
}

/// The rows of [N, D], each of norm 1.
pub(super) fn image_rows<'a>(
    conditional: &Conditional,
    embeddings: &'a [f32],
) -> Result<Vec<&'a [f32]>, Error> {
    let len = conditional.embedding();
    if embeddings.is_empty() || !embeddings.len().is_multiple_of(len) {
        return Err(Error::Input {
            what: "values of the calibration images' embeddings",
            found: embeddings.len(),
            expected: format!("at least one row of {len}"),
        });
    }
    let rows: Vec<&[f32]> = embeddings.chunks_exact(len).collect();
    rows.iter().try_for_each(|row| check_embedding(row, len))?;
    Ok(rows)
}

/// The singular value decomposition of the centred hidden vectors d [N, H] = U S Vᵀ, without null directions.
struct Design {
    hidden: Vec<Vec<f32>>,
    mean: Vec<f64>,
    /// S, largest first: q values.
    values: Vec<f64>,
    /// Vᵀ [q, H]
    vectors: Vec<f64>,
}

impl Design {
    fn new(conditional: &Conditional, images: &[&[f32]]) -> Result<Self, Error> {
        let hidden = (images.iter())
            .map(|image| conditional.hidden(image))
            .collect::<Result<Vec<_>, _>>()?;
        let (n, h) = (hidden.len(), conditional.hidden_len());
        let mut mean = vec![0.0; h];
        for row in &hidden {
            mean.iter_mut()
                .zip(row)
                .for_each(|(m, &x)| *m += f64::from(x) / n as f64);
        }
        let mut squares = vec![0.0; h * h];
        for row in &hidden {
            let d: Vec<f64> = row
                .iter()
                .zip(&mean)
                .map(|(&x, m)| f64::from(x) - m)
                .collect();
            for (line, x) in squares.chunks_exact_mut(h).zip(&d) {
                line.iter_mut().zip(&d).for_each(|(s, y)| *s += x * y);
            }
        }
        let (mut values, mut vectors) = eigen(&squares, h);
        // Below this, relative to the largest variance, f32 values are rounding errors.
        let least = 1e-10 * values.first().copied().unwrap_or(0.0);
        let kept = values
            .iter()
            .take_while(|&&v| v > least.max(f64::MIN_POSITIVE));
        let kept = kept.count().min(n - 1);
        values.truncate(kept);
        vectors.truncate(kept * h);
        let values = values.into_iter().map(f64::sqrt).collect();
        Ok(Design {
            hidden,
            mean,
            values,
            vectors,
        })
    }

    /// The image's row of U, `[q]`.
    fn factors(&self, image: usize) -> Vec<f64> {
        let d = self.hidden[image].iter().zip(&self.mean);
        let d: Vec<f64> = d.map(|(&x, m)| f64::from(x) - m).collect();
        let vectors = self.vectors.chunks_exact(d.len()).zip(&self.values);
        vectors
            .map(|(v, s)| super::eigen::product_of(v, &d) / s)
            .collect()
    }

    /// The penalty with the smallest generalised cross-validation score, and the share of the variance that its fit leaves
    /// unexplained.
    fn ridge(&self, sums: &Sums) -> (f64, f64) {
        let n = sums.count as f64;
        let total = sums.moved();
        let in_reach: Vec<f64> = sums.projected.iter().map(|y| energy(y)).collect();
        // With as many directions as images the residual is rounding error.
        let left = match self.values.len() + 1 < sums.count {
            true => (total - in_reach.iter().sum::<f64>()).max(0.0),
            false => 0.0,
        };
        let greatest = self.values.first().map_or(1.0, |s| s * s);
        let (mut best, mut least) = ((greatest * 1e-2, 1.0), f64::INFINITY);
        for step in 0..=40 {
            let ridge = greatest * 10f64.powf(1.0 - 0.25 * f64::from(step));
            let shares = || self.values.iter().map(|s| ridge / (s * s + ridge));
            let kept = shares().zip(&in_reach).map(|(share, e)| share * share * e);
            let residual = left + kept.sum::<f64>();
            let freedom = n - 1.0 - shares().map(|share| 1.0 - share).sum::<f64>();
            let score = residual / (freedom * freedom);
            if score < least {
                least = score;
                best = (ridge, residual / total.max(f64::MIN_POSITIVE));
            }
        }
        best
    }

    /// The images' coordinates along V, scaled to unit variance: w_j = scale_j v_j · d.
    fn scale(&self, j: usize) -> f64 {
        (self.hidden.len() as f64).sqrt() / self.values[j]
    }
}

/// Sums over the images.
#[derive(Default)]
struct Sums {
    count: usize,
    /// The first image's embeddings [C, D], subtracted from those of the others: they are close, so f32 suffices.
    first: Vec<f32>,
    /// Sum of T - first, [C, D].
    sum: Vec<f64>,
    /// Sum of |T - first|².
    squares: f64,
    /// Uᵀ T: q times [C, D].
    projected: Vec<Vec<f32>>,
}

impl Sums {
    fn add(&mut self, exact: &[f32], factors: &[f64]) {
        if self.count == 0 {
            self.first = exact.to_vec();
            self.sum = vec![0.0; exact.len()];
            self.projected = vec![vec![0.0; exact.len()]; factors.len()];
        }
        self.count += 1;
        let moved: Vec<f32> = exact.iter().zip(&self.first).map(|(t, f)| t - f).collect();
        self.squares += energy(&moved);
        self.sum
            .iter_mut()
            .zip(&moved)
            .for_each(|(s, &t)| *s += f64::from(t));
        self.projected
            .par_iter_mut()
            .zip(factors)
            .for_each(|(y, &u)| {
                let u = u as f32;
                y.iter_mut().zip(&moved).for_each(|(y, t)| *y += u * t);
            });
    }

    /// Sum of |T - mean of T|².
    fn moved(&self) -> f64 {
        let sum: f64 = self.sum.iter().map(|s| s * s).sum();
        (self.squares - sum / self.count as f64).max(0.0)
    }
}

/// t_c = a_c + Σ_j w_j (common_j + apart_jc), w being the images' coordinates of unit variance.
struct Expansion {
    /// [C, D]
    class_embeddings: Vec<f32>,
    /// q times `[D]`
    common: Vec<Vec<f64>>,
    /// q times [C, D]
    apart: Vec<Vec<f32>>,
    classes: usize,
    dim: usize,
}

impl Expansion {
    fn new(design: &Design, sums: Sums, ridge: f64, conditional: &Conditional) -> Self {
        let (dim, classes) = (conditional.embedding(), conditional.classes().len());
        let n = sums.count as f64;
        let mean = sums.first.iter().zip(&sums.sum);
        let class_embeddings = mean.map(|(f, s)| (f64::from(*f) + s / n) as f32).collect();
        let mut apart = sums.projected;
        let mut common = Vec::new();
        for (y, s) in apart.iter_mut().zip(&design.values) {
            let factor = s * s / (s * s + ridge) / n.sqrt();
            let mut shared = vec![0.0; dim];
            for class in y.chunks_exact_mut(dim) {
                for (y, shared) in class.iter_mut().zip(&mut shared) {
                    *y = (f64::from(*y) * factor) as f32;
                    *shared += f64::from(*y) / classes as f64;
                }
            }
            for class in y.chunks_exact_mut(dim) {
                let both = class.iter_mut().zip(&shared);
                both.for_each(|(y, &shared)| *y -= shared as f32);
            }
            common.push(shared);
        }
        Expansion {
            class_embeddings,
            common,
            apart,
            classes,
            dim,
        }
    }

    /// The head with the smallest ranks that the options allow, and the share of energy left unexplained.
    fn reduce(self, design: &Design, images: &[&[f32]], options: FitOptions) -> (LinearTerms, f64) {
        let (q, dim, classes) = (self.apart.len(), self.dim, self.classes);
        let turns = self.hidden_directions();
        let basis = self.basis(images);
        let s_most = basis.len() / dim;
        // Rotated, in the basis: [q][C, s_most].
        let packed = PackedLinear::from_out_in(&basis, s_most, dim, None);
        let in_basis: Vec<Vec<f32>> = (self.apart.iter())
            .map(|y| {
                let mut out = vec![0.0; classes * s_most];
                packed.apply(y, classes, None, None, &mut out);
                out
            })
            .collect();
        let mixed: Vec<Vec<f32>> = (turns.par_chunks_exact(q.max(1)))
            .map(|turn| {
                let mut out = vec![0.0; classes * s_most];
                for (&t, y) in turn.iter().zip(&in_basis) {
                    out.iter_mut().zip(y).for_each(|(o, y)| *o += t as f32 * y);
                }
                out
            })
            .collect();
        drop(in_basis);
        let left = self.left(design, images, &turns, &basis, &mixed);
        let (r, s, unexplained) = choose(&left, q, s_most, options);

        let h = design.mean.len();
        let tensor = |shape: &[usize], data: Vec<f32>| Tensor {
            shape: shape.to_vec(),
            data,
        };
        // Rows of w in terms of d.
        let mut directions = vec![0.0; r * h];
        for (row, turn) in directions
            .chunks_exact_mut(h)
            .zip(turns.chunks_exact(q.max(1)))
        {
            for (j, (t, v)) in turn.iter().zip(design.vectors.chunks_exact(h)).enumerate() {
                let both = row.iter_mut().zip(v);
                both.for_each(|(x, v)| *x += (t * design.scale(j) * v) as f32);
            }
        }
        let mut common = vec![0.0f64; h * dim];
        for (j, (shared, v)) in (self.common.iter().zip(design.vectors.chunks_exact(h))).enumerate()
        {
            for (row, v) in common.chunks_exact_mut(dim).zip(v) {
                let both = row.iter_mut().zip(shared);
                both.for_each(|(x, shared)| *x += design.scale(j) * v * shared);
            }
        }
        let mut core = vec![0.0; classes * r * s];
        for (class, terms) in core.chunks_exact_mut(r * s).enumerate() {
            for (to, from) in terms.chunks_exact_mut(s).zip(&mixed) {
                to.copy_from_slice(&from[class * s_most..][..s]);
            }
        }
        let single = |data: &[f64]| data.iter().map(|&v| v as f32).collect();
        let terms = LinearTerms {
            mean: tensor(&[h], single(&design.mean)),
            class_embeddings: tensor(&[classes, dim], self.class_embeddings),
            common: tensor(&[h, dim], single(&common)),
            directions: tensor(&[r, h], directions),
            basis: tensor(&[s, dim], basis[..s * dim].to_vec()),
            core: tensor(&[classes, r, s], core),
        };
        (terms, unexplained)
    }

    /// Rotations [q, q] of w, ordered by decreasing variance between the classes.
    fn hidden_directions(&self) -> Vec<f64> {
        let q = self.apart.len();
        let mut gram = vec![0.0; q * q];
        gram.par_chunks_mut(q.max(1))
            .enumerate()
            .for_each(|(i, row)| {
                for (g, other) in row.iter_mut().zip(&self.apart) {
                    let pairs = self.apart[i].chunks(1 << 12).zip(other.chunks(1 << 12));
                    *g = pairs.map(|(a, b)| f64::from(dot(a, b))).sum();
                }
            });
        // Restores the symmetry lost by rounding.
        for i in 0..q {
            for j in 0..i {
                gram[i * q + j] = gram[j * q + i];
            }
        }
        eigen(&gram, q).1
    }

    /// E: the mean image embedding, then the directions of largest variance between the classes.
    fn basis(&self, images: &[&[f32]]) -> Vec<f32> {
        const ROWS: usize = 256;
        let dim = self.dim;
        let mut gram = vec![0.0; dim * dim];
        let mut next = gram.clone();
        let mut across = Vec::new();
        for rows in self.apart.iter().flat_map(|y| y.chunks(ROWS * dim)) {
            let count = rows.len() / dim;
            across.clear();
            across.extend((0..dim).flat_map(|i| (0..count).map(move |c| rows[c * dim + i])));
            let packed = PackedLinear::from_in_out(rows, count, dim, None);
            packed.apply(&across, dim, None, Some(&gram), &mut next);
            std::mem::swap(&mut gram, &mut next);
        }
        let mut mean = vec![0.0; dim];
        for image in images {
            mean.iter_mut()
                .zip(*image)
                .for_each(|(m, &x)| *m += f64::from(x));
        }
        let basis = leading(&gram, dim, &mean, MOST_BASIS);
        basis.into_iter().map(|v| v as f32).collect()
    }

    /// The share of the similarities' energy that each pair of ranks leaves unexplained, [q + 1, s_most + 1], relative to
    /// rank 0.
    fn left(
        &self,
        design: &Design,
        images: &[&[f32]],
        turns: &[f64],
        basis: &[f32],
        mixed: &[Vec<f32>],
    ) -> Vec<f64> {
        let (q, dim) = (self.apart.len(), self.dim);
        let s_most = basis.len() / dim;
        let step = images.len().div_ceil(MEASURED);
        let measured: Vec<usize> = (0..images.len()).step_by(step).collect();
        let width = s_most + 1;
        let tables = measured.par_iter().map(|&image| {
            let f = images[image];
            let root = (design.hidden.len() as f64).sqrt();
            let w: Vec<f64> = design.factors(image).iter().map(|u| u * root).collect();
            let turned: Vec<f32> = (turns.chunks_exact(q.max(1)))
                .map(|turn| super::eigen::product_of(turn, &w) as f32)
                .collect();
            let z: Vec<f32> = basis.chunks_exact(dim).map(|e| dot(e, f)).collect();
            let mut table = vec![0.0; (q + 1) * width];
            let mut so_far = vec![0.0f32; width];
            for class in 0..self.classes {
                let whole: f32 = (self.apart.iter().zip(&w))
                    .map(|(y, &w)| w as f32 * dot(&y[class * dim..][..dim], f))
                    .sum();
                so_far.fill(0.0);
                table[..width]
                    .iter_mut()
                    .for_each(|t| *t += f64::from(whole * whole));
                for (r, from) in mixed.iter().enumerate() {
                    let (mut sum, row) = (0.0, &mut table[(r + 1) * width..][..width]);
                    row[0] += f64::from(whole * whole);
                    let terms = from[class * s_most..][..s_most].iter().zip(&z);
                    for (s, (m, z)) in terms.enumerate() {
                        sum += turned[r] * m * z;
                        so_far[s + 1] += sum;
                        row[s + 1] += f64::from((whole - so_far[s + 1]).powi(2));
                    }
                }
            }
            table
        });
        let tables: Vec<Vec<f64>> = tables.collect();
        let mut all = vec![0.0; (q + 1) * width];
        for table in &tables {
            all.iter_mut().zip(table).for_each(|(a, t)| *a += t);
        }
        let whole = all[0].max(f64::MIN_POSITIVE);
        all.iter().map(|v| v / whole).collect()
    }
}

/// The ranks (r, s), each at least 1, with the smallest product within the allowed share, or else with the smallest share
/// within the allowed product; and their share.
fn choose(left: &[f64], q: usize, s_most: usize, options: FitOptions) -> (usize, usize, f64) {
    let mut best = (1, 1, left.get(s_most + 2).copied().unwrap_or(0.0));
    let allowed = f64::from(options.unexplained);
    for r in 1..=q {
        for s in 1..=s_most {
            let found = left[r * (s_most + 1) + s];
            let better = match (found <= allowed, best.2 <= allowed) {
                (true, true) => r * s < best.0 * best.1,
                (fits, fitted) => fits || !fitted && found < best.2,
            };
            if r * s <= options.most_terms && better {
                best = (r, s, found);
            }
        }
    }
    best
}

fn energy(x: &[f32]) -> f64 {
    x.chunks(1 << 12)
        .map(|part| f64::from(dot(part, part)))
        .sum()
}
