//! From a request's body to tensors.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{InferRequest, OipError, RequestedOutput, Tensor, bytes_elements, elements, write_bytes_element};
use crate::limits::{INFER_BODY_BYTES_MAX, INFER_JSON_BYTES_MAX, RANK_MAX, TENSORS_MAX};
use crate::manifest::{DataType, Dim, TensorSpec};

/// Other parameters that a request may carry.
pub(super) const PARAMETERS_MAX: usize = 64;
/// Bytes of an id.
const ID_BYTES_MAX: usize = 1024;

#[derive(Deserialize)]
struct RequestJson<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(borrow)]
    inputs: Vec<InputJson<'a>>,
    #[serde(default)]
    outputs: Vec<OutputJson>,
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct InputJson<'a> {
    name: String,
    datatype: DataType,
    shape: Vec<usize>,
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct OutputJson {
    name: String,
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
}

/// Reads a request. `json_bytes` is the value of `Inference-Header-Content-Length`, if that header is there; with 0 the
/// body is [`read_raw`]'s.
///
/// # Errors
/// Any [`OipError`]: the client's mistake, in words for them.
pub fn read_infer(body: &[u8], json_bytes: Option<usize>) -> Result<InferRequest, OipError> {
    let too_long = |what: &str, found: usize, max: usize| OipError::Frame {
        what: format!("{what} has {found} bytes, allowed is {max}"),
    };
    if body.len() > INFER_BODY_BYTES_MAX {
        return Err(too_long("the body", body.len(), INFER_BODY_BYTES_MAX));
    }
    let split = json_bytes.unwrap_or(body.len());
    let (json, mut binary) = body.split_at_checked(split).ok_or_else(|| OipError::Frame {
        what: format!(
            "Inference-Header-Content-Length is {split}, the body has {} bytes",
            body.len()
        ),
    })?;
    if json.len() > INFER_JSON_BYTES_MAX {
        return Err(too_long("the JSON part", json.len(), INFER_JSON_BYTES_MAX));
    }
    let unread = |reason: String| OipError::Json { reason };
    // All at once: of bytes serde_json checks each text by itself, which takes longer.
    let json = std::str::from_utf8(json).map_err(|e| unread(e.to_string()))?;
    let request: RequestJson<'_> = serde_json::from_str(json).map_err(|e| unread(e.to_string()))?;
    let inputs = request
        .inputs
        .into_iter()
        .map(|input| read_input(input, &mut binary))
        .collect::<Result<Vec<_>, _>>()?;
    if !binary.is_empty() {
        return Err(OipError::Frame {
            what: format!("{} bytes after the last tensor's data", binary.len()),
        });
    }
    let outputs = request
        .outputs
        .into_iter()
        .map(read_output)
        .collect::<Result<Vec<_>, _>>()?;
    check_counts(&inputs, &outputs, request.id.as_deref(), &request.parameters)?;
    let mut parameters = request.parameters;
    let binary_output = match parameters.remove("binary_data_output") {
        None => false,
        Some(Value::Bool(on)) => on,
        Some(other) => return Err(parameter("binary_data_output", &other, "true or false")),
    };
    let timeout_us = match parameters.remove("timeout") {
        None => None,
        // Triton's clients send 0 for "none".
        Some(value) => Some(
            value
                .as_u64()
                .ok_or_else(|| parameter("timeout", &value, "whole microseconds"))?,
        ),
    };
    let parameters = parameters
        .into_iter()
        .map(|(key, value)| (key, value.to_string()))
        .collect();
    Ok(InferRequest {
        id: request.id,
        inputs,
        outputs,
        binary_output,
        timeout_us: timeout_us.filter(|&t| t > 0),
        parameters,
    })
}

/// Reads a body that is nothing but the data of the model's one input, `spec`. Its batch is what the length says; BYTES
/// is one element and carries no length.
///
/// # Errors
/// [`OipError::Tensor`] when the length or the declared shape does not allow that.
pub fn read_raw(body: &[u8], spec: &TensorSpec) -> Result<InferRequest, OipError> {
    let wrong = |what: String| OipError::tensor(&spec.name, what);
    let mut named = spec
        .shape
        .iter()
        .enumerate()
        .filter(|(_, dim)| matches!(dim, Dim::Named(_)));
    let free = named.next().map(|(axis, _)| axis);
    if named.next().is_some() {
        return Err(wrong(
            "a raw body cannot say the sizes of two dynamic axes: send JSON or a JSON header".to_owned(),
        ));
    }
    let mut shape: Vec<usize> = spec
        .shape
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => usize::try_from(*size).unwrap_or(usize::MAX),
            Dim::Named(_) => 1,
        })
        .collect();
    let mut data = Vec::with_capacity(body.len() + 4);
    if let Some(element) = spec.datatype.element_bytes() {
        let row = count(&shape).and_then(|n| n.checked_mul(element)).unwrap_or(usize::MAX);
        if row == 0 || body.is_empty() || !body.len().is_multiple_of(row) || (free.is_none() && body.len() != row) {
            return Err(wrong(format!("{} bytes of raw body, one row has {row}", body.len())));
        }
        if let Some(axis) = free {
            shape[axis] = body.len() / row;
        }
        data.extend_from_slice(body);
    } else {
        if count(&shape) != Some(1) {
            return Err(wrong(
                "a raw body holds one BYTES element, the model wants more".to_owned(),
            ));
        }
        write_bytes_element(&mut data, body).ok_or_else(|| wrong("4 GiB in one element".to_owned()))?;
    }
    let input = Tensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape,
        data,
    };
    // As Triton answers raw requests: in binary.
    Ok(InferRequest {
        inputs: vec![input],
        binary_output: true,
        ..InferRequest::default()
    })
}

fn read_input(input: InputJson<'_>, binary: &mut &[u8]) -> Result<Tensor, OipError> {
    let InputJson {
        name,
        datatype,
        shape,
        parameters,
        data,
    } = input;
    let wrong = |what: String| OipError::tensor(&name, what);
    if shape.len() > RANK_MAX {
        return Err(wrong(format!("{} dimensions, allowed is {RANK_MAX}", shape.len())));
    }
    let want = count(&shape).ok_or_else(|| wrong(format!("a shape of too many elements: {shape:?}")))?;
    let (data, found) = match (parameters.get("binary_data_size"), data) {
        (None, Some(json)) => elements::from_json(json, datatype).map_err(wrong)?,
        (Some(size), None) => {
            let size = size.as_u64().and_then(|n| usize::try_from(n).ok());
            let (data, rest) = size.and_then(|n| binary.split_at_checked(n)).ok_or_else(|| {
                wrong(format!(
                    "`binary_data_size` is no number up to the {} bytes that are left",
                    binary.len()
                ))
            })?;
            *binary = rest;
            (
                data.to_vec(),
                whole_elements(datatype, data)
                    .ok_or_else(|| wrong(format!("{} bytes are no whole elements", data.len())))?,
            )
        }
        (None, None) => return Err(wrong("neither `data` nor `binary_data_size`".to_owned())),
        (Some(_), Some(_)) => return Err(wrong("both `data` and `binary_data_size`".to_owned())),
    };
    if found != want {
        return Err(wrong(format!("{found} elements, its shape {shape:?} has {want}")));
    }
    Ok(Tensor {
        name,
        datatype,
        shape,
        data,
    })
}

fn read_output(output: OutputJson) -> Result<RequestedOutput, OipError> {
    let wrong = |what: &str| OipError::tensor(&output.name, what);
    let binary = match output.parameters.get("binary_data") {
        None => None,
        Some(value) => Some(
            value
                .as_bool()
                .ok_or_else(|| wrong("`binary_data` is neither true nor false"))?,
        ),
    };
    let classification = match output.parameters.get("classification") {
        None => None,
        Some(value) => {
            let count = value.as_u64().and_then(|n| usize::try_from(n).ok());
            count
                .ok_or_else(|| wrong("`classification` is no whole number"))?
                .into()
        }
    };
    // 0 classes means the tensor itself, as Triton's clients send it.
    Ok(RequestedOutput {
        classification: classification.filter(|&n| n > 0),
        binary,
        name: output.name,
    })
}

/// The bounds that requests of every form have.
pub(super) fn check_counts(
    inputs: &[Tensor],
    outputs: &[RequestedOutput],
    id: Option<&str>,
    parameters: &BTreeMap<String, Value>,
) -> Result<(), OipError> {
    let frame = |what: String| Err(OipError::Frame { what });
    if inputs.is_empty() || inputs.len() > TENSORS_MAX || outputs.len() > TENSORS_MAX {
        return frame(format!(
            "{} inputs and {} outputs, allowed are 1 to {TENSORS_MAX}",
            inputs.len(),
            outputs.len()
        ));
    }
    if let Some((_, twice)) = inputs
        .iter()
        .enumerate()
        .find(|(i, t)| inputs[..*i].iter().any(|o| o.name == t.name))
    {
        return Err(OipError::tensor(&twice.name, "given twice"));
    }
    if let Some((_, twice)) = outputs
        .iter()
        .enumerate()
        .find(|(i, t)| outputs[..*i].iter().any(|o| o.name == t.name))
    {
        return Err(OipError::tensor(&twice.name, "asked for twice"));
    }
    if id.is_some_and(|id| id.len() > ID_BYTES_MAX) || parameters.len() > PARAMETERS_MAX {
        return frame(format!(
            "an id of more than {ID_BYTES_MAX} bytes or more than {PARAMETERS_MAX} parameters"
        ));
    }
    match parameters
        .iter()
        .find(|(_, value)| value.is_array() || value.is_object())
    {
        Some((key, value)) => Err(parameter(key, value, "a text, number or truth value")),
        None => Ok(()),
    }
}

fn parameter(key: &str, value: &Value, want: &str) -> OipError {
    let value: String = value.to_string().chars().take(40).collect();
    let key: String = key.chars().take(80).collect();
    OipError::Frame {
        what: format!("parameter `{key}` is {value}, allowed is {want}"),
    }
}

/// How many elements binary data holds, if it holds whole ones.
pub(super) fn whole_elements(datatype: DataType, data: &[u8]) -> Option<usize> {
    match datatype.element_bytes() {
        Some(element) => Some(data.len() / element).filter(|_| data.len().is_multiple_of(element)),
        None => bytes_elements(data).map(|elements| elements.len()),
    }
}

/// How many elements a shape has.
pub(super) fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size))
}
