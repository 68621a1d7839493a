//! The view that the router steers by: followed from the control plane, believed only if proven, kept on disk.
//!
//! ```text
//!   control plane --QUIC--> accept(): signature, seq, epoch, log consistency --> disk --> steering
//!                              | refused: counted, logged; the view before stays
//!   start: disk --> the same signature check --> steering, before the first connection is made
//! ```
//! A view that has expired is still steered by: nodes check for themselves what they serve. It is shown as stale.

mod accept;
mod follow;
mod store;

pub use accept::{Believed, Refused, accept};
pub use follow::{Follower, follow};
pub use store::{Store, StoreError};
