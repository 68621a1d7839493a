//! What steps made of single rows, kept by whoever calls: a picture that is asked about again need not be decoded again.

use std::sync::Arc;

/// Keeps what a step made of a row. Whose a row is, and for how long anything is kept, is for who implements it.
pub trait KeptRows: Send + Sync {
    /// What `stage` makes of `from`, which is row `row` of the call: found, or made by `make`. Equal stages make equal bytes of equal
    /// bytes.
    ///
    /// # Errors
    /// Those of `make`, which are not kept.
    fn made(
        &self,
        row: usize,
        stage: &str,
        from: &[u8],
        make: &mut dyn FnMut() -> Result<Vec<u8>, String>,
    ) -> Result<Arc<[u8]>, String>;
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl KeptRows for Nothing {
    fn made(
        &self,
        _row: usize,
        _stage: &str,
        _from: &[u8],
        make: &mut dyn FnMut() -> Result<Vec<u8>, String>,
    ) -> Result<Arc<[u8]>, String> {
        make().map(Arc::from)
    }
}
