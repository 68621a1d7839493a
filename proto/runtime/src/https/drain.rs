//! What becomes of a request body that nobody wanted.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

/// Longest body that is read only to be thrown away.
const BYTES_MAX: u64 = 1 << 20;
/// Longest time that takes.
const TIME_MAX: Duration = Duration::from_millis(500);

/// Reads what is left of a body before an answer that did not need it is given.
///
/// An answer that overtakes its request is lawful, and still many clients lose it: over HTTP/1.1 the connection closes
/// while they write (`tritonclient`), over HTTP/2 the stream is reset before they have sent their data (curl 7.88). A
/// refusal must reach whom it refuses. Bodies that announce more than 1 MiB, or take longer than half a second, are
/// dropped as before.
///
/// # Source
/// RFC 9112 section 9.6, RFC 9113 section 8.1.
pub async fn drain(mut body: Incoming) {
    if body.size_hint().lower() > BYTES_MAX {
        return;
    }
    let read = async {
        let mut left = BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    tokio::time::timeout(TIME_MAX, read).await.ok();
}
