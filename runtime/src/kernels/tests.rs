use proptest::prelude::*;

use super::*;
use crate::program::{ProgramBuilder, Shape};

/// Every family that this processor has gives the bits of the portable one.
fn same_bits<T: Task<Output = Option<Vec<f32>>> + Copy>(task: T) -> Vec<f32> {
    let expected = Kernels::Portable.dispatch(task).flatten().expect("the buffers fit");
    for kernels in Kernels::ALL {
        let Some(output) = kernels.dispatch(task) else { continue };
        let output = output.expect("the buffers fit");
        assert_eq!(output.len(), expected.len());
        for (at, (a, b)) in output.iter().zip(&expected).enumerate() {
            assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()), "{kernels}: {a:e} for {b:e} at {at}");
        }
    }
    expected
}

/// Rows padded with zeros.
#[derive(Clone, Debug)]
struct Matrix {
    rows: usize,
    width: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn of(rows: usize, width: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let stride = width.next_multiple_of(16);
        let values = (0..rows * stride).map(|at| (at / stride, at % stride));
        let values = values.map(|(row, column)| if column < width { value(row, column) } else { 0.0 });
        Self { rows, width, values: values.collect() }
    }

    fn zeros(rows: usize, width: usize) -> Self {
        Self::of(rows, width, |_, _| 0.0)
    }

    fn stride(&self) -> usize {
        self.width.next_multiple_of(16)
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride()..][..self.width]
    }

    fn view(&self) -> Floats<'_> {
        Floats { values: &self.values, rows: self.rows, width: self.width, stride: self.stride() }
    }

    fn view_mut(&mut self) -> FloatsMut<'_> {
        let stride = self.stride();
        FloatsMut { values: &mut self.values, rows: self.rows, width: self.width, stride }
    }
}

/// Numbers of many sizes, from a seed, so that what a failure shows is short.
#[derive(Clone, Copy, Debug)]
enum Numbers {
    Small(u32),
    Constant(f32),
    Mixed(u32),
}

impl Numbers {
    fn at(self, index: usize) -> f32 {
        let hash = |seed: u32| {
            let mut hash = (index as u32).wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
            hash = (hash ^ hash >> 15).wrapping_mul(0x2c1b_3c6d);
            (hash ^ hash >> 12).wrapping_mul(0x297a_2d39) >> 8
        };
        match self {
            Self::Small(seed) => hash(seed) as f32 / 8_388_608.0 - 1.0,
            Self::Constant(value) => value,
            Self::Mixed(seed) => {
                let value = hash(seed) as f32 / 8_388_608.0 - 1.0;
                value * [1.0, 0.0, 1e-20, 1e4, -1.0, 30.0][hash(!seed) as usize % 6]
            }
        }
    }

    fn matrix(self, rows: usize, width: usize) -> Matrix {
        Matrix::of(rows, width, |row, column| self.at(row * width + column))
    }

    fn integers(self, len: usize) -> Vec<i8> {
        (0..len).map(|at| (self.at(at) * 127.0).round().clamp(-127.0, 127.0) as i8).collect()
    }
}

fn numbers() -> impl Strategy<Value = Numbers> {
    const CONSTANTS: &[f32] = &[0.0, -0.0, 1.0, -1.0, 1e30, -1e30, 1e-38, -1e-42, 127.0];
    prop_oneof![
        4 => any::<u32>().prop_map(Numbers::Small),
        2 => any::<u32>().prop_map(Numbers::Mixed),
        2 => prop::sample::select(CONSTANTS).prop_map(Numbers::Constant),
    ]
}

/// Rounds the input and multiplies it; what comes back are the row scales and the products.
#[derive(Clone, Copy)]
struct Rounded<'a>(&'a Matrix, &'a LinearI8<'a>, bool);

impl Task for Rounded<'_> {
    type Output = Option<Vec<f32>>;

    fn run<F: Family>(self, kernels: F) -> Option<Vec<f32>> {
        let Self(input, linear, gelu) = self;
        let stride = input.width.next_multiple_of(64);
        let mut prepared = vec![u64::MAX; kernels.prepared_len(linear.outputs, linear.inputs)];
        kernels.prepare(linear, &mut prepared)?;
        let linear = &LinearI8 { prepared: &prepared, ..*linear };
        let (mut values, mut scales) = (vec![0xee; input.rows * stride], vec![f32::NAN; input.rows]);
        kernels.quantize(input.view(), IntegersMut { values: &mut values, scales: &mut scales, stride })?;
        let integers = Integers { values: &values, scales: &scales, rows: input.rows, width: input.width, stride };
        let mut output = Matrix::of(input.rows, linear.outputs, |_, _| f32::NAN);
        kernels.linear_i8(integers, linear, gelu, output.view_mut())?;
        Some([scales, output.values].concat())
    }
}

#[derive(Clone, Copy)]
struct Multiplied<'a>(&'a Matrix, &'a LinearF32<'a>, bool);

impl Task for Multiplied<'_> {
    type Output = Option<Vec<f32>>;

    fn run<F: Family>(self, kernels: F) -> Option<Vec<f32>> {
        let mut output = Matrix::of(self.0.rows, self.1.outputs, |_, _| f32::NAN);
        kernels.linear_f32(self.0.view(), self.1, self.2, output.view_mut())?;
        Some(output.values)
    }
}

#[derive(Clone, Copy)]
struct Normed<'a>(&'a Matrix, Option<&'a Matrix>, &'a NormView<'a>);

impl Task for Normed<'_> {
    type Output = Option<Vec<f32>>;

    fn run<F: Family>(self, kernels: F) -> Option<Vec<f32>> {
        let (mut input, mut output) = (self.0.clone(), Matrix::of(self.0.rows, self.0.width, |_, _| f32::NAN));
        kernels.norm(input.view_mut(), self.1.map(Matrix::view), self.2, output.view_mut())?;
        Some(output.values)
    }
}

/// One head of `[query, key, value]` rows, with a bias; with integer products if `int8`.
#[derive(Clone, Copy)]
struct Attended<'a> {
    all: &'a Matrix,
    bias: Option<&'a [f32]>,
    int8: bool,
}

impl Task for Attended<'_> {
    type Output = Option<Vec<f32>>;

    fn run<F: Family>(self, kernels: F) -> Option<Vec<f32>> {
        let Self { all, bias, int8 } = self;
        let (head, tokens, stride) = (all.width / 3, all.rows, all.stride());
        let [query, key, value] = [0, 1, 2].map(|part| &all.values[part * head..]);
        let attention = Attention { query, key, value, tokens, head, stride, bias };
        let len = if int8 { Attention::work_len_i8(tokens, head) } else { Attention::work_len_f32(tokens, head) };
        let mut work = vec![f32::NAN; len];
        // What lies beside the head's columns must stay.
        let mut output = vec![7.0; tokens * (head + 3)];
        let to = FloatsMut { values: &mut output, rows: tokens, width: head, stride: head + 3 };
        if int8 {
            kernels.attention_i8(attention, &mut work, to)?;
        } else {
            kernels.attention_f32(attention, &mut work, to)?;
        }
        Some(output)
    }
}

/// Packs a layer as a program does and hands its weights to `task`.
fn with_packed<T>(
    [outputs, inputs]: [usize; 2],
    weights: &[i8],
    [scales, bias]: [&[f32]; 2],
    task: impl FnOnce(&LinearI8<'_>) -> T,
) -> T {
    let shape = Shape { labels: 1, max_sentences: 1, max_tokens: 1, vocabulary: 1 };
    let mut builder = ProgramBuilder::new(shape);
    let linear = builder.linear_i8(outputs, inputs, weights, scales, bias).expect("sizes that fit");
    let weights = builder.into_weights();
    let crate::program::Panels::I8 { values, scales, sums } = linear.panels else { panic!("int8 panels") };
    let padded = outputs.next_multiple_of(16);
    task(&LinearI8 {
        outputs,
        inputs,
        panels: weights.view(values, padded * inputs.next_multiple_of(4)).expect("inside"),
        scales: weights.vector(scales).expect("inside"),
        bias: weights.vector(linear.bias).expect("inside"),
        sums: weights.view(sums, padded).expect("inside"),
        prepared: &[],
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn int8_layers_are_the_same_and_right(
        rows in 0_usize..30, inputs in 1_usize..200, outputs in 1_usize..70,
        x in numbers(), w in numbers(), largest in prop::sample::select(&[127_i8, 80, 60][..]), scale in numbers(),
        gelu in any::<bool>(),
    ) {
        let input = x.matrix(rows, inputs);
        let weights: Vec<i8> = w.integers(outputs * inputs).iter().map(|w| w % largest).collect();
        let scales: Vec<f32> = (0..outputs).map(|at| scale.at(at).abs()).collect();
        let bias: Vec<f32> = (0..outputs).map(|at| scale.at(at + 7)).collect();
        with_packed([outputs, inputs], &weights, [&scales, &bias], |linear| {
            let all = same_bits(Rounded(&input, linear, gelu));
            let (row_scales, output) = all.split_at(rows);
            // ARITHMETIC.md, from the weights as they were before they were packed.
            for row in 0..rows {
                let x = input.row(row);
                let amax = x.iter().fold(1e-30_f32, |amax, x| amax.max(x.abs()));
                assert_eq!(row_scales[row], amax / 127.0);
                for column in 0..outputs {
                    let weights = &weights[column * inputs..][..inputs];
                    let products = x.iter().zip(weights).map(|(x, &w)| {
                        (x * (127.0 / amax)).round_ties_even() as i32 * i32::from(w)
                    });
                    let value = (products.sum::<i32>() as f32 * (amax / 127.0)) * scales[column] + bias[column];
                    let value = if gelu { approximation::gelu(value) } else { value };
                    let found = output[row * outputs.next_multiple_of(16) + column];
                    assert!(found == value || (found.is_nan() && value.is_nan()), "{found} for {value}");
                }
                let padding = &output[row * outputs.next_multiple_of(16)..][outputs..outputs.next_multiple_of(16)];
                assert!(padding.iter().all(|&value| value == 0.0));
            }
        });
    }

    #[test]
    fn f32_layers_are_the_same_and_right(
        rows in 0_usize..30, inputs in 1_usize..80, outputs in 1_usize..70, x in numbers(), w in numbers(), gelu in any::<bool>(),
    ) {
        let input = x.matrix(rows, inputs);
        let padded = outputs.next_multiple_of(16);
        let weight = |column: usize, row: usize| if column < outputs { w.at(column * inputs + row) } else { 0.0 };
        let panels: Vec<f32> = (0..padded * inputs)
            .map(|at| weight(at / (16 * inputs) * 16 + at % 16, at / 16 % inputs))
            .collect();
        let bias: Vec<f32> = (0..padded).map(|at| if at < outputs { w.at(at) } else { 0.0 }).collect();
        let linear = LinearF32 { outputs, inputs, panels: &panels, bias: &bias };
        let output = same_bits(Multiplied(&input, &linear, gelu));
        for row in 0..rows {
            for column in 0..outputs {
                let products = input.row(row).iter().enumerate().map(|(at, &x)| f64::from(x) * f64::from(weight(column, at)));
                let (value, size) = products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()));
                let value = value + f64::from(bias[column]);
                let found = f64::from(output[row * padded + column]);
                if !gelu && value.abs() < 1e38 && size < 1e38 {
                    let bound = 1e-6 * (size + f64::from(bias[column]).abs()) + 1e-36;
                    prop_assert!((found - value).abs() <= bound, "{} for {}", found, value);
                }
            }
        }
    }

    #[test]
    fn layer_normalisations_are_the_same_and_right(
        rows in 0_usize..5, width in 1_usize..100, x in numbers(), other in numbers(), residual in any::<bool>(), w in numbers(),
    ) {
        let (input, other) = (x.matrix(rows, width), other.matrix(rows, width));
        let (weight, bias) = (w.matrix(1, width), Numbers::Small(3).matrix(1, width));
        let norm = NormView { weight: &weight.values, bias: &bias.values, epsilon: 1e-5 };
        let output = same_bits(Normed(&input, residual.then_some(&other), &norm));
        for row in 0..rows {
            let u = (0..width).map(|at| f64::from(input.row(row)[at] + if residual { other.row(row)[at] } else { 0.0 }));
            let mean = u.clone().sum::<f64>() / width as f64;
            let variance = u.clone().map(|u| (u - mean).powi(2)).sum::<f64>() / width as f64;
            let size = u.clone().fold(0.0, |size, u| u.abs().max(size));
            for (at, u) in u.enumerate() {
                let value = (u - mean) / (variance + 1e-5).sqrt() * f64::from(weight.values[at]) + f64::from(bias.values[at]);
                let found = f64::from(output[row * input.stride() + at]);
                // Beyond, squares overflow; and a mean is as exact as the row's largest value lets it be.
                if size < 1e15 {
                    let exact = 1e-6 * size / (variance + 1e-5).sqrt();
                    let bound = (1e-5 + exact) * (1.0 + f64::from(weight.values[at]).abs()) * (1.0 + value.abs());
                    prop_assert!((found - value).abs() <= bound, "{} for {}", found, value);
                }
            }
        }
    }

    #[test]
    fn attentions_are_the_same_and_right(
        tokens in 1_usize..60, head in 1_usize..70, x in any::<u32>(), size in prop::sample::select(&[0.0_f32, 0.3, 1.0, 30.0][..]),
        biased in any::<bool>(), longest in 0_usize..20,
    ) {
        let all = Matrix::of(tokens, 3 * head, |row, column| {
            Numbers::Small(x).at(row * 3 * head + column) * if column < 2 * head { size } else { 1.0 }
        });
        let reach = tokens + longest;
        let bias: Vec<f32> = (0..2 * reach - 1).map(|at| Numbers::Small(!x).at(at)).collect();
        let output = same_bits(Attended { all: &all, bias: biased.then_some(&bias), int8: false });
        for query in 0..tokens {
            let q = &all.row(query)[..head];
            let scores = (0..tokens).map(|key| {
                let k = &all.row(key)[head..2 * head];
                let score: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                score + if biased { f64::from(bias[key + reach - 1 - query]) } else { 0.0 }
            });
            let scores: Vec<f64> = scores.collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let p: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let row = &output[query * (head + 3)..][..head + 3];
            for (at, &found) in row.iter().enumerate() {
                if at >= head {
                    prop_assert_eq!(found, 7.0);
                    continue;
                }
                let value: f64 = p.iter().enumerate().map(|(key, p)| p * f64::from(all.row(key)[2 * head + at])).sum();
                let value = value / p.iter().sum::<f64>();
                let bound = 1e-6 * (3.0 + f64::from(size * size) * head as f64);
                prop_assert!((f64::from(found) - value).abs() < bound, "{} for {}", found, value);
            }
        }
    }
}

/// AVX2 adds the products of four weights in 16 bits where their magnitudes are at most 255 together.
#[test]
fn int8_products_are_exact_where_sixteen_bits_end() {
    // More inputs than a family remembers such places of.
    for inputs in [8, 64, 8204] {
        for (others, few) in [(64, 63), (64, 64), (65, 64), (127, 127), (1, 127)] {
            for flips in 0..4_usize {
                let sign = |at: usize| if (at / 3 + at / 16) & flips == 0 { 1 } else { -1_i8 };
                let weights: Vec<i8> =
                    (0..16 * inputs).map(|at| sign(at) * if at % inputs % 8 == flips { few } else { others }).collect();
                // Each row against the signs of one column, so that nothing cancels there.
                let input = Matrix::of(9, inputs, |row, at| {
                    f32::from(sign(row * inputs + at)) * if row < 8 { 127.0 } else { -127.0 }
                });
                with_packed([16, inputs], &weights, [&[1.0; 16], &[0.0; 16]], |linear| {
                    let all = same_bits(Rounded(&input, linear, false));
                    for row in 0..9 {
                        for column in 0..16 {
                            let weights = &weights[column * inputs..][..inputs];
                            let sum: i32 =
                                weights.iter().zip(input.row(row)).map(|(&w, &x)| i32::from(w) * x as i32).sum();
                            assert_eq!(
                                all[9 + row * 16 + column],
                                sum as f32,
                                "{inputs} inputs, row {row}, column {column}"
                            );
                        }
                    }
                });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn integer_attentions_are_the_same_and_right(
        tokens in 1_usize..80, head in 1_usize..70, x in numbers(), v in numbers(),
        size in prop::sample::select(&[0.0_f32, 0.3, 1.0, 30.0][..]), biased in any::<bool>(), longest in 0_usize..20,
    ) {
        let all = Matrix::of(tokens, 3 * head, |row, column| {
            if column < 2 * head { x.at(row * 3 * head + column) * size } else { v.at(row * 3 * head + column) }
        });
        let reach = tokens + longest;
        let bias: Vec<f32> = (0..2 * reach - 1).map(|at| Numbers::Small(7).at(at)).collect();
        let output = same_bits(Attended { all: &all, bias: biased.then_some(&bias), int8: true });
        // ARITHMETIC.md, with its integers.
        let round = |values: &[f32]| -> (Vec<i32>, f32) {
            let amax = values.iter().fold(1e-30_f32, |amax, x| amax.max(x.abs()));
            (values.iter().map(|x| (x * (127.0 / amax)).round_ties_even() as i32).collect(), amax / 127.0)
        };
        let columns: Vec<_> = (0..head)
            .map(|at| round(&(0..tokens).map(|token| all.row(token)[2 * head + at]).collect::<Vec<f32>>()))
            .collect();
        let keys: Vec<_> = (0..tokens).map(|key| round(&all.row(key)[head..2 * head])).collect();
        for query in 0..tokens {
            let (q, q_scale) = round(&all.row(query)[..head]);
            let scores: Vec<f32> = keys.iter().enumerate().map(|(key, (k, k_scale))| {
                let sum: i32 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                (sum as f32 * q_scale) * k_scale + if biased { bias[key + reach - 1 - query] } else { 0.0 }
            }).collect();
            let largest = scores.iter().copied().fold(f32::MIN, f32::max);
            let p: Vec<i32> = scores
                .iter()
                .map(|score| (approximation::exp(score - largest) * 4095.0).round_ties_even() as i32)
                .collect();
            let inverse = 1.0 / p.iter().sum::<i32>() as f32;
            let row = &output[query * (head + 3)..][..head + 3];
            for (at, &found) in row.iter().enumerate() {
                if at >= head {
                    prop_assert_eq!(found, 7.0);
                    continue;
                }
                let (v, v_scale) = &columns[at];
                let sum: i32 = p.iter().zip(v).map(|(p, v)| p * v).sum();
                let value = (sum as f32 * inverse) * v_scale;
                prop_assert!(found == value || (found.is_nan() && value.is_nan()), "{} for {}", found, value);
            }
        }
    }
}

/// All weights 4095 and all values at the ends, in many sizes.
#[test]
fn integer_attention_at_its_ends() {
    for (q, v) in [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (0.0, -1.0), (1.0, 0.0)] {
        for [tokens, head] in [[1, 1], [16, 16], [17, 32], [33, 65], [513, 33], [4096, 1]] {
            let all = Matrix::of(tokens, 3 * head, |_, column| if column < 2 * head { q } else { v });
            let output = same_bits(Attended { all: &all, bias: None, int8: true });
            for row in output.chunks_exact(head + 3) {
                let expected = ((4095.0 * 127.0 * v * tokens as f32) * (1.0 / (4095.0 * tokens as f32)))
                    * (v.abs().max(1e-30) / 127.0);
                assert!(row[..head].iter().all(|found| (found - expected).abs() <= expected.abs() * 1e-6));
            }
        }
    }
}

#[test]
fn integers_at_their_ends() {
    for (x, w) in [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0), (0.0, 1.0), (1.0, 0.0)] {
        for [rows, outputs, inputs] in [[1, 1, 1], [1, 16, 4], [12, 32, 3072], [13, 33, 65], [2, 17, 16_384]] {
            let input = Matrix::of(rows, inputs, |_, _| x);
            let weights = vec![(w * 127.0) as i8; outputs * inputs];
            with_packed([outputs, inputs], &weights, [&vec![1.0; outputs], &vec![0.0; outputs]], |linear| {
                let all = same_bits(Rounded(&input, linear, false));
                let sum = (x * 127.0 * w * 127.0) as i64 * inputs as i64;
                let by_row = x.abs().max(1e-30) / 127.0;
                assert_eq!(all[rows], sum as f32 * by_row);
            });
        }
    }
}

#[test]
fn short_buffers_are_refused() {
    struct Short;
    impl Task for Short {
        type Output = ();
        fn run<F: Family>(self, kernels: F) {
            let input = Matrix::zeros(3, 20);
            let (mut values, mut scales) = (vec![0; 3 * 64], vec![0.0; 3]);
            let to = IntegersMut { values: &mut values[..2 * 64 + 31], scales: &mut scales, stride: 64 };
            assert!(kernels.quantize(input.view(), to).is_none());
            let to = IntegersMut { values: &mut values, scales: &mut scales[..2], stride: 64 };
            assert!(kernels.quantize(input.view(), to).is_none());
            let (weight, mut from, mut output) = (vec![0.0; 31], input.clone(), input.clone());
            let norm = NormView { weight: &weight, bias: &weight, epsilon: 1.0 };
            assert!(kernels.norm(from.view_mut(), None, &norm, output.view_mut()).is_none());
            let panels = vec![0.0; 16 * 20 - 1];
            let linear = LinearF32 { outputs: 1, inputs: 20, panels: &panels, bias: &weight };
            assert!(kernels.linear_f32(input.view(), &linear, false, Matrix::zeros(3, 1).view_mut()).is_none());
            let (all, mut to) = (Matrix::zeros(3, 9), Matrix::zeros(3, 3));
            let [query, key, value] = [0, 3, 6].map(|first| &all.values[first..]);
            let attention = Attention { query, key, value, tokens: 3, head: 3, stride: 16, bias: None };
            assert!(kernels.attention_i8(attention, &mut [0.0; 12], to.view_mut()).is_none());
            let attention = Attention { query, key, value: &value[..32], tokens: 3, head: 3, stride: 16, bias: None };
            assert!(kernels.attention_i8(attention, &mut [0.0; 4096], to.view_mut()).is_none());
        }
    }
    for kernels in Kernels::ALL {
        kernels.dispatch(Short);
    }
}

#[test]
fn names_are_read_again() {
    for kernels in Kernels::ALL {
        assert_eq!(kernels.name().parse(), Ok(kernels));
    }
    assert_eq!("fast".parse::<Kernels>(), Err(UnknownKernels));
    assert!(Kernels::Portable.is_available() && Kernels::detect().is_available());
}
