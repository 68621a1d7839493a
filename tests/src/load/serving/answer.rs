//! Reads one answer of HTTP/1.1 out of the bytes that have come so far: status, the headers that frame it, the body.
//!
//! Made to cost little, since the client shares its cores with the server: nothing is copied, a head is looked through once
//! a read. It reads what servers here send: a length or chunks, no answer that ends with its connection.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Response, Status};

/// Longest head that is read.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most headers that are read.
const HEADERS_MAX: usize = 64;
/// Longest body that is read.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Where an answer that is whole lies in the bytes that it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    status: u16,
    closes: bool,
    chunked: bool,
    /// Where the body begins and ends.
    head_bytes: usize,
    bytes: usize,
}

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
    #[error("the head is longer than {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} headers")]
    HeadTooLong,
    /// A header that is none.
    #[error("a line of the head is no header")]
    Head,
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

impl Frame {
    /// Where the answer lies that `bytes` begin with; `None` where more has to come.
    ///
    /// # Errors
    /// [`Malformed`]; more bytes would not help.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut room = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let Some((response, head_bytes)) = head(bytes, &mut room)? else {
            return Ok(None);
        };
        let status = response.code.filter(|status| *status >= 200);
        let status = status.filter(|_| response.version == Some(1));
        let status = status.ok_or(Malformed::StatusLine)?;
        let (length, closes) = framing(response.headers)?;
        let rest = &bytes[head_bytes..];
        let body_bytes = match length {
            _ if matches!(status, 204 | 304) => Some(0),
            Length::Told(length) => Some(length).filter(|length| *length <= rest.len()),
            Length::Chunked => chunked(rest, |_| ())?,
            Length::Untold => return Err(Malformed::Framing),
        };
        Ok(body_bytes.map(|body_bytes| Self {
            status,
            closes,
            chunked: length == Length::Chunked,
            head_bytes,
            bytes: head_bytes + body_bytes,
        }))
    }
    /// Bytes that the answer takes up, from the first on.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    /// The answer in the `bytes` that this was read from.
    #[must_use]
    pub fn of<'a>(&self, bytes: &'a [u8]) -> Answer<'a> {
        Answer {
            status: self.status,
            closes: self.closes,
            bytes: self.bytes,
            head: &bytes[..self.head_bytes],
            body: &bytes[self.head_bytes..self.bytes],
            chunked: self.chunked,
        }
    }
}

impl<'a> Answer<'a> {
    /// The answer that `bytes` begin with; `None` where more has to come.
    ///
    /// # Errors
    /// [`Malformed`]; more bytes would not help.
    pub fn read(bytes: &'a [u8]) -> Result<Option<Self>, Malformed> {
        Ok(Frame::read(bytes)?.map(|frame| frame.of(bytes)))
    }

    /// A header's value, without blanks around it; the first where there are several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let mut room = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let (response, _) = head(self.head, &mut room).ok()??;
        let header = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
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

/// The head that `bytes` begin with, and its length with the blank line; `None` where more has to come.
fn head<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut [MaybeUninit<Header<'b>>],
) -> Result<Option<(Response<'h, 'b>, usize)>, Malformed> {
    let mut response = Response::new(&mut []);
    match ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, room) {
        Ok(Status::Complete(length)) => Ok(Some((response, length))),
        Ok(Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => Ok(None),
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => Err(Malformed::HeadTooLong),
        Err(httparse::Error::Status | httparse::Error::Version) => Err(Malformed::StatusLine),
        Err(_) => Err(Malformed::Head),
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|at| at == what)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    Untold,
    Told(usize),
    Chunked,
}

/// How the body is framed, and whether the connection ends after it.
fn framing(headers: &[Header<'_>]) -> Result<(Length, bool), Malformed> {
    let (mut length, mut closes) = (Length::Untold, false);
    for Header { name, value } in headers {
        let told = if name.eq_ignore_ascii_case("content-length") {
            Length::Told(number(value, 10).ok_or(Malformed::Framing)?)
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            let chunked = value.eq_ignore_ascii_case(b"chunked");
            chunked.then_some(Length::Chunked).ok_or(Malformed::Framing)?
        } else {
            closes |= name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case(b"close");
            continue;
        };
        if length != Length::Untold {
            return Err(Malformed::Framing);
        }
        length = told;
    }
    match length {
        Length::Told(length) if length > BODY_BYTES_MAX => Err(Malformed::BodyTooLong),
        length => Ok((length, closes)),
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
