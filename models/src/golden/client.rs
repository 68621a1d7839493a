//! A golden vector as a client sends it, and the answer that a client gets held against it.

use proto::manifest::Check;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{CompareError, TensorJson, Vector, judge, tensor_to_json, tensors};

/// What every offered variant of a model keeps, whatever its own, closer checks are.
const CHECKS: [Check; 2] = [Check::Cosine { min: 0.98 }, Check::SameTop1 { share_min: 1.0 }];

/// Why an answer is not the golden one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Not an answer of the protocol.
    #[error("not an inference answer: {0}")]
    Malformed(String),
    /// Outputs are absent or of another form.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// Too far from the golden outputs.
    #[error("cosine {cosine_min}, same best label in {top1_share} of the rows, largest difference {abs_max}")]
    Differs {
        /// Lowest cosine.
        cosine_min: f32,
        /// Share of rows with the same best label.
        top1_share: f32,
        /// Largest difference.
        abs_max: f32,
    },
}

#[derive(Deserialize)]
struct AnswerJson {
    outputs: Vec<Value>,
}

impl Vector {
    /// The body of an Open Inference Protocol request with this vector's inputs. What JSON cannot hold (NaN, infinity,
    /// FP16) is written as an input without data, which every server refuses.
    #[must_use]
    pub fn request_json(&self) -> Vec<u8> {
        let empty = |name: &str| json!({"name": name});
        let inputs = self
            .inputs
            .iter()
            .map(|t| tensor_to_json(t).map_or_else(|_| empty(&t.name), |t| json!(t)));
        json!({"inputs": inputs.collect::<Vec<_>>()}).to_string().into_bytes()
    }

    /// Holds the JSON answer of any offered variant against this vector's outputs: the same best labels, and the same
    /// direction of every row within a cosine of 0.98.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn check_response_json(&self, body: &[u8]) -> Result<(), AnswerError> {
        let malformed = |e: serde_json::Error| AnswerError::Malformed(e.to_string());
        let answer: AnswerJson = serde_json::from_slice(body).map_err(malformed)?;
        let plain = |mut output: Value| {
            if let Some(fields) = output.as_object_mut() {
                fields.remove("parameters");
            }
            serde_json::from_value::<TensorJson>(output).map_err(malformed)
        };
        let outputs = answer.outputs.into_iter().map(plain).collect::<Result<Vec<_>, _>>()?;
        let got = tensors(outputs).map_err(AnswerError::Malformed)?;
        let found = judge(&CHECKS, [(got.as_slice(), self.outputs.as_slice())])?;
        if found.verdicts.iter().all(|v| v.passed || v.judged == 0) {
            return Ok(());
        }
        let (cosine_min, top1_share, abs_max) = (found.cosine_min, found.top1_share, found.abs_max);
        Err(AnswerError::Differs {
            cosine_min,
            top1_share,
            abs_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = br#"{"inputs":[{"name":"x","datatype":"INT32","shape":[1,2],"data":[1,2]}],"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[0.25,0.75]}]}"#;

    #[test]
    fn a_client_sends_the_inputs_and_accepts_the_golden_answer_only() {
        let vector = &super::super::read(LINE).unwrap()[0];
        let sent: Value = serde_json::from_slice(&vector.request_json()).unwrap();
        assert_eq!(sent["inputs"][0]["data"], json!([1, 2]));
        let answer = |data: Value| {
            let output = json!({"name": "y", "datatype": "FP32", "shape": [1, 2], "data": data, "parameters": {}});
            json!({"model_name": "m", "outputs": [output]}).to_string().into_bytes()
        };
        vector.check_response_json(&answer(json!([0.26, 0.74]))).unwrap();
        let swapped = vector.check_response_json(&answer(json!([0.75, 0.25])));
        assert!(matches!(swapped, Err(AnswerError::Differs { top1_share: 0.0, .. })));
        assert!(matches!(
            vector.check_response_json(b"{\"error\":\"x\"}"),
            Err(AnswerError::Malformed(_))
        ));
    }
}
