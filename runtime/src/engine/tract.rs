use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{bail, ensure};
use tract_onnx::tract_core::ops::matmul::optimized::OptMatMul;
use tract_onnx::tract_core::optim::Optimizer;

use super::{EngineError, GraphError, Limits};
use crate::lower::bounds::TooMuch;
use crate::lower::{self, guard, rewrite};

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
    /// Optimises a model that takes no more for a text than the limits allow, as far as shapes tell.
    pub(super) fn new(graph: lower::Graph, limits: &Limits) -> Result<Self, EngineError> {
        let mut too_much = None;
        let optimised = guard(|| {
            Self::optimise(graph, limits).or_else(|error| match error.downcast::<TooMuch>() {
                Ok(TooMuch(error)) => {
                    too_much = Some(error);
                    bail!("the limits")
                }
                Err(error) => Err(error),
            })
        });
        optimised.map_err(|cause| too_much.unwrap_or(EngineError::Model(GraphError(cause))))
    }

    fn optimise(lower::Graph { mut model, bounds }: lower::Graph, limits: &Limits) -> TractResult<Self> {
        let input = |outlet: &OutletId| match &*model.node(outlet.node).name {
            "input_ids" => Ok(Input::Ids),
            "sentence_ids" => Ok(Input::SentenceIds),
            "attention_mask" => Ok(Input::AttentionMask),
            "token_type_ids" => Ok(Input::TokenTypeIds),
            name => bail!("the input `{name}` is not known"),
        };
        let inputs: Vec<Input> = model.inputs.iter().map(input).collect::<TractResult<_>>()?;
        ensure!(inputs.contains(&Input::Ids) && inputs.contains(&Input::SentenceIds), "an input is missing");
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
        .map_err(GraphError)
    }
}
