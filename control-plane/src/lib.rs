//! The control plane: it keeps the fleet's one history and tells every region what follows from it.
//!
//! ```text
//!   people ----> distribute ----> ledger ----> log (fsynced tiles)
//!  (signed        | chunks          |
//!   commands)     v                 | snapshot: the log, folded
//!              artifacts            v
//!                 |   evidence   rollout ----> ledger      (steps, activations, completions)
//!                 |      ^          |
//!                 |  registry       v
//!                 |      ^        state ----> signed region states, router views
//!                 v      |          v
//!              nodes and routers follow, fetch, report
//! ```
//! It is never on the request path: while it is down, nodes and routers go on with what they last accepted. What it
//! knows is the log and the artifact store; all else is made again from these two, or asked for again.
//!
//! Read in this order: how it starts ([`app`], [`config`]); the history ([`ledger`], over [`models::log`]); the bytes
//! ([`artifacts`]); who gets what ([`state`], [`rollout`], [`registry`]); and its two doors ([`distribute`] for
//! machines and publishers, [`operator`] for people's eyes).

pub mod app;
pub mod config;
pub mod metrics;

pub mod ledger;

pub mod artifacts;

pub mod registry;
pub mod rollout;
pub mod state;

pub mod distribute;
pub mod operator;
