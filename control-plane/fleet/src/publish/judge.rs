//! Judging the int8 form by inputs that it was not made with: f32 answers them, int8 is held against that.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use engine::LoadedModel;
use models::golden::Vector;
use models::golden::judging::{self, Bounds, Figures, Questions};
use proto::ids::ContentHash;
use proto::oip::Tensor;

use super::calibrate::read_bounded;

/// Where judging inputs come from, and what they must show.
#[derive(Clone, Debug)]
pub struct Judge {
    /// The file.
    pub path: PathBuf,
    /// Who made it and of what.
    pub from: String,
    /// What the int8 form must show.
    pub bounds: Bounds,
}

/// Judging inputs that were read.
#[derive(Debug)]
pub struct Bench {
    questions: Questions,
    from: String,
    bounds: Bounds,
}

/// What judging showed.
#[derive(Clone, Debug)]
pub struct Judged {
    /// In figures.
    pub figures: Figures,
    /// What was judged by: where the inputs come from, and their digest.
    pub by: String,
    /// What the figures miss, each in a sentence.
    pub missed: Vec<String>,
}

impl Judge {
    /// Reads the inputs. The int8 form is `settled` on its golden vectors and calibration inputs.
    ///
    /// # Errors
    /// The file does not read, is too long, or asks what the form was settled on.
    pub fn read(&self, settled: &[Vector]) -> Result<Bench> {
        let path = self.path.display();
        let bytes = read_bounded(&self.path)?;
        let questions = judging::read(&bytes).with_context(|| path.to_string())?;
        if let Some(line) = judging::same_as_golden(&questions, settled) {
            bail!(
                "{path}, line {line} asks what the golden vectors or the calibration inputs ask, on which the int8 form was settled: judge by other inputs"
            );
        }
        Ok(Bench {
            questions,
            from: format!("{}, {}", self.from, ContentHash::of(&bytes)),
            bounds: self.bounds,
        })
    }
}

impl Bench {
    /// Has both forms answer everything.
    ///
    /// # Errors
    /// A form does not answer a line, or they answer in different forms.
    pub(super) fn judge(&self, f32: &LoadedModel, int8: &LoadedModel) -> Result<Judged> {
        let figures = match &self.questions {
            Questions::Plain(lines) => {
                let asked: Vec<_> = lines.iter().collect();
                let (f32, int8) = at_once(|| answers(f32, &asked), || answers(int8, &asked))?;
                judging::figures(&f32, &int8)
            }
            Questions::Pairs(lines) => {
                let (queries, found): (Vec<_>, Vec<_>) = lines.iter().map(|(query, answer)| (query, answer)).unzip();
                let both = |model| Ok::<_, anyhow::Error>([answers(model, &queries)?, answers(model, &found)?]);
                let (f32, int8) = at_once(|| both(f32), || both(int8))?;
                judging::figures_of_pairs(&f32, &int8)
            }
        };
        let figures = figures.map_err(anyhow::Error::msg).context("judging inputs")?;
        Ok(Judged {
            figures,
            by: self.from.clone(),
            missed: self.bounds.missed(&figures),
        })
    }
}

/// Both answer at the same time: nothing is timed here, and somebody waits.
fn at_once<T: Send>(f32: impl FnOnce() -> Result<T> + Send, int8: impl FnOnce() -> Result<T>) -> Result<(T, T)> {
    std::thread::scope(|scope| {
        let f32 = scope.spawn(f32);
        let int8 = int8();
        let f32 = f32.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((f32.context("the f32 form")?, int8.context("the int8 form")?))
    })
}

fn answers(model: &LoadedModel, asked: &[&Vec<Tensor>]) -> Result<Vec<Vec<Tensor>>> {
    let answer = |(at, inputs): (usize, &&Vec<Tensor>)| {
        let answer = model.run(inputs);
        answer.with_context(|| format!("judging inputs, line {}", at + 1))
    };
    asked.iter().enumerate().map(answer).collect()
}

/// The figures in a sentence.
#[must_use]
pub fn said(figures: &Figures) -> String {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let mut said = Vec::new();
    if let (Some(lowest), Some(mean)) = (figures.cosine_min, figures.cosine_mean) {
        said.push(format!(
            "cosine to f32 {lowest:.5} at the lowest, {mean:.5} in the mean"
        ));
    }
    if let Some(share) = figures.top1_share {
        said.push(format!("top-1 agrees with f32 in {}", percent(share)));
    }
    if let Some(share) = figures.sure_top1_share {
        let rows = figures.sure_rows;
        said.push(format!(
            "in {} of the {rows} in which f32 is at least 0.5 sure",
            percent(share)
        ));
    }
    if let Some(recall) = figures.recall {
        let [f32, int8] = recall.shares().map(percent);
        said.push(format!("recall@1 of {} pairs: f32 {f32}, int8 {int8}", recall.pairs));
    }
    format!("{} rows: {}", figures.rows, said.join("; "))
}

#[cfg(test)]
mod tests {
    use models::golden::judging::Recall;

    use super::*;

    #[test]
    fn the_sentence_holds_the_figures_that_there_are() {
        let figures = Figures {
            rows: 640,
            cosine_min: Some(0.9971),
            cosine_mean: Some(0.9992),
            recall: Some(Recall {
                pairs: 320,
                found_by_f32: 160,
                found_by_int8: 161,
            }),
            ..Figures::default()
        };
        assert_eq!(
            said(&figures),
            "640 rows: cosine to f32 0.99710 at the lowest, 0.99920 in the mean; recall@1 of 320 pairs: f32 50.0 %, int8 50.3 %"
        );
    }

    #[test]
    fn inputs_that_the_golden_vectors_hold_are_refused_by_their_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let input = r#""inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]"#;
        std::fs::write(file.path(), format!("{{{input}}}\n")).unwrap();
        let output = r#""outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[1]}]"#;
        let golden = models::golden::read(format!("{{{input},{output}}}").as_bytes()).unwrap();
        let judge = Judge {
            path: file.path().to_owned(),
            from: "a test".to_owned(),
            bounds: Bounds::default(),
        };
        assert!(judge.read(&[]).is_ok());
        let error = judge.read(&golden).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("other inputs"), "{error}");
    }
}
