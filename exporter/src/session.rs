//! Runs an exported graph on tract, whose outputs are the reference that other engines are compared with.

use std::fmt;

use tract_onnx::prelude::*;

/// An exported graph, ready to run.
#[derive(Debug)]
pub struct Session {
    plan: Arc<TypedRunnableModel>,
}

/// What one run gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    /// `[max_sentences, labels]`, row by row.
    pub sentences: Vec<f32>,
    /// `[labels]`.
    pub document: Vec<f32>,
}

impl Session {
    /// Reads and optimises an ONNX model that [`crate::graph::onnx`] wrote.
    ///
    /// # Errors
    /// When tract refuses the model.
    pub fn new(model: &[u8]) -> Result<Self, SessionError> {
        let plan = tract_onnx::onnx()
            .model_for_read(&mut &model[..])
            .and_then(|model| model.into_optimized())
            .and_then(|model| model.into_runnable());
        plan.map(|plan| Self { plan }).map_err(SessionError)
    }

    /// Logits of one input: token ids with their special tokens, and the sentence of each token, -1 for none.
    ///
    /// # Errors
    /// When the two lengths differ, or tract fails: an id beyond the vocabulary, more tokens than positions.
    pub fn run(&self, ids: &[u32], sentence_ids: &[i32]) -> Result<Logits, SessionError> {
        let row = |values: Vec<i64>| Tensor::from_shape(&[1, values.len()], &values);
        let run = || {
            let ids = row(ids.iter().map(|&id| i64::from(id)).collect())?;
            let sentence_ids = row(sentence_ids.iter().map(|&id| i64::from(id)).collect())?;
            let outputs = self.plan.run(tvec!(ids.into(), sentence_ids.into()))?;
            let values = |index: usize| outputs[index].try_as_plain_ram()?.as_slice::<f32>().map(<[f32]>::to_vec);
            Ok(Logits { sentences: values(0)?, document: values(1)? })
        };
        run().map_err(SessionError)
    }
}

/// Why tract could not load or run a graph.
#[derive(Debug)]
pub struct SessionError(TractError);

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tract cannot run the graph: {:#}", self.0)
    }
}

impl std::error::Error for SessionError {}
