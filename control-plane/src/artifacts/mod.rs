//! The bytes that releases are made of: taken in by chunks, kept as verified whole files, handed out by chunks.
//!
//! ```text
//!   PutChunk --> incoming (loose chunks) --+
//!                                          +--> assemble, verify --> store (files named by BLAKE3) --> index --> Chunks
//!   files of earlier releases -------------+
//! ```
//! Whole files and documents are what counts. Loose chunks are a cache of an upload that is under way, and the index
//! (sled) is made again from manifests when it is missing. Nothing is handed out that was not hashed just before.

pub mod documents;
pub mod incoming;
pub mod index;
pub mod intake;
