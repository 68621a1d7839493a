//! What a node keeps on disk besides model files, so that it comes back as it was.
//!
//! | file | holds | lost or torn |
//! |---|---|---|
//! | `accepted.bin` | the signed state accepted last, whole, the floors it raised, and the plans that stayed in force where its own is forbidden: one atomic write | the floors survive in `floors.json`; the next state heals it, but for a model that is forbidden in it: that one is not served until a new plan |
//! | `floors.json` | the floors once more, and the checkpoint seen last | the floors survive in `accepted.bin` |
//! | `active.json` | what answers requests, by which plan and since when | models are checked and loaded afresh |
//! | `fork.json` | two checkpoints of the log that exclude each other | only people remove it |
//!
//! Nothing here is trusted when it is read back: the state's signature is checked again, files are hashed again.
//! Nothing here decides anything, and no file is ever changed in place.

mod active;
mod kept;

pub use active::{ActiveModel, ActiveModels, Held, Ready};
pub use kept::{Fork, Kept, KeptState, Restored, StoreError};
