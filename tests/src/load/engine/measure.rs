//! One model and one number of rows: how close both sides are, and how long they take, in turn.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use engine::graph::Graph;
use models::golden::judge;

use super::ours::{Form, alone, paired, peak};
use super::rival::{Answer, DYNAMIC, F32, Rival, STATIC, Times};
use super::rows::Call;
use super::{Figure, SUITE, median};

/// How far cosines may differ and count as equal.
const SAME: f64 = 1e-5;
const THREADS: [usize; 2] = [1, 2];

/// The calls, and each side's agreement with ONNX Runtime's f32 on them.
pub(super) struct Case {
    pub(super) calls: Vec<Call>,
    ours: Vec<f64>,
    theirs: BTreeMap<String, f64>,
    /// Numbers that a call multiplies.
    products: f64,
}

impl Case {
    pub(super) fn new(forms: &[Form], rival: &mut Rival, calls: Vec<Call>) -> Result<Self> {
        let answers = rival.calls(&calls)?;
        let exact = answers.get(F32).context("ONNX Runtime's f32 answers")?;
        let close = |form: &Form| {
            let answers = calls.iter().map(|call| form.graph.run(call));
            agreement(&answers.collect::<Result<Vec<Answer>, _>>()?, exact)
        };
        Ok(Self {
            ours: forms.iter().map(close).collect::<Result<_>>()?,
            theirs: answers
                .iter()
                .map(|(form, answer)| Ok((form.clone(), agreement(answer, exact)?)))
                .collect::<Result<_>>()?,
            products: rival.products()?,
            calls,
        })
    }

    /// Figures of each of our forms, on one thread and on two; `name` gives their first part.
    pub(super) fn measure(
        &self,
        forms: &[Form],
        rival: &mut Rival,
        rounds: u32,
        name: impl Fn(&Form) -> String,
    ) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for threads in THREADS {
            let time: fn(&Graph, &[Call]) -> Result<Times> = if threads == 1 { alone } else { paired };
            let mut ours: Vec<Times> = forms.iter().map(|_| Times::default()).collect();
            let mut theirs: BTreeMap<String, Times> = BTreeMap::new();
            let mut most: Vec<Vec<f64>> = forms.iter().map(|_| Vec::new()).collect();
            for _ in 0..rounds {
                for (form, most) in forms.iter().zip(&mut most).filter(|_| threads == 1) {
                    most.extend(peak(form.is_int8()));
                }
                for (form, times) in forms.iter().zip(&mut ours) {
                    times.extend(time(&form.graph, &self.calls)?);
                }
                for (form, more) in rival.run(threads)? {
                    theirs.entry(form).or_default().extend(more);
                }
            }
            let theirs = theirs
                .into_iter()
                .map(|(form, times)| (form, times.medians()))
                .collect();
            for (((form, times), cosine), mut most) in forms.iter().zip(ours).zip(&self.ours).zip(most) {
                let name = format!("{}/t{threads}", name(form));
                let ours = times.medians();
                figures.extend(self.figures(&name, ours, &theirs, *cosine));
                if form.is_int8() {
                    figures.extend(Self::beside_int8(&name, ours, &theirs, threads));
                }
                if threads == 1 {
                    figures.extend(self.closeness(&name, form, *cosine));
                    figures.extend(self.reached(&name, ours.0, median(&mut most)));
                }
            }
        }
        Ok(figures)
    }

    fn figures(
        &self,
        name: &str,
        (cpu, wall): Medians,
        theirs: &BTreeMap<String, Medians>,
        cosine: f64,
    ) -> Vec<Figure> {
        let as_close = |form: &String| self.theirs.get(form).is_some_and(|theirs| theirs + SAME >= cosine);
        let best = |of: fn(&Medians) -> f64| {
            let close = theirs.iter().filter(|(form, _)| form.as_str() == F32 || as_close(form));
            close.map(|(_, medians)| of(medians)).fold(f64::INFINITY, f64::min)
        };
        vec![
            Figure::alone(SUITE, name, cpu, "us").beside("ort-best", best(|medians| medians.0)),
            Figure::alone(SUITE, format!("{name}/wall"), wall, "us").beside("ort-best", best(|medians| medians.1)),
        ]
    }

    /// How int8 stands beside their f32 and int8, however close that is: CPU time of one thread, wall time of two.
    fn beside_int8(name: &str, ours: Medians, theirs: &BTreeMap<String, Medians>, threads: usize) -> Vec<Figure> {
        let told = |(cpu, wall): Medians| if threads == 1 { cpu } else { wall };
        let beside = |(form, rival): (&str, &'static str)| {
            let figure = Figure::alone(SUITE, format!("{name}/{rival}"), told(ours), "us");
            Some(figure.beside(rival, told(*theirs.get(form)?)))
        };
        [(F32, "ort-f32"), (DYNAMIC, "ort-int8"), (STATIC, "ort-static")]
            .into_iter()
            .filter_map(beside)
            .collect()
    }

    /// Products a second in a call of `us`, beside the `most` that this core's multipliers do; nothing where nothing is multiplied.
    fn reached(&self, name: &str, us: f64, most: f64) -> Option<Figure> {
        let figure = Figure::alone(SUITE, format!("{name}/gmac_s"), self.products / us / 1e3, "G/s");
        (self.products > 0.0 && most > 0.0).then(|| figure.beside("peak", most))
    }

    fn closeness(&self, name: &str, form: &Form, cosine: f64) -> Vec<Figure> {
        let figure = Figure::alone(SUITE, format!("{name}/cosine"), cosine, "");
        let theirs = [(DYNAMIC, "ort-int8"), (STATIC, "ort-static")]
            .into_iter()
            .filter_map(|(theirs, rival)| Some((rival, *self.theirs.get(theirs)?)));
        let beside: Vec<Figure> = theirs
            .map(|(rival, theirs)| figure.clone().beside(rival, theirs))
            .collect();
        if form.is_int8() && !beside.is_empty() {
            beside
        } else {
            vec![figure]
        }
    }
}

/// CPU and wall time.
type Medians = (f64, f64);

impl Times {
    fn extend(&mut self, more: Self) {
        self.cpu.extend(more.cpu);
        self.wall.extend(more.wall);
    }
    fn medians(mut self) -> Medians {
        (median(&mut self.cpu), median(&mut self.wall))
    }
}

/// The lowest cosine of all rows.
fn agreement(answers: &[Answer], exact: &[Answer]) -> Result<f64> {
    let pairs = answers.iter().map(Vec::as_slice).zip(exact.iter().map(Vec::as_slice));
    Ok(f64::from(judge(&[], pairs)?.cosine_min))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_rival_is_the_fastest_of_those_that_answer_as_closely() {
        let named = |of: [(&str, f64); 3]| of.map(|(form, value)| (form.to_owned(), value));
        let case = Case {
            calls: Vec::new(),
            products: 0.0,
            ours: Vec::new(),
            theirs: named([(F32, 1.0), (DYNAMIC, 0.9), (STATIC, 0.99)]).into(),
        };
        let theirs = named([(F32, 30.0), (DYNAMIC, 5.0), (STATIC, 10.0)]).map(|(form, us)| (form, (us, us)));
        let best = |cosine| case.figures("m/int8/b1/t1", (20.0, 20.0), &theirs.clone().into(), cosine)[0].rival_value;
        assert_eq!(best(1.0), Some(30.0));
        assert_eq!(best(0.99 + SAME / 2.0), Some(10.0));
        assert_eq!(best(0.5), Some(5.0));
    }
}
