//! The steps of a program, each by itself between an embedding and a head, on every family of kernels that this processor
//! has: what a step takes is its figure less that of `embedding and head`. Sizes are those of the 6 x 384 student.
//!
//! `cargo bench -p kdh-benches --bench steps`

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::expect_used, reason = "sizes that fit")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kdh_runtime::Kernels;
use kdh_runtime::engine::Engine;
use kdh_runtime::program::{Document, Epilogue, Linear, Norm, Products, Program, ProgramBuilder, Rows, Shape};

const HIDDEN: usize = 384;
const HEADS: usize = 12;
const INTERMEDIATE: usize = 1536;
const LABELS: usize = 10;
const SHAPE: Shape = Shape { labels: LABELS, max_sentences: 64, max_tokens: 256, vocabulary: 1000 };

/// What lies between embedding and head.
type Steps = fn(&mut ProgramBuilder, Rows, Norm) -> Rows;

const STEPS: [(&str, Steps); 5] = [
    ("embedding and head", |_, states, _| states),
    ("two int8 linears, residual, norm", |builder, states, norm| {
        let [first, second] = [int8(builder, HIDDEN, HIDDEN), int8(builder, HIDDEN, HIDDEN)];
        let all = builder.linear(states, first, Epilogue::None);
        builder.linear(all, second, Epilogue::ResidualNorm { residual: states, norm })
    }),
    ("int8 linear, GELU, int8 linear, residual, norm", |builder, states, norm| {
        let [up, down] = [int8(builder, INTERMEDIATE, HIDDEN), int8(builder, HIDDEN, INTERMEDIATE)];
        let activated = builder.linear(states, up, Epilogue::Gelu);
        builder.linear(activated, down, Epilogue::ResidualNorm { residual: states, norm })
    }),
    ("int8 linear, int8 attention", |builder, states, _| attention(builder, states, Products::Int8)),
    ("int8 linear, f32 attention", |builder, states, _| attention(builder, states, Products::F32)),
];

fn attention(builder: &mut ProgramBuilder, states: Rows, products: Products) -> Rows {
    let linear = int8(builder, 3 * HIDDEN, HIDDEN);
    let all = builder.linear(states, linear, Epilogue::None);
    builder.attention(all, HEADS, products, None)
}

fn int8(builder: &mut ProgramBuilder, outputs: usize, inputs: usize) -> Linear {
    let scales = vec![0.5 / 73.0 / (inputs as f32).sqrt(); outputs];
    builder.linear_i8(outputs, inputs, &bytes(outputs * inputs), &scales, &vec![0.01; outputs]).expect("sizes that fit")
}

/// Multiplicative hashing (Knuth): numbers that look random, the same every time.
fn bytes(count: usize) -> Vec<i8> {
    (0..count as u32).map(|at| ((at.wrapping_mul(2_654_435_761) >> 24) as i8).max(-127)).collect()
}

fn program(steps: Steps) -> Program {
    let mut builder = ProgramBuilder::new(SHAPE);
    let mut table =
        |rows: usize| builder.table_i8(rows, HIDDEN, &bytes(rows * HIDDEN), &vec![0.01; rows]).expect("sizes that fit");
    let (words, positions) = (table(SHAPE.vocabulary), table(SHAPE.max_tokens));
    let norm = builder.norm(&[1.0; HIDDEN], &[0.0; HIDDEN], 1e-12).expect("sizes that fit");
    let states = builder.embed(words, positions, norm);
    let states = steps(&mut builder, states, norm);
    let head = builder.linear_f32(LABELS, HIDDEN, &[0.01; LABELS * HIDDEN], &[0.0; LABELS]).expect("sizes that fit");
    builder.head(states, head, Document::Mean);
    builder.finish().expect("a program that fits")
}

fn steps(criterion: &mut Criterion) {
    for kernels in Kernels::ALL.into_iter().filter(|kernels| kernels.is_available()) {
        let mut group = criterion.benchmark_group(kernels.name());
        group.sample_size(20);
        for (name, steps) in STEPS {
            let engine = Engine::from_program(program(steps), Some(kernels)).expect("kernels of this processor");
            let mut scratch = engine.scratch();
            for tokens in [64_u32, 256] {
                let ids: Vec<u32> = (0..tokens).map(|token| token * 37 % 1000).collect();
                let sentence_ids: Vec<i32> = (0..tokens as i32).map(|token| token / 20).collect();
                group.throughput(Throughput::Elements(u64::from(tokens)));
                group.bench_function(BenchmarkId::new(name, tokens), |bencher| {
                    bencher.iter(|| engine.run(&mut scratch, black_box(&ids), &sentence_ids).is_ok());
                });
            }
        }
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
