//! Prepared graphs on disk.
//!
//! ```text
//!   mark | BLAKE3, keyed, of the model file's identity and all that follows | where the index begins, u64 | weights, each at a multiple of 64 | graph, ONNX | index, postcard
//! ```
//! Numbers are little-endian. A file is written beside its place and renamed, and never changed; one that is torn, flipped, of another build or
//! of another key is as good as none.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kernels::{Linear, MappedFile};
use proto::ids::ContentHash;
use serde::{Deserialize, Serialize};

use super::{Prepared, Table, Weights};
use crate::onnx;

const MARK: &[u8; 8] = b"MPACK\0\0\x02";
const HASH_AT: usize = MARK.len();
const INDEX_AT: usize = HASH_AT + 32;
const ENDING: &str = "packed";
/// Tells threads that pack the same file apart.
static NUMBER: AtomicU64 = AtomicU64::new(0);
/// Hashed at a time.
const PIECE_BYTES: usize = 256 << 10;

/// A folder with one file for each model file that was loaded on this machine.
#[derive(Clone)]
pub struct PackedFolder {
    folder: PathBuf,
    key: [u8; 32],
}

impl std::fmt::Debug for PackedFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedFolder({})", self.folder.display())
    }
}

#[derive(Serialize, Deserialize)]
struct Index {
    /// Whose arithmetic it was packed for.
    engine: String,
    /// Where the graph lies, and its length.
    onnx: (usize, usize),
    weights: Vec<Place>,
}

/// Where weights lie, and their shape.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Place {
    Linear { at: usize, inputs: usize, outputs: usize },
    Table { at: usize, rows: usize, width: usize },
}

impl PackedFolder {
    /// Takes or makes a folder that nothing else uses. With `key`, what this machine prepared is told from what somebody else put there.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn new(folder: impl Into<PathBuf>, key: [u8; 32]) -> io::Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, key })
    }

    fn path(&self, file: &ContentHash) -> PathBuf {
        self.folder
            .join(format!("{}.{ENDING}", proto::ids::hex(file.as_bytes())))
    }

    /// Removes what was prepared of other model files than these, and what writes that were cut off left.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn retain(&self, wanted: impl Fn(&ContentHash) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let file = name
                .strip_suffix(ENDING)
                .and_then(|name| format!("b3:{}", name.trim_end_matches('.')).parse().ok());
            if !file.is_some_and(|file| wanted(&file)) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Writes what was made of the model file `file`.
    pub(super) fn keep(&self, file: &ContentHash, prepared: &Prepared) -> io::Result<()> {
        let mut bytes = vec![0; INDEX_AT + 8];
        let mut places = vec![None; prepared.weights.len()];
        // Tables last: the system maps pages by the hundred, and of a table few are touched.
        let last = |(_, weights): &(usize, &Weights)| matches!(weights, Weights::Table(_));
        let (tables, layers): (Vec<_>, Vec<_>) = prepared.weights.iter().enumerate().partition(last);
        for (number, weights) in layers.into_iter().chain(tables) {
            bytes.resize(bytes.len().next_multiple_of(Linear::SECTION_ALIGN), 0);
            places[number] = Some(write(weights, &mut bytes)?);
        }
        let graph = onnx::encode(&prepared.model);
        let index = Index {
            engine: crate::ENGINE.to_owned(),
            onnx: (bytes.len(), graph.len()),
            weights: places.into_iter().flatten().collect(),
        };
        bytes.extend(graph);
        let index_at = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        bytes.extend(postcard::to_stdvec(&index).map_err(io::Error::other)?);
        bytes[..HASH_AT].copy_from_slice(MARK);
        bytes[INDEX_AT..INDEX_AT + 8].copy_from_slice(&index_at.to_le_bytes());
        let hash = self.hasher(file).update(&bytes[INDEX_AT..]).finalize();
        bytes[HASH_AT..INDEX_AT].copy_from_slice(hash.as_bytes());
        // Whatever a power cut leaves is found out by its hash, so nobody waits for the disk.
        let path = self.path(file);
        let unfinished = path.with_extension(format!(
            "{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ));
        fs::write(&unfinished, &bytes)?;
        fs::rename(&unfinished, &path)
    }

    /// What was made of the model file `file`; `None` where that is not here as it was written.
    pub(super) fn open(&self, file: &ContentHash) -> Option<Prepared> {
        let path = self.path(file);
        let prepared = self.read(file, &path);
        if let Some(Err(why)) = &prepared {
            tracing::warn!(path = %path.display(), why, "packed weights are not as they were written: they are packed again");
        }
        prepared?.ok()
    }

    /// What hashes all that follows the hash: whose it is comes first, so that no file answers for another model.
    fn hasher(&self, file: &ContentHash) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(file.as_bytes());
        hasher
    }

    /// Hashes through the system's cache of the file, not through the mapping: whatever is read there counts as memory of this process.
    fn read(&self, of: &ContentHash, path: &Path) -> Option<Result<Prepared, String>> {
        let mut file = File::open(path).ok()?;
        let read = || -> io::Result<Result<Prepared, String>> {
            let mut head = [0; INDEX_AT];
            file.read_exact(&mut head)?;
            let mut hasher = self.hasher(of);
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let came = file.read(&mut piece)?;
                if came == 0 {
                    break;
                }
                hasher.update(&piece[..came]);
            }
            if head[..HASH_AT] != *MARK || head[HASH_AT..] != *hasher.finalize().as_bytes() {
                return Ok(Err("mark or hash differ".to_owned()));
            }
            Ok(prepared(MappedFile::open(&file)?, file))
        };
        Some(read().unwrap_or_else(|error| Err(error.to_string())))
    }
}

/// Appends weights; gives where they lie.
fn write(weights: &Weights, bytes: &mut Vec<u8>) -> io::Result<Place> {
    let at = bytes.len();
    Ok(match weights {
        Weights::Linear(layer) => {
            layer.write(bytes);
            Place::Linear {
                at,
                inputs: layer.inputs(),
                outputs: layer.outputs(),
            }
        }
        Weights::Table(table) => {
            table.write(bytes)?;
            Place::Table {
                at,
                rows: table.rows(),
                width: table.width(),
            }
        }
    })
}

/// What a whole file holds.
fn prepared(mapped: Arc<MappedFile>, file: File) -> Result<Prepared, String> {
    let (bytes, file) = (mapped.bytes(), Arc::new(file));
    let part = |at: usize, length: usize| bytes.get(at..at.checked_add(length)?);
    let beyond = || "it ends too soon".to_owned();
    let index_at = part(INDEX_AT, 8)
        .and_then(|at| <[u8; 8]>::try_from(at).ok())
        .map(u64::from_le_bytes);
    let index_at = index_at.and_then(|at| usize::try_from(at).ok()).ok_or_else(beyond)?;
    let index: Index = postcard::from_bytes(bytes.get(index_at..).ok_or_else(beyond)?).map_err(|e| e.to_string())?;
    if index.engine != crate::ENGINE {
        return Err(format!("it was packed by {}", index.engine));
    }
    let graph = part(index.onnx.0, index.onnx.1).ok_or_else(beyond)?;
    let weights = index.weights.iter().map(|place| match *place {
        Place::Linear { at, inputs, outputs } => {
            let layer = Linear::mapped(&mapped, at, inputs, outputs).map_err(|e| e.to_string())?;
            Ok(Weights::Linear(Arc::new(layer)))
        }
        Place::Table { at, rows, width } => {
            let table = Table::in_file(&file, bytes, at, rows, width).ok_or_else(beyond)?;
            Ok(Weights::Table(Arc::new(table)))
        }
    });
    Ok(Prepared {
        model: onnx::decode(graph).map_err(|e| e.to_string())?,
        weights: weights.collect::<Result<_, String>>()?,
    })
}
