//! The last believed view on disk: one file, replaced whole.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use proto::frame;
use proto::limits::FRAME_BYTES_MAX;
use proto::signed::{Signed, TrustBundle};

use super::{Believed, accept};

/// Why the view cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path}")]
pub struct StoreError {
    /// What was tried.
    doing: &'static str,
    /// With which file.
    path: PathBuf,
    /// Why not.
    #[source]
    source: std::io::Error,
}

/// The folder that the view is kept in.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Uses `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be made.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError {
            doing: "make",
            path: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(failed)?;
        Ok(Self { dir: dir.to_owned() })
    }
    fn path(&self) -> PathBuf {
        self.dir.join("view")
    }
    /// The view that was kept, believed again from its signatures. None if there is none or it cannot be believed any
    /// more: then the file is left as it is until the next view replaces it.
    #[must_use]
    pub fn load(&self, trust: &TrustBundle) -> Option<Believed> {
        let path = self.path();
        let len = fs::metadata(&path).ok()?.len();
        if len > u64::try_from(FRAME_BYTES_MAX).unwrap_or(u64::MAX) {
            tracing::warn!(path = %path.display(), len, "the kept view is longer than any view: not used");
            return None;
        }
        let bytes = fs::read(&path).ok()?;
        let Some(Ok(signed)) = bytes.get(frame::HEADER_BYTES..).map(frame::decode::<Signed>) else {
            tracing::warn!(path = %path.display(), "the kept view is damaged: not used");
            return None;
        };
        match accept(signed, &[], trust, None) {
            Ok(believed) => Some(believed),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the kept view is not believed: not used");
                None
            }
        }
    }
    /// Keeps `signed`: after this returns it survives a power cut; before, the old one does.
    ///
    /// # Errors
    /// [`StoreError`]; the old view is still there.
    pub fn keep(&self, signed: &Signed) -> Result<(), StoreError> {
        let (path, new) = (self.path(), self.dir.join("view.new"));
        let failed = |source| StoreError {
            doing: "write",
            path: path.clone(),
            source,
        };
        let bytes = frame::encode(signed).map_err(|e| failed(std::io::Error::other(e)))?;
        let mut file = File::create(&new).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&new, &path).map_err(failed)?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}
