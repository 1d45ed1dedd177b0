//! Sixteen lanes of `f32`, as one, two or four registers.

#![expect(unsafe_code, reason = "instructions of one processor family")]
#![allow(clippy::needless_range_loop, reason = "rows number registers and memory alike")]

use super::floats::{Columns, Finish, Tile};

/// Sixteen lanes of `f32` in the registers of one instruction set.
///
/// Every operation is one IEEE 754 operation in each lane, so that all implementations give the same bits.
///
/// # Safety
///
/// Every function may be called only where the implementation's instructions are there and compiled for: inside a
/// function with its `#[target_feature]`s. Pointers must be valid for the lanes that are read or written.
pub(super) trait Lanes: Copy {
    /// Rows of a tile at most, 12 at most, and panels of 16 columns, 1 or 2: as many sums as there are registers for.
    const TILE_ROWS: usize;
    const TILE_PANELS: usize;
    /// What is added, wrapping, to an int8 of a left matrix for the byte form that the family multiplies.
    const OFFSET: u8;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`.
    unsafe fn sub(self, other: Self) -> Self;
    /// `self * other`.
    unsafe fn mul(self, other: Self) -> Self;
    /// `self / other`.
    unsafe fn div(self, other: Self) -> Self;
    /// `self * by + plus`, rounded once.
    unsafe fn fma(self, by: Self, plus: Self) -> Self;
    /// `self * by - less`, rounded once.
    unsafe fn fms(self, by: Self, less: Self) -> Self;
    /// `from - self * by`, rounded once.
    unsafe fn fnma(self, by: Self, from: Self) -> Self;
    /// `self > other ? self : other`.
    unsafe fn max(self, other: Self) -> Self;
    /// `self < other ? self : other`.
    unsafe fn min(self, other: Self) -> Self;
    /// Without the sign.
    unsafe fn abs(self) -> Self;
    /// Lane for lane, `self` where all bits of `mask` are set, `other` where none is.
    unsafe fn select(mask: Self, this: Self, other: Self) -> Self;
    /// Adds the low nine bits of `exponent`, as an integer, to the exponents of `self`.
    unsafe fn scale(self, exponent: Self) -> Self;
    /// Adds the lanes' bits as integers, wrapping.
    unsafe fn add_bits(self, other: Self) -> Self;
    /// Lanes 8 apart added, then 4, 2 and 1 apart.
    unsafe fn sum(self) -> f32;
    /// The largest lane.
    unsafe fn largest(self) -> f32;
    /// Each lane rounded to the nearest integer, ties to even, in the byte form that the family multiplies. The lanes
    /// must be from -127 to 127.
    unsafe fn store_integers(self, to: *mut u8);
    /// Each lane of four rows, a whole number from 0 to 4095 plus `approximation::MAGIC`, as its upper and its lower six bits:
    /// those of row `r` and lane `l` go to `4 * l + r`.
    unsafe fn store_weights(rows: [Self; 4], upper: *mut u8, lower: *mut u8);
    /// Each lane of four rows rounded to the nearest integer, ties to even, as signed bytes: row `r` of lane `l` goes to
    /// `to + 4 * l + r`. The lanes must be from -127 to 127.
    unsafe fn store_quads(rows: [Self; 4], to: *mut i8);

    /// `floats::product_of`, compiled for the instruction set and by itself: inlined into what calls it, its addresses crowd
    /// each other out of the registers.
    unsafe fn product<const ROWS: usize, const PANELS: usize>(tile: Tile, columns: Columns, finish: Finish<'_>);

    /// All bits set in the first `count` lanes (at most 16), none in the others.
    #[inline(always)]
    unsafe fn first(count: usize) -> Self {
        const MASKS: [u32; 32] = {
            let mut masks = [0; 32];
            let mut lane = 0;
            while lane < 16 {
                masks[lane] = u32::MAX;
                lane += 1;
            }
            masks
        };
        // SAFETY: 16 lanes from `16 - count` on end inside the table.
        unsafe { Self::load(MASKS.as_ptr().add(16 - count).cast()) }
    }

    /// In lane `r` the largest lane of row `r`; no lane is NaN.
    #[inline(always)]
    unsafe fn largest_of_each(rows: &[Self; 16]) -> Self {
        let mut largest = [0.0_f32; 16];
        // SAFETY: the array has 16 lanes.
        unsafe {
            for row in 0..16 {
                largest[row] = rows[row].largest();
            }
            Self::load(largest.as_ptr())
        }
    }

    /// The first `count` values (at most 16), and zeros.
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0_f32; 16];
        // SAFETY: the array has 16 lanes; the caller vouches for `count` values of `from`.
        unsafe {
            core::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }

    /// Sixteen rows of 16 values become 16 rows, one for each column, at `to`.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32) {
        // SAFETY: the caller vouches for both blocks.
        unsafe {
            for row in 0..16 {
                for column in 0..16 {
                    *to.add(column * 16 + row) = *from.add(row * stride + column);
                }
            }
        }
    }

    /// Writes the first `count` lanes (at most 16).
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        let mut lanes = [0.0_f32; 16];
        // SAFETY: the array has 16 lanes; the caller vouches for `count` lanes of `to`.
        unsafe {
            self.store(lanes.as_mut_ptr());
            core::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }
}
