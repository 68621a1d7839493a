//! How Meridian's parts start, stop, identify themselves and reach each other.
//!
//! Read in this order: a part reads its file ([`config`]), starts its [`telemetry`] and [`metrics`], loads who it is
//! ([`identity`]), opens its doors ([`quic`] to the other parts, [`https`] to everybody), runs its loops
//! ([`reconcile`]) and stops in order ([`lifecycle`]). The time of day comes from [`clock`] and from nowhere else.
//!
//! Nothing here knows what a model, region state or rollout is.

pub mod background;
pub mod clock;
pub mod lifecycle;
pub mod reconcile;

pub mod config;
pub mod metrics;
pub mod telemetry;

pub mod identity;

pub mod https;
pub mod quic;
