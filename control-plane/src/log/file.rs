//! Files that survive a kill at any moment: written beside, synced, renamed, and the folder synced.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::LogError;

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io { action, path, source }
}

/// Replaces `path` by `bytes`, durably and whole.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), LogError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make_folders(folder)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let mut file = File::create(beside).map_err(io("make", beside))?;
    file.write_all(bytes).map_err(io("write", beside))?;
    file.sync_all().map_err(io("sync", beside))?;
    std::fs::rename(beside, path).map_err(io("rename to", path))?;
    sync_folder(folder)
}

/// Makes a folder and syncs every parent that gained one.
fn make_folders(folder: &Path) -> Result<(), LogError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folders(parent)?;
        match std::fs::create_dir(folder) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(io("make", folder)(e)),
            _ => sync_folder(parent)?,
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> Result<(), LogError> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(io("sync", folder))
}

/// All bytes of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, LogError> {
    std::fs::read(path).map_err(io("read", path))
}
