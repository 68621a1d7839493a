//! PEM files: bounded reads, private keys for the owner's eyes only, writes that are whole or not there.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use proto::limits::SETUP_FILE_BYTES_MAX;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::IdentityError;

/// Reads a small text file.
pub(crate) fn read(path: &Path) -> Result<String, IdentityError> {
    let failed = |source| IdentityError::File {
        doing: "read",
        path: path.to_owned(),
        source,
    };
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > SETUP_FILE_BYTES_MAX {
        let reason = format!("{bytes} bytes, allowed is {SETUP_FILE_BYTES_MAX}");
        return Err(IdentityError::Content {
            path: path.to_owned(),
            reason,
        });
    }
    fs::read_to_string(path).map_err(failed)
}

/// Reads a private key that nobody but its owner can read.
pub(super) fn read_key(path: &Path) -> Result<String, IdentityError> {
    let failed = |source| IdentityError::File {
        doing: "read",
        path: path.to_owned(),
        source,
    };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::KeyMode {
            path: path.to_owned(),
            mode,
        });
    }
    read(path)
}

/// The certificates of a PEM text, at least one.
pub(crate) fn certificates(path: &Path, pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let content = |reason| IdentityError::Content {
        path: path.to_owned(),
        reason,
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| content(format!("not PEM: {e}")))?;
    if chain.is_empty() {
        Err(content("holds no certificate".to_owned()))
    } else {
        Ok(chain)
    }
}

/// The certificates of a PEM text as trust anchors.
pub(super) fn roots(path: &Path, pem: &str) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// Puts `text` at `path` with `mode`: a reader sees the old file or the whole new one.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::File {
        doing: "write",
        path: path.to_owned(),
        source,
    };
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    match fs::remove_file(new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(new)
        .map_err(failed)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    fs::rename(new, path).map_err(failed)
}
