//! What was answered already, on disk: a journal that is appended to and becomes the output.
//!
//! ```text
//!   OUTPUT.partial   a line for each answer, in the order they came       kill -9: the last line may be cut off, it is dropped
//!   OUTPUT           the last line of each request, in the input's order: written beside, fsynced, renamed
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use proto::ids::ContentHash;

use super::line::Ended;

/// A journal that is open for more.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    output: PathBuf,
    file: File,
    bytes: u64,
    /// Where the last line of each request lies, and what was asked if it has an answer.
    lines: BTreeMap<u64, Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    bytes: u64,
    answered: Option<ContentHash>,
}

impl Journal {
    /// Opens the journal of `output`, and begins it with an earlier output. One process at a time may.
    ///
    /// # Errors
    /// It cannot be read or written, or another process has it.
    pub(super) fn open(output: &Path) -> Result<Self> {
        let path = beside(output, "partial");
        let open = || OpenOptions::new().read(true).append(true).open(&path);
        let file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if output.exists() {
                    let new = beside(output, "new");
                    std::fs::copy(output, &new).with_context(|| format!("copy {}", output.display()))?;
                    std::fs::rename(&new, &path)?;
                } else {
                    drop(File::create(&path).with_context(|| format!("make {}", path.display()))?);
                }
                open()
            }
            opened => opened,
        };
        let file = file.with_context(|| format!("open {}", path.display()))?;
        if let Err(error) = file.try_lock() {
            bail!("{} is in use, by another run of this batch: {error}", path.display());
        }
        let mut journal = Self {
            path,
            output: output.to_owned(),
            file,
            bytes: 0,
            lines: BTreeMap::new(),
        };
        journal
            .load()
            .with_context(|| format!("read {}", journal.path.display()))?;
        Ok(journal)
    }

    fn load(&mut self) -> Result<()> {
        let mut reader = BufReader::new(self.file.try_clone()?);
        let mut text = Vec::new();
        loop {
            text.clear();
            reader.read_until(b'\n', &mut text)?;
            if text.last() != Some(&b'\n') {
                break;
            }
            let bytes = u64::try_from(text.len())?;
            let ended = std::str::from_utf8(&text).ok().and_then(Ended::read);
            let ended = ended.context("it is no output of this command: name another --output")?;
            self.note(&ended, bytes);
        }
        self.file.set_len(self.bytes)?;
        Ok(())
    }

    fn note(&mut self, ended: &Ended, bytes: u64) {
        let answered = ended.answer.is_some().then_some(ended.asked);
        let place = Place {
            at: self.bytes,
            bytes,
            answered,
        };
        self.lines.insert(ended.line, place);
        self.bytes += bytes;
    }

    /// Whether this very line was answered.
    #[must_use]
    pub(super) fn is_answered(&self, line: u64, asked: &ContentHash) -> bool {
        self.lines
            .get(&line)
            .is_some_and(|place| place.answered.as_ref() == Some(asked))
    }

    /// Adds what became of a request. It survives the end of this process when this returns.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn add(&mut self, ended: &Ended) -> Result<()> {
        let text = ended.write();
        self.file
            .write_all(text.as_bytes())
            .with_context(|| format!("write {}", self.path.display()))?;
        self.note(ended, u64::try_from(text.len())?);
        Ok(())
    }

    /// Writes the output, of `lines` lines, in their order, and removes the journal.
    ///
    /// # Errors
    /// The disk; the journal stays then.
    pub(super) fn finish(self, lines: u64) -> Result<()> {
        let new = beside(&self.output, "new");
        let write = || -> Result<()> {
            let mut out = BufWriter::new(File::create(&new)?);
            for place in self.lines.range(..=lines).map(|(_, place)| place) {
                (&self.file).seek(SeekFrom::Start(place.at))?;
                std::io::copy(&mut (&self.file).take(place.bytes), &mut out)?;
            }
            out.into_inner()?.sync_all()?;
            std::fs::rename(&new, &self.output)?;
            Ok(std::fs::remove_file(&self.path)?)
        };
        write().with_context(|| format!("write {}", self.output.display()))
    }
}

fn beside(output: &Path, suffix: &str) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
