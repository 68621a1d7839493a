//! Reading a page of metrics: OpenMetrics text, as far as a number by its name and labels goes.

use std::collections::HashMap;

/// Series that are read of one page; a node has a few hundred.
const SERIES_MAX: usize = 100_000;

/// Values by `name{label="value"}` as written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series(HashMap<String, f64>);

impl Series {
    /// The value of `name`, labels included; 0 where it is not told: counters begin there.
    #[must_use]
    pub fn get(&self, name: &str) -> f64 {
        self.told(name).unwrap_or(0.0)
    }
    /// The value of `name`, if it is told.
    #[must_use]
    pub fn told(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }
    /// The sum over all labels of `name`.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        let of = |key: &str| {
            key.strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        self.0.iter().filter(|(key, _)| of(key)).map(|(_, value)| value).sum()
    }
}

/// Reads `text`. Lines that are no series, or no finite number, are skipped.
#[must_use]
pub fn read(text: &str) -> Series {
    let line = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let value: f64 = value.parse().ok()?;
        (!name.starts_with('#') && value.is_finite()).then(|| (name.to_owned(), value))
    };
    Series(text.lines().filter_map(line).take(SERIES_MAX).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_found_by_name_and_labels() {
        let text = "# HELP a A thing.\n# TYPE a counter\na_total{x=\"1\"} 3\na_total{x=\"2\"} 4.5\nab_total 100\nnan NaN\n# EOF\n";
        let series = read(text);
        assert_eq!((series.get("a_total{x=\"2\"}"), series.sum("a_total")), (4.5, 7.5));
        assert_eq!((series.get("missing"), series.told("nan")), (0.0, None));
    }

    proptest! {
        #[test]
        fn no_page_makes_the_reader_panic(text in any::<String>()) {
            let _ = read(&text).sum("a");
        }
    }
}
