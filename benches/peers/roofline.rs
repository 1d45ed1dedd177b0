//! The machine's roofline on one core: int8 and f32 peak and memory bandwidth. Compiled for this processor, with
//! `rustc -O -C target-cpu=native`, so that the compiler turns the plain loops into the widest multiply-adds there are;
//! where the intrinsics are known at compile time they are used. Prints JSON.

use std::hint::black_box;
use std::time::Instant;

fn main() {
    let best = |run: &dyn Fn() -> f64| (0..7).map(|_| run()).fold(0.0, f64::max);
    let f32_peak = best(&|| rate(fma()));
    let int8_peak = int8();
    let memory = vec![1_u64; 16 << 20];
    let bandwidth = best(&|| {
        let start = Instant::now();
        black_box(black_box(&memory).iter().fold(0_u64, |sum, value| sum.wrapping_add(*value)));
        (memory.len() * 8) as f64 / start.elapsed().as_secs_f64()
    });
    let int8 = int8_peak.map_or("null".into(), |peak| format!("{peak:.4e}"));
    println!(
        "{{\"f32_multiply_adds_per_second\": {f32_peak:.4e}, \"int8_multiply_adds_per_second\": {int8}, \
         \"read_bytes_per_second\": {bandwidth:.4e}}}"
    );
}

/// Multiply-adds a second.
fn rate((operations, seconds): (usize, f64)) -> f64 {
    operations as f64 / seconds
}

fn fma() -> (usize, f64) {
    const CHAINS: usize = 16 * 16;
    const ROUNDS: usize = 200_000;
    let (a, b) = (black_box(0.5_f32), black_box(0.25_f32));
    let mut sums = [1.0_f32; CHAINS];
    let start = Instant::now();
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = sum.mul_add(a, b);
        }
    }
    black_box(sums);
    (CHAINS * ROUNDS, start.elapsed().as_secs_f64())
}

/// `None` where the processor has no 512-bit dot product.
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx512vnni", target_feature = "avx512f")))]
fn int8() -> Option<f64> {
    None
}

#[cfg(all(target_arch = "x86_64", target_feature = "avx512vnni", target_feature = "avx512f"))]
fn int8() -> Option<f64> {
    use core::arch::x86_64::{_mm512_dpbusd_epi32, _mm512_set1_epi8, _mm512_setzero_si512};
    const CHAINS: usize = 16;
    const ROUNDS: usize = 200_000;
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn run() -> f64 {
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        let (left, right) = (_mm512_set1_epi8(black_box(1)), _mm512_set1_epi8(black_box(2)));
        let start = Instant::now();
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, left, right);
            }
        }
        black_box(sums);
        (64 * CHAINS * ROUNDS) as f64 / start.elapsed().as_secs_f64()
    }
    // SAFETY: the whole program is compiled for a processor that has these instructions.
    Some((0..7).map(|_| unsafe { run() }).fold(0.0, f64::max))
}
