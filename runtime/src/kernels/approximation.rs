//! Exponential, GELU and logarithm of our own, because those of the platform give other bits on other machines.

/// `exp(x)` for `x <= 0`, from -86 on; below as at -86. Relative error below 2.5e-7 down to -4 and 5e-7 down to -20; 1.4e-6 at
/// -86, because `log2(e)` is rounded.
///
/// `x log2(e) = n + f`, `n` whole and `|f| <= 1/2`; `2^f` is a polynomial of degree 5 (minimax, relative error 9e-8).
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x > EXP_MIN { x } else { EXP_MIN };
    let shifted = x.mul_add(LOG2_E, MAGIC);
    let whole = shifted - MAGIC;
    scale(exp2_fraction(x.mul_add(LOG2_E, -whole)), shifted)
}

/// `u / 2 * (1 + erf(u / sqrt(2)))`, absolute error below 2e-7 (`|u| <= 1`), relative to `u` beyond.
///
/// With the normal distribution's `Phi`, it is `max(u, 0) - |u| Phi(-|u|)`, and `log2 Phi(-t)` is a polynomial of degree 6 on
/// `0..=6` (minimax of `t Phi(-t)`, absolute error 7e-8). Beyond 6 the product is nothing, and the polynomial still falls
/// up to [`GELU_MAX`].
pub(crate) fn gelu(u: f32) -> f32 {
    let magnitude = u.abs();
    let t = if magnitude < GELU_MAX { magnitude } else { GELU_MAX };
    let log2 = LOG2_PHI.iter().skip(1).fold(LOG2_PHI[0], |sum, &coefficient| sum.mul_add(t, coefficient));
    let shifted = log2 + MAGIC;
    let phi = scale(exp2_fraction(log2 - (shifted - MAGIC)), shifted);
    let positive = if u > 0.0 { u } else { 0.0 };
    (-magnitude).mul_add(phi, positive)
}

/// Natural logarithm of a normal positive number; absolute error below 1e-7, relative below 2e-7 from 2 on.
///
/// `x = m 2^e` with `m` in `[sqrt(1/2), sqrt(2))`, and `ln m = 2 artanh((m - 1) / (m + 1))` as its series.
pub(crate) fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let shifted = bits.wrapping_sub(core::f32::consts::FRAC_1_SQRT_2.to_bits());
    let exponent = (shifted as i32) >> 23;
    let mantissa = f64::from(f32::from_bits(bits.wrapping_sub((exponent as u32) << 23)));
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let square = z * z;
    let series = [1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];
    let sum = series.iter().fold(0.0, |sum, &term| sum * square + term);
    (f64::from(exponent) * core::f64::consts::LN_2 + 2.0 * z * sum) as f32
}

/// Smallest exponent that [`exp`] takes: its result is a normal number.
pub(super) const EXP_MIN: f32 = -86.0;
/// From here on [`gelu`]'s polynomial is not asked.
pub(super) const GELU_MAX: f32 = 10.0;
pub(super) const LOG2_E: f32 = core::f32::consts::LOG2_E;
/// `1.5 * 2^23`: adding it rounds to a whole number, ties to even, which then stands in the low bits.
pub(super) const MAGIC: f32 = 12_582_912.0;
/// `2^f`, the highest power first. The coefficient of `f` is next to `ln 2`, not `ln 2`.
#[expect(clippy::approx_constant, reason = "the best polynomial is not the series")]
pub(super) const EXP2: [f32; 6] = [0.001_326_472_7, 0.009_671_513, 0.055_507_336, 0.240_222_42, 0.693_147, 1.0];
/// `log2 Phi(-t)`, the highest power first.
pub(super) const LOG2_PHI: [f32; 7] =
    [3.156_688_8e-5, -0.000_755_205_75, 0.008_031_895, -0.053_330_865, -0.458_837_54, -1.151_177, -0.999_996_07];

fn exp2_fraction(f: f32) -> f32 {
    EXP2.iter().skip(1).fold(EXP2[0], |sum, &coefficient| sum.mul_add(f, coefficient))
}

/// Adds the low bits of `shifted`, a whole number plus [`MAGIC`], to the exponent of `x`.
fn scale(x: f32, shifted: f32) -> f32 {
    f32::from_bits(x.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Abramowitz and Stegun 7.1.5 and 7.1.14: the series near 0, the continued fraction beyond.
    fn phi_below(t: f64) -> f64 {
        let x = t / std::f64::consts::SQRT_2;
        if x < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            0.5 - sum / std::f64::consts::PI.sqrt()
        } else {
            let fraction = (1..60).rev().fold(x, |below, k| x + f64::from(k) / 2.0 / below);
            (-x * x).exp() / fraction / std::f64::consts::PI.sqrt() / 2.0
        }
    }

    #[test]
    fn exp_is_close() {
        let mut worst = [0.0_f64; 3];
        for step in 0..=860_000 {
            let x = -(step as f32) * 1e-4;
            let error = (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs();
            let part = usize::from(x < -4.0) + usize::from(x < -20.0);
            worst[part] = worst[part].max(error);
        }
        println!("largest relative errors of exp down to -4, -20, -86: {worst:?}");
        assert!(worst[0] < 2.5e-7 && worst[1] < 5e-7 && worst[2] < 1.4e-6, "{worst:?}");
        assert_eq!(exp(0.0), 1.0);
        for x in [-86.5, -1e30, f32::NEG_INFINITY] {
            assert_eq!(exp(x), exp(-86.0));
        }
    }

    #[test]
    fn gelu_is_close() {
        let mut worst = 0.0_f64;
        for step in -120_000..=120_000 {
            let u = step as f32 * 1e-4;
            let phi = phi_below(f64::from(u.abs()));
            let expected = f64::from(u) * if u < 0.0 { phi } else { 1.0 - phi };
            worst = worst.max((f64::from(gelu(u)) - expected).abs() / f64::from(u.abs()).max(1.0));
        }
        println!("largest error of gelu: {worst:.1e}");
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(gelu(0.0).to_bits(), 0);
        for u in [20.0, 1e10, f32::MAX] {
            assert_eq!(gelu(u), u);
            assert!(gelu(-u) <= 0.0 && gelu(-u) >= -u * 1e-20);
        }
    }

    #[test]
    fn ln_is_close() {
        for step in 1..200_000 {
            let x = step as f32 * 1e-2;
            let expected = f64::from(x).ln();
            assert!((f64::from(ln(x)) - expected).abs() < 1e-7 * expected.abs().max(1.0), "{x}");
        }
        assert_eq!(ln(1.0), 0.0);
    }
}
