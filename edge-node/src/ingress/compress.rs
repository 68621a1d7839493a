//! Answers compressed for clients that ask for it. `Inference-Header-Content-Length` goes on counting bytes that are not.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue};

use super::body::Encoding;
use super::reply::Problem;
use super::{Answer, infer};

/// A shorter answer travels in one or two packets anyway.
const BYTES_MIN: usize = 2 << 10;

/// What the client asks for, gzip first. A quality of 0 forbids.
pub(super) fn wanted(headers: &HeaderMap) -> Encoding {
    let said = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    let allowed: Vec<&str> = said.flat_map(|v| v.split(',')).filter_map(name).collect();
    let has = |names: &[&str]| allowed.iter().any(|a| names.iter().any(|n| a.eq_ignore_ascii_case(n)));
    if has(&["gzip", "x-gzip"]) {
        Encoding::Gzip
    } else if has(&["deflate"]) {
        Encoding::Deflate
    } else {
        Encoding::Plain
    }
}

fn name(choice: &str) -> Option<&str> {
    let (name, weight) = choice.split_once(';').unwrap_or((choice, "q=1"));
    let quality = weight.trim().trim_start_matches(['q', 'Q']).trim_start_matches('=');
    (quality.trim().parse::<f32>().unwrap_or(1.0) > 0.0).then_some(name.trim())
}

/// `answer` in `encoding`, if it is long enough to gain by it. Event streams are for reading as they come.
pub(super) async fn fit(encoding: Encoding, answer: Answer) -> Answer {
    if encoding == Encoding::Plain || answer.body().len() < BYTES_MIN {
        return answer;
    }
    let (mut head, bytes) = answer.into_parts();
    let events = head
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"));
    let label = match encoding {
        Encoding::Gzip if !events => "gzip",
        Encoding::Deflate if !events => "deflate",
        _ => return Answer::from_parts(head, bytes),
    };
    let (short, plain) = (bytes.len() <= infer::DECODE_INLINE_BYTES_MAX, bytes.clone());
    let packed = infer::aside(short, move || packed(encoding, &plain)).await;
    let body = match packed {
        Ok(packed) if packed.len() < bytes.len() => {
            head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(label));
            Bytes::from(packed)
        }
        _ => bytes,
    };
    head.headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    Answer::from_parts(head, body)
}

/// Blocks. The fastest level: an answer is sent once.
fn packed(encoding: Encoding, bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    let out = Vec::with_capacity(bytes.len() / 2);
    let written = if encoding == Encoding::Gzip {
        let mut encoder = GzEncoder::new(out, Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish())
    } else {
        let mut encoder = ZlibEncoder::new(out, Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish())
    };
    Ok(written.expect("memory takes what is written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_choice_is_taken_and_a_quality_of_nothing_forbids() {
        let of = |said: &'static str| {
            wanted(&HeaderMap::from_iter([(
                ACCEPT_ENCODING,
                HeaderValue::from_static(said),
            )]))
        };
        assert_eq!(of("deflate, gzip;q=0.5"), Encoding::Gzip);
        assert_eq!(of("gzip;q=0, deflate"), Encoding::Deflate);
        assert_eq!(
            (of("br, *"), of("gzip; q=0.0"), of("")),
            (Encoding::Plain, Encoding::Plain, Encoding::Plain)
        );
        assert_eq!(wanted(&HeaderMap::new()), Encoding::Plain);
    }
}
