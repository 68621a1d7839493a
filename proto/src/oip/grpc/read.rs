//! From a `ModelInferRequest` to tensors.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde_json::{Number, Value as Json};

use super::super::read::{PARAMETERS_MAX, check_counts, count, whole_elements};
use super::super::{InferRequest, OipError, RequestedOutput, Tensor};
use super::typed;
use super::wire::{Broken, Fields, Value, varint};
use crate::limits::{INFER_BODY_BYTES_MAX, RANK_MAX, TENSORS_MAX};
use crate::manifest::DataType;

/// A request, and the model that it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addressed {
    /// Which model.
    pub model: String,
    /// Which of its versions; empty: the one that is served.
    pub version: String,
    /// What is asked.
    pub request: InferRequest,
}

/// An input before its elements are read: its type may follow them.
#[derive(Default)]
struct Input<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: Vec<usize>,
    contents: Option<&'a [u8]>,
}

fn broken(why: impl std::fmt::Display) -> OipError {
    OipError::Frame {
        what: format!("failed to read the inference request: {why}"),
    }
}

/// Reads one message.
///
/// # Errors
/// Any [`OipError`]: the client's mistake, in words for them.
pub fn read_infer(message: &[u8]) -> Result<Addressed, OipError> {
    if message.len() > INFER_BODY_BYTES_MAX {
        let what = format!(
            "the message has {} bytes, allowed is {INFER_BODY_BYTES_MAX}",
            message.len()
        );
        return Err(OipError::Frame { what });
    }
    let (mut out, mut parameters) = (Addressed::default(), BTreeMap::new());
    let (mut inputs, mut raw, mut id) = (Vec::new(), Vec::new(), "");
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next().map_err(broken)? {
        match number {
            1 => value.text().map_err(broken)?.clone_into(&mut out.model),
            2 => value.text().map_err(broken)?.clone_into(&mut out.version),
            3 => id = value.text().map_err(broken)?,
            4 => read_parameter(value, &mut parameters)?,
            5 => push(&mut inputs, read_input(value)?)?,
            6 => push(&mut out.request.outputs, read_output(value)?)?,
            7 => push(&mut raw, value.bytes().map_err(broken)?)?,
            _ => {}
        }
    }
    let request = &mut out.request;
    request.inputs = tensors(inputs, &raw)?;
    request.id = Some(id.to_owned()).filter(|id| !id.is_empty());
    request.timeout_us = timeout(parameters.remove("timeout").as_ref())?;
    check_counts(&request.inputs, &request.outputs, request.id.as_deref(), &parameters)?;
    request.parameters = parameters
        .into_iter()
        .map(|(key, value)| (key, value.to_string()))
        .collect();
    Ok(out)
}

/// Keeps one more of a list, while it may grow.
fn push<T>(list: &mut Vec<T>, item: T) -> Result<(), OipError> {
    if list.len() == TENSORS_MAX {
        return Err(broken(format!("more than {TENSORS_MAX} inputs or outputs")));
    }
    list.push(item);
    Ok(())
}

/// Triton's clients send 0 for "none".
fn timeout(value: Option<&Json>) -> Result<Option<u64>, OipError> {
    let Some(value) = value else { return Ok(None) };
    let us = value.as_u64();
    us.map(|us| Some(us).filter(|&us| us > 0))
        .ok_or_else(|| OipError::Frame {
            what: "parameter `timeout` is not a whole number of microseconds".to_owned(),
        })
}

fn read_input<'a>(value: Value<'a>) -> Result<Input<'a>, OipError> {
    let mut input = Input::default();
    let mut fields = Fields(value.bytes().map_err(broken)?);
    let mut parameters = BTreeMap::new();
    while let Some((number, value)) = fields.next().map_err(broken)? {
        match number {
            1 => input.name = value.text().map_err(broken)?,
            2 => input.datatype = value.text().map_err(broken)?,
            3 => read_sizes(value, &mut input)?,
            4 => read_parameter(value, &mut parameters)?,
            5 if input.contents.is_some() => return Err(OipError::tensor(input.name, "`contents` is given twice")),
            5 => input.contents = Some(value.bytes().map_err(broken)?),
            _ => {}
        }
    }
    in_memory_of_its_own(input.name, &parameters)?;
    Ok(input)
}

fn read_sizes(value: Value<'_>, input: &mut Input<'_>) -> Result<(), OipError> {
    let mut size = |wire: u64| {
        let size = usize::try_from(i64::from_le_bytes(wire.to_le_bytes()));
        let size = size.map_err(|_| OipError::tensor(input.name, "a size below 0"))?;
        if input.shape.len() == RANK_MAX {
            return Err(OipError::tensor(input.name, format!("more than {RANK_MAX} dimensions")));
        }
        input.shape.push(size);
        Ok(())
    };
    match value {
        Value::Bytes(mut list) => {
            while !list.is_empty() {
                size(varint(&mut list).map_err(broken)?)?;
            }
            Ok(())
        }
        one => size(one.varint().map_err(broken)?),
    }
}

fn read_output(value: Value<'_>) -> Result<RequestedOutput, OipError> {
    let (mut name, mut parameters) = ("", BTreeMap::new());
    let mut fields = Fields(value.bytes().map_err(broken)?);
    while let Some((number, value)) = fields.next().map_err(broken)? {
        match number {
            1 => name = value.text().map_err(broken)?,
            2 => read_parameter(value, &mut parameters)?,
            _ => {}
        }
    }
    in_memory_of_its_own(name, &parameters)?;
    let classification = match parameters.get("classification") {
        None => None,
        Some(value) => {
            let count = value.as_u64().and_then(|n| usize::try_from(n).ok());
            Some(count.ok_or_else(|| OipError::tensor(name, "`classification` is no whole number"))?)
        }
    };
    Ok(RequestedOutput {
        name: name.to_owned(),
        binary: None,
        classification: classification.filter(|&n| n > 0),
    })
}

fn in_memory_of_its_own(name: &str, parameters: &BTreeMap<String, Json>) -> Result<(), OipError> {
    if parameters.contains_key("shared_memory_region") {
        let what = "this node shares no memory with its clients: send and take tensors in the messages";
        return Err(OipError::tensor(name, what));
    }
    Ok(())
}

/// One entry of a map of parameters: the last of a name counts.
fn read_parameter(value: Value<'_>, parameters: &mut BTreeMap<String, Json>) -> Result<(), OipError> {
    let (mut key, mut choice) = ("", Json::Null);
    let mut entry = Fields(value.bytes().map_err(broken)?);
    while let Some((number, value)) = entry.next().map_err(broken)? {
        match number {
            1 => key = value.text().map_err(broken)?,
            2 => choice = read_choice(value).map_err(broken)?,
            _ => {}
        }
    }
    if parameters.len() >= PARAMETERS_MAX && !parameters.contains_key(key) {
        return Err(broken(format!("more than {PARAMETERS_MAX} parameters")));
    }
    parameters.insert(key.to_owned(), choice);
    Ok(())
}

fn read_choice(value: Value<'_>) -> Result<Json, Broken> {
    let mut choice = Json::Null;
    let mut fields = Fields(value.bytes()?);
    while let Some((number, value)) = fields.next()? {
        choice = match (number, value) {
            (1, value) => Json::Bool(value.varint()? != 0),
            (2, value) => Json::from(i64::from_le_bytes(value.varint()?.to_le_bytes())),
            (3, value) => Json::from(value.text()?),
            (4, Value::Fixed64(number)) => {
                let number = Number::from_f64(f64::from_le_bytes(number));
                Json::Number(number.ok_or("a parameter is no finite number")?)
            }
            (5, value) => Json::from(value.varint()?),
            _ => continue,
        };
    }
    Ok(choice)
}

/// The inputs with their elements, which stand in the inputs themselves or all in `raw`.
fn tensors(inputs: Vec<Input<'_>>, raw: &[&[u8]]) -> Result<Vec<Tensor>, OipError> {
    if !raw.is_empty() && raw.len() != inputs.len() {
        let (raw, inputs) = (raw.len(), inputs.len());
        return Err(broken(format!("{raw} raw_input_contents for {inputs} inputs")));
    }
    let mut left = INFER_BODY_BYTES_MAX;
    let mut raw = raw.iter();
    inputs
        .into_iter()
        .map(|input| tensor(input, raw.next().copied(), &mut left))
        .collect()
}

fn tensor(input: Input<'_>, raw: Option<&[u8]>, left: &mut usize) -> Result<Tensor, OipError> {
    let Input {
        name,
        datatype,
        shape,
        contents,
    } = input;
    let wrong = |what: String| OipError::tensor(name, what);
    let known = DataType::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(datatype));
    let datatype = known.map_err(|_| {
        let datatype: String = datatype.chars().take(40).collect();
        wrong(format!("`{datatype}` is no datatype of the protocol"))
    })?;
    let want = count(&shape).ok_or_else(|| wrong(format!("a shape of too many elements: {shape:?}")))?;
    let (data, found) = match (raw, contents.unwrap_or_default()) {
        (Some(data), []) => {
            let found = whole_elements(datatype, data);
            let found = found.ok_or_else(|| wrong(format!("{} bytes are no whole elements", data.len())))?;
            (data.to_vec(), found)
        }
        (Some(_), _) => return Err(wrong("both `contents` and `raw_input_contents`".to_owned())),
        (None, contents) => typed::elements(contents, datatype, left).map_err(wrong)?,
    };
    if found != want {
        return Err(wrong(format!("{found} elements, its shape {shape:?} has {want}")));
    }
    Ok(Tensor {
        name: name.to_owned(),
        datatype,
        shape,
        data,
    })
}
