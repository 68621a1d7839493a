//! From tensors to an answer's body.

use serde::Serialize;

use super::{OipError, Tensor, elements};
use crate::ids::Release;

/// One output of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// Its values.
    pub tensor: &'a Tensor,
    /// Whether it is written as binary data.
    pub binary: bool,
}

/// An answer to be written.
#[derive(Clone, Debug)]
pub struct InferAnswer<'a> {
    /// What answered.
    pub release: &'a Release,
    /// The request's own.
    pub id: Option<&'a str>,
    /// In order.
    pub outputs: Vec<Answered<'a>>,
}

/// Writes an answer: its body, and the length of the JSON part if binary data follows it
/// (`Inference-Header-Content-Length`).
///
/// # Errors
/// [`OipError::Tensor`] for values that JSON cannot hold: the client must ask for binary data.
pub fn write_infer(answer: &InferAnswer<'_>) -> Result<(Vec<u8>, Option<usize>), OipError> {
    let binary_bytes: usize = answer
        .outputs
        .iter()
        .filter(|o| o.binary)
        .map(|o| o.tensor.data.len())
        .sum();
    let mut out = Vec::with_capacity(256 * (1 + answer.outputs.len()) + binary_bytes);
    out.extend_from_slice(b"{\"model_name\":");
    json(&mut out, answer.release.model.as_str());
    out.extend_from_slice(b",\"model_version\":\"");
    json(&mut out, &answer.release.version.0);
    out.push(b'"');
    if let Some(id) = answer.id {
        out.extend_from_slice(b",\"id\":");
        json(&mut out, id);
    }
    out.extend_from_slice(b",\"outputs\":[");
    for (i, Answered { tensor, binary }) in answer.outputs.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let Tensor {
            name,
            datatype,
            shape,
            data,
        } = tensor;
        out.extend_from_slice(b"{\"name\":");
        json(&mut out, name);
        out.extend_from_slice(b",\"datatype\":\"");
        out.extend_from_slice(datatype.as_str().as_bytes());
        out.extend_from_slice(b"\",\"shape\":");
        json(&mut out, shape);
        if *binary {
            out.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
            json(&mut out, &data.len());
            out.push(b'}');
        } else {
            out.extend_from_slice(b",\"data\":");
            elements::to_json(&mut out, data, *datatype).map_err(|what| OipError::tensor(name, what))?;
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    let json_bytes = answer.outputs.iter().any(|o| o.binary).then_some(out.len());
    for output in answer.outputs.iter().filter(|o| o.binary) {
        out.extend_from_slice(&output.tensor.data);
    }
    Ok((out, json_bytes))
}

fn json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("texts and numbers are written to memory");
}
