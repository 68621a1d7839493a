//! Log entries, one a line, folded into a fleet: a refused one changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::entry::Fleet;

fuzz_target!(|data: &[u8]| {
    let mut fleet = Fleet::default();
    for leaf in data.split(|b| *b == b'\n').take(64) {
        let before = fleet.clone();
        match fleet.apply(leaf) {
            Ok(_) => assert_eq!(fleet.epoch, before.epoch + 1),
            Err(_) => assert_eq!(fleet, before),
        }
    }
});
