//! Which ONNX Runtime a file is, read and not run.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Every Linux build exports its symbols under a version of this name: `VERS_1.32.0`.
const MARK: &[u8] = b"\0VERS_";
/// Longest version after it.
const VERSION_BYTES_MAX: usize = 24;
/// Read at once.
const PIECE_BYTES: usize = 1 << 20;

/// The version that the library at `path` names, such as `1.32.0`; `None` for any other file. Reads up to the name: a few
/// hundred kilobytes of a library as it was built, all of one whose tables were moved to its end.
pub(super) fn of(path: &Path) -> std::io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let mut held = Vec::with_capacity(PIECE_BYTES * 2);
    loop {
        let piece = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
        let came = file.by_ref().take(piece).read_to_end(&mut held)?;
        let marks = held.windows(MARK.len()).enumerate().filter(|(_, w)| *w == MARK);
        if let Some(version) = marks.map(|(at, _)| at + MARK.len()).find_map(|at| version(&held[at..])) {
            return Ok(Some(version));
        }
        if came == 0 {
            return Ok(None);
        }
        // A name may stand across two pieces.
        held.drain(..held.len().saturating_sub(MARK.len() + VERSION_BYTES_MAX));
    }
}

/// Three numbers with dots between them, up to the next zero.
fn version(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().take(VERSION_BYTES_MAX).position(|b| *b == 0)?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (text.split('.').all(number) && text.split('.').count() == 3).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: &[u8]) -> Option<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        of(file.path()).unwrap()
    }

    #[test]
    fn the_version_is_found_wherever_it_stands() {
        for before in [0, 1, PIECE_BYTES - 9, PIECE_BYTES - 3, 3 * PIECE_BYTES] {
            let mut bytes = vec![b'x'; before];
            bytes.extend_from_slice(b"\0VERS_1.32.0\0OrtGetApiBase\0");
            assert_eq!(found(&bytes).as_deref(), Some("1.32.0"), "{before} bytes before");
        }
    }

    #[test]
    fn a_file_that_only_talks_of_versions_is_no_library() {
        for text in [
            "",
            "VERS_1.32.0",
            "\0VERS_1.32\0",
            "\0VERS_1.x.0\0",
            "\0VERS_1.32.0",
            "\0VERS_..\0",
        ] {
            assert_eq!(found(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(found(b"\0VERS_\0VERS_1.2.3\0").as_deref(), Some("1.2.3"));
    }
}
