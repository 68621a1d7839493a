//! Keys, signed notes and checkpoints.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::note::{Signer, Verifier};

fuzz_target!(|text: &str| {
    let _ = text.parse::<Verifier>();
    let _ = Signer::from_skey(text);
    let signer = Signer::new("dev.meridian/log", [7; 32]).expect("a good name");
    // Nobody but the key makes a note that it accepts: this target does not know how to sign.
    assert!(signer.verifier().open_checkpoint(text).is_err());
});
