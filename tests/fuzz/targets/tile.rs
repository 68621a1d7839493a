//! Entry bundles and hash tiles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::tile;

fuzz_target!(|data: &[u8]| {
    if let Ok(entries) = tile::read_entries(data) {
        assert_eq!(
            tile::write_entries(entries).expect("it was read"),
            data,
            "one bundle has one form"
        );
    }
    if let Ok(hashes) = tile::read_hashes(data) {
        assert_eq!(tile::write_hashes(&hashes), data);
    }
});
