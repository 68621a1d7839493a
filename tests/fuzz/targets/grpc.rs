//! Messages of the inference service over gRPC.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::ids::Release;
use proto::oip::grpc::{prefix, read_infer, write_infer, write_stream_answer};
use proto::oip::{Answered, InferAnswer};

fuzz_target!(|data: &[u8]| {
    let _ = prefix(data);
    let Ok(read) = read_infer(data) else {
        return;
    };
    // What was read can be written.
    let release: Release = "m@1".parse().expect("a release");
    let outputs = read.request.inputs.iter();
    let answer = InferAnswer {
        release: &release,
        id: read.request.id.as_deref(),
        outputs: outputs.map(|tensor| Answered { tensor, binary: true }).collect(),
    };
    let mut out = Vec::new();
    write_infer(&mut out, &answer);
    write_stream_answer(&mut out, &answer);
});
