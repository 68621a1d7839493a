//! What clients write about jobs: ids, `Prefer`, idempotency keys.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::jobs::{JobId, is_idempotency_key, prefers_async};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(id) = text.parse::<JobId>() {
        assert_eq!(id.to_string(), text);
    }
    let _ = (prefers_async(text), is_idempotency_key(text));
});
