//! What steps before the graph cost, beside what it costs to find again what they made: decision 0032 has the figures.
//!
//! `cargo run --release -p meridian-engine --example stages -- TOKENIZER.json [PICTURE.jpg ..]`
#![allow(missing_docs)]
#![allow(
    clippy::unwrap_used,
    clippy::as_conversions,
    reason = "a measurement for people who read it"
)]

use std::hint::black_box;
use std::io::Cursor;
use std::time::Duration;

use engine::pre::{Pixels, Tokens, file_ends, numbers, pixels, scaled};
use image::{ImageFormat, Rgb, RgbImage};
use rustix::time::{ClockId, clock_gettime};

const HOW: Pixels = Pixels {
    width: 224,
    height: 224,
    resize_shorter: Some(256),
    scale: 1.0 / 255.0,
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
    channels_first: true,
    bgr: false,
};

fn now() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap())
}

/// Median CPU time of one call.
fn median(mut call: impl FnMut()) -> Duration {
    call();
    let mut times: Vec<Duration> = (0..31)
        .map(|_| {
            let begin = now();
            call();
            now().saturating_sub(begin)
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn told(what: &str, make: Duration, find: Duration) {
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{what:44} made {:9.1} us   found {:7.1} us   {:6.1} times",
        us(make),
        us(find),
        us(make) / us(find)
    );
}

/// What a look-up costs: naming the row by a keyed hash, and making tensors of what was found.
fn naming(from: &[u8]) -> blake3::Hash {
    blake3::keyed_hash(&[7; 32], from)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let tokenizer = std::fs::read(arguments.next().unwrap()).unwrap();
    let tokens = Tokens::new(&tokenizer, 256, 1).unwrap();
    let word = "the fleet answers whoever asks within its boundary and says who did ";
    for bytes in [64, 256, 1024, 4096, 65_536] {
        let text: String = word.chars().cycle().take(bytes).collect();
        let encoded = tokens.encode(&[text.as_bytes()]).unwrap();
        let make = median(|| drop(black_box(tokens.encode(&[black_box(text.as_bytes())]))));
        let find = median(|| {
            drop(black_box((
                naming(text.as_bytes()),
                encoded.ids.clone(),
                encoded.mask.clone(),
                encoded.types.clone(),
            )))
        });
        told(
            &format!("tokens of {bytes} bytes ({} tokens)", encoded.length),
            make,
            find,
        );
    }
    for bytes in [4_096, 1 << 20] {
        let file = vec![b'a'; bytes];
        let make = median(|| drop(black_box(file_ends(black_box(&file), 1024, 1024, 4096, 256))));
        let find = median(|| {
            black_box(naming(&file));
        });
        told(&format!("ends of a file of {bytes} bytes"), make, find);
    }
    let synthetic = [(640, 480), (1152, 864), (4000, 3000)].map(|(width, height)| {
        let waves = |x: u32, y: u32| ((x * x / 97 + y * 31 + x * y / 211) % 256) as u8;
        let picture = RgbImage::from_fn(width, height, |x, y| Rgb([waves(x, y), waves(y, x), waves(x + y, x)]));
        let mut out = Cursor::new(Vec::new());
        picture.write_to(&mut out, ImageFormat::Jpeg).unwrap();
        (format!("made-up JPEG {width} x {height}"), out.into_inner())
    });
    let given = arguments.map(|path| (path.clone(), std::fs::read(path).unwrap()));
    for (name, picture) in synthetic.into_iter().chain(given) {
        let rgb = scaled(&picture, &HOW).unwrap();
        let make = median(|| drop(black_box(pixels(black_box(&picture), &HOW))));
        let find = median(|| {
            let mut out = Vec::new();
            numbers(black_box(&rgb), &HOW, &mut out);
            drop(black_box((naming(&picture), out)));
        });
        told(&format!("{name}, {} KiB", picture.len() >> 10), make, find);
    }
}
