//! A release as it lies on this node's disk, and what can be done with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use engine::pack::PackedFolder;
use proto::manifest::{Manifest, Variant};

use crate::engine::Model;

/// A manifest, the form of the weights that this node runs, and where each of its files lies.
#[derive(Clone, Debug)]
pub struct Package {
    /// What the release is made of.
    pub manifest: Arc<Manifest>,
    /// The form that the signed plan fixes for this node's class.
    pub variant: Variant,
    /// By name inside the package.
    pub files: BTreeMap<String, PathBuf>,
    /// Where this node keeps what it makes of model files.
    pub packed: PackedFolder,
}

/// Turns packages into models. Both calls block and run on a thread of their own; tests have loaders without an engine.
pub trait Loader: Send + Sync + 'static {
    /// Names the build that checks and loads: what one build reproduced, another must reproduce again.
    fn build(&self) -> String;
    /// Reproduces the golden vectors with this package on this hardware, in a child process with bounds on memory and
    /// time: whatever the package does, this process lives on.
    ///
    /// # Errors
    /// Why it may not serve.
    fn check(&self, package: &Package) -> Result<(), String>;
    /// Loads and warms it in this process.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    fn load(&self, package: &Package) -> Result<Arc<dyn Model>, String>;
}
