//! Eigenvectors of symmetric matrices.

/// Eigenvalues, largest first, and eigenvectors as rows [n, n] of a symmetric matrix [n, n], by cyclic Jacobi rotations
/// (Golub and Van Loan, section 8.5). For matrices of a few dozen rows.
pub(super) fn eigen(matrix: &[f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut a = matrix.to_vec();
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let whole: f64 = a.iter().map(|v| v * v).sum();
    // Convergence is quadratic: real matrices need fewer than ten sweeps.
    for _ in 0..50 {
        let apart = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
        let off: f64 = apart.map(|(i, j)| a[i * n + j].powi(2)).sum();
        if off <= 1e-30 * whole {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut vectors, n, p, q);
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[j * n + j].total_cmp(&a[i * n + i]));
    let values = order.iter().map(|&i| a[i * n + i]).collect();
    let rows = order.iter().flat_map(|&i| &vectors[i * n..(i + 1) * n]);
    (values, rows.copied().collect())
}

/// The rotation that makes a[p, q] zero.
fn rotate(a: &mut [f64], vectors: &mut [f64], n: usize, p: usize, q: usize) {
    let off = a[p * n + q];
    if off == 0.0 {
        return;
    }
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * off);
    let tangent = 1f64.copysign(theta) / (theta.abs() + (theta * theta + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    let turn = |x: &mut f64, y: &mut f64| {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    };
    for k in 0..n {
        let (mut x, mut y) = (a[k * n + p], a[k * n + q]);
        turn(&mut x, &mut y);
        (a[k * n + p], a[k * n + q]) = (x, y);
    }
    for matrix in [a, vectors] {
        let (above, below) = matrix.split_at_mut(q * n);
        let rows = above[p * n..][..n].iter_mut().zip(&mut below[..n]);
        rows.for_each(|(x, y)| turn(x, y));
    }
}

/// Orthonormal rows [at most `count`, n]: `first`, normalised, then the eigenvectors of the largest eigenvalues of a
/// symmetric positive semidefinite matrix [n, n] on the orthogonal complement of `first`, by subspace iteration (Golub and
/// Van Loan, section 8.2.4). Fewer rows if the matrix has a smaller rank.
pub(super) fn leading(matrix: &[f32], n: usize, first: &[f64], count: usize) -> Vec<f64> {
    const ROUNDS: usize = 12;
    let mut first = first.to_vec();
    if !normalize(&mut first, f64::MIN_POSITIVE) {
        first = vec![1.0 / (n as f64).sqrt(); n];
    }
    let count = count.min(n).saturating_sub(1);
    // Any start that is not orthogonal to the eigenvectors.
    let mut state = 1u64;
    let mut rows: Vec<f64> = (0..count * n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
        })
        .collect();
    let trace: f64 = (0..n).map(|i| f64::from(matrix[i * n + i])).sum();
    let product = |rows: &[f64]| -> Vec<f64> {
        let rows = rows.chunks_exact(n);
        rows.flat_map(|row| {
            let mut out = vec![0.0; n];
            for (line, &x) in matrix.chunks_exact(n).zip(row) {
                out.iter_mut()
                    .zip(line)
                    .for_each(|(o, &m)| *o += x * f64::from(m));
            }
            out
        })
        .collect()
    };
    for _ in 0..ROUNDS {
        orthonormalize(&mut rows, n, &first, 0.0);
        rows = product(&rows);
    }
    // Drops directions that are rounding errors only.
    orthonormalize(&mut rows, n, &first, 1e-6 * trace);
    let (kept, images) = (rows.len() / n, product(&rows));
    let mut small = vec![0.0; kept * kept];
    for i in 0..kept {
        for j in 0..kept {
            small[i * kept + j] =
                product_of(&rows[i * n..(i + 1) * n], &images[j * n..(j + 1) * n]);
        }
    }
    let (_, turns) = eigen(&small, kept);
    let mut out = first;
    for turn in turns.chunks_exact(kept.max(1)) {
        let mut row = vec![0.0; n];
        for (&t, from) in turn.iter().zip(rows.chunks_exact(n)) {
            row.iter_mut().zip(from).for_each(|(r, f)| *r += t * f);
        }
        out.extend(row);
    }
    out
}

/// Gram-Schmidt, run twice because one round leaves errors; drops rows whose remainder has a norm of at most `least`.
fn orthonormalize(rows: &mut Vec<f64>, n: usize, first: &[f64], least: f64) {
    let mut kept = 0;
    for i in 0..rows.len() / n {
        let (before, rest) = rows.split_at_mut(i * n);
        let row = &mut rest[..n];
        let mut norm = 0.0;
        for round in 0..2 {
            for other in before[..kept * n].chunks_exact(n).chain([first]) {
                let share = product_of(row, other);
                row.iter_mut().zip(other).for_each(|(r, o)| *r -= share * o);
            }
            if round == 0 {
                norm = product_of(row, row).sqrt();
                if !normalize(row, least.max(f64::MIN_POSITIVE)) {
                    break;
                }
            }
        }
        if norm > least && normalize(row, 0.5) {
            rows.copy_within(i * n..(i + 1) * n, kept * n);
            kept += 1;
        }
    }
    rows.truncate(kept * n);
}

fn normalize(x: &mut [f64], least: f64) -> bool {
    let norm = product_of(x, x).sqrt();
    if norm > least {
        x.iter_mut().for_each(|v| *v /= norm);
    }
    norm > least
}

pub(super) fn product_of(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A symmetric matrix with the eigenvalues `values`.
    fn symmetric(values: &[f64]) -> Vec<f64> {
        let n = values.len();
        let mut rows: Vec<f64> = (0..n * n)
            .map(|i| ((i * i * 31 + i * 7) % 101) as f64 - 50.0)
            .collect();
        let mut first = vec![0.0; n];
        first[0] = 1.0;
        orthonormalize(&mut rows, n, &vec![0.0; n], 0.0);
        assert_eq!(rows.len(), n * n);
        let at = |i, j| {
            (0..n)
                .map(|k| values[k] * rows[k * n + i] * rows[k * n + j])
                .sum()
        };
        (0..n * n).map(|i| at(i / n, i % n)).collect()
    }

    #[test]
    fn eigenvectors_fulfil_their_equation() {
        let expected = [9.0, 4.0, 4.0, 1.0, 0.0, -2.0];
        let matrix = symmetric(&expected);
        let (values, vectors) = eigen(&matrix, 6);
        for (i, (value, expected)) in values.iter().zip(expected).enumerate() {
            assert!((value - expected).abs() < 1e-9, "{values:?}");
            let vector = &vectors[i * 6..][..6];
            assert!((product_of(vector, vector) - 1.0).abs() < 1e-12);
            for row in 0..6 {
                let image = product_of(&matrix[row * 6..][..6], vector);
                assert!((image - expected * vector[row]).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn leading_vectors_span_the_range_of_the_matrix() {
        let matrix = symmetric(&[8.0, 3.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let single: Vec<f32> = matrix.iter().map(|&v| v as f32).collect();
        let (_, vectors) = eigen(&matrix, 8);
        // The first one is given; the rank allows two more.
        let rows = leading(&single, 8, &vectors[8..16], 6);
        assert_eq!(rows.len(), 3 * 8, "{rows:?}");
        for (row, expected) in rows.chunks(8).zip([1, 0, 2]) {
            let cosine = product_of(row, &vectors[expected * 8..][..8]);
            assert!(cosine.abs() > 1.0 - 1e-6, "{cosine}");
        }
        assert_eq!(leading(&[0.0; 9], 3, &[0.0; 3], 2).len(), 3);
    }
}
