//! What judges the fleet as a whole.

pub mod load;
