//! Sends each client to the nearest healthy node that may lawfully answer.
//!
//! ```text
//!   control plane --QUIC--> snapshot --+                       +--> http  (proxy, 307, explain)
//!                                      +--> steering::decide --+
//!   nodes <--------HTTPS--- probe -----+    (regions::pick)    +--> dns   (A, AAAA with client subnet)
//! ```
//! The decision is `regions::steer::pick`; everything here either feeds it or carries it out. With the control plane dead
//! the router goes on by the last view it has on disk. It never sends a request outside its tenant's boundary, also when
//! nothing inside is up: then it refuses.

pub mod config;

pub mod gossip;
pub mod metrics;
pub mod probe;
pub mod snapshot;
pub mod steering;

pub mod dns;
pub mod http;

pub mod app;
