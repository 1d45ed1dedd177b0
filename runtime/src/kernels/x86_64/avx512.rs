//! AVX-512: 16 lanes are one register, a quad of inputs by 16 outputs is one `vpdpbusd`.

#![expect(unsafe_code, reason = "instructions of one processor family")]
#![allow(clippy::needless_range_loop, reason = "rows and panels number registers and memory alike")]

use core::arch::x86_64::*;

use crate::kernels::family::kernels_of;
use crate::kernels::floats::{self, Columns, Finish, Tile};
use crate::kernels::integers::{IntegerTile, IntegerTiles};
use crate::kernels::lanes::Lanes;

/// AVX-512 F, BW, DQ, VL and VNNI. Inputs are multiplied as unsigned bytes, `q + 128`.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx512Vnni(());

impl Avx512Vnni {
    /// `None` when the processor does not have all of it.
    pub(in crate::kernels) fn detect() -> Option<Self> {
        let detected = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        detected.then_some(Self(()))
    }
}

kernels_of!(Avx512Vnni, __m512, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma");

// SAFETY: whoever calls has the instructions, and vouches for the pointers, as `IntegerTiles` demands.
impl IntegerTiles for Avx512Vnni {
    type Lanes = __m512;

    const ROWS: usize = 12;
    const PANELS: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    unsafe fn multiply(tile: &IntegerTile<'_>, rows: usize, panels: usize) {
        macro_rules! by_rows {
            ($($rows:literal)*) => {
                match (rows, panels) {
                    $(
                        // SAFETY: as this function's.
                        ($rows, 2) => unsafe { product_of::<$rows, 2>(tile) },
                        // SAFETY: as this function's.
                        ($rows, 1) => unsafe { product_of::<$rows, 1>(tile) },
                    )*
                    _ => {}
                }
            };
        }
        by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
    }

    #[inline(always)]
    unsafe fn multiply_shallow(tile: &IntegerTile<'_>, rows: usize, panels: usize) {
        // SAFETY: as this function's.
        unsafe {
            match tile.quads {
                8 => shallow::<8, 2>(tile, rows, panels),
                16 => shallow::<16, 1>(tile, rows, panels),
                _ => {
                    for panel in (0..panels).step_by(Self::PANELS) {
                        Self::multiply(&tile.at_panel(panel), rows, Self::PANELS.min(panels - panel));
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn starts(panel: *const i8, quads: usize, to: *mut i32) {
        // SAFETY: the panel has its quads, `to` 16 integers.
        unsafe {
            let offset = _mm512_set1_epi8(i8::MIN);
            let mut sums = _mm512_setzero_si512();
            for quad in 0..quads {
                sums = _mm512_dpbusd_epi32(sums, offset, _mm512_loadu_si512(panel.add(quad * 64).cast()));
            }
            _mm512_storeu_si512(to.cast(), _mm512_sub_epi32(_mm512_setzero_si512(), sums));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn product_of<const ROWS: usize, const PANELS: usize>(tile: &IntegerTile<'_>) {
    // SAFETY: rows, panels and output are inside their buffers.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); PANELS]; ROWS];
        for panel in 0..PANELS {
            let start = _mm512_loadu_si512(tile.start.add(panel * 16).cast());
            for row in &mut sums {
                row[panel] = start;
            }
        }
        for plane in 0..tile.planes {
            if plane > 0 {
                for row in &mut sums {
                    for sum in row {
                        *sum = _mm512_slli_epi32::<6>(*sum);
                    }
                }
            }
            let left = tile.left.add(plane * tile.plane);
            let mut quad = tile.right;
            for at in 0..tile.quads {
                let mut right = [_mm512_setzero_si512(); PANELS];
                for panel in 0..PANELS {
                    right[panel] = _mm512_loadu_si512(quad.add(panel * tile.panel).cast());
                }
                for row in 0..ROWS {
                    let left = left.add(row * tile.left_stride + at * 4).cast::<i32>().read_unaligned();
                    let left = _mm512_set1_epi32(left);
                    for panel in 0..PANELS {
                        sums[row][panel] = _mm512_dpbusd_epi32(sums[row][panel], left, right[panel]);
                    }
                }
                // The next panels, while these are multiplied: what lies past the last one is never read.
                for panel in 0..PANELS {
                    _mm_prefetch::<_MM_HINT_T0>(quad.wrapping_add((PANELS + panel) * tile.panel));
                }
                quad = quad.add(64);
            }
        }
        for panel in 0..PANELS {
            let scale = _mm512_loadu_ps(tile.scales.add(panel * 16));
            let bias = _mm512_loadu_ps(tile.bias.add(panel * 16));
            for row in 0..ROWS {
                let by_row =
                    _mm512_mul_ps(_mm512_cvtepi32_ps(sums[row][panel]), _mm512_set1_ps(*tile.row_scales.add(row)));
                let value = _mm512_add_ps(_mm512_mul_ps(by_row, scale), bias);
                _mm512_storeu_ps(tile.to.add(row * tile.to_stride + panel * 16), value);
            }
        }
    }
}

/// Products of the depth `4 * QUADS`: a row at a time, against panels that stay in registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn shallow<const QUADS: usize, const PANELS: usize>(tile: &IntegerTile<'_>, rows: usize, panels: usize) {
    let mut panel = 0;
    // SAFETY: rows, panels and output are inside their buffers.
    unsafe {
        while panel + PANELS <= panels {
            shallow_panels::<QUADS, PANELS>(&tile.at_panel(panel), rows);
            panel += PANELS;
        }
        if panel < panels {
            shallow_panels::<QUADS, 1>(&tile.at_panel(panel), rows);
        }
    }
}

#[inline(always)]
unsafe fn shallow_panels<const QUADS: usize, const PANELS: usize>(tile: &IntegerTile<'_>, rows: usize) {
    // SAFETY: rows, panels and output are inside their buffers.
    unsafe {
        let mut right = [[_mm512_setzero_si512(); QUADS]; PANELS];
        let mut starts = [_mm512_setzero_si512(); PANELS];
        let mut scales = [_mm512_setzero_ps(); PANELS];
        for panel in 0..PANELS {
            for quad in 0..QUADS {
                right[panel][quad] = _mm512_loadu_si512(tile.right.add(panel * tile.panel + quad * 64).cast());
            }
            starts[panel] = _mm512_loadu_si512(tile.start.add(panel * 16).cast());
            scales[panel] = _mm512_loadu_ps(tile.scales.add(panel * 16));
        }
        for row in 0..rows {
            let left = tile.left.add(row * tile.left_stride).cast::<i32>();
            let mut sums = starts;
            for quad in 0..QUADS {
                let left = _mm512_set1_epi32(left.add(quad).read_unaligned());
                for panel in 0..PANELS {
                    sums[panel] = _mm512_dpbusd_epi32(sums[panel], left, right[panel][quad]);
                }
            }
            let by_row = _mm512_set1_ps(*tile.row_scales.add(row));
            for panel in 0..PANELS {
                let value = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[panel]), by_row), scales[panel]);
                _mm512_storeu_ps(tile.to.add(row * tile.to_stride + panel * 16), value);
            }
        }
    }
}

// SAFETY of all blocks: whoever calls has the instructions, and vouches for the pointers, as `Lanes` demands.
impl Lanes for __m512 {
    const TILE_ROWS: usize = 12;
    const TILE_PANELS: usize = 2;
    const OFFSET: u8 = 128;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { _mm512_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { _mm512_sub_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { _mm512_mul_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { _mm512_div_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn fma(self, by: Self, plus: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, by, plus) }
    }

    #[inline(always)]
    unsafe fn fms(self, by: Self, less: Self) -> Self {
        unsafe { _mm512_fmsub_ps(self, by, less) }
    }

    #[inline(always)]
    unsafe fn fnma(self, by: Self, from: Self) -> Self {
        unsafe { _mm512_fnmadd_ps(self, by, from) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { _mm512_max_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { _mm512_min_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        unsafe { _mm512_abs_ps(self) }
    }

    #[inline(always)]
    unsafe fn select(mask: Self, this: Self, other: Self) -> Self {
        unsafe { _mm512_mask_mov_ps(other, _mm512_movepi32_mask(_mm512_castps_si512(mask)), this) }
    }

    #[inline(always)]
    unsafe fn scale(self, exponent: Self) -> Self {
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(exponent));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self), exponent))
        }
    }

    #[inline(always)]
    unsafe fn add_bits(self, other: Self) -> Self {
        unsafe { _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self), _mm512_castps_si512(other))) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let half = _mm256_add_ps(_mm512_castps512_ps256(self), _mm512_extractf32x8_ps::<1>(self));
            super::pair::sum_of_eight(half)
        }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe {
            super::pair::largest_of_eight(_mm256_max_ps(
                _mm512_castps512_ps256(self),
                _mm512_extractf32x8_ps::<1>(self),
            ))
        }
    }

    #[inline(always)]
    unsafe fn largest_of_each(rows: &[Self; 16]) -> Self {
        unsafe {
            let mut fours = [_mm512_setzero_ps(); 4];
            for (four, largest) in fours.iter_mut().enumerate() {
                let (a, b) = (rows[four * 4], rows[four * 4 + 1]);
                let (c, d) = (rows[four * 4 + 2], rows[four * 4 + 3]);
                let ab = _mm512_castps_pd(_mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
                let cd = _mm512_castps_pd(_mm512_max_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
                // In each quarter of the register, lane by lane those of the four rows.
                let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
                *largest = _mm512_max_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
            }
            let [a, b, c, d] = fours;
            let ab = largest_of_quarters(a, b);
            largest_of_quarters(ab, largest_of_quarters(c, d))
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, ((1_u32 << count) - 1) as __mmask16, self) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32) {
        unsafe {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (at, row) in rows.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(from.add(at * stride));
            }
            // Blocks of 4 by 4 inside each quarter of the registers.
            for four in rows.chunks_exact_mut(4) {
                let low = _mm512_castps_pd(_mm512_unpacklo_ps(four[0], four[1]));
                let high = _mm512_castps_pd(_mm512_unpackhi_ps(four[0], four[1]));
                let other_low = _mm512_castps_pd(_mm512_unpacklo_ps(four[2], four[3]));
                let other_high = _mm512_castps_pd(_mm512_unpackhi_ps(four[2], four[3]));
                four[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, other_low));
                four[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, other_low));
                four[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, other_high));
                four[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, other_high));
            }
            // Quarters across the registers: register `4 q + c` has, in its quarter `p`, column `4 p + c` of rows `4 q..`.
            for column in 0..4 {
                let [a, b, c, d] = [rows[column], rows[4 + column], rows[8 + column], rows[12 + column]];
                let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
                let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
                let other_even = _mm512_shuffle_f32x4::<0b10_00_10_00>(c, d);
                let other_odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d);
                for (quarter, row) in [
                    (0, _mm512_shuffle_f32x4::<0b10_00_10_00>(even, other_even)),
                    (1, _mm512_shuffle_f32x4::<0b10_00_10_00>(odd, other_odd)),
                    (2, _mm512_shuffle_f32x4::<0b11_01_11_01>(even, other_even)),
                    (3, _mm512_shuffle_f32x4::<0b11_01_11_01>(odd, other_odd)),
                ] {
                    _mm512_storeu_ps(to.add((4 * quarter + column) * 16), row);
                }
            }
        }
    }

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    unsafe fn product<const ROWS: usize, const PANELS: usize>(tile: Tile, columns: Columns, finish: Finish<'_>) {
        unsafe { floats::product_of::<Self, ROWS, PANELS>(tile, columns, finish) }
    }

    #[inline(always)]
    unsafe fn store_integers(self, to: *mut u8) {
        unsafe {
            let bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(self));
            _mm_storeu_si128(to.cast(), _mm_xor_si128(bytes, _mm_set1_epi8(i8::MIN)));
        }
    }

    #[inline(always)]
    unsafe fn store_weights(rows: [Self; 4], upper: *mut u8, lower: *mut u8) {
        unsafe {
            let (a, b) = (_mm512_castps_si512(rows[0]), _mm512_castps_si512(rows[1]));
            let (c, d) = (_mm512_castps_si512(rows[2]), _mm512_castps_si512(rows[3]));
            // Bits above the twelve are those of `MAGIC`, whose lower half is zero.
            let (words, bytes) = (_mm512_set1_epi32(0xffff), _mm512_set1_epi16(0xff));
            let even = _mm512_ternarylogic_epi32::<CHOOSE>(words, a, _mm512_slli_epi32::<16>(c));
            let odd = _mm512_ternarylogic_epi32::<CHOOSE>(words, b, _mm512_slli_epi32::<16>(d));
            let six = _mm512_set1_epi8(63);
            let low = _mm512_ternarylogic_epi32::<CHOOSE>(bytes, even, _mm512_slli_epi16::<8>(odd));
            let high = _mm512_srli_epi16::<6>(even);
            let high = _mm512_ternarylogic_epi32::<CHOOSE>(bytes, high, _mm512_slli_epi16::<2>(odd));
            _mm512_storeu_si512(lower.cast(), _mm512_and_si512(low, six));
            _mm512_storeu_si512(upper.cast(), _mm512_and_si512(high, six));
        }
    }

    #[inline(always)]
    unsafe fn store_quads(rows: [Self; 4], to: *mut i8) {
        unsafe {
            let (a, b) = (_mm512_cvtps_epi32(rows[0]), _mm512_cvtps_epi32(rows[1]));
            let (c, d) = (_mm512_cvtps_epi32(rows[2]), _mm512_cvtps_epi32(rows[3]));
            let (byte, word, three) =
                (_mm512_set1_epi32(0xff), _mm512_set1_epi32(0xffff), _mm512_set1_epi32(0xff_ffff));
            let low = _mm512_ternarylogic_epi32::<CHOOSE>(byte, a, _mm512_slli_epi32::<8>(b));
            let (c, d) = (_mm512_slli_epi32::<16>(c), _mm512_slli_epi32::<24>(d));
            let high = _mm512_ternarylogic_epi32::<CHOOSE>(three, c, d);
            _mm512_storeu_si512(to.cast(), _mm512_ternarylogic_epi32::<CHOOSE>(word, low, high));
        }
    }
}

/// The logic of three bits that takes the second where the first is set, and the third elsewhere.
const CHOOSE: i32 = 0xca;

/// Quarters of two registers in pairs, the larger of each: those of the first, then those of the second.
#[inline(always)]
unsafe fn largest_of_quarters(a: __m512, b: __m512) -> __m512 {
    unsafe {
        let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
        _mm512_max_ps(even, _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
    }
}
