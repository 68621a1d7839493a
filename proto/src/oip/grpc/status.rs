//! Refusals of REST in the words of gRPC.

/// The status code of gRPC, as `grpc-status` carries it, that says what REST's status and `code` say.
///
/// # Source
/// `statuscodes.md` of github.com/grpc/grpc.
#[must_use]
pub fn status(http: u16, code: &str) -> &'static str {
    match (http, code) {
        (400, _) => "3",              // INVALID_ARGUMENT
        (408 | 504, _) => "4",        // DEADLINE_EXCEEDED
        (404, _) => "5",              // NOT_FOUND
        (403, _) => "7",              // PERMISSION_DENIED
        (413 | 429, _) => "8",        // RESOURCE_EXHAUSTED
        (503, "queue_full") => "8",   // the same: full, and alive
        (451, _) => "9",              // FAILED_PRECONDITION
        (405 | 415 | 501, _) => "12", // UNIMPLEMENTED
        (503, _) => "14",             // UNAVAILABLE
        (401, _) => "16",             // UNAUTHENTICATED
        _ => "13",                    // INTERNAL
    }
}

/// A sentence as `grpc-message` carries it: printable ASCII, with all else, and `%`, escaped.
#[must_use]
pub fn status_message(sentence: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(sentence.len());
    for byte in sentence.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.extend([byte >> 4, byte & 15].map(|digit| char::from(HEX[usize::from(digit)])));
        }
    }
    out
}

/// Whether a body of this `Content-Type` is gRPC's. `application/grpc-web` is not.
#[must_use]
pub fn is_content_type(value: &[u8]) -> bool {
    value
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}
