//! Weighted ridge regression with an intercept, and what each example would have been given without itself.
//!
//! Minimises sum_i w_i (y_i - b - x_i . d)^2 + ridge |d|^2 for each column of targets y. With centred rows
//! z_i = sqrt(w_i) (x_i - mean), A = Z^T Z + ridge I and the leverages H_ij = sqrt(w_i w_j) / sum w + z_i^T A^-1 z_j, the
//! residuals of a group of examples under the fit to all others are (I - H)^-1 times their residuals, H being that of the
//! group (Allen's PRESS, 1974, of several rows), so that no group needs a fit of its own.

use pinhole_kernels::PackedLinear;
use pinhole_model::dot;

/// Examples with their targets, ready to be fitted with any penalty.
pub(super) struct Ridge {
    /// Weight of each example.
    weights: Vec<f32>,
    /// The examples that are left out together, each in one group.
    groups: Vec<Vec<usize>>,
    /// Weighted mean of the examples, `[D]`.
    mean: Vec<f32>,
    /// An orthonormal basis of the centred rows, `[R, D]`, if there are fewer of them than D; otherwise D is R.
    basis: Option<Vec<f32>>,
    /// Z in that basis, `[N, R]`.
    rows: Vec<f32>,
    /// R.
    rank: usize,
    /// Z^T Z, `[R, R]`.
    gram: Vec<f32>,
    /// K columns of targets, `[K, N]`.
    targets: Vec<f32>,
    /// For each column its weighted mean, and what is left of the targets times the square root of the weights, `[N]`.
    columns: Vec<(f32, Vec<f32>)>,
    /// The centred columns times Z, `[K, R]`.
    products: Vec<f32>,
}

/// A fit to several columns of targets.
pub(super) struct RidgeFit {
    /// d of each column, `[K, D]`.
    pub weight: Vec<f32>,
    /// b of each column, `[K]`.
    pub bias: Vec<f32>,
    /// What each example is given by the fit to those of other groups, `[N, K]`.
    pub held_out: Vec<f32>,
}

/// Rows that are this much smaller than they were are none after what the basis has was subtracted.
const RANK_TOLERANCE: f32 = 1e-3;

impl Ridge {
    /// `examples` have the same length D, positive `weights`, and K columns of `targets`, `[K, N]`. Each is in one of the
    /// `groups` that are left out together.
    pub(super) fn new(
        examples: &[&[f32]],
        weights: Vec<f32>,
        targets: Vec<f32>,
        groups: Vec<Vec<usize>>,
    ) -> Self {
        let size = examples.first().map_or(0, |x| x.len());
        let total: f32 = weights.iter().sum();
        let mut mean = vec![0.0; size];
        for (x, w) in examples.iter().zip(&weights) {
            add_scaled(&mut mean, w / total, x);
        }
        let mut centred = Vec::with_capacity(examples.len() * size);
        for (x, w) in examples.iter().zip(&weights) {
            centred.extend(x.iter().zip(&mean).map(|(x, m)| w.sqrt() * (x - m)));
        }
        let (basis, rows, rank) = if examples.len() < size {
            let basis = orthonormal(&centred, size);
            let coordinates = centred.chunks_exact(size).flat_map(|z| {
                let all = basis.chunks_exact(size);
                all.map(move |axis| dot(z, axis))
            });
            let rows: Vec<f32> = coordinates.collect();
            let rank = basis.len() / size.max(1);
            (Some(basis), rows, rank)
        } else {
            (None, centred, size)
        };
        let by_axis = transposed(&rows, rank);
        let gram = products(&by_axis, &by_axis, examples.len());
        let columns: Vec<(f32, Vec<f32>)> = (targets.chunks_exact(examples.len().max(1)))
            .map(|y| {
                let mean = dot(y, &weights) / total;
                let centred = y.iter().zip(&weights);
                (mean, centred.map(|(y, w)| w.sqrt() * (y - mean)).collect())
            })
            .collect();
        let centred: Vec<f32> = columns.iter().flat_map(|(_, y)| y.clone()).collect();
        let products = products(&centred, &by_axis, examples.len());
        Self {
            weights,
            groups,
            mean,
            basis,
            rows,
            rank,
            gram,
            targets,
            columns,
            products,
        }
    }

    /// The fit for the penalty `ridge`, which is positive.
    pub(super) fn fit(&self, ridge: f32) -> RidgeFit {
        let columns = &self.columns;
        let (count, rank) = (self.weights.len(), self.rank);
        let total: f32 = self.weights.iter().sum();
        let lower = Lower::decompose(&self.gram, rank, ridge);
        let halves = products(&self.rows, &lower.inverse(), rank);
        let solutions: Vec<f32> = (0..columns.len())
            .flat_map(|k| lower.solve(&self.products[k * rank..][..rank]))
            .collect();
        let fitted = products(&self.rows, &solutions, rank);
        let mut fit = RidgeFit {
            weight: vec![],
            bias: vec![],
            held_out: vec![0.0; count * columns.len()],
        };
        for group in &self.groups {
            let half = |i: usize| &halves[i * rank..][..rank];
            let leverage = |i: usize, j: usize| {
                (self.weights[i] * self.weights[j]).sqrt() / total + dot(half(i), half(j))
            };
            let pairs = group
                .iter()
                .flat_map(|&i| group.iter().map(move |&j| (i, j)));
            let negative: Vec<f32> = pairs.map(|(i, j)| -leverage(i, j)).collect();
            let others = Lower::decompose(&negative, group.len(), 1.0);
            for (k, (_, y)) in columns.iter().enumerate() {
                let at = |i: usize| i * columns.len() + k;
                let residuals: Vec<f32> = group.iter().map(|&i| y[i] - fitted[at(i)]).collect();
                for (&i, residual) in group.iter().zip(others.solve(&residuals)) {
                    let target = self.targets[k * count + i];
                    fit.held_out[at(i)] = target - residual / self.weights[i].sqrt();
                }
            }
        }
        for (k, (mean, _)) in columns.iter().enumerate() {
            let solution = &solutions[k * rank..][..rank];
            let size = self.mean.len();
            let weight = match &self.basis {
                None => solution.to_vec(),
                Some(basis) => {
                    let mut weight = vec![0.0; size];
                    for (axis, s) in basis.chunks_exact(size).zip(solution) {
                        add_scaled(&mut weight, *s, axis);
                    }
                    weight
                }
            };
            fit.bias.push(mean - dot(&weight, &self.mean));
            fit.weight.extend(weight);
        }
        fit
    }
}

/// L of a symmetric positive matrix L L^T, `[R, R]` row-major.
struct Lower {
    values: Vec<f32>,
    rank: usize,
}

impl Lower {
    /// Cholesky decomposition of `matrix` + `ridge` I, which is positive.
    fn decompose(matrix: &[f32], rank: usize, ridge: f32) -> Self {
        let mut l = vec![0.0; rank * rank];
        for i in 0..rank {
            let (above, row) = l.split_at_mut(i * rank);
            for j in 0..i {
                let other = &above[j * rank..][..rank];
                let sum = matrix[i * rank + j] - dot(&row[..j], &other[..j]);
                row[j] = sum / other[j];
            }
            let left = matrix[i * rank + i] + ridge - dot(&row[..i], &row[..i]);
            // Positive but for rounding.
            row[i] = left.max(1e-4 * ridge).sqrt();
        }
        Self { values: l, rank }
    }

    fn row(&self, i: usize) -> (&[f32], f32) {
        let row = &self.values[i * self.rank..][..=i];
        (&row[..i], row[i])
    }

    /// The inverse of L, `[R, R]` row-major.
    fn inverse(&self) -> Vec<f32> {
        let rank = self.rank;
        // By columns, whose values before the diagonal are 0.
        let mut columns = vec![0.0; rank * rank];
        for (j, column) in columns.chunks_exact_mut(rank.max(1)).enumerate() {
            column[j] = 1.0 / self.row(j).1;
            for i in j + 1..rank {
                let (row, diagonal) = self.row(i);
                column[i] = -dot(&row[j..], &column[j..i]) / diagonal;
            }
        }
        transposed(&columns, rank)
    }

    /// x of L L^T x = b.
    fn solve(&self, b: &[f32]) -> Vec<f32> {
        let mut x = Vec::with_capacity(self.rank);
        for (i, b) in b.iter().enumerate() {
            let (row, diagonal) = self.row(i);
            x.push((b - dot(row, &x)) / diagonal);
        }
        for i in (0..self.rank).rev() {
            let (row, diagonal) = self.row(i);
            x[i] /= diagonal;
            let (before, at) = x.split_at_mut(i);
            add_scaled(before, -at[0], row);
        }
        x
    }
}

/// The dot products of the rows `a` `[M, K]` with the rows `b` `[N, K]`: `[M, N]`.
pub(super) fn products(a: &[f32], b: &[f32], k: usize) -> Vec<f32> {
    let (m, n) = (a.len() / k.max(1), b.len() / k.max(1));
    let mut out = vec![0.0; m * n];
    if !out.is_empty() {
        let rows = PackedLinear::from_out_in(b, n, k, None);
        rows.apply(a, m, None, None, &mut out);
    }
    out
}

/// An orthonormal basis of the rows `[N, D]` by Gram and Schmidt, each projected twice against rounding.
fn orthonormal(rows: &[f32], size: usize) -> Vec<f32> {
    let mut basis: Vec<f32> = vec![];
    for row in rows.chunks_exact(size.max(1)) {
        let mut rest = row.to_vec();
        for _ in 0..2 {
            for axis in basis.chunks_exact(size) {
                let along = dot(&rest, axis);
                add_scaled(&mut rest, -along, axis);
            }
        }
        let (before, after) = (dot(row, row).sqrt(), dot(&rest, &rest).sqrt());
        if after > RANK_TOLERANCE * before {
            basis.extend(rest.iter().map(|v| v / after));
        }
    }
    // Of equal examples, whose differences from their mean are all zero, on any axis.
    if basis.is_empty() && size > 0 {
        basis.resize(size, 0.0);
        basis[0] = 1.0;
    }
    basis
}

fn transposed(rows: &[f32], size: usize) -> Vec<f32> {
    let count = rows.len() / size.max(1);
    let values = (0..size).flat_map(|j| (0..count).map(move |i| rows[i * size + j]));
    values.collect()
}

/// Adds `factor` times `b` to `a`.
pub(super) fn add_scaled(a: &mut [f32], factor: f32, b: &[f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += factor * b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers from -1 to 1 that look random.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(next).collect()
    }

    /// The definition: the normal equations with the intercept as an unpenalised column, by Gaussian elimination in f64.
    /// Returns d and then b.
    fn reference(rows: &[&[f32]], weights: &[f32], targets: &[f32], ridge: f32) -> Vec<f64> {
        let size = rows[0].len() + 1;
        let value = |i: usize, j: usize| rows[i].get(j).map_or(1.0, |v| f64::from(*v));
        let mut system = vec![vec![0.0; size + 1]; size];
        for (a, equation) in system.iter_mut().enumerate() {
            for i in 0..rows.len() {
                let w = f64::from(weights[i]);
                for (b, cell) in equation[..size].iter_mut().enumerate() {
                    *cell += w * value(i, a) * value(i, b);
                }
                equation[size] += w * value(i, a) * f64::from(targets[i]);
            }
            if a + 1 < size {
                equation[a] += f64::from(ridge);
            }
        }
        for pivot in 0..size {
            let best = (pivot..size)
                .max_by(|a, b| system[*a][pivot].abs().total_cmp(&system[*b][pivot].abs()));
            system.swap(pivot, best.unwrap());
            let top = system[pivot].clone();
            for (i, equation) in system.iter_mut().enumerate() {
                if i != pivot {
                    let factor = equation[pivot] / top[pivot];
                    for (cell, above) in equation.iter_mut().zip(&top) {
                        *cell -= factor * above;
                    }
                }
            }
        }
        (0..size).map(|i| system[i][size] / system[i][i]).collect()
    }

    /// If this fails, two classes with the same photo end the program.
    #[test]
    fn equal_examples_have_a_fit() {
        let row = [0.6, 0.8, 0.0];
        let groups = vec![vec![0], vec![1]];
        let fit = Ridge::new(&[&row, &row], vec![1.0, 1.0], vec![1.0, -1.0], groups).fit(0.1);
        assert_eq!(fit.weight, [0.0; 3]);
        assert_eq!(fit.bias, [0.0]);
    }

    /// If this fails, the head is not the best one, or its accuracy is not that of images that were left out.
    #[test]
    fn fits_and_held_out_answers_equal_those_of_the_definition() {
        // Fewer examples than values, more, and one twice; of two, all.
        for (count, size) in [(7, 12), (30, 6), (9, 9), (2, 3)] {
            let mut data = numbers(count * size, 1);
            let (first, second) = data.split_at_mut(size);
            second[..size].copy_from_slice(first);
            let rows: Vec<&[f32]> = data.chunks_exact(size).collect();
            let weights: Vec<f32> = numbers(count, 2).iter().map(|v| 1.2 + v).collect();
            let targets = numbers(2 * count, 3);
            // Left out by themselves, in twos and in threes.
            let sizes = [1, 2, 1, 3].iter().cycle();
            let mut groups: Vec<Vec<usize>> = vec![];
            for size in sizes.take(count) {
                let next = groups.concat().len();
                groups.push((next..count.min(next + size)).collect());
            }
            groups.retain(|group| !group.is_empty() && group.len() < count);
            let fits = Ridge::new(&rows, weights.clone(), targets.clone(), groups.clone());
            for ridge in [0.1, 3.0] {
                let fit = fits.fit(ridge);
                for (k, y) in targets.chunks_exact(count).enumerate() {
                    let expected = reference(&rows, &weights, y, ridge);
                    let found = fit.weight[k * size..][..size]
                        .iter()
                        .chain(&fit.bias[k..=k]);
                    for (found, expected) in found.zip(&expected) {
                        let error = (f64::from(*found) - expected).abs();
                        assert!(error < 1e-3, "{count} {size} {ridge}: {found} {expected}");
                    }
                    for (i, group) in groups.iter().flat_map(|g| g.iter().map(move |i| (*i, g))) {
                        let others: Vec<usize> =
                            (0..count).filter(|j| !group.contains(j)).collect();
                        let pick = |v: &[f32]| others.iter().map(|&j| v[j]).collect::<Vec<_>>();
                        let kept: Vec<&[f32]> = others.iter().map(|&j| rows[j]).collect();
                        let without = reference(&kept, &pick(&weights), &pick(y), ridge);
                        let values = rows[i].iter().map(|v| f64::from(*v)).chain([1.0]);
                        let expected: f64 = values.zip(&without).map(|(x, d)| x * d).sum();
                        let found = f64::from(fit.held_out[i * 2 + k]);
                        let error = (found - expected).abs();
                        assert!(error < 2e-3, "{count} {size} {ridge}: {found} {expected}");
                    }
                }
            }
        }
    }
}
