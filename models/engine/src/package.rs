//! Where the files of a package lie on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proto::limits::STEP_FILE_BYTES_MAX;

use crate::LoadError;

/// Paths by the names that the manifest gives the files.
#[derive(Clone, Debug, Default)]
pub struct PackageFiles(BTreeMap<String, PathBuf>);

impl PackageFiles {
    /// Adds or replaces a file.
    pub fn insert(&mut self, name: impl Into<String>, path: impl Into<PathBuf>) {
        self.0.insert(name.into(), path.into());
    }
    /// Where the file called `name` lies.
    ///
    /// # Errors
    /// [`LoadError::MissingFile`] when it was never inserted.
    pub fn path(&self, name: &str) -> Result<&Path, LoadError> {
        self.0
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
        Self(
            files
                .into_iter()
                .map(|(name, path)| (name.into(), path.into()))
                .collect(),
        )
    }
}

/// Reads a whole file unless it is longer than `bytes_max`.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, LoadError> {
    let fail = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(fail)?.len();
    if bytes > bytes_max {
        return Err(LoadError::TooLarge {
            path: path.to_owned(),
            bytes,
            bytes_max,
        });
    }
    std::fs::read(path).map_err(fail)
}
