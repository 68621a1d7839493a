//! Models of tables: ensembles of decision trees, and what stands around them and around linear models.
//!
//! ```text
//!   node of the file --attributes--> lists --build--> Ensemble --walk--> sums per row --score--> labels, probabilities
//!                                          (checked)  (16 bytes a node)
//! ```
//! Pure functions: no graph, no file, no clock. [`crate::preflight`] judges a file with the same [`Trees::parse`] that
//! [`crate::ops`] runs, so what passes the judge is what is loaded.
//!
//! The judge of what is right is ONNX Runtime's CPU provider, where the standard is silent too: sums are made in `f32`, tree
//! after tree in the order of the file, and labels and scores of two classes follow its rules ([`score`]).
//!
//! Invariant: once built, every index in an ensemble is in range and every walk ends, whatever the row holds.

mod attributes;
mod build;
mod ensemble;
mod five;
mod linear;
mod parse;
mod score;
mod walk;

pub(crate) use attributes::Attributes;
pub(crate) use ensemble::Trees;
pub(crate) use linear::{LinearModel, Norm, scale};

/// Why a node of a table's model is refused; the caller names the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TreesError {
    /// Lists that describe the same things have different lengths, or one is missing.
    #[error("has {held} values in `{list}`, {wanted} are needed")]
    Length {
        list: &'static str,
        held: usize,
        wanted: String,
    },
    /// A word that the standard does not know, or that this engine does not compute.
    #[error("has the value `{value}` in `{list}`, which the engine does not know")]
    Word { list: &'static str, value: String },
    /// A number outside of what it may be.
    #[error("has {value} in `{list}`, allowed are {least} to {most}")]
    Range {
        list: &'static str,
        value: i64,
        least: i64,
        most: i64,
    },
    /// A tree that is none.
    #[error("tree {tree}: {why}")]
    Tree { tree: i64, why: String },
    /// Whole-number labels are all that answers carry beside numbers.
    #[error("labels its classes with text; train with whole numbers as classes and keep the names in a labels file")]
    TextLabels,
    /// Numbers in a precision that this engine does not compute.
    #[error("keeps `{list}` in another type than 32-bit floats; export the model with float inputs")]
    Precision { list: &'static str },
    /// Ensemble and rows do not fit.
    #[error("takes rows of at least {needed} columns, given are {given}")]
    Width { needed: usize, given: usize },
}

/// A list must be as long as the things that it describes.
fn length(list: &'static str, held: usize, wanted: usize) -> Result<(), TreesError> {
    let wrong = TreesError::Length {
        list,
        held,
        wanted: wanted.to_string(),
    };
    if held == wanted { Ok(()) } else { Err(wrong) }
}

/// A number of the file as an index below `end`.
fn index(list: &'static str, value: i64, end: usize) -> Result<usize, TreesError> {
    let wrong = TreesError::Range {
        list,
        value,
        least: 0,
        most: i64::try_from(end).unwrap_or(i64::MAX).saturating_sub(1),
    };
    usize::try_from(value).ok().filter(|at| *at < end).ok_or(wrong)
}

#[cfg(test)]
mod tests;
