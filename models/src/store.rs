//! The artifact store: a folder of plain files, each named by the digest of its bytes.
//!
//! ```text
//!   ROOT/files/HEX        whole, verified when it came; bytes never change under a name
//!   ROOT/parts/HEX        being assembled from chunks; may hold anything, trusted only after rehashing
//!   ROOT/documents/HEX    signed documents, named by the digest of their payload
//! ```
//! One process owns a store; others may read its files. It never holds a byte under a name it does not hash to, unless
//! the disk changed it later: [`Store::verify`] finds that. A crash at any moment loses at most what was not acknowledged.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use proto::frame;
use proto::ids::{ContentHash, unhex32};
use proto::manifest::FileEntry;
use proto::signed::Signed;

use crate::durable;
use crate::verify::hash_file;

mod assembly;
pub use assembly::Assembly;
#[cfg(test)]
mod tests;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system refused.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not in the store.
    #[error("{hash} is not in the store")]
    Absent {
        /// Asked for.
        hash: ContentHash,
    },
    /// The bytes are not the ones that the digest names.
    #[error("the bytes hash to {got} where {want} was expected")]
    Corrupt {
        /// Expected.
        want: ContentHash,
        /// Found.
        got: ContentHash,
    },
    /// The chunk is no part of the file.
    #[error("{chunk} is no chunk of `{file}`")]
    Foreign {
        /// Given.
        chunk: ContentHash,
        /// Being assembled.
        file: String,
    },
    /// Somebody else in this process puts the same file together.
    #[error("{hash} is being put together already; look again when that has ended")]
    Busy {
        /// Of what.
        hash: ContentHash,
    },
    /// The file still lacks chunks.
    #[error("`{file}` still lacks {chunks} chunks")]
    Incomplete {
        /// Being assembled.
        file: String,
        /// How many.
        chunks: usize,
    },
    /// Outside of the file.
    #[error("{hash} has no {bytes} bytes at {offset}")]
    Range {
        /// Which file.
        hash: ContentHash,
        /// From here.
        offset: u64,
        /// This many.
        bytes: usize,
    },
}

fn io_at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + use<'a> {
    move |source| StoreError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// An open artifact store. Cheap to clone; all methods block on the disk.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    /// Files that are being put together in this process.
    claimed: Arc<Mutex<BTreeSet<ContentHash>>>,
}

/// The right to put one file together; given back when dropped.
#[derive(Debug)]
struct Claim {
    of: ContentHash,
    claimed: Arc<Mutex<BTreeSet<ContentHash>>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.of);
    }
}

impl Store {
    /// Opens the store at `root`, making it where there is none, and removes what a crash left half written.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self {
            root: root.into(),
            claimed: Arc::default(),
        };
        for folder in ["files", "parts", "documents"] {
            let path = store.root.join(folder);
            fs::create_dir_all(&path).map_err(io_at("make the folder", &path))?;
            for entry in fs::read_dir(&path).map_err(io_at("list", &path))? {
                let entry = entry.map_err(io_at("list", &path))?;
                if entry
                    .file_name()
                    .as_encoded_bytes()
                    .ends_with(durable::TEMPORARY_SUFFIX.as_bytes())
                {
                    fs::remove_file(entry.path()).map_err(io_at("remove", &entry.path()))?;
                }
            }
        }
        durable::sync_folder(&store.root.join("files")).map_err(io_at("sync", &store.root))?;
        Ok(store)
    }

    /// Whether a whole file of that name lies here. Its bytes were right when it came; see [`Store::verify`].
    #[must_use]
    pub fn has(&self, hash: &ContentHash) -> bool {
        self.path(hash).is_file()
    }

    /// Where the file of that name lies or would lie.
    #[must_use]
    pub fn path(&self, hash: &ContentHash) -> PathBuf {
        self.root.join("files").join(hash.hex())
    }

    /// Stores bytes under their digest; they are durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<ContentHash, StoreError> {
        let hash = ContentHash::of(bytes);
        let path = self.path(&hash);
        if !path.is_file() {
            durable::write(&path, bytes).map_err(io_at("write", &path))?;
        }
        Ok(hash)
    }

    /// All bytes of a file, proven to be the ones that `hash` names. For small files: labels, golden vectors.
    ///
    /// # Errors
    /// [`StoreError::Absent`], [`StoreError::Corrupt`] or [`StoreError::Io`].
    pub fn read(&self, hash: &ContentHash) -> Result<Vec<u8>, StoreError> {
        let path = self.path(hash);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(StoreError::Absent { hash: *hash }),
            read => read.map_err(io_at("read", &path))?,
        };
        match ContentHash::of(&bytes) {
            got if got == *hash => Ok(bytes),
            got => Err(StoreError::Corrupt { want: *hash, got }),
        }
    }

    /// Part of a file, not proven: whoever gets it checks it against the chunk's digest.
    ///
    /// # Errors
    /// [`StoreError::Absent`], [`StoreError::Range`] or [`StoreError::Io`].
    pub fn read_range(&self, hash: &ContentHash, offset: u64, bytes: usize) -> Result<Vec<u8>, StoreError> {
        let path = self.path(hash);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(StoreError::Absent { hash: *hash }),
            opened => opened.map_err(io_at("open", &path))?,
        };
        let len = file.metadata().map_err(io_at("look at", &path))?.len();
        let end = u64::try_from(bytes).ok().and_then(|bytes| offset.checked_add(bytes));
        if end.is_none_or(|end| end > len) {
            return Err(StoreError::Range {
                hash: *hash,
                offset,
                bytes,
            });
        }
        let mut buffer = vec![0; bytes];
        file.read_exact_at(&mut buffer, offset).map_err(io_at("read", &path))?;
        Ok(buffer)
    }

    /// Rehashes a file: `true` when it is whole. A file whose bytes changed is removed; that and an absent file give
    /// `false`: fetch it again.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn verify(&self, hash: &ContentHash) -> Result<bool, StoreError> {
        let path = self.path(hash);
        match hash_file(&path) {
            Ok(got) if got == *hash => Ok(true),
            Ok(_) => self.remove(hash).map(|()| false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(io_at("read", &path)(e)),
        }
    }

    /// Removes a file and what was assembled of it. Absent already is fine.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(&self, hash: &ContentHash) -> Result<(), StoreError> {
        for path in [self.path(hash), self.part_path(hash)] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_at("remove", &path)(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Names of all whole files, sorted.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn list(&self) -> Result<Vec<ContentHash>, StoreError> {
        names(&self.root.join("files"))
    }

    /// Stores a signed document under the digest of its payload; durable when this returns. It proves nothing about
    /// the signatures.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn put_document(&self, document: &Signed) -> Result<ContentHash, StoreError> {
        let id = document.id();
        let path = self.document_path(&id);
        let bytes = frame::encode(document).map_err(|e| io_at("encode", &path)(io::Error::other(e)))?;
        durable::write(&path, &bytes).map_err(io_at("write", &path))?;
        Ok(id)
    }

    /// The signed document of that name; `None` where there is none or its bytes changed.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn document(&self, id: &ContentHash) -> Result<Option<Signed>, StoreError> {
        let path = self.document_path(id);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(io_at("read", &path))?,
        };
        let document: Option<Signed> = bytes
            .get(frame::HEADER_BYTES..)
            .and_then(|body| frame::decode(body).ok());
        Ok(document.filter(|d| d.id() == *id))
    }

    /// Names of all signed documents, sorted.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn documents(&self) -> Result<Vec<ContentHash>, StoreError> {
        names(&self.root.join("documents"))
    }

    /// Removes a signed document. Absent already is fine.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove_document(&self, id: &ContentHash) -> Result<(), StoreError> {
        let path = self.document_path(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_at("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Begins or resumes putting `file` together from chunks. What a killed process left is rehashed and kept where
    /// it is right.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while another assembly of this file exists, [`StoreError::Io`].
    pub fn assemble(&self, file: &FileEntry) -> Result<Assembly, StoreError> {
        Assembly::open(self.clone(), file.clone())
    }

    fn claim(&self, of: ContentHash) -> Result<Claim, StoreError> {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        if !claimed.insert(of) {
            return Err(StoreError::Busy { hash: of });
        }
        Ok(Claim {
            of,
            claimed: Arc::clone(&self.claimed),
        })
    }
    fn part_path(&self, hash: &ContentHash) -> PathBuf {
        self.root.join("parts").join(hash.hex())
    }
    fn document_path(&self, id: &ContentHash) -> PathBuf {
        self.root.join("documents").join(id.hex())
    }
}

fn names(folder: &Path) -> Result<Vec<ContentHash>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_at("list", folder))? {
        let name = entry.map_err(io_at("list", folder))?.file_name();
        names.extend(name.to_str().and_then(unhex32).map(ContentHash::from_bytes));
    }
    names.sort_unstable();
    Ok(names)
}
