//! Linear layers of int8, written once over the tiles of an instruction set.
//!
//! # Safety
//!
//! As that of `floats`.

#![expect(unsafe_code, reason = "instructions of one processor family, behind `IntegerTiles`")]

use super::family::{FloatsMut, Integers, LinearI8};
use super::floats::{self, Tile, tiles};
use super::lanes::Lanes;

/// Products of int8 matrices, a tile at a time.
///
/// # Safety
///
/// As that of [`Lanes`].
pub(super) trait IntegerTiles {
    type Lanes: Lanes;
    /// Rows of a tile at most, 12 at most, and panels of 16 columns, 1 or 2.
    const ROWS: usize;
    const PANELS: usize;

    /// `to = (f32(start + sum of left * right) * row scale) * scale + bias` for some rows and one or two panels. Of two planes of
    /// the left matrix, the first counts 64 times.
    unsafe fn multiply(tile: &IntegerTile<'_>, rows: usize, panels: usize);

    /// As [`multiply`](Self::multiply), of any number of panels, for a product of little depth and without a bias (0 is added or
    /// is not).
    #[inline(always)]
    unsafe fn multiply_shallow(tile: &IntegerTile<'_>, rows: usize, panels: usize) {
        for panel in (0..panels).step_by(Self::PANELS) {
            // SAFETY: as this function's.
            unsafe { Self::multiply(&tile.at_panel(panel), rows, Self::PANELS.min(panels - panel)) };
        }
    }

    /// What the 16 columns of a panel start from, so that nothing is left of what the family's way to multiply adds.
    #[inline(always)]
    unsafe fn starts(_: *const i8, _: usize, to: *mut i32) {
        const { assert!(Self::Lanes::OFFSET == 0, "an offset must be taken off") };
        // SAFETY: the caller vouches for 16 integers.
        unsafe { to.write_bytes(0, 16) };
    }

    /// Words that [`prepare`](Self::prepare) writes for a panel of weights.
    fn prepared_len(_quads: usize) -> usize {
        0
    }

    /// Finds once what the family wants to know of a panel of weights in every run.
    #[inline(always)]
    unsafe fn prepare(_: *const i8, _: usize, _: *mut u64) {}

    /// As [`starts`](Self::starts), of a panel of weights whose columns have these sums and that was prepared.
    #[inline(always)]
    unsafe fn prepared_starts(_: &[u64], sums: *const i32, to: *mut i32) {
        // SAFETY: the caller vouches for 16 integers.
        unsafe {
            for column in 0..16 {
                // A damaged program may hold any sum.
                to.add(column).write((*sums.add(column)).wrapping_mul(-i32::from(Self::Lanes::OFFSET)));
            }
        }
    }
}

/// Calls what is compiled for this number of rows, which is one of those given.
macro_rules! by_rows {
    ($rows:expr, $($number:literal)* => $product:ident $arguments:tt) => {
        match $rows {
            $($number => $product::<$number> $arguments,)*
            _ => {}
        }
    };
}
pub(super) use by_rows;

/// Where a tile of an int8 product comes from and goes to.
pub(super) struct IntegerTile<'a> {
    /// Rows in the byte form that the family multiplies, of at least `4 * quads` bytes, padded to a multiple of 16.
    pub(super) left: *const u8,
    pub(super) left_stride: usize,
    /// One or two, `plane` bytes apart.
    pub(super) planes: usize,
    pub(super) plane: usize,
    /// One a row.
    pub(super) row_scales: *const f32,
    /// Panels of `[quads][16][4]`, `panel` bytes apart.
    pub(super) right: *const i8,
    pub(super) panel: usize,
    pub(super) quads: usize,
    /// One a column, as are the next two: takes off what [`Lanes::OFFSET`] adds.
    pub(super) start: *const i32,
    pub(super) scales: *const f32,
    pub(super) bias: *const f32,
    pub(super) to: *mut f32,
    pub(super) to_stride: usize,
    /// What [`IntegerTiles::prepare`] wrote for the first panel; empty where nobody prepared it.
    #[cfg_attr(target_arch = "aarch64", expect(dead_code, reason = "only AVX2 prepares"))]
    pub(super) prepared: &'a [u64],
}

impl IntegerTile<'_> {
    /// The tile some panels further on; its bias stays.
    #[inline(always)]
    pub(super) unsafe fn at_panel(&self, panel: usize) -> Self {
        let column = panel * 16;
        // SAFETY: the caller vouches for the panel.
        unsafe {
            Self {
                right: self.right.add(panel * self.panel),
                start: self.start.add(column),
                scales: self.scales.add(column),
                to: self.to.add(column),
                ..*self
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn linear<T: IntegerTiles>(
    input: Integers<'_>,
    linear: &LinearI8<'_>,
    gelu: bool,
    output: FloatsMut<'_>,
) {
    let (quads, panels) = (linear.inputs.div_ceil(4), linear.outputs.div_ceil(16));
    let len = T::prepared_len(quads);
    let mut panel = 0;
    while panel < panels {
        let wide = T::PANELS.min(panels - panel);
        // SAFETY: panels and rows are inside their buffers.
        unsafe {
            let mut start = [0; 32];
            let prepared = |panel: usize| core::slice::from_raw_parts(linear.prepared.as_ptr().add(panel * len), len);
            for at in 0..wide {
                let sums = linear.sums.as_ptr().add((panel + at) * 16);
                T::prepared_starts(prepared(panel + at), sums, start.as_mut_ptr().add(at * 16));
            }
            for (first, rows) in tiles(input.rows, T::ROWS) {
                let tile = IntegerTile {
                    left: input.values.as_ptr().add(first * input.stride),
                    left_stride: input.stride,
                    planes: 1,
                    plane: 0,
                    row_scales: input.scales.as_ptr().add(first),
                    right: linear.panels.as_ptr().add(panel * quads * 64),
                    panel: quads * 64,
                    quads,
                    start: start.as_ptr(),
                    scales: linear.scales.as_ptr().add(panel * 16),
                    bias: linear.bias.as_ptr().add(panel * 16),
                    to: output.values.as_mut_ptr().add(first * output.stride + panel * 16),
                    to_stride: output.stride,
                    prepared: prepared(panel),
                };
                T::multiply(&tile, rows, wide);
                if gelu {
                    let (to, to_stride) = (tile.to, tile.to_stride);
                    floats::gelu::<T::Lanes>(Tile { from: to, from_stride: to_stride, to, to_stride }, rows, wide == 2);
                }
            }
        }
        panel += wide;
    }
}

/// Words that a layer of this shape is prepared to.
pub(super) fn prepared_len<T: IntegerTiles>(outputs: usize, inputs: usize) -> usize {
    outputs.div_ceil(16) * T::prepared_len(inputs.div_ceil(4))
}

#[inline(always)]
pub(super) unsafe fn prepare<T: IntegerTiles>(linear: &LinearI8<'_>, to: &mut [u64]) {
    let quads = linear.inputs.div_ceil(4);
    let len = T::prepared_len(quads);
    for panel in 0..linear.outputs.div_ceil(16) {
        // SAFETY: the layer has its panels, `to` the words of each.
        unsafe { T::prepare(linear.panels.as_ptr().add(panel * quads * 64), quads, to.as_mut_ptr().add(panel * len)) };
    }
}
