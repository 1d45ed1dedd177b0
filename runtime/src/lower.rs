//! Turns the graph of a BERT-family encoder with kdh's head into a [`Program`].
//!
//! tract reads the ONNX model and declutters it; `read` turns its operators into expressions over named axes
//! (token, sentence, head, feature), in which transpositions, reshapes, broadcasts and masks of a single text have
//! vanished; `assemble` recognises the program's steps in them, by structure. Names of nodes play no part.

use core::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use bounds::Bounds;
use tract_onnx::Onnx;
use tract_onnx::pb::{GraphProto, ModelProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::ensure;
use tract_onnx::tract_core::optim::Optimizer;
use tract_onnx::tract_hir::infer::{InferenceFact, InferenceModelExt};

use crate::program::{Program, ProgramError, Shape};

mod assemble;
pub(crate) mod bounds;
mod expr;
mod read;

/// Lowers an ONNX model with the inputs `input_ids` and `sentence_ids` and the outputs `sentence_logits` and
/// `document_logits`.
///
/// The encoder is a post-norm transformer (Vaswani et al. 2017) with learnt positions and the exact GELU, in f32 or with
/// linear layers in the dynamic int8 of the exporter's `ARITHMETIC.md`. The further inputs that encoders have elsewhere
/// are those of one text without padding: `attention_mask` is all 1, `token_type_ids` all 0.
///
/// # Errors
///
/// [`LowerError`] says which operator is in the way. The model may still run on tract.
pub fn lower(model: &[u8], shape: Shape) -> Result<Program, LowerError> {
    Graph::read(model, shape.max_tokens).map_err(LowerError::Graph)?.lower(shape)
}

/// A graph that tract has read and decluttered. It is lowered, or tract runs it.
pub(crate) struct Graph {
    pub(crate) model: TypedModel,
    pub(crate) bounds: Bounds,
}

impl Graph {
    /// Reads an ONNX model for texts of at most so many tokens, or says why it cannot be.
    pub(crate) fn read(model: &[u8], max_tokens: usize) -> Result<Self, String> {
        guard(|| {
            let (mut model, bounds) = typed(model, max_tokens)?;
            rewrite(Optimizer::declutter(), &mut model)?;
            Ok(Self { model, bounds })
        })
    }

    pub(crate) fn lower(&self, shape: Shape) -> Result<Program, LowerError> {
        let expressions = guard(|| read::read(&self.model)).map_err(LowerError::Graph)?;
        guard(|| Ok(assemble::assemble(&expressions, shape))).map_err(LowerError::Graph)?
    }
}

/// Runs `work` and turns a panic into an error: tract does not promise to refuse every strange graph in good order, and a
/// bundle that was damaged in the making must not take the process down.
pub(crate) fn guard<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    // Whatever a panic leaves half done is dropped with `work`, or is logits that the caller never gets to see.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| format!("{error:#}")),
        Err(_) => Err("tract panicked".into()),
    }
}

/// A model cannot be lowered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LowerError {
    /// The model cannot be read.
    Graph(String),
    /// An operator stands where no step of a program has one.
    Operator {
        /// The operator, and the name that the graph gives it.
        operator: String,
        /// Type and shape of what the operator gives.
        shape: String,
        /// Why it cannot be part of a program.
        reason: String,
    },
    /// The parts were recognised and do not make a program.
    Program(ProgramError),
}

impl From<ProgramError> for LowerError {
    fn from(error: ProgramError) -> Self {
        Self::Program(error)
    }
}

impl fmt::Display for LowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Graph(cause) => write!(f, "the graph cannot be read ({cause})"),
            Self::Operator { operator, shape, reason } => write!(f, "{operator}, which gives {shape}: {reason}"),
            Self::Program(error) => error.fmt(f),
        }
    }
}

// The texts above already hold the text of the cause, so `source` stays empty: a chain would print it twice.
impl core::error::Error for LowerError {}

/// tract takes an order of axes that is none for one, and looks for a way to it until there is no memory left. It counts up to the
/// axis of a layer normalisation, and to nearly 2^64 where a negative one lies before the first.
fn check_axes(graph: &GraphProto) -> TractResult<()> {
    for node in &graph.node {
        for attribute in &node.attribute {
            match node.op_type.as_str() {
                "Transpose" => {
                    let mut axes = 0..attribute.ints.len() as i64;
                    let order = axes.all(|axis| attribute.ints.contains(&axis));
                    ensure!(order, "a transposition without an order of axes");
                }
                "LayerNormalization" if attribute.name == "axis" => {
                    let axis = attribute.i;
                    ensure!((-1..16).contains(&axis), "a layer normalisation over axis {axis}; give -1");
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Symbol of the number of tokens.
const TOKENS: &str = "tokens";

/// Parses an ONNX model for one text of at most so many tokens; the outputs are `sentence_logits` and `document_logits`. Its
/// constants are not folded yet, and will not take more than the bounds allow.
fn typed(model: &[u8], max_tokens: usize) -> TractResult<(TypedModel, Bounds)> {
    let proto = onnx().proto_model_for_read(&mut &model[..])?;
    typed_of(&proto, model.len(), max_tokens)
}

fn typed_of(proto: &ModelProto, len: usize, max_tokens: usize) -> TractResult<(TypedModel, Bounds)> {
    if let Some(graph) = &proto.graph {
        Bounds::check_written(graph, len)?;
        check_axes(graph)?;
    }
    let mut model =
        onnx().model_for_proto_model(proto)?.with_outputs_by_name(["sentence_logits", "document_logits"])?;
    let tokens = model.symbols.sym(TOKENS);
    let bounds = Bounds::new(len, tokens.clone(), max_tokens);
    for input in 0..model.inputs.len() {
        model.set_input_fact(input, InferenceFact::dt_shape(i64::datum_type(), [1.to_dim(), tokens.to_dim()]))?;
    }
    bounds.analyse(&mut model)?;
    let model = model.into_typed()?;
    bounds.check_constants(&model)?;
    Ok((model, bounds))
}

/// Lets tract rewrite a graph in so many steps as its size calls for. There are graphs that tract would rewrite for ever; where it
/// stops early, the graph computes what it did.
pub(crate) fn rewrite(optimizer: Optimizer, graph: &mut TypedModel) -> TractResult<()> {
    optimizer.stopping_at(most_steps(graph)).optimize(graph)
}

/// Steps that a graph is rewritten in at most.
fn most_steps(graph: &TypedModel) -> usize {
    200 + 8 * graph.nodes().len()
}

/// tract's reader with all its operators, made once.
fn onnx() -> &'static Onnx {
    static ONNX: LazyLock<Onnx> = LazyLock::new(|| {
        // What exporters say of shapes has symbols of its own for the batch and the number of tokens.
        tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true)
    });
    &ONNX
}
