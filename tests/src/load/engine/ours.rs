//! Our forms of a model, and how long they take on one thread and on two.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use engine::graph::Graph;
use engine::{onnx, preflight, quantize};
use kernels::Isa;
use kernels::peak::{codes, floats};
use rustix::time::{ClockId, clock_gettime};

use super::rival::{DYNAMIC, Rival, STATIC, Times};
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
        self.name.starts_with("int8")
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

/// The files that ONNX Runtime's quantizer made, in our engine.
pub(super) fn foreign(rival: &Rival) -> Result<Vec<Form>> {
    let named = [(DYNAMIC, "int8-of-ort"), (STATIC, "int8-of-ort-static")];
    let there = named
        .iter()
        .filter_map(|(form, name)| Some((*name, rival.forms.get(*form)?)));
    let loaded = there.map(|(name, file)| {
        let graph = load(file).with_context(|| format!("our engine with {}", file.display()))?;
        let file = file.clone();
        Ok(Form { name, file, graph })
    });
    loaded.collect()
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
    let mut turn = Turn::new(ClockId::ThreadCPUTime, calls.len());
    while !turn.over() {
        let start = turn.start();
        run(graph, calls, turn.passes)?;
        turn.sample(start);
    }
    Ok(turn.times)
}

/// Thousand millions of products a second that this core's multipliers do at most, of codes or of FP32; nothing where no such limit is
/// known.
pub(super) fn peak(of_codes: bool) -> Option<f64> {
    const PASSES: u32 = 1 << 18;
    let (isa, start) = (Isa::best(), now(ClockId::ThreadCPUTime));
    let products = if of_codes {
        codes(isa, PASSES)
    } else {
        floats(isa, PASSES)
    };
    let took = now(ClockId::ThreadCPUTime) - start;
    let products = products.and_then(|products| u32::try_from(products).ok());
    products.map(|products| f64::from(products) / took.as_secs_f64() / 1e9)
}

/// The time of the same rows, halves at once on two threads; a single row runs on both, and each run counts half.
pub(super) fn paired(graph: &Graph, calls: &[Call]) -> Result<Times> {
    let single = calls.iter().flatten().any(|tensor| tensor.shape.first() == Some(&1));
    let (first, second): (Vec<_>, Vec<_>) = calls.iter().map(halves).unzip();
    // What both threads do next: so many passes, or none any more.
    let (arrived, passes) = (AtomicUsize::new(0), AtomicUsize::new(1));
    let mut turn = Turn::new(ClockId::ProcessCPUTime, calls.len() * if single { 2 } else { 1 });
    std::thread::scope(|scope| {
        // Both come to every meeting, also after a failure: none waits for ever.
        let other = scope.spawn(|| {
            let (mut ran, mut side) = (Ok(()), Side::new(&arrived));
            loop {
                side.meet();
                match passes.load(Ordering::Acquire) {
                    0 => return ran,
                    passes => ran = ran.and(run(graph, &second, passes)),
                }
                side.meet();
            }
        });
        let (mut ran, mut side) = (Ok(()), Side::new(&arrived));
        loop {
            let stop = turn.over() || ran.is_err();
            passes.store(if stop { 0 } else { turn.passes }, Ordering::Release);
            let start = turn.start();
            side.meet();
            if stop {
                break;
            }
            ran = run(graph, &first, turn.passes);
            side.meet();
            turn.sample(start);
        }
        ran.and(other.join().expect("`Graph::run` gives panics as errors"))
    })?;
    Ok(turn.times)
}

/// One of two threads that meet again and again, without sleep: a thread that is woken is put on the core of the one that
/// woke it, and a short sample is over before it is moved to one of its own.
struct Side<'a> {
    arrived: &'a AtomicUsize,
    meetings: usize,
}

impl<'a> Side<'a> {
    const fn new(arrived: &'a AtomicUsize) -> Self {
        Self { arrived, meetings: 0 }
    }

    fn meet(&mut self) {
        self.meetings += 1;
        self.arrived.fetch_add(1, Ordering::AcqRel);
        while self.arrived.load(Ordering::Acquire) < 2 * self.meetings {
            std::thread::yield_now();
        }
    }
}

fn run(graph: &Graph, calls: &[Call], passes: usize) -> Result<()> {
    for call in std::iter::repeat_n(calls, passes).flatten() {
        graph.run(call)?;
    }
    Ok(())
}

fn now(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// Samples of one turn. The first shows how many passes over all calls make a sample long enough.
struct Turn {
    times: Times,
    clock: ClockId,
    calls: usize,
    passes: usize,
    began: Duration,
}

/// CPU and wall clock at the start of a sample.
struct Start(Duration, Duration);

impl Turn {
    /// `clock` tells CPU time; a pass counts as `calls` calls.
    fn new(clock: ClockId, calls: usize) -> Self {
        Self {
            times: Times::default(),
            clock,
            calls,
            passes: 1,
            began: now(ClockId::Monotonic),
        }
    }

    fn over(&self) -> bool {
        !self.times.wall.is_empty() && now(ClockId::Monotonic) - self.began >= TURN
    }

    fn start(&self) -> Start {
        Start(now(self.clock), now(ClockId::Monotonic))
    }

    fn sample(&mut self, start: Start) {
        let (cpu, wall) = (now(self.clock) - start.0, now(ClockId::Monotonic) - start.1);
        if self.passes == 1 && wall < SAMPLE {
            let passes = SAMPLE.as_nanos() / wall.as_nanos().max(1) + 1;
            self.passes = usize::try_from(passes).unwrap_or(1 << 20);
            return;
        }
        let calls = f64::from(u32::try_from(self.calls * self.passes).unwrap_or(u32::MAX));
        self.times.cpu.push(cpu.as_secs_f64() * 1e6 / calls);
        self.times.wall.push(wall.as_secs_f64() * 1e6 / calls);
    }
}
