//! Keeps up with the control plane: one stream of views, opened again for as long as the router runs.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::message::{Request, Response};
use proto::signed::TrustBundle;
use runtime::identity::Identity;
use runtime::lifecycle::Lifecycle;
use runtime::quic::{self, QuicError};
use runtime::telemetry::chain;

use super::{Believed, Store, accept};
use crate::gossip::{Gossip, Seen};
use crate::metrics::Instruments;
use crate::steering::Steering;

/// The name that the control plane's certificate carries.
const CONTROL_PLANE: &str = "control-plane";
/// Rest after a lost connection, doubled up to the longest.
const REST: Duration = Duration::from_millis(200);
const REST_MAX: Duration = Duration::from_secs(5);

/// What following takes.
pub struct Follower {
    /// Where the control plane is.
    pub control_plane: SocketAddr,
    /// Who we are.
    pub identity: Identity,
    /// Whom we believe.
    pub trust: TrustBundle,
    /// Where the view is kept.
    pub store: Store,
    /// Who is told.
    pub steering: Arc<Steering>,
    /// What checkpoints are compared in.
    pub gossip: Arc<Mutex<Gossip>>,
    /// What is counted.
    pub instruments: Instruments,
}

impl Follower {
    /// Steers by the view on disk, if there is one.
    #[must_use]
    pub fn start(&self) -> Option<Believed> {
        let kept = self.store.load(&self.trust)?;
        self.show(&kept);
        tracing::info!(seq = kept.topology.seq, "steering by the view kept on disk");
        Some(kept)
    }
    fn show(&self, believed: &Believed) {
        let topology = &believed.topology;
        self.instruments
            .view_seq
            .set(i64::try_from(topology.seq).unwrap_or(i64::MAX));
        self.instruments
            .nodes
            .set(i64::try_from(topology.nodes.len()).unwrap_or(i64::MAX));
        let seen = self
            .gossip
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .see(&believed.note);
        if seen == Seen::Forked {
            self.instruments.forks.inc();
            tracing::error!(
                epoch = topology.epoch,
                "the release log has forked: compare with `fleet log verify`"
            );
        }
        self.steering.follow(topology.clone());
    }
    /// Follows until the connection or stream is over. `used` is the newest view that was believed.
    async fn session(&self, used: &mut Option<Believed>) -> Result<(), QuicError> {
        let connection = quic::connect(self.control_plane, CONTROL_PLANE, &self.identity).await?;
        let mut stream = connection.open().await?;
        let after_seq = used.as_ref().map_or(0, |b| b.topology.seq);
        let tree_size = used.as_ref().map_or(0, |b| b.checkpoint.size);
        stream.write(&Request::FollowView { after_seq, tree_size }).await?;
        while let Some(response) = stream.read::<Response>().await? {
            match response {
                Response::View { view, consistency } => match accept(view, &consistency, &self.trust, used.as_ref()) {
                    Ok(believed) => self.adopt(believed, used).await,
                    Err(error) => {
                        self.instruments.views_refused.inc();
                        tracing::warn!(%error, "a view is not believed; steering by the one before");
                        return Ok(());
                    }
                },
                Response::Error { code, message } => {
                    tracing::warn!(?code, message, "the control plane does not give its view");
                    return Ok(());
                }
                _ => {
                    tracing::warn!("the control plane answered something else than a view");
                    return Ok(());
                }
            }
        }
        Ok(())
    }
    async fn adopt(&self, believed: Believed, used: &mut Option<Believed>) {
        let (store, signed) = (self.store.clone(), believed.signed.clone());
        // Steering by a view that could not be kept is still better than steering by an older one.
        match tokio::task::spawn_blocking(move || store.keep(&signed)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = chain(&error), "the view is not kept on disk"),
            Err(error) => tracing::error!(%error, "the view is not kept on disk"),
        }
        tracing::info!(seq = believed.topology.seq, epoch = believed.topology.epoch, "new view");
        self.show(&believed);
        *used = Some(believed);
    }
}

/// Follows the control plane until the lifecycle drains. Start it with what [`Follower::start`] gave.
pub async fn follow(follower: Follower, mut used: Option<Believed>, lifecycle: Lifecycle) {
    let mut rest = REST;
    loop {
        let before = used.as_ref().map(|b| b.topology.seq);
        let ended = tokio::select! {
            () = lifecycle.drain().cancelled() => return,
            ended = follower.session(&mut used) => ended,
        };
        if let Err(error) = ended {
            tracing::info!(
                error = chain(&error),
                "no connection to the control plane; steering by the last view"
            );
        }
        let progress = used.as_ref().map(|b| b.topology.seq) != before;
        rest = if progress { REST } else { (rest * 2).min(REST_MAX) };
        tokio::select! {
            () = lifecycle.drain().cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}
