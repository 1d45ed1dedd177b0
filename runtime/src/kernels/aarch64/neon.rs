//! NEON, on every aarch64 processor: 16 lanes are four registers.

#![expect(unsafe_code, reason = "instructions of one processor family")]
#![allow(unused_unsafe, reason = "which intrinsics are safe depends on the version of the compiler")]
#![allow(clippy::needless_range_loop, reason = "rows and panels number registers and memory alike")]

use core::arch::aarch64::*;

use crate::kernels::family::kernels_of;
use crate::kernels::floats::{self, Columns, Finish, Tile};
use crate::kernels::integers::{IntegerTile, IntegerTiles};
use crate::kernels::lanes::Lanes;

/// NEON without a dot product: products of bytes are added in pairs in 16 bits, which `2 * 127 * 127 < 2^15` allows, and
/// then in 32. Inputs are signed bytes.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Neon(());

impl Neon {
    /// `None` when the processor does not have it.
    pub(in crate::kernels) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

// NEON is part of the target, so that nothing but the int8 products has to be compiled apart.
kernels_of!(Neon, Quad);

// SAFETY: whoever calls has the instructions, and vouches for the pointers, as `IntegerTiles` demands.
impl IntegerTiles for Neon {
    type Lanes = Quad;

    const ROWS: usize = 2;
    const PANELS: usize = 1;

    unsafe fn multiply(tile: &IntegerTile<'_>, rows: usize, _: usize) {
        // SAFETY: as this function's.
        unsafe {
            let mut sums = [[vdupq_n_s32(0); 4]; ROWS];
            for plane in 0..tile.planes {
                let left = tile.left.add(plane * tile.plane).cast();
                shift(&mut sums);
                match rows {
                    1 => product_of::<1>(tile, left, &mut sums),
                    _ => product_of::<2>(tile, left, &mut sums),
                }
            }
            finish(tile, rows, &sums);
        }
    }
}

/// Sums of up to [`ROWS`] rows and 16 outputs.
pub(super) type Sums = [[int32x4_t; 4]; ROWS];

/// Rows of a tile at most: with 16 outputs, 24 of 32 registers hold sums.
pub(super) const ROWS: usize = 6;

/// Makes room for the six bits of the next plane.
#[inline(always)]
pub(super) unsafe fn shift(sums: &mut Sums) {
    for row in sums {
        for four in row {
            // SAFETY: NEON is part of the target.
            *four = unsafe { vshlq_n_s32::<6>(*four) };
        }
    }
}

/// Adds what the sums start from, scales them and stores them.
#[inline(always)]
pub(super) unsafe fn finish(tile: &IntegerTile<'_>, rows: usize, sums: &Sums) {
    // SAFETY: rows, panel and output are inside their buffers.
    unsafe {
        for row in 0..rows.min(ROWS) {
            let by_row = vdupq_n_f32(*tile.row_scales.add(row));
            for four in 0..4 {
                let at = four * 4;
                let sum = vaddq_s32(sums[row][four], vld1q_s32(tile.start.add(at)));
                let value = vmulq_f32(vcvtq_f32_s32(sum), by_row);
                let value = vmulq_f32(value, vld1q_f32(tile.scales.add(at)));
                let value = vaddq_f32(value, vld1q_f32(tile.bias.add(at)));
                vst1q_f32(tile.to.add(row * tile.to_stride + at), value);
            }
        }
    }
}

#[inline(always)]
unsafe fn product_of<const ROWS: usize>(tile: &IntegerTile<'_>, left: *const i8, sums: &mut Sums) {
    // SAFETY: rows and panel are inside their buffers.
    unsafe {
        // Two outputs a register, of each the even and the odd pair of inputs.
        let mut pairs = [[vdupq_n_s32(0); 8]; ROWS];
        let mut quad = 0;
        while quad < tile.quads {
            let next = quad + 1 < tile.quads;
            let weights = tile.right.add(quad * 64);
            let mut inputs = [[vdupq_n_s8(0); 2]; ROWS];
            for row in 0..ROWS {
                let from = left.add(row * tile.left_stride + quad * 4).cast::<i32>();
                inputs[row][0] = vreinterpretq_s8_s32(vdupq_n_s32(from.read_unaligned()));
                if next {
                    inputs[row][1] = vreinterpretq_s8_s32(vdupq_n_s32(from.add(1).read_unaligned()));
                }
            }
            for four in 0..4 {
                let first = vld1q_s8(weights.add(four * 16));
                let second = if next { vld1q_s8(weights.add(64 + four * 16)) } else { vdupq_n_s8(0) };
                for row in 0..ROWS {
                    let [left, right] = inputs[row];
                    let low = vmull_s8(vget_low_s8(first), vget_low_s8(left));
                    let low = vmlal_s8(low, vget_low_s8(second), vget_low_s8(right));
                    let high = vmlal_high_s8(vmull_high_s8(first, left), second, right);
                    pairs[row][2 * four] = vpadalq_s16(pairs[row][2 * four], low);
                    pairs[row][2 * four + 1] = vpadalq_s16(pairs[row][2 * four + 1], high);
                }
            }
            quad += 2;
        }
        for row in 0..ROWS {
            for four in 0..4 {
                let sum = vpaddq_s32(pairs[row][2 * four], pairs[row][2 * four + 1]);
                sums[row][four] = vaddq_s32(sums[row][four], sum);
            }
        }
    }
}

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Quad([float32x4_t; 4]);

impl Quad {
    #[inline(always)]
    fn zip(self, other: Self, of: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([of(a, e), of(b, f), of(c, g), of(d, h)])
    }
}

// SAFETY of all blocks: whoever calls has the instructions, and vouches for the pointers, as `Lanes` demands.
impl Lanes for Quad {
    const TILE_ROWS: usize = 6;
    const TILE_PANELS: usize = 1;
    const OFFSET: u8 = 0;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Self([vdupq_n_f32(value); 4]) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self([vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))]) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            for four in 0..4 {
                vst1q_f32(to.add(four * 4), self.0[four]);
            }
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vaddq_f32(a, b) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vsubq_f32(a, b) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vmulq_f32(a, b) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vdivq_f32(a, b) })
    }

    #[inline(always)]
    unsafe fn fma(self, by: Self, plus: Self) -> Self {
        let (a, b, c) = (self.0, by.0, plus.0);
        unsafe {
            Self([
                vfmaq_f32(c[0], a[0], b[0]),
                vfmaq_f32(c[1], a[1], b[1]),
                vfmaq_f32(c[2], a[2], b[2]),
                vfmaq_f32(c[3], a[3], b[3]),
            ])
        }
    }

    #[inline(always)]
    unsafe fn fms(self, by: Self, less: Self) -> Self {
        unsafe {
            let negative = Self(less.0.map(|four| vnegq_f32(four)));
            self.fma(by, negative)
        }
    }

    #[inline(always)]
    unsafe fn fnma(self, by: Self, from: Self) -> Self {
        let (a, b, c) = (self.0, by.0, from.0);
        unsafe {
            Self([
                vfmsq_f32(c[0], a[0], b[0]),
                vfmsq_f32(c[1], a[1], b[1]),
                vfmsq_f32(c[2], a[2], b[2]),
                vfmsq_f32(c[3], a[3], b[3]),
            ])
        }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vbslq_f32(vcltq_f32(a, b), a, b) })
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(self.0.map(|four| unsafe { vabsq_f32(four) }))
    }

    #[inline(always)]
    unsafe fn select(mask: Self, this: Self, other: Self) -> Self {
        let (m, a, b) = (mask.0, this.0, other.0);
        let select = |four: usize| unsafe { vbslq_f32(vreinterpretq_u32_f32(m[four]), a[four], b[four]) };
        Self([select(0), select(1), select(2), select(3)])
    }

    #[inline(always)]
    unsafe fn scale(self, exponent: Self) -> Self {
        self.zip(exponent, |lanes, exponent| unsafe {
            let exponent = vshlq_n_s32::<23>(vreinterpretq_s32_f32(exponent));
            vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(lanes), exponent))
        })
    }

    #[inline(always)]
    unsafe fn add_bits(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe {
            vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)))
        })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        unsafe {
            let four = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let [a, b, c, d] = self.0;
        unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(a, b), vmaxq_f32(c, d))) }
    }

    // The target has NEON: nothing to compile apart, but still too much to inline.
    #[inline(never)]
    unsafe fn product<const ROWS: usize, const PANELS: usize>(tile: Tile, columns: Columns, finish: Finish<'_>) {
        unsafe { floats::product_of::<Self, ROWS, PANELS>(tile, columns, finish) }
    }

    #[inline(always)]
    unsafe fn store_integers(self, to: *mut u8) {
        unsafe { vst1q_s8(to.cast(), integers(self)) }
    }

    #[inline(always)]
    unsafe fn store_weights(rows: [Self; 4], upper: *mut u8, lower: *mut u8) {
        unsafe {
            let mut six_bits = [[vdupq_n_u8(0); 4]; 2];
            for row in 0..4 {
                [six_bits[0][row], six_bits[1][row]] = six_bits_of(rows[row]);
            }
            let [[a, b, c, d], [e, f, g, h]] = six_bits;
            vst4q_u8(upper, uint8x16x4_t(a, b, c, d));
            vst4q_u8(lower, uint8x16x4_t(e, f, g, h));
        }
    }

    #[inline(always)]
    unsafe fn store_quads(rows: [Self; 4], to: *mut i8) {
        unsafe {
            let mut bytes = [vdupq_n_s8(0); 4];
            for (row, bytes) in rows.iter().zip(&mut bytes) {
                *bytes = integers(*row);
            }
            vst4q_s8(to, int8x16x4_t(bytes[0], bytes[1], bytes[2], bytes[3]));
        }
    }
}

/// The upper and the lower six bits of the lowest twelve of sixteen lanes.
#[inline(always)]
unsafe fn six_bits_of(lanes: Quad) -> [uint8x16_t; 2] {
    let [a, b, c, d] = lanes.0;
    unsafe {
        let narrow =
            |low, high| vcombine_u16(vmovn_u32(vreinterpretq_u32_f32(low)), vmovn_u32(vreinterpretq_u32_f32(high)));
        let (low, high) = (narrow(a, b), narrow(c, d));
        let six = vdupq_n_u8(63);
        let upper = vcombine_u8(vshrn_n_u16::<6>(low), vshrn_n_u16::<6>(high));
        let lower = vcombine_u8(vmovn_u16(low), vmovn_u16(high));
        [vandq_u8(upper, six), vandq_u8(lower, six)]
    }
}

/// Each lane rounded to the nearest integer, ties to even.
#[inline(always)]
unsafe fn integers(lanes: Quad) -> int8x16_t {
    let [a, b, c, d] = lanes.0;
    unsafe {
        let narrow = |low, high| vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(low)), vqmovn_s32(vcvtnq_s32_f32(high)));
        vcombine_s8(vqmovn_s16(narrow(a, b)), vqmovn_s16(narrow(c, d)))
    }
}
