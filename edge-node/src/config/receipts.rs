//! What an operator says of receipts.

use std::path::PathBuf;

use runtime::config::ConfigError;

use super::within;
use crate::receipt::ReceiptsConfig;

runtime::config_file! {
    /// Signed promises with answers, kept in a log of this node.
    #[derive(PartialEq)]
    #[serde(default)]
    pub struct ReceiptsFile {
        /// Receipts whose text is kept, about 700 bytes each, to 1000000000; of older ones the hash stays, 32 bytes each, and
        /// whoever has the promise can prove it still. With 0 none are given.
        pub kept: u64 = optional 1_000_000,
        /// Gives one with each answer to who does not say `?0`, while the log can be written. Answers in gRPC streams and those of
        /// jobs have none.
        pub unasked: bool = optional false,
    }
}

impl Default for ReceiptsFile {
    fn default() -> Self {
        Self {
            kept: 1_000_000,
            unasked: false,
        }
    }
}

/// Checks the table; `None` where none are given.
pub(super) fn checked(file: &ReceiptsFile, folder: PathBuf) -> Result<Option<ReceiptsConfig>, ConfigError> {
    within("receipts.kept", file.kept, 0, 1_000_000_000)?;
    Ok((file.kept > 0).then_some(ReceiptsConfig {
        kept: file.kept,
        unasked: file.unasked,
        folder,
    }))
}
