//! Small ONNX graphs for tests, built the way exporters build them.
#![allow(clippy::as_conversions, reason = "enum numbers of the format")]

use proto::oip::Tensor;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType as OnnxType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};

use crate::onnx::{encode, values};
use crate::tensor;

/// A word-level tokenizer of five words that adds [CLS] and [SEP].
pub(crate) const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,
    "added_tokens":[{"id":0,"content":"[PAD]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
    "normalizer":{"type":"Lowercase"},"pre_tokenizer":{"type":"Whitespace"},
    "post_processor":{"type":"BertProcessing","sep":["[SEP]",2],"cls":["[CLS]",1]},"decoder":null,
    "model":{"type":"WordLevel","vocab":{"[PAD]":0,"[CLS]":1,"[SEP]":2,"[UNK]":3,"the":4,"fleet":5,"runs":6},"unk_token":"[UNK]"}}"#;

/// Name and sizes; -1 stands for a size that requests choose (`N` on axis 0, `S` elsewhere).
pub(crate) type Spec<'a> = (&'a str, &'a [i64]);

/// A model of operator set 17 whose inputs and outputs are FP32.
pub(crate) fn model(
    inputs: &[Spec<'_>],
    outputs: &[Spec<'_>],
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
) -> Vec<u8> {
    encode(&model_proto(inputs, outputs, nodes, constants))
}

pub(crate) fn model_proto(
    inputs: &[Spec<'_>],
    outputs: &[Spec<'_>],
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
) -> ModelProto {
    let graph = GraphProto {
        name: "tiny".to_owned(),
        node: nodes,
        initializer: constants,
        input: inputs.iter().map(|spec| info(spec, OnnxType::Float)).collect(),
        output: outputs.iter().map(|spec| info(spec, OnnxType::Float)).collect(),
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto {
        version: 17,
        ..OperatorSetIdProto::default()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![opset],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

pub(crate) fn info((name, dims): &Spec<'_>, kind: OnnxType) -> ValueInfoProto {
    let dim = |(axis, &size): (usize, &i64)| {
        let free = if axis == 0 { "N" } else { "S" };
        let value = if size < 0 {
            dimension::Value::DimParam(free.to_owned())
        } else {
            dimension::Value::DimValue(size)
        };
        Dimension {
            value: Some(value),
            ..Dimension::default()
        }
    };
    let shape = TensorShapeProto {
        dim: dims.iter().enumerate().map(dim).collect(),
    };
    let tensor = type_proto::Tensor {
        elem_type: values::onnx(kind),
        shape: Some(shape),
    };
    let kind = TypeProto {
        value: Some(type_proto::Value::TensorType(tensor)),
        ..TypeProto::default()
    };
    ValueInfoProto {
        name: (*name).to_owned(),
        r#type: Some(kind),
        ..ValueInfoProto::default()
    }
}

pub(crate) fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: format!("the-{}", operator.to_lowercase()),
        op_type: operator.to_owned(),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

pub(crate) fn with_ints(mut node: NodeProto, name: &str, ints: &[i64]) -> NodeProto {
    let kind = AttributeType::Ints as i32;
    node.attribute.push(AttributeProto {
        name: name.to_owned(),
        r#type: kind,
        ints: ints.to_vec(),
        ..AttributeProto::default()
    });
    node
}

pub(crate) fn with_int(mut node: NodeProto, name: &str, int: i64) -> NodeProto {
    let kind = AttributeType::Int as i32;
    node.attribute.push(AttributeProto {
        name: name.to_owned(),
        r#type: kind,
        i: int,
        ..AttributeProto::default()
    });
    node
}

pub(crate) fn int64s(name: &str, dims: &[i64], elements: &[i64]) -> TensorProto {
    let data_type = values::onnx(OnnxType::Int64);
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type,
        int64_data: elements.to_vec(),
        ..TensorProto::default()
    }
}

/// Numbers between -1 and 1 without a pattern that a mistake in an index could hide behind.
pub(crate) fn ramp(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| f32::from(u16::try_from(i * 7919 % 2003).unwrap()) / 1001.0 - 1.0)
        .collect()
}

pub(crate) fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor::f32s(tensor).unwrap()
}
