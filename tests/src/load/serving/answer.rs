//! Reads one answer of HTTP/1.1 out of the bytes that have come so far: status, the headers that frame it, the body.
//!
//! Made to cost little, since the client shares its cores with the server: nothing is copied, a head is looked through once
//! a read. It reads what servers here send: a length or chunks, no answer that ends with its connection.

/// Longest head that is read.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Longest body that is read.
const BODY_BYTES_MAX: usize = 64 << 20;

/// An answer that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Its status, 200 to 999.
    pub status: u16,
    /// Whether the server ends the connection after it.
    pub closes: bool,
    /// Bytes that it takes up, from the first on.
    pub bytes: usize,
    head: &'a [u8],
    body: &'a [u8],
    chunked: bool,
}

/// Why bytes are no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not HTTP/1.1.
    #[error("the first line is not `HTTP/1.1` and a status from 200")]
    StatusLine,
    /// No blank line for too long.
    #[error("the head is longer than {HEAD_BYTES_MAX} bytes")]
    HeadTooLong,
    /// Where the body ends is not told, or told in two ways.
    #[error("the head does not tell where the body ends")]
    Framing,
    /// A chunk's size line is wrong, or its end is missing.
    #[error("a chunk is not framed as HTTP/1.1 asks")]
    Chunk,
    /// Too much.
    #[error("the body is longer than {BODY_BYTES_MAX} bytes")]
    BodyTooLong,
}

impl<'a> Answer<'a> {
    /// The answer that `bytes` begin with; `None` where more has to come.
    ///
    /// # Errors
    /// [`Malformed`]; more bytes would not help.
    pub fn read(bytes: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let Some(end) = find(bytes, b"\r\n\r\n") else {
            return if bytes.len() > HEAD_BYTES_MAX {
                Err(Malformed::HeadTooLong)
            } else {
                Ok(None)
            };
        };
        let (head, rest) = (&bytes[..end], &bytes[end + 4..]);
        let status = status(head)?;
        let framing = framing(head)?;
        let length = match framing.length {
            _ if matches!(status, 204 | 304) => Some(0),
            Length::Told(length) => Some(length).filter(|length| *length <= rest.len()),
            Length::Chunked => chunked(rest, |_| ())?,
            Length::Untold => return Err(Malformed::Framing),
        };
        Ok(length.map(|length| Self {
            status,
            closes: framing.closes,
            bytes: end + 4 + length,
            head,
            body: &rest[..length],
            chunked: framing.length == Length::Chunked,
        }))
    }

    /// A header's value, without blanks around it; the first where there are several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let (_, value) = headers(self.head).find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))?;
        std::str::from_utf8(value).ok()
    }

    /// The body, put together.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        if !self.chunked {
            return self.body.to_vec();
        }
        let mut whole = Vec::with_capacity(self.body.len());
        // Read once already: it cannot be malformed any more.
        let _ = chunked(self.body, |part| whole.extend_from_slice(part));
        whole
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|at| at == what)
}

fn status(head: &[u8]) -> Result<u16, Malformed> {
    let line = head.strip_prefix(b"HTTP/1.1 ").ok_or(Malformed::StatusLine)?;
    let (digits, rest) = line.split_at_checked(3).ok_or(Malformed::StatusLine)?;
    if !digits.iter().all(u8::is_ascii_digit) || !matches!(rest.first(), None | Some(b' ' | b'\r')) {
        return Err(Malformed::StatusLine);
    }
    let status = digits.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
    if status >= 200 {
        Ok(status)
    } else {
        Err(Malformed::StatusLine)
    }
}

fn headers(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|b| *b == b'\n').skip(1).filter_map(|line| {
        let colon = line.iter().position(|b| *b == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    Untold,
    Told(usize),
    Chunked,
}

struct Framing {
    length: Length,
    closes: bool,
}

fn framing(head: &[u8]) -> Result<Framing, Malformed> {
    let mut framing = Framing {
        length: Length::Untold,
        closes: false,
    };
    for (name, value) in headers(head) {
        let told = if name.eq_ignore_ascii_case(b"content-length") {
            Length::Told(number(value, 10).ok_or(Malformed::Framing)?)
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let chunked = value.eq_ignore_ascii_case(b"chunked");
            chunked.then_some(Length::Chunked).ok_or(Malformed::Framing)?
        } else {
            framing.closes |= name.eq_ignore_ascii_case(b"connection") && value.eq_ignore_ascii_case(b"close");
            continue;
        };
        if framing.length != Length::Untold {
            return Err(Malformed::Framing);
        }
        framing.length = told;
    }
    match framing.length {
        Length::Told(length) if length > BODY_BYTES_MAX => Err(Malformed::BodyTooLong),
        _ => Ok(framing),
    }
}

/// At most eight digits and nothing else.
fn number(text: &[u8], radix: u32) -> Option<usize> {
    if text.is_empty() || text.len() > 8 {
        return None;
    }
    text.iter().try_fold(0_usize, |n, digit| {
        let digit = char::from(*digit).to_digit(radix)?;
        n.checked_mul(usize::try_from(radix).ok()?)?
            .checked_add(usize::try_from(digit).ok()?)
    })
}

/// Walks chunks; gives the bytes up to the end of the trailers, `None` where more has to come.
fn chunked<'a>(bytes: &'a [u8], mut part: impl FnMut(&'a [u8])) -> Result<Option<usize>, Malformed> {
    let (mut at, mut total) = (0, 0);
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else {
            return if bytes.len() - at > HEAD_BYTES_MAX {
                Err(Malformed::Chunk)
            } else {
                Ok(None)
            };
        };
        let text = &bytes[at..at + line];
        let size = text.split(|b| *b == b';').next().unwrap_or_default().trim_ascii_end();
        let size = number(size, 16).ok_or(Malformed::Chunk)?;
        at += line + 2;
        if size == 0 {
            return trailers(bytes, at);
        }
        total += size;
        if total > BODY_BYTES_MAX {
            return Err(Malformed::BodyTooLong);
        }
        let Some(data) = bytes.get(at..at + size) else {
            return Ok(None);
        };
        match bytes.get(at + size..at + size + 2) {
            None => return Ok(None),
            Some(b"\r\n") => part(data),
            Some(_) => return Err(Malformed::Chunk),
        }
        at += size + 2;
    }
}

fn trailers(bytes: &[u8], mut at: usize) -> Result<Option<usize>, Malformed> {
    let from = at;
    while let Some(line) = find(&bytes[at..], b"\r\n") {
        at += line + 2;
        if line == 0 {
            return Ok(Some(at));
        }
    }
    if bytes.len() - from > HEAD_BYTES_MAX {
        return Err(Malformed::HeadTooLong);
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
