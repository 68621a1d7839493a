//! What is measured, side by side with what it is to be compared with, in one run.

pub mod engine;
pub mod node;
pub mod serving;

use std::fmt::Write;

use serde::Serialize;

/// One figure. Its JSON form is stable: `docs/performance.md` and CI read it.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Which suite measured it.
    pub suite: &'static str,
    /// What was measured.
    pub name: String,
    /// Ours.
    pub value: f64,
    /// Of both values.
    pub unit: &'static str,
    /// What ours stands beside, if anything.
    pub rival: Option<&'static str>,
    /// Theirs, in the same run.
    pub rival_value: Option<f64>,
    /// Ours by theirs.
    pub ratio: Option<f64>,
}

impl Figure {
    /// A figure that stands alone.
    #[must_use]
    pub fn alone(suite: &'static str, name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            suite,
            name: name.into(),
            value,
            unit,
            rival: None,
            rival_value: None,
            ratio: None,
        }
    }
    /// The same, beside what was measured of `rival` in this run.
    #[must_use]
    pub fn beside(self, rival: &'static str, value: f64) -> Self {
        Self {
            rival: Some(rival),
            rival_value: Some(value),
            ratio: Some(self.value / value),
            ..self
        }
    }
}

/// Figures for people, one a line.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    // Cosines differ in their last digits, times in their first.
    let shown = |value: f64| {
        if value.abs() < 10.0 {
            format!("{value:.5}")
        } else {
            format!("{value:.1}")
        }
    };
    let mut text = format!(
        "{:<10} {:<52} {:>12} {:<5} {:<28} {:>6}\n",
        "suite", "name", "value", "unit", "beside", "ratio"
    );
    for f in figures {
        let rival = f.rival.zip(f.rival_value);
        let rival = rival.map_or_else(String::new, |(name, v)| format!("{name}: {}", shown(v)));
        let ratio = f.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let (value, unit) = (shown(f.value), f.unit);
        let line = format!(
            "{:<10} {:<52} {value:>12} {unit:<5} {rival:<28} {ratio:>6}",
            f.suite, f.name
        );
        let _ = writeln!(text, "{}", line.trim_end()); // to a String
    }
    text
}

/// The middle of `values`; 0 of none.
#[must_use]
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_one_json_object_of_seven_keys() {
        let figure = Figure::alone("serving", "x", 3.0, "us").beside("y", 2.0);
        assert_eq!(
            serde_json::to_string(&figure).unwrap(),
            r#"{"suite":"serving","name":"x","value":3.0,"unit":"us","rival":"y","rival_value":2.0,"ratio":1.5}"#
        );
        assert!(table(&[figure]).contains("y: 2.0"));
    }
}
