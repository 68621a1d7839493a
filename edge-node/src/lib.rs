//! One node of the fleet: answers inference requests in its region, from models that a signed, logged release names.
//!
//! Two rivers run through this crate and meet in one place, [`serving`]:
//!
//! ```text
//!   request -> ingress -> residency -> cache -> batch -> engine -> receipt -> answer        river 1
//!                                        |
//!                                     serving   what this node may serve right now, swapped whole
//!                                        |
//!   release -> sync -> store -> release -+                                       river 2
//! ```
//! River 1 reads the set once per request, so a request sees one consistent set of tenants and models. River 2 alone
//! publishes it. Neither calls the other.

// River 1, in the order of its water.
pub mod ingress;

pub mod residency;

pub mod cache;

pub mod batch;

pub mod engine;

pub mod receipt;

pub mod jobs;

// Where they meet.
pub mod serving;

pub mod memory;

pub mod elsewhere;

// River 2, likewise.
pub mod sync;

pub mod store;

pub mod release;

// What makes a process of them.
pub mod config;

pub mod metrics;

pub mod app;

#[cfg(test)]
mod testing;
