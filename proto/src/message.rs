//! What the parts ask each other over QUIC. One request opens one bidirectional stream; the answer comes back on it.
//!
//! ```text
//!   node      -> control plane   Follow (answers stream on), Report, Neighbours, Manifest, Chunks, Consistency
//!   router    -> control plane   FollowView (answers stream on), Consistency
//!   publisher -> control plane   Missing, PutChunks, Publish, Command
//! ```
//! Who may ask what is decided by the role in the caller's certificate. Nothing here is trusted: chunks are checked
//! against their digest, documents against their signatures.
//!
//! Variants are numbered by their order: new ones go to the end, and a part that is answered by an error or by the end of
//! the stream does without.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{ContentHash, ModelName, ModelVersion, NodeId};
use crate::signed::Signed;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A node asks for its region's state, now and whenever it changes or is renewed. Answer: [`Response::State`]s.
    Follow {
        /// The newest `seq` it holds; nothing older is sent.
        after_seq: u64,
        /// Size of the log it has seen; each answer proves that its checkpoint extends that one.
        tree_size: u64,
    },
    /// A router asks for the view it steers by. Answer: [`Response::View`]s.
    FollowView {
        /// The newest `seq` it holds.
        after_seq: u64,
        /// Size of the log it has seen.
        tree_size: u64,
    },
    /// A node tells how it is. Answer: [`Response::Done`].
    Report(NodeReport),
    /// The signed manifest with this digest. Answer: [`Response::Signed`].
    Manifest(ContentHash),
    /// The signed plan with this digest. Answer: [`Response::Signed`].
    Plan(ContentHash),
    /// At most [`crate::limits::CHUNKS_PER_REQUEST_MAX`] chunks. Answer: one [`Response::Chunk`] each, in order.
    Chunks {
        /// Which ones.
        chunks: Vec<ContentHash>,
    },
    /// That the log at `to` extends the log at `from`. Answer: [`Response::Proof`].
    Consistency {
        /// Smaller tree.
        from: u64,
        /// Larger tree.
        to: u64,
    },
    /// Which of these chunks the store lacks. Answer: [`Response::Missing`].
    Missing {
        /// Asked about.
        chunks: Vec<ContentHash>,
    },
    /// Stores one chunk. Several may follow on the same stream. Answer: one [`Response::Done`] each.
    PutChunk {
        /// Its bytes; the store names it by what they hash to.
        bytes: Vec<u8>,
    },
    /// The next free version of a model. Answer: [`Response::NextVersion`].
    NextVersion(ModelName),
    /// Stores a signed manifest whose chunks are all there. Logged by the [`Request::Command`] that follows.
    /// Answer: [`Response::Done`].
    PutManifest(Signed),
    /// Stores a signed plan. Logged by the [`Request::Command`] that follows. Answer: [`Response::Done`].
    PutPlan(Signed),
    /// Appends an operator's entry to the log. Answer: [`Response::Logged`], once it is on disk.
    Command {
        /// A [`crate::entry::Leaf`] in JSON; its time is set by the control plane. It is signed for the log's present
        /// size, see [`crate::entry::command_message`] and [`Request::Checkpoint`]; another size answers
        /// [`ErrorCode::Conflict`]: ask for the checkpoint and sign again.
        leaf: String,
    },
    /// The newest checkpoint of the log. Answer: [`Response::Checkpoint`].
    Checkpoint,
    /// Where a node's refusals may point to. Answer: [`Response::Neighbours`].
    Neighbours,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// It is done and on disk.
    Done,
    /// A [`crate::region_state::RegionState`].
    State {
        /// Signed by the state key.
        state: Signed,
        /// That its checkpoint extends the tree size that was asked with, or the one sent before.
        consistency: Vec<[u8; 32]>,
    },
    /// A [`crate::region_state::RouterView`].
    View {
        /// Signed by the state key.
        view: Signed,
        /// As in [`Response::State`].
        consistency: Vec<[u8; 32]>,
    },
    /// A signed document.
    Signed(Signed),
    /// A chunk's bytes.
    Chunk {
        /// To be hashed by the reader.
        bytes: Vec<u8>,
    },
    /// Merkle hashes, RFC 6962 order.
    Proof(Vec<[u8; 32]>),
    /// Chunks the store lacks.
    Missing(Vec<ContentHash>),
    /// The version that a model's next release gets.
    NextVersion(ModelVersion),
    /// Where the entry stands.
    Logged {
        /// Its index, from 0.
        index: u64,
        /// The signed checkpoint that holds it.
        checkpoint: String,
    },
    /// A signed checkpoint, C2SP signed-note text.
    Checkpoint(String),
    /// Refused or failed. The stream ends.
    Error {
        /// What kind.
        code: ErrorCode,
        /// What, why, and what to do next. Never a path, key or payload.
        message: String,
    },
    /// Other nodes that are well, best first; at most [`crate::limits::NEIGHBOURS_MAX`].
    Neighbours(Vec<Neighbour>),
}

/// A node that another one may name to those whom it refuses. Telemetry: whoever names it compares its country with the
/// boundary of the refused, and the node itself does so again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Name.
    pub node: NodeId,
    /// Where its HTTPS ingress listens.
    pub ingress: SocketAddr,
    /// ISO 3166-1 alpha-2: where it stands.
    pub country: String,
    /// Models that it answers for.
    pub models: Vec<ModelName>,
}

/// Why an answer is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorCode {
    /// The caller's certificate does not allow it.
    Forbidden,
    /// No such document, chunk or tree size.
    NotFound,
    /// The request breaks a rule; sending it again will not help.
    Invalid,
    /// It contradicts what the log says by now: read again, decide again.
    Conflict,
    /// Too much at once: try again later.
    Busy,
    /// The fault is on the answering side.
    Internal,
}

/// How a node is. Telemetry, not evidence: only the signed reports inside count for a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The `seq` of the state it follows; 0 for none yet.
    pub seq: u64,
    /// The newest checkpoint it has seen, signed-note text.
    pub checkpoint: String,
    /// What it does with each model.
    pub models: Vec<ModelReport>,
    /// Requests in its queues.
    pub queued: u32,
    /// Why activations are stopped, if they are: a fork of the log, an expired state.
    pub stopped: Option<String>,
}

/// What a node does with one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelReport {
    /// The manifest.
    pub manifest: ContentHash,
    /// How far it is.
    pub stage: Stage,
    /// Bytes that came over the network for it so far, and how many it needed in all.
    pub fetched_bytes: u64,
    /// Bytes of the files it needs.
    pub need_bytes: u64,
    /// A signed [`crate::plan::ReadyReport`], when it is ready.
    pub ready: Option<Signed>,
}

/// How far a release is on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Bytes are coming.
    Fetching,
    /// Checked by golden vectors, loading, warming.
    Warming,
    /// Answers requests.
    Serving,
    /// It will not be served, and why.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_last_has_the_number_after_all_that_was_there() {
        let bytes = |request: &Request| postcard::to_allocvec(request).unwrap();
        assert_eq!(bytes(&Request::Checkpoint), [13]);
        assert_eq!(bytes(&Request::Neighbours), [14]);
        let told = Response::Neighbours(vec![Neighbour {
            node: "eu-fra/n2".parse().unwrap(),
            ingress: "192.0.2.7:443".parse().unwrap(),
            country: "DE".to_owned(),
            models: vec!["minilm".parse().unwrap()],
        }]);
        let bytes = postcard::to_allocvec(&told).unwrap();
        assert_eq!(bytes[..2], [11, 1]);
        assert_eq!(postcard::from_bytes::<Response>(&bytes).unwrap(), told);
    }
}
