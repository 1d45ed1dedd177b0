//! ONNX graphs that are well-formed and wrong.

use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto};

use super::model::{PART, open_graph};
use super::{Outcome, Target, broken, folder};

pub(super) const GRAPH: Target = Target {
    name: "graph",
    about: "edits of small ONNX graphs, one part of an encoder each: lowered and run, or run on tract, whose panics are caught",
    short: 1_500,
    dictionary: &[b"\x00\x01\x00\x02", b"\x03\x04\x00\x07", b"\x07\x01\x00\x04", b"\x0a\x02\x00\x05"],
    files: &[],
    // Every graph as it is, and with one edit of each kind.
    made: || (0..8).flat_map(|at| (0..EDITS).map(move |edit| vec![at, edit, 1, 0, 3])).collect(),
    start: || {
        let read = || -> anyhow::Result<Vec<ModelProto>> {
            let files = folder(&crate::root().join("tests/fuzz/graphs"))?;
            Ok(files.iter().map(|file| ModelProto::decode(file.as_slice())).collect::<Result<_, _>>()?)
        };
        let models = match read() {
            Ok(models) => models,
            Err(error) => return broken(&error),
        };
        Box::new(move |input| {
            let (&at, edits) = input.split_first().unwrap_or((&0, &[]));
            let Some(mut model) = models.get(usize::from(at) % models.len().max(1)).cloned() else {
                return Outcome::refused(&"no graph");
            };
            for edit in edits.chunks_exact(4).take(16) {
                change(&mut model, [edit[0], edit[1], edit[2], edit[3]]);
            }
            open_graph(&model.encode_to_vec(), PART)
        })
    },
};

/// Sizes, axes and positions on both sides of a bound.
const NUMBERS: [i64; 16] = [0, 1, 2, 3, 4, 7, 8, 9, -1, -2, -8, 1 << 20, i32::MAX as i64, 1 << 40, i64::MAX, i64::MIN];

/// What encoders are made of, and some that they are not.
const OPERATORS: [&str; 40] = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Max",
    "Min",
    "MatMul",
    "Gemm",
    "MatMulInteger",
    "DynamicQuantizeLinear",
    "DequantizeLinear",
    "QuantizeLinear",
    "Softmax",
    "LayerNormalization",
    "Erf",
    "Gelu",
    "Tanh",
    "Sqrt",
    "Exp",
    "Log",
    "Cast",
    "Where",
    "Equal",
    "Greater",
    "Not",
    "Gather",
    "Slice",
    "Concat",
    "Split",
    "Reshape",
    "Transpose",
    "Expand",
    "Squeeze",
    "Unsqueeze",
    "Shape",
    "ConstantOfShape",
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
];

/// Kinds of edits.
const EDITS: u8 = 16;

/// One edit: its kind, and up to three numbers that say where and what.
fn change(model: &mut ModelProto, [kind, place, part, value]: [u8; 4]) {
    let ModelProto { graph: Some(graph), opset_import, .. } = model else { return };
    let (place, part) = (usize::from(place), usize::from(part));
    let number = NUMBERS[usize::from(value) % NUMBERS.len()];
    match kind % EDITS {
        0 => {
            let name = any_name(graph, value);
            if let Some(input) = pick(&mut graph.node, place).and_then(|node| pick(&mut node.input, part)) {
                *input = name;
            }
        }
        1 if !graph.node.is_empty() => drop(graph.node.remove(place % graph.node.len())),
        2 if !graph.node.is_empty() => {
            let len = graph.node.len();
            graph.node.swap(place % len, part % len);
        }
        3 => {
            if let Some(node) = pick(&mut graph.node, place) {
                node.op_type = OPERATORS[usize::from(value) % OPERATORS.len()].into();
            }
        }
        4 => {
            if let Some(attribute) = attribute(graph, place, part) {
                attribute.i = number;
            }
        }
        5 => {
            if let Some(of) = attribute(graph, place, part).and_then(|found| pick(&mut found.ints, value.into())) {
                *of = NUMBERS[part % NUMBERS.len()];
            }
        }
        6 => {
            if let Some(attribute) = attribute(graph, place, part) {
                attribute.f = [0.0, -1.0, f32::NAN, f32::INFINITY, 1e38][usize::from(value) % 5];
            }
        }
        7 => {
            if let Some(dim) = pick(&mut graph.initializer, place).and_then(|tensor| pick(&mut tensor.dims, part)) {
                *dim = number;
            }
        }
        8 => {
            if let Some(tensor) = pick(&mut graph.initializer, place) {
                tensor.data_type = i32::from(value % 24);
            }
        }
        9 => {
            if let Some(tensor) = pick(&mut graph.initializer, place) {
                tensor.raw_data.resize(usize::from(value), 1);
            }
        }
        10 => {
            // A number of a shape, an axis or an index.
            if let Some(tensor) = pick(&mut graph.initializer, place) {
                let integers = tensor.data_type == DataType::Int64 as i32;
                let bytes =
                    if integers { number.to_le_bytes().to_vec() } else { (number as f32).to_le_bytes().to_vec() };
                let at = part * bytes.len();
                tensor.raw_data.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = from);
            }
        }
        11 => {
            let name = any_name(graph, value);
            if let Some(node) = pick(&mut graph.node, place) {
                if part % 2 == 0 {
                    node.input.push(name);
                } else {
                    node.input.pop();
                }
            }
        }
        12 => {
            let name = any_name(graph, value);
            if let Some(output) = pick(&mut graph.node, place).and_then(|node| pick(&mut node.output, part)) {
                *output = name;
            }
        }
        13 => {
            // A new node between one and its input.
            let output = format!("e{}", graph.node.len());
            let Some(input) = pick(&mut graph.node, place).and_then(|node| pick(&mut node.input, part)) else { return };
            let before = std::mem::replace(input, output.clone());
            let op_type = OPERATORS[usize::from(value) % OPERATORS.len()].into();
            let node = NodeProto { input: vec![before], output: vec![output], op_type, ..NodeProto::default() };
            graph.node.insert(place % graph.node.len(), node);
        }
        14 => {
            if let Some(node) = pick(&mut graph.node, place) {
                let name =
                    ["axis", "axes", "perm", "to", "keepdims", "epsilon", "alpha", "transB"][usize::from(value) % 8];
                let value = AttributeProto { name: name.into(), r#type: 2, i: number, ..AttributeProto::default() };
                if part % 3 == 0 { node.attribute.clear() } else { node.attribute.push(value) }
            }
        }
        _ => {
            if let Some(opset) = pick(opset_import, 0) {
                opset.version = i64::from(value % 24);
            }
        }
    }
}

/// One of several, around the end.
fn pick<T>(of: &mut [T], at: usize) -> Option<&mut T> {
    let len = of.len();
    of.get_mut(at.checked_rem(len)?)
}

fn attribute(graph: &mut GraphProto, node: usize, at: usize) -> Option<&mut AttributeProto> {
    let mut with: Vec<_> = graph.node.iter_mut().filter(|node| !node.attribute.is_empty()).collect();
    let at_node = node.checked_rem(with.len())?;
    pick(&mut with.swap_remove(at_node).attribute, at)
}

/// The name of a value: of an input, a constant, or what a node gives.
fn any_name(graph: &GraphProto, at: u8) -> String {
    let inputs = graph.input.iter().map(|input| &input.name);
    let constants = graph.initializer.iter().map(|tensor| &tensor.name);
    let results = graph.node.iter().flat_map(|node| &node.output);
    let names: Vec<_> = inputs.chain(constants).chain(results).collect();
    names.get(usize::from(at) % names.len().max(1)).map_or_else(String::new, |name| (*name).clone())
}
