//! Meridian.
pub mod log;
