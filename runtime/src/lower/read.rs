use std::collections::HashMap;
use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{AxisOp, DimLike, TDim, ensure, format_err};
use tract_onnx::tract_core::ops::array::{Gather, GatherNd, MultiBroadcastTo, Range, Slice};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::identity::Identity;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::logic::Iff;
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer, RmsNorm, Softmax, SoftmaxKind};
use tract_onnx::tract_core::ops::source::TypedSource;

use super::TOKENS;
use super::expr::{Axis, Binary, Coefficient, Expr, Expressions, Id, Matrix, Reduction, Side, Unary};

/// Reads every operator that the outputs need.
pub(super) fn read(model: &TypedModel) -> TractResult<Expressions> {
    let mut reader = Reader {
        model,
        tokens: model.symbols.sym(TOKENS).to_dim(),
        expressions: Expressions::new(),
        values: HashMap::new(),
        node: 0,
    };
    for node in model.eval_order()? {
        reader.node = node;
        let value = reader.value(model.node(node))?;
        reader.values.insert(OutletId::new(node, 0), value);
    }
    let outputs = model.output_outlets()?;
    ensure!(outputs.len() == 2, "{} outputs instead of 2", outputs.len());
    for (index, outlet) in outputs.iter().enumerate() {
        let value = reader.values.get(outlet).cloned();
        reader.expressions.outputs[index] = match value {
            Some(Value::Named { id, .. }) => id,
            _ => {
                reader.node = outlet.node;
                reader.unknown_id("a result that does not depend on the text")
            }
        };
    }
    Ok(reader.expressions)
}

struct Reader<'m> {
    model: &'m TypedModel,
    /// The number of tokens.
    tokens: TDim,
    expressions: Expressions,
    values: HashMap<OutletId, Value>,
    /// The node that is being read.
    node: usize,
}

#[derive(Clone)]
enum Value {
    Const(Arc<Tensor>),
    /// The same number everywhere: a constant, or a mask of a text without padding.
    Uniform(f64),
    /// An integer: `offset` plus each dimension's index times its coefficient. The dimensions are tokens where the
    /// coefficient is not 0, and 1 elsewhere.
    Affine {
        offset: i64,
        coefficients: Vec<i64>,
    },
    Named {
        id: Id,
        axes: Vec<Axis>,
    },
}

impl Reader<'_> {
    fn value(&mut self, node: &TypedNode) -> TractResult<Value> {
        if let Some(source) = node.op_as::<TypedSource>() {
            return Ok(self.source(&node.name, source));
        }
        if let Some(constant) = node.op_as::<Const>() {
            return Ok(Value::Const(constant.val().clone()));
        }
        let input = |index: usize| {
            let outlet = node.inputs.get(index);
            outlet.and_then(|outlet| self.values.get(outlet)).cloned().ok_or_else(|| format_err!("an input is missing"))
        };
        let inputs: Vec<Value> = (0..node.inputs.len()).map(input).collect::<TractResult<_>>()?;
        // Wherever one looks into a mask of a text without padding, it says the same.
        let picks = node.op_is::<Gather>() || node.op_is::<GatherNd>();
        if let (true, Some(Value::Uniform(value))) = (picks, inputs.first()) {
            return Ok(Value::Uniform(*value));
        }
        // What is not known makes all that comes of it unknown, and the first one is the reason.
        for value in &inputs {
            if let Value::Named { id, .. } = value
                && matches!(self.expressions.get(*id), Expr::Unknown(_))
            {
                return Ok(value.clone());
            }
        }
        let op = &node.op;
        let value = if let Some(op) = op.downcast_ref::<AxisOp>() {
            self.layout(op, &inputs[0])
        } else if let Some(op) = op.downcast_ref::<EinSum>() {
            self.einsum(op, &inputs)
        } else if let Some(op) = op.downcast_ref::<TypedBinOp>() {
            self.binary(op.0.name(), &inputs[0], &inputs[1])
        } else if let Some(op) = op.downcast_ref::<ElementWiseOp>() {
            self.unary(&op.0.name(), &inputs[0])
        } else if let Some(op) = op.downcast_ref::<Cast>() {
            self.cast(op.to, &inputs[0])
        } else if let Some(op) = op.downcast_ref::<Reduce>() {
            self.reduce(&op.axes, op.reducer, &inputs[0])
        } else if let Some(op) = op.downcast_ref::<RmsNorm>() {
            self.rms_norm(op, &inputs[0])
        } else if let Some(op) = op.downcast_ref::<Softmax>() {
            self.softmax(op, &inputs[0])
        } else if let Some(op) = op.downcast_ref::<Gather>() {
            self.gather(op.axis, &inputs[0], &inputs[1])
        } else if let Some(op) = op.downcast_ref::<Slice>() {
            self.slice(op, &inputs[0])
        } else if op.is::<Iff>() {
            self.choose(&inputs)
        } else if op.is::<Range>() {
            self.range(&inputs)
        } else if op.is::<MultiBroadcastTo>() {
            self.broadcast(&inputs[0])
        } else if op.is::<Identity>() {
            Some(inputs[0].clone())
        } else {
            None
        };
        Ok(match value {
            Some(value) => value,
            None => self.unknown("no step of a program has this operator with these inputs"),
        })
    }

    fn source(&mut self, name: &str, source: &TypedSource) -> Value {
        let axes = |dim: &TDim| if *dim == self.tokens { Axis::Token } else { Axis::One };
        let axes: Vec<Axis> = source.fact.shape.iter().map(axes).collect();
        match name {
            "input_ids" => self.named(Expr::Ids, 1, axes),
            "sentence_ids" => self.named(Expr::SentenceIds, 1, axes),
            // One text without padding.
            "attention_mask" => Value::Uniform(1.0),
            "token_type_ids" => Value::Uniform(0.0),
            _ => self.unknown("an input that the engine does not know"),
        }
    }

    fn layout(&mut self, op: &AxisOp, input: &Value) -> Option<Value> {
        match input {
            Value::Uniform(_) => Some(input.clone()),
            Value::Const(tensor) => {
                let mut tensor = tensor.as_ref().clone();
                op.change_tensor(&mut tensor, false).ok()?;
                Some(Value::Const(Arc::new(tensor)))
            }
            Value::Affine { offset, coefficients } => {
                let coefficients = relaid(op, coefficients, 0)?;
                Some(Value::Affine { offset: *offset, coefficients })
            }
            Value::Named { id, axes } => {
                let axes = match op {
                    AxisOp::Reshape(at, from, to) => {
                        let mut changed = axes.get(..*at)?.to_vec();
                        changed.extend(reshaped(axes.get(*at..*at + from.len())?, to, &self.tokens)?);
                        changed.extend_from_slice(axes.get(*at + from.len()..)?);
                        changed
                    }
                    op => relaid(op, axes, Axis::One)?,
                };
                Some(Value::Named { id: *id, axes })
            }
        }
    }

    fn broadcast(&mut self, input: &Value) -> Option<Value> {
        match input {
            Value::Uniform(_) => Some(input.clone()),
            Value::Const(tensor) => uniform(tensor).map(Value::Uniform),
            // A tensor that grows is refused, because its axes do not say over what.
            Value::Named { axes, .. } => {
                let shape = self.output_shape();
                let grows = axes.len() != shape.len()
                    || axes.iter().zip(&shape).any(|(axis, dim)| *axis == Axis::One && !dim.is_one());
                (!grows).then(|| input.clone())
            }
            Value::Affine { coefficients, .. } => {
                let shape = self.output_shape();
                let grows = coefficients.len() != shape.len()
                    || coefficients.iter().zip(&shape).any(|(&c, dim)| c == 0 && !dim.is_one());
                (!grows).then(|| input.clone())
            }
        }
    }

    fn range(&mut self, inputs: &[Value]) -> Option<Value> {
        let number = |index: usize| self.uniform(inputs.get(index)?);
        let (start, step) = (number(0)?, number(2)?);
        (self.output_shape() == [self.tokens.clone()])
            .then(|| Value::Affine { offset: start as i64, coefficients: vec![step as i64] })
    }

    fn choose(&mut self, inputs: &[Value]) -> Option<Value> {
        let [condition, then, otherwise] = inputs else { return None };
        if let Some(condition) = self.uniform(condition) {
            let chosen = if condition != 0.0 { then } else { otherwise };
            // The chosen one must be as large as the result.
            return self.broadcast(chosen);
        }
        let (Value::Named { id: condition, .. }, Value::Named { id, axes }) = (condition, then) else { return None };
        let otherwise = self.uniform(otherwise)? as f32;
        matches!(self.expressions.get(*condition), Expr::Present)
            .then(|| self.named(Expr::OrAbsent(*id, otherwise), self.expressions.width(*id), axes.clone()))
    }

    fn cast(&mut self, to: DatumType, input: &Value) -> Option<Value> {
        let from = self.input_type(0);
        match input {
            Value::Const(tensor) => Some(Value::Const(Arc::new(tensor.cast_to_dt(to).ok()?.into_owned()))),
            Value::Uniform(value) if to == DatumType::Bool => Some(Value::Uniform(f64::from(*value != 0.0))),
            Value::Uniform(value) if to.is_integer() || to == DatumType::TDim => Some(Value::Uniform(value.trunc())),
            Value::Uniform(_) if to.is_float() => Some(input.clone()),
            Value::Affine { .. } if to.is_integer() || to == DatumType::TDim => Some(input.clone()),
            Value::Named { id, axes } => match (from, to) {
                (DatumType::F32, DatumType::I8) => {
                    Some(self.named(Expr::Unary(Unary::ToInt8, *id), self.expressions.width(*id), axes.clone()))
                }
                // Exact: an int32 that f32 rounds is rounded by the program alike.
                (from, DatumType::F32) if !from.is_float() => Some(input.clone()),
                (from, to) if from == to || from.is_integer() && to.is_integer() && to.size_of() >= 4 => {
                    Some(input.clone())
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn unary(&mut self, name: &str, input: &Value) -> Option<Value> {
        if let Some(value) = self.uniform(input) {
            let value = match name {
                "Not" => f64::from(value == 0.0),
                "Neg" => -value,
                "Abs" => value.abs(),
                _ => return None,
            };
            return Some(Value::Uniform(value));
        }
        let Value::Named { id, axes } = input else { return None };
        let unary = match name {
            // Without a mask every softmax is of finite numbers, or its scores are not finite either.
            "IsNan" if matches!(self.expressions.get(*id), Expr::Softmax { .. }) => return Some(Value::Uniform(0.0)),
            "Abs" => Unary::Abs,
            "Erf" => Unary::Erf,
            "Exp" => Unary::Exp,
            "GeluExact" => Unary::Gelu,
            "Ln" => Unary::Ln,
            "Recip" => Unary::Recip,
            "RoundHalfToEven" => Unary::RoundHalfToEven,
            "Rsqrt" => Unary::Rsqrt,
            "Sqrt" => Unary::Sqrt,
            "Square" => Unary::Square,
            "Neg" => return Some(self.scaled(*id, Coefficient::Scalar(-1.0), axes.clone())),
            _ => return None,
        };
        Some(self.named(Expr::Unary(unary, *id), self.expressions.width(*id), axes.clone()))
    }

    fn binary(&mut self, name: &str, a: &Value, b: &Value) -> Option<Value> {
        if let (Some(a), Some(b)) = (self.uniform(a), self.uniform(b)) {
            return evaluate(name, a, b).map(Value::Uniform);
        }
        match (a, b) {
            (Value::Named { id: a, axes: left }, Value::Named { id: b, axes: right }) => {
                self.combine(name, (*a, left), (*b, right))
            }
            (Value::Named { id, axes }, constant) => self.with_constant(name, *id, axes, constant, false),
            (constant, Value::Named { id, axes }) => self.with_constant(name, *id, axes, constant, true),
            (Value::Affine { offset, coefficients }, other) => {
                self.with_affine(name, *offset, coefficients, other, false)
            }
            (other, Value::Affine { offset, coefficients }) => {
                self.with_affine(name, *offset, coefficients, other, true)
            }
            _ => None,
        }
    }

    fn with_affine(
        &self,
        name: &str,
        offset: i64,
        coefficients: &[i64],
        other: &Value,
        reversed: bool,
    ) -> Option<Value> {
        let (other_offset, others) = match other {
            Value::Affine { offset, coefficients } => (*offset, coefficients.clone()),
            other => (self.uniform(other)? as i64, vec![0; coefficients.len()]),
        };
        let (sign, other_sign) = match (name, reversed) {
            ("Add", _) => (1, 1),
            ("Sub", false) => (1, -1),
            ("Sub", true) => (-1, 1),
            _ => return None,
        };
        if others.len() != coefficients.len() {
            return None;
        }
        let coefficients = coefficients.iter().zip(&others).map(|(a, b)| sign * a + other_sign * b).collect();
        Some(Value::Affine { offset: sign * offset + other_sign * other_offset, coefficients })
    }

    /// A tensor and a constant; `reversed` when the constant is the first operand.
    fn with_constant(&mut self, name: &str, id: Id, axes: &[Axis], constant: &Value, reversed: bool) -> Option<Value> {
        let axes = axes.to_vec();
        let width = self.expressions.width(id);
        if name == "Eq" {
            return self.member(id, &axes, constant);
        }
        let coefficient = match (self.uniform(constant), constant) {
            (Some(value), _) => Coefficient::Scalar(value as f32),
            (None, Value::Const(tensor)) => coefficient(tensor, &axes, width)?,
            _ => return None,
        };
        let scalar = coefficient.scalar();
        match (name, reversed) {
            ("Add", _) => Some(self.shifted(id, coefficient, axes)),
            ("Sub", false) => Some(self.shifted(id, coefficient.map(|value| -value), axes)),
            ("Sub", true) => {
                let Value::Named { id, axes } = self.scaled(id, Coefficient::Scalar(-1.0), axes) else { return None };
                Some(self.shifted(id, coefficient, axes))
            }
            ("Mul", _) => Some(self.scaled(id, coefficient, axes)),
            ("Div", false) => Some(self.scaled(id, coefficient.map(f32::recip), axes)),
            ("Div", true) => {
                let Value::Named { id, axes } = self.named(Expr::Unary(Unary::Recip, id), width, axes) else {
                    return None;
                };
                Some(self.scaled(id, coefficient, axes))
            }
            ("Max", _) => Some(self.named(Expr::AtLeast(id, scalar?), width, axes)),
            ("Pow", false) if scalar == Some(2.0) => Some(self.named(Expr::Unary(Unary::Square, id), width, axes)),
            ("Pow", false) if scalar == Some(0.5) => Some(self.named(Expr::Unary(Unary::Sqrt, id), width, axes)),
            ("GT", false) | ("LT", true) if scalar == Some(0.0) && matches!(self.expressions.get(id), Expr::Count) => {
                Some(self.named(Expr::Present, 1, axes))
            }
            _ => None,
        }
    }

    /// `sentence_ids == [0, 1, ...]`.
    fn member(&mut self, id: Id, axes: &[Axis], numbers: &Value) -> Option<Value> {
        let (Expr::SentenceIds, Value::Const(numbers)) = (self.expressions.get(id), numbers) else { return None };
        let (axis, count) = arange(numbers)?;
        if axes.get(axis) != Some(&Axis::One) {
            return None;
        }
        let mut axes = axes.to_vec();
        axes[axis] = Axis::Sentence;
        Some(self.named(Expr::Member(count), 1, axes))
    }

    fn combine(&mut self, name: &str, (a, left): (Id, &[Axis]), (b, right): (Id, &[Axis])) -> Option<Value> {
        for ((scores, axes), (bias, bias_axes)) in [((a, left), (b, right)), ((b, right), (a, left))] {
            if name == "Add" && matches!(self.expressions.get(bias), Expr::RelativeBias { .. }) {
                return self.biased(scores, axes, bias, bias_axes);
            }
        }
        let axes = merged(left, right)?;
        let width = self.expressions.width(a).max(self.expressions.width(b));
        let binary = match name {
            "Add" => Binary::Add,
            "Sub" => Binary::Sub,
            "Mul" => Binary::Mul,
            "Div" => {
                let reciprocal = Expr::Unary(Unary::Recip, b);
                let Value::Named { id: reciprocal, .. } =
                    self.named(reciprocal, self.expressions.width(b), right.to_vec())
                else {
                    return None;
                };
                return Some(self.named(Expr::Binary(Binary::Mul, a, reciprocal), width, axes));
            }
            _ => return None,
        };
        Some(self.named(Expr::Binary(binary, a, b), width, axes))
    }

    fn biased(&mut self, scores: Id, axes: &[Axis], bias: Id, bias_axes: &[Axis]) -> Option<Value> {
        let mut query = None;
        for (axis, bias_axis) in axes.iter().zip(bias_axes) {
            let side = match (axis, bias_axis) {
                (Axis::Left, Axis::Minus) | (Axis::Right, Axis::Plus) => Side::Left,
                (Axis::Right, Axis::Minus) | (Axis::Left, Axis::Plus) => Side::Right,
                (Axis::Head, Axis::Head) | (Axis::One, Axis::One) => continue,
                _ => return None,
            };
            if *query.get_or_insert(side) != side {
                return None;
            }
        }
        Some(self.named(Expr::Biased { scores, bias, query: query? }, 1, axes.to_vec()))
    }

    fn reduce(&mut self, reduced: &[usize], reducer: Reducer, input: &Value) -> Option<Value> {
        let Value::Named { id, axes } = input else { return None };
        let reduction = match reducer {
            Reducer::Sum => Reduction::Sum,
            Reducer::Max => Reduction::Max,
            Reducer::MeanOfSquares => Reduction::MeanOfSquares,
            _ => return None,
        };
        let over: Vec<Axis> =
            reduced.iter().filter_map(|&axis| axes.get(axis)).filter(|axis| **axis != Axis::One).copied().collect();
        let mut left = axes.clone();
        reduced.iter().for_each(|&axis| left[axis] = Axis::One);
        let features: usize = over.iter().map(|axis| axis.features().unwrap_or(0)).product();
        match over[..] {
            [] => Some(input.clone()),
            [Axis::Token] if matches!(self.expressions.get(*id), Expr::Member(_)) && reduction == Reduction::Sum => {
                Some(self.named(Expr::Count, 1, left))
            }
            [Axis::Sentence] => {
                Some(self.named(Expr::ReduceSentences(reduction, *id), self.expressions.width(*id), left))
            }
            [Axis::Token] => Some(self.named(Expr::ReduceTokens(reduction, *id), self.expressions.width(*id), left)),
            [Axis::Left] => Some(self.named(Expr::ReduceSide(reduction, *id, Side::Left), 1, left)),
            [Axis::Right] => Some(self.named(Expr::ReduceSide(reduction, *id, Side::Right), 1, left)),
            _ if features == self.expressions.width(*id) => Some(self.named(Expr::Reduce(reduction, *id), 1, left)),
            [Axis::Feature { size, stride: 1 }] => {
                let width = self.expressions.width(*id);
                let heads = width / size;
                let by_head = axes.contains(&Axis::Feature { size: heads, stride: size }) && heads * size == width;
                by_head.then(|| self.named(Expr::ReduceHeads(reduction, *id, heads), width, left))
            }
            _ => None,
        }
    }

    fn rms_norm(&mut self, op: &RmsNorm, input: &Value) -> Option<Value> {
        let Value::Named { id, axes } = input else { return None };
        let width = self.expressions.width(*id);
        let epsilon = uniform(&op.eps)? as f32;
        let whole = axes.get(op.axis)?.features() == Some(width);
        whole.then(|| self.named(Expr::RmsNorm(*id, epsilon), width, axes.clone()))
    }

    fn softmax(&mut self, op: &Softmax, input: &Value) -> Option<Value> {
        let Value::Named { id, axes } = input else { return None };
        let [axis] = op.axes[..] else { return None };
        let keys = match axes.get(axis)? {
            Axis::Left => Side::Left,
            Axis::Right => Side::Right,
            _ => return None,
        };
        let named = |axis: &Axis| match (axis, keys) {
            (Axis::Left, Side::Left) | (Axis::Right, Side::Right) => Axis::Key,
            (Axis::Left | Axis::Right, _) => Axis::Token,
            (axis, _) => *axis,
        };
        let axes = axes.iter().map(named).collect();
        (op.kind == SoftmaxKind::Softmax && op.quant_output_dt.is_none())
            .then(|| self.named(Expr::Softmax { scores: *id, keys }, 1, axes))
    }

    fn gather(&mut self, axis: usize, data: &Value, indices: &Value) -> Option<Value> {
        let Value::Const(table) = data else { return None };
        let shape = table.shape();
        match indices {
            Value::Named { id, axes } if matches!(self.expressions.get(*id), Expr::Ids) && axis == 0 => {
                let table = Arc::new(Matrix::of(table, shape[0])?);
                let axes = axes.iter().copied().chain(row_axes(&shape[1..])).collect();
                let width = table.columns;
                Some(self.named(Expr::Words(table), width, axes))
            }
            Value::Affine { offset, coefficients } => {
                let places: Vec<i64> = coefficients.iter().copied().filter(|&c| c != 0).collect();
                match (&places[..], axis, shape) {
                    ([1], 0, _) => {
                        let token = |&c: &i64| if c == 0 { Axis::One } else { Axis::Token };
                        let axes = coefficients.iter().map(token).chain(row_axes(&shape[1..])).collect();
                        self.positions(table, shape[0], *offset, axes)
                    }
                    ([1, -1] | [-1, 1], axis, &[rows, columns]) => {
                        let token = |&c: &i64| match c {
                            0 => Axis::One,
                            1 => Axis::Plus,
                            _ => Axis::Minus,
                        };
                        let mut axes: Vec<Axis> = coefficients.iter().map(token).collect();
                        // One head after the other, whichever axis is theirs.
                        let table = if axis == 1 {
                            axes.insert(0, Axis::Head);
                            Matrix::of(table, rows)?
                        } else {
                            axes.push(Axis::Head);
                            Matrix::gathered(table, columns, rows, |head, place| place * columns + head)?
                        };
                        Some(self.named(Expr::RelativeBias { table: Arc::new(table), offset: *offset }, 1, axes))
                    }
                    _ => None,
                }
            }
            indices => {
                let row = self.uniform(indices)? as usize;
                let mut chosen = table.slice(axis, row, row.checked_add(1)?).ok()?;
                // The chosen row is the same wherever the index is asked for.
                let rank = self.input_rank(1);
                let mut shape: Vec<usize> = shape[..axis].to_vec();
                shape.extend(std::iter::repeat_n(1, rank));
                shape.extend_from_slice(&table.shape()[axis + 1..]);
                chosen = chosen.into_shape(&shape).ok()?;
                Some(Value::Const(Arc::new(chosen)))
            }
        }
    }

    fn positions(&mut self, table: &Tensor, rows: usize, first: i64, axes: Vec<Axis>) -> Option<Value> {
        let table = Arc::new(Matrix::of(table, rows)?);
        let (width, first) = (table.columns, usize::try_from(first).ok()?);
        Some(self.named(Expr::Positions { table, first }, width, axes))
    }

    fn slice(&mut self, op: &Slice, input: &Value) -> Option<Value> {
        let Slice { axis, start, end } = op;
        let whole = self.input_shape(0).get(*axis).is_some_and(|dim| *start == 0.to_dim() && dim == end);
        if whole {
            return Some(input.clone());
        }
        let tokens = end.clone() - start.clone() == self.tokens;
        let range = start.to_usize().ok().zip(end.to_usize().ok());
        match input {
            Value::Uniform(_) => Some(input.clone()),
            Value::Const(tensor) => {
                if let Some((start, end)) = range {
                    return Some(Value::Const(Arc::new(tensor.slice(*axis, start, end).ok()?)));
                }
                let start = i64::try_from(start.to_usize().ok()?).ok()?;
                if !tokens {
                    return None;
                }
                if let Some(value) = uniform(tensor).filter(|_| tensor.datum_type().is_integer()) {
                    return Some(Value::Uniform(value));
                }
                if let Some((along, _)) = arange(tensor) {
                    let mut coefficients = vec![0; tensor.rank()];
                    coefficients[along] = 1;
                    return (along == *axis).then_some(Value::Affine { offset: start, coefficients });
                }
                let shape = tensor.shape();
                let leading = shape[..*axis].iter().all(|&dim| dim == 1);
                let mut axes = vec![Axis::One; *axis];
                axes.push(Axis::Token);
                axes.extend(row_axes(&shape[*axis + 1..]));
                if leading { self.positions(tensor, shape[*axis], start, axes) } else { None }
            }
            Value::Affine { offset, coefficients } => {
                let start = i64::try_from(start.to_usize().ok()?).ok()?;
                let offset = offset + start * coefficients.get(*axis)?;
                tokens.then(|| Value::Affine { offset, coefficients: coefficients.clone() })
            }
            Value::Named { id, axes } => {
                let (start, end) = range?;
                let Axis::Feature { size, stride } = *axes.get(*axis)? else { return None };
                let outermost = size * stride == self.expressions.width(*id);
                let len = end.checked_sub(start)?;
                let mut axes = axes.clone();
                axes[*axis] = if len == 1 { Axis::One } else { Axis::Feature { size: len, stride } };
                let columns = Expr::Columns { input: *id, first: start * stride, len: len * stride };
                outermost.then(|| self.named(columns, len * stride, axes))
            }
        }
    }

    fn einsum(&mut self, op: &EinSum, inputs: &[Value]) -> Option<Value> {
        // Quantised: bias, then zero point and scale of both operands and of the result, all of which must say nothing.
        for (index, parameter) in inputs.iter().enumerate().skip(2) {
            let nothing = if index > 2 && index % 2 == 0 { 1.0 } else { 0.0 };
            if self.uniform(parameter) != Some(nothing) {
                return None;
            }
        }
        let out_shape = self.output_shape();
        let mut places = Vec::new();
        for axis in op.axes.iter_all_axes() {
            let place = |positions: &[usize], is_one: &dyn Fn(usize) -> bool| match positions {
                [] => Some(None),
                [position] => Some((!is_one(*position)).then_some(*position)),
                _ => None,
            };
            let of_input = |index: usize| place(&axis.inputs[index], &|position| inputs[index].is_one(position));
            places.push(Place {
                a: of_input(0)?,
                b: of_input(1)?,
                out: place(&axis.outputs[0], &|position| out_shape[position].is_one())?,
            });
        }
        places.retain(|place| place.a.is_some() || place.b.is_some());
        let mut result = EinsumResult { axes: vec![Axis::One; out_shape.len()] };
        match (&inputs[0], &inputs[1]) {
            (Value::Named { id, axes }, Value::Const(weight)) => self.matmul(*id, axes, weight, &places, &mut result),
            (Value::Const(weight), Value::Named { id, axes }) => {
                places.iter_mut().for_each(Place::swap);
                self.matmul(*id, axes, weight, &places, &mut result)
            }
            (Value::Named { id: a, axes: left }, Value::Named { id: b, axes: right }) => {
                let swapped: Vec<Place> = places.iter().map(|place| place.swapped()).collect();
                let (a, b) = ((*a, &left[..]), (*b, &right[..]));
                match (self.expressions.get(a.0), self.expressions.get(b.0)) {
                    (&Expr::Member(count), _) => self.sums(b, (count, a.1), &swapped, &mut result),
                    (_, &Expr::Member(count)) => self.sums(a, (count, b.1), &places, &mut result),
                    (Expr::Softmax { .. }, _) => self.context(a, b, &places, &mut result),
                    (_, Expr::Softmax { .. }) => self.context(b, a, &swapped, &mut result),
                    _ if has_sides(a.1) => self.context((a.0, &keyed(a.1, &places)?), b, &places, &mut result),
                    _ if has_sides(b.1) => self.context((b.0, &keyed(b.1, &swapped)?), a, &swapped, &mut result),
                    _ => self.scores(a, b, &places, &mut result),
                }
            }
            _ => None,
        }
    }

    /// Rows times a constant.
    fn matmul(
        &mut self,
        input: Id,
        axes: &[Axis],
        weight: &Tensor,
        places: &[Place],
        result: &mut EinsumResult,
    ) -> Option<Value> {
        let shape = weight.shape();
        let strides = row_major(shape);
        let (mut contracted, mut outputs) = (Vec::new(), Vec::new());
        for place in places {
            match *place {
                Place { a: Some(a), b: Some(b), out: None } => {
                    let Axis::Feature { size, stride } = axes[a] else { return None };
                    contracted.push((size, stride, strides[b]));
                }
                Place { a: Some(a), b: None, out: Some(out) } if axes[a].features().is_none() => {
                    result.axes[out] = axes[a];
                }
                Place { a: None, b: Some(b), out: Some(out) } => outputs.push((out, shape[b], strides[b])),
                _ => return None,
            }
        }
        let inputs: usize = contracted.iter().map(|(size, ..)| size).product();
        if inputs != self.expressions.width(input) || contracted.is_empty() {
            return None;
        }
        outputs.sort_unstable();
        let mut width = 1;
        for &(out, size, _) in outputs.iter().rev() {
            result.axes[out] = Axis::Feature { size, stride: width };
            width *= size;
        }
        let matrix = Matrix::gathered(weight, width, inputs, |row, column| {
            let mut index: usize = contracted.iter().map(|&(size, stride, step)| column / stride % size * step).sum();
            let mut rest = row;
            for &(_, size, step) in outputs.iter().rev() {
                index += rest % size * step;
                rest /= size;
            }
            index
        })?;
        Some(self.named(Expr::MatMul { input, weight: Arc::new(matrix) }, width, result.axes.clone()))
    }

    /// Rows added up by sentence.
    fn sums(
        &mut self,
        (rows, axes): (Id, &[Axis]),
        (count, member_axes): (usize, &[Axis]),
        places: &[Place],
        result: &mut EinsumResult,
    ) -> Option<Value> {
        for place in places {
            match *place {
                Place { a: Some(a), b: Some(b), out: None }
                    if axes[a] == Axis::Token && member_axes[b] == Axis::Token => {}
                Place { a: Some(a), b: None, out: Some(out) } if axes[a].features().is_some() => {
                    result.axes[out] = axes[a];
                }
                Place { a: None, b: Some(b), out: Some(out) } if member_axes[b] == Axis::Sentence => {
                    result.axes[out] = Axis::Sentence;
                }
                _ => return None,
            }
        }
        (places.len() >= 3)
            .then(|| self.named(Expr::Sums(rows, count), self.expressions.width(rows), result.axes.clone()))
    }

    fn scores(
        &mut self,
        (left, left_axes): (Id, &[Axis]),
        (right, right_axes): (Id, &[Axis]),
        places: &[Place],
        result: &mut EinsumResult,
    ) -> Option<Value> {
        let width = self.expressions.width(left);
        let (mut head_size, mut heads, mut sides) = (0, 1, 0);
        for place in places {
            match *place {
                Place { a: Some(a), b: Some(b), out: None } => match (left_axes[a], right_axes[b]) {
                    (Axis::Feature { size, stride: 1 }, Axis::Feature { size: same, stride: 1 })
                        if size == same && head_size == 0 =>
                    {
                        head_size = size;
                    }
                    _ => return None,
                },
                Place { a: Some(a), b: Some(b), out: Some(out) } => match (left_axes[a], right_axes[b]) {
                    (Axis::Feature { size, stride }, other)
                        if left_axes[a] == other && size * stride == width && heads == 1 =>
                    {
                        heads = size;
                        result.axes[out] = Axis::Head;
                    }
                    _ => return None,
                },
                Place { a: Some(a), b: None, out: Some(out) } if left_axes[a] == Axis::Token => {
                    result.axes[out] = Axis::Left;
                    sides += 1;
                }
                Place { a: None, b: Some(b), out: Some(out) } if right_axes[b] == Axis::Token => {
                    result.axes[out] = Axis::Right;
                    sides += 1;
                }
                _ => return None,
            }
        }
        (sides == 2 && heads * head_size == width && width == self.expressions.width(right))
            .then(|| self.named(Expr::Scores { left, right, heads }, 1, result.axes.clone()))
    }

    fn context(
        &mut self,
        (weights, weight_axes): (Id, &[Axis]),
        (values, value_axes): (Id, &[Axis]),
        places: &[Place],
        result: &mut EinsumResult,
    ) -> Option<Value> {
        let width = self.expressions.width(values);
        let (mut head_size, mut heads, mut contracted) = (0, 1, 0);
        for place in places {
            match *place {
                Place { a: Some(a), b: Some(b), out: None }
                    if weight_axes[a] == Axis::Key && value_axes[b] == Axis::Token =>
                {
                    contracted += 1;
                }
                Place { a: Some(a), b: Some(b), out: Some(out) } => match (weight_axes[a], value_axes[b]) {
                    (Axis::Head, Axis::Feature { size, stride }) if size * stride == width && heads == 1 => {
                        heads = size;
                        result.axes[out] = value_axes[b];
                    }
                    _ => return None,
                },
                Place { a: Some(a), b: None, out: Some(out) } if weight_axes[a] == Axis::Token => {
                    result.axes[out] = Axis::Token;
                }
                Place { a: None, b: Some(b), out: Some(out) } => match value_axes[b] {
                    Axis::Feature { size, stride: 1 } if head_size == 0 => {
                        head_size = size;
                        result.axes[out] = value_axes[b];
                    }
                    _ => return None,
                },
                _ => return None,
            }
        }
        (contracted == 1 && heads * head_size == width)
            .then(|| self.named(Expr::Context { weights, values, heads }, width, result.axes.clone()))
    }

    fn scaled(&mut self, id: Id, factor: Coefficient, axes: Vec<Axis>) -> Value {
        if factor == Coefficient::Scalar(1.0) {
            return Value::Named { id, axes };
        }
        self.named(Expr::Scale(id, factor), self.expressions.width(id), axes)
    }

    fn shifted(&mut self, id: Id, term: Coefficient, axes: Vec<Axis>) -> Value {
        if term == Coefficient::Scalar(0.0) {
            return Value::Named { id, axes };
        }
        self.named(Expr::Shift(id, term), self.expressions.width(id), axes)
    }

    /// The number that a value is everywhere.
    fn uniform(&self, value: &Value) -> Option<f64> {
        match value {
            Value::Uniform(value) => Some(*value),
            Value::Const(tensor) => uniform(tensor),
            _ => None,
        }
    }

    fn named(&mut self, expr: Expr, width: usize, axes: Vec<Axis>) -> Value {
        let node = self.model.node(self.node);
        let operator = format!("{} `{}`", node.op.name(), node.name);
        let shape = node.outputs.first().map(|outlet| format!("{:?}", outlet.fact.without_value())).unwrap_or_default();
        Value::Named { id: self.expressions.push(expr, width, operator, shape), axes }
    }

    fn unknown(&mut self, reason: &str) -> Value {
        self.named(Expr::Unknown(reason.into()), 1, Vec::new())
    }

    fn unknown_id(&mut self, reason: &str) -> Id {
        match self.unknown(reason) {
            Value::Named { id, .. } => id,
            _ => 0,
        }
    }

    fn output_shape(&self) -> Vec<TDim> {
        let node = self.model.node(self.node);
        node.outputs.first().map(|outlet| outlet.fact.shape.to_vec()).unwrap_or_default()
    }

    fn input_fact(&self, index: usize) -> Option<&TypedFact> {
        self.model.outlet_fact(*self.model.node(self.node).inputs.get(index)?).ok()
    }

    fn input_shape(&self, index: usize) -> Vec<TDim> {
        self.input_fact(index).map(|fact| fact.shape.to_vec()).unwrap_or_default()
    }

    fn input_rank(&self, index: usize) -> usize {
        self.input_fact(index).map_or(0, |fact| fact.rank())
    }

    fn input_type(&self, index: usize) -> DatumType {
        self.input_fact(index).map_or(DatumType::F64, |fact| fact.datum_type)
    }
}

/// Where an axis of an Einstein sum lies in its operands and its result, where it is not 1.
#[derive(Clone, Copy)]
struct Place {
    a: Option<usize>,
    b: Option<usize>,
    out: Option<usize>,
}

impl Place {
    fn swap(&mut self) {
        *self = self.swapped();
    }

    fn swapped(self) -> Self {
        Self { a: self.b, b: self.a, out: self.out }
    }
}

fn has_sides(axes: &[Axis]) -> bool {
    axes.iter().any(|axis| matches!(axis, Axis::Left | Axis::Right))
}

/// The axes of attention weights, of which the side that is contracted has the keys.
fn keyed(axes: &[Axis], places: &[Place]) -> Option<Vec<Axis>> {
    let sides = places.iter().filter(|place| place.out.is_none()).filter_map(|place| axes.get(place.a?));
    let keys = *sides.clone().find(|axis| has_sides(&[**axis]))?;
    let named = |axis: &Axis| match *axis {
        axis if axis == keys => Axis::Key,
        Axis::Left | Axis::Right => Axis::Token,
        axis => axis,
    };
    Some(axes.iter().map(named).collect())
}

struct EinsumResult {
    axes: Vec<Axis>,
}

impl Value {
    fn is_one(&self, position: usize) -> bool {
        match self {
            Self::Const(tensor) => tensor.shape().get(position) == Some(&1),
            Self::Named { axes, .. } => axes.get(position) == Some(&Axis::One),
            Self::Uniform(_) => false,
            Self::Affine { coefficients, .. } => coefficients.get(position) == Some(&0),
        }
    }
}

impl Axis {
    fn features(self) -> Option<usize> {
        match self {
            Self::Feature { size, .. } => Some(size),
            _ => None,
        }
    }
}

/// The number that a constant is everywhere.
fn uniform(tensor: &Tensor) -> Option<f64> {
    let one = tensor.as_uniform()?;
    one.cast_to_scalar::<f64>().ok()
}

/// The dimension along which an integer tensor counts 0, 1, 2, ..., the others being 1; and how far.
fn arange(tensor: &Tensor) -> Option<(usize, usize)> {
    let mut long = tensor.shape().iter().enumerate().filter(|(_, dim)| **dim != 1);
    let (along, count) = long.next()?;
    if long.next().is_some() || !tensor.datum_type().is_integer() {
        return None;
    }
    let numbers = tensor.cast_to::<i64>().ok()?;
    let counts = numbers.try_as_plain_ram().ok()?.as_slice::<i64>().ok()?.iter().copied().eq(0..*count as i64);
    counts.then_some((along, *count))
}

fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for index in (1..shape.len()).rev() {
        strides[index - 1] = strides[index] * shape[index];
    }
    strides
}

/// The axes of the rows of a constant table.
fn row_axes(shape: &[usize]) -> impl Iterator<Item = Axis> {
    let axes: Vec<Axis> = shape
        .iter()
        .zip(row_major(shape))
        .map(|(&size, stride)| if size == 1 { Axis::One } else { Axis::Feature { size, stride } })
        .collect();
    axes.into_iter()
}

/// A constant that is broadcast to a tensor of these axes, if it depends on the features alone.
fn coefficient(tensor: &Tensor, axes: &[Axis], width: usize) -> Option<Coefficient> {
    let shape = tensor.shape();
    if shape.len() != axes.len() || tensor.datum_type() != DatumType::F32 {
        return None;
    }
    let mut steps = Vec::new();
    for ((&dim, step), axis) in shape.iter().zip(row_major(shape)).zip(axes) {
        match *axis {
            _ if dim == 1 => {}
            Axis::Feature { size, stride } if size == dim => steps.push((size, stride, step)),
            _ => return None,
        }
    }
    let values = tensor.try_as_plain_ram().ok()?;
    let values = values.as_slice::<f32>().ok()?;
    let value = |feature: usize| {
        let index: usize = steps.iter().map(|&(size, stride, step)| feature / stride % size * step).sum();
        values.get(index).copied()
    };
    (0..width).map(value).collect::<Option<_>>().map(Coefficient::Vector)
}

fn merged(left: &[Axis], right: &[Axis]) -> Option<Vec<Axis>> {
    let merge = |(&a, &b): (&Axis, &Axis)| match (a, b) {
        (Axis::One, other) | (other, Axis::One) => Some(other),
        (a, b) => (a == b).then_some(a),
    };
    (left.len() == right.len()).then(|| left.iter().zip(right).map(merge).collect()).flatten()
}

fn relaid<T: Copy + PartialEq>(op: &AxisOp, axes: &[T], one: T) -> Option<Vec<T>> {
    let mut axes = axes.to_vec();
    match *op {
        AxisOp::Add(at) if at <= axes.len() => axes.insert(at, one),
        AxisOp::Rm(at) if axes.get(at) == Some(&one) => {
            axes.remove(at);
        }
        AxisOp::Move(from, to) if from < axes.len() && to < axes.len() => {
            let moved = axes.remove(from);
            axes.insert(to, moved);
        }
        _ => return None,
    }
    Some(axes)
}

/// Splits and joins features, and moves ones about.
fn reshaped(from: &[Axis], to: &[TDim], tokens: &TDim) -> Option<Vec<Axis>> {
    let mut left: Vec<Axis> = from.iter().rev().filter(|axis| **axis != Axis::One).copied().collect();
    let mut axes = Vec::new();
    for dim in to {
        if dim.is_one() {
            axes.push(Axis::One);
            continue;
        }
        let next = left.pop()?;
        if next == Axis::Token {
            if dim != tokens {
                return None;
            }
            axes.push(next);
            continue;
        }
        let Axis::Feature { mut size, mut stride } = next else { return None };
        let wanted = dim.to_usize().ok()?;
        while size < wanted {
            let Axis::Feature { size: inner, stride: inner_stride } = left.pop()? else { return None };
            if stride != inner * inner_stride {
                return None;
            }
            (size, stride) = (size * inner, inner_stride);
        }
        if size > wanted {
            if !size.is_multiple_of(wanted) {
                return None;
            }
            let inner = size / wanted;
            left.push(Axis::Feature { size: inner, stride });
            (size, stride) = (wanted, stride * inner);
        }
        axes.push(Axis::Feature { size, stride });
    }
    left.is_empty().then_some(axes)
}

fn evaluate(name: &str, a: f64, b: f64) -> Option<f64> {
    let truth = |condition: bool| f64::from(condition);
    // Masks are f32, and -3.4e38 times 0 must not become anything else than 0.
    Some(match name {
        "Add" => a + b,
        "Sub" => a - b,
        "Mul" => a * b,
        "Div" => a / b,
        "Max" => a.max(b),
        "Min" => a.min(b),
        "And" => truth(a != 0.0 && b != 0.0),
        "Or" => truth(a != 0.0 || b != 0.0),
        "Eq" => truth(a == b),
        "NE" => truth(a != b),
        "LT" => truth(a < b),
        "LTE" => truth(a <= b),
        "GT" => truth(a > b),
        "GTE" => truth(a >= b),
        _ => return None,
    })
}
