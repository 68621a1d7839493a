//! Messages on a QUIC stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::frame;
use proto::message::{Request, Response};

fuzz_target!(|data: &[u8]| {
    if let Some(header) = data.first_chunk() {
        let _ = frame::body_bytes(*header);
    }
    let _ = frame::decode::<Request>(data);
    let _ = frame::decode::<Response>(data);
});
