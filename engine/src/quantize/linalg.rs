//! The linear algebra of the quantizer: symmetric matrices in panels, their Cholesky factor, and one product kernel.
//!
//! Every number is the same on every machine and for any number of threads: threads share out whole outputs, each of which is
//! one chain of separate multiplications and additions in a fixed order. The loops over [`PANEL`] columns are independent, so
//! a compiler can use vectors without changing a bit.

use rayon::prelude::*;
use std::ops::{AddAssign, Mul};

/// Columns of a panel.
pub const PANEL: usize = 8;
/// Panels that one step of the factorization eliminates together: what bounds its traffic of memory.
const BLOCK_PANELS: usize = 16;
/// Rows of a panel that one thread takes at a time.
const STRIP_ROWS: usize = 64;

/// f32 or f64.
pub trait Real: Copy + Default + Mul<Output = Self> + AddAssign + Into<f64> + Send + Sync {}
impl Real for f32 {}
impl Real for f64 {}

/// `sums[r][c] += sum over k of a[k * stride + r] * b[k * PANEL + c]`, k ascending.
pub fn multiply_add<T: Real, const ROWS: usize>(
    a: &[T],
    stride: usize,
    b: &[T],
    sums: &mut [[T; PANEL]; ROWS],
) {
    let mut local = *sums;
    for (a, b) in a.chunks(stride).zip(b.chunks_exact(PANEL)) {
        for (sums, &a) in local.iter_mut().zip(&a[..ROWS]) {
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    *sums = local;
}

/// A symmetric matrix, or the factor of one: the lower triangle in panels of [`PANEL`] columns. Panel p has the rows from its
/// first diagonal element to the end, row by row. The size is padded to whole panels.
pub struct Panels {
    size: usize,
    panels: Vec<Vec<f64>>,
}

impl Panels {
    /// Zeros; `features` is the size before padding.
    pub fn zeros(features: usize) -> Self {
        Self::from_fn(features, |_, _| 0.0)
    }

    /// From a function of (row, column) with row >= column, both below the padded size.
    pub fn from_fn(features: usize, value: impl Fn(usize, usize) -> f64 + Sync) -> Self {
        let size = features.next_multiple_of(PANEL);
        let panel = |p: usize| {
            let elements = (p * PANEL..size).flat_map(|row| (0..PANEL).map(move |c| (row, c)));
            elements
                .map(|(row, c)| {
                    let column = p * PANEL + c;
                    value(row.max(column), row.min(column))
                })
                .collect()
        };
        Self {
            size,
            panels: (0..size / PANEL).into_par_iter().map(panel).collect(),
        }
    }

    /// Rows, padded.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Columns `p * PANEL ..`, rows from `p * PANEL` to the end.
    pub fn panel(&self, p: usize) -> &[f64] {
        &self.panels[p]
    }

    /// Every panel with its number, to be changed by threads.
    pub fn par_panels(&mut self) -> impl IndexedParallelIterator<Item = (usize, &mut Vec<f64>)> {
        self.panels.par_iter_mut().enumerate()
    }

    /// The element at (row, column), from the lower triangle.
    pub fn at(&self, row: usize, column: usize) -> f64 {
        let (row, column) = (row.max(column), row.min(column));
        self.panels[column / PANEL][(row - column / PANEL * PANEL) * PANEL + column % PANEL]
    }

    /// Adds `XᵀX` of rows `x` [rows, features], where `element` makes a factor of an item. The sums over these rows are T.
    pub fn add_gram<T: Real, X: Copy + Sync>(
        &mut self,
        x: &[X],
        features: usize,
        element: impl Fn(X) -> T + Sync,
    ) {
        const ROWS: usize = 4;
        const { assert!(PANEL % ROWS == 0) }
        let rows = x.len() / features;
        // Panel p of X: [rows, PANEL], zeros in the padding.
        let pack = |p: usize| {
            let mut panel = vec![T::default(); rows * PANEL];
            let columns = p * PANEL..((p + 1) * PANEL).min(features);
            for (row, packed) in x.chunks_exact(features).zip(panel.chunks_exact_mut(PANEL)) {
                for (packed, &x) in packed.iter_mut().zip(&row[columns.clone()]) {
                    *packed = element(x);
                }
            }
            panel
        };
        let packed: Vec<Vec<T>> = (0..self.panels.len()).into_par_iter().map(pack).collect();
        // Several panels a thread, so that a packed panel is read from memory once for all of them.
        const SHARED: usize = 4;
        let groups = self.panels.par_chunks_mut(SHARED).enumerate();
        groups.for_each(|(group, panels)| {
            let first = group * SHARED;
            for (below, a) in packed.iter().enumerate().skip(first) {
                for (at, panel) in panels.iter_mut().enumerate().take(below - first + 1) {
                    let rows = &mut panel[(below - first - at) * PANEL * PANEL..][..PANEL * PANEL];
                    for (quarter, rows) in rows.chunks_exact_mut(ROWS * PANEL).enumerate() {
                        let mut sums = [[T::default(); PANEL]; ROWS];
                        multiply_add(
                            &a[(quarter * ROWS).min(a.len())..],
                            PANEL,
                            &packed[first + at],
                            &mut sums,
                        );
                        for (element, &sum) in rows.iter_mut().zip(sums.as_flattened()) {
                            *element += sum.into();
                        }
                    }
                }
            }
        });
    }

    /// The lower Cholesky factor L, `self = L Lᵀ`, in place of the matrix. `false` where a pivot is not positive; what is left
    /// is then of no use.
    #[must_use]
    pub fn factorize(&mut self) -> bool {
        for first in (0..self.panels.len()).step_by(BLOCK_PANELS) {
            let end = (first + BLOCK_PANELS).min(self.panels.len());
            for p in first..end {
                let (done, rest) = self.panels.split_at_mut(p);
                subtract_products(&done[first..], first, p, &mut rest[0]);
                if !finish_panel(&mut rest[0]) {
                    return false;
                }
            }
            let (done, rest) = self.panels.split_at_mut(end);
            let block = &done[first..];
            rest.par_iter_mut()
                .enumerate()
                .for_each(|(at, panel)| subtract_products(block, first, end + at, panel));
        }
        true
    }
}

/// `panel[i][c] -= sum over the columns m of the panels in block of L[i][m] * L[p * PANEL + c][m]`, where `panel` is number p
/// and `block` starts at number `first`.
fn subtract_products(block: &[Vec<f64>], first: usize, p: usize, panel: &mut [f64]) {
    // Rows of `panel` within a panel of the block.
    let rows_of = |at: usize| &block[at][(p - first - at) * PANEL * PANEL..];
    // Row m: L[p * PANEL + c][m] for each c.
    let mut transposed = vec![[0.0; PANEL]; block.len() * PANEL];
    for at in 0..block.len() {
        for (c, row) in rows_of(at).chunks_exact(PANEL).take(PANEL).enumerate() {
            for (m, &value) in row.iter().enumerate() {
                transposed[at * PANEL + m][c] = value;
            }
        }
    }
    const ROWS: usize = 2;
    let strips = panel.par_chunks_mut(STRIP_ROWS * PANEL).enumerate();
    strips.for_each(|(strip, rows)| {
        for (pair, rows) in rows.chunks_exact_mut(ROWS * PANEL).enumerate() {
            let mut sums = [[0.0; PANEL]; ROWS];
            for at in 0..block.len() {
                let a = &rows_of(at)[(strip * STRIP_ROWS + pair * ROWS) * PANEL..][..ROWS * PANEL];
                let b = &transposed[at * PANEL..][..PANEL];
                for (m, b) in b.iter().enumerate() {
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let a = a[r * PANEL + m];
                        for (sum, &b) in sums.iter_mut().zip(b) {
                            *sum += a * b;
                        }
                    }
                }
            }
            for (element, &sum) in rows.iter_mut().zip(sums.as_flattened()) {
                *element -= sum;
            }
        }
    });
}

/// Factorizes the triangle at the top of a panel and divides the rows below by it.
fn finish_panel(panel: &mut [f64]) -> bool {
    let (triangle, below) = panel.split_at_mut(PANEL * PANEL);
    for j in 0..PANEL {
        let pivot = triangle[j * PANEL + j];
        if !(pivot.is_finite() && pivot > 0.0) {
            return false;
        }
        let root = pivot.sqrt();
        triangle[j * PANEL + j] = root;
        for i in j + 1..PANEL {
            triangle[i * PANEL + j] /= root;
        }
        for i in j + 1..PANEL {
            for k in j + 1..=i {
                triangle[i * PANEL + k] -= triangle[i * PANEL + j] * triangle[k * PANEL + j];
            }
        }
        for k in j + 1..PANEL {
            triangle[j * PANEL + k] = 0.0;
        }
    }
    let triangle = &*triangle;
    below.par_chunks_mut(STRIP_ROWS * PANEL).for_each(|rows| {
        for row in rows.chunks_exact_mut(PANEL) {
            for j in 0..PANEL {
                row[j] /= triangle[j * PANEL + j];
                for k in j + 1..PANEL {
                    row[k] -= row[j] * triangle[k * PANEL + j];
                }
            }
        }
    });
    true
}
