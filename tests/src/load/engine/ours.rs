//! Our forms of a model, and how long they take on one thread and on two.

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use engine::graph::Graph;
use engine::{onnx, preflight, quantize};
use rustix::time::{ClockId, clock_gettime};

use super::rival::Times;
use super::rows::{Call, halves};

/// Each form runs so long in each round.
pub(super) const TURN: Duration = Duration::from_millis(400);
/// One sample is at least so long, so that clocks and the meeting of threads do not count.
const SAMPLE: Duration = Duration::from_millis(1);

/// One of our forms: its file on disk, and loaded.
pub(super) struct Form {
    pub(super) name: &'static str,
    pub(super) file: PathBuf,
    pub(super) graph: Graph,
}

impl Form {
    pub(super) fn is_int8(&self) -> bool {
        self.name == "int8"
    }
}

/// f32, and int8 where anything in the model can be int8; that file is written into `scratch`.
pub(super) fn forms(file: &Path, scratch: &Path) -> Result<Vec<Form>> {
    let form = |name, file: PathBuf| -> Result<Form> {
        let graph = load(&file).with_context(|| format!("our {name}"))?;
        Ok(Form { name, file, graph })
    };
    let mut forms = vec![form("f32", file.to_owned())?];
    match quantize::weights_int8(&std::fs::read(file)?) {
        Ok(int8) => {
            let file = scratch.join("int8.onnx");
            std::fs::write(&file, int8)?;
            forms.push(form("int8", file)?);
        }
        Err(why) => eprintln!("·· no int8 of ours: {why}"),
    }
    Ok(forms)
}

/// Loads as a node does, apart from the steps around the graph.
pub(super) fn load(file: &Path) -> Result<Graph> {
    let bytes = std::fs::read(file)?;
    let model = onnx::decode(&bytes)?;
    drop(bytes);
    preflight::check(&model)?;
    Ok(Graph::new(model)?)
}

/// The time of calls on this thread.
pub(super) fn alone(graph: &Graph, calls: &[Call]) -> Result<Times> {
    let again = repeats(graph, calls)?;
    let mut times = Times::default();
    let began = now(ClockId::Monotonic);
    while times.wall.is_empty() || now(ClockId::Monotonic) - began < TURN {
        let start = Start::new(ClockId::ThreadCPUTime);
        run(graph, calls, again)?;
        start.end(&mut times, calls.len() * again);
    }
    Ok(times)
}

/// The time of the same rows, halves at once on two threads; a single row runs on both, and each run counts half.
pub(super) fn paired(graph: &Graph, calls: &[Call]) -> Result<Times> {
    let single = calls.iter().flatten().any(|tensor| tensor.shape.first() == Some(&1));
    let (first, second): (Vec<_>, Vec<_>) = calls.iter().map(halves).unzip();
    let again = repeats(graph, &first)?;
    let (meet, done) = (Barrier::new(2), AtomicBool::new(false));
    let mut times = Times::default();
    std::thread::scope(|scope| {
        // Both threads come to every meeting, also after a failure: none waits for ever.
        let other = scope.spawn(|| {
            let mut ran = Ok(());
            loop {
                meet.wait();
                if done.load(Ordering::Acquire) {
                    return ran;
                }
                ran = ran.and(run(graph, &second, again));
                meet.wait();
            }
        });
        let (mut ran, began) = (Ok(()), now(ClockId::Monotonic));
        loop {
            let enough = !times.wall.is_empty() && now(ClockId::Monotonic) - began >= TURN;
            done.store(enough || ran.is_err(), Ordering::Release);
            let start = Start::new(ClockId::ProcessCPUTime);
            meet.wait();
            if done.load(Ordering::Acquire) {
                break;
            }
            ran = run(graph, &first, again);
            meet.wait();
            start.end(&mut times, calls.len() * again * if single { 2 } else { 1 });
        }
        ran.and(other.join().expect("`Graph::run` gives panics as errors"))
    })?;
    Ok(times)
}

/// How often all calls are run for one sample.
fn repeats(graph: &Graph, calls: &[Call]) -> Result<usize> {
    let start = now(ClockId::Monotonic);
    run(graph, calls, 1)?;
    let once = (now(ClockId::Monotonic) - start).as_micros().max(1);
    Ok(usize::try_from(SAMPLE.as_micros().div_ceil(once))?)
}

fn run(graph: &Graph, calls: &[Call], times: usize) -> Result<()> {
    for call in std::iter::repeat_n(calls, times).flatten() {
        graph.run(call)?;
    }
    Ok(())
}

fn now(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// Both clocks at the start of a sample.
struct Start {
    clock: ClockId,
    cpu: Duration,
    wall: Duration,
}

impl Start {
    fn new(clock: ClockId) -> Self {
        let (cpu, wall) = (now(clock), now(ClockId::Monotonic));
        Self { clock, cpu, wall }
    }

    /// Adds this sample of `calls` calls.
    fn end(self, times: &mut Times, calls: usize) {
        let share = f64::from(u32::try_from(calls).unwrap_or(u32::MAX));
        times
            .wall
            .push((now(ClockId::Monotonic) - self.wall).as_secs_f64() * 1e6 / share);
        times.cpu.push((now(self.clock) - self.cpu).as_secs_f64() * 1e6 / share);
    }
}
