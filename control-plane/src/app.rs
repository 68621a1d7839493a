//! Puts the parts together: [`App::build`] opens what is kept and binds the ports, [`App::start`] sets it going.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use hyper_util::service::TowerToHyperService;
use proto::entry::{Body, EntryError, Fleet};
use proto::note::{NoteError, Signer, Verifier};
use proto::signed::{PublicKey, TrustBundle};
use runtime::clock;
use runtime::https::{HttpsError, ServerTls};
use runtime::identity::{Identity, IdentityError, Role, load_trust};
use runtime::lifecycle::Lifecycle;
use runtime::metrics::Metrics;
use runtime::quic::{QuicError, Server};
use tokio::net::TcpListener;

use crate::artifacts::intake::{ArtifactError, Artifacts};
use crate::config::Config;
use crate::distribute::{self, Service};
use crate::ledger::{Ledger, OpenError, Writer, judge};
use crate::metrics::Instruments;
use crate::operator::{self, Pages};
use crate::registry::Registry;
use crate::rollout::conductor::{Conductor, Parts};
use crate::rollout::keeper::{KeepError, Keeper};
use crate::state::maker::{Maker, Outbox};
use crate::state::seq::{SeqError, SeqFile};
use models::log::{Log, LogError};

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The identity or the trust bundle.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A file cannot be read or a folder made.
    #[error("cannot open {path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A key file holds something else.
    #[error("{path} does not hold {what}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Two things that must belong together do not.
    #[error("{what}: install the files of one fleet")]
    Mismatch {
        /// Which two.
        what: &'static str,
    },
    /// The log's key, or the trust bundle's `log_vkey`.
    #[error("the log's key")]
    Note(#[from] NoteError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log does not fold.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The first entry cannot be made of the trust bundle.
    #[error("the trust bundle makes no first entry")]
    Init(#[from] EntryError),
    /// The artifacts.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// The evidence.
    #[error(transparent)]
    Evidence(#[from] KeepError),
    /// The sequence file.
    #[error(transparent)]
    Seq(#[from] SeqError),
    /// The QUIC port.
    #[error(transparent)]
    Quic(#[from] QuicError),
    /// The operators' port.
    #[error(transparent)]
    Https(#[from] HttpsError),
    /// The operators' address is taken or not ours.
    #[error("listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Keys and certificates that belong together.
pub struct Credentials {
    identity: Identity,
    trust: TrustBundle,
    log_signer: Signer,
    log_key: Verifier,
    state_key: SigningKey,
}

impl Credentials {
    /// Reads all of them and checks that they are of one fleet. Blocking.
    ///
    /// # Errors
    /// [`BuildError`] names the file.
    pub fn load(config: &Config) -> Result<Self, BuildError> {
        let identity = Identity::load(&config.identity)?;
        let trust = load_trust(&config.trust)?;
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|source| BuildError::File {
                path: path.clone(),
                source,
            })
        };
        let log_signer = Signer::from_skey(read(&config.log_key)?.trim())?;
        let log_key = trust.log_vkey.parse::<Verifier>()?;
        let no_key = |_| BuildError::Key {
            path: config.state_key.clone(),
            what: "an Ed25519 key in PKCS#8 PEM",
        };
        let state_key = SigningKey::from_pkcs8_pem(&read(&config.state_key)?).map_err(no_key)?;
        let mismatch = |what| Err(BuildError::Mismatch { what });
        if identity.role != Role::ControlPlane {
            return mismatch("the identity is not a control plane's");
        }
        if identity.fleet != trust.fleet {
            return mismatch("identity and trust bundle name different fleets");
        }
        if log_signer.vkey() != trust.log_vkey {
            return mismatch("the log key is not the trust bundle's `log_vkey`");
        }
        if PublicKey::of(&state_key) != trust.state_key {
            return mismatch("the state key is not the trust bundle's `state_key`");
        }
        Ok(Self {
            identity,
            trust,
            log_signer,
            log_key,
            state_key,
        })
    }
}

/// Where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Nodes, routers and publishers.
    pub quic: SocketAddr,
    /// Operators and auditors.
    pub operator: SocketAddr,
}

/// A control plane that is ready to run.
pub struct App {
    addresses: Addresses,
    server: Server,
    service: Service,
    writer: Writer,
    listener: TcpListener,
    tls: ServerTls,
    pages: Pages,
}

impl App {
    /// Opens what is kept, folds the log and binds the ports.
    ///
    /// # Errors
    /// [`BuildError`]; no port is bound before all that is kept has been opened.
    pub async fn build(config: &Config, lifecycle: &Lifecycle) -> Result<Self, BuildError> {
        let credentials = Credentials::load(config)?;
        let kept = Kept::open(
            config,
            credentials.log_signer,
            &credentials.state_key,
            &credentials.trust,
        )?;
        let server = Server::bind(config.quic, &credentials.identity)?;
        let tls = ServerTls::load_mutual(&config.identity)?;
        let listen = |source| BuildError::Listen {
            address: config.operator,
            source,
        };
        let listener = TcpListener::bind(config.operator).await.map_err(listen)?;
        let addresses = Addresses {
            quic: server.local_addr(),
            operator: listener.local_addr().map_err(listen)?,
        };
        let mut metrics = Metrics::new();
        metrics.show_process();
        kept.instruments.register(&mut metrics);
        let service = Service {
            ledger: kept.ledger.clone(),
            artifacts: kept.artifacts,
            registry: kept.registry.clone(),
            conductor: kept.conductor.clone(),
            outbox: kept.outbox.clone(),
            log_key: Arc::new(credentials.log_key),
            instruments: kept.instruments,
            lifecycle: lifecycle.clone(),
        };
        let pages = Pages {
            trust: credentials.trust,
            log_dir: log_dir(config),
            ledger: kept.ledger,
            conductor: kept.conductor,
            registry: kept.registry,
            outbox: kept.outbox,
            metrics: Arc::new(metrics),
        };
        Ok(Self {
            addresses,
            server,
            service,
            writer: kept.writer,
            listener,
            tls,
            pages,
        })
    }

    /// Where it listens; known before it answers.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Sets all tasks going in the lifecycle it was built with; stop that to stop them.
    ///
    /// # Errors
    /// [`BuildError::Https`].
    pub fn start(self) -> Result<(), BuildError> {
        let lifecycle = self.service.lifecycle.clone();
        let pages = TowerToHyperService::new(operator::router(self.pages));
        runtime::https::serve(self.listener, Some(self.tls), &lifecycle, pages)?;
        lifecycle.spawn("ledger", self.writer.run(lifecycle.clone()));
        lifecycle.spawn("conductor", self.service.conductor.clone().run(lifecycle.clone()));
        lifecycle.spawn("distribute", distribute::serve(self.server, self.service));
        Ok(())
    }
}

/// What was on disk, opened.
struct Kept {
    ledger: Ledger,
    writer: Writer,
    artifacts: Artifacts,
    registry: Registry,
    conductor: Conductor,
    outbox: Outbox,
    instruments: Instruments,
}

fn log_dir(config: &Config) -> PathBuf {
    config.data.join("log")
}

impl Kept {
    fn open(
        config: &Config,
        log_signer: Signer,
        state_key: &SigningKey,
        trust: &TrustBundle,
    ) -> Result<Self, BuildError> {
        let data = &config.data;
        std::fs::create_dir_all(data).map_err(|source| BuildError::File {
            path: data.clone(),
            source,
        })?;
        let instruments = Instruments::default();
        let artifacts = Artifacts::open(
            data,
            config.store_bytes_max,
            trust,
            clock::now_ms(),
            instruments.clone(),
        )?;
        let mut log = Log::open(&log_dir(config), log_signer)?;
        if log.view().size() == 0 {
            log.append(&[first_entry(trust)?])?;
        }
        let (ledger, writer) = Ledger::open(log, artifacts.documents().clone(), instruments.clone())?;
        let snapshot = ledger.snapshot();
        if !is_of(&snapshot.fleet, trust) {
            return Err(BuildError::Mismatch {
                what: "the log's first entry and the trust bundle differ",
            });
        }
        for manifest in artifacts.recover(&snapshot.fleet)? {
            tracing::error!(%manifest, "the store lacks files of a published release: publish the same bytes again");
        }
        tracing::info!(
            epoch = snapshot.fleet.epoch,
            regions = snapshot.fleet.regions.len(),
            "log folded"
        );
        let (registry, outbox) = (Registry::default(), Outbox::default());
        let seq = SeqFile::open(&data.join("seq"))?;
        let maker = Maker::new(state_key.clone(), seq, config.terms, outbox.clone());
        let conductor = Conductor::new(Parts {
            ledger: ledger.clone(),
            documents: artifacts.documents().clone(),
            registry: registry.clone(),
            maker,
            keeper: Keeper::open(&data.join("evidence"))?,
            instruments: instruments.clone(),
        })?;
        Ok(Self {
            ledger,
            writer,
            artifacts,
            registry,
            conductor,
            outbox,
            instruments,
        })
    }
}

/// Who may sign, as the log's first word.
fn first_entry(trust: &TrustBundle) -> Result<Vec<u8>, EntryError> {
    let (fleet, operators, threshold) = (trust.fleet.clone(), trust.operators.clone(), trust.threshold);
    let leaf = judge::own(
        &Body::FleetInit {
            fleet,
            operators,
            threshold,
        },
        clock::now_ms(),
    )
    .encode()?;
    Fleet::default().apply(&leaf)?;
    Ok(leaf)
}

fn is_of(fleet: &Fleet, trust: &TrustBundle) -> bool {
    fleet.name.as_ref() == Some(&trust.fleet)
        && fleet.operators == trust.operators
        && fleet.threshold == trust.threshold
}

#[cfg(test)]
mod tests;
