//! The linear algebra of the quantizer: symmetric matrices in panels, their Cholesky factor, and one product kernel.
//!
//! Every number is the same on every machine and for any number of threads: threads share out whole outputs, each of which is
//! one chain of separate multiplications and additions in a fixed order. The innermost loops run over the columns of a panel,
//! which do not depend on each other, so a compiler can use vectors without changing a bit.

use rayon::prelude::*;

/// Columns of a panel: long enough that the innermost loop stays a loop, which is what compilers make vectors of.
pub const PANEL: usize = 32;
/// Panels that one step of the factorization eliminates together: what bounds its traffic of memory.
const BLOCK_PANELS: usize = 4;
/// Elements of a square on the diagonal of a matrix, at the top of a panel.
const SQUARE: usize = PANEL * PANEL;

/// `sums[r][c] += sum over k of a(r, k) * b[k][c]`, k ascending, for `b` [any, PANEL] and `sums` [any, PANEL].
pub fn multiply_add(a: impl Fn(usize, usize) -> f64, b: &[f64], sums: &mut [f64]) {
    /// Terms for each time that a sum is read and written.
    const TERMS: usize = 4;
    let whole = b.len() / PANEL / TERMS * TERMS;
    let (by_four, rest) = b.split_at(whole * PANEL);
    for (group, b) in by_four.chunks_exact(TERMS * PANEL).enumerate() {
        let (b01, b23) = b.split_at(2 * PANEL);
        let ((b0, b1), (b2, b3)) = (b01.split_at(PANEL), b23.split_at(PANEL));
        for (r, sums) in sums.chunks_exact_mut(PANEL).enumerate() {
            let [a0, a1, a2, a3] = std::array::from_fn(|at| a(r, group * TERMS + at));
            let terms = b0.iter().zip(b1).zip(b2.iter().zip(b3));
            for (sum, ((&b0, &b1), (&b2, &b3))) in sums.iter_mut().zip(terms) {
                *sum = *sum + a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3;
            }
        }
    }
    for (at, b) in rest.chunks_exact(PANEL).enumerate() {
        for (r, sums) in sums.chunks_exact_mut(PANEL).enumerate() {
            let a = a(r, whole + at);
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
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
            // Collected, they would take up to twice the memory: their number is not known then.
            let mut panel = Vec::with_capacity((size - p * PANEL) * PANEL);
            panel.extend(elements.map(|(row, c)| {
                let column = p * PANEL + c;
                value(row.max(column), row.min(column))
            }));
            panel
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
    // Each panel of the block, from the first row of `panel` on.
    let block: Vec<&[f64]> = block
        .iter()
        .enumerate()
        .map(|(at, rows)| &rows[(p - first - at) * SQUARE..])
        .collect();
    let tops: Vec<[f64; SQUARE]> = block.iter().map(|rows| transposed(rows)).collect();
    let squares = panel.par_chunks_exact_mut(SQUARE).enumerate();
    squares.for_each(|(at, square)| {
        let mut sums = [0.0; SQUARE];
        for (rows, top) in block.iter().zip(&tops) {
            let rows = &rows[at * SQUARE..][..SQUARE];
            multiply_add(|r, k| rows[r * PANEL + k], top, &mut sums);
        }
        for (element, sum) in square.iter_mut().zip(sums) {
            *element -= sum;
        }
    });
}

/// The square at the top of a panel, transposed.
fn transposed(panel: &[f64]) -> [f64; SQUARE] {
    std::array::from_fn(|at| panel[at % PANEL * PANEL + at / PANEL])
}

/// Factorizes the square at the top of a panel and divides the rows below by it.
fn finish_panel(panel: &mut [f64]) -> bool {
    let (square, below) = panel.split_at_mut(SQUARE);
    for j in 0..PANEL {
        let pivot = square[j * PANEL + j];
        if !(pivot.is_finite() && pivot > 0.0) {
            return false;
        }
        let root = pivot.sqrt();
        square[j * PANEL + j] = root;
        for i in j + 1..PANEL {
            square[i * PANEL + j] /= root;
            square[j * PANEL + i] = 0.0;
        }
        for i in j + 1..PANEL {
            for k in j + 1..=i {
                square[i * PANEL + k] -= square[i * PANEL + j] * square[k * PANEL + j];
            }
        }
    }
    let columns = transposed(square);
    below.par_chunks_exact_mut(SQUARE).for_each(|rows| {
        for row in rows.chunks_exact_mut(PANEL) {
            for (j, column) in columns.chunks_exact(PANEL).enumerate() {
                row[j] /= column[j];
                let value = row[j];
                for (element, &factor) in row[j + 1..].iter_mut().zip(&column[j + 1..]) {
                    *element -= value * factor;
                }
            }
        }
    });
    true
}
