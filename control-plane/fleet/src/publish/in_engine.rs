//! What the engine itself runs: the f32 model, which a child process has proven by now, and the int8 form made of it.
//!
//! Both are timed here, in one process and in turn. The int8 form needs no child: it is our own rewriting of a model that
//! passed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use engine::measure::{Loaded, Times, in_turn};
use models::golden::Vector;
use proto::manifest::{Measured, Variant};

use super::calibrate::{Calibrate, Samples};
use super::int8::{Form, NEXT, NoForm, Wish, Workbench, checks_of_accepted, objections};
use super::judge::Judged;
use super::make::{CLASS, Package, own, refused, variant};
use super::source::{Source, int8_checks_for};

const INT8: &str = "cpu-int8";
const INT8_FILE: &str = "model-int8.onnx";

/// The f32 variant after its check.
pub(super) struct Proven {
    pub(super) variant: Variant,
    /// Without times.
    pub(super) measured: Measured,
    pub(super) bytes: u64,
}

/// Offers the f32 form, and the int8 form unless something speaks against it that the publisher does not accept.
pub(super) fn offer(
    package: &mut Package,
    source: &Source,
    parent: Proven,
    work: &Path,
    golden: &[Vector],
) -> Result<()> {
    let checks = source.int8_checks.clone();
    let checks = checks.map_or_else(|| int8_checks_for(golden), Ok)?;
    let int8 = variant(INT8, CLASS, INT8_FILE, own("s8-weights-u8-rows"), checks)?;
    let samples = source.calibrate.as_ref().map(Calibrate::read);
    let samples = samples.transpose()?.unwrap_or_default();
    let settled = [golden, &samples.vectors].concat();
    let judge = source.judge.as_ref().map(|judge| judge.read(&settled));
    let judge = judge.transpose()?;
    let loaded = Loaded::new(&package.manifest, &parent.variant, &package.package_files(), golden)?;
    let (form, times) = match made(package, source, &int8, work, golden, (&samples, &loaded)) {
        Ok((form, child)) => {
            let times = in_turn(&[&loaded, &child], golden)?;
            let judged = judge.map(|judge| judge.judge(&loaded.model, &child.model));
            (Ok((form, judged.transpose()?)), times)
        }
        Err(NoForm::Model(why)) => (Err(why), in_turn(&[&loaded], golden)?),
        Err(error @ NoForm::Machine(_)) => return Err(error.into()),
    };
    package.offer(parent.variant, times[0].of(parent.measured), parent.bytes);
    match form {
        Ok((form, judged)) => {
            let tried = Tried {
                form,
                calibrated: Some(samples.by).filter(|by| !by.is_empty()),
                judged,
                times: [times[0], times[1]],
            };
            settle(package, source.int8, int8, tried, work)
        }
        Err(why) => {
            package.trials.push(refused(int8.id, 0, None, why));
            Ok(())
        }
    }
}

/// The int8 form, in its file and loaded.
fn made(
    package: &Package,
    source: &Source,
    int8: &Variant,
    work: &Path,
    golden: &[Vector],
    (samples, parent): (&Samples, &Loaded),
) -> Result<(Form, Loaded), NoForm> {
    if source.int8 == Wish::None {
        return Err(NoForm::Model("none was made, as --no-int8 asks".to_owned()));
    }
    let onnx = fs::read(&source.model.1)?;
    let mut files = package.package_files();
    files.insert(INT8_FILE, work.join(INT8_FILE));
    let calibration = samples.gather(&onnx, &parent.model);
    let calibration = calibration.map_err(|error| NoForm::Model(format!("{error:#}")))?;
    let bench = Workbench {
        onnx: &onnx,
        manifest: &package.manifest,
        variant: int8,
        files: &files,
        path: work.join(INT8_FILE),
        golden,
        calibration: &calibration,
    };
    let form = bench.make()?;
    let loaded = Loaded::new(&package.manifest, int8, &files, golden)?;
    Ok((form, loaded))
}

/// The int8 form and what it showed.
struct Tried {
    form: Form,
    calibrated: Option<String>,
    judged: Option<Judged>,
    /// Of f32 and of int8.
    times: [Times; 2],
}

/// Offers the int8 form or says why not.
fn settle(package: &mut Package, wish: Wish, mut int8: Variant, tried: Tried, work: &Path) -> Result<()> {
    let Tried {
        form,
        calibrated,
        judged,
        times,
    } = tried;
    let [parent, own] = times;
    let measured = own.of(form.measured);
    let mut against = objections(&form.agreement, parent, own);
    against.extend(judged.iter().flat_map(|judged| judged.missed.clone()));
    let against = against.join("; ");
    let checks = if form.agreement.passed() {
        Some(int8.checks.clone())
    } else {
        checks_of_accepted(&form.agreement)
    };
    let accepted = against.is_empty() || wish == Wish::Accept;
    let Some(checks) = checks.filter(|_| accepted) else {
        let why = if accepted {
            format!("{against}; its answers are no numbers, so nothing could hold a node to them")
        } else {
            format!("{against}; {NEXT}")
        };
        let mut trial = refused(int8.id, form.bytes, Some(measured), why);
        trial.kept = form.kept;
        trial.calibrated = calibrated;
        trial.judged = judged;
        package.trials.push(trial);
        return Ok(());
    };
    int8.checks = checks;
    package
        .add(INT8_FILE, &work.join(INT8_FILE))
        .context("add the int8 variant")?;
    package.offer(int8, measured, form.bytes);
    if let Some(trial) = package.trials.last_mut() {
        trial.accepted = Some(against).filter(|against| !against.is_empty());
        trial.kept = form.kept;
        trial.calibrated = calibrated;
        trial.judged = judged;
    }
    Ok(())
}
