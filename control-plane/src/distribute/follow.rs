//! Streams of states and views: the newest at once, each newer one as soon as it is made.
//!
//! A slow reader skips states; it never holds up others or makes a queue grow.

use proto::message::{ErrorCode, Response};
use proto::signed::Signed;
use runtime::identity::Role;
use runtime::quic::{QuicError, Stream};

use super::{Answered, Caller, Refused, Service, forbidden, is_enrolled};
use crate::state::maker::Newest;

impl Service {
    /// Sends what is newer than `after_seq`, each with the proof that its log extends the one of `tree_size` entries or
    /// the one sent before. Ends with the connection, with the lifecycle, or when a node is revoked.
    pub(super) async fn follow(
        &self,
        caller: &Caller,
        stream: &mut Stream,
        mut newest: Newest,
        (mut after_seq, mut tree_size): (u64, u64),
        answer: fn(Signed, Vec<[u8; 32]>) -> Response,
    ) -> Result<Answered, QuicError> {
        let mut log = self.ledger.changes();
        loop {
            if let Role::Node(node) = &caller.role
                && !is_enrolled(&log.borrow_and_update().fleet, node, caller.key)
            {
                return Ok(Err(forbidden("this node was revoked")));
            }
            let made = newest.borrow_and_update().clone();
            if let Some(made) = made.filter(|made| made.seq > after_seq) {
                let proof = match self.proof(tree_size, made.epoch).await {
                    Ok(proof) => proof,
                    Err(refused) => return Ok(Err(refused)),
                };
                stream.write(&answer(made.signed.clone(), proof)).await?;
                (after_seq, tree_size) = (made.seq, made.epoch);
            }
            let over = tokio::select! {
                changed = newest.changed() => changed.is_err(),
                changed = log.changed() => changed.is_err(),
                _ = caller.connection.closed() => true,
                () = self.lifecycle.drain().cancelled() => true,
            };
            if over {
                return Ok(Ok(()));
            }
        }
    }

    /// That the log at `to` extends the log at `from`.
    pub(super) async fn proof(&self, from: u64, to: u64) -> Result<Vec<[u8; 32]>, Refused> {
        let epoch = self.ledger.snapshot().fleet.epoch;
        if from > to || to > epoch {
            let message = format!(
                "no proof from {from} to {to} entries: this log has {epoch}; compare checkpoints with `fleet log verify`"
            );
            return Err(Refused {
                code: ErrorCode::NotFound,
                message,
            });
        }
        if from == 0 || from == to {
            return Ok(Vec::new());
        }
        let ledger = self.ledger.clone();
        let proof = tokio::task::spawn_blocking(move || ledger.consistency(from, to)).await;
        match proof {
            Ok(Ok(proof)) => Ok(proof),
            Ok(Err(error)) => Err(super::answer::failed(&error)),
            Err(error) => Err(super::answer::failed(&error)),
        }
    }
}
