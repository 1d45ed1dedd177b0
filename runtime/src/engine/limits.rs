use super::EngineError;
use crate::program::Program;

/// What a model may take for one text, whoever made it. A program that could take more is refused before anything is
/// allocated for it. Of a graph that runs on tract it is an estimate from shapes: what the operators themselves allocate while
/// they run comes on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    max_memory: usize,
    max_multiply_adds: u64,
}

impl Limits {
    /// 512 MiB: a BERT-base of 4,096 tokens takes a third.
    pub const DEFAULT_MAX_MEMORY: usize = 512 << 20;
    /// 2^40: a BERT-base of 4,096 tokens takes six tenths.
    pub const DEFAULT_MAX_MULTIPLY_ADDS: u64 = 1 << 40;

    /// The defaults.
    pub fn new() -> Self {
        Self { max_memory: Self::DEFAULT_MAX_MEMORY, max_multiply_adds: Self::DEFAULT_MAX_MULTIPLY_ADDS }
    }

    /// Most bytes of a scratch, and as many of what kernels find of the weights once for all texts (a hundredth of them or two).
    #[must_use]
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.max_memory = bytes;
        self
    }

    /// Most multiply-adds of the longest text: what bounds its time.
    #[must_use]
    pub fn max_multiply_adds(mut self, multiply_adds: u64) -> Self {
        self.max_multiply_adds = multiply_adds;
        self
    }

    pub(super) fn check(&self, program: &Program) -> Result<(), EngineError> {
        self.check_estimate(program.memory_required() as u64, program.multiply_adds(program.shape().max_tokens))
    }

    pub(crate) fn check_estimate(&self, memory: u64, multiply_adds: u64) -> Result<(), EngineError> {
        if memory > self.max_memory as u64 {
            let required = usize::try_from(memory).unwrap_or(usize::MAX);
            return Err(EngineError::Memory { required, max: self.max_memory });
        }
        if multiply_adds > self.max_multiply_adds {
            return Err(EngineError::MultiplyAdds { required: multiply_adds, max: self.max_multiply_adds });
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}
