//! Proofs, promises and receipts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::proof::Proof;
use proto::receipt::{Promise, Receipt, ReceiptId, open};
use proto::signed::PublicKey;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<ReceiptId>() {
        assert_eq!(id.to_string(), text);
    }
    let _ = Receipt::decode(text.as_bytes());
    let promise = Promise::read(text).map(|promise| promise.proof);
    let key = PublicKey([7; 32]);
    for proof in [promise.ok(), Proof::read(text).ok()].into_iter().flatten() {
        assert_eq!(Proof::read(&proof.write()).as_ref(), Ok(&proof));
        // Nobody but the key makes a proof that is believed: this target does not know how to sign.
        assert!(open(&proof, &"dev".parse().expect("a good name"), &key).is_err());
    }
});
