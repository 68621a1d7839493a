//! Where clients come in.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use proto::ids::ContentHash;
use runtime::config::{ConfigError, relative_to};

use super::within;

runtime::config_file! {
    /// The door for requests.
    pub struct IngressFile {
        /// Where it listens, TLS 1.3.
        pub listen: SocketAddr = required "127.0.11.1:8443",
        /// Its certificate chain, read again when it changes.
        pub certificate: PathBuf = required "ingress/cert.pem",
        /// The key of it.
        pub key: PathBuf = required "ingress/key.pem",
        /// Threads that read requests and write answers, 1 to 256; without it one fewer than there are cores, which leaves one to the
        /// engine. More help where models cost next to nothing and clients are on other machines.
        pub threads: Option<usize> = optional 1,
        /// HTTP/3 on the UDP port of the same number; on unless this says false.
        pub http3: Option<bool> = optional true,
        /// A listener without TLS for this machine only: a loopback address or `unix:/path`.
        pub plain: Option<String> = optional "127.0.0.1:0",
        /// A file with the API key that requests over that listener are taken to carry when they carry none: for clients that
        /// cannot send one. Every process that may connect to it then asks as that tenant.
        pub plain_key: Option<PathBuf> = optional "plain.key",
    }
}

/// The door for requests, checked.
#[derive(Clone, Debug)]
pub struct IngressConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Threads that read requests and write answers.
    pub threads: NonZeroUsize,
    /// Whether HTTP/3 is spoken too.
    pub http3: bool,
    /// A listener without TLS.
    pub plain: Option<String>,
    /// Hash of the key of those who ask there without one.
    pub plain_key: Option<ContentHash>,
}

/// Checks the table, with every path seen from the file at `path`.
pub(super) fn checked(ingress: &IngressFile, path: &Path) -> Result<IngressConfig, ConfigError> {
    within("ingress.threads", ingress.threads.unwrap_or(1), 1, 256)?;
    let plain = ingress.plain.as_ref().map(|text| match text.strip_prefix("unix:") {
        Some(socket) => format!("unix:{}", relative_to(path, Path::new(socket)).display()),
        None => text.clone(),
    });
    let plain_key = ingress.plain_key.as_ref().map(|file| key_in(&relative_to(path, file)));
    Ok(IngressConfig {
        listen: ingress.listen,
        certificate: relative_to(path, &ingress.certificate),
        key: relative_to(path, &ingress.key),
        threads: ingress
            .threads
            .and_then(NonZeroUsize::new)
            .unwrap_or_else(reading_threads),
        http3: ingress.http3.unwrap_or(true),
        plain,
        plain_key: plain_key.transpose()?,
    })
}

/// One fewer than there are cores: models run on threads of their own and need one as well, and threads that find nothing to do
/// only wake each other (decision 0030).
fn reading_threads() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cores - 1).unwrap_or(NonZeroUsize::MIN)
}

/// The hash of the API key in the file at `path`.
fn key_in(path: &Path) -> Result<ContentHash, ConfigError> {
    let wrong = |reason: String| ConfigError::Value {
        key: "ingress.plain-key",
        reason: format!("names {}, {reason}", path.display()),
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("which cannot be read: {error}")))?;
    let key = text.trim();
    let digits = key.strip_prefix("mk_").unwrap_or_default();
    if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong(
            "which holds no key: put the one there that `fleet tenant add` prints".to_owned(),
        ));
    }
    Ok(ContentHash::of(key.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proto::ids::ContentHash;
    use runtime::config::Example;

    use super::super::NodeFile;
    use super::super::tests::checked;

    #[test]
    fn a_unix_socket_lies_beside_the_file_that_names_it() {
        let text = NodeFile::example("").replace("# plain = \"127.0.0.1:0\"", "plain = \"unix:run/node.sock\"");
        assert_eq!(
            checked(&text).unwrap().ingress.plain.unwrap(),
            "unix:/etc/meridian/run/node.sock"
        );
    }

    #[test]
    fn a_key_for_those_who_send_none_is_read_from_its_file_and_never_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plain.key");
        let line = format!("plain-key = {file:?}");
        let text = NodeFile::example("").replace("# plain-key = \"plain.key\"", &line);
        for (held, says) in [(None, "cannot be read"), (Some("secret"), "holds no key")] {
            if let Some(held) = held {
                std::fs::write(&file, held).unwrap();
            }
            let error = checked(&text).unwrap_err();
            assert!(
                error.starts_with("`ingress.plain-key` names") && error.contains(says),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
        let key = format!("mk_{}", "a1".repeat(32));
        std::fs::write(&file, format!("{key}\n")).unwrap();
        assert_eq!(
            checked(&text).unwrap().ingress.plain_key,
            Some(ContentHash::of(key.as_bytes()))
        );
    }
}
