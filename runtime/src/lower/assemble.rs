use std::collections::HashMap;
use std::sync::Arc;

use super::LowerError;
use super::expr::{Affine, Binary, Coefficient, Expr, Expressions, Id, Matrix, Reduction, Side, Unary, Values};
use crate::program::{self, Document, Epilogue, Products, Program, ProgramBuilder, Rows, Shape};

/// Finds the steps of a program in the expressions.
pub(super) fn assemble(expressions: &Expressions, shape: Shape) -> Result<Program, LowerError> {
    let mut assembler =
        Assembler { graph: expressions, builder: ProgramBuilder::new(shape), shape, rows: HashMap::new() };
    assembler.head()?;
    Ok(assembler.builder.finish()?)
}

struct Assembler<'e> {
    graph: &'e Expressions,
    builder: ProgramBuilder,
    shape: Shape,
    /// What the steps so far give.
    rows: HashMap<Id, Rows>,
}

/// `f32(1 / 127)`, as tract divides by 127, and what it may be off by.
const INVERSE_127: f32 = 1.0 / 127.0;
/// The exporter's bound of a row's largest magnitude.
const TINY: f32 = 1e-30;
/// The largest rounded attention weight.
const LEVELS: f32 = 4095.0;
/// A bound that no score falls below, so that taking the larger of the two changes nothing.
const LOWEST: f32 = -1e30;
/// The logit of a sentence without tokens.
const ABSENT: f32 = -1e9;

/// A linear layer over some rows.
struct Linear {
    input: Id,
    inputs: usize,
    outputs: usize,
    /// `[outputs, inputs]`.
    weights: Weights,
    bias: Vec<f32>,
}

enum Weights {
    F32(Vec<f32>),
    I8 { values: Vec<i8>, scales: Vec<f32> },
}

struct Norm {
    input: Id,
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Assembler<'_> {
    /// The step that gives the rows, and first those that it needs.
    fn states(&mut self, id: Id) -> Result<Rows, LowerError> {
        if let Some(&rows) = self.rows.get(&id) {
            return Ok(rows);
        }
        let rows = if let Some(norm) = self.norm(id) {
            self.normalised(norm)?
        } else if let Some(inner) = self.gelu(id) {
            self.linear_step(inner, Epilogue::Gelu)?
        } else if matches!(self.graph.get(id), Expr::Context { .. }) {
            self.attention(id)?
        } else {
            self.linear_step(id, Epilogue::None)?
        };
        self.rows.insert(id, rows);
        Ok(rows)
    }

    fn linear_step(&mut self, id: Id, epilogue: Epilogue) -> Result<Rows, LowerError> {
        let linear = self.linear(id)?;
        let input = self.states(linear.input)?;
        let linear = self.store(&linear)?;
        Ok(self.builder.linear(input, linear, epilogue))
    }

    fn normalised(&mut self, norm: Norm) -> Result<Rows, LowerError> {
        let mut terms = Vec::new();
        self.terms(norm.input, &mut terms);
        if terms.iter().any(|&term| self.is_embedding(term)) {
            return self.embedding(&norm);
        }
        let Expr::Binary(Binary::Add, a, b) = *self.graph.get(norm.input) else {
            return Err(self.graph.refuse(norm.input, "a layer normalisation of something else than a residual sum"));
        };
        let (linear, residual) = match (self.linear(a), self.linear(b)) {
            // Both: the residual comes from further above, and is a layer normalisation.
            (Ok(_), Ok(linear)) if self.norm(a).is_some() => (linear, a),
            (Ok(linear), _) => (linear, b),
            (_, Ok(linear)) => (linear, a),
            (Err(error), _) => return Err(error),
        };
        let residual = self.states(residual)?;
        let input = self.states(linear.input)?;
        let linear = self.store(&linear)?;
        let norm = self.builder.norm(&norm.weight, &norm.bias, norm.epsilon)?;
        Ok(self.builder.linear(input, linear, Epilogue::ResidualNorm { residual, norm }))
    }

    fn attention(&mut self, id: Id) -> Result<Rows, LowerError> {
        let graph = self.graph;
        let Expr::Context { weights, values, heads } = *graph.get(id) else {
            return Err(graph.refuse(id, "no attention"));
        };
        let (scores, keys, products) = match *graph.get(weights) {
            Expr::Softmax { scores, keys } => (scores, keys, Products::F32),
            _ => {
                let (scores, keys) = self
                    .rounded_softmax(weights)
                    .ok_or_else(|| graph.refuse(weights, "attention without a softmax"))?;
                (scores, keys, Products::Int8)
            }
        };
        // The same number added to every score changes no softmax.
        let (mut core, mut scale, mut bias) = (scores, 1.0, None);
        let (left, right) = loop {
            match graph.get(core) {
                Expr::Scale(inner, Coefficient::Scalar(factor)) => (core, scale) = (*inner, scale * factor),
                Expr::Shift(inner, Coefficient::Scalar(_)) => core = *inner,
                Expr::AtLeast(inner, bound) if *bound <= LOWEST => core = *inner,
                Expr::Biased { scores, bias: table, query } if bias.is_none() => {
                    bias = Some((*table, *query, scale));
                    core = *scores;
                }
                Expr::Scores { left, right, heads: same } if *same == heads => break (*left, *right),
                _ => return Err(graph.refuse(core, "attention scores are not the product of queries and keys")),
            }
        };
        let (mut query, mut key) = if keys == Side::Right { (left, right) } else { (right, left) };
        let mut values = values;
        if products == Products::Int8 {
            let rounded = |id: Id, of: Option<Id>| {
                of.ok_or_else(|| graph.refuse(id, "rounded attention weights with operands that are not rounded"))
            };
            (query, key) = (rounded(query, self.by_head(query, heads))?, rounded(key, self.by_head(key, heads))?);
            values = rounded(values, self.by_dimension(values))?;
            if scale != 1.0 {
                return Err(graph.refuse(core, "a scale of the scores of rounded queries"));
            }
        }
        let [mut query, key, value] = [self.linear(query)?, self.linear(key)?, self.linear(values)?];
        query.scale(scale);
        if query.input != key.input || key.input != value.input {
            return Err(graph.refuse(id, "queries, keys and values of different inputs"));
        }
        let input = self.states(query.input)?;
        let joined = Linear::join([query, key, value])
            .ok_or_else(|| graph.refuse(id, "queries, keys and values of different precision or width"))?;
        let relative_bias = match bias {
            None => None,
            Some((table, query, _)) if (query == Side::Left) != (keys == Side::Right) => {
                return Err(graph.refuse(table, "a relative bias by the distance from key to query"));
            }
            Some((table, _, scale)) => Some(self.relative_bias(table, heads, scale)?),
        };
        let linear = self.store(&joined)?;
        let rows = self.builder.linear(input, linear, Epilogue::None);
        Ok(self.builder.attention(rows, heads, products, relative_bias))
    }

    fn relative_bias(&mut self, id: Id, heads: usize, scale: f32) -> Result<program::Vector, LowerError> {
        let refuse = |reason: &str| self.graph.refuse(id, reason);
        let Expr::RelativeBias { table, offset } = self.graph.get(id) else { return Err(refuse("no relative bias")) };
        let Values::F32(values) = &table.values else { return Err(refuse("a relative bias that is not f32")) };
        let last = i64::try_from(self.shape.max_tokens).unwrap_or(i64::MAX) - 1;
        let (first, len) = (offset - last, 2 * last + 1);
        if table.rows != heads || first < 0 || first + len > table.columns as i64 {
            return Err(refuse("a relative bias for other heads or fewer tokens"));
        }
        let columns = first as usize..(first + len) as usize;
        let rows = values.chunks_exact(table.columns).flat_map(|row| row[columns.clone()].iter());
        let values: Vec<f32> = rows.map(|value| value * scale).collect();
        Ok(self.builder.vector(&values)?)
    }

    /// A linear layer, with everything constant that follows it folded in.
    fn linear(&self, id: Id) -> Result<Linear, LowerError> {
        let graph = self.graph;
        let Affine { core, scale, shift } = graph.affine(id, false);
        let width = graph.width(id);
        let parts = (scale.vector(width), shift.vector(width));
        let (Some(scales), Some(bias)) = parts else {
            return Err(graph.refuse(id, "constants of another width than the layer's"));
        };
        match graph.get(core) {
            Expr::MatMul { input, weight } => {
                let Values::F32(values) = &weight.values else {
                    return Err(graph.refuse(core, "an integer product whose input has no scale of its own"));
                };
                let mut values = values.clone();
                if scale != Coefficient::Scalar(1.0) {
                    let rows = values.chunks_exact_mut(weight.columns).zip(&scales);
                    rows.for_each(|(row, scale)| row.iter_mut().for_each(|value| *value *= scale));
                }
                let (inputs, outputs) = (weight.columns, weight.rows);
                Ok(Linear { input: *input, inputs, outputs, weights: Weights::F32(values), bias })
            }
            &Expr::Columns { input, first, len } => {
                let mut linear = self.linear(input)?.columns(first, len);
                if scale != Coefficient::Scalar(1.0) || shift != Coefficient::Scalar(0.0) {
                    linear.scale_each(&scales);
                    linear.bias.iter_mut().zip(bias).for_each(|(a, b)| *a += b);
                }
                Ok(linear)
            }
            &Expr::Binary(Binary::Mul, a, b) => {
                let integers = self.integer_product(a, b).or_else(|| self.integer_product(b, a));
                let Some((input, weight)) = integers else {
                    return Err(graph.refuse(core, "a product that is not the exporter's int8 linear layer"));
                };
                let Values::I8(values) = &weight.values else {
                    return Err(graph.refuse(core, "an integer product with weights that are not int8"));
                };
                let weights = Weights::I8 { values: values.clone(), scales };
                Ok(Linear { input, inputs: weight.columns, outputs: weight.rows, weights, bias })
            }
            _ => Err(graph.refuse(core, "a linear layer was expected here")),
        }
    }

    /// `acc * (amax / 127)`, where `acc` is the product of `round(x * (127 / amax))`: gives `x` and the weights.
    fn integer_product(&self, product: Id, scale: Id) -> Option<(Id, &Arc<Matrix>)> {
        let graph = self.graph;
        let Expr::MatMul { input, weight } = graph.get(product) else { return None };
        let Expr::Unary(Unary::ToInt8, rounded) = *graph.get(*input) else { return None };
        let by_row = |id: Id| match *graph.get(id) {
            Expr::Reduce(Reduction::Max, magnitudes) => Some(magnitudes),
            _ => None,
        };
        self.rounded(rounded, scale, by_row).map(|input| (input, weight))
    }

    /// `x` of `round(x * (127 / amax)) * (amax / 127)`, each token's part of each head rounded by itself.
    fn by_head(&self, id: Id, heads: usize) -> Option<Id> {
        self.rounded_product(id, |id| match *self.graph.get(id) {
            Expr::ReduceHeads(Reduction::Max, magnitudes, same) if same == heads => Some(magnitudes),
            Expr::Reduce(Reduction::Max, magnitudes) if heads == 1 => Some(magnitudes),
            _ => None,
        })
    }

    /// The same, each dimension rounded by itself, over all tokens.
    fn by_dimension(&self, id: Id) -> Option<Id> {
        self.rounded_product(id, |id| match *self.graph.get(id) {
            Expr::ReduceTokens(Reduction::Max, magnitudes) => Some(magnitudes),
            _ => None,
        })
    }

    fn rounded_product(&self, id: Id, magnitudes: impl Fn(Id) -> Option<Id>) -> Option<Id> {
        let Expr::Binary(Binary::Mul, a, b) = *self.graph.get(id) else { return None };
        self.rounded(a, b, &magnitudes).or_else(|| self.rounded(b, a, &magnitudes))
    }

    /// Scores, and the side of the keys, of `p / sum p` with `p = round(4095 exp(score - largest))`.
    fn rounded_softmax(&self, id: Id) -> Option<(Id, Side)> {
        let graph = self.graph;
        let Expr::Binary(Binary::Mul, a, b) = *graph.get(id) else { return None };
        [(a, b), (b, a)].into_iter().find_map(|(weights, inverse)| {
            let Expr::Unary(Unary::Recip, sum) = *graph.get(inverse) else { return None };
            let Expr::ReduceSide(Reduction::Sum, of, keys) = *graph.get(sum) else { return None };
            let Expr::Unary(Unary::RoundHalfToEven, scaled) = *graph.get(weights) else { return None };
            let scaled = graph.affine(scaled, true);
            let Expr::Unary(Unary::Exp, shifted) = *graph.get(scaled.core) else { return None };
            let Expr::Binary(Binary::Sub, scores, largest) = *graph.get(shifted) else { return None };
            let same = *graph.get(largest) == Expr::ReduceSide(Reduction::Max, scores, keys);
            (of == weights && same && scaled.factor() == Some(LEVELS)).then_some((scores, keys))
        })
    }

    /// `x`, where `rounded` is `round(x * (127 / amax))`, `scale` is `amax / 127`, and `magnitudes` gives that of which `amax` is
    /// the largest.
    fn rounded(&self, rounded: Id, scale: Id, magnitudes: impl Fn(Id) -> Option<Id>) -> Option<Id> {
        let graph = self.graph;
        let Expr::Unary(Unary::RoundHalfToEven, scaled) = *graph.get(rounded) else { return None };
        let Expr::Binary(Binary::Mul, a, b) = *graph.get(scaled) else { return None };
        let largest = |id: Id, inverse: Id| {
            let inverse = graph.affine(inverse, true);
            let Expr::Unary(Unary::Recip, largest) = *graph.get(inverse.core) else { return None };
            let Expr::AtLeast(row_max, bound) = *graph.get(largest) else { return None };
            let Expr::Unary(Unary::Abs, of) = *graph.get(magnitudes(row_max)?) else { return None };
            (inverse.factor() == Some(127.0) && bound == TINY && of == id).then_some(largest)
        };
        let (input, largest) =
            largest(a, b).map(|largest| (a, largest)).or_else(|| largest(b, a).map(|largest| (b, largest)))?;
        let scale = graph.affine(scale, true);
        (scale.core == largest && scale.factor().is_some_and(|factor| near(factor, INVERSE_127))).then_some(input)
    }

    /// A layer normalisation, as one operator or taken apart.
    fn norm(&self, id: Id) -> Option<Norm> {
        let graph = self.graph;
        let Affine { core, scale, shift } = graph.affine(id, false);
        let (centred, epsilon) = match *graph.get(core) {
            Expr::RmsNorm(centred, epsilon) => (centred, epsilon),
            Expr::Binary(Binary::Mul, a, b) => self
                .inverse_deviation(b, a)
                .map(|epsilon| (a, epsilon))
                .or_else(|| self.inverse_deviation(a, b).map(|epsilon| (b, epsilon)))?,
            _ => return None,
        };
        let input = self.centred(centred)?;
        let width = graph.width(id);
        Some(Norm { input, weight: scale.vector(width)?, bias: shift.vector(width)?, epsilon })
    }

    /// `x` of `x - mean(x)`.
    fn centred(&self, id: Id) -> Option<Id> {
        let graph = self.graph;
        let (x, mean, sign) = match *graph.get(id) {
            Expr::Binary(Binary::Sub, x, mean) => (x, mean, 1.0),
            Expr::Binary(Binary::Add, x, mean) => (x, mean, -1.0),
            _ => return None,
        };
        let mean = graph.affine(mean, true);
        let Expr::Reduce(Reduction::Sum, of) = *graph.get(mean.core) else { return None };
        (of == x && near(mean.factor()? * sign, 1.0 / graph.width(x) as f32)).then_some(x)
    }

    /// Epsilon, when `id` is `1 / sqrt(mean(x^2) + epsilon)`.
    fn inverse_deviation(&self, id: Id, x: Id) -> Option<f32> {
        let graph = self.graph;
        let variance = match *graph.get(id) {
            Expr::Unary(Unary::Rsqrt, variance) => variance,
            Expr::Unary(Unary::Recip, root) => match *graph.get(root) {
                Expr::Unary(Unary::Sqrt, variance) => variance,
                _ => return None,
            },
            Expr::Unary(Unary::Sqrt, inverse) => match *graph.get(inverse) {
                Expr::Unary(Unary::Recip, variance) => variance,
                _ => return None,
            },
            _ => return None,
        };
        let Affine { core, scale, shift } = graph.affine(variance, true);
        let one = match *graph.get(core) {
            Expr::Reduce(Reduction::MeanOfSquares, of) if of == x => 1.0,
            Expr::Reduce(Reduction::Sum, squares) if self.square(squares) == Some(x) => graph.width(x) as f32,
            _ => return None,
        };
        near(scale.scalar()? * one, 1.0).then_some(shift.scalar()?)
    }

    fn square(&self, id: Id) -> Option<Id> {
        match *self.graph.get(id) {
            Expr::Unary(Unary::Square, of) => Some(of),
            Expr::Binary(Binary::Mul, a, b) if a == b => Some(a),
            _ => None,
        }
    }

    /// `u` of the exact GELU, as one operator or taken apart.
    fn gelu(&self, id: Id) -> Option<Id> {
        let graph = self.graph;
        if let Expr::Unary(Unary::Gelu, of) = *graph.get(id) {
            return Some(of);
        }
        let outer = graph.affine(id, true);
        let Expr::Binary(Binary::Mul, a, b) = *graph.get(outer.core) else { return None };
        [(a, b), (b, a)].into_iter().find_map(|(linear, gate)| {
            let gate = graph.affine(gate, true);
            let Expr::Unary(Unary::Erf, argument) = *graph.get(gate.core) else { return None };
            let argument = graph.affine(argument, true);
            let u = argument.core;
            let factor =
                if linear == u { 1.0 } else { Some(graph.affine(linear, true)).filter(|l| l.core == u)?.factor()? };
            let whole = outer.factor()? * factor * gate.scale.scalar()?;
            (gate.scale == gate.shift && near(whole, 0.5) && near(argument.factor()?, core::f32::consts::FRAC_1_SQRT_2))
                .then_some(u)
        })
    }

    /// The terms of a sum.
    fn terms(&self, id: Id, terms: &mut Vec<Id>) {
        match *self.graph.get(id) {
            Expr::Binary(Binary::Add, a, b) => {
                self.terms(a, terms);
                self.terms(b, terms);
            }
            Expr::Shift(inner, _) => self.terms(inner, terms),
            _ => terms.push(id),
        }
    }

    fn is_embedding(&self, id: Id) -> bool {
        match *self.graph.get(id) {
            Expr::Words(_) => true,
            Expr::Binary(Binary::Mul, a, b) => self.is_embedding(a) && self.is_embedding(b),
            _ => false,
        }
    }

    /// Sum of one word embedding, any number of position embeddings and constants, normalised.
    fn embedding(&mut self, norm: &Norm) -> Result<Rows, LowerError> {
        let graph = self.graph;
        let width = graph.width(norm.input);
        let (mut words, mut positions) = (None, Vec::new());
        let mut constant = vec![0_f32; width];
        let mut has_constant = false;
        let mut left = vec![norm.input];
        while let Some(id) = left.pop() {
            match graph.get(id) {
                Expr::Binary(Binary::Add, a, b) => left.extend([*b, *a]),
                Expr::Shift(inner, term) => {
                    let term = term.vector(width).ok_or_else(|| graph.refuse(id, "a constant of another width"))?;
                    constant.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
                    has_constant = true;
                    left.push(*inner);
                }
                Expr::Words(table) if words.is_none() => words = Some((id, table.clone(), None)),
                Expr::Positions { table, first } => positions.push((id, table.clone(), None, *first)),
                Expr::Binary(Binary::Mul, a, b) => match (graph.get(*a), graph.get(*b)) {
                    (Expr::Words(table), Expr::Words(scales)) if words.is_none() => {
                        let (table, scales) = integers(table, scales)
                            .ok_or_else(|| graph.refuse(id, "an embedding that is not int8 times one scale a row"))?;
                        words = Some((id, table, Some(scales)));
                    }
                    (Expr::Positions { table, first }, Expr::Positions { table: scales, first: same })
                        if first == same =>
                    {
                        let (table, scales) = integers(table, scales)
                            .ok_or_else(|| graph.refuse(id, "an embedding that is not int8 times one scale a row"))?;
                        positions.push((id, table, Some(scales), *first));
                    }
                    _ => return Err(graph.refuse(id, "a product in the sum of the embeddings")),
                },
                _ => return Err(graph.refuse(id, "something else than an embedding in the sum of the embeddings")),
            }
        }
        let Some((id, table, scales)) = words else {
            return Err(graph.refuse(norm.input, "no word embedding"));
        };
        let words = self.table(id, &table, scales.as_deref(), 0, self.shape.vocabulary, width)?;
        let rows = self.shape.max_tokens;
        let positions = match &positions[..] {
            [(id, table, scales, first)] if !has_constant => {
                self.table(*id, table, scales.as_deref(), *first, rows, width)?
            }
            terms => {
                let mut sum: Vec<f32> = constant.iter().copied().cycle().take(rows * width).collect();
                for (id, table, scales, first) in terms {
                    let range = row_range(table, *first, rows).filter(|_| table.columns == width);
                    let range =
                        range.ok_or_else(|| graph.refuse(*id, "fewer positions than the manifest has tokens"))?;
                    let value = |index: usize| match (&table.values, scales) {
                        (Values::F32(values), _) => values[index],
                        (Values::I8(values), scales) => {
                            f32::from(values[index]) * scales.as_ref().map_or(1.0, |scales| scales[index / width])
                        }
                    };
                    sum.iter_mut().zip(range).for_each(|(sum, index)| *sum += value(index));
                }
                self.builder.table_f32(rows, width, &sum)?
            }
        };
        let norm = self.builder.norm(&norm.weight, &norm.bias, norm.epsilon)?;
        Ok(self.builder.embed(words, positions, norm))
    }

    /// The rows from `first` of a table.
    fn table(
        &mut self,
        id: Id,
        table: &Matrix,
        scales: Option<&[f32]>,
        first: usize,
        rows: usize,
        width: usize,
    ) -> Result<program::Table, LowerError> {
        let range = row_range(table, first, rows).filter(|_| table.columns == width);
        let range = range.ok_or_else(|| {
            let reason = format!("a table of {} rows of {}, {rows} of {width} are needed", table.rows, table.columns);
            self.graph.refuse(id, reason)
        })?;
        match (&table.values, scales) {
            (Values::F32(values), None) => Ok(self.builder.table_f32(rows, width, &values[range])?),
            (Values::I8(values), Some(scales)) => {
                Ok(self.builder.table_i8(rows, width, &values[range], &scales[first..first + rows])?)
            }
            _ => Err(self.graph.refuse(id, "an int8 embedding without scales")),
        }
    }

    fn store(&mut self, linear: &Linear) -> Result<program::Linear, LowerError> {
        let Linear { inputs, outputs, weights, bias, .. } = linear;
        Ok(match weights {
            Weights::F32(values) => self.builder.linear_f32(*outputs, *inputs, values, bias)?,
            Weights::I8 { values, scales } => self.builder.linear_i8(*outputs, *inputs, values, scales, bias)?,
        })
    }

    fn head(&mut self) -> Result<(), LowerError> {
        let graph = self.graph;
        let [sentences, document] = graph.outputs;
        let Expr::OrAbsent(logits, ABSENT) = *graph.get(sentences) else {
            return Err(graph.refuse(sentences, "sentence logits without -1e9 for a sentence without tokens"));
        };
        let head = self.linear(logits)?;
        let states = self.sentence_means(head.input).ok_or_else(|| {
            graph.refuse(head.input, "these are not the mean states of as many sentences as the manifest says")
        })?;
        let document = if let Some((evidence, bias)) = self.evidence(document) {
            if evidence != sentences {
                return Err(graph.refuse(document, "document logits of other than the sentence logits"));
            }
            Err(bias)
        } else {
            let mean = self.linear(document)?;
            let same = matches!((&mean.weights, &head.weights), (Weights::F32(a), Weights::F32(b)) if a == b);
            if self.document_mean(mean.input) != Some(states) || !same || mean.bias != head.bias {
                return Err(graph.refuse(document, "document logits are neither sentence evidence nor the mean head"));
            }
            Ok(())
        };
        let input = self.states(states)?;
        let linear = self.store(&head)?;
        let document = match document {
            Err(bias) => {
                let bias = bias
                    .vector(head.outputs)
                    .ok_or_else(|| graph.refuse(graph.outputs[1], "a bias of another width"))?;
                Document::LogSumExp { bias: self.builder.vector(&bias)? }
            }
            Ok(()) => Document::Mean,
        };
        self.builder.head(input, linear, document);
        Ok(())
    }

    /// The states whose sentences' means these are.
    fn sentence_means(&self, id: Id) -> Option<Id> {
        let (sums, count) = self.quotient(id)?;
        let Expr::Sums(states, sentences) = *self.graph.get(sums) else { return None };
        (matches!(self.graph.get(count), Expr::Count) && sentences == self.shape.max_sentences).then_some(states)
    }

    /// The states whose mean over all tokens that belong to a sentence this is.
    fn document_mean(&self, id: Id) -> Option<Id> {
        let (sums, count) = self.quotient(id)?;
        let Expr::ReduceSentences(Reduction::Sum, sums) = *self.graph.get(sums) else { return None };
        let Expr::ReduceSentences(Reduction::Sum, count) = *self.graph.get(count) else { return None };
        let Expr::Sums(states, sentences) = *self.graph.get(sums) else { return None };
        (matches!(self.graph.get(count), Expr::Count) && sentences == self.shape.max_sentences).then_some(states)
    }

    /// `a` and `b` of `a / max(b, 1)`.
    fn quotient(&self, id: Id) -> Option<(Id, Id)> {
        let Expr::Binary(Binary::Mul, a, b) = *self.graph.get(id) else { return None };
        let divisor = |id: Id| {
            let Expr::Unary(Unary::Recip, bounded) = *self.graph.get(id) else { return None };
            match *self.graph.get(bounded) {
                Expr::AtLeast(divisor, 1.0) => Some(divisor),
                _ => None,
            }
        };
        divisor(b).map(|divisor| (a, divisor)).or_else(|| divisor(a).map(|divisor| (b, divisor)))
    }

    /// `z` and `b` of `log(sum of exp(z - max z)) + max z + b` over the sentences.
    fn evidence(&self, id: Id) -> Option<(Id, Coefficient)> {
        let graph = self.graph;
        let Affine { core, scale, shift } = graph.affine(id, false);
        if scale != Coefficient::Scalar(1.0) {
            return None;
        }
        let Expr::Binary(Binary::Add, a, b) = *graph.get(core) else { return None };
        let logits = [(a, b), (b, a)].into_iter().find_map(|(log, largest)| {
            let Expr::ReduceSentences(Reduction::Max, logits) = *graph.get(largest) else { return None };
            let Expr::Unary(Unary::Ln, sum) = *graph.get(log) else { return None };
            let Expr::ReduceSentences(Reduction::Sum, exponentials) = *graph.get(sum) else { return None };
            let Expr::Unary(Unary::Exp, shifted) = *graph.get(exponentials) else { return None };
            let Expr::Binary(Binary::Sub, of, by) = *graph.get(shifted) else { return None };
            (of == logits && by == largest).then_some(logits)
        })?;
        Some((logits, shift))
    }
}

impl Linear {
    fn scale(&mut self, factor: f32) {
        if factor != 1.0 {
            self.scale_each(&vec![factor; self.outputs]);
        }
    }

    /// Multiplies each output.
    fn scale_each(&mut self, factors: &[f32]) {
        match &mut self.weights {
            Weights::F32(values) => {
                let rows = values.chunks_exact_mut(self.inputs).zip(factors);
                rows.for_each(|(row, factor)| row.iter_mut().for_each(|value| *value *= factor));
            }
            Weights::I8 { scales, .. } => scales.iter_mut().zip(factors).for_each(|(scale, factor)| *scale *= factor),
        }
        self.bias.iter_mut().zip(factors).for_each(|(bias, factor)| *bias *= factor);
    }

    /// Some of the outputs.
    fn columns(mut self, first: usize, len: usize) -> Self {
        fn keep<T: Clone>(values: &mut Vec<T>, first: usize, len: usize) {
            *values = values[first..first + len].to_vec();
        }
        match &mut self.weights {
            Weights::F32(values) => keep(values, first * self.inputs, len * self.inputs),
            Weights::I8 { values, scales } => {
                keep(values, first * self.inputs, len * self.inputs);
                keep(scales, first, len);
            }
        }
        keep(&mut self.bias, first, len);
        self.outputs = len;
        self
    }

    /// One layer with the outputs of all; `None` when their inputs or their precisions differ.
    fn join(layers: [Self; 3]) -> Option<Self> {
        let mut layers = layers.into_iter();
        let mut joined = layers.next()?;
        for layer in layers {
            match (&mut joined.weights, layer.weights) {
                (Weights::F32(values), Weights::F32(more)) => values.extend(more),
                (Weights::I8 { values, scales }, Weights::I8 { values: more, scales: more_scales }) => {
                    values.extend(more);
                    scales.extend(more_scales);
                }
                _ => return None,
            }
            if joined.inputs != layer.inputs {
                return None;
            }
            joined.outputs += layer.outputs;
            joined.bias.extend(layer.bias);
        }
        Some(joined)
    }
}

/// Values of the rows from `first`, if the table has them.
fn row_range(table: &Matrix, first: usize, rows: usize) -> Option<core::ops::Range<usize>> {
    let end = first.checked_add(rows).filter(|end| *end <= table.rows)?;
    Some(first * table.columns..end * table.columns)
}

/// An int8 table and one scale a row, whichever comes first.
fn integers(a: &Arc<Matrix>, b: &Arc<Matrix>) -> Option<(Arc<Matrix>, Vec<f32>)> {
    match (&a.values, &b.values) {
        (Values::I8(_), Values::F32(scales)) if b.columns == 1 && b.rows == a.rows => Some((a.clone(), scales.clone())),
        (Values::F32(_), Values::I8(_)) if a.columns == 1 => integers(b, a),
        _ => None,
    }
}

/// Whether a constant is what it should be, but for the rounding of those who wrote the graph.
fn near(found: f32, expected: f32) -> bool {
    (found - expected).abs() <= 4.0 * f32::EPSILON * expected.abs()
}
