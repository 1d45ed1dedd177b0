//! The dot product of aarch64: four outputs by a quad of inputs in one `sdot`.

#![expect(unsafe_code, reason = "instructions of one processor family")]
#![allow(unused_unsafe, reason = "which intrinsics are safe depends on the version of the compiler")]
#![allow(clippy::needless_range_loop, reason = "rows and panels number registers and memory alike")]

use core::arch::aarch64::*;
use core::arch::asm;

use super::neon::{self, Quad, Sums};
use crate::kernels::family::kernels_of;
use crate::kernels::integers::{IntegerTile, IntegerTiles, by_rows};

/// NEON and the dot product. Inputs are signed bytes.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct NeonDotprod(());

impl NeonDotprod {
    /// `None` when the processor does not have it.
    pub(in crate::kernels) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("dotprod").then_some(Self(()))
    }
}

kernels_of!(NeonDotprod, Quad);

// SAFETY: whoever calls has the instructions, and vouches for the pointers, as `IntegerTiles` demands.
impl IntegerTiles for NeonDotprod {
    type Lanes = Quad;

    const ROWS: usize = neon::ROWS;
    const PANELS: usize = 1;

    unsafe fn multiply(tile: &IntegerTile<'_>, rows: usize, _: usize) {
        // SAFETY: as this function's.
        unsafe {
            let mut sums = [[vdupq_n_s32(0); 4]; neon::ROWS];
            for plane in 0..tile.planes {
                neon::shift(&mut sums);
                product(tile, tile.left.add(plane * tile.plane).cast(), rows, &mut sums);
            }
            neon::finish(tile, rows, &sums);
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn product(tile: &IntegerTile<'_>, left: *const i8, rows: usize, sums: &mut Sums) {
    // SAFETY: as this function's.
    unsafe { by_rows!(rows, 1 2 3 4 5 6 => product_of(tile, left, sums)) }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn product_of<const ROWS: usize>(tile: &IntegerTile<'_>, left: *const i8, sums: &mut Sums) {
    // SAFETY: rows, padded to a multiple of 16 bytes, and panel are inside their buffers.
    unsafe {
        let mut own = [[vdupq_n_s32(0); 4]; ROWS];
        own.copy_from_slice(&sums[..ROWS]);
        let mut quad = 0;
        while quad + 4 <= tile.quads {
            let mut inputs = [vdupq_n_s8(0); ROWS];
            for row in 0..ROWS {
                inputs[row] = vld1q_s8(left.add(row * tile.left_stride + quad * 4));
            }
            macro_rules! by_lane {
                ($($lane:literal)*) => {
                    $(for four in 0..4 {
                        let weights = vld1q_s8(tile.right.add((quad + $lane) * 64 + four * 16));
                        for row in 0..ROWS {
                            own[row][four] = dot::<$lane>(own[row][four], weights, inputs[row]);
                        }
                    })*
                };
            }
            by_lane!(0 1 2 3);
            quad += 4;
        }
        while quad < tile.quads {
            for four in 0..4 {
                let weights = vld1q_s8(tile.right.add(quad * 64 + four * 16));
                for row in 0..ROWS {
                    let input = left.add(row * tile.left_stride + quad * 4).cast::<i32>().read_unaligned();
                    own[row][four] = dot::<0>(own[row][four], weights, vreinterpretq_s8_s32(vdupq_n_s32(input)));
                }
            }
            quad += 1;
        }
        sums[..ROWS].copy_from_slice(&own);
    }
}

/// Adds to each lane the products of four weights with the four inputs in `LANE`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot<const LANE: i32>(mut sum: int32x4_t, weights: int8x16_t, inputs: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction is there, and reads and writes registers only. Its intrinsic is not stable.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {weights:v}.16b, {inputs:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            weights = in(vreg) weights,
            inputs = in(vreg) inputs,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
