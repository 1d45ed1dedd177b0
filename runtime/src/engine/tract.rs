use std::panic::{AssertUnwindSafe, catch_unwind};

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::ensure;
use tract_onnx::tract_core::ops::matmul::optimized::OptMatMul;
use tract_onnx::tract_hir::infer::{InferenceFact, InferenceModelExt};

use super::{EngineError, GraphError};

pub(super) const NAME: &str = "tract 0.23";

/// An ONNX model, optimised once for every number of tokens.
pub(super) struct Graph {
    plan: Arc<TypedRunnableModel>,
    kernels: Vec<String>,
}

impl Graph {
    pub(super) fn new(model: &[u8]) -> Result<Self, EngineError> {
        guard(|| Self::load(model)).map_err(EngineError::Model)
    }

    fn load(model: &[u8]) -> TractResult<Self> {
        let mut model = tract_onnx::onnx()
            .model_for_read(&mut &model[..])?
            .with_inputs_by_name(["input_ids", "sentence_ids"])?
            .with_outputs_by_name(["sentence_logits", "document_logits"])?;
        let tokens = model.symbols.sym("tokens");
        for input in 0..2 {
            model.set_input_fact(input, InferenceFact::dt_shape(i64::datum_type(), [1.to_dim(), tokens.to_dim()]))?;
        }
        let plan = model.into_optimized()?.into_runnable()?;
        let mut kernels: Vec<String> = plan
            .model()
            .nodes()
            .iter()
            .filter_map(|node| node.op_as::<OptMatMul>())
            .flat_map(|op| op.mmm.iter().map(|kernel| kernel.name().to_owned()))
            .collect();
        kernels.sort_unstable();
        kernels.dedup();
        Ok(Self { plan, kernels })
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
            let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
            let sentence_ids: Vec<i64> = sentence_ids.iter().map(|&id| i64::from(id)).collect();
            let row = |values: &[i64]| Tensor::from_shape(&[1, values.len()], values);
            let outputs = self.plan.run(tvec!(row(&ids)?.into(), row(&sentence_ids)?.into()))?;
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
