//! What stands in front of each message of a call.

/// Length of a message's prefix.
pub const PREFIX_BYTES: usize = 5;

/// A message that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// By the call's `grpc-encoding`.
    pub compressed: bool,
    /// As it travels.
    pub bytes: usize,
}

impl Prefix {
    /// As it travels. `None` for a message of 4 GiB and more.
    #[must_use]
    pub fn encode(self) -> Option<[u8; PREFIX_BYTES]> {
        let [a, b, c, d] = u32::try_from(self.bytes).ok()?.to_be_bytes();
        Some([u8::from(self.compressed), a, b, c, d])
    }
}

/// The prefix at the beginning of `held`; `None` while it is not whole.
///
/// # Errors
/// The flag that is not one.
pub fn prefix(held: &[u8]) -> Result<Option<Prefix>, u8> {
    let Some((&[flag, a, b, c, d], _)) = held.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let compressed = match flag {
        0 => false,
        1 => true,
        other => return Err(other),
    };
    let bytes = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    Ok(Some(Prefix { compressed, bytes }))
}
