//! The number that orders states. It only grows, also over a crash and over a clock that was set back.

use std::ops::Range;
use std::path::{Path, PathBuf};

use models::durable;
use proto::ids::UnixMs;

/// Why no number can be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeqError {
    /// The file cannot be read or written.
    #[error("sequence file {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file does not hold a number.
    #[error("sequence file {path} does not hold a number: write into it one that is larger than any state's `seq`")]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
}

/// Hands out numbers, each on disk before it is used.
#[derive(Debug)]
pub struct SeqFile {
    path: PathBuf,
    last: u64,
}

impl SeqFile {
    /// Goes on after the number in `path`; a file that does not exist is the number 0.
    ///
    /// # Errors
    /// [`SeqError`].
    pub fn open(path: &Path) -> Result<Self, SeqError> {
        let last = match std::fs::read_to_string(path) {
            Ok(text) => text
                .trim()
                .parse()
                .map_err(|_| SeqError::Malformed { path: path.to_owned() })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(source) => {
                return Err(SeqError::File {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        Ok(Self {
            path: path.to_owned(),
            last,
        })
    }

    /// `count` fresh numbers, not below `now`. Blocking; when it returns no later one can repeat them.
    ///
    /// # Errors
    /// [`SeqError::File`]: none of the numbers may be used.
    pub fn take(&mut self, now: UnixMs, count: u64) -> Result<Range<u64>, SeqError> {
        let first = now.max(self.last + 1);
        let end = first + count;
        durable::write(&self.path, (end - 1).to_string().as_bytes()).map_err(|source| SeqError::File {
            path: self.path.clone(),
            source,
        })?;
        self.last = end - 1;
        Ok(first..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_never_given_twice_though_the_clock_goes_back_and_the_process_dies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seq");
        let mut seq = SeqFile::open(&path).unwrap();
        assert_eq!(seq.take(1000, 3).unwrap(), 1000..1003);
        assert_eq!(seq.take(10, 1).unwrap(), 1003..1004);
        let mut again = SeqFile::open(&path).unwrap();
        assert_eq!(again.take(5, 2).unwrap(), 1004..1006);
        assert_eq!(again.take(2000, 1).unwrap(), 2000..2001);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_a_fresh_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seq");
        std::fs::write(&path, "12x").unwrap();
        assert!(matches!(SeqFile::open(&path), Err(SeqError::Malformed { .. })));
    }
}
