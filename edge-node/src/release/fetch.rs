//! Brings a release's files onto this node's disk: its manifest, then the chunks that no file here holds.
//!
//! ```text
//!   manifest (signature, digest) -> what lies here already -> room on the disk -> chunks, batch by batch -> whole files
//! ```
//! Every chunk is hashed before it is written and every file before it gets its name. A killed node goes on where it
//! was. Nothing waits for ever: a source that is silent is left, and tried again after a pause that grows.

use std::sync::Arc;
use std::time::Duration;

use models::store::{Assembly, StoreError};
use proto::ids::{ContentHash, Release};
use proto::limits::CHUNKS_PER_REQUEST_MAX;
use proto::manifest::{ChunkEntry, Manifest};
use proto::message::{ErrorCode, Request, Response};
use proto::signed::TrustError;
use runtime::quic::{Connection, QuicError, Stream};

use super::machine::Target;
use super::progress::Progress;
use super::shelf::Shelf;
use crate::sync::{Backoff, DialError, Instruments, Link};

/// A source from which nothing comes for so long is left.
const STALLED_AFTER: Duration = Duration::from_secs(5);
/// Chunk bytes that wait in memory before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// Sources that sent bad bytes in a row before the release is refused for a while.
const BAD_SOURCES_MAX: u32 = 4;
/// Left free on the disk, whatever is fetched.
const SPARE_BYTES: u64 = 64 << 20;

/// Asked for by this hash, and not yet known to have it.
type Chunk = (ContentHash, Vec<u8>);

/// Why a release did not come.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke.
    #[error("fetching {release}")]
    Quic {
        /// Of what.
        release: Release,
        /// How.
        #[source]
        source: QuicError,
    },
    /// Nothing came for a while.
    #[error("fetching {release}: nothing came for {} s", STALLED_AFTER.as_secs())]
    Stalled {
        /// Of what.
        release: Release,
    },
    /// The source sent other bytes than were asked for.
    #[error("fetching {release}: chunk {want:?} came with other bytes")]
    BadChunk {
        /// Of what.
        release: Release,
        /// Which chunk.
        want: ContentHash,
    },
    /// The source refused, or answered something else.
    #[error("fetching {release}: the source answered {code:?}: {message}")]
    Answer {
        /// Of what.
        release: Release,
        /// What kind of refusal.
        code: ErrorCode,
        /// As it was said.
        message: String,
    },
    /// The manifest is not signed by an operator, or not the one that the state names.
    #[error("manifest of {release}")]
    Manifest {
        /// Of what.
        release: Release,
        /// Why.
        #[source]
        source: TrustError,
    },
    /// The signed plan and the signed manifest do not fit.
    #[error("manifest of {release}: {what}")]
    Unfit {
        /// Of what.
        release: Release,
        /// How.
        what: String,
    },
    /// Not enough room.
    #[error("no room for {release}: {need_bytes} bytes needed, {free_bytes} free; clear the disk of the data folder")]
    NoSpace {
        /// Of what.
        release: Release,
        /// Missing bytes and what stays free.
        need_bytes: u64,
        /// Found.
        free_bytes: u64,
    },
    /// The disk refused.
    #[error("storing {release}")]
    Store {
        /// Of what.
        release: Release,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advice {
    /// The way is bad, not the release: go on as long as it is wanted.
    Again,
    /// The source is bad: a few more times.
    Distrust,
    /// Rest, and report why.
    GiveUp,
}

impl FetchError {
    fn advice(&self) -> Advice {
        match self {
            Self::Dial(_) | Self::Quic { .. } | Self::Stalled { .. } => Advice::Again,
            Self::Answer {
                code: ErrorCode::Busy | ErrorCode::Internal,
                ..
            } => Advice::Again,
            // Another release here fetches a file that both need.
            Self::Store {
                source: StoreError::Busy { .. },
                ..
            } => Advice::Again,
            Self::BadChunk { .. } => Advice::Distrust,
            _ => Advice::GiveUp,
        }
    }
}

/// Fetches releases one after another, or several at once. Clones share everything.
#[derive(Clone)]
pub(crate) struct Fetcher {
    pub(crate) link: Link,
    pub(crate) shelf: Shelf,
    pub(crate) instruments: Instruments,
    pub(crate) seed: u64,
}

/// One release on its way, and the connection it comes over.
struct Job<'a> {
    fetcher: &'a Fetcher,
    target: &'a Target,
    progress: &'a Progress,
    connection: Option<Connection>,
}

impl Fetcher {
    /// Returns when every file is on disk and hashed, or when trying on makes no sense. Dropping the future keeps what
    /// came so far.
    #[tracing::instrument(name = "release.fetch", skip_all, fields(release = %target.release))]
    pub(super) async fn fetch(
        &self,
        target: &Target,
        progress: &Progress,
        known: &[Arc<Manifest>],
    ) -> Result<Arc<Manifest>, FetchError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3), self.seed);
        let mut job = Job {
            fetcher: self,
            target,
            progress,
            connection: None,
        };
        let mut bad_sources = 0;
        loop {
            let error = match job.attempt(known).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => error,
            };
            if let Some(connection) = job.connection.take() {
                connection.close();
            }
            bad_sources += u32::from(error.advice() == Advice::Distrust);
            if error.advice() == Advice::GiveUp || bad_sources >= BAD_SOURCES_MAX {
                return Err(error);
            }
            let wait = backoff.wait();
            let told = runtime::telemetry::chain(&error);
            tracing::warn!(release = %target.release, error = told, wait_ms = wait.as_millis(), "fetching again");
            tokio::time::sleep(wait).await;
        }
    }
}

impl Job<'_> {
    async fn attempt(&mut self, known: &[Arc<Manifest>]) -> Result<Arc<Manifest>, FetchError> {
        let manifest = self.manifest().await?;
        let unfit = |what| FetchError::Unfit {
            release: self.target.release.clone(),
            what,
        };
        if manifest.release() != self.target.release {
            return Err(unfit(format!("it describes {}", manifest.release())));
        }
        let variant = manifest.variant(&self.target.variant).cloned();
        let variant = variant.ok_or_else(|| unfit(format!("it has no variant `{}`", self.target.variant)))?;
        self.progress
            .set_need(manifest.files_for(&variant).map(|f| f.bytes).sum());
        let (here, known) = (Arc::clone(&manifest), known.to_vec());
        let lack = self.disk(move |shelf| shelf.lack(&here, &variant, &known)).await?;
        self.fetcher.instruments.reused_bytes.inc_by(lack.reused_bytes);
        self.check_room(lack.missing_bytes).await?;
        for assembly in lack.assemblies {
            self.fill(assembly).await?;
        }
        Ok(manifest)
    }

    async fn manifest(&mut self) -> Result<Arc<Manifest>, FetchError> {
        let id = self.target.manifest;
        if let Some(manifest) = self.disk(move |shelf| shelf.manifest(&id)).await? {
            return Ok(manifest);
        }
        let mut stream = self.ask(&Request::Manifest(id)).await?;
        let signed = match self.next(&mut stream).await? {
            Response::Signed(signed) => signed,
            other => return Err(self.unexpected(other)),
        };
        let untrusted = |source| FetchError::Manifest {
            release: self.target.release.clone(),
            source,
        };
        let manifest = self.fetcher.shelf.trusted(&id, &signed).map_err(untrusted)?;
        self.disk(move |shelf| shelf.keep_manifest(&signed)).await?;
        Ok(manifest)
    }

    /// A release that fills the disk would stop the node that fetches it.
    async fn check_room(&self, missing_bytes: u64) -> Result<(), FetchError> {
        let need_bytes = missing_bytes.saturating_add(SPARE_BYTES);
        match self.fetcher.shelf.free_bytes() {
            Ok(free_bytes) if missing_bytes > 0 && free_bytes < need_bytes => Err(FetchError::NoSpace {
                release: self.target.release.clone(),
                need_bytes,
                free_bytes,
            }),
            // A file system that does not tell will refuse by itself.
            _ => Ok(()),
        }
    }

    async fn fill(&mut self, mut assembly: Assembly) -> Result<(), FetchError> {
        loop {
            let missing = assembly.missing();
            let batch = &missing[..missing.len().min(CHUNKS_PER_REQUEST_MAX)];
            if batch.is_empty() {
                return self.disk(move |_| assembly.finish()).await;
            }
            assembly = self.batch(assembly, batch).await?;
        }
    }

    /// Asks for `batch`, and keeps all that came also when the source breaks off: a link that never lives for long
    /// still ends a file.
    async fn batch(&mut self, mut assembly: Assembly, batch: &[ChunkEntry]) -> Result<Assembly, FetchError> {
        let chunks = batch.iter().map(|c| c.blake3).collect();
        let mut stream = self.ask(&Request::Chunks { chunks }).await?;
        let mut wanted = batch;
        while !wanted.is_empty() {
            let (came, end) = self.take(&mut stream, wanted).await;
            wanted = &wanted[came.len()..];
            assembly = self.write(assembly, came).await?;
            end?;
        }
        Ok(assembly)
    }

    /// What comes of `wanted`, in order, up to [`WRITE_BYTES`] or the first thing that is no chunk.
    async fn take(&self, stream: &mut Stream, wanted: &[ChunkEntry]) -> (Vec<Chunk>, Result<(), FetchError>) {
        let (mut came, mut came_bytes) = (Vec::new(), 0);
        for want in wanted {
            match self.next(stream).await {
                Ok(Response::Chunk { bytes }) => {
                    came_bytes += bytes.len();
                    came.push((want.blake3, bytes));
                }
                Ok(other) => return (came, Err(self.unexpected(other))),
                Err(error) => return (came, Err(error)),
            }
            if came_bytes >= WRITE_BYTES {
                break;
            }
        }
        (came, Ok(()))
    }

    /// Hashes and writes; only then do the bytes count as fetched.
    async fn write(&self, assembly: Assembly, chunks: Vec<Chunk>) -> Result<Assembly, FetchError> {
        let bytes = chunks
            .iter()
            .map(|(_, b)| u64::try_from(b.len()).unwrap_or(u64::MAX))
            .sum();
        let put = move |mut assembly: Assembly| {
            chunks
                .iter()
                .try_for_each(|(want, bytes)| assembly.put(want, bytes))
                .map(|()| assembly)
        };
        let assembly = self.disk(move |_| put(assembly)).await.inspect_err(|error| {
            if matches!(error, FetchError::BadChunk { .. }) {
                self.fetcher.instruments.bad_chunks.inc();
            }
        })?;
        self.progress.add_fetched(bytes);
        self.fetcher.instruments.fetched_bytes.inc_by(bytes);
        Ok(assembly)
    }

    /// Opens a stream with a question, connecting first where needed.
    async fn ask(&mut self, request: &Request) -> Result<Stream, FetchError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.fetcher.link.dial().await?,
        };
        self.connection = Some(connection.clone());
        let open = async {
            let mut stream = connection.open().await?;
            stream.write(request).await?;
            stream.finish();
            Ok(stream)
        };
        self.in_time(open).await
    }

    async fn next(&self, stream: &mut Stream) -> Result<Response, FetchError> {
        let read = async { stream.read::<Response>().await?.ok_or(QuicError::Truncated) };
        self.in_time(read).await
    }

    async fn in_time<T>(&self, wait: impl Future<Output = Result<T, QuicError>>) -> Result<T, FetchError> {
        let release = || self.target.release.clone();
        match tokio::time::timeout(STALLED_AFTER, wait).await {
            Ok(done) => done.map_err(|source| FetchError::Quic {
                release: release(),
                source,
            }),
            Err(_) => Err(FetchError::Stalled { release: release() }),
        }
    }

    fn unexpected(&self, answer: Response) -> FetchError {
        let (code, message) = match answer {
            Response::Error { code, message } => (code, message),
            _ => (ErrorCode::Invalid, "something that was not asked for".to_owned()),
        };
        FetchError::Answer {
            release: self.target.release.clone(),
            code,
            message,
        }
    }

    /// Runs `work` where blocking is allowed.
    async fn disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shelf) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, FetchError> {
        let shelf = self.fetcher.shelf.clone();
        let release = || self.target.release.clone();
        match tokio::task::spawn_blocking(move || work(&shelf)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(StoreError::Corrupt { want, .. })) => Err(FetchError::BadChunk {
                release: release(),
                want,
            }),
            Ok(Err(source)) => Err(FetchError::Store {
                release: release(),
                source,
            }),
            Err(panicked) => {
                let what = format!("storing stopped: {panicked}");
                Err(FetchError::Unfit {
                    release: release(),
                    what,
                })
            }
        }
    }
}
