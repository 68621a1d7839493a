//! Golden vectors: inputs, and the outputs that a model must give for them.
//!
//! A golden file holds one JSON object a line, `{"inputs": [tensor, ..], "outputs": [tensor, ..]}`, with tensors as the Open
//! Inference Protocol writes them: `{"name", "datatype", "shape", "data"}`. The names of the inputs select the signature.
//! An element of BYTES is a string, or `{"b64": ".."}` where it is no text, such as a picture. FP16 has no JSON form in
//! the protocol and none here.
//!
//! [`compare`] judges answers; which answers a variant gives is for the engine to find out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::limits::{RANK_MAX, TENSORS_MAX};
use proto::manifest::DataType;
use proto::oip::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod client;
pub use client::AnswerError;
mod compare;
pub use compare::{Agreement, CompareError, Verdict, compare, judge};
mod elements;
pub mod judging;
#[cfg(test)]
mod tests;

/// Vectors in one golden file.
pub const VECTORS_MAX: usize = 1024;

/// One question and its right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vector {
    /// What a request gives.
    pub inputs: Vec<Tensor>,
    /// What the answer must hold.
    pub outputs: Vec<Tensor>,
}

/// Why bytes are no golden file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// A line is not one vector.
    #[error("golden vectors, line {line}: {what}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// Nothing to compare with.
    #[error("the golden file holds no vector: write one JSON object {{\"inputs\": [..], \"outputs\": [..]}} a line")]
    Empty,
    /// More than are read.
    #[error("more than {VECTORS_MAX} golden vectors")]
    TooMany,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VectorJson {
    inputs: Vec<TensorJson>,
    outputs: Vec<TensorJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorJson {
    name: String,
    datatype: DataType,
    shape: Vec<usize>,
    data: Vec<Value>,
}

/// Reads a golden file. Empty lines are skipped; nested data arrays are read in order.
///
/// # Errors
/// [`GoldenError`] names the line.
pub fn read(bytes: &[u8]) -> Result<Vec<Vector>, GoldenError> {
    let mut vectors = Vec::new();
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if vectors.len() == VECTORS_MAX {
            return Err(GoldenError::TooMany);
        }
        let wrong = |what: String| GoldenError::Line { line: i + 1, what };
        let json: VectorJson = serde_json::from_slice(line).map_err(|e| wrong(e.to_string()))?;
        let vector = Vector {
            inputs: tensors(json.inputs).map_err(wrong)?,
            outputs: tensors(json.outputs).map_err(wrong)?,
        };
        if vector.inputs.is_empty() || vector.outputs.is_empty() {
            return Err(wrong("a vector needs inputs and outputs".to_owned()));
        }
        vectors.push(vector);
    }
    if vectors.is_empty() {
        Err(GoldenError::Empty)
    } else {
        Ok(vectors)
    }
}

/// Writes a golden file that [`read`] gives back.
///
/// # Errors
/// [`GoldenError::Line`] for a tensor that JSON cannot hold: FP16, NaN, infinity.
pub fn write(vectors: &[Vector]) -> Result<Vec<u8>, GoldenError> {
    let mut bytes = Vec::new();
    for (i, vector) in vectors.iter().enumerate() {
        let wrong = |what: String| GoldenError::Line { line: i + 1, what };
        let to_json = |tensors: &[Tensor]| tensors.iter().map(tensor_to_json).collect::<Result<Vec<_>, _>>();
        let json = VectorJson {
            inputs: to_json(&vector.inputs).map_err(wrong)?,
            outputs: to_json(&vector.outputs).map_err(wrong)?,
        };
        serde_json::to_writer(&mut bytes, &json).map_err(|e| wrong(e.to_string()))?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

fn tensors(json: Vec<TensorJson>) -> Result<Vec<Tensor>, String> {
    if json.len() > TENSORS_MAX {
        return Err(format!("{} tensors, allowed is {TENSORS_MAX}", json.len()));
    }
    json.into_iter().map(tensor).collect()
}

fn tensor(json: TensorJson) -> Result<Tensor, String> {
    let name = json.name.clone();
    let count = elements::count(&json.shape).filter(|_| json.shape.len() <= RANK_MAX);
    let count = count.ok_or_else(|| format!("`{name}` has an impossible shape {:?}", json.shape))?;
    let mut data = Vec::new();
    let mut found = 0_usize;
    for value in &json.data {
        push(json.datatype, value, &mut data, &mut found).map_err(|what| format!("`{name}`: {what}"))?;
    }
    if found != count {
        return Err(format!(
            "`{name}` holds {found} elements, its shape {:?} needs {count}",
            json.shape
        ));
    }
    Ok(Tensor {
        name: json.name,
        datatype: json.datatype,
        shape: json.shape,
        data,
    })
}

fn push(datatype: DataType, value: &Value, data: &mut Vec<u8>, found: &mut usize) -> Result<(), String> {
    if let Value::Array(inner) = value {
        return inner.iter().try_for_each(|v| push(datatype, v, data, found));
    }
    *found += 1;
    if datatype != DataType::Bytes {
        return elements::push_number(datatype, value, data);
    }
    match value {
        Value::String(text) => elements::push_bytes(text.as_bytes(), data),
        Value::Object(fields) if fields.len() == 1 => {
            let text = fields
                .get("b64")
                .and_then(Value::as_str)
                .ok_or("an object element is {\"b64\": \"..\"}")?;
            elements::push_bytes(&STANDARD.decode(text).map_err(|e| format!("not base64: {e}"))?, data)
        }
        _ => Err("an element of BYTES is a string or {\"b64\": \"..\"}".to_owned()),
    }
}

fn tensor_to_json(tensor: &Tensor) -> Result<TensorJson, String> {
    let data = if tensor.datatype == DataType::Bytes {
        let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => Value::from(text),
            Err(_) => serde_json::json!({ "b64": STANDARD.encode(bytes) }),
        };
        elements::byte_strings(&tensor.data)
            .ok_or("BYTES cut short")?
            .into_iter()
            .map(text)
            .collect()
    } else {
        elements::numbers_to_json(tensor.datatype, &tensor.data).map_err(|what| format!("`{}`: {what}", tensor.name))?
    };
    Ok(TensorJson {
        name: tensor.name.clone(),
        datatype: tensor.datatype,
        shape: tensor.shape.clone(),
        data,
    })
}
