use proptest::prelude::*;

use super::*;

/// As servers here have sent them: hyper, uvicorn with httptools, mosec.
const GOLDEN: [(&[u8], u16, &[u8]); 5] = [
    (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nserver-timing: exec;dur=0.1\r\ncontent-length: 2\r\n\r\n{}",
        200,
        b"{}",
    ),
    (
        b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nab\r\n\r\nA;x=1\r\n0123456789\r\n0\r\n\r\n",
        200,
        b"ab\r\n0123456789",
    ),
    (
        b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        503,
        b"",
    ),
    (b"HTTP/1.1 204\r\n\r\n", 204, b""),
    (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding:chunked\r\n\r\n0\r\nserver-timing: total\r\n\r\n",
        200,
        b"",
    ),
];

#[test]
fn answers_are_read_as_servers_send_them() {
    for (bytes, status, body) in GOLDEN {
        let answer = Answer::read(bytes).unwrap().unwrap();
        assert_eq!((answer.status, answer.bytes), (status, bytes.len()));
        assert_eq!(answer.body(), body);
    }
    let answer = Answer::read(GOLDEN[0].0).unwrap().unwrap();
    assert_eq!(answer.header("Server-Timing"), Some("exec;dur=0.1"));
    assert_eq!((answer.header("date"), answer.closes), (None, false));
    assert!(Answer::read(GOLDEN[2].0).unwrap().unwrap().closes);
}

#[test]
fn what_is_no_answer_is_refused_and_not_waited_for() {
    let refused: [(&[u8], Malformed); 10] = [
        (b"HTTP/1.0 200 OK\r\n\r\n", Malformed::StatusLine),
        (b"HTTP/1.1 100 Continue\r\n\r\n", Malformed::StatusLine),
        (b"HTTP/1.1 2000\r\n\r\n", Malformed::StatusLine),
        (b"HTTP/1.1 200 OK\r\n\r\n", Malformed::Framing),
        (b"HTTP/1.1 200 OK\r\na b: c\r\n", Malformed::Head),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", Malformed::Framing),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            Malformed::Framing,
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
            Malformed::BodyTooLong,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
            Malformed::Chunk,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc",
            Malformed::Chunk,
        ),
    ];
    for (bytes, why) in refused {
        assert_eq!(Answer::read(bytes), Err(why), "{}", String::from_utf8_lossy(bytes));
    }
    for (line, times) in [("x", HEAD_BYTES_MAX), ("a: b\r\n", HEADERS_MAX + 1)] {
        let long = format!("HTTP/1.1 200 OK\r\n{}", line.repeat(times));
        assert_eq!(Answer::read(long.as_bytes()), Err(Malformed::HeadTooLong));
    }
}

/// Bytes that look like an answer more often than chance would have it.
fn near_answers() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 ",
        "content-length: ",
        "transfer-encoding: chunked\r\n",
        "connection: close\r\n",
        "\r\n",
        "\r\n\r\n",
        "0",
        "5",
        "ffffffff",
        "abcde",
        ":",
        ";",
        "0\r\n\r\n",
    ]);
    let piece = prop_oneof![
        4 => pieces.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic_or_read_past_their_end(
        bytes in prop_oneof![near_answers(), prop::collection::vec(any::<u8>(), 0..300)],
    ) {
        if let Ok(Some(answer)) = Answer::read(&bytes) {
            prop_assert!(answer.bytes <= bytes.len());
            prop_assert!(answer.body().len() <= bytes.len());
            let _ = answer.header("connection");
            // What was whole stays the same, whatever comes after it.
            let more = [&bytes[..], b"HTTP/1.1 200 OK\r\n\r\n"].concat();
            let again = Answer::read(&more).unwrap().unwrap();
            prop_assert_eq!(again.bytes, answer.bytes);
            prop_assert_eq!(Answer::read(&bytes[..answer.bytes - 1]), Ok(None));
        }
    }

    #[test]
    fn an_answer_is_whole_with_its_last_byte_and_not_before(at in 0_usize..200, of in 0..GOLDEN.len()) {
        let (bytes, _, body) = GOLDEN[of];
        let cut = at % bytes.len();
        prop_assert_eq!(Answer::read(&bytes[..cut]), Ok(None));
        prop_assert_eq!(Answer::read(bytes).unwrap().unwrap().body(), body);
    }

    #[test]
    fn chunks_give_the_bytes_that_were_cut_into_them(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6)) {
        let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for part in &parts {
            bytes.extend(format!("{:x}\r\n", part.len()).into_bytes());
            bytes.extend(part);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        let answer = Answer::read(&bytes).unwrap().unwrap();
        prop_assert_eq!(answer.bytes, bytes.len());
        prop_assert_eq!(answer.body(), parts.concat());
    }
}
