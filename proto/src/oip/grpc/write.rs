//! From tensors to a `ModelInferResponse`, alone or in a stream.

use super::super::{InferAnswer, Tensor};
use super::wire::{put_bytes, put_head, put_varint, varint_bytes};

/// Appends the `ModelInferResponse` of `answer`, with every output in `raw_output_contents`.
pub fn write_infer(out: &mut Vec<u8>, answer: &InferAnswer<'_>) {
    let data: usize = answer.outputs.iter().map(|output| output.tensor.data.len() + 128).sum();
    out.reserve(data + 128);
    put_bytes(out, 1, answer.release.model.as_str().as_bytes());
    put_bytes(out, 2, answer.release.version.to_string().as_bytes());
    if let Some(id) = answer.id {
        put_bytes(out, 3, id.as_bytes());
    }
    for output in &answer.outputs {
        put_output(out, output.tensor);
    }
    for output in &answer.outputs {
        put_bytes(out, 6, &output.tensor.data);
    }
}

/// `InferOutputTensor`, without elements.
fn put_output(out: &mut Vec<u8>, tensor: &Tensor) {
    let sizes = tensor.shape.iter().map(|&size| u64::try_from(size).unwrap_or(u64::MAX));
    let mut head = Vec::with_capacity(64);
    put_bytes(&mut head, 1, tensor.name.as_bytes());
    put_bytes(&mut head, 2, tensor.datatype.as_str().as_bytes());
    put_head(&mut head, 3, sizes.clone().map(varint_bytes).sum());
    sizes.for_each(|size| put_varint(&mut head, size));
    put_bytes(out, 5, &head);
}

/// The parameter by which clients of streams know the last answer to a request; each request has one answer here.
const FINAL: &[u8] = b"\x0a\x15triton_final_response\x12\x02\x08\x01";

/// Appends the `ModelStreamInferResponse` of `answer`.
pub fn write_stream_answer(out: &mut Vec<u8>, answer: &InferAnswer<'_>) {
    let mut response = Vec::new();
    write_infer(&mut response, answer);
    put_bytes(&mut response, 4, FINAL);
    put_bytes(out, 2, &response);
}

/// Appends a `ModelStreamInferResponse` that refuses the request of `id`.
pub fn write_stream_error(out: &mut Vec<u8>, id: Option<&str>, message: &str) {
    put_bytes(out, 1, message.as_bytes());
    let mut response = Vec::new();
    put_bytes(&mut response, 3, id.unwrap_or_default().as_bytes());
    put_bytes(&mut response, 4, FINAL);
    put_bytes(out, 2, &response);
}
