//! OpenAI's call for embeddings, for models that make one vector of each text.
//!
//! ```text
//!   {"model": "minilm-l6", "input": ["one", "two"]}   ->   {"object": "list", "data": [{"index": 0, "embedding": [..]}, ..], ..}
//! ```
//! Its clients ask for base64 of little-endian FP32 unless told otherwise. Tokens in place of texts are refused: they would be those
//! of another tokenizer.
//!
//! Source: OpenAI's API reference, "Create embeddings".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{InferRequest, OipError, RequestedOutput, Tensor, elements, write_bytes_element};
use crate::limits::{EMBEDDINGS_MAX, INFER_JSON_BYTES_MAX};
use crate::manifest::{DataType, Dim, Signature, TensorSpec};

/// A request that reads well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingsRequest {
    /// Whom it asks, `NAME` or `NAME@VERSION`.
    pub model: String,
    /// One or more.
    pub texts: Vec<String>,
    /// Vectors are written as base64 rather than as numbers.
    pub base64: bool,
    /// How long the client wants them to be.
    pub dimensions: Option<usize>,
}

#[derive(Deserialize)]
struct RequestJson {
    model: String,
    input: Input,
    #[serde(default)]
    encoding_format: Format,
    #[serde(default, deserialize_with = "whole")]
    dimensions: Option<usize>,
}

/// A whole number, which JSON may also write `384.0`.
fn whole<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(from)? else {
        return Ok(None);
    };
    let digits = match number.as_f64() {
        Some(float) if float.fract() == 0.0 && number.is_f64() => format!("{float:.0}"),
        _ => number.to_string(),
    };
    let wrong = |_| serde::de::Error::custom(format_args!("`dimensions` is {number}, not a whole number"));
    digits.parse().map(Some).map_err(wrong)
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`input` is neither a text nor a list of texts")]
enum Input {
    One(String),
    Many(Vec<String>),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Float,
    Base64,
}

/// The text that a signature takes and the vector that it makes of each, `None` unless it does that and nothing else.
#[must_use]
pub fn embeds(signature: &Signature) -> Option<(&TensorSpec, &TensorSpec)> {
    let ([text], [vector]) = (signature.inputs.as_slice(), signature.outputs.as_slice()) else {
        return None;
    };
    let rows = |dim: Option<&Dim>| matches!(dim, Some(Dim::Named(_)));
    let takes = text.datatype == DataType::Bytes && text.shape.len() == 1 && rows(text.shape.first());
    let makes = vector.datatype == DataType::Fp32 && vector.shape.len() == 2 && rows(vector.shape.first());
    (takes && makes).then_some((text, vector))
}

/// Reads a request.
///
/// # Errors
/// Any [`OipError`]: the client's mistake, in words for them.
pub fn read_embeddings(body: &[u8]) -> Result<EmbeddingsRequest, OipError> {
    let frame = |what: String| OipError::Frame { what };
    if body.len() > INFER_JSON_BYTES_MAX {
        let what = format!("the body has {} bytes, allowed is {INFER_JSON_BYTES_MAX}", body.len());
        return Err(frame(what));
    }
    let read: RequestJson = serde_json::from_slice(body).map_err(|e| OipError::Json { reason: e.to_string() })?;
    let texts = match read.input {
        Input::One(text) => vec![text],
        Input::Many(texts) => texts,
    };
    if texts.is_empty() || texts.len() > EMBEDDINGS_MAX {
        let what = format!("`input` has {} texts, allowed are 1 to {EMBEDDINGS_MAX}", texts.len());
        return Err(frame(what));
    }
    Ok(EmbeddingsRequest {
        model: read.model,
        texts,
        base64: matches!(read.encoding_format, Format::Base64),
        dimensions: read.dimensions,
    })
}

impl EmbeddingsRequest {
    /// The same as a request for the first of `signatures` that embeds.
    ///
    /// # Errors
    /// [`OipError::Frame`] when none does, or its vectors have another length than is asked for.
    pub fn infer(&self, signatures: &[Signature]) -> Result<InferRequest, OipError> {
        let frame = |what: String| OipError::Frame { what };
        let Some((text, vector)) = signatures.iter().find_map(embeds) else {
            let what = format!("`{}` makes no embeddings: ask it at /v2/models/NAME/infer", self.model);
            return Err(frame(what));
        };
        if let (Some(asked), Some(Dim::Fixed(made))) = (self.dimensions, vector.shape.get(1))
            && u32::try_from(asked) != Ok(*made)
        {
            let what = format!(
                "`dimensions` is {asked}, the embeddings of `{}` have {made}",
                self.model
            );
            return Err(frame(what));
        }
        let mut data = Vec::with_capacity(self.texts.iter().map(|text| text.len() + 4).sum());
        for row in &self.texts {
            write_bytes_element(&mut data, row.as_bytes())
                .ok_or_else(|| OipError::tensor(&text.name, "4 GiB in one element"))?;
        }
        Ok(InferRequest {
            inputs: vec![Tensor {
                name: text.name.clone(),
                datatype: DataType::Bytes,
                shape: vec![self.texts.len()],
                data,
            }],
            outputs: vec![RequestedOutput {
                name: vector.name.clone(),
                binary: None,
                classification: None,
            }],
            ..InferRequest::default()
        })
    }

    /// Writes the answer: `vectors` is `[texts, length]` FP32, `tokens` how many the texts were.
    ///
    /// # Errors
    /// [`OipError::Tensor`] for vectors of no such shape, and for numbers that JSON cannot hold.
    pub fn answer(&self, vectors: &Tensor, tokens: usize) -> Result<Vec<u8>, OipError> {
        #[derive(Serialize)]
        struct Usage {
            prompt_tokens: usize,
            total_tokens: usize,
        }
        let bytes = vectors.data.len() / self.texts.len().max(1);
        if bytes == 0 || vectors.datatype != DataType::Fp32 || vectors.shape.first() != Some(&self.texts.len()) {
            return Err(OipError::tensor(&vectors.name, "is no vector for each text"));
        }
        let room = if self.base64 { bytes * 4 / 3 } else { bytes * 3 };
        let mut out = Vec::with_capacity(128 + self.texts.len() * (room + 64));
        out.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
        for (index, row) in vectors.data.chunks_exact(bytes).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(format!("{{\"object\":\"embedding\",\"index\":{index},\"embedding\":").as_bytes());
            if self.base64 {
                out.extend_from_slice(format!("\"{}\"", STANDARD.encode(row)).as_bytes());
            } else {
                elements::to_json(&mut out, row, DataType::Fp32)
                    .map_err(|what| OipError::tensor(&vectors.name, what))?;
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"],\"model\":");
        let usage = Usage {
            prompt_tokens: tokens,
            total_tokens: tokens,
        };
        let written = serde_json::to_writer(&mut out, &self.model).and_then(|()| {
            out.extend_from_slice(b",\"usage\":");
            serde_json::to_writer(&mut out, &usage)
        });
        written.expect("texts and numbers are written to memory");
        out.push(b'}');
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oip::bytes_elements;

    fn embedder() -> Vec<Signature> {
        let spec = |name: &str, datatype, shape: Vec<Dim>| TensorSpec {
            name: name.to_owned(),
            datatype,
            shape,
        };
        let batch = || Dim::Named("batch".to_owned());
        vec![Signature {
            name: "text".to_owned(),
            inputs: vec![spec("text", DataType::Bytes, vec![batch()])],
            outputs: vec![spec("embedding", DataType::Fp32, vec![batch(), Dim::Fixed(2)])],
            pre: Vec::new(),
            post: Vec::new(),
        }]
    }

    #[test]
    fn texts_become_rows_and_vectors_an_answer_in_the_form_asked_for() {
        let request = read_embeddings(br#"{"model":"m@3","input":["a","bc"],"user":"x"}"#).unwrap();
        let infer = request.infer(&embedder()).unwrap();
        assert_eq!(bytes_elements(&infer.inputs[0].data).unwrap(), [&b"a"[..], b"bc"]);
        assert_eq!(
            (infer.inputs[0].shape.as_slice(), infer.outputs[0].name.as_str()),
            (&[2][..], "embedding")
        );
        let vectors = Tensor {
            name: "embedding".to_owned(),
            datatype: DataType::Fp32,
            shape: vec![2, 2],
            data: [1.0_f32, -0.5, 0.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        let text = |request: &EmbeddingsRequest| String::from_utf8(request.answer(&vectors, 7).unwrap()).unwrap();
        let want = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1.0,-0.5]},{"object":"embedding","index":1,"embedding":[0.0,2.0]}],"model":"m@3","usage":{"prompt_tokens":7,"total_tokens":7}}"#;
        assert_eq!(text(&request), want);
        let packed = EmbeddingsRequest {
            base64: true,
            ..request
        };
        assert!(
            text(&packed).contains(r#""embedding":"AACAPwAAAL8=""#),
            "{}",
            text(&packed)
        );
        let fewer = Tensor {
            shape: vec![1, 4],
            ..vectors
        };
        assert!(packed.answer(&fewer, 7).is_err());
    }

    #[test]
    fn what_does_not_fit_is_told_in_a_sentence() {
        for (body, says) in [
            (r#"{"input":"a"}"#, "missing field `model`"),
            (r#"{"model":"m"}"#, "missing field `input`"),
            (r#"{"model":"m","input":[1,2]}"#, "neither a text nor a list of texts"),
            (r#"{"model":"m","input":[]}"#, "0 texts"),
            (
                r#"{"model":"m","input":"a","encoding_format":"hex"}"#,
                "unknown variant `hex`",
            ),
            (r#"{"model":"m","input":"a","dimensions":-1}"#, "`dimensions` is -1"),
            (r#"{"model":"m","input":"a","dimensions":2.5}"#, "`dimensions` is 2.5"),
            (r#"{"model":"m","input":"a","dimensions":"2"}"#, "invalid type"),
        ] {
            let error = read_embeddings(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{body}: {error}");
        }
        let many = format!(r#"{{"model":"m","input":[{}"a"]}}"#, r#""a","#.repeat(EMBEDDINGS_MAX));
        assert!(read_embeddings(many.as_bytes()).is_err());
        assert_eq!(
            read_embeddings(br#"{"model":"m","input":"a","dimensions":2.0}"#)
                .unwrap()
                .dimensions,
            Some(2)
        );
        assert!(read_embeddings(br#"{"model":"m","input":"a","dimensions":1e300}"#).is_err());
        let asked = read_embeddings(br#"{"model":"m","input":"a","dimensions":3}"#).unwrap();
        let error = asked.infer(&embedder()).unwrap_err().to_string();
        assert!(error.contains("the embeddings of `m` have 2"), "{error}");
        assert!(
            asked
                .infer(&[])
                .unwrap_err()
                .to_string()
                .contains("makes no embeddings")
        );
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(
            text in r#"(\{|\}|\[|\]|:|,|"model"|"input"|"encoding_format"|"base64"|"dimensions"|"a"|1|-1|1e400|null|true){0,30}"#,
        ) {
            if let Ok(request) = read_embeddings(text.as_bytes()) {
                let _ = request.infer(&embedder());
            }
        }
    }
}
