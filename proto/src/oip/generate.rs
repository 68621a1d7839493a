//! The generate extension: inputs and outputs as plain members of a JSON object, one row at a time.
//!
//! ```text
//!   {"file": "SELECT 1;", "parameters": {"timeout": 500000}}   ->   {"model_name": "magika", .., "label": "sql", "score": 0.99}
//! ```
//! A single value stands for one element. Members that no input is called are parameters, as in Triton.
//!
//! Source: Triton's `extension_generate.md`.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::write::InferAnswer;
use super::{InferRequest, OipError, bytes_elements, elements, read_infer};
use crate::limits::GENERATE_BODY_BYTES_MAX;
use crate::manifest::{DataType, Dim, Signature, TensorSpec};

/// Whether a call gives text, so that it may be asked this way.
#[must_use]
pub fn generates(signature: &Signature) -> bool {
    signature.outputs.iter().any(|spec| spec.datatype == DataType::Bytes)
}

/// Reads a request for the first of `signatures` that gives text and all of whose inputs are in `body`.
///
/// # Errors
/// Any [`OipError`]: the client's mistake, in words for them.
pub fn read_generate(body: &[u8], signatures: &[Signature]) -> Result<InferRequest, OipError> {
    if body.len() > GENERATE_BODY_BYTES_MAX {
        let what = format!(
            "the body has {} bytes, allowed is {GENERATE_BODY_BYTES_MAX}",
            body.len()
        );
        return Err(OipError::Frame { what });
    }
    let unread = |e: serde_json::Error| OipError::Json { reason: e.to_string() };
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(body).map_err(unread)?;
    let mut texts = signatures.iter().filter(|signature| generates(signature));
    let inputs = |signature: &&Signature| signature.inputs.iter().all(|spec| members.contains_key(&spec.name));
    let Some(signature) = texts.clone().find(inputs) else {
        let wanted = texts.next().map_or(&[][..], |first| &first.inputs);
        let wanted: Vec<&str> = wanted.iter().map(|spec| spec.name.as_str()).collect();
        let what = format!("the members {} are wanted, not all are there", wanted.join(", "));
        return Err(OipError::Frame { what });
    };
    let (mut heads, mut binary) = (Vec::new(), Vec::new());
    for spec in &signature.inputs {
        if let Some(value) = members.remove(&spec.name) {
            let (data, shape) = input(spec, value)?;
            heads.push(json!({
                "name": spec.name, "datatype": spec.datatype.as_str(), "shape": shape,
                "parameters": {"binary_data_size": data.len()},
            }));
            binary.extend(data);
        }
    }
    let mut request = json!({ "inputs": heads });
    if let Some(id) = members.remove("id") {
        request["id"] = serde_json::from_str(id.get()).map_err(unread)?;
    }
    let mut parameters: Map<String, Value> = match members.remove("parameters") {
        None => Map::new(),
        Some(given) => serde_json::from_str(given.get()).map_err(unread)?,
    };
    for (name, value) in members {
        parameters.insert(name, serde_json::from_str(value.get()).map_err(unread)?);
    }
    // Outputs are told in JSON, whatever is asked.
    parameters.remove("binary_data_output");
    request["parameters"] = Value::Object(parameters);
    let json = request.to_string().into_bytes();
    let json_bytes = json.len();
    read_infer(&[json, binary].concat(), Some(json_bytes))
}

/// The elements of one input and the shape they have: one row where the first axis is the request's to choose and there
/// is another such, and as many as there are elements for where there is one.
fn input(spec: &TensorSpec, value: &RawValue) -> Result<(Vec<u8>, Vec<usize>), OipError> {
    let wrong = |what: String| OipError::tensor(&spec.name, what);
    let listed;
    let list = if value.get().starts_with('[') {
        value
    } else {
        listed = RawValue::from_string(format!("[{}]", value.get())).map_err(|e| wrong(e.to_string()))?;
        &*listed
    };
    let (data, found) = elements::from_json(list, spec.datatype).map_err(wrong)?;
    let mut shape: Vec<usize> = spec
        .shape
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => usize::try_from(*size).unwrap_or(usize::MAX),
            Dim::Named(_) => 1,
        })
        .collect();
    let row = shape
        .iter()
        .try_fold(1_usize, |n, &size| n.checked_mul(size))
        .unwrap_or(usize::MAX);
    let free = spec.shape.iter().rposition(|dim| matches!(dim, Dim::Named(_)));
    let fits = row > 0 && found > 0 && found.is_multiple_of(row) && (free.is_some() || found == row);
    if !fits {
        return Err(wrong(format!("{found} elements, one row has {row}")));
    }
    if let Some(axis) = free {
        shape[axis] = found / row;
    }
    Ok((data, shape))
}

/// Writes an answer: each output by its name, a single element by itself. Elements that are no UTF-8 text are refused.
///
/// # Errors
/// [`OipError::Tensor`] for values that JSON cannot hold.
pub fn write_generate(answer: &InferAnswer<'_>) -> Result<Vec<u8>, OipError> {
    let text = |text: &str| {
        serde_json::to_string(text)
            .expect("texts are written to memory")
            .into_bytes()
    };
    let mut out = b"{\"model_name\":".to_vec();
    out.extend(text(answer.release.model.as_str()));
    out.extend_from_slice(b",\"model_version\":");
    out.extend(text(&answer.release.version.to_string()));
    if let Some(id) = answer.id {
        out.extend_from_slice(b",\"id\":");
        out.extend(text(id));
    }
    for output in &answer.outputs {
        let tensor = output.tensor;
        let mut list = Vec::new();
        elements::to_json(&mut list, &tensor.data, tensor.datatype)
            .map_err(|what| OipError::tensor(&tensor.name, what))?;
        let count = match tensor.datatype.element_bytes() {
            Some(bytes) => tensor.data.len() / bytes,
            None => bytes_elements(&tensor.data).map_or(0, |elements| elements.len()),
        };
        out.push(b',');
        out.extend(text(&tensor.name));
        out.push(b':');
        let single = list.strip_prefix(b"[").and_then(|list| list.strip_suffix(b"]"));
        out.extend_from_slice(single.filter(|_| count == 1).unwrap_or(&list));
    }
    out.push(b'}');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oip::{Answered, Tensor};

    fn spec(name: &str, datatype: DataType, shape: Vec<Dim>) -> TensorSpec {
        TensorSpec {
            name: name.to_owned(),
            datatype,
            shape,
        }
    }
    fn labeller() -> Vec<Signature> {
        let batch = || Dim::Named("batch".to_owned());
        let signature = |inputs| Signature {
            name: "text".to_owned(),
            inputs,
            outputs: vec![spec("label", DataType::Bytes, vec![batch()])],
            pre: Vec::new(),
            post: Vec::new(),
        };
        vec![
            signature(vec![spec("x", DataType::Fp32, vec![batch(), Dim::Fixed(2)])]),
            signature(vec![spec("file", DataType::Bytes, vec![batch()])]),
        ]
    }

    #[test]
    fn members_become_the_inputs_they_are_called_and_the_rest_parameters() {
        let body = br#"{"file":"SELECT","id":"7","stream":false,"parameters":{"timeout":5,"k":"v"}}"#;
        let request = read_generate(body, &labeller()).unwrap();
        assert_eq!(request.inputs[0].shape, [1]);
        assert_eq!(bytes_elements(&request.inputs[0].data).unwrap(), [b"SELECT"]);
        assert_eq!((request.id.as_deref(), request.timeout_us), (Some("7"), Some(5)));
        assert_eq!(
            (request.parameters["k"].as_str(), request.parameters["stream"].as_str()),
            ("\"v\"", "false")
        );
        let two = read_generate(br#"{"x":[1,2,3,4]}"#, &labeller()).unwrap();
        assert_eq!(two.inputs[0].shape, [2, 2]);
    }

    #[test]
    fn what_does_not_fit_is_told_in_a_sentence() {
        for (body, says) in [
            ("{}", "members x are wanted"),
            ("[]", "expected a map"),
            (r#"{"x":1}"#, "1 elements, one row has 2"),
            (r#"{"x":[]}"#, "0 elements"),
            (r#"{"file":1}"#, "a number is not an element of BYTES"),
            (r#"{"file":"a","id":1}"#, "invalid type"),
            (r#"{"file":"a","parameters":[]}"#, "invalid type"),
            (r#"{"file":"a","extra":{}}"#, "extra"),
        ] {
            let error = read_generate(body.as_bytes(), &labeller()).unwrap_err().to_string();
            assert!(error.contains(says), "{body}: {error}");
        }
    }

    #[test]
    fn a_single_element_stands_by_itself() {
        let tensor = |name: &str, datatype, data: &[u8]| Tensor {
            name: name.to_owned(),
            datatype,
            shape: vec![1],
            data: data.to_vec(),
        };
        let label = tensor("label", DataType::Bytes, b"\x03\0\0\0sql");
        let scores = tensor("scores", DataType::Int8, &[1, 2]);
        let release = "m@3".parse().unwrap();
        let outputs = [&label, &scores].map(|tensor| Answered { tensor, binary: false });
        let body = write_generate(&InferAnswer {
            release: &release,
            id: Some("7"),
            outputs: outputs.to_vec(),
        })
        .unwrap();
        let want = r#"{"model_name":"m","model_version":"3","id":"7","label":"sql","scores":[1,2]}"#;
        assert_eq!(String::from_utf8(body).unwrap(), want);
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(
            text in r#"(\{|\}|\[|\]|:|,|"file"|"x"|"id"|"parameters"|"timeout"|"a"|1|-1|1e400|null|true){0,30}"#,
        ) {
            let _ = read_generate(text.as_bytes(), &labeller());
        }
    }
}
