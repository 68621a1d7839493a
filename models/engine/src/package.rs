//! What a package is loaded from on this machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kernels::MappedFile;
use proto::limits::STEP_FILE_BYTES_MAX;

use crate::LoadError;
use crate::onnxruntime::Library;
use crate::pack::PackedFolder;

/// Paths by the names that the manifest gives the files; where packed weights are kept, if anywhere; and the ONNX Runtime that the
/// machine's operator allows, if any.
#[derive(Clone, Debug, Default)]
pub struct PackageFiles {
    paths: BTreeMap<String, PathBuf>,
    packed: Option<PackedFolder>,
    onnxruntime: Option<Library>,
}

impl PackageFiles {
    /// Adds or replaces a file.
    pub fn insert(&mut self, name: impl Into<String>, path: impl Into<PathBuf>) {
        self.paths.insert(name.into(), path.into());
    }
    /// Keeps packed weights in this folder, and takes them from there.
    #[must_use]
    pub fn packed_in(self, folder: PackedFolder) -> Self {
        Self {
            packed: Some(folder),
            ..self
        }
    }
    /// Allows variants that run in ONNX Runtime, or none of them: so it begins.
    #[must_use]
    pub fn allowing(self, onnxruntime: Option<Library>) -> Self {
        Self { onnxruntime, ..self }
    }
    pub(crate) const fn packed(&self) -> Option<&PackedFolder> {
        self.packed.as_ref()
    }
    pub(crate) const fn onnxruntime(&self) -> Option<&Library> {
        self.onnxruntime.as_ref()
    }
    /// Where the file called `name` lies.
    ///
    /// # Errors
    /// [`LoadError::MissingFile`] when it was never inserted.
    pub fn path(&self, name: &str) -> Result<&Path, LoadError> {
        self.paths
            .get(name)
            .map(PathBuf::as_path)
            .ok_or_else(|| LoadError::MissingFile { name: name.to_owned() })
    }
    /// Reads a small file that a step needs.
    ///
    /// # Errors
    /// [`LoadError::MissingFile`], [`LoadError::Read`], [`LoadError::TooLarge`].
    pub fn read_step_file(&self, name: &str) -> Result<Vec<u8>, LoadError> {
        read_bounded(self.path(name)?, STEP_FILE_BYTES_MAX)
    }
}

impl<N: Into<String>, P: Into<PathBuf>> FromIterator<(N, P)> for PackageFiles {
    fn from_iter<I: IntoIterator<Item = (N, P)>>(files: I) -> Self {
        let paths = files.into_iter().map(|(name, path)| (name.into(), path.into()));
        Self {
            paths: paths.collect(),
            packed: None,
            onnxruntime: None,
        }
    }
}

/// Reads a whole file unless it is longer than `bytes_max`.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, LoadError> {
    let (mut file, mut bytes) = (open_bounded(path, bytes_max)?, Vec::new());
    file.read_to_end(&mut bytes).map_err(|e| failed(path, e))?;
    Ok(bytes)
}

/// A whole file, in memory as far as it is looked at, unless it is longer than `bytes_max`. What is read into memory of our own has to be
/// fetched, and given back later, on cores that others want: 90 MB take 100 ms.
pub(crate) fn map_bounded(path: &Path, bytes_max: u64) -> Result<Bytes, LoadError> {
    let mapped = MappedFile::open(&open_bounded(path, bytes_max)?).map_err(|e| failed(path, e))?;
    Ok(Bytes::from_owner(Whole(mapped)))
}

struct Whole(Arc<MappedFile>);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

fn open_bounded(path: &Path, bytes_max: u64) -> Result<File, LoadError> {
    let failed = |e| failed(path, e);
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > bytes_max {
        return Err(LoadError::TooLarge {
            path: path.to_owned(),
            bytes,
            bytes_max,
        });
    }
    Ok(file)
}

fn failed(path: &Path, source: std::io::Error) -> LoadError {
    LoadError::Read {
        path: path.to_owned(),
        source,
    }
}
