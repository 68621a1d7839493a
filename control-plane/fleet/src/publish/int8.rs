//! The int8 form of a model: made, brought within its checks by weights that stay f32, and held against its parent.

use std::collections::BTreeSet;
use std::path::PathBuf;

use engine::measure::{self, MeasureError, Times};
use engine::quantize::keep::{Attempt, Kept, fewest};
use engine::quantize::{Calibration, QuantizeError, weights, weights_int8_but};
use engine::{PackageFiles, load};
use models::golden::{Agreement, Vector, Verdict};
use proto::manifest::{Check, Manifest, Measured, Variant};

use super::propose::SLOWER_PERCENT_MAX;

/// What the publisher wants of int8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Offered where it is close enough and no slower.
    #[default]
    Offer,
    /// Offered wherever it runs.
    Accept,
    /// Not made.
    None,
}

/// What to say to somebody whose int8 form is not offered.
pub(super) const NEXT: &str = "--accept-int8 offers it all the same, --no-int8 makes none";

/// Why there is no int8 form.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoForm {
    /// The model has none, or its form does not run.
    #[error("{0}")]
    Model(String),
    /// This machine could not keep it.
    #[error("write the int8 variant")]
    Machine(#[from] std::io::Error),
}

impl From<QuantizeError> for NoForm {
    fn from(error: QuantizeError) -> Self {
        Self::Model(error.to_string())
    }
}

impl From<MeasureError> for NoForm {
    fn from(error: MeasureError) -> Self {
        Self::Model(error.to_string())
    }
}

/// What a form is made of and held against.
pub(super) struct Workbench<'a> {
    /// The f32 file.
    pub(super) onnx: &'a [u8],
    pub(super) manifest: &'a Manifest,
    /// The int8 variant, and the package's files with its own among them, at `path`.
    pub(super) variant: &'a Variant,
    pub(super) files: &'a PackageFiles,
    pub(super) path: PathBuf,
    pub(super) golden: &'a [Vector],
    pub(super) calibration: &'a Calibration,
}

/// A form that ran; its file lies at the workbench's path.
pub(super) struct Form {
    pub(super) bytes: u64,
    /// Without times.
    pub(super) measured: Measured,
    pub(super) agreement: Agreement,
    /// Which weights stayed f32, where not all could be coded.
    pub(super) kept: Option<Kept>,
}

impl Workbench<'_> {
    /// The form with the most weights in int8 that is within its checks; where none is, the last that was tried.
    pub(super) fn make(&self) -> Result<Form, NoForm> {
        let whole = self.attempt(&BTreeSet::new())?;
        if whole.agreement.passed() {
            return Ok(whole);
        }
        let kept = fewest(&weights(self.onnx)?, |keep| match self.attempt(keep) {
            // Where a single weight is all there is, nothing is left to code.
            Err(NoForm::Model(_)) => Ok(NO_FORM),
            Err(error) => Err(error),
            Ok(form) => Ok(Attempt {
                passed: form.agreement.passed(),
                error: form.agreement.squared_error,
            }),
        })?;
        let form = self.attempt(&kept.names())?;
        let kept = Some(kept).filter(|kept| !kept.weights.is_empty());
        Ok(Form { kept, ..form })
    }

    fn attempt(&self, keep: &BTreeSet<String>) -> Result<Form, NoForm> {
        let small = weights_int8_but(self.onnx, keep, self.calibration)?;
        std::fs::write(&self.path, &small)?;
        let model = load(self.manifest, self.variant, self.files).map_err(MeasureError::Load)?;
        let (measured, agreement) = measure::untimed(&model, self.variant, self.golden)?;
        Ok(Form {
            bytes: u64::try_from(small.len()).unwrap_or(u64::MAX),
            measured,
            agreement,
            kept: None,
        })
    }
}

const NO_FORM: Attempt = Attempt {
    passed: false,
    error: f64::INFINITY,
};

/// Why int8 should not stand in its parent's place, each with its figures; empty where nothing speaks against it.
pub(super) fn objections(agreement: &Agreement, parent: Times, own: Times) -> Vec<String> {
    let mut found: Vec<String> = failed_checks(agreement).into_iter().collect();
    if u64::from(own.row_us) * 100 > u64::from(parent.row_us) * (100 + SLOWER_PERCENT_MAX) {
        found.push(format!(
            "a row takes {} us where f32 takes {} us, measured in turn: {:.0} % slower, allowed is {SLOWER_PERCENT_MAX} %",
            own.row_us,
            parent.row_us,
            (f64::from(own.row_us) / f64::from(parent.row_us.max(1)) - 1.0) * 100.0
        ));
    }
    found
}

/// The checks that failed, in a sentence.
fn failed_checks(agreement: &Agreement) -> Option<String> {
    let say = |v: &Verdict| match v.check {
        Check::Close { abs, rel } => {
            format!(
                "only {:.2} % of the numbers are within {abs} + {rel} of theirs",
                v.figure * 100.0
            )
        }
        Check::Cosine { min } => format!("lowest cosine {:.5}, bound {min}", v.figure),
        Check::SameTop1 { share_min } => {
            format!(
                "top-1 agrees in {:.1} % of {} rows, bound {:.1} %",
                v.figure * 100.0,
                v.judged,
                share_min * 100.0
            )
        }
    };
    let failed = agreement.verdicts.iter().filter(|v| !v.passed).map(say);
    Some(failed.collect::<Vec<_>>().join("; ")).filter(|text| !text.is_empty())
}

/// Checks that an accepted form keeps: nodes hold it to what was measured where that is less than was asked. `None` where its
/// answers are no numbers: nothing could hold it to anything.
pub(super) fn checks_of_accepted(agreement: &Agreement) -> Option<Vec<Check>> {
    /// Room for a processor that rounds in another place.
    const ROOM: f32 = 1.01;
    let loosest = |v: &Verdict| match v.check {
        _ if v.passed => v.check,
        Check::Cosine { .. } => Check::Cosine {
            min: 1.0 - (1.0 - v.figure) * ROOM,
        },
        Check::SameTop1 { .. } => Check::SameTop1 { share_min: v.figure },
        Check::Close { rel, .. } => Check::Close {
            abs: agreement.abs_max * ROOM,
            rel,
        },
    };
    let judged = agreement.verdicts.iter().filter(|v| v.judged > 0);
    let checks: Vec<Check> = judged.map(loosest).collect();
    (agreement.abs_max.is_finite() && !checks.is_empty()).then_some(checks)
}

/// Which weights stayed f32, for people.
pub(super) fn said(kept: &Kept, size: impl Fn(u64) -> String) -> String {
    let names: Vec<&str> = kept.weights.iter().map(|weight| weight.name.as_str()).collect();
    format!("{} ({} more): {}", count(kept), size(kept.bytes()), names.join(", "))
}

/// How many weights stayed f32, for the manifest.
pub(super) fn count(kept: &Kept) -> String {
    format!("{} of {} weights stay f32", kept.weights.len(), kept.of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreement(verdicts: Vec<Verdict>) -> Agreement {
        Agreement {
            cosine_min: 0.9,
            top1_share: 0.5,
            abs_max: 2.0,
            squared_error: 0.1,
            verdicts,
        }
    }

    fn verdict(check: Check, figure: f32, passed: bool) -> Verdict {
        Verdict {
            check,
            figure,
            judged: 10,
            passed,
        }
    }

    fn a_row_in(row_us: u32) -> Times {
        Times {
            row_us,
            ..Times::default()
        }
    }

    #[test]
    fn a_form_that_is_close_and_no_slower_than_noise_meets_no_objection() {
        let good = agreement(vec![verdict(Check::Cosine { min: 0.99 }, 0.995, true)]);
        assert_eq!(objections(&good, a_row_in(1000), a_row_in(1100)), Vec::<String>::new());
        let slower = objections(&good, a_row_in(1000), a_row_in(1101));
        assert!(
            slower[0].contains("1101 us") && slower[0].contains("1000 us"),
            "{slower:?}"
        );
    }

    #[test]
    fn a_form_under_its_bound_is_told_the_figure_and_the_bound() {
        let bad = agreement(vec![verdict(Check::Cosine { min: 0.99 }, 0.9, false)]);
        let found = objections(&bad, a_row_in(1000), a_row_in(100));
        assert_eq!(found, ["lowest cosine 0.90000, bound 0.99"]);
    }

    #[test]
    fn an_accepted_form_is_held_to_what_it_showed() {
        let shown = agreement(vec![
            verdict(Check::Cosine { min: 0.99 }, 0.9, false),
            verdict(Check::SameTop1 { share_min: 0.4 }, 0.5, true),
            verdict(Check::Close { abs: 0.1, rel: 0.0 }, 0.2, false),
        ]);
        let checks = checks_of_accepted(&shown).unwrap();
        assert!(matches!(checks[0], Check::Cosine { min } if (0.89..0.9).contains(&min)));
        assert_eq!(checks[1], Check::SameTop1 { share_min: 0.4 });
        assert!(matches!(checks[2], Check::Close { abs, .. } if abs > 2.0));
        let wild = Agreement {
            abs_max: f32::INFINITY,
            ..shown
        };
        assert_eq!(checks_of_accepted(&wild), None);
    }
}
