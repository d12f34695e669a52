//! Attention over a tree of rows: each row attends to itself and its ancestors.
//!
//! With causal attention, texts with a common prefix have equal rows in it. In a tree these rows, their keys
//! and values are computed once for all texts, and their gradients are sums over the texts.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Device, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    storage::{read, slice},
    vector::{dot, exp, sum, vectorised},
};

/// Which keys each query attends to.
#[derive(Clone, Debug, Default)]
pub struct TreeMask {
    /// Where each query's keys start in `keys`; the last entry is the end.
    starts: Vec<usize>,
    /// Indices of keys: first the constant ones, then the rows of the tensor.
    keys: Vec<usize>,
}

impl TreeMask {
    /// From the keys of each query.
    pub fn new<'a>(queries: impl IntoIterator<Item = &'a [usize]>) -> Self {
        let mut mask = Self {
            starts: vec![0],
            keys: Vec::new(),
        };
        for keys in queries {
            mask.keys.extend(keys);
            mask.starts.push(mask.keys.len());
        }
        mask
    }

    fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    fn keys_of(&self, query: usize) -> &[usize] {
        &self.keys[self.starts[query]..self.starts[query + 1]]
    }

    fn longest(&self) -> usize {
        (0..self.len())
            .map(|i| self.keys_of(i).len())
            .max()
            .unwrap_or(0)
    }
}

/// softmax(q k^T / sqrt(w)) v per head of width w, over the keys in each query's mask: q `[queries, width]`,
/// `key_value` `[rows, 2 * width]`, each row key and value, to `[queries, width]`. `constant`
/// `[constant, 2 * width]` precedes the rows of `key_value` and gets no gradient.
///
/// # Errors
/// For shapes that do not fit, or a mask that is empty or has a key out of range.
pub fn tree_attention(
    q: &Tensor,
    key_value: &Tensor,
    constant: &Arc<Vec<f32>>,
    mask: &Arc<TreeMask>,
    heads: usize,
) -> Result<Tensor> {
    let op = TreeAttention {
        constant: constant.clone(),
        mask: mask.clone(),
        heads,
    };
    q.contiguous()?.apply_op2(&key_value.contiguous()?, op)
}

struct TreeAttention {
    constant: Arc<Vec<f32>>,
    mask: Arc<TreeMask>,
    heads: usize,
}

/// Queries per chunk of one thread.
const QUERIES: usize = 32;

impl TreeAttention {
    /// Checks the shapes and returns the width.
    fn check(&self, q: &[usize], key_value: &[usize]) -> Result<usize> {
        let wrong = |what: String| Err(Error::Msg(format!("tree attention: {what}")));
        let (&[queries, width], &[rows, double]) = (q, key_value) else {
            return wrong(format!(
                "expected two matrices, found {q:?} and {key_value:?}"
            ));
        };
        if self.heads == 0 || width == 0 || !width.is_multiple_of(self.heads) || double != 2 * width
        {
            let heads = self.heads;
            return wrong(format!(
                "expected [queries, width] and [rows, 2 * width] with {heads} heads, found {q:?} and \
                 {key_value:?}"
            ));
        }
        if queries != self.mask.len() || !self.constant.len().is_multiple_of(double) {
            let (masks, constant) = (self.mask.len(), self.constant.len());
            return wrong(format!(
                "expected a mask of {queries} queries and whole rows of {double} constants, found {masks} \
                 and {constant}"
            ));
        }
        let keys = self.constant.len() / double + rows;
        let empty = (0..queries).any(|i| self.mask.keys_of(i).is_empty());
        if empty || self.mask.keys.iter().any(|&key| key >= keys) {
            return wrong(format!(
                "a query without keys, or with one beyond the {keys} keys"
            ));
        }
        Ok(width)
    }

    /// The key and value of a key's index, from `constant` or `rows`.
    #[inline(always)]
    fn row<'a>(&'a self, rows: &'a [f32], key: usize, double: usize) -> &'a [f32] {
        let constant = self.constant.len() / double;
        match key.checked_sub(constant) {
            Some(row) => &rows[row * double..][..double],
            None => &self.constant[key * double..][..double],
        }
    }

    /// The attention weights of a query's keys, for the columns of one head.
    #[inline(always)]
    fn probabilities(
        &self,
        q: &[f32],
        rows: &[f32],
        keys: &[usize],
        column: usize,
        double: usize,
        to: &mut Vec<f32>,
    ) {
        let scale = 1.0 / (q.len() as f32).sqrt();
        to.clear();
        to.extend(keys.iter().map(|&key| {
            let k = &self.row(rows, key, double)[column..][..q.len()];
            dot(q, k)
        }));
        let max = to.iter().fold(f32::NEG_INFINITY, |m, &s| m.max(s));
        for s in to.iter_mut() {
            *s = exp((*s - max) * scale);
        }
        let total = sum(to, |s| s);
        for s in to {
            *s /= total;
        }
    }

    fn forward(&self, q: &[f32], rows: &[f32], width: usize) -> Vec<f32> {
        let (double, head) = (2 * width, width / self.heads);
        let mut out = vec![0f32; q.len()];
        let chunks = out.par_chunks_mut(QUERIES * width);
        chunks.enumerate().for_each(|(chunk, out)| {
            vectorised(|| {
                let mut p = Vec::with_capacity(self.mask.longest());
                for (i, out) in out.chunks_exact_mut(width).enumerate() {
                    let query = chunk * QUERIES + i;
                    let (q, keys) = (&q[query * width..][..width], self.mask.keys_of(query));
                    for (h, out) in out.chunks_exact_mut(head).enumerate() {
                        let q = &q[h * head..][..head];
                        self.probabilities(q, rows, keys, h * head, double, &mut p);
                        for (&p, &key) in p.iter().zip(keys) {
                            let v = &self.row(rows, key, double)[width + h * head..][..head];
                            for (out, v) in out.iter_mut().zip(v) {
                                *out += p * v;
                            }
                        }
                    }
                }
            })
        });
        out
    }

    /// The gradients of one head's columns of q, k and v, row by row.
    fn backward_head(
        &self,
        h: usize,
        q: &[f32],
        rows: &[f32],
        grad: &[f32],
        width: usize,
    ) -> [Vec<f32>; 3] {
        let (double, head) = (2 * width, width / self.heads);
        let constant = self.constant.len() / double;
        let scale = 1.0 / (head as f32).sqrt();
        let count = rows.len() / double * head;
        let mut dq = vec![0f32; self.mask.len() * head];
        let (mut dk, mut dv) = (vec![0f32; count], vec![0f32; count]);
        vectorised(|| {
            let mut p = Vec::with_capacity(self.mask.longest());
            let mut ds = Vec::with_capacity(self.mask.longest());
            for (query, dq) in dq.chunks_exact_mut(head).enumerate() {
                let at = query * width + h * head;
                let (q, grad) = (&q[at..][..head], &grad[at..][..head]);
                let keys = self.mask.keys_of(query);
                self.probabilities(q, rows, keys, h * head, double, &mut p);
                ds.clear();
                ds.extend(keys.iter().map(|&key| {
                    let v = &self.row(rows, key, double)[width + h * head..][..head];
                    dot(grad, v)
                }));
                let projection = dot(&ds, &p);
                for ((&p, &ds), &key) in p.iter().zip(&ds).zip(keys) {
                    let ds = p * (ds - projection) * scale;
                    let k = &self.row(rows, key, double)[h * head..][..head];
                    for (dq, k) in dq.iter_mut().zip(k) {
                        *dq += ds * k;
                    }
                    let Some(row) = key.checked_sub(constant) else {
                        continue;
                    };
                    for (dk, q) in dk[row * head..][..head].iter_mut().zip(q) {
                        *dk += ds * q;
                    }
                    for (dv, grad) in dv[row * head..][..head].iter_mut().zip(grad) {
                        *dv += p * grad;
                    }
                }
            }
        });
        [dq, dk, dv]
    }
}

impl CustomOp2 for TreeAttention {
    fn name(&self) -> &'static str {
        "tree attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        key_value: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let width = self.check(q_layout.dims(), layout.dims())?;
        let out = self.forward(slice(q, q_layout)?, slice(key_value, layout)?, width);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        key_value: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = self.check(q.dims(), key_value.dims())?;
        let head = width / self.heads;
        let heads: Vec<[Vec<f32>; 3]> = read(q, |q| {
            read(key_value, |rows| {
                read(grad, |grad| {
                    let heads = (0..self.heads).into_par_iter();
                    heads
                        .map(|h| self.backward_head(h, q, rows, grad, width))
                        .collect()
                })
            })
        })???;
        let mut dq = vec![0f32; q.elem_count()];
        let mut rows = vec![0f32; key_value.elem_count()];
        for (h, [head_dq, dk, dv]) in heads.iter().enumerate() {
            scatter(head_dq, head, &mut dq, width, h * head);
            scatter(dk, head, &mut rows, 2 * width, h * head);
            scatter(dv, head, &mut rows, 2 * width, width + h * head);
        }
        Ok((
            Some(Tensor::from_vec(dq, q.shape(), &Device::Cpu)?),
            Some(Tensor::from_vec(rows, key_value.shape(), &Device::Cpu)?),
        ))
    }
}

/// Copies rows of `width` values into rows of `stride` values, starting at a column.
fn scatter(from: &[f32], width: usize, to: &mut [f32], stride: usize, column: usize) {
    for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(stride)) {
        to[column..column + width].copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_utils::{check_against, random};
    use super::*;
    use candle_core::D;

    /// Two constant keys, and masks of nine rows for more queries than a chunk has.
    fn case() -> (usize, Vec<Vec<usize>>) {
        let rows = 9;
        let masks = (0..70).map(|i| match i % 4 {
            0 => vec![0, 2],
            1 => vec![0, 1, 2, 3, 4 + i % 7],
            2 => vec![0, 1],
            _ => (0..rows + 2).collect(),
        });
        (rows, masks.collect())
    }

    #[test]
    fn tree_attention_equals_masked_attention() {
        let (heads, head) = (3, 20);
        let width = heads * head;
        let (rows, lists) = case();
        let q = random(&[lists.len(), width], 1);
        let key_value = random(&[rows, 2 * width], 2);
        let constant = random(&[2, 2 * width], 3).as_detached_tensor();
        let mask = Arc::new(TreeMask::new(lists.iter().map(Vec::as_slice)));
        let values = Arc::new(constant.flatten_all().unwrap().to_vec1().unwrap());
        let mut dense = vec![-1e9f32; lists.len() * (rows + 2)];
        for (i, keys) in lists.iter().enumerate() {
            for key in keys {
                dense[i * (rows + 2) + key] = 0.0;
            }
        }
        let dense = Tensor::from_vec(dense, (lists.len(), rows + 2), &Device::Cpu).unwrap();
        check_against(
            &[q.clone(), key_value.clone()],
            || tree_attention(&q, &key_value, &values, &mask, heads),
            || {
                let all = Tensor::cat(&[&constant, key_value.as_tensor()], 0)?;
                let part = |x: &Tensor, start: usize| {
                    let x = x.narrow(1, start, width)?;
                    let shape = (x.dim(0)?, heads, head);
                    x.reshape(shape)?.transpose(0, 1)?.contiguous()
                };
                let scores = part(&q, 0)?.matmul(&part(&all, 0)?.t()?.contiguous()?)?;
                let scores = (scores / (head as f64).sqrt())?.broadcast_add(&dense)?;
                let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?;
                let e = scores.exp()?;
                let p = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
                let y = p.matmul(&part(&all, width)?)?;
                y.transpose(0, 1)?.reshape((lists.len(), width))
            },
        );
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let (rows, lists) = case();
        let (q, key_value) = (random(&[lists.len(), 24], 1), random(&[rows, 48], 2));
        let mask = Arc::new(TreeMask::new(lists.iter().map(Vec::as_slice)));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let constant = Arc::new(vec![0.5; 96]);
                let y = tree_attention(&q, &key_value, &constant, &mask, 2).unwrap();
                let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                [
                    &y,
                    gradients.get(&q).unwrap(),
                    gradients.get(&key_value).unwrap(),
                ]
                .map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let (q, key_value) = (random(&[1, 4], 1), random(&[2, 8], 2));
        let call = |keys: &[usize], heads: usize, constant: usize| {
            let mask = Arc::new(TreeMask::new([keys]));
            tree_attention(&q, &key_value, &Arc::new(vec![0.0; constant]), &mask, heads)
        };
        assert!(call(&[0, 1], 2, 0).is_ok());
        assert!(call(&[0, 1], 3, 0).is_err());
        assert!(call(&[2], 2, 0).is_err());
        assert!(call(&[2], 2, 8).is_ok());
        assert!(call(&[0], 2, 7).is_err());
        assert!(call(&[], 2, 0).is_err());
    }
}
