//! Builds an ONNX model node by node.

use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, type_proto,
};

/// Operator set of every written model: the lowest that has `LayerNormalization`.
pub(crate) const OPSET: i64 = 17;
/// Version of the ONNX file format that came with [`OPSET`].
const IR_VERSION: i64 = 8;

/// The name of a value in the graph.
pub(crate) type Value = String;

/// One dimension of an input or output.
pub(crate) enum Dim {
    /// A fixed size.
    Fixed(usize),
    /// A size that each run chooses.
    Symbol(&'static str),
}

/// A graph under construction; a node's output has the node's name.
#[derive(Default)]
pub(crate) struct GraphBuilder {
    graph: GraphProto,
}

impl GraphBuilder {
    /// Adds a node of one output.
    pub(crate) fn node(&mut self, operator: &str, name: &str, inputs: &[&str]) -> Value {
        self.node_with(operator, name, inputs, Vec::new())
    }

    /// Adds a node of one output with attributes.
    pub(crate) fn node_with(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[&str],
        attribute: Vec<AttributeProto>,
    ) -> Value {
        self.node_of_many(operator, name, inputs, &[name], attribute);
        name.to_owned()
    }

    /// Adds a node whose outputs are named one by one.
    pub(crate) fn node_of_many(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[&str],
        outputs: &[&str],
        attribute: Vec<AttributeProto>,
    ) {
        self.graph.node.push(NodeProto {
            name: name.to_owned(),
            op_type: operator.to_owned(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: outputs.iter().map(|&output| output.to_owned()).collect(),
            attribute,
            ..NodeProto::default()
        });
    }

    /// Adds a constant of `f32`, unless one of this name is there.
    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        self.constant(name, DataType::Float, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Adds a constant of `i64`, unless one of this name is there.
    pub(crate) fn integers(&mut self, name: &str, shape: &[usize], values: &[i64]) -> Value {
        self.constant(name, DataType::Int64, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Adds a constant of `i8`, unless one of this name is there.
    pub(crate) fn bytes(&mut self, name: &str, shape: &[usize], values: &[i8]) -> Value {
        self.constant(name, DataType::Int8, shape, values.iter().map(|&value| value as u8).collect())
    }

    /// Declares an input of `i64`.
    pub(crate) fn input(&mut self, name: &str, shape: &[Dim]) {
        self.graph.input.push(value_info(name, DataType::Int64, shape));
    }

    /// Declares an output of `f32`.
    pub(crate) fn output(&mut self, name: &str, shape: &[Dim]) {
        self.graph.output.push(value_info(name, DataType::Float, shape));
    }

    /// The model as a protobuf file; the same graph always gives the same bytes.
    pub(crate) fn finish(self, name: &str, metadata: &[(&str, &str)]) -> Vec<u8> {
        ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            producer_name: env!("CARGO_PKG_NAME").to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(GraphProto { name: name.to_owned(), ..self.graph }),
            metadata_props: metadata
                .iter()
                .map(|&(key, value)| StringStringEntryProto { key: key.to_owned(), value: value.to_owned() })
                .collect(),
            ..ModelProto::default()
        }
        .encode_to_vec()
    }

    fn constant(&mut self, name: &str, data_type: DataType, shape: &[usize], raw_data: Vec<u8>) -> Value {
        if !self.graph.initializer.iter().any(|tensor| tensor.name == name) {
            self.graph.initializer.push(TensorProto {
                name: name.to_owned(),
                data_type: data_type.into(),
                dims: shape.iter().map(|&size| size as i64).collect(),
                raw_data,
                ..TensorProto::default()
            });
        }
        name.to_owned()
    }
}

/// An attribute of one integer.
pub(crate) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i, ..attribute(name, attribute_proto::AttributeType::Int) }
}

/// An attribute of several integers.
pub(crate) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { ints: ints.to_vec(), ..attribute(name, attribute_proto::AttributeType::Ints) }
}

/// An attribute of one float.
pub(crate) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f, ..attribute(name, attribute_proto::AttributeType::Float) }
}

/// The attribute `to` of `Cast`: `f32`.
pub(crate) fn to_float() -> AttributeProto {
    int("to", DataType::Float as i64)
}

/// The attribute `to` of `Cast`: `i8`.
pub(crate) fn to_int8() -> AttributeProto {
    int("to", DataType::Int8 as i64)
}

fn attribute(name: &str, kind: attribute_proto::AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: kind.into(), ..AttributeProto::default() }
}

fn value_info(name: &str, data_type: DataType, shape: &[Dim]) -> ValueInfoProto {
    let dim = shape
        .iter()
        .map(|dim| Dimension {
            value: Some(match dim {
                Dim::Fixed(size) => dimension::Value::DimValue(*size as i64),
                Dim::Symbol(name) => dimension::Value::DimParam((*name).to_owned()),
            }),
            ..Dimension::default()
        })
        .collect();
    let tensor = type_proto::Tensor { elem_type: data_type.into(), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}
