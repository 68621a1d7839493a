//! Takes uploads in and hands chunks out. Every method is blocking.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use models::store::{Store, StoreError};
use proto::entry::Fleet;
use proto::ids::{ContentHash, UnixMs};
use proto::limits::CHUNK_BYTES_MAX;
use proto::manifest::{FileEntry, Manifest};
use proto::message::ErrorCode;
use proto::plan::Plan;
use proto::signed::{Signed, TrustBundle, TrustError};

use super::documents::{Documents, is_bounded};
use super::incoming::{Incoming, IncomingError};
use super::index::{ChunkIndex, IndexError};
use crate::metrics::Instruments;

/// Why bytes are not taken or not given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The artifact store failed.
    #[error("artifact store")]
    Store(#[from] StoreError),
    /// The chunk index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The folder of loose chunks failed.
    #[error(transparent)]
    Incoming(#[from] IncomingError),
    /// The store's folder cannot be measured.
    #[error("cannot measure {path}")]
    Measure {
        /// Which folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A chunk longer than any.
    #[error("a chunk of {bytes} bytes, allowed is 1 to {CHUNK_BYTES_MAX}")]
    ChunkBytes {
        /// Found.
        bytes: usize,
    },
    /// The budget is used up.
    #[error(
        "no room: {used_bytes} bytes are stored, {need_bytes} more are needed, allowed is {max_bytes}: raise `store.bytes-max` or remove releases"
    )]
    Full {
        /// Stored.
        used_bytes: u64,
        /// Asked for.
        need_bytes: u64,
        /// Allowed.
        max_bytes: u64,
    },
    /// Not signed as it must be, or not readable.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A manifest before its bytes.
    #[error(
        "{count} chunks of `{path}` are missing, the first is {first}: ask which are missing, send them, put the manifest again"
    )]
    ChunksMissing {
        /// Of which file.
        path: String,
        /// How many.
        count: usize,
        /// One of them.
        first: ContentHash,
    },
    /// Not stored here.
    #[error("chunk {chunk} is not in the store: send the release that holds it again")]
    NoChunk {
        /// Asked for.
        chunk: ContentHash,
    },
    /// A byte on disk has changed.
    #[error("chunk {chunk} was damaged on disk and its file is removed: send the same release again")]
    Damaged {
        /// Asked for.
        chunk: ContentHash,
    },
}

impl ArtifactError {
    /// What kind of answer this is.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            // Right chunks that make a wrong file: only a wrong manifest does that.
            Self::Store(StoreError::Corrupt { .. } | StoreError::Foreign { .. }) => ErrorCode::Invalid,
            Self::Store(_) | Self::Index(_) | Self::Incoming(_) | Self::Measure { .. } => ErrorCode::Internal,
            Self::ChunkBytes { .. } | Self::Trust(_) => ErrorCode::Invalid,
            Self::Full { .. } => ErrorCode::Busy,
            // Damaged bytes are bytes that are not here: whoever asks is told which, and what heals it.
            Self::ChunksMissing { .. } | Self::NoChunk { .. } | Self::Damaged { .. } => ErrorCode::NotFound,
        }
    }
}

/// The artifacts of a fleet. Cheap to clone.
#[derive(Clone)]
pub struct Artifacts {
    documents: Documents,
    store: Store,
    index: ChunkIndex,
    incoming: Arc<Incoming>,
    budget: Arc<Budget>,
    /// Files are assembled by one upload at a time: two could write the same partial file.
    assembling: Arc<Mutex<()>>,
    instruments: Instruments,
}

struct Budget {
    folders: [PathBuf; 2],
    used_bytes: AtomicU64,
    max_bytes: u64,
}

impl Artifacts {
    /// Opens what lies under `data`: `store`, `incoming` and `index`.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn open(
        data: &Path,
        max_bytes: u64,
        trust: &TrustBundle,
        now: UnixMs,
        instruments: Instruments,
    ) -> Result<Self, ArtifactError> {
        let folders = [data.join("store"), data.join("incoming")];
        let store = Store::open(&folders[0])?;
        let incoming = Arc::new(Incoming::open(&folders[1], now)?);
        let index = ChunkIndex::open(&data.join("index"))?;
        let budget = Arc::new(Budget {
            folders,
            used_bytes: AtomicU64::new(0),
            max_bytes,
        });
        let documents = Documents::new(store.clone(), trust);
        let artifacts = Self {
            documents,
            store,
            index,
            incoming,
            budget,
            assembling: Arc::default(),
            instruments,
        };
        artifacts.measure()?;
        Ok(artifacts)
    }

    /// The signed documents.
    #[must_use]
    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    /// Indexes the published releases that the index does not know. Gives those whose files are not all here.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn recover(&self, fleet: &Fleet) -> Result<Vec<ContentHash>, ArtifactError> {
        let mut broken = Vec::new();
        for id in fleet
            .releases
            .values()
            .flat_map(|versions| versions.values())
            .map(|release| release.manifest)
        {
            match self.documents.manifest(&id) {
                Some(manifest) if manifest.files.iter().all(|f| self.store.has(&f.blake3)) => {
                    if !self.index.knows(&id)? {
                        self.index.add(&id, &manifest)?;
                    }
                }
                _ => broken.push(id),
            }
        }
        Ok(broken)
    }

    /// Which of `chunks` have to be sent.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn missing(&self, chunks: &[ContentHash]) -> Result<Vec<ContentHash>, ArtifactError> {
        let mut missing = Vec::new();
        for chunk in chunks {
            let place = self.index.place(chunk)?;
            if !place.is_some_and(|p| self.store.has(&p.file)) && !self.incoming.has(chunk) {
                missing.push(*chunk);
            }
        }
        Ok(missing)
    }

    /// Keeps one chunk.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn put_chunk(&self, bytes: &[u8]) -> Result<(), ArtifactError> {
        if bytes.is_empty() || bytes.len() > CHUNK_BYTES_MAX {
            return Err(ArtifactError::ChunkBytes { bytes: bytes.len() });
        }
        let need_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.budget.room(need_bytes)?;
        self.incoming.put(bytes)?;
        self.budget.used_bytes.fetch_add(need_bytes, Ordering::Relaxed);
        self.instruments.received_bytes.inc_by(need_bytes);
        Ok(())
    }

    /// One chunk's bytes, hashed just now.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn chunk(&self, chunk: &ContentHash) -> Result<Vec<u8>, ArtifactError> {
        let place = self
            .index
            .place(chunk)?
            .ok_or(ArtifactError::NoChunk { chunk: *chunk })?;
        let length = usize::try_from(place.bytes).unwrap_or(usize::MAX);
        let bytes = match self.store.read_range(&place.file, place.offset, length) {
            Err(StoreError::Absent { .. }) => return Err(ArtifactError::NoChunk { chunk: *chunk }),
            read => read?,
        };
        if ContentHash::of(&bytes) != *chunk {
            // The bad file goes, so that its chunks count as missing and the same upload heals it.
            self.store.verify(&place.file)?;
            tracing::error!(%chunk, file = %place.file, "damaged on disk: removed; send the same release again");
            return Err(ArtifactError::Damaged { chunk: *chunk });
        }
        self.instruments.sent_bytes.inc_by(u64::from(place.bytes));
        Ok(bytes)
    }

    /// Verifies a manifest, makes whole files of its chunks, and keeps it. When this returns, a restart finds all of it.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn put_manifest(&self, signed: &Signed) -> Result<Manifest, ArtifactError> {
        let manifest = self.documents.open_manifest(bounded::<Manifest>(signed)?)?;
        let one_at_a_time = self.assembling.lock().unwrap_or_else(PoisonError::into_inner);
        for file in &manifest.files {
            if !self.store.has(&file.blake3) {
                self.budget.room(file.bytes)?;
                self.assemble(file)?;
            }
        }
        let id = self.documents.keep(signed)?;
        self.index.add(&id, &manifest)?;
        for chunk in manifest.files.iter().flat_map(|f| &f.chunks) {
            self.incoming.remove(&chunk.blake3)?;
        }
        self.measure()?;
        drop(one_at_a_time);
        Ok(manifest)
    }

    /// Verifies a plan and keeps it.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn put_plan(&self, signed: &Signed) -> Result<Plan, ArtifactError> {
        let plan = self.documents.open_plan(bounded::<Plan>(signed)?)?;
        self.budget
            .room(u64::try_from(signed.payload.len()).unwrap_or(u64::MAX))?;
        self.documents.keep(signed)?;
        Ok(plan)
    }

    /// Makes one whole file of loose chunks and of pieces of earlier files.
    fn assemble(&self, file: &FileEntry) -> Result<(), ArtifactError> {
        let mut assembly = self.store.assemble(file)?;
        let (mut missing, mut first) = (0, None);
        for chunk in assembly.missing() {
            let loose = self.incoming.get(&chunk.blake3)?;
            match loose.or_else(|| self.chunk(&chunk.blake3).ok()) {
                Some(bytes) => assembly.put(&chunk.blake3, &bytes)?,
                None => {
                    missing += 1;
                    first.get_or_insert(chunk.blake3);
                }
            }
        }
        match first {
            Some(first) => Err(ArtifactError::ChunksMissing {
                path: file.path.clone(),
                count: missing,
                first,
            }),
            None => Ok(assembly.finish()?),
        }
    }

    fn measure(&self) -> Result<(), ArtifactError> {
        let mut used_bytes = 0;
        for folder in &self.budget.folders {
            used_bytes += folder_bytes(folder).map_err(|source| ArtifactError::Measure {
                path: folder.clone(),
                source,
            })?;
        }
        self.budget.used_bytes.store(used_bytes, Ordering::Relaxed);
        self.instruments
            .store_bytes
            .set(i64::try_from(used_bytes).unwrap_or(i64::MAX));
        Ok(())
    }
}

impl Budget {
    fn room(&self, need_bytes: u64) -> Result<(), ArtifactError> {
        let (used_bytes, max_bytes) = (self.used_bytes.load(Ordering::Relaxed), self.max_bytes);
        if used_bytes.saturating_add(need_bytes) > max_bytes {
            return Err(ArtifactError::Full {
                used_bytes,
                need_bytes,
                max_bytes,
            });
        }
        Ok(())
    }
}

fn bounded<D: proto::signed::Document>(signed: &Signed) -> Result<&Signed, TrustError> {
    if is_bounded::<D>(signed) {
        return Ok(signed);
    }
    let what = format!(
        "{} bytes and {} signatures, allowed are {} and {}",
        signed.payload.len(),
        signed.signatures.len(),
        D::BYTES_MAX,
        Signed::SIGNATURES_MAX
    );
    Err(TrustError::Decode(proto::signed::DecodeError::Invalid { what }))
}

fn folder_bytes(folder: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        sum += if about.is_dir() {
            folder_bytes(&entry.path())?
        } else {
            about.len()
        };
    }
    Ok(sum)
}
