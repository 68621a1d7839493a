//! Bodies of the generate extension. What is read has inputs of the signature only.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use proto::manifest::{DataType, Dim, Signature, TensorSpec};
use proto::oip::read_generate;

static SIGNATURES: LazyLock<Vec<Signature>> = LazyLock::new(|| {
    let spec = |name: &str, datatype, free: usize| TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: (0..free).map(|axis| Dim::Named(format!("a{axis}"))).chain([Dim::Fixed(2)]).collect(),
    };
    vec![Signature {
        name: "text".to_owned(),
        inputs: vec![spec("x", DataType::Fp32, 2), spec("t", DataType::Bytes, 1)],
        outputs: vec![spec("y", DataType::Bytes, 1)],
        pre: Vec::new(),
        post: Vec::new(),
    }]
});

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = read_generate(data, &SIGNATURES) {
        assert!(request.inputs.iter().all(|input| input.name == "x" || input.name == "t"));
    }
});
