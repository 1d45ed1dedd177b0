//! Times the arena engine on an encoder of 6 layers, 384 wide (12 heads, 1536 intermediate), with random weights: with int8
//! and with f32 attention in alternating runs, and int8 against the machine's floor, its products at the measured peak of the
//! dot-product instruction (attention weights count twice: they have two planes).
//!
//! `cargo run --release -p kdh-runtime --no-default-features --example encoder-speed -- [KERNELS] [SECONDS] [TOKENS...]`

#![allow(clippy::unwrap_used, reason = "a program for developers")]
#![expect(unsafe_code, reason = "measures instructions of one processor family")]

use std::time::{Duration, Instant};

use kdh_runtime::Kernels;
use kdh_runtime::engine::Engine;
use kdh_runtime::program::{Document, Epilogue, Products, Program, ProgramBuilder, Shape};

const LAYERS: usize = 6;
const HIDDEN: usize = 384;
const HEADS: usize = 12;
const INTERMEDIATE: usize = 1536;
const TOKENS: [usize; 5] = [32, 64, 128, 256, 512];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let kernels = arguments.next().map_or_else(Kernels::detect, |name| name.parse().unwrap());
    let seconds: f64 = arguments.next().map_or(1.0, |seconds| seconds.parse().unwrap());
    let tokens: Vec<usize> = arguments.map(|tokens| tokens.parse().unwrap()).collect();
    let engines =
        [Products::Int8, Products::F32].map(|products| Engine::from_program(program(products), Some(kernels)).unwrap());
    let mut scratches = engines.each_ref().map(Engine::scratch);
    println!("kernels {kernels}, scratch {:.1} MB", engines[0].memory_required() as f64 / 1e6);
    println!("tokens   min ms  p50 ms  f32 attention: min ms  p50 ms   ratio  floor ms  floor / min");
    for tokens in if tokens.is_empty() { TOKENS.to_vec() } else { tokens } {
        let ids: Vec<u32> = (0..tokens as u32).map(|token| token * 37 % 1000).collect();
        let sentence_ids: Vec<i32> = (0..tokens as i32).map(|token| token / 20).collect();
        let mut times = [const { Vec::new() }; 2];
        let mut peak = f64::MAX;
        let start = Instant::now();
        while times[0].len() < 5 || start.elapsed() < Duration::from_secs_f64(seconds) {
            for ((engine, scratch), times) in engines.iter().zip(&mut scratches).zip(&mut times) {
                for _ in 0..4 {
                    let start = Instant::now();
                    engine.run(scratch, &ids, &sentence_ids).unwrap();
                    times.push(start.elapsed().as_secs_f64());
                }
            }
            peak = peak.min(peak_time(kernels));
        }
        times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
        let products = tokens * LAYERS * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INTERMEDIATE);
        let attention = tokens * tokens * LAYERS * 3 * HIDDEN;
        let floor = (products + attention) as f64 * peak;
        let [(min, median), (f32_min, f32_median)] = times.map(|times| (times[0] * 1e3, times[times.len() / 2] * 1e3));
        print!("{tokens:6} {min:8.3} {median:7.3}  {f32_min:20.3} {f32_median:7.3} {:7.3}", min / f32_min);
        if peak == f64::MAX {
            println!("         -            -");
        } else {
            println!(" {:9.3} {:12.3}", floor * 1e3, floor * 1e3 / min);
        }
    }
}

/// Seconds of one int8 multiply-add at the processor's peak; not a number for kernels whose peak is not measured.
fn peak_time(kernels: Kernels) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if kernels == Kernels::Avx512Vnni {
        // SAFETY: the engine runs, so the processor has these instructions.
        return time(64, |count| unsafe { vnni(count) });
    }
    let _ = kernels;
    f64::NAN
}

/// 24 operations of `wide` multiply-adds, `count` times.
fn time(wide: usize, run: impl Fn(usize)) -> f64 {
    const COUNT: usize = 20_000;
    let start = Instant::now();
    run(COUNT);
    start.elapsed().as_secs_f64() / (COUNT * 24 * wide) as f64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn vnni(count: usize) {
    use core::arch::x86_64::*;
    let mut sums = [_mm512_setzero_si512(); 24];
    let (left, right) = (_mm512_set1_epi8(1), _mm512_set1_epi8(2));
    for _ in 0..count {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, left, right);
        }
        let _ = std::hint::black_box(count);
    }
    std::hint::black_box(sums);
}

fn program(products: Products) -> Program {
    let mut random = Random(1);
    let mut builder = ProgramBuilder::new(Shape { labels: 10, max_sentences: 64, max_tokens: 512, vocabulary: 1000 });
    let words = builder.table_i8(1000, HIDDEN, &random.bytes(1000 * HIDDEN), &[0.01; 1000]).unwrap();
    let positions = builder.table_i8(512, HIDDEN, &random.bytes(512 * HIDDEN), &[0.001; 512]).unwrap();
    let norm = builder.norm(&[1.0; HIDDEN], &[0.0; HIDDEN], 1e-12).unwrap();
    let mut states = builder.embed(words, positions, norm);
    for _ in 0..LAYERS {
        let mut linear = |outputs: usize, inputs: usize| {
            let scale = 0.5 / 73.0 / (inputs as f32).sqrt();
            builder
                .linear_i8(
                    outputs,
                    inputs,
                    &random.bytes(outputs * inputs),
                    &vec![scale; outputs],
                    &vec![0.01; outputs],
                )
                .unwrap()
        };
        let [qkv, out] = [linear(3 * HIDDEN, HIDDEN), linear(HIDDEN, HIDDEN)];
        let [up, down] = [linear(INTERMEDIATE, HIDDEN), linear(HIDDEN, INTERMEDIATE)];
        let qkv = builder.linear(states, qkv, Epilogue::None);
        let context = builder.attention(qkv, HEADS, products, None);
        states = builder.linear(context, out, Epilogue::ResidualNorm { residual: states, norm });
        let activated = builder.linear(states, up, Epilogue::Gelu);
        states = builder.linear(activated, down, Epilogue::ResidualNorm { residual: states, norm });
    }
    let head = builder.linear_f32(10, HIDDEN, &[0.01; 10 * HIDDEN], &[0.0; 10]).unwrap();
    let bias = builder.vector(&[0.0; 10]).unwrap();
    builder.head(states, head, Document::LogSumExp { bias });
    builder.finish().unwrap()
}

/// xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn bytes(&mut self, count: usize) -> Vec<i8> {
        (0..count)
            .map(|_| {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                ((self.0 >> 33) as i8).max(-127)
            })
            .collect()
    }
}
