use super::EngineError;
use crate::program::Program;

/// What a model may take for one text, whoever made it. A program that could take more is refused before anything is
/// allocated for it. A graph that runs on tract is not bounded: open one only from where you trust.
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

    /// Most bytes of a scratch.
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
        let (required, max) = (program.memory_required(), self.max_memory);
        if required > max {
            return Err(EngineError::Memory { required, max });
        }
        let (required, max) = (program.multiply_adds(program.shape().max_tokens), self.max_multiply_adds);
        if required > max {
            return Err(EngineError::MultiplyAdds { required, max });
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}
