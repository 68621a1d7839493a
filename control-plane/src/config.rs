//! `control-plane.toml`: the file as written, and the values that are known to be good.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use runtime::config::{self, ConfigError};
use runtime::telemetry::TelemetryFile;

use crate::state::maker::Terms;

/// A follower that hears nothing for 90 s takes the connection for dead.
const RENEW_S_MAX: u64 = 60;

runtime::config_file! {
    /// The file, key by key. Paths are relative to the file.
    pub struct ControlPlaneFile {
        /// Folder with ca.pem, cert.pem and key.pem.
        pub identity: PathBuf = required "identity",
        /// Who may sign what: the same file on every part of the fleet.
        pub trust: PathBuf = required "trust.json",
        /// The log, the artifacts and all else that is kept. Back this folder up.
        pub data: PathBuf = required "data",
        /// The release log's C2SP signing key.
        pub log_key: PathBuf = required "log.key",
        /// Signs region states and router views: Ed25519, PKCS#8 PEM.
        pub state_key: PathBuf = required "state.key",
        /// Where it listens.
        pub listen: ListenFile = table,
        /// How long states hold.
        #[serde(default)]
        pub rollout: RolloutFile = table,
        /// How much is kept.
        #[serde(default)]
        pub store: StoreFile = table,
        /// Logs and traces.
        #[serde(default)]
        pub telemetry: TelemetryFile = table,
    }
    /// `[listen]`.
    pub struct ListenFile {
        /// Nodes, routers and publishers: mutual TLS over QUIC. Port 0 takes a free one.
        pub quic: SocketAddr = required "127.0.0.1:7001",
        /// Operators and auditors: HTTPS with a client certificate.
        pub operator: SocketAddr = required "127.0.0.1:7002",
    }
    /// `[rollout]`.
    #[serde(default)]
    pub struct RolloutFile {
        /// How long a region state may be accepted, seconds, 2 to 604800.
        pub state_ttl_s: u64 = required 300,
        /// How often states are renewed, seconds, 1 to 60 and at most half of `state-ttl-s`.
        pub renew_s: u64 = required 60,
    }
    /// `[store]`.
    #[serde(default)]
    pub struct StoreFile {
        /// Bytes of artifacts before uploads are refused.
        pub bytes_max: u64 = required 68_719_476_736_u64,
    }
}

impl Default for RolloutFile {
    fn default() -> Self {
        Self {
            state_ttl_s: 300,
            renew_s: 60,
        }
    }
}

impl Default for StoreFile {
    fn default() -> Self {
        Self { bytes_max: 64 << 30 }
    }
}

/// A configuration that breaks no rule. That its files exist shows when they are opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the identity.
    pub identity: PathBuf,
    /// Path of the trust bundle.
    pub trust: PathBuf,
    /// Folder of all that is kept.
    pub data: PathBuf,
    /// Path of the log's key.
    pub log_key: PathBuf,
    /// Path of the state key.
    pub state_key: PathBuf,
    /// QUIC address.
    pub quic: SocketAddr,
    /// HTTPS address.
    pub operator: SocketAddr,
    /// How long states hold.
    pub terms: Terms,
    /// Bytes of artifacts.
    pub store_bytes_max: u64,
    /// Logs and traces.
    pub telemetry: TelemetryFile,
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::new(config::read(path)?, path)
    }

    /// Checks `file`, found at `path`.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the key.
    pub fn new(file: ControlPlaneFile, path: &Path) -> Result<Self, ConfigError> {
        let within = |key, found: u64, min: u64, max: u64| match found {
            found if (min..=max).contains(&found) => Ok(found),
            found => Err(ConfigError::Value {
                key,
                reason: format!("is {found}, allowed is {min} to {max}"),
            }),
        };
        let from_file = |named: &Path| config::relative_to(path, named);
        let ttl_s = within("rollout.state-ttl-s", file.rollout.state_ttl_s, 2, 604_800)?;
        let renew_s = within("rollout.renew-s", file.rollout.renew_s, 1, RENEW_S_MAX.min(ttl_s / 2))?;
        let store_bytes_max = within("store.bytes-max", file.store.bytes_max, 1 << 20, u64::MAX)?;
        Ok(Self {
            identity: from_file(&file.identity),
            trust: from_file(&file.trust),
            data: from_file(&file.data),
            log_key: from_file(&file.log_key),
            state_key: from_file(&file.state_key),
            quic: file.listen.quic,
            operator: file.listen.operator,
            terms: Terms {
                ttl_ms: ttl_s * 1000,
                renew_ms: renew_s * 1000,
            },
            store_bytes_max,
            telemetry: file.telemetry,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::config::{Example, parse};

    fn example() -> String {
        ControlPlaneFile::example("")
    }

    #[test]
    fn the_example_file_is_a_valid_file_and_holds_the_defaults() {
        let file: ControlPlaneFile = parse(&example()).unwrap();
        assert_eq!(file.store.bytes_max, StoreFile::default().bytes_max);
        let config = Config::new(file, Path::new("/etc/meridian/control-plane.toml")).unwrap();
        assert_eq!(config.trust, Path::new("/etc/meridian/trust.json"));
        assert_eq!(
            config.terms,
            Terms {
                ttl_ms: 300_000,
                renew_ms: 60_000
            }
        );
    }

    #[test]
    fn a_state_is_renewed_well_before_it_expires_or_the_file_is_refused() {
        let file: ControlPlaneFile = parse(&example().replace("renew-s = 60", "renew-s = 200")).unwrap();
        let wrong = Config::new(file, Path::new("c.toml")).unwrap_err();
        assert_eq!(wrong.to_string(), "`rollout.renew-s` is 200, allowed is 1 to 60");
    }
}
