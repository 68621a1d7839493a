//! ONNX Runtime beside tract: for graphics processors, and for operators that tract lacks.
//!
//! ```text
//!   variant.numerics = onnxruntime-1.32.0+cuda/f32
//!                                  |      |
//!        this very version --------+      +-- this provider, or nothing: never the processor under this name
//! ```
//! It is C++ code of somebody else's in this process, so three have to want it: who builds the program (the cargo feature
//! `onnxruntime`), who operates the machine (a [`Library`] is made of the file that they name), and who signs the release (the
//! variant's numerics). Decision 0016 says what it costs.

#[cfg(not(feature = "onnxruntime"))]
mod absent;
#[cfg(feature = "onnxruntime")]
mod session;
mod stand_in;
#[cfg(feature = "onnxruntime")]
mod tensors;
mod version;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use proto::manifest::Variant;

#[cfg(not(feature = "onnxruntime"))]
pub(crate) use absent::Session;
#[cfg(feature = "onnxruntime")]
pub(crate) use session::Session;
pub use stand_in::stand_in;

/// Whether this program was built with the feature.
pub const BUILT_IN: bool = cfg!(feature = "onnxruntime");
/// How numerics of its variants begin.
const PREFIX: &str = "onnxruntime-";

/// Why ONNX Runtime cannot run a model here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// Built without the feature.
    #[error("this program is built without ONNX Runtime; build it with `--features onnxruntime`")]
    NotBuilt,
    /// Nobody named a library.
    #[error(
        "variant `{variant}` runs in ONNX Runtime, which is not allowed here; name its library as `engine.onnxruntime`, or plan \
         another variant for this class of nodes"
    )]
    NotAllowed {
        /// Which variant.
        variant: String,
    },
    /// The numerics say something that this build does not know.
    #[error(
        "the numerics `{numerics}` name no ONNX Runtime that this build knows; `{PREFIX}VERSION+cpu/..` and \
         `{PREFIX}VERSION+cuda/..` are known"
    )]
    Numerics {
        /// As signed.
        numerics: String,
    },
    /// The file is not there, or not what it should be.
    #[error("`{}` cannot be used as ONNX Runtime: {why}; name its `libonnxruntime.so.1.x.y`", path.display())]
    Library {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A process holds one library until it ends.
    #[error("this process runs `{}` already; start it again to use `{}`", loaded.display(), asked.display())]
    Other {
        /// What it holds.
        loaded: PathBuf,
        /// What it was asked for.
        asked: PathBuf,
    },
    /// Another version would compute other bits than those that were signed.
    #[error(
        "the variant was made with ONNX Runtime {want}, this is {found}; install {want}, or publish the model again"
    )]
    Version {
        /// As signed.
        want: String,
        /// As found.
        found: String,
    },
    /// The provider is missing in the library, or its device or driver on this machine.
    #[error("ONNX Runtime cannot use {provider} here: {why}; plan another variant for this class of nodes, or mend it")]
    Provider {
        /// Which provider.
        provider: Provider,
        /// What ONNX Runtime said.
        why: String,
    },
    /// A form for a device that nothing here can check or stand in for.
    #[error(
        "variant `{variant}` is for a graphics processor, and its release has no form of the same file with the numerics \
         `{numerics}`, by which it is checked and which answers when the device fails; publish the model again"
    )]
    NoStandIn {
        /// Which variant.
        variant: String,
        /// Of the form that is missing.
        numerics: String,
    },
    /// ONNX Runtime looked at the model and says no.
    #[error("ONNX Runtime refuses this model: {0}")]
    Refused(String),
}

/// What of ONNX Runtime does the arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The processor.
    Cpu,
    /// A graphics processor of NVIDIA.
    Cuda,
}

impl Provider {
    fn of(name: &str) -> Option<Self> {
        [Self::Cpu, Self::Cuda].into_iter().find(|p| p.to_string() == name)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// The library that an operator allowed models to run in. Holding one proves that somebody did, that the program is built for it, and that
/// the file says which version it is; nothing of it has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    path: PathBuf,
    version: String,
    sessions: NonZeroUsize,
}

impl Library {
    /// Looks at the file at `path`.
    ///
    /// # Errors
    /// [`RuntimeError::NotBuilt`], [`RuntimeError::Library`].
    pub fn at(path: &Path) -> Result<Self, RuntimeError> {
        if !BUILT_IN {
            return Err(RuntimeError::NotBuilt);
        }
        let wrong = |why: String| RuntimeError::Library {
            path: path.to_owned(),
            why,
        };
        // Absolute: a relative one would be sought beside the program first.
        let path = path.canonicalize().map_err(|e| wrong(e.to_string()))?;
        let version = version::of(&path).map_err(|e| wrong(e.to_string()))?;
        let version = version.ok_or_else(|| wrong("it names no version of ONNX Runtime".to_owned()))?;
        let sessions = NonZeroUsize::MIN;
        Ok(Self {
            path,
            version,
            sessions,
        })
    }

    /// The file that the environment names, as bindings of ONNX Runtime have it: `ORT_DYLIB_PATH`. Without the feature, none.
    #[must_use]
    pub fn in_environment() -> Option<PathBuf> {
        let named = std::env::var_os("ORT_DYLIB_PATH").filter(|path| BUILT_IN && !path.is_empty());
        named.map(PathBuf::from)
    }

    /// The same, for as many calls of one model at once; each costs a copy of the model on the processor. Without, calls of
    /// one model wait for each other.
    #[must_use]
    pub fn for_calls(self, sessions: NonZeroUsize) -> Self {
        Self { sessions, ..self }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Such as `1.32.0`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
    /// The numerics of variants that run in it: `arithmetic` is such as `f32`.
    #[must_use]
    pub fn numerics(&self, provider: Provider, arithmetic: &str) -> String {
        format!("{PREFIX}{}+{provider}/{arithmetic}", self.version)
    }
}

/// What a variant needs of ONNX Runtime, by its numerics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted<'a> {
    version: &'a str,
    pub(crate) provider: Provider,
}

impl<'a> Wanted<'a> {
    /// `None` for a variant of the engine's own.
    pub(crate) fn of(variant: &'a Variant) -> Result<Option<Self>, RuntimeError> {
        let Some(rest) = variant.numerics.strip_prefix(PREFIX) else {
            return Ok(None);
        };
        let parts = rest.split_once('/').and_then(|(runtime, _)| runtime.split_once('+'));
        let wanted = parts.and_then(|(version, name)| {
            let provider = Provider::of(name)?;
            Some(Self { version, provider })
        });
        wanted.map(Some).ok_or_else(|| RuntimeError::Numerics {
            numerics: variant.numerics.clone(),
        })
    }

    /// The library, if one is allowed and it is the very version.
    pub(crate) fn permitted<'l>(
        &self,
        variant: &Variant,
        allowed: Option<&'l Library>,
    ) -> Result<&'l Library, RuntimeError> {
        if !BUILT_IN {
            return Err(RuntimeError::NotBuilt);
        }
        let library = allowed.ok_or_else(|| RuntimeError::NotAllowed {
            variant: variant.id.to_string(),
        })?;
        if library.version == self.version {
            return Ok(library);
        }
        Err(RuntimeError::Version {
            want: self.version.to_owned(),
            found: library.version.clone(),
        })
    }
}

/// Whether a variant runs on a graphics processor.
pub(crate) fn on_device(variant: &Variant) -> bool {
    matches!(Wanted::of(variant), Ok(Some(wanted)) if wanted.provider == Provider::Cuda)
}

#[cfg(test)]
mod tests;
