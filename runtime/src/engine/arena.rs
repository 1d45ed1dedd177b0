use core::ops::Range;

use super::exchange::{Link, Side};
use super::prepared::{Prepare, Prepared};
use super::{EngineError, Limits, RunError, Stop};
use crate::kernels::{
    Attention, Family, Floats, FloatsMut, Integers, IntegersMut, Kernels, LinearF32, LinearI8, NormView, Task, exp, ln,
};
use crate::program::{
    BLOCK, Buffer, Document, Epilogue, LANES, Linear, Norm, Panels, Products, Program, Rows, RowsPlan, Shape, Step,
    Table, TableValues, Vector, Weights, float_stride, integer_stride,
};

/// A program with the kernels that run it.
pub(super) struct Arena {
    program: Program,
    kernels: Kernels,
    prepared: Prepared,
}

impl Arena {
    /// Prepares the weights for the kernels.
    ///
    /// # Errors
    ///
    /// [`EngineError`] when the processor does not have the kernels, or what they prepare needs more memory than there is or than
    /// `limits` allow.
    pub(super) fn new(program: Program, kernels: Kernels, limits: &Limits) -> Result<Self, EngineError> {
        let prepared = kernels.dispatch(Prepare { program: &program, limits }).flatten();
        let prepared = prepared.ok_or(EngineError::Kernels(kernels))??;
        Ok(Self { program, kernels, prepared })
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// What the kernels have found of the weights.
    pub(super) fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// To damage it.
    #[cfg(test)]
    pub(super) fn prepared_mut(&mut self) -> &mut Prepared {
        &mut self.prepared
    }

    /// Runs the program in `memory`, which must have [`Program::memory_required`] bytes at a multiple of 64. Neither
    /// allocates, locks, calls the system nor panics.
    pub(super) fn run(
        &self,
        memory: &mut [u8],
        stop: &Stop,
        ids: &[u32],
        sentence_ids: &[i32],
    ) -> Result<(), RunError> {
        if ids.len() != sentence_ids.len() {
            return Err(RunError::Failed);
        }
        self.dispatch(memory, stop, ids, sentence_ids, None)
    }

    /// As [`run`](Self::run), one half of a text: the rows of half of the tokens, or all tokens of half of the heads. What it needs
    /// of the rest it gets from the other side. The bits are the same, because no value depends on what else its step computes.
    ///
    /// The first side has the logits at the end. The second one needs no sentence ids.
    pub(super) fn run_half(
        &self,
        memory: &mut [u8],
        stop: &Stop,
        ids: &[u32],
        sentence_ids: &[i32],
        link: Link<'_>,
    ) -> Result<(), RunError> {
        self.dispatch(memory, stop, ids, sentence_ids, Some(link))
    }

    /// Whether two threads can share a text: what an attention reads must lie head by head.
    pub(super) fn can_be_halved(&self) -> bool {
        let plan = self.program.plan();
        self.program.steps().iter().all(|step| match *step {
            Step::Attention { input, .. } => plan.rows(input, 1).head.is_some(),
            _ => true,
        })
    }

    /// Bytes of the longest message between the halves of a text.
    pub(super) fn longest_message(&self) -> usize {
        let (plan, tokens) = (self.program.plan(), self.program.shape().max_tokens);
        let rows = tokens.div_ceil(2);
        let message = |step: &Step| match *step {
            Step::Linear { input, linear, output, .. } if plan.rows(output, tokens).head.is_some() => {
                let parts = row_parts(plan.rows(input, tokens), &linear).unwrap_or_default();
                rows * parts.iter().map(|&(_, row)| row).sum::<usize>()
            }
            Step::Attention { output, .. } => rows * 4 * plan.rows(output, tokens).width,
            Step::Head { input, .. } => rows * 4 * float_stride(plan.rows(input, tokens).width),
            _ => 0,
        };
        self.program.steps().iter().map(message).max().unwrap_or(0)
    }

    fn dispatch(
        &self,
        memory: &mut [u8],
        stop: &Stop,
        ids: &[u32],
        sentence_ids: &[i32],
        link: Option<Link<'_>>,
    ) -> Result<(), RunError> {
        if !(1..=self.program.shape().max_tokens).contains(&ids.len()) {
            return Err(RunError::Failed);
        }
        let run = Run { program: &self.program, prepared: &self.prepared, memory, stop, ids, sentence_ids, link };
        match self.kernels.dispatch(run).flatten() {
            Some(Ended::Done) => Ok(()),
            Some(Ended::Stopped) => Err(RunError::Stopped),
            None => Err(RunError::Failed),
        }
    }
}

/// One run. Every step returns `None` when a buffer, a weight or an id is not where the checked program says: of the program
/// that cannot be, of an id it can.
struct Run<'a> {
    program: &'a Program,
    prepared: &'a Prepared,
    memory: &'a mut [u8],
    stop: &'a Stop,
    ids: &'a [u32],
    sentence_ids: &'a [i32],
    /// `None` when one thread computes the whole text.
    link: Option<Link<'a>>,
}

/// How a run ends that did not fail.
enum Ended {
    Done,
    Stopped,
}

impl Task for Run<'_> {
    type Output = Option<Ended>;

    fn run<F: Family>(mut self, kernels: F) -> Option<Ended> {
        for (index, step) in self.program.steps().iter().enumerate() {
            if self.stop.is_due() {
                return Some(Ended::Stopped);
            }
            let work = self.program.plan().work(index, self.ids.len());
            match *step {
                Step::Embed { words, positions, norm, output } => {
                    self.embed(kernels, [words, positions], norm, output, work)?;
                }
                Step::Linear { input, linear, epilogue, output } => {
                    let layer = Layer::of(self.program.weights(), linear, self.prepared.of(index)?)?;
                    self.linear(kernels, (input, linear, output), &layer, epilogue, work)?;
                }
                Step::Attention { input, heads, products, relative_bias, output } => {
                    self.attention(kernels, input, (heads as usize, products), relative_bias, output, work)?;
                }
                Step::Head { input, linear, document } => {
                    let states = self.program.plan().rows(input, self.ids.len());
                    let states = [(states.floats?, 4 * float_stride(states.width))];
                    if self.link.as_ref().map(Link::side) == Some(Side::Second) {
                        self.exchange_rows(&states, &[])?;
                    } else {
                        self.exchange_rows(&[], &states)?;
                        self.head(kernels, input, linear, document)?;
                    }
                }
            }
        }
        Some(Ended::Done)
    }
}

impl Run<'_> {
    fn embed<F: Family>(
        &mut self,
        kernels: F,
        [words, positions]: [Table; 2],
        norm: Norm,
        output: Rows,
        work: Buffer,
    ) -> Option<()> {
        let (plan, weights) = (self.program.plan(), self.program.weights());
        let rows = plan.rows(output, self.ids.len());
        let (width, stride) = (rows.width, float_stride(rows.width));
        let norm = norm_of(weights, norm)?;
        let (words, positions) = (Embedding::of(weights, words)?, Embedding::of(weights, positions)?);
        let own = self.own(self.ids.len());
        let [work, output @ ..] = disjoint(self.memory, [work, rows.floats?, rows.integers(), rows.scales()])?;
        let (work, mut output) = (floats(work)?, Output::of(output, rows)?);
        for block in blocks(own) {
            for ((position, &id), row) in
                block.clone().zip(self.ids.get(block.clone())?).zip(work.chunks_exact_mut(stride))
            {
                let (row, padding) = row.split_at_mut_checked(width)?;
                words.copy(id as usize, row)?;
                positions.add(position, row)?;
                padding.fill(0.0);
            }
            let input = FloatsMut { values: work, rows: block.len(), width, stride };
            kernels.norm(input, None, &norm, output.floats(&block)?)?;
            output.quantize(kernels, &block)?;
        }
        Some(())
    }

    fn linear<F: Family>(
        &mut self,
        kernels: F,
        (input, linear, output): (Rows, Linear, Rows),
        layer: &Layer<'_>,
        epilogue: Epilogue,
        work: Buffer,
    ) -> Option<()> {
        let (plan, weights) = (self.program.plan(), self.program.weights());
        let of_text = |rows: Rows| plan.rows(rows, self.ids.len());
        let (rows, input) = (of_text(output), of_text(input));
        let (outputs, stride) = (linear.outputs as usize, float_stride(linear.outputs as usize));
        if rows.head.is_some() {
            let parts = row_parts(input, &linear)?;
            self.exchange_rows(&parts, &parts)?;
        }
        let tokens = self.ids.len();
        // Of heads, all tokens of its own; of anything else, all values of its own tokens.
        let (own, heads) = match rows.head {
            // Their queries, their keys, their values.
            Some(head) => (0..tokens, rows.width / head / 3),
            None => (self.own(tokens), 0),
        };
        let own_heads = self.own(heads);
        let (norm, residual) = match epilogue {
            Epilogue::ResidualNorm { residual, norm } => (Some(norm_of(weights, norm)?), of_text(residual).floats?),
            Epilogue::None | Epilogue::Gelu => (None, Buffer::default()),
        };
        let (values, scales) = match layer {
            Layer::I8(_) => (input.integers?, input.scales?),
            Layer::F32(_) => (input.floats?, Buffer::default()),
        };
        let [values, scales, residual, work, output @ ..] =
            disjoint(self.memory, [values, scales, residual, work, rows.floats(), rows.integers(), rows.scales()])?;
        let (work, residual) = (floats(work)?, floats(residual)?);
        let input = Input { values, scales: floats(scales)?, width: input.width };
        let mut output = Output::of(output, rows)?;
        let gelu = epilogue == Epilogue::Gelu;
        for block in blocks(own) {
            if let Some(head) = rows.head {
                let is_own = |number: &usize| number.checked_rem(heads).is_some_and(|of| own_heads.contains(&of));
                for (number, values) in output.heads(head, tokens, &block)?.enumerate().filter(|(of, _)| is_own(of)) {
                    let to = FloatsMut { values, rows: block.len(), width: head, stride: head };
                    layer.columns(number * head..(number + 1) * head)?.run(kernels, &input, &block, gelu, to)?;
                }
                continue;
            }
            let in_place = norm.is_none() && rows.floats.is_some();
            let to = if in_place {
                output.floats(&block)?
            } else {
                FloatsMut { values: &mut *work, rows: block.len(), width: outputs, stride }
            };
            layer.run(kernels, &input, &block, gelu, to)?;
            let from = FloatsMut { values: &mut *work, rows: block.len(), width: outputs, stride };
            match &norm {
                Some(norm) => {
                    let residual = residual.get(block.start * stride..)?;
                    let residual = Floats { values: residual, rows: block.len(), width: outputs, stride };
                    kernels.norm(from, Some(residual), norm, output.floats(&block)?)?;
                    output.quantize(kernels, &block)?;
                }
                None if in_place => output.quantize(kernels, &block)?,
                None => output.quantize_from(kernels, from, &block)?,
            }
        }
        Some(())
    }

    fn attention<F: Family>(
        &mut self,
        kernels: F,
        input: Rows,
        (heads, products): (usize, Products),
        relative_bias: Option<Vector>,
        output: Rows,
        work: Buffer,
    ) -> Option<()> {
        let (plan, weights) = (self.program.plan(), self.program.weights());
        let tokens = self.ids.len();
        let (input, rows) = (plan.rows(input, tokens), plan.rows(output, tokens));
        let hidden = rows.width;
        let head = hidden.checked_div(heads)?;
        let own_heads = self.own(heads);
        let bias = match relative_bias {
            Some(bias) => Some(weights.vector(bias)?.get(..bias.len as usize)?),
            None => None,
        };
        let [values, work, output @ ..] =
            disjoint(self.memory, [input.floats?, work, rows.floats?, rows.integers(), rows.scales()])?;
        let (values, work) = (floats(values)?, floats(work)?);
        let mut output = Output::of(output, rows)?;
        // Of one head: its first value, and from one token's to the next.
        let (apart, stride) = match input.head {
            Some(head) => (tokens * head, head),
            None => (head, float_stride(input.width)),
        };
        for number in own_heads {
            let part = |of: usize| values.get((of * heads + number) * apart..);
            let bias = match bias {
                Some(bias) => Some(bias.chunks_exact(bias.len() / heads).nth(number)?),
                None => None,
            };
            let attention = Attention { query: part(0)?, key: part(1)?, value: part(2)?, tokens, head, stride, bias };
            let all = output.floats(&(0..tokens))?;
            let values = all.values.get_mut(number * head..)?;
            let to = FloatsMut { values, rows: tokens, width: head, stride: all.stride };
            match products {
                Products::F32 => kernels.attention_f32(attention, work, to)?,
                Products::Int8 => kernels.attention_i8(attention, work, to)?,
            }
        }
        self.exchange_heads(rows, heads)?;
        let own = self.own(tokens);
        let output = disjoint(self.memory, [rows.floats?, rows.integers(), rows.scales()])?;
        let mut output = Output::of(output, rows)?;
        let all = output.floats(&own)?;
        if hidden < all.stride {
            all.values
                .chunks_exact_mut(all.stride)
                .for_each(|row| row.iter_mut().skip(hidden).for_each(|value| *value = 0.0));
        }
        output.quantize(kernels, &own)
    }

    /// This side's part of so many rows or heads.
    fn own(&self, count: usize) -> Range<usize> {
        match &self.link {
            Some(link) => halves(link.side(), count)[0].clone(),
            None => 0..count,
        }
    }

    /// Gives the other side this side's rows of some buffers, and takes its rows of others. With each buffer stand the bytes of
    /// a row.
    fn exchange_rows(&mut self, give: &[(Buffer, usize)], take: &[(Buffer, usize)]) -> Option<()> {
        let Some(link) = &mut self.link else { return Some(()) };
        let [own, others] = halves(link.side(), self.ids.len());
        let len = give.iter().map(|(_, row)| own.len() * row).sum();
        let memory = &mut *self.memory;
        link.post(len, |mut mail| {
            for (buffer, row) in give {
                let rows = memory.get(buffer.range())?.get(own.start * row..own.end * row)?;
                mail.split_off_mut(..rows.len())?.copy_from_slice(rows);
            }
            Some(())
        })?;
        link.take(|mut mail| {
            for (buffer, row) in take {
                let rows = memory.get_mut(buffer.range())?.get_mut(others.start * row..others.end * row)?;
                rows.copy_from_slice(mail.split_off(..rows.len())?);
            }
            Some(())
        })
    }

    /// Gives the other side what this side's heads found for its rows, and takes what its heads found for this side's.
    fn exchange_heads(&mut self, output: RowsPlan, heads: usize) -> Option<()> {
        let Some(link) = &mut self.link else { return Some(()) };
        let [own, others] = halves(link.side(), self.ids.len());
        let head = 4 * output.width.checked_div(heads)?;
        let [own_heads, others_heads] = halves(link.side(), heads);
        let [own_columns, others_columns] = [own_heads, others_heads].map(|heads| heads.start * head..heads.end * head);
        let (buffer, stride) = (output.floats?.range(), 4 * float_stride(output.width));
        let floats = self.memory.get_mut(buffer)?;
        link.post(others.len() * own_columns.len(), |mail| {
            let rows = floats.chunks_exact(stride).skip(others.start);
            for (to, row) in mail.chunks_exact_mut(own_columns.len().max(1)).zip(rows) {
                to.copy_from_slice(row.get(own_columns.clone())?);
            }
            Some(())
        })?;
        link.take(|mail| {
            let mail = mail.get(..own.len() * others_columns.len())?;
            let rows = floats.chunks_exact_mut(stride).skip(own.start).take(own.len());
            for (row, from) in rows.zip(mail.chunks_exact(others_columns.len().max(1))) {
                row.get_mut(others_columns.clone())?.copy_from_slice(from);
            }
            Some(())
        })
    }

    fn head<F: Family>(&mut self, kernels: F, input: Rows, linear: Linear, document: Document) -> Option<()> {
        let (shape, plan, weights) = (self.program.shape(), self.program.plan(), self.program.weights());
        let input = plan.rows(input, self.ids.len());
        let (width, stride, labels) = (input.width, float_stride(input.width), shape.labels);
        let logits_stride = float_stride(labels);
        let Layer::F32(layer) = Layer::of(weights, linear, &[])? else { return None };
        let used = used_sentences(shape, self.sentence_ids);
        // The document's own row follows those of the sentences.
        let [sums, counts, logits] = plan.head(used);
        let [sentence_logits, document_logits] = plan.logits();
        let [states, sums, counts, logits, sentence_logits, document_logits] =
            disjoint(self.memory, [input.floats?, sums, counts, logits, sentence_logits, document_logits])?;
        let states = floats(states)?.chunks_exact(stride);
        let (sums, counts, logits) = (floats(sums)?, floats(counts)?, floats(logits)?);
        let (sentence_logits, document_logits) = (floats(sentence_logits)?, floats(document_logits)?);

        sums.fill(0.0);
        counts.fill(0.0);
        for (&id, state) in self.sentence_ids.iter().zip(states) {
            let Some(sentence) = sentence(shape, id) else { continue };
            sums.chunks_exact_mut(stride).nth(sentence)?.iter_mut().zip(state).for_each(|(sum, value)| *sum += value);
            *counts.get_mut(sentence)? += 1.0;
        }
        let (by_sentence, of_document) = sums.split_at_mut_checked(used * stride)?;
        for sentence in by_sentence.chunks_exact(stride) {
            of_document.iter_mut().zip(sentence).for_each(|(sum, value)| *sum += value);
        }
        let (of_all, by_each) = counts.split_last_mut()?;
        *of_all = by_each.iter().sum();
        for (row, count) in sums.chunks_exact_mut(stride).zip(&*counts) {
            row.iter_mut().for_each(|value| *value /= count.max(1.0));
        }
        let means = Floats { values: sums, rows: used + 1, width, stride };
        let to = FloatsMut { values: &mut *logits, rows: used + 1, width: labels, stride: logits_stride };
        kernels.linear_f32(means, &layer, false, to)?;

        sentence_logits.fill(ABSENT);
        let rows = logits.chunks_exact(logits_stride);
        let by_sentence = rows.clone().zip(&*counts).take(used);
        for ((row, &count), to) in by_sentence.zip(sentence_logits.chunks_exact_mut(labels)) {
            if count > 0.0 {
                to.copy_from_slice(row.get(..labels)?);
            }
        }
        match document {
            Document::Mean => document_logits.copy_from_slice(rows.clone().nth(used)?.get(..labels)?),
            Document::LogSumExp { bias } => {
                let bias = weights.vector(bias)?;
                for (label, (logit, bias)) in document_logits.iter_mut().zip(bias).enumerate() {
                    let all = || sentence_logits.iter().skip(label).step_by(labels);
                    let largest = all().fold(ABSENT, |largest, &value| largest.max(value));
                    let sum: f32 = all().map(|value| exp_or_nothing(value - largest)).sum();
                    *logit = ln(sum) + largest + bias;
                }
            }
        }
        Some(())
    }
}

/// Sentences up to the last one that owns a token.
pub(super) fn used_sentences(shape: Shape, sentence_ids: &[i32]) -> usize {
    let all = sentence_ids.iter().filter_map(|&id| sentence(shape, id));
    all.max().map_or(0, |last| last + 1)
}

/// The sentence of this id; one beyond the last is none.
fn sentence(shape: Shape, id: i32) -> Option<usize> {
    usize::try_from(id).ok().filter(|&id| id < shape.max_sentences)
}

/// Logit of a sentence that owns no token.
const ABSENT: f32 = -1e9;

/// `exp(x)` for `x <= 0`, 0 where `f32` would underflow.
fn exp_or_nothing(x: f32) -> f32 {
    if x < -86.0 { 0.0 } else { exp(x) }
}

/// Of so many rows or heads, what this side computes, and what the other one does.
fn halves(side: Side, count: usize) -> [Range<usize>; 2] {
    let middle = count.div_ceil(2);
    match side {
        Side::First => [0..middle, middle..count],
        Side::Second => [middle..count, 0..middle],
    }
}

/// What a linear layer reads: buffers, and the bytes of their rows.
fn row_parts(input: RowsPlan, linear: &Linear) -> Option<[(Buffer, usize); 2]> {
    Some(match linear.panels {
        Panels::I8 { .. } => [(input.integers?, integer_stride(input.width)), (input.scales?, 4)],
        Panels::F32 { .. } => [(input.floats?, 4 * float_stride(input.width)), (Buffer::default(), 0)],
    })
}

/// Rows of one block after the other, all of nearly the same height.
fn blocks(all: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let (start, rows) = (all.start, all.len());
    let count = rows.div_ceil(BLOCK).max(1);
    (0..count).map(move |block| start + rows * block / count..start + rows * (block + 1) / count)
}

/// Where a step's rows go: floats, and the integers that later steps multiply.
struct Output<'m> {
    floats: &'m mut [f32],
    integers: &'m mut [u8],
    scales: &'m mut [f32],
    rows: RowsPlan,
}

impl<'m> Output<'m> {
    fn of([values, integers, scales]: [&'m mut [u8]; 3], rows: RowsPlan) -> Option<Self> {
        Some(Self { floats: floats(values)?, integers, scales: floats(scales)?, rows })
    }

    fn floats(&mut self, block: &Range<usize>) -> Option<FloatsMut<'_>> {
        let (width, stride) = (self.rows.width, float_stride(self.rows.width));
        let values = self.floats.get_mut(block.start * stride..block.end * stride)?;
        Some(FloatsMut { values, rows: block.len(), width, stride })
    }

    /// The rows of a block of each head, of floats that lie head by head.
    fn heads(&mut self, head: usize, tokens: usize, block: &Range<usize>) -> Option<impl Iterator<Item = &mut [f32]>> {
        let (start, end) = (block.start * head, block.end * head);
        let all = self.floats.get_mut(..tokens * self.rows.width)?;
        Some(all.chunks_exact_mut(tokens * head).filter_map(move |values| values.get_mut(start..end)))
    }

    /// Rounds the floats of a block, if a later step multiplies integers.
    fn quantize<F: Family>(&mut self, kernels: F, block: &Range<usize>) -> Option<()> {
        let (width, stride) = (self.rows.width, float_stride(self.rows.width));
        if self.rows.integers.is_none() {
            return Some(());
        }
        let values = self.floats.get(block.start * stride..)?;
        let input = Floats { values, rows: block.len(), width, stride };
        kernels.quantize(input, integers_of(self.integers, self.scales, width, block)?)
    }

    /// Rounds floats that are not stored otherwise.
    fn quantize_from<F: Family>(&mut self, kernels: F, from: FloatsMut<'_>, block: &Range<usize>) -> Option<()> {
        if self.rows.integers.is_none() {
            return Some(());
        }
        let input = Floats { values: from.values, rows: from.rows, width: from.width, stride: from.stride };
        kernels.quantize(input, integers_of(self.integers, self.scales, self.rows.width, block)?)
    }
}

fn integers_of<'a>(
    integers: &'a mut [u8],
    scales: &'a mut [f32],
    width: usize,
    block: &Range<usize>,
) -> Option<IntegersMut<'a>> {
    let stride = integer_stride(width);
    let values = integers.get_mut(block.start * stride..)?;
    Some(IntegersMut { values, scales: scales.get_mut(block.start..)?, stride })
}

/// What a linear layer multiplies, in the form that its weights are for.
struct Input<'m> {
    values: &'m [u8],
    /// Of integers.
    scales: &'m [f32],
    width: usize,
}

/// A linear layer's weights, found.
pub(super) enum Layer<'w> {
    I8(LinearI8<'w>),
    F32(LinearF32<'w>),
}

impl<'w> Layer<'w> {
    /// `prepared` is what the kernels found of its int8 weights.
    pub(super) fn of(weights: &'w Weights, linear: Linear, prepared: &'w [u64]) -> Option<Self> {
        let (outputs, inputs) = (linear.outputs as usize, linear.inputs as usize);
        let padded = outputs.next_multiple_of(LANES);
        let bias = weights.vector(linear.bias)?;
        Some(match linear.panels {
            Panels::I8 { values, scales, sums } => Self::I8(LinearI8 {
                outputs,
                inputs,
                panels: weights.view(values, padded * inputs.next_multiple_of(4))?,
                scales: weights.vector(scales)?,
                bias,
                sums: weights.view(sums, padded)?,
                prepared,
            }),
            Panels::F32 { values } => {
                Self::F32(LinearF32 { outputs, inputs, panels: weights.view(values, padded * inputs)?, bias })
            }
        })
    }
}

impl Layer<'_> {
    /// The outputs `range`, whose ends are multiples of 16.
    fn columns(&self, range: Range<usize>) -> Option<Layer<'_>> {
        let panels = |inputs: usize| range.start * inputs..range.end * inputs;
        Some(match self {
            Self::I8(layer) => {
                let of_panel = layer.prepared.len().checked_div(layer.outputs.div_ceil(LANES))?;
                Layer::I8(LinearI8 {
                    outputs: range.len(),
                    inputs: layer.inputs,
                    panels: layer.panels.get(panels(layer.inputs.next_multiple_of(4)))?,
                    scales: layer.scales.get(range.clone())?,
                    bias: layer.bias.get(range.clone())?,
                    sums: layer.sums.get(range.clone())?,
                    prepared: layer.prepared.get(range.start / LANES * of_panel..range.end / LANES * of_panel)?,
                })
            }
            Self::F32(layer) => Layer::F32(LinearF32 {
                outputs: range.len(),
                inputs: layer.inputs,
                panels: layer.panels.get(panels(layer.inputs))?,
                bias: layer.bias.get(range.clone())?,
            }),
        })
    }

    /// Multiplies the rows of a block.
    fn run<F: Family>(
        &self,
        kernels: F,
        input: &Input<'_>,
        block: &Range<usize>,
        gelu: bool,
        to: FloatsMut<'_>,
    ) -> Option<()> {
        let (rows, width) = (block.len(), input.width);
        match self {
            Self::I8(layer) => {
                let stride = integer_stride(width);
                let values = input.values.get(block.start * stride..)?;
                let scales = input.scales.get(block.clone())?;
                kernels.linear_i8(Integers { values, scales, rows, width, stride }, layer, gelu, to)
            }
            Self::F32(layer) => {
                let stride = float_stride(width);
                let values = bytemuck::try_cast_slice(input.values).ok()?;
                let values: &[f32] = values.get(block.start * stride..)?;
                kernels.linear_f32(Floats { values, rows, width, stride }, layer, gelu, to)
            }
        }
    }
}

/// An embedding table, found.
enum Embedding<'w> {
    I8 { values: &'w [i8], scales: &'w [f32] },
    F32 { values: &'w [f32] },
}

impl<'w> Embedding<'w> {
    fn of(weights: &'w Weights, table: Table) -> Option<Self> {
        let len = table.rows as usize * table.width as usize;
        Some(match table.values {
            TableValues::I8 { values, scales } => Self::I8 {
                values: weights.view(values, len)?,
                scales: weights.vector(scales)?.get(..table.rows as usize)?,
            },
            TableValues::F32 { values } => Self::F32 { values: weights.view(values, len)? },
        })
    }

    /// `None` when the table has no such row.
    fn copy(&self, row: usize, to: &mut [f32]) -> Option<()> {
        to.fill(0.0);
        self.add(row, to)
    }

    fn add(&self, row: usize, to: &mut [f32]) -> Option<()> {
        let range = row.checked_mul(to.len())?..(row + 1).checked_mul(to.len())?;
        match self {
            Self::I8 { values, scales } => {
                let scale = *scales.get(row)?;
                to.iter_mut().zip(values.get(range)?).for_each(|(to, &value)| *to += f32::from(value) * scale);
            }
            Self::F32 { values } => to.iter_mut().zip(values.get(range)?).for_each(|(to, value)| *to += value),
        }
        Some(())
    }
}

impl RowsPlan {
    fn floats(self) -> Buffer {
        self.floats.unwrap_or_default()
    }

    fn integers(self) -> Buffer {
        self.integers.unwrap_or_default()
    }

    fn scales(self) -> Buffer {
        self.scales.unwrap_or_default()
    }
}

fn norm_of(weights: &Weights, norm: Norm) -> Option<NormView<'_>> {
    let Norm { weight, bias, epsilon } = norm;
    Some(NormView { weight: weights.vector(weight)?, bias: weights.vector(bias)?, epsilon })
}

fn disjoint<const N: usize>(memory: &mut [u8], buffers: [Buffer; N]) -> Option<[&mut [u8]; N]> {
    memory.get_disjoint_mut(buffers.map(Buffer::range)).ok()
}

fn floats(bytes: &mut [u8]) -> Option<&mut [f32]> {
    bytemuck::try_cast_slice_mut(bytes).ok()
}
