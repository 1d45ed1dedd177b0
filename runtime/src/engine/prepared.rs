use core::ops::Range;

use super::arena::Layer;
use super::{EngineError, Limits};
use crate::kernels::{Family, Task};
use crate::program::{Linear, Panels, Program, Step};

/// What a family of kernels has found of a program's int8 weights, once for all runs.
#[derive(Default)]
pub(super) struct Prepared {
    /// In `words`, of each step.
    ranges: Vec<Range<usize>>,
    words: Vec<u64>,
}

impl Prepared {
    /// Of the step with this number.
    pub(super) fn of(&self, step: usize) -> Option<&[u64]> {
        self.words.get(self.ranges.get(step)?.clone())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words)
    }

    /// To damage it.
    #[cfg(test)]
    pub(super) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }
}

/// Prepares a program's weights. `None` when one is not where the checked program says, which cannot be.
pub(super) struct Prepare<'a> {
    pub(super) program: &'a Program,
    pub(super) limits: &'a Limits,
}

impl Task for Prepare<'_> {
    type Output = Option<Result<Prepared, EngineError>>;

    fn run<F: Family>(self, kernels: F) -> Self::Output {
        let Self { program, limits } = self;
        let steps = program.steps();
        let mut prepared = Prepared::default();
        if let Err(error) = reserve(&mut prepared.ranges, steps.len()) {
            return Some(Err(error));
        }
        let mut len = 0;
        for (at, step) in steps.iter().enumerate() {
            let linear = int8_of(step);
            // Steps that share weights share what is found of them.
            let same = steps.get(..at)?.iter().position(|before| linear.is_some() && int8_of(before) == linear);
            let range = match (same, linear) {
                (Some(same), _) => prepared.ranges.get(same)?.clone(),
                (None, Some(linear)) => {
                    len..len + kernels.prepared_len(linear.outputs as usize, linear.inputs as usize)
                }
                (None, None) => len..len,
            };
            len = len.max(range.end);
            prepared.ranges.push(range);
        }
        if let Err(error) = limits.check_estimate(8 * len as u64, 0).and_then(|()| reserve(&mut prepared.words, len)) {
            return Some(Err(error));
        }
        prepared.words.resize(len, 0);
        let mut done = 0;
        for (step, range) in steps.iter().zip(&prepared.ranges) {
            // Shared ones have been prepared for the first step that has them.
            if range.start < done || range.is_empty() {
                continue;
            }
            done = range.end;
            if let Some(Layer::I8(layer)) = int8_of(step).and_then(|linear| Layer::of(program.weights(), linear, &[])) {
                kernels.prepare(&layer, prepared.words.get_mut(range.clone())?)?;
            }
        }
        Some(Ok(prepared))
    }
}

fn int8_of(step: &Step) -> Option<Linear> {
    match *step {
        Step::Linear { linear, .. } => Some(linear).filter(|linear| matches!(linear.panels, Panels::I8 { .. })),
        _ => None,
    }
}

fn reserve<T>(to: &mut Vec<T>, len: usize) -> Result<(), EngineError> {
    to.try_reserve_exact(len).map_err(|_| EngineError::OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) })
}
