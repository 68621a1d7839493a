//! Inference request bodies. The first two bytes choose where the JSON ends, so that binary tensors are reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::ids::Release;
use proto::oip::{Answered, InferAnswer, read_infer, write_infer};

fuzz_target!(|data: &[u8]| {
    let Some((split, body)) = data.split_first_chunk::<2>() else {
        return;
    };
    let json_bytes = usize::from(u16::from_le_bytes(*split));
    let json_bytes = (json_bytes <= body.len()).then_some(json_bytes);
    let Ok(request) = read_infer(body, json_bytes) else {
        return;
    };
    // What was read can be written: as binary always, as JSON or with a sentence why not.
    let release: Release = "m@1".parse().expect("a release");
    for binary in [true, false] {
        let outputs = request
            .inputs
            .iter()
            .map(|tensor| Answered { tensor, binary })
            .collect();
        let written = write_infer(&InferAnswer {
            release: &release,
            id: request.id.as_deref(),
            outputs,
        });
        assert!(written.is_ok() || !binary);
    }
});
