//! What the parts of Meridian say to each other, and what they sign.
//!
//! Everything here is pure: no socket, disk, clock or random number. `now` is always an argument.
//! Read in this order: names ([`ids`]) and bounds ([`limits`]), the documents people sign
//! ([`manifest`], [`plan`]), what the control plane signs ([`region_state`]), the log that holds
//! both together ([`entry`], [`merkle`], [`tile`], [`note`], [`proof`]) and what nodes write into logs of their own
//! ([`receipt`]), the wire between parts ([`frame`],
//! [`message`]), the protocol that end users speak ([`oip`], and [`jobs`] for answers that they fetch later) and what people
//! are shown ([`status`], [`usage`]).

pub mod ids;
pub mod limits;

pub mod manifest;
pub mod plan;
pub mod region_state;
pub mod signed;

pub mod entry;
pub mod merkle;
pub mod note;
pub mod proof;
pub mod tile;

pub mod receipt;

pub mod frame;
pub mod jobs;
pub mod message;
pub mod oip;
pub mod purge;
pub mod status;
pub mod usage;
