//! What a node is asked to forget: the body of `POST /v1/purge`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::purge::read_purge;

fuzz_target!(|body: &[u8]| {
    let Ok(asked) = read_purge(body) else {
        return;
    };
    // What was read is what is written, so that nothing is asked for that nobody wrote.
    let written = serde_json::to_vec(&asked).expect("names and words are JSON");
    assert_eq!(read_purge(&written), Ok(asked));
});
