//! How large a test runs: small where every change waits for it, full where somebody asked.

/// `MERIDIAN_SCALE=full` runs the counts that the project promises; otherwise a small share of them.
#[must_use]
pub fn is_full() -> bool {
    std::env::var("MERIDIAN_SCALE").is_ok_and(|scale| scale == "full")
}

/// `full` where that was asked for, else `ci`.
#[must_use]
pub fn pick<T>(ci: T, full: T) -> T {
    if is_full() { full } else { ci }
}
