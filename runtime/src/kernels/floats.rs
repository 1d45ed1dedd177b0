//! The float kernels, written once over sixteen [`Lanes`]. Each instruction set calls them from functions that are
//! compiled for it.
//!
//! # Safety
//!
//! Every function may be called only where the lanes' instructions are there and compiled for, and on buffers that
//! `holds` what its sizes say; the families' methods check both.

#![expect(unsafe_code, reason = "instructions of one processor family, behind `Lanes`")]
#![allow(clippy::needless_range_loop, reason = "rows and panels number registers and memory alike")]

use super::approximation::{EXP_MIN, EXP2, GELU_MAX, LOG2_E, LOG2_PHI, MAGIC};
use super::family::{Attention, Floats, FloatsMut, IntegersMut, LinearF32, NormView, QUERIES};
use super::lanes::Lanes;

/// Rows that go through a kernel together, so that one row's reduction does not wait for the other's.
const GROUP: usize = 4;

#[inline(always)]
pub(super) unsafe fn quantize<V: Lanes>(input: Floats<'_>, output: IntegersMut<'_>) {
    let width = input.width.next_multiple_of(16);
    for group in (0..input.rows).step_by(GROUP) {
        let rows = GROUP.min(input.rows - group);
        // SAFETY: input and output hold `width` values of every row.
        unsafe {
            let mut largest = [0.0; GROUP];
            for row in 0..rows {
                let from = input.values.as_ptr().add((group + row) * input.stride);
                let mut lanes = [V::splat(0.0); 2];
                let mut at = 0;
                while at + 32 <= width {
                    lanes[0] = V::load(from.add(at)).abs().max(lanes[0]);
                    lanes[1] = V::load(from.add(at + 16)).abs().max(lanes[1]);
                    at += 32;
                }
                if at < width {
                    lanes[0] = V::load(from.add(at)).abs().max(lanes[0]);
                }
                let of_row = lanes[0].max(lanes[1]).largest();
                largest[row] = if of_row > TINY { of_row } else { TINY };
                *output.scales.as_mut_ptr().add(group + row) = largest[row] / 127.0;
            }
            for row in 0..rows {
                let from = input.values.as_ptr().add((group + row) * input.stride);
                let to = output.values.as_mut_ptr().add((group + row) * output.stride);
                let inverse = V::splat(127.0 / largest[row]);
                let mut at = 0;
                while at < width {
                    V::load(from.add(at)).mul(inverse).store_integers(to.add(at));
                    at += 16;
                }
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn norm<V: Lanes>(
    input: FloatsMut<'_>,
    residual: Option<Floats<'_>>,
    norm: &NormView<'_>,
    output: FloatsMut<'_>,
) {
    let width = input.width.next_multiple_of(16);
    let count = input.width as f32;
    // SAFETY: input, residual, output, weight and bias hold `width` values (of every row).
    unsafe {
        // Lanes of the last register that are a row's own.
        let own = V::first(input.width - (width - 16));
        let zero = V::splat(0.0);
        let (weight, bias) = (norm.weight.as_ptr(), norm.bias.as_ptr());
        for group in (0..input.rows).step_by(GROUP) {
            let rows = GROUP.min(input.rows - group);
            let mut means = [0.0; GROUP];
            for row in 0..rows {
                let from = input.values.as_mut_ptr().add((group + row) * input.stride);
                let mut sum = zero;
                let mut at = 0;
                if let Some(residual) = residual {
                    let other = residual.values.as_ptr().add((group + row) * residual.stride);
                    while at < width {
                        let value = V::load(from.add(at)).add(V::load(other.add(at)));
                        value.store(from.add(at));
                        sum = sum.add(value);
                        at += 16;
                    }
                }
                while at < width {
                    sum = sum.add(V::load(from.add(at)));
                    at += 16;
                }
                means[row] = sum.sum() / count;
            }
            let mut inverses = [0.0; GROUP];
            for row in 0..rows {
                let from = input.values.as_ptr().add((group + row) * input.stride);
                let mean = V::splat(means[row]);
                let mut squares = zero;
                let mut at = 0;
                while at + 16 < width {
                    let deviation = V::load(from.add(at)).sub(mean);
                    squares = deviation.fma(deviation, squares);
                    at += 16;
                }
                let deviation = V::select(own, V::load(from.add(at)).sub(mean), zero);
                squares = deviation.fma(deviation, squares);
                inverses[row] = 1.0 / (squares.sum() / count + norm.epsilon).sqrt();
            }
            for row in 0..rows {
                let from = input.values.as_ptr().add((group + row) * input.stride);
                let to = output.values.as_mut_ptr().add((group + row) * output.stride);
                let (mean, inverse) = (V::splat(means[row]), V::splat(inverses[row]));
                let mut at = 0;
                while at < width {
                    let scaled = V::load(from.add(at)).sub(mean).mul(inverse);
                    scaled.fma(V::load(weight.add(at)), V::load(bias.add(at))).store(to.add(at));
                    at += 16;
                }
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn linear<V: Lanes>(input: Floats<'_>, linear: &LinearF32<'_>, gelu: bool, output: FloatsMut<'_>) {
    let panels = linear.outputs.div_ceil(16);
    let columns = Columns { from: linear.panels.as_ptr(), step: 16, panel: linear.inputs * 16, depth: linear.inputs };
    // SAFETY: input, weights and output hold what their sizes say.
    unsafe {
        let mut panel = 0;
        while panel < panels {
            let wide = V::TILE_PANELS == 2 && panel + 1 < panels;
            for (first, rows) in tiles(input.rows, V::TILE_ROWS) {
                let from = input.values.as_ptr().add(first * input.stride);
                let to = output.values.as_mut_ptr().add(first * output.stride + panel * 16);
                let tile = Tile { from, from_stride: input.stride, to, to_stride: output.stride };
                let finish = Finish::Bias(linear.bias.as_ptr().add(panel * 16));
                product::<V>(tile, columns.panel(panel), rows, wide, finish);
                if gelu {
                    self::gelu::<V>(tile, rows, wide);
                }
            }
            panel += V::TILE_PANELS;
        }
    }
}

/// GELU over the columns of one or two panels.
#[inline(always)]
pub(super) unsafe fn gelu<V: Lanes>(tile: Tile, rows: usize, wide: bool) {
    // SAFETY: the tile's owner vouches for it.
    unsafe {
        for row in 0..rows {
            let to = tile.to.add(row * tile.to_stride);
            gelu_of(V::load(to)).store(to);
            if wide {
                gelu_of(V::load(to.add(16))).store(to.add(16));
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn attention<V: Lanes>(attention: &Attention<'_>, work: &mut [f32], output: FloatsMut<'_>) {
    let Attention { tokens, head, stride, .. } = *attention;
    let (keys, head_stride) = (tokens.next_multiple_of(16), head.next_multiple_of(16));
    let key_panels = work.as_mut_ptr();
    // SAFETY: the work space has `Attention::work_len_f32` floats, queries, keys, values, bias and output what their sizes say.
    unsafe {
        let values = key_panels.add(keys * head);
        let scores = values.add(keys * head_stride);
        transpose::<V>(attention, key_panels);
        copy_values::<V>(attention, values);

        let by_key = Columns { from: key_panels, step: 16, panel: head * 16, depth: head };
        let by_dimension = Columns { from: values, step: head_stride, panel: 16, depth: tokens };
        for (first, rows) in tiles(tokens, V::TILE_ROWS) {
            let from = attention.query.as_ptr().add(first * stride);
            let mut panel = 0;
            while panel * 16 < keys {
                let wide = V::TILE_PANELS == 2 && (panel + 1) * 16 < keys;
                let to = scores.add(panel * 16);
                let tile = Tile { from, from_stride: stride, to, to_stride: keys };
                product::<V>(tile, by_key.panel(panel), rows, wide, Finish::Nothing);
                panel += V::TILE_PANELS;
            }
            if let Some(bias) = attention.bias {
                for row in 0..rows {
                    // Column `j - i` from the middle on.
                    add::<V>(scores.add(row * keys), bias.as_ptr().add(bias.len() / 2 - first - row), tokens);
                }
            }
            let inverse = softmax::<V>(scores, keys, rows, tokens);
            let mut panel = 0;
            while panel * 16 < head {
                let wide = V::TILE_PANELS == 2 && (panel + 1) * 16 < head;
                let to = output.values.as_mut_ptr().add(first * output.stride + panel * 16);
                let tile = Tile { from: scores, from_stride: keys, to, to_stride: output.stride };
                let finish = Finish::Scale { by: &inverse, columns: head - panel * 16 };
                product::<V>(tile, by_dimension.panel(panel), rows, wide, finish);
                panel += V::TILE_PANELS;
            }
        }
    }
}

/// Splits rows into tiles of nearly equal height, at most `most`: the first row of each and their number.
#[inline(always)]
pub(super) fn tiles(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(most);
    (0..count).map(move |tile| {
        let (first, next) = (rows * tile / count, rows * (tile + 1) / count);
        (first, next - first)
    })
}

/// Where a tile of a product comes from and goes to: row `r` of the left matrix is at `from + r * from_stride`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) from: *const f32,
    pub(super) from_stride: usize,
    pub(super) to: *mut f32,
    pub(super) to_stride: usize,
}

/// Panels of 16 columns of a product's right matrix: row `k` of panel `p` is at `from + p * panel + k * step`.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    from: *const f32,
    step: usize,
    panel: usize,
    depth: usize,
}

impl Columns {
    #[inline(always)]
    unsafe fn panel(self, panel: usize) -> Self {
        // SAFETY: the panel is inside the matrix.
        Self { from: unsafe { self.from.add(panel * self.panel) }, ..self }
    }
}

/// What happens to 16 columns of a row before they are stored.
#[derive(Clone, Copy)]
pub(super) enum Finish<'a> {
    Nothing,
    /// Adds `bias[column]`.
    Bias(*const f32),
    /// Multiplies with `by[row]` and stores only the first `columns`: behind them begins another head.
    Scale {
        by: &'a [f32; QUERIES],
        columns: usize,
    },
}

/// A tile of a matrix product, one or two panels wide: in each lane a chain of fused multiply-adds over the depth, from 0.
#[inline(always)]
unsafe fn product<V: Lanes>(tile: Tile, columns: Columns, rows: usize, wide: bool, finish: Finish<'_>) {
    macro_rules! by_rows {
        ($($rows:literal)*) => {
            match (rows, wide) {
                $(
                    // SAFETY: as this function's.
                    ($rows, true) if V::TILE_ROWS >= $rows && V::TILE_PANELS == 2 => unsafe {
                        V::product::<$rows, 2>(tile, columns, finish)
                    },
                    // SAFETY: as this function's.
                    ($rows, false) if V::TILE_ROWS >= $rows => unsafe {
                        V::product::<$rows, 1>(tile, columns, finish)
                    },
                )*
                _ => {}
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// The body of [`Lanes::product`].
#[inline(always)]
pub(super) unsafe fn product_of<V: Lanes, const ROWS: usize, const PANELS: usize>(
    tile: Tile,
    columns: Columns,
    finish: Finish<'_>,
) {
    // SAFETY: tile and columns are inside their matrices.
    unsafe {
        let mut sums = [[V::splat(0.0); PANELS]; ROWS];
        let mut right = columns.from;
        let mut left = tile.from;
        for _ in 0..columns.depth {
            step(&mut sums, left, tile.from_stride, right, columns.panel);
            (left, right) = (left.add(1), right.add(columns.step));
        }
        // Each case with loops of its own: what the compiler cannot unroll stays in memory, and the sums with it.
        let to = |row: usize, panel: usize| tile.to.add(row * tile.to_stride + panel * 16);
        match finish {
            Finish::Nothing => {
                for row in 0..ROWS {
                    for panel in 0..PANELS {
                        sums[row][panel].store(to(row, panel));
                    }
                }
            }
            Finish::Bias(bias) => {
                for panel in 0..PANELS {
                    let bias = V::load(bias.add(panel * 16));
                    for row in 0..ROWS {
                        sums[row][panel].add(bias).store(to(row, panel));
                    }
                }
            }
            Finish::Scale { by, columns } if columns >= PANELS * 16 => {
                for row in 0..ROWS {
                    let by = V::splat(by[row]);
                    for panel in 0..PANELS {
                        sums[row][panel].mul(by).store(to(row, panel));
                    }
                }
            }
            Finish::Scale { by, columns } => {
                for row in 0..ROWS {
                    let by = V::splat(by[row]);
                    for panel in 0..PANELS {
                        let count = (columns - panel * 16).min(16);
                        sums[row][panel].mul(by).store_first(to(row, panel), count);
                    }
                }
            }
        }
    }
}

/// One column of the left matrix by one row of the right one.
#[inline(always)]
unsafe fn step<V: Lanes, const ROWS: usize, const PANELS: usize>(
    sums: &mut [[V; PANELS]; ROWS],
    left: *const f32,
    left_stride: usize,
    right: *const f32,
    right_panel: usize,
) {
    // SAFETY: the caller vouches for both.
    unsafe {
        let mut columns = [V::splat(0.0); PANELS];
        for panel in 0..PANELS {
            columns[panel] = V::load(right.add(panel * right_panel));
        }
        for row in 0..ROWS {
            let value = V::splat(*left.add(row * left_stride));
            for panel in 0..PANELS {
                sums[row][panel] = value.fma(columns[panel], sums[row][panel]);
            }
        }
    }
}

/// Keys by panels of 16: `[panels][head][16]`, filled up with zeros.
#[inline(always)]
unsafe fn transpose<V: Lanes>(attention: &Attention<'_>, to: *mut f32) {
    let Attention { key, tokens, head, stride, .. } = *attention;
    for first in (0..tokens).step_by(16) {
        // SAFETY: as `attention`'s.
        unsafe {
            let from = key.as_ptr().add(first * stride);
            transpose_panel::<V>(from, stride, (tokens - first).min(16), head, to.add(first * head));
        }
    }
}

/// Up to 16 rows of `width` values become `[width][16]`, filled up with zeros.
#[inline(always)]
pub(super) unsafe fn transpose_panel<V: Lanes>(
    from: *const f32,
    stride: usize,
    rows: usize,
    width: usize,
    to: *mut f32,
) {
    let whole = if rows == 16 { width / 16 * 16 } else { 0 };
    // SAFETY: the caller vouches for the rows, and for `16 * width` values of `to`.
    unsafe {
        for column in (0..whole).step_by(16) {
            V::transpose(from.add(column), stride, to.add(column * 16));
        }
        for column in whole..width {
            for row in 0..rows {
                *to.add(column * 16 + row) = *from.add(row * stride + column);
            }
            for row in rows..16 {
                *to.add(column * 16 + row) = 0.0;
            }
        }
    }
}

/// Values row by row, filled up with zeros to a multiple of 16.
#[inline(always)]
unsafe fn copy_values<V: Lanes>(attention: &Attention<'_>, to: *mut f32) {
    let Attention { value, tokens, head, stride, .. } = *attention;
    let (whole, padded) = (head / 16 * 16, head.next_multiple_of(16));
    // SAFETY: as `attention`'s.
    unsafe {
        for token in 0..tokens {
            let (from, to) = (value.as_ptr().add(token * stride), to.add(token * padded));
            for dimension in (0..whole).step_by(16) {
                V::load(from.add(dimension)).store(to.add(dimension));
            }
            for dimension in whole..padded {
                *to.add(dimension) = if dimension < head { *from.add(dimension) } else { 0.0 };
            }
        }
    }
}

/// Adds `count` values, which may be followed by less than a register.
#[inline(always)]
pub(super) unsafe fn add<V: Lanes>(to: *mut f32, from: *const f32, count: usize) {
    // SAFETY: `to` is padded to a multiple of 16; of `from`, only `count` values are read.
    unsafe {
        let mut at = 0;
        while at + 16 <= count {
            V::load(to.add(at)).add(V::load(from.add(at))).store(to.add(at));
            at += 16;
        }
        while at < count {
            *to.add(at) += *from.add(at);
            at += 1;
        }
    }
}

/// Replaces the first `count` scores of each row by their exponentials after the largest was taken off, and the padding by 0.
/// What each row has to be multiplied with for a sum of 1.
#[inline(always)]
unsafe fn softmax<V: Lanes>(scores: *mut f32, stride: usize, rows: usize, count: usize) -> [f32; QUERIES] {
    let last = (count - 1) / 16 * 16;
    // SAFETY: the scores of each row are padded to `stride`, a multiple of 16.
    unsafe {
        let own = V::first(count - last);
        // One thing after the other for all rows, so that no row waits for its own reduction.
        let largest = largest::<V>(scores, stride, rows, count);
        let mut sums = [V::splat(0.0); QUERIES];
        for row in 0..rows.min(QUERIES) {
            let scores = scores.add(row * stride);
            let mut sum = V::splat(0.0);
            let mut at = 0;
            while at < last {
                let p = exp_of(V::load(scores.add(at)).sub(largest[row]));
                p.store(scores.add(at));
                sum = sum.add(p);
                at += 16;
            }
            let p = V::select(own, exp_of(V::load(scores.add(last)).sub(largest[row])), V::splat(0.0));
            p.store(scores.add(last));
            sums[row] = sum.add(p);
        }
        let mut inverses = [0.0; QUERIES];
        for row in 0..rows.min(QUERIES) {
            inverses[row] = 1.0 / sums[row].sum();
        }
        inverses
    }
}

/// In every lane the largest of the first `count` values of each row.
#[inline(always)]
pub(super) unsafe fn largest<V: Lanes>(rows_of: *const f32, stride: usize, rows: usize, count: usize) -> [V; QUERIES] {
    let last = (count - 1) / 16 * 16;
    // SAFETY: each row is padded to `stride`, a multiple of 16.
    unsafe {
        let own = V::first(count - last);
        let lowest = V::splat(f32::MIN);
        let mut largest = [lowest; QUERIES];
        for row in 0..rows.min(QUERIES) {
            let values = rows_of.add(row * stride);
            let mut lanes = [V::select(own, V::load(values.add(last)), lowest), lowest];
            let mut at = 0;
            while at + 32 <= last {
                lanes[0] = V::load(values.add(at)).max(lanes[0]);
                lanes[1] = V::load(values.add(at + 16)).max(lanes[1]);
                at += 32;
            }
            if at < last {
                lanes[0] = V::load(values.add(at)).max(lanes[0]);
            }
            largest[row] = V::splat(lanes[0].max(lanes[1]).largest());
        }
        largest
    }
}

/// `approximation::exp` in every lane.
#[inline(always)]
pub(super) unsafe fn exp_of<V: Lanes>(x: V) -> V {
    // SAFETY: operations on registers.
    unsafe {
        let (magic, log2_e) = (V::splat(MAGIC), V::splat(LOG2_E));
        let x = x.max(V::splat(EXP_MIN));
        let shifted = x.fma(log2_e, magic);
        let whole = shifted.sub(magic);
        exp2_fraction(x.fms(log2_e, whole)).scale(shifted)
    }
}

/// `approximation::gelu` in every lane.
#[inline(always)]
unsafe fn gelu_of<V: Lanes>(u: V) -> V {
    // SAFETY: operations on registers.
    unsafe {
        let magic = V::splat(MAGIC);
        let magnitude = u.abs();
        let t = magnitude.min(V::splat(GELU_MAX));
        let mut log2 = V::splat(LOG2_PHI[0]);
        for coefficient in &LOG2_PHI[1..] {
            log2 = log2.fma(t, V::splat(*coefficient));
        }
        let shifted = log2.add(magic);
        let phi = exp2_fraction(log2.sub(shifted.sub(magic))).scale(shifted);
        magnitude.fnma(phi, u.max(V::splat(0.0)))
    }
}

#[inline(always)]
unsafe fn exp2_fraction<V: Lanes>(f: V) -> V {
    // SAFETY: operations on registers.
    unsafe {
        let mut power = V::splat(EXP2[0]);
        for coefficient in &EXP2[1..] {
            power = power.fma(f, V::splat(*coefficient));
        }
        power
    }
}

/// Lower bound of a row's largest magnitude, so that a row of zeros has a finite inverse scale.
pub(super) const TINY: f32 = 1e-30;
