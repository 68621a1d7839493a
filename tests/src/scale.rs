//! How large a test runs: small where every change waits for it, full where somebody asked.

/// How large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scale {
    /// A small share of the counts, about half a minute.
    Ci,
    /// The counts that the project promises.
    Full,
}

impl Scale {
    /// `full` where that is the scale, else `ci`.
    #[must_use]
    pub fn pick<T>(self, ci: T, full: T) -> T {
        match self {
            Self::Ci => ci,
            Self::Full => full,
        }
    }
}

/// `MERIDIAN_SCALE=full` runs the counts that the project promises; otherwise a small share of them.
#[must_use]
pub fn is_full() -> bool {
    std::env::var("MERIDIAN_SCALE").is_ok_and(|scale| scale == "full")
}

/// `full` where that was asked for, else `ci`.
#[must_use]
pub fn pick<T>(ci: T, full: T) -> T {
    let scale = if is_full() { Scale::Full } else { Scale::Ci };
    scale.pick(ci, full)
}
