//! An operator's or auditor's folder: who they are, whom they trust, and where the control plane listens.
//!
//! ```text
//!   HOME/fleet.toml                 addresses of the control plane
//!   HOME/trust.json                 the fleet's keys
//!   HOME/identity/                  ca.pem cert.pem key.pem of this person; the key also signs manifests, plans, commands
//!   HOME/ca/                        only where certificates are issued: ca.pem ca-key.pem
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proto::signed::TrustBundle;
use runtime::identity::Identity;
use serde::{Deserialize, Serialize};

/// `fleet.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Endpoints {
    /// QUIC: uploads and commands.
    pub control_plane: SocketAddr,
    /// HTTPS: status, log.
    pub operator_api: SocketAddr,
}

/// An opened home folder.
#[derive(Debug)]
pub struct Home {
    /// The folder.
    pub dir: PathBuf,
    /// Where the control plane listens.
    pub endpoints: Endpoints,
    /// Whom to trust.
    pub trust: TrustBundle,
    /// Who this is.
    pub identity: Identity,
}

/// The folder that `--home` or `FLEET_HOME` names, else `~/.config/meridian`.
///
/// # Errors
/// No home directory is known.
pub fn folder(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = given {
        return Ok(dir.to_owned());
    }
    let home = std::env::home_dir().context("no home directory: name the operator's folder with --home DIR")?;
    Ok(home.join(".config").join("meridian"))
}

impl Home {
    /// Opens the folder.
    ///
    /// # Errors
    /// A file is missing or unreadable; says which and what makes it.
    pub fn open(dir: &Path) -> Result<Self> {
        let hint = || {
            format!(
                "no operator's folder at {}: make one with `fleet ca init`, or name one with --home DIR (`fleet dev up` \
                 prints its own)",
                dir.display()
            )
        };
        let text = std::fs::read_to_string(dir.join("fleet.toml")).with_context(hint)?;
        let endpoints = toml::from_str(&text).with_context(|| format!("{}/fleet.toml", dir.display()))?;
        Ok(Self {
            dir: dir.to_owned(),
            endpoints,
            trust: read_trust(&dir.join("trust.json"))?,
            identity: Identity::load(&dir.join("identity")).with_context(hint)?,
        })
    }
}

/// Reads a `trust.json`.
///
/// # Errors
/// Missing, or not a trust bundle.
pub fn read_trust(path: &Path) -> Result<TrustBundle> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a trust bundle", path.display()))
}
