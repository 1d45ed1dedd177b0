use std::panic::{AssertUnwindSafe, catch_unwind};

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{bail, ensure};
use tract_onnx::tract_core::ops::matmul::optimized::OptMatMul;
use tract_onnx::tract_core::optim::Optimizer;

use super::{EngineError, GraphError, Limits};
use crate::lower::bounds::TooMuch;
use crate::lower::{rewrite, typed};

pub(super) const NAME: &str = "tract 0.23";

/// An ONNX model, optimised once for every number of tokens.
pub(super) struct Graph {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<Input>,
    kernels: Vec<String>,
}

/// What an input of a model takes. Encoders from elsewhere have the two last ones.
#[derive(Clone, Copy, PartialEq)]
enum Input {
    Ids,
    SentenceIds,
    AttentionMask,
    TokenTypeIds,
}

impl Graph {
    /// A model for texts of at most so many tokens, which takes no more for one than the limits allow, as far as shapes tell.
    pub(super) fn new(model: &[u8], max_tokens: usize, limits: &Limits) -> Result<Self, EngineError> {
        let mut too_much = None;
        let loaded = guard(|| {
            Self::load(model, max_tokens, limits).or_else(|error| match error.downcast::<TooMuch>() {
                Ok(TooMuch(error)) => {
                    too_much = Some(error);
                    bail!("the limits")
                }
                Err(error) => Err(error),
            })
        });
        loaded.map_err(|error| too_much.unwrap_or(EngineError::Model(error)))
    }

    fn load(model: &[u8], max_tokens: usize, limits: &Limits) -> TractResult<Self> {
        let (mut model, bounds) = typed(model, max_tokens)?;
        let input = |outlet: &OutletId| match &*model.node(outlet.node).name {
            "input_ids" => Ok(Input::Ids),
            "sentence_ids" => Ok(Input::SentenceIds),
            "attention_mask" => Ok(Input::AttentionMask),
            "token_type_ids" => Ok(Input::TokenTypeIds),
            name => bail!("the input `{name}` is not known"),
        };
        let inputs: Vec<Input> = model.inputs.iter().map(input).collect::<TractResult<_>>()?;
        ensure!(inputs.contains(&Input::Ids) && inputs.contains(&Input::SentenceIds), "an input is missing");
        rewrite(Optimizer::declutter(), &mut model)?;
        bounds.check_text(&model, limits)?;
        rewrite(Optimizer::codegen(), &mut model)?;
        let plan = model.into_runnable()?;
        let mut kernels: Vec<String> = plan
            .model()
            .nodes()
            .iter()
            .filter_map(|node| node.op_as::<OptMatMul>())
            .flat_map(|op| op.mmm.iter().map(|kernel| kernel.name().to_owned()))
            .collect();
        kernels.sort_unstable();
        kernels.dedup();
        Ok(Self { plan, inputs, kernels })
    }

    pub(super) fn kernels(&self) -> &[String] {
        &self.kernels
    }

    /// Writes the logits; their lengths must be those that the graph gives.
    pub(super) fn run(
        &self,
        ids: &[u32],
        sentence_ids: &[i32],
        sentences: &mut [f32],
        document: &mut [f32],
    ) -> Result<(), GraphError> {
        guard(|| {
            let row = |input: &Input| {
                let values: Vec<i64> = match input {
                    Input::Ids => ids.iter().map(|&id| i64::from(id)).collect(),
                    Input::SentenceIds => sentence_ids.iter().map(|&id| i64::from(id)).collect(),
                    // One text without padding.
                    Input::AttentionMask => vec![1; ids.len()],
                    Input::TokenTypeIds => vec![0; ids.len()],
                };
                Tensor::from_shape(&[1, values.len()], &values).map(TValue::from)
            };
            let outputs = self.plan.run(self.inputs.iter().map(row).collect::<TractResult<_>>()?)?;
            let labels = document.len();
            let shapes = [vec![1, sentences.len() / labels, labels], vec![1, labels]];
            for ((output, values), shape) in outputs.iter().zip([sentences, document]).zip(shapes) {
                ensure!(output.shape() == shape, "logits of shape {:?}, the manifest says {shape:?}", output.shape());
                values.copy_from_slice(output.try_as_plain_ram()?.as_slice::<f32>()?);
            }
            Ok(())
        })
    }
}

/// Runs `work` and turns a panic into an error: tract does not promise to refuse every strange graph in good order, and a
/// bundle that was damaged in the making must not take the process down.
fn guard<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, GraphError> {
    // Whatever a panic leaves half done is dropped with `work`, or is logits that the caller never gets to see.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(GraphError(format!("{error:#}"))),
        Err(_) => Err(GraphError("tract panicked".into())),
    }
}
