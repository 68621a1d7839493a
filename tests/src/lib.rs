//! What judges the fleet as a whole: real processes, real sockets, seeded faults.
//!
//! [`fleet`] works a dev fleet as its people would, [`link`] is a bad wire, [`keepalive`] holds connections by hand;
//! [`scale`] says how long a test may take, [`seed`] makes its chances repeatable, [`load`] measures. The whole-fleet
//! tests lie in `tests/tests/`, foreign clients and verifiers in `tests/interop/`.

pub mod fleet;
pub mod keepalive;
pub mod link;
pub mod load;
pub mod scale;
pub mod seed;
