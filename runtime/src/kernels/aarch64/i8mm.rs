//! The int8 matrix product of aarch64: two rows by two outputs, eight inputs deep, in one `smmla`.

#![expect(unsafe_code, reason = "instructions of one processor family")]
#![allow(unused_unsafe, reason = "which intrinsics are safe depends on the version of the compiler")]
#![allow(clippy::needless_range_loop, reason = "rows and panels number registers and memory alike")]

use core::arch::aarch64::*;
use core::arch::asm;

use super::neon::{self, Quad, Sums};
use crate::kernels::family::kernels_of;
use crate::kernels::integers::{IntegerTile, IntegerTiles};

/// NEON and the int8 matrix product. Inputs are signed bytes.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct NeonI8mm(());

impl NeonI8mm {
    /// `None` when the processor does not have it.
    pub(in crate::kernels) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("i8mm").then_some(Self(()))
    }
}

kernels_of!(NeonI8mm, Quad);

// SAFETY: whoever calls has the instructions, and vouches for the pointers, as `IntegerTiles` demands.
impl IntegerTiles for NeonI8mm {
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

#[target_feature(enable = "neon,i8mm")]
unsafe fn product(tile: &IntegerTile<'_>, left: *const i8, rows: usize, sums: &mut Sums) {
    // SAFETY: as this function's.
    unsafe {
        match rows {
            1 | 2 => product_of::<1>(tile, left, rows, sums),
            3 | 4 => product_of::<2>(tile, left, rows, sums),
            _ => product_of::<3>(tile, left, rows, sums),
        }
    }
}

/// `PAIRS` pairs of rows; the last one's second row may be missing, and is then the first once more.
#[target_feature(enable = "neon,i8mm")]
unsafe fn product_of<const PAIRS: usize>(tile: &IntegerTile<'_>, left: *const i8, rows: usize, sums: &mut Sums) {
    // SAFETY: rows, padded to a multiple of 16 bytes, and panel are inside their buffers.
    unsafe {
        // Two outputs a register: of the first row, then of the second.
        let mut own = [[vdupq_n_s32(0); 8]; PAIRS];
        let mut quad = 0;
        while quad < tile.quads {
            let next = quad + 1 < tile.quads;
            let mut inputs = [vdupq_n_s8(0); PAIRS];
            for pair in 0..PAIRS {
                let first = left.add(2 * pair * tile.left_stride + quad * 4);
                let second = if 2 * pair + 1 < rows { first.add(tile.left_stride) } else { first };
                inputs[pair] = vcombine_s8(vld1_s8(first), vld1_s8(second));
            }
            for four in 0..4 {
                let low = vreinterpretq_s32_s8(vld1q_s8(tile.right.add(quad * 64 + four * 16)));
                let high = if next { tile.right.add((quad + 1) * 64 + four * 16) } else { ZEROS.as_ptr() };
                let high = vreinterpretq_s32_s8(vld1q_s8(high));
                let first = vreinterpretq_s8_s32(vzip1q_s32(low, high));
                let second = vreinterpretq_s8_s32(vzip2q_s32(low, high));
                for pair in 0..PAIRS {
                    own[pair][2 * four] = multiply(own[pair][2 * four], inputs[pair], first);
                    own[pair][2 * four + 1] = multiply(own[pair][2 * four + 1], inputs[pair], second);
                }
            }
            quad += 2;
        }
        for pair in 0..PAIRS {
            for four in 0..4 {
                let [first, second] =
                    [own[pair][2 * four], own[pair][2 * four + 1]].map(|sum| vreinterpretq_s64_s32(sum));
                let [low, high] = [vzip1q_s64(first, second), vzip2q_s64(first, second)];
                sums[2 * pair][four] = vaddq_s32(sums[2 * pair][four], vreinterpretq_s32_s64(low));
                sums[2 * pair + 1][four] = vaddq_s32(sums[2 * pair + 1][four], vreinterpretq_s32_s64(high));
            }
        }
    }
}

/// Weights behind the last quad.
static ZEROS: [i8; 16] = [0; 16];

/// Adds the products of two rows of eight inputs with two rows of eight weights.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn multiply(mut sum: int32x4_t, inputs: int8x16_t, weights: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction is there, and reads and writes registers only. Its intrinsic is not stable.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {inputs:v}.16b, {weights:v}.16b",
            sum = inout(vreg) sum,
            inputs = in(vreg) inputs,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
