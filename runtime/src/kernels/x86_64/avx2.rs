//! AVX2 and FMA: 16 lanes are two registers.

#![expect(unsafe_code, reason = "instructions of one processor family")]
#![allow(clippy::needless_range_loop, reason = "rows and panels number registers and memory alike")]

use core::arch::x86_64::*;

use crate::kernels::family::{
    Attention, Family, Floats, FloatsMut, Integers, IntegersMut, LinearF32, LinearI8, NormView,
};
use crate::kernels::floats::{self, Columns, Finish, Tile};
use crate::kernels::lanes::Lanes;

/// AVX2 and FMA. Inputs are signed bytes; a product is that of the input's magnitude with the weight under the input's sign,
/// so that no pair of products exceeds 16 bits: `2 * 127 * 127 < 2^15`.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx2(());

impl Avx2 {
    /// `None` when the processor does not have all of it.
    pub(in crate::kernels) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

impl Family for Avx2 {
    fn quantize(self, input: Floats<'_>, output: IntegersMut<'_>) -> Option<()> {
        let width = input.width.next_multiple_of(16);
        // SAFETY: `self` proves the instructions; the buffers hold what is read and written.
        (input.holds(width) && output.holds(input.rows, width)).then(|| unsafe { quantize(input, output) })
    }

    fn linear_i8(self, input: Integers<'_>, linear: &LinearI8<'_>, gelu: bool, output: FloatsMut<'_>) -> Option<()> {
        let fits = linear.inputs == input.width && linear.outputs == output.width && input.rows == output.rows;
        let holds = input.holds(input.width.next_multiple_of(4)) && linear.holds();
        // SAFETY: `self` proves the instructions; the buffers hold what is read and written.
        (fits && holds && output.holds(output.width.next_multiple_of(16)))
            .then(|| unsafe { linear_i8(input, linear, gelu, output) })
    }

    fn linear_f32(self, input: Floats<'_>, linear: &LinearF32<'_>, gelu: bool, output: FloatsMut<'_>) -> Option<()> {
        let fits = linear.inputs == input.width && linear.outputs == output.width && input.rows == output.rows;
        // SAFETY: `self` proves the instructions; the buffers hold what is read and written.
        (fits && input.holds(input.width) && linear.holds() && output.holds(output.width.next_multiple_of(16)))
            .then(|| unsafe { linear_f32(input, linear, gelu, output) })
    }

    fn norm(
        self,
        input: FloatsMut<'_>,
        residual: Option<Floats<'_>>,
        norm: &NormView<'_>,
        output: FloatsMut<'_>,
    ) -> Option<()> {
        // SAFETY: `self` proves the instructions; the buffers hold what is read and written.
        floats::norm_fits(&input, residual.as_ref(), norm, &output)
            .then(|| unsafe { self::norm(input, residual, norm, output) })
    }

    fn attention(self, attention: Attention<'_>, work: &mut [f32], output: FloatsMut<'_>) -> Option<()> {
        // SAFETY: `self` proves the instructions; the buffers hold what is read and written.
        floats::attention_fits(&attention, work, &output).then(|| unsafe { self::attention(&attention, work, output) })
    }
}

/// Sixteen lanes.
#[derive(Clone, Copy)]
struct Pair(__m256, __m256);

// SAFETY of all functions below: the instructions are there, and the buffers hold what their sizes say.

#[target_feature(enable = "avx2,fma")]
unsafe fn quantize(input: Floats<'_>, output: IntegersMut<'_>) {
    // SAFETY: as this function's.
    unsafe { floats::quantize::<Pair>(input, output) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn linear_f32(input: Floats<'_>, linear: &LinearF32<'_>, gelu: bool, output: FloatsMut<'_>) {
    // SAFETY: as this function's.
    unsafe { floats::linear::<Pair>(input, linear, gelu, output) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn norm(input: FloatsMut<'_>, residual: Option<Floats<'_>>, norm: &NormView<'_>, output: FloatsMut<'_>) {
    // SAFETY: as this function's.
    unsafe { floats::norm::<Pair>(input, residual, norm, output) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn attention(attention: &Attention<'_>, work: &mut [f32], output: FloatsMut<'_>) {
    // SAFETY: as this function's.
    unsafe { floats::attention::<Pair>(attention, work, output) }
}

/// Rows of a tile: 4 rows of 16 outputs are 8 of 16 registers.
const ROWS: usize = 4;

#[target_feature(enable = "avx2,fma")]
unsafe fn linear_i8(input: Integers<'_>, linear: &LinearI8<'_>, gelu: bool, output: FloatsMut<'_>) {
    let quads = linear.inputs.div_ceil(4);
    for panel in 0..linear.outputs.div_ceil(16) {
        for first in (0..input.rows).step_by(ROWS) {
            let rows = ROWS.min(input.rows - first);
            // SAFETY: panel and rows are inside their buffers.
            unsafe {
                let tile = TileI8 {
                    input: input.values.as_ptr().add(first * input.stride),
                    stride: input.stride,
                    row_scales: input.scales.as_ptr().add(first),
                    panel: linear.panels.as_ptr().add(panel * quads * 64),
                    quads,
                    scales: linear.scales.as_ptr().add(panel * 16),
                    bias: linear.bias.as_ptr().add(panel * 16),
                    to: output.values.as_mut_ptr().add(first * output.stride + panel * 16),
                    to_stride: output.stride,
                };
                match rows {
                    1 => product::<1>(&tile),
                    2 => product::<2>(&tile),
                    3 => product::<3>(&tile),
                    _ => product::<4>(&tile),
                }
                if gelu {
                    let (to, to_stride) = (tile.to, tile.to_stride);
                    floats::gelu::<Pair>(Tile { from: to, from_stride: to_stride, to, to_stride }, rows, false);
                }
            }
        }
    }
}

struct TileI8 {
    input: *const u8,
    stride: usize,
    row_scales: *const f32,
    panel: *const i8,
    quads: usize,
    scales: *const f32,
    bias: *const f32,
    to: *mut f32,
    to_stride: usize,
}

#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn product<const ROWS: usize>(tile: &TileI8) {
    // SAFETY: as this function's.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        for quad in 0..tile.quads {
            let from = tile.panel.add(quad * 64).cast::<__m256i>();
            let weights = [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))];
            for row in 0..ROWS {
                let input = tile.input.add(row * tile.stride + quad * 4).cast::<i32>().read_unaligned();
                let input = _mm256_set1_epi32(input);
                let magnitude = _mm256_abs_epi8(input);
                for half in 0..2 {
                    let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(weights[half], input));
                    sums[row][half] = _mm256_add_epi32(sums[row][half], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        for row in 0..ROWS {
            let by_row = _mm256_set1_ps(*tile.row_scales.add(row));
            for half in 0..2 {
                let scale = _mm256_loadu_ps(tile.scales.add(half * 8));
                let bias = _mm256_loadu_ps(tile.bias.add(half * 8));
                let value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[row][half]), by_row);
                let value = _mm256_add_ps(_mm256_mul_ps(value, scale), bias);
                _mm256_storeu_ps(tile.to.add(row * tile.to_stride + half * 8), value);
            }
        }
    }
}

/// Lanes 4 apart added, then 2 and 1 apart.
#[inline(always)]
pub(super) unsafe fn sum_of_eight(lanes: __m256) -> f32 {
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

#[inline(always)]
pub(super) unsafe fn largest_of_eight(lanes: __m256) -> f32 {
    unsafe {
        let four = _mm_max_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }
}

// SAFETY of all blocks: whoever calls has the instructions, and vouches for the pointers, as `Lanes` demands.
impl Lanes for Pair {
    const TILE_ROWS: usize = 6;
    const TILE_PANELS: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Self(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn fma(self, by: Self, plus: Self) -> Self {
        unsafe { Self(_mm256_fmadd_ps(self.0, by.0, plus.0), _mm256_fmadd_ps(self.1, by.1, plus.1)) }
    }

    #[inline(always)]
    unsafe fn fms(self, by: Self, less: Self) -> Self {
        unsafe { Self(_mm256_fmsub_ps(self.0, by.0, less.0), _mm256_fmsub_ps(self.1, by.1, less.1)) }
    }

    #[inline(always)]
    unsafe fn fnma(self, by: Self, from: Self) -> Self {
        unsafe { Self(_mm256_fnmadd_ps(self.0, by.0, from.0), _mm256_fnmadd_ps(self.1, by.1, from.1)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { Self(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            Self(_mm256_andnot_ps(sign, self.0), _mm256_andnot_ps(sign, self.1))
        }
    }

    #[inline(always)]
    unsafe fn select(mask: Self, this: Self, other: Self) -> Self {
        unsafe { Self(_mm256_blendv_ps(other.0, this.0, mask.0), _mm256_blendv_ps(other.1, this.1, mask.1)) }
    }

    #[inline(always)]
    unsafe fn scale(self, exponent: Self) -> Self {
        unsafe { Self(scale(self.0, exponent.0), scale(self.1, exponent.1)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { sum_of_eight(_mm256_add_ps(self.0, self.1)) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { largest_of_eight(_mm256_max_ps(self.0, self.1)) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe {
            let mask = Self::first(count);
            _mm256_maskstore_ps(to, _mm256_castps_si256(mask.0), self.0);
            _mm256_maskstore_ps(to.wrapping_add(8), _mm256_castps_si256(mask.1), self.1);
        }
    }

    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn product<const ROWS: usize, const PANELS: usize>(tile: Tile, columns: Columns, finish: Finish<'_>) {
        unsafe { floats::product_of::<Self, ROWS, PANELS>(tile, columns, finish) }
    }

    #[inline(always)]
    unsafe fn store_integers(self, to: *mut u8) {
        unsafe {
            let (low, high) = (_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            // Lanes 0-3, 8-11, 4-7, 12-15.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), bytes);
        }
    }
}

#[inline(always)]
unsafe fn scale(lanes: __m256, exponent: __m256) -> __m256 {
    unsafe {
        let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(exponent));
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(lanes), exponent))
    }
}
