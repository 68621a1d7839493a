//! Follows the region's state for as long as the node runs: connect, follow, believe, and again after every end.
//!
//! A session ends at the first state that is refused, because the next one's proof would build on that one.

use std::convert::Infallible;
use std::time::Duration;

use proto::message::{ErrorCode, Request, Response};
use proto::region_state::Refused;
use proto::signed::Signed;
use runtime::clock;
use runtime::lifecycle::Lifecycle;
use runtime::quic::{Connection, QuicError};

use super::backoff::Backoff;
use super::belief::{Belief, OfferError};
use super::gossip;
use super::instruments::{ByOutcome, Instruments, Outcome};
use super::link::{DialError, Link};

/// Silence on the follow stream after which it is opened anew: a renewal comes many times as often.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// The first wait after a lost connection.
const RETRY_BASE: Duration = Duration::from_millis(200);
/// The longest.
const RETRY_CAP: Duration = Duration::from_secs(5);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("following the region's state")]
    Quic(#[from] QuicError),
    #[error(transparent)]
    Offer(#[from] OfferError),
    #[error("the control plane answered {code:?}: {message}")]
    Answer { code: ErrorCode, message: String },
    #[error("the control plane {what}")]
    Ended { what: &'static str },
}

/// The loop. It ends with the lifecycle's drain and by nothing else.
pub(super) struct Follower {
    pub(super) link: Link,
    pub(super) belief: Belief,
    pub(super) instruments: Instruments,
    pub(super) lifecycle: Lifecycle,
    pub(super) seed: u64,
}

impl Follower {
    pub(super) async fn run(self) {
        let drain = self.lifecycle.drain().clone();
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_CAP, self.seed);
        loop {
            let ended = tokio::select! {
                Err(ended) = self.session(&mut backoff) => Some(ended),
                () = drain.cancelled() => None,
            };
            if let Some(connection) = self.link.current() {
                connection.close();
            }
            self.link.set(None);
            self.instruments.connected.set(0);
            let Some(ended) = ended else { return };
            let wait = backoff.wait();
            tracing::warn!(
                error = runtime::telemetry::chain(&ended),
                wait_ms = wait.as_millis(),
                "not following"
            );
            tokio::select! {
                () = drain.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn session(&self, backoff: &mut Backoff) -> Result<Infallible, SessionEnd> {
        let connection = self.link.dial().await?;
        let (after_seq, tree_size, _) = self.belief.position();
        let mut stream = connection.open().await?;
        stream.write(&Request::Follow { after_seq, tree_size }).await?;
        stream.finish();
        self.link.set(Some(connection.clone()));
        self.instruments.connected.set(1);
        tracing::info!(peer = %connection.peer_address(), after_seq, tree_size, "following the region's state");
        loop {
            let read = tokio::time::timeout(SILENCE_MAX, stream.read::<Response>());
            let answer = tokio::select! {
                answer = read => answer.map_err(|_| SessionEnd::Ended { what: "was silent for too long" })??,
                ended = connection.closed() => return Err(ended.into()),
            };
            match answer {
                Some(Response::State { state, consistency }) => {
                    self.take(&connection, state, consistency).await?;
                    backoff.reset();
                }
                Some(Response::Error { code, message }) => return Err(SessionEnd::Answer { code, message }),
                Some(_) => {
                    return Err(SessionEnd::Ended {
                        what: "answered with something that is no state",
                    });
                }
                None => {
                    return Err(SessionEnd::Ended {
                        what: "ended the stream",
                    });
                }
            }
        }
    }

    async fn take(&self, connection: &Connection, state: Signed, proof: Vec<[u8; 32]>) -> Result<(), SessionEnd> {
        let belief = self.belief.clone();
        // The disk is waited for, so not on the threads that serve sockets.
        let offered = state.clone();
        let judged = tokio::task::spawn_blocking(move || belief.offer(&offered, &proof, clock::now_ms())).await;
        let outcome = match &judged {
            Ok(Ok(_)) => Outcome::Accepted,
            Ok(Err(OfferError::Refused(_))) => Outcome::Refused,
            _ => Outcome::Failed,
        };
        self.instruments.states.get_or_create(&ByOutcome { outcome }).inc();
        let judged = judged.map_err(|_| SessionEnd::Ended {
            what: "sent a state that could not be judged",
        })?;
        if let Err(OfferError::Refused(Refused::Inconsistent)) = &judged {
            // A checkpoint that the log signed and yet cannot prove is looked into like one from a router.
            gossip::compare_state(&self.belief, connection, &state).await;
        }
        for forbidden in judged? {
            let (release, why) = (&forbidden.release, &forbidden.why);
            tracing::error!(%release, manifest = %forbidden.manifest, %why, "refused a release; what serves goes on");
            self.instruments.refusals.inc();
        }
        let seq = self.belief.position().0;
        self.instruments.seq.set(i64::try_from(seq).unwrap_or(i64::MAX));
        tracing::info!(seq, "accepted a state");
        Ok(())
    }
}
