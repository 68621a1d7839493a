//! Pictures that clients send, squeezed whole and cut from the centre.
#![no_main]

use libfuzzer_sys::fuzz_target;
use engine::pre::{Pixels, pixels};

const SQUEEZED: Pixels = Pixels {
    width: 24,
    height: 16,
    resize_shorter: None,
    scale: 1.0 / 255.0,
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
    channels_first: true,
    bgr: false,
};
const CUT: Pixels = Pixels {
    width: 16,
    height: 16,
    resize_shorter: Some(24),
    channels_first: false,
    bgr: true,
    ..SQUEEZED
};

fuzz_target!(|data: &[u8]| {
    for how in [SQUEEZED, CUT] {
        if let Ok(numbers) = pixels(data, &how) {
            assert_eq!(u64::try_from(numbers.len()), Ok(u64::from(3 * how.width * how.height)));
            assert!(numbers.iter().all(|number| number.is_finite()));
        }
    }
});
