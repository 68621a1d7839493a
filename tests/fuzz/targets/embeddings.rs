//! Bodies of OpenAI's call for embeddings. What is read asks for as many rows as it has texts.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use proto::manifest::{DataType, Dim, Signature, TensorSpec};
use proto::oip::read_embeddings;

static SIGNATURES: LazyLock<Vec<Signature>> = LazyLock::new(|| {
    let spec = |name: &str, datatype, tail: &[Dim]| TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: [&[Dim::Named("batch".to_owned())], tail].concat(),
    };
    vec![Signature {
        name: "text".to_owned(),
        inputs: vec![spec("text", DataType::Bytes, &[])],
        outputs: vec![spec("embedding", DataType::Fp32, &[Dim::Fixed(2)])],
        pre: Vec::new(),
        post: Vec::new(),
    }]
});

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = read_embeddings(data)
        && let Ok(infer) = request.infer(&SIGNATURES)
    {
        assert_eq!(infer.inputs[0].shape, [request.texts.len()]);
    }
});
