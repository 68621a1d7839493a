//! Content-addressed model packages: how a release's bytes are cut, stored, proven and judged.
//!
//! Read in this order: a file becomes chunks ([`chunk`]); bytes get to disk and stay whole ([`durable`], [`store`]);
//! what lies there is proven before it is used ([`verify`]); and a variant's answers are held against the golden
//! vectors of its package ([`golden`]).
//!
//! The logs that say which packages run, and what they answered, lie on disk as [`log`] writes them.
//!
//! Only [`durable`], [`store`], [`log`] and [`verify`] touch the disk, and they block: async callers put them on their own threads.
//! Nothing here opens a socket, reads a clock or runs a model.

pub mod chunk;
pub mod durable;
pub mod log;
pub mod store;
pub mod verify;

pub mod golden;
