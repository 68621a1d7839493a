//! Model files of strangers, up to where the engine is asked: decoding and judging.
#![no_main]

use libfuzzer_sys::fuzz_target;
use engine::{onnx, preflight};

fuzz_target!(|data: &[u8]| {
    if let Ok(model) = onnx::decode(data) {
        let _ = preflight::check(&model);
        let _ = onnx::encode(&model);
    }
});
