//! The arena engine against a computation of `exporter/ARITHMETIC.md` in `f64`, on models of random weights.

#![allow(clippy::unwrap_used, reason = "a test that cannot build its model fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use kdh_runtime::Kernels;
use kdh_runtime::engine::{Engine, RunError, Stop};
use kdh_runtime::program::{Document, Epilogue, Linear, Products, Program, ProgramBuilder, ProgramError, Shape, Table};

const TEXTS: u32 = 40;

#[test]
fn is_what_the_arithmetic_says() {
    for (number, size) in SIZES.into_iter().enumerate() {
        let model = Model::random(size, number as u64 + 1);
        let engine = Engine::from_program(model.program(), None).unwrap();
        let mut scratch = engine.scratch();
        let (mut close, mut worst) = (0, 0.0_f64);
        for text in 0..TEXTS {
            let (ids, sentence_ids) = size.text(text);
            let logits = engine.run(&mut scratch, &ids, &sentence_ids).unwrap();
            let (sentences, document) = model.run(&ids, &sentence_ids);
            let found = logits.sentences.iter().chain(logits.document);
            let difference = found.zip(sentences.iter().chain(&document));
            let difference = difference.map(|(a, b)| (f64::from(*a) - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max);
            close += u32::from(difference < 2e-5);
            worst = worst.max(difference);
        }
        println!("{size:?}: {close} of {TEXTS} texts within 2e-5, all within {worst:.1e}");
        // Where a value to be rounded lies next to a tie, f32 and f64 may round it to two integers.
        let all_f32 = !size.int8;
        assert!(worst < if all_f32 { 2e-5 } else { 0.05 }, "{size:?}: {worst}");
        // Every weight of an int8 attention is rounded: in long texts, some always lie next to a tie.
        let many = size.products == Products::Int8 && size.max_tokens > 20;
        assert!(close * 2 > TEXTS || many, "{size:?}: {close}");
    }
}

/// Verifies: R-006
#[test]
fn all_kernels_and_scratches_give_the_same_bits() {
    for (number, size) in SIZES.into_iter().enumerate() {
        let program = Model::random(size, number as u64 + 1).program();
        let portable = Engine::from_program(program.clone(), Some(Kernels::Portable)).unwrap();
        let mut fresh = portable.scratch();
        for kernels in Kernels::ALL.into_iter().filter(|kernels| kernels.is_available()) {
            let engine = Engine::from_program(program.clone(), Some(kernels)).unwrap();
            assert_eq!(engine.kernels(), [kernels.name()]);
            let mut memory = vec![0xff; engine.memory_required() + 1];
            let mut dirty = engine.scratch_in(&mut memory[1..]).unwrap();
            for text in 0..TEXTS {
                let (ids, sentence_ids) = size.text(text);
                let expected = portable.run(&mut fresh, &ids, &sentence_ids).unwrap();
                let found = engine.run(&mut dirty, &ids, &sentence_ids).unwrap();
                assert_eq!(bits(found.sentences), bits(expected.sentences), "{kernels}, text {text} of {size:?}");
                assert_eq!(bits(found.document), bits(expected.document), "{kernels}, text {text} of {size:?}");
            }
        }
    }
}

/// Verifies: R-006
#[test]
fn two_threads_give_the_bits_of_one() {
    let mut halved = 0;
    for (number, size) in SIZES.into_iter().enumerate() {
        let program = Model::random(size, number as u64 + 1).program();
        for kernels in Kernels::ALL.into_iter().filter(|kernels| kernels.is_available()) {
            let engine = Engine::from_program(program.clone(), Some(kernels)).unwrap();
            let mut alone = engine.scratch();
            let mut shared = engine.try_scratch_with_second_thread().unwrap();
            let can_be_halved = (size.hidden / size.heads).is_multiple_of(16);
            assert_eq!(shared.has_second_thread(), can_be_halved, "{size:?}");
            assert_eq!(engine.memory_required_of_second_thread() > engine.memory_required(), can_be_halved);
            for text in 0..TEXTS {
                let (ids, sentence_ids) = size.text(text);
                halved += usize::from(can_be_halved && ids.len() >= Engine::TWO_THREADS_FROM);
                let expected = engine.run(&mut alone, &ids, &sentence_ids).unwrap();
                let found = engine.run(&mut shared, &ids, &sentence_ids).unwrap();
                assert_eq!(bits(found.sentences), bits(expected.sentences), "{kernels}, text {text} of {size:?}");
                assert_eq!(bits(found.document), bits(expected.document), "{kernels}, text {text} of {size:?}");
                if text % 5 == 0 {
                    shared.zeroize();
                }
            }
        }
    }
    assert!(halved > 3 * TEXTS as usize / 2, "{halved}");
}

/// Whichever thread a text fails on, and whoever stops it, the next one is labelled.
///
/// Verifies: R-009
#[test]
fn two_threads_end_together() {
    let size = SIZES[6];
    let engine = Engine::from_program(Model::random(size, 7).program(), None).unwrap();
    let mut scratch = engine.try_scratch_with_second_thread().unwrap();
    let (ids, sentence_ids) = (vec![1; size.max_tokens], vec![0; size.max_tokens]);
    let expected = bits(engine.run(&mut engine.scratch(), &ids, &sentence_ids).unwrap().document);
    for unknown in [0, size.max_tokens - 1] {
        for _ in 0..50 {
            let mut bad = ids.clone();
            bad[unknown] = u32::MAX;
            assert_eq!(engine.run(&mut scratch, &bad, &sentence_ids).unwrap_err(), RunError::Failed);
            assert_eq!(bits(engine.run(&mut scratch, &ids, &sentence_ids).unwrap().document), expected);
        }
    }
    let mut stopped = 0;
    for microseconds in 0..400 {
        scratch.set_stop(Stop::new().deadline(Instant::now() + Duration::from_micros(microseconds)));
        match engine.run(&mut scratch, &ids, &sentence_ids) {
            Ok(logits) => assert_eq!(bits(logits.document), expected),
            Err(error) => {
                assert_eq!(error, RunError::Stopped);
                stopped += 1;
            }
        }
    }
    println!("{stopped} of 400 stopped");
    assert!(stopped > 0);
    scratch.set_stop(Stop::new());
    assert_eq!(bits(engine.run(&mut scratch, &ids, &sentence_ids).unwrap().document), expected);

    // It belongs to this engine, not to another one of the same layout and other weights.
    let other = Engine::from_program(Model::random(size, 8).program(), None).unwrap();
    assert!(other.run(&mut engine.scratch(), &ids, &sentence_ids).is_ok());
    assert_eq!(other.run(&mut scratch, &ids, &sentence_ids).unwrap_err(), RunError::Failed);
}

/// Whatever a step writes lies where the plan says that a text of its length may write: a byte that it left out would be neither
/// what was there before nor zero.
///
/// Verifies: R-104
#[test]
fn all_that_texts_have_written_is_overwritten() {
    for (number, size) in SIZES.into_iter().enumerate() {
        let program = Model::random(size, number as u64 + 1).program();
        let last = size.max_sentences as i32 - 1;
        let mut texts: Vec<_> = (0..TEXTS).map(|text| size.text(text)).collect();
        texts.extend([(vec![1], vec![-1]), (vec![2; 2], vec![last, i32::MAX]), (vec![3; 3], vec![last, i32::MIN, 0])]);
        for kernels in Kernels::ALL.into_iter().filter(|kernels| kernels.is_available()) {
            let engine = Engine::from_program(program.clone(), Some(kernels)).unwrap();
            let mut memory = vec![0; engine.memory_required() + 64];
            for before in [0x5A, 0xA5] {
                let gone = |memory: &[u8]| memory.iter().all(|byte| [0, before].contains(byte));
                let left = |memory: &[u8]| memory.iter().filter(|&&byte| byte == before).count();
                for start in [0, 1] {
                    memory.fill(before);
                    let mut scratch = engine.scratch_in(&mut memory[start..]).unwrap();
                    for (ids, sentence_ids) in &texts {
                        scratch.memory_mut().fill(before);
                        engine.run(&mut scratch, ids, sentence_ids).unwrap();
                        assert!(!gone(scratch.memory_mut()), "a run writes");
                        scratch.zeroize();
                        assert!(gone(scratch.memory_mut()), "{kernels}, {} tokens of {size:?}", ids.len());
                    }
                    // A short text costs less than a long one, and none nothing.
                    let mut left_by = |tokens: usize| {
                        scratch.memory_mut().fill(before);
                        engine.run(&mut scratch, &vec![1; tokens], &vec![-1; tokens]).unwrap();
                        scratch.zeroize();
                        left(scratch.memory_mut())
                    };
                    assert!(left_by(1) > left_by(size.max_tokens), "{kernels}, {size:?}");
                    scratch.memory_mut().fill(before);
                    scratch.zeroize();
                    assert_eq!(left(scratch.memory_mut()), scratch.memory_mut().len());
                    // The shorter ones after the longer ones, and all with the end of the scratch.
                    for (ids, sentence_ids) in texts.iter().rev() {
                        engine.run(&mut scratch, ids, sentence_ids).unwrap();
                    }
                    drop(scratch);
                    assert!(gone(&memory), "{kernels}, {size:?}");
                }
            }
        }
    }
}

/// The logits' bits do not depend on the machine: these digests hold on every processor and operating system.
///
/// Verifies: R-006
#[test]
fn bits_are_those_of_every_machine() {
    const DIGESTS: [u64; 7] = [
        0x384e_a4f4_64f6_b3f8,
        0x798f_2ddb_8582_205f,
        0x6400_0982_b28f_fde9,
        0x8dc5_3d39_3cdc_c827,
        0xe216_891e_b338_774c,
        0x959e_386c_06eb_c506,
        0x8042_a850_8949_7d36,
    ];
    let digests = [0, 1, 2, 3, 4, 5, 6].map(|number| {
        let size = SIZES[number];
        let engine = Engine::from_program(Model::random(size, number as u64 + 1).program(), None).unwrap();
        let mut scratch = engine.scratch();
        // FNV-1a.
        let mut digest = 0xcbf2_9ce4_8422_2325_u64;
        for text in 0..TEXTS {
            let (ids, sentence_ids) = size.text(text);
            let logits = engine.run(&mut scratch, &ids, &sentence_ids).unwrap();
            for word in bits(logits.sentences).into_iter().chain(bits(logits.document)) {
                digest = (digest ^ u64::from(word)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        digest
    });
    assert_eq!(digests, DIGESTS, "{digests:#x?}");
}

#[test]
fn stored_programs_are_the_same() {
    for (number, size) in SIZES.into_iter().enumerate() {
        let program = Model::random(size, number as u64 + 1).program();
        let bytes = program.to_bytes();
        let read = Program::parse(&bytes).unwrap();
        assert_eq!(read.to_bytes(), bytes);
        let version = if size.products == Products::Int8 { 2 } else { 1 };
        assert_eq!(bytes[8..12], [version, 0, 0, 0]);
        for (other, error) in [(1, ProgramError::Malformed("steps")), (3, ProgramError::Version(3))] {
            let mut bytes = bytes.clone();
            bytes[8] = other;
            if other != version {
                assert_eq!(Program::parse(&bytes).unwrap_err(), error);
            }
        }
        assert_eq!((read.steps(), read.shape()), (program.steps(), program.shape()));
        assert_eq!(read.memory_required(), program.memory_required());

        // Somewhere in a larger file, at a multiple of 64 in memory or not.
        let (ids, sentence_ids) = size.text(3);
        let engine = Engine::from_program(program, None).unwrap();
        let mut scratch = engine.scratch();
        let expected = bits(engine.run(&mut scratch, &ids, &sentence_ids).unwrap().document);
        for odd in [0, 1] {
            let mut file = vec![0; bytes.len() + 128];
            let start = file.as_ptr().align_offset(64) + odd;
            file[start..start + bytes.len()].copy_from_slice(&bytes);
            let shared = Program::parse_shared(Arc::new(file), start..start + bytes.len()).unwrap();
            assert_eq!(shared.weights_in_place(), odd == 0);
            let engine = Engine::from_program(shared, None).unwrap();
            let mut scratch = engine.scratch();
            assert_eq!(bits(engine.run(&mut scratch, &ids, &sentence_ids).unwrap().document), expected);
        }
    }
}

/// Verifies: R-019
#[test]
fn damaged_programs_are_refused_or_run() {
    damage(SIZES[0]);
    damage(SIZES[5]);
}

fn damage(size: Size) {
    let bytes = Model::random(size, 1).program().to_bytes();
    let head = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    for len in (0..head + 1).chain([bytes.len() - 1]) {
        assert!(Program::parse(&bytes[..len]).is_err(), "{len}");
    }
    assert_eq!(Program::parse(&[&bytes[..], &[0]].concat()).unwrap_err(), ProgramError::Malformed("length"));
    let (ids, sentence_ids) = size.text(1);
    let (mut refused, mut ran) = (0, 0);
    for at in 0..head {
        for flip in [0x01, 0x10, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            let Ok(program) = Program::parse(&bytes) else {
                refused += 1;
                continue;
            };
            // What still fits together may compute anything, but only inside its memory.
            ran += 1;
            if let Ok(engine) = Engine::from_program(program, None) {
                let _ = engine.run(&mut engine.scratch(), &ids, &sentence_ids);
            }
        }
    }
    println!("{refused} damaged heads refused, {ran} run");
    assert!(refused > 2 * ran);
}

/// Verifies: R-009
#[test]
fn bad_input_is_an_error() {
    let size = SIZES[0];
    let engine = Engine::from_program(Model::random(size, 1).program(), None).unwrap();
    let mut scratch = engine.scratch();
    let too_long = vec![0; size.max_tokens + 1];
    for (ids, sentence_ids) in [
        (&[][..], &[][..]),
        (&[1, 2], &[0]),
        (&[size.vocabulary as u32], &[0]),
        (&[u32::MAX], &[0]),
        (&too_long, &vec![0; too_long.len()]),
    ] {
        assert_eq!(engine.run(&mut scratch, ids, sentence_ids).unwrap_err(), RunError::default());
    }
    // A sentence beyond the last is none; so is every negative one.
    let logits = engine.run(&mut scratch, &[1, 2, 3], &[i32::MAX, -1, i32::MIN]).unwrap();
    assert!(logits.sentences.iter().all(|&logit| logit == -1e9));

    let other = Engine::from_program(Model::random(SIZES[1], 1).program(), None).unwrap();
    assert!(other.run(&mut scratch, &[1], &[0]).is_err());
    let mut small = vec![0; engine.memory_required() - 1];
    assert_eq!(engine.scratch_in(&mut small).unwrap_err().required, engine.memory_required());

    scratch.zeroize();
    let mut builder = ProgramBuilder::new(size.shape());
    assert_eq!(
        builder.linear_i8(1, 2, &[1, -128], &[1.0], &[0.0]).unwrap_err(),
        ProgramError::OutOfRange("int8 weight (-128)")
    );
    assert_eq!(builder.finish().unwrap_err(), ProgramError::OutOfRange("number of steps"));
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[derive(Clone, Copy, Debug)]
struct Size {
    hidden: usize,
    heads: usize,
    intermediate: usize,
    layers: usize,
    labels: usize,
    max_sentences: usize,
    max_tokens: usize,
    vocabulary: usize,
    int8: bool,
    products: Products,
    relative_bias: bool,
    mean: bool,
}

const SIZES: [Size; 8] = [
    Size::new(32, 4, 64),
    Size { relative_bias: true, mean: true, ..Size::new(48, 3, 96) },
    Size { labels: 17, max_sentences: 3, ..Size::new(36, 6, 50) },
    Size { int8: false, relative_bias: true, ..Size::new(40, 2, 70) },
    Size { heads: 1, layers: 1, labels: 1, max_tokens: 130, ..Size::new(130, 1, 17) },
    Size { products: Products::Int8, layers: 1, max_tokens: 14, ..Size::new(36, 2, 70) },
    Size { products: Products::Int8, relative_bias: true, max_tokens: 70, ..Size::new(96, 3, 50) },
    Size { int8: false, layers: 1, ..Size::new(64, 2, 50) },
];

impl Size {
    const fn new(hidden: usize, heads: usize, intermediate: usize) -> Self {
        let (relative_bias, mean) = (false, false);
        let [layers, labels, max_sentences, max_tokens, vocabulary] = [2, 3, 8, 60, 50];
        Self {
            hidden,
            heads,
            intermediate,
            layers,
            labels,
            max_sentences,
            max_tokens,
            vocabulary,
            int8: true,
            products: Products::F32,
            relative_bias,
            mean,
        }
    }

    fn shape(self) -> Shape {
        let Self { labels, max_sentences, max_tokens, vocabulary, .. } = self;
        Shape { labels, max_sentences, max_tokens, vocabulary }
    }

    /// Every length up to the longest, sentences of a few tokens.
    fn text(self, number: u32) -> (Vec<u32>, Vec<i32>) {
        let mut random = Random(u64::from(number) + 77);
        let tokens = 1 + (number as usize * 7) % self.max_tokens;
        let ids = (0..tokens).map(|_| random.below(self.vocabulary) as u32).collect();
        let mut sentence = -1;
        let mut sentence_ids: Vec<i32> = (0..tokens)
            .map(|_| {
                sentence = (sentence + i32::from(random.below(6) == 0)).min(self.max_sentences as i32 - 1);
                sentence
            })
            .collect();
        sentence_ids[tokens - 1] = -1;
        (ids, sentence_ids)
    }
}

/// xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    /// From `-size` to `size`.
    fn floats(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| ((self.next() >> 40) as f32 / 8_388_608.0 - 1.0) * size).collect()
    }
}

/// A matrix `[rows, columns]`: as it is, or rounded row by row with a scale each.
struct Matrix {
    rows: usize,
    columns: usize,
    int8: bool,
    values: Vec<f32>,
    integers: Vec<i8>,
    scales: Vec<f32>,
}

impl Matrix {
    fn random(random: &mut Random, [rows, columns]: [usize; 2], size: f32, int8: bool) -> Self {
        let values = random.floats(rows * columns, size);
        let largest = |row: &[f32]| row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let scales: Vec<f32> = values.chunks_exact(columns).map(|row| largest(row) / 127.0).collect();
        let integers =
            values.iter().enumerate().map(|(at, value)| (value / scales[at / columns]).round_ties_even() as i8);
        Self { rows, columns, int8, integers: integers.collect(), values, scales }
    }

    /// What stands in the row.
    fn at(&self, row: usize, column: usize) -> f64 {
        let at = row * self.columns + column;
        if self.int8 { f64::from(self.integers[at]) * f64::from(self.scales[row]) } else { f64::from(self.values[at]) }
    }

    fn table(&self, builder: &mut ProgramBuilder) -> Table {
        let Self { rows, columns, .. } = *self;
        if self.int8 {
            builder.table_i8(rows, columns, &self.integers, &self.scales).unwrap()
        } else {
            builder.table_f32(rows, columns, &self.values).unwrap()
        }
    }

    fn linear(&self, builder: &mut ProgramBuilder, bias: &[f32]) -> Linear {
        let Self { rows, columns, .. } = *self;
        if self.int8 {
            builder.linear_i8(rows, columns, &self.integers, &self.scales, bias).unwrap()
        } else {
            builder.linear_f32(rows, columns, &self.values, bias).unwrap()
        }
    }

    /// A linear layer over one row, which is rounded first if the weights are.
    fn apply(&self, bias: &[f32], row: &[f64]) -> Vec<f64> {
        let amax = row.iter().fold(1e-30_f64, |amax, x| amax.max(x.abs()));
        let rounded = |x: f64| if self.int8 { (x * (127.0 / amax)).round_ties_even() * (amax / 127.0) } else { x };
        (0..self.rows)
            .map(|output| {
                let products = row.iter().enumerate().map(|(input, &x)| rounded(x) * self.at(output, input));
                products.sum::<f64>() + f64::from(bias[output])
            })
            .collect()
    }
}

struct Layer {
    linears: [(Matrix, Vec<f32>); 4],
    norms: [[Vec<f32>; 2]; 2],
}

struct Model {
    size: Size,
    words: Matrix,
    positions: Matrix,
    norm: [Vec<f32>; 2],
    layers: Vec<Layer>,
    relative_bias: Vec<f32>,
    head: (Matrix, Vec<f32>),
    document_bias: Vec<f32>,
}

const EPSILON: f32 = 1e-6;

impl Model {
    fn random(size: Size, seed: u64) -> Self {
        let mut random = Random(seed);
        let Size { hidden, intermediate, int8, .. } = size;
        let mut matrix = |shape, scale, int8| Matrix::random(&mut random, shape, scale, int8);
        let words = matrix([size.vocabulary, hidden], 1.0, int8);
        let positions = matrix([size.max_tokens, hidden], 0.3, int8);
        let head = matrix([size.labels, hidden], 0.5, false);
        let shapes = [[3 * hidden, hidden], [hidden, hidden], [intermediate, hidden], [hidden, intermediate]];
        let layers = (0..size.layers).map(|_| {
            let linears = shapes.map(|shape| {
                let weight = Matrix::random(&mut random, shape, 2.0 / (shape[1] as f32).sqrt(), int8);
                (weight, random.floats(shape[0], 0.3))
            });
            let mut norm = || [random.floats(hidden, 1.0), random.floats(hidden, 0.2)];
            Layer { linears, norms: [norm(), norm()] }
        });
        let layers = layers.collect();
        let norm = [random.floats(hidden, 1.0), random.floats(hidden, 0.2)];
        let relative_bias = random.floats(size.heads * (2 * size.max_tokens - 1), 1.0);
        let head = (head, random.floats(size.labels, 0.5));
        Self {
            size,
            words,
            positions,
            norm,
            layers,
            relative_bias,
            head,
            document_bias: random.floats(size.labels, 1.0),
        }
    }

    fn program(&self) -> Program {
        let mut builder = ProgramBuilder::new(self.size.shape());
        let norm_of =
            |builder: &mut ProgramBuilder, [weight, bias]: &[Vec<f32>; 2]| builder.norm(weight, bias, EPSILON);
        let (words, positions) = (self.words.table(&mut builder), self.positions.table(&mut builder));
        let norm = norm_of(&mut builder, &self.norm).unwrap();
        let bias = self.size.relative_bias.then(|| builder.vector(&self.relative_bias).unwrap());
        let mut states = builder.embed(words, positions, norm);
        for layer in &self.layers {
            let [query_key_value, out, up, down] =
                layer.linears.each_ref().map(|(weight, bias)| weight.linear(&mut builder, bias));
            let norms = layer.norms.each_ref().map(|norm| norm_of(&mut builder, norm).unwrap());
            let all = builder.linear(states, query_key_value, Epilogue::None);
            let context = builder.attention(all, self.size.heads, self.size.products, bias);
            states = builder.linear(context, out, Epilogue::ResidualNorm { residual: states, norm: norms[0] });
            let activated = builder.linear(states, up, Epilogue::Gelu);
            states = builder.linear(activated, down, Epilogue::ResidualNorm { residual: states, norm: norms[1] });
        }
        let head = self.head.0.linear(&mut builder, &self.head.1);
        let document = if self.size.mean {
            Document::Mean
        } else {
            Document::LogSumExp { bias: builder.vector(&self.document_bias).unwrap() }
        };
        builder.head(states, head, document);
        builder.finish().unwrap()
    }

    /// Sentence logits and document logits, in `f64` throughout.
    fn run(&self, ids: &[u32], sentence_ids: &[i32]) -> (Vec<f64>, Vec<f64>) {
        let Size { hidden, heads, labels, max_sentences, max_tokens, products, .. } = self.size;
        let int8 = products == Products::Int8;
        let mut states: Vec<Vec<f64>> = ids
            .iter()
            .enumerate()
            .map(|(position, &id)| {
                let sum = (0..hidden).map(|at| self.words.at(id as usize, at) + self.positions.at(position, at));
                norm(&sum.collect::<Vec<_>>(), &self.norm)
            })
            .collect();
        for layer in &self.layers {
            let apply = |number: usize, row: &[f64]| layer.linears[number].0.apply(&layer.linears[number].1, row);
            let mut all: Vec<Vec<f64>> = states.iter().map(|row| apply(0, row)).collect();
            let head = hidden / heads;
            if int8 {
                all.iter_mut().for_each(|row| row[..2 * hidden].chunks_exact_mut(head).for_each(round));
                for column in 2 * hidden..3 * hidden {
                    let mut values: Vec<f64> = all.iter().map(|row| row[column]).collect();
                    round(&mut values);
                    all.iter_mut().zip(values).for_each(|(row, value)| row[column] = value);
                }
            }
            for (query, state) in states.iter_mut().enumerate() {
                let context = (0..hidden).map(|column| {
                    let number = column / head;
                    let dimensions = number * head..(number + 1) * head;
                    let scores = all.iter().enumerate().map(|(key, row)| {
                        let product: f64 = dimensions.clone().map(|at| all[query][at] * row[hidden + at]).sum();
                        let distance = key + max_tokens - 1 - query;
                        let bias = self.relative_bias[number * (2 * max_tokens - 1) + distance];
                        product + if self.size.relative_bias { f64::from(bias) } else { 0.0 }
                    });
                    let scores: Vec<f64> = scores.collect();
                    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                    let weight = |score: &f64| match (score - largest).exp() {
                        weight if int8 => (weight * 4095.0).round_ties_even(),
                        weight => weight,
                    };
                    let scores: Vec<f64> = scores.iter().map(weight).collect();
                    let values = scores.iter().zip(&all).map(|(p, row)| p * row[2 * hidden + column]);
                    values.sum::<f64>() / scores.iter().sum::<f64>()
                });
                let out = apply(1, &context.collect::<Vec<_>>());
                *state = norm(&plus(&out, state), &layer.norms[0]);
                let activated: Vec<f64> = apply(2, state).into_iter().map(gelu).collect();
                *state = norm(&plus(&apply(3, &activated), state), &layer.norms[1]);
            }
        }

        let mean = |belongs: &dyn Fn(i32) -> bool| {
            let rows = states.iter().zip(sentence_ids).filter(|&(_, &id)| belongs(id)).map(|(row, _)| row);
            let count = rows.clone().count();
            let sum = rows.fold(vec![0.0; hidden], |sum, row| plus(&sum, row));
            let mean: Vec<f64> = sum.iter().map(|value| value / count.max(1) as f64).collect();
            (count, self.head.0.apply(&self.head.1, &mean))
        };
        let by_sentence: Vec<Vec<f64>> = (0..max_sentences as i32)
            .map(|sentence| {
                let (count, logits) = mean(&|id| id == sentence);
                if count == 0 { vec![-1e9; labels] } else { logits }
            })
            .collect();
        let document = if self.size.mean {
            mean(&|id| id >= 0).1
        } else {
            let of = |label: usize| by_sentence.iter().map(move |logits| logits[label]);
            let largest = |label| of(label).fold(f64::MIN, f64::max);
            let log_sum =
                |label| of(label).map(|logit| (logit - largest(label)).exp()).sum::<f64>().ln() + largest(label);
            (0..labels).map(|label| log_sum(label) + f64::from(self.document_bias[label])).collect()
        };
        (by_sentence.concat(), document)
    }
}

/// Rounds values to 127 steps of either sign.
fn round(values: &mut [f64]) {
    let amax = values.iter().fold(1e-30_f64, |amax, x| amax.max(x.abs()));
    values.iter_mut().for_each(|x| *x = (*x * (127.0 / amax)).round_ties_even() * (amax / 127.0));
}

fn plus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn norm(row: &[f64], [weight, bias]: &[Vec<f32>; 2]) -> Vec<f64> {
    let count = row.len() as f64;
    let mean = row.iter().sum::<f64>() / count;
    let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let scaled = row.iter().map(|value| (value - mean) / (variance + f64::from(EPSILON)).sqrt());
    scaled
        .zip(weight.iter().zip(bias))
        .map(|(value, (weight, bias))| value * f64::from(*weight) + f64::from(*bias))
        .collect()
}

/// With the error function as its series (Abramowitz and Stegun 7.1.5), which is enough for the values of these models.
fn gelu(u: f64) -> f64 {
    let x = u / std::f64::consts::SQRT_2;
    if x.abs() > 5.0 {
        return u.max(0.0);
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..150 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    u / 2.0 * (1.0 + sum * 2.0 / std::f64::consts::PI.sqrt())
}
