//! The `fleet` command: publish, roll out, inspect and audit.
//!
//! [`cli`] is what can be typed, [`commands`] does it. What the fleet is comes from its log ([`state`], checked on the way),
//! what operators say goes through [`client`], signed. [`publish`] makes releases, [`rollout`] plans, [`audit`] proves the past
//! offline. [`batch`] asks models at leisure. [`dev`] runs a whole fleet on one machine.
//!
//! There is no hidden state: all that this program knows it asks or verifies.

pub mod cli;
pub mod commands;
pub mod output;

pub mod client;
pub mod home;
pub mod state;

pub mod publish;
pub mod zoo;

pub mod export;
pub mod issue;
pub mod observe;
pub mod purge;
pub mod rollout;
pub mod show;

pub mod audit;

pub mod batch;

pub mod dev;

/// Sends warnings, and what `FLEET_LOG` asks for, to standard error.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FLEET_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
