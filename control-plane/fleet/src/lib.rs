//! Meridian.

pub mod audit;
