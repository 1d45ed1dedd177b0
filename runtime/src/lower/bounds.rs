use core::fmt;
use std::collections::BTreeSet;

use tract_onnx::pb::{AttributeProto, GraphProto, TensorProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{Cost, TDim, bail, ensure, format_err};
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::source::TypedSource;
use tract_onnx::tract_hir::infer::{Factoid, InferenceFact};

use crate::engine::Limits;

/// What a graph may ask of tract, which itself takes whatever a graph says: memory and time for constants while the graph is
/// read, and for a text when tract runs it. Everything is computed from shapes, before it is taken.
///
/// Bounded are the numbers of nodes and of their inputs, the operators (those that encoders are made of, none of which takes more
/// than its inputs and outputs say), the bytes and the arithmetic of everything that depends on constants alone, and the terms of
/// a dimension. What remains is said in `docs/known-anomalies.md`.
#[derive(Clone)]
pub(crate) struct Bounds {
    /// Stands for the number of tokens.
    tokens: Symbol,
    max_tokens: u64,
    /// Bytes of what is computed from constants.
    max_constants: u64,
}

impl Bounds {
    /// Those of a graph of so many bytes, in whose dimensions `tokens` stands for the number of tokens.
    pub(super) fn new(graph_len: usize, tokens: Symbol, max_tokens: usize) -> Self {
        let max_constants = CONSTANTS_OF_ANY_GRAPH + CONSTANTS_OF_A_BYTE * graph_len as u64;
        Self { tokens, max_tokens: max_tokens as u64, max_constants }
    }

    /// Checks a graph of so many bytes as it is written.
    pub(super) fn check_written(graph: &GraphProto, graph_len: usize) -> TractResult<()> {
        ensure!(graph.node.len() <= MAX_NODES, "{} nodes, at most {MAX_NODES} are read", graph.node.len());
        let edges: usize = graph.node.iter().map(|node| node.input.len() + node.output.len()).sum();
        ensure!(edges <= MAX_EDGES, "{edges} inputs and outputs of nodes, at most {MAX_EDGES} are read");
        let holds = |tensor: &TensorProto| {
            let count = tensor.dims.iter().try_fold(1_u64, |all, &dim| all.checked_mul(u64::try_from(dim).ok()?));
            // No type takes less than a byte.
            let written = count.is_some_and(|count| count <= graph_len as u64);
            ensure!(written && tensor.dims.len() <= MAX_RANK, "a tensor says more of itself than it holds");
            Ok(())
        };
        graph.initializer.iter().try_for_each(holds)?;
        ensure!(graph.sparse_initializer.is_empty(), "sparse tensors are not read");
        for node in &graph.node {
            let known = OPERATORS.binary_search(&&*node.op_type).is_ok();
            ensure!(known, "the operator {} is none that encoders are made of", node.op_type);
            for AttributeProto { t, tensors, g, graphs, .. } in &node.attribute {
                t.iter().chain(tensors).try_for_each(holds)?;
                ensure!(g.is_none() && graphs.is_empty(), "graphs inside of a graph are not read");
            }
        }
        Ok(())
    }

    /// Finds types, shapes and constants, as `InferenceModel::analyse` does, with a look at what a constant will take before tract
    /// computes it. tract's own analysis then finds nothing new.
    pub(super) fn analyse(&self, model: &mut InferenceModel) -> TractResult<()> {
        let mut waiting: BTreeSet<usize> = (0..model.nodes().len()).collect();
        let mut spent = Spent::default();
        let mut visits = 0;
        while let Some(node) = waiting.pop_first() {
            visits += 1;
            ensure!(visits <= MAX_VISITS * model.nodes().len(), "shapes that do not settle");
            for outlet in self.infer(model, node, &mut spent)? {
                let successors = &model.node(outlet.node).outputs[outlet.slot].successors;
                waiting.extend(successors.iter().map(|successor| successor.node));
                waiting.insert(outlet.node);
                waiting.remove(&node);
            }
        }
        Ok(())
    }

    /// Refines what is known around a node; the outlets of which more is known now.
    fn infer(&self, model: &mut InferenceModel, id: usize, spent: &mut Spent) -> TractResult<Vec<OutletId>> {
        let (inputs, outputs) = model.node_facts(id)?;
        let inputs: TVec<InferenceFact> = inputs.into_iter().cloned().collect();
        let outputs: TVec<InferenceFact> = outputs.into_iter().cloned().collect();
        let node = model.node_mut(id);
        ensure!(node.op.nboutputs()? == outputs.len(), "a node with another number of outputs than its operator");
        // The last axis of none: tract would count to nearly 2^64.
        let mut ranks = inputs.iter().chain(&outputs).map(|fact| fact.shape.rank().concretize());
        ensure!(
            node.op.name() != "LayerNorm" || !ranks.any(|rank| rank == Some(0)),
            "a layer normalisation of a scalar"
        );
        let facts = || (inputs.iter().collect::<TVec<_>>(), outputs.iter().collect::<TVec<_>>());
        let known = facts();
        let (found_inputs, found_outputs, _) = node.op.infer_facts(known.0, known.1, tvec!())?;
        // tract reads the first number of a constant exponent, whether it has one or not.
        let empty = |fact: &InferenceFact| fact.value.concretize().is_some_and(|value| value.len() == 0);
        ensure!(node.op.name() != "Pow" || !found_inputs.iter().any(empty), "a power without numbers");
        if !found_inputs.is_empty() && found_inputs.iter().all(|fact| fact.value.concretize().is_some()) {
            // tract now computes the outputs.
            let mut elements = 0;
            for fact in &found_outputs {
                let volume = match &*node.op.name() {
                    "Range" => range(&found_inputs).unwrap_or_else(|| self.volume(fact)),
                    _ => self.volume(fact),
                };
                let volume = volume.ok_or_else(|| format_err!("a constant of unknown size"))?;
                let bytes = volume.saturating_mul(element_size(fact.datum_type.concretize()));
                spent.bytes = spent.bytes.saturating_add(bytes);
                elements += volume;
            }
            let longest = found_inputs.iter().filter_map(|fact| self.longest(fact)).max().unwrap_or(1);
            let each = if is_product(&node.op.name()) { longest } else { 1 };
            spent.work = spent.work.saturating_add(elements.saturating_mul(each));
            spent.check(self.max_constants)?;
        }
        let known = facts();
        let (found_inputs, found_outputs, _) = node.op.infer(known.0, known.1, tvec!())?;
        let mut refined = Vec::new();
        let of_inputs: Vec<OutletId> = model.node(id).inputs.to_vec();
        let of_outputs = (0..found_outputs.len()).map(|slot| OutletId::new(id, slot));
        for (outlet, found) in of_inputs.into_iter().zip(found_inputs).chain(of_outputs.zip(found_outputs)) {
            let before = model.outlet_fact(outlet)?;
            let now = found.unify(before)?;
            if now != *before {
                self.check_terms(&now)?;
                model.set_outlet_fact(outlet, now)?;
                refined.push(outlet);
            }
        }
        Ok(refined)
    }

    /// Dimensions, and values that dimensions are made of, must be short.
    fn check_terms(&self, fact: &InferenceFact) -> TractResult<()> {
        // tract names what it does not know yet, as the length of a range.
        let is_short = |dim: &TDim| {
            let largest = self.largest(dim, &mut MAX_TERMS.clone(), Some(self.max_tokens));
            ensure!(
                largest.is_some_and(|largest| largest <= MAX_DIMENSION),
                "a dimension of too many terms or too large"
            );
            Ok(())
        };
        ensure!(fact.shape.dims().count() <= MAX_RANK, "a tensor of too many dimensions");
        for dim in fact.shape.dims() {
            dim.concretize().iter().try_for_each(is_short)?;
        }
        match fact.value.concretize() {
            Some(value) if value.datum_type() == TDim::datum_type() => {
                value.try_as_plain_ram()?.as_slice::<TDim>()?.iter().try_for_each(is_short)
            }
            _ => Ok(()),
        }
    }

    /// Checks a graph whose types and shapes are known, before its constants are folded.
    pub(super) fn check_constants(&self, model: &TypedModel) -> TractResult<()> {
        ensure!(model.nodes().len() <= MAX_TYPED_NODES, "{} nodes, at most {MAX_TYPED_NODES}", model.nodes().len());
        let mut constant = vec![false; model.nodes().len()];
        let mut spent = Spent::default();
        for id in model.eval_order()? {
            let node = model.node(id);
            constant[id] = !node.op_is::<TypedSource>() && node.inputs.iter().all(|input| constant[input.node]);
            // What a graph holds is paid for; see `check_written`.
            if constant[id] && !node.op_is::<Const>() {
                let Taken { bytes, work } = self.taken(model, id)?;
                spent.bytes = spent.bytes.saturating_add(bytes);
                spent.work = spent.work.saturating_add(work);
                spent.check(self.max_constants)?;
            }
        }
        Ok(())
    }

    /// Checks what a text of the longest kind takes: the bytes of all values that are needed at the same time, and the
    /// multiply-adds, where any other operation on an element counts as one.
    ///
    /// # Errors
    ///
    /// [`TooMuch`].
    pub(crate) fn check_text(&self, model: &TypedModel, limits: &Limits) -> TractResult<()> {
        let order = model.eval_order()?;
        let mut last_use = vec![usize::MAX; model.nodes().len()];
        for (step, &id) in order.iter().enumerate() {
            model.node(id).inputs.iter().for_each(|input| last_use[input.node] = step);
        }
        model.outputs.iter().for_each(|output| last_use[output.node] = usize::MAX);
        let mut bytes_of = vec![0; model.nodes().len()];
        let (mut now, mut peak, mut work) = (0_u64, 0_u64, 0_u64);
        for (step, &id) in order.iter().enumerate() {
            let node = model.node(id);
            if !node.op_is::<Const>() {
                let taken = self.taken(model, id)?;
                bytes_of[id] = taken.bytes;
                now = now.saturating_add(taken.bytes);
                peak = peak.max(now);
                work = work.saturating_add(taken.work);
            }
            let inputs: BTreeSet<usize> = node.inputs.iter().map(|input| input.node).collect();
            let done = inputs.into_iter().filter(|&input| last_use[input] == step);
            now = now.saturating_sub(done.map(|input| bytes_of[input]).sum());
        }
        limits.check_estimate(peak, work).map_err(|error| TooMuch(error).into())
    }

    /// What the outputs of a node take.
    fn taken(&self, model: &TypedModel, id: usize) -> TractResult<Taken> {
        let too_large = || format_err!("a dimension of too many terms or too large");
        let mut taken = Taken { bytes: 0, work: 0 };
        for output in &model.node(id).outputs {
            let dims = output.fact.shape.dims();
            let elements =
                dims.iter().try_fold(1_u64, |all, dim| all.checked_mul(self.dim(dim)?)).ok_or_else(too_large)?;
            let bytes = elements.saturating_mul(element_size(Some(output.fact.datum_type)));
            (taken.bytes, taken.work) = (taken.bytes.saturating_add(bytes), taken.work.saturating_add(elements));
        }
        for (cost, count) in model.node(id).op.cost(&model.node_input_facts(id)?)? {
            if matches!(cost, Cost::FMA(_) | Cost::Div(_)) {
                taken.work = taken.work.saturating_add(self.product(&count).ok_or_else(too_large)?);
            }
        }
        Ok(taken)
    }

    /// Most elements of a value; `None` when its shape is not known, or it is too large.
    fn volume(&self, fact: &InferenceFact) -> Option<u64> {
        if fact.shape.is_open() {
            return None;
        }
        fact.shape.dims().try_fold(1_u64, |all, dim| {
            all.checked_mul(self.dim(&dim.concretize()?)?).filter(|&all| all <= MAX_DIMENSION)
        })
    }

    fn longest(&self, fact: &InferenceFact) -> Option<u64> {
        fact.shape.dims().filter_map(|dim| self.dim(&dim.concretize()?)).max()
    }

    /// The largest value that a dimension has with any number of tokens that a text may have.
    fn dim(&self, dim: &TDim) -> Option<u64> {
        self.largest(dim, &mut MAX_TERMS.clone(), None).filter(|&largest| largest <= MAX_DIMENSION)
    }

    /// As `dim`, of a product of dimensions.
    fn product(&self, product: &TDim) -> Option<u64> {
        self.largest(product, &mut (2 * MAX_RANK as u32 * MAX_TERMS), None)
    }

    /// Whatever the signs: of a sum that of all terms, of a quotient that of the dividend. `unknown` stands for all that is not the
    /// number of tokens.
    fn largest(&self, dim: &TDim, terms: &mut u32, unknown: Option<u64>) -> Option<u64> {
        *terms = terms.checked_sub(1)?;
        let mut of = |part: &TDim| self.largest(part, terms, unknown);
        match dim {
            TDim::Val(value) => Some(value.unsigned_abs()),
            TDim::Sym(symbol) => {
                if *symbol == self.tokens {
                    Some(self.max_tokens)
                } else {
                    unknown
                }
            }
            TDim::Add(parts) => parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(of(part)?)),
            TDim::Mul(parts) => parts.iter().try_fold(1_u64, |all, part| all.checked_mul(of(part)?)),
            TDim::MulInt(factor, part) => factor.unsigned_abs().checked_mul(of(part)?),
            TDim::Div(part, _) => of(part),
            TDim::Broadcast(parts) | TDim::Min(parts) | TDim::Max(parts) => {
                parts.iter().try_fold(0, |most, part| Some(of(part)?.max(most)))
            }
            TDim::Ge(left, right) | TDim::Eq(left, right) => {
                of(left)?;
                of(right)?;
                Some(1)
            }
        }
    }
}

/// A graph takes more than the limits allow for a text.
#[derive(Debug)]
pub(crate) struct TooMuch(pub(crate) crate::engine::EngineError);

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for TooMuch {}

/// What a node takes.
struct Taken {
    bytes: u64,
    work: u64,
}

/// What constants have taken so far.
#[derive(Default)]
struct Spent {
    bytes: u64,
    work: u64,
}

impl Spent {
    fn check(&self, max_bytes: u64) -> TractResult<()> {
        if self.bytes > max_bytes {
            bail!("constants of {} bytes, {max_bytes} are allowed for this graph", self.bytes);
        }
        ensure!(self.work <= MAX_CONSTANT_WORK, "{} operations on constants, at most {MAX_CONSTANT_WORK}", self.work);
        Ok(())
    }
}

/// Bytes of an element; the largest when the type is not known. A dimension's is that of a short one.
fn element_size(datum_type: Option<DatumType>) -> u64 {
    datum_type.map_or(16, |datum_type| datum_type.size_of() as u64)
}

/// Elements of a range of numbers, of which tract says that a very long one has none; the inner `None` when there are too many.
/// The outer one when its ends depend on the text.
fn range(inputs: &[InferenceFact]) -> Option<Option<u64>> {
    let number = |at: usize| inputs.get(at)?.value.concretize()?.cast_to_scalar::<f64>().ok();
    let elements = ((number(1)? - number(0)?) / number(2)?).abs().ceil();
    Some((elements <= MAX_DIMENSION as f64).then_some(elements as u64))
}

/// Whether an operator sums over a dimension of its inputs.
fn is_product(operator: &str) -> bool {
    operator.contains("MatMul") || operator.contains("Gemm")
}

/// A BERT of 24 layers has some 2,500.
const MAX_NODES: usize = 8192;
/// After tract has taken operators apart.
const MAX_TYPED_NODES: usize = 8 * MAX_NODES;
const MAX_EDGES: usize = 8 * MAX_NODES;
/// Looks at a node until its shapes are known; three are usual.
const MAX_VISITS: usize = 32;
const MAX_RANK: usize = 16;
/// Of a dimension.
const MAX_TERMS: u32 = 16;
/// Larger ones could overflow in a sum, and no memory holds them.
const MAX_DIMENSION: u64 = 1 << 40;
/// Bytes of what is computed from constants, whatever the graph.
const CONSTANTS_OF_ANY_GRAPH: u64 = 64 << 20;
/// And so many more for each byte of it: int8 weights become f32, and again something else.
const CONSTANTS_OF_A_BYTE: u64 = 16;
/// Seconds.
const MAX_CONSTANT_WORK: u64 = 1 << 32;

/// In order.
#[rustfmt::skip]
const OPERATORS: [&str; 100] = [
    "Abs", "Add", "And", "ArgMax", "ArgMin", "BiasGelu", "Cast", "CastLike", "Ceil", "Clip", "Concat", "Constant",
    "ConstantOfShape", "Cos", "CumSum", "DequantizeLinear", "Div", "Dropout", "DynamicQuantizeLinear", "Elu",
    "Equal", "Erf", "Exp", "Expand", "FastGelu", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Gelu",
    "Gemm", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "MatMul", "MatMulInteger", "Max",
    "Mean", "Min", "Mod", "Mul", "Neg", "Not", "OneHot", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear", "QuickGelu",
    "RMSNormalization", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round", "ScatterElements",
    "ScatterND", "Selu", "Shape", "Sigmoid", "Sign", "Sin", "Size", "Slice", "Softmax", "Softplus", "Split", "Sqrt",
    "Squeeze", "Sub", "Sum", "Swish", "Tanh", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::Instant;

    use tract_onnx::pb::{ModelProto, NodeProto, OperatorSetIdProto, TypeProto, ValueInfoProto, type_proto};

    use super::*;
    use crate::engine::EngineError;
    use crate::lower::{most_steps, rewrite, typed, typed_of};
    use tract_onnx::tract_core::optim::Optimizer;

    const INT64: i32 = 7;
    const FLOAT: i32 = 1;

    fn node(op_type: &str, input: &[&str], output: &str) -> NodeProto {
        let input = input.iter().map(|name| (*name).to_owned()).collect();
        NodeProto {
            op_type: op_type.into(),
            input,
            output: vec![output.into()],
            name: output.into(),
            ..Default::default()
        }
    }

    fn with_axis(node: NodeProto, axis: i64) -> NodeProto {
        // The type of an attribute that is an integer.
        let attribute = AttributeProto { name: "axis".into(), r#type: 2, i: axis, ..Default::default() };
        NodeProto { attribute: vec![attribute], ..node }
    }

    fn integers(name: &str, values: &[i64]) -> TensorProto {
        let (dims, int64_data) = (vec![values.len() as i64], values.to_vec());
        TensorProto { name: name.into(), dims, data_type: INT64, int64_data, ..Default::default() }
    }

    fn floats(name: &str, dims: &[i64]) -> TensorProto {
        let float_data = vec![0.5; dims.iter().product::<i64>() as usize];
        TensorProto { name: name.into(), dims: dims.to_vec(), data_type: FLOAT, float_data, ..Default::default() }
    }

    /// A graph whose outputs are `last`.
    fn graph(mut node: Vec<NodeProto>, initializer: Vec<TensorProto>, last: &str) -> ModelProto {
        node.extend(["sentence_logits", "document_logits"].map(|output| self::node("Identity", &[last], output)));
        let value = |name: &str| {
            let tensor = type_proto::Tensor { elem_type: INT64, shape: None };
            let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
            ValueInfoProto { name: name.into(), r#type: Some(r#type), ..Default::default() }
        };
        let input = ["input_ids", "sentence_ids"].map(value).to_vec();
        let output = ["sentence_logits", "document_logits"].map(value).to_vec();
        ModelProto {
            ir_version: 8,
            opset_import: vec![OperatorSetIdProto { version: 17, ..Default::default() }],
            graph: Some(GraphProto { node, initializer, input, output, ..Default::default() }),
            ..Default::default()
        }
    }

    /// What is said of a graph of 64 KiB that is bounded for 40 tokens.
    fn refusal(model: &ModelProto) -> String {
        let begin = Instant::now();
        let result = typed_of(model, 64 << 10, 40).and_then(|(mut model, bounds)| {
            rewrite(Optimizer::declutter(), &mut model)?;
            bounds.check_text(&model, &Limits::new())
        });
        let error = format!("{:#}", result.expect_err("the graph is taken"));
        println!("{:?}: {error}", begin.elapsed());
        error
    }

    /// Verifies
    #[test]
    fn constants_that_take_too_much_are_refused() {
        let huge = || vec![integers("huge", &[1 << 20, 1 << 20])];
        let ones = |name: &str| integers(name, &[1]);
        let graphs = [
            graph(vec![node("ConstantOfShape", &["huge"], "x")], huge(), "x"),
            graph(vec![node("Expand", &["one", "huge"], "x")], [huge(), vec![ones("one")]].concat(), "x"),
            graph(
                vec![node("Tile", &["one", "times"], "x")],
                vec![floats("one", &[1]), integers("times", &[1 << 30])],
                "x",
            ),
            graph(
                vec![node("Pad", &["one", "pads"], "x")],
                vec![floats("one", &[1]), integers("pads", &[1 << 30, 0])],
                "x",
            ),
            // Twice as long each time.
            {
                let double = |step: usize| {
                    let (from, to) = (format!("x{step}"), format!("x{}", step + 1));
                    with_axis(node("Concat", &[&from, &from], &to), 0)
                };
                graph((0..50).map(double).collect(), vec![ones("x0")], "x50")
            },
            // An outer product.
            graph(
                vec![node("MatMul", &["column", "row"], "x")],
                vec![floats("column", &[16_000, 1]), floats("row", &[1, 16_000])],
                "x",
            ),
            graph(
                vec![node("Add", &["column", "row"], "x")],
                vec![floats("column", &[16_000, 1]), floats("row", &[1, 16_000])],
                "x",
            ),
        ];
        for model in &graphs {
            let error = refusal(model);
            let known = ["constants of", "of unknown size", "too large"].iter().any(|known| error.contains(known));
            assert!(known, "{error}");
        }
        let scalar = |name: &str, value: i64| TensorProto { dims: vec![], ..integers(name, &[value]) };
        let range = graph(
            vec![node("Range", &["zero", "end", "one"], "x")],
            vec![scalar("zero", 0), scalar("end", 1 << 50), scalar("one", 1)],
            "x",
        );
        let error = refusal(&range);
        assert!(error.contains("of unknown size"), "{error}");
    }

    /// Verifies: R-110
    #[test]
    fn arithmetic_on_constants_is_bounded() {
        // A hundred products of 127 x 127 values are few; of 1,000 x 1,000 they are not.
        let powers = |width: i64| {
            let step = |step: usize| node("MatMul", &[&format!("x{step}"), "x0"], &format!("x{}", step + 1));
            graph((0..100).map(step).collect(), vec![floats("x0", &[width, width])], "x100")
        };
        let nodes = typed_of(&powers(127), 1 << 20, 40).unwrap().0.into_decluttered().unwrap().nodes().len();
        assert!(nodes < 10, "{nodes} nodes: the products are not folded");
        let error = typed_of(&powers(1000), 16 << 20, 40).map(drop).unwrap_err();
        assert!(format!("{error:#}").contains("operations on constants"), "{error:#}");
    }

    /// Of a real graph tract rewrites all that it would, in a quarter of the steps that it has.
    #[test]
    fn real_graphs_have_steps_to_spare() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = vec![root.join("../models/default.onnx")];
        files.extend(std::fs::read_dir(root.join("tests/data/graphs")).unwrap().map(|file| file.unwrap().path()));
        for file in files {
            let file = std::fs::read(file).unwrap();
            let (mut whole, _) = typed(&file, 40).unwrap();
            let mut few = whole.clone();
            for optimizer in [Optimizer::declutter, Optimizer::codegen] {
                let steps = most_steps(&few) / 4;
                optimizer().optimize(&mut whole).unwrap();
                optimizer().stopping_at(steps).optimize(&mut few).unwrap();
                let names = |model: &TypedModel| {
                    model.nodes().iter().map(|node| node.op.name().into_owned()).collect::<Vec<_>>()
                };
                assert_eq!(names(&few), names(&whole), "{steps} steps");
            }
        }
    }

    /// Verifies: R-110
    #[test]
    fn dimensions_of_many_terms_are_refused() {
        // The number of tokens, squared sixty times.
        let mut nodes = vec![node("Shape", &["input_ids"], "x0")];
        nodes.extend((0..60).map(|step| {
            let from = format!("x{step}");
            node("Mul", &[&from, &from], &format!("x{}", step + 1))
        }));
        let error = refusal(&graph(nodes, vec![], "x60"));
        assert!(error.contains("too many terms or too large"), "{error}");
        // A sum that grows and grows.
        let mut nodes = vec![node("Shape", &["input_ids"], "x0")];
        nodes.extend((0..200).flat_map(|step| {
            let (from, divided) = (format!("x{step}"), format!("d{step}"));
            [
                node("Div", &[&from, &format!("by{}", step % 3)], &divided),
                node("Add", &[&from, &divided], &format!("x{}", step + 1)),
            ]
        }));
        let by = (0..3).map(|at| integers(&format!("by{at}"), &[3 + at])).collect();
        let error = refusal(&graph(nodes, by, "x200"));
        assert!(error.contains("too many terms or too large"), "{error}");
    }

    /// Verifies
    #[test]
    fn a_text_that_would_take_too_much_is_refused() {
        // Every token becomes many.
        let wide = |width: i64| {
            graph(
                vec![
                    node("Unsqueeze", &["input_ids", "two"], "x"),
                    node("Expand", &["x", "wide"], "y"),
                    node("Neg", &["y"], "z"),
                ],
                vec![integers("two", &[2]), integers("wide", &[1, 1, width])],
                "z",
            )
        };
        let (model, bounds) = typed_of(&wide(100), 64 << 10, 40).unwrap();
        let limits = Limits::new();
        let too_much =
            |limits: &Limits| bounds.check_text(&model, limits).unwrap_err().downcast::<TooMuch>().unwrap().0;
        let error = too_much(&limits.max_memory(1000));
        // 40 x 100 integers of 8 bytes, before and after they are negated, and perhaps once more for the outputs.
        let EngineError::Memory { required, .. } = error else { panic!("{error}") };
        assert!((2 * 8 * 40 * 100..4 * 8 * 40 * 100).contains(&required), "{required} bytes");
        bounds.check_text(&model, &limits.max_memory(required)).unwrap();
        assert!(matches!(too_much(&limits.max_memory(required - 1)), EngineError::Memory { .. }));
        assert!(matches!(too_much(&limits.max_multiply_adds(4_000)), EngineError::MultiplyAdds { .. }));
        let error = refusal(&wide(1 << 30));
        assert!(error.contains("raise max_memory"), "{error}");
    }

    #[test]
    fn a_graph_of_many_nodes_is_read() {
        // Of a quarter of what is read: tract's time grows with the square.
        let step = |step: usize| {
            let from = if step == 0 { "input_ids".to_owned() } else { format!("x{step}") };
            node(["Neg", "Abs"][step % 2], &[&from], &format!("x{}", step + 1))
        };
        let nodes = MAX_NODES / 4;
        let model = graph((0..nodes).map(step).collect(), vec![], &format!("x{nodes}"));
        let begin = Instant::now();
        let (mut model, bounds) = typed_of(&model, 64 << 10, 40).unwrap();
        let typed = begin.elapsed();
        model.declutter().unwrap();
        bounds.check_text(&model, &Limits::new()).unwrap();
        let decluttered = begin.elapsed();
        model.optimize().unwrap();
        println!("{nodes} nodes: {typed:?}, {decluttered:?}, {:?}", begin.elapsed());
    }

    /// Verifies: R-110
    #[test]
    fn graphs_of_too_much_or_of_something_else_are_refused() {
        let chain = |count: usize| {
            let step = |step: usize| node("Neg", &[&format!("x{step}")], &format!("x{}", step + 1));
            graph((0..count).map(step).collect(), vec![floats("x0", &[2])], &format!("x{count}"))
        };
        assert!(refusal(&chain(MAX_NODES)).contains("nodes, at most"));
        let mut edges = node("Sum", &[], "x");
        edges.input = vec!["one".into(); MAX_EDGES];
        assert!(refusal(&graph(vec![edges], vec![floats("one", &[1])], "x")).contains("inputs and outputs"));
        for operator in ["Loop", "If", "Scan", "LSTM", "Conv", "NonMaxSuppression"] {
            let error = refusal(&graph(vec![node(operator, &["input_ids"], "x")], vec![], "x"));
            assert!(error.contains(&format!("the operator {operator} is none")), "{error}");
        }
        let body = AttributeProto { name: "body".into(), g: Some(GraphProto::default()), ..Default::default() };
        let mut with_body = node("Neg", &["input_ids"], "x");
        with_body.attribute.push(body);
        assert!(refusal(&graph(vec![with_body], vec![], "x")).contains("graphs inside"));
        let mut lying = floats("x", &[4]);
        lying.dims = vec![1 << 31, 1 << 31];
        assert!(refusal(&graph(vec![], vec![lying], "x")).contains("more of itself than it holds"));
    }

    #[test]
    fn operators_are_in_order() {
        assert!(OPERATORS.is_sorted());
    }
}
