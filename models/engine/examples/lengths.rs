//! Times a model of token ids by the rows of a run and their length: CPU time of this thread, microseconds.
//!
//! `cargo run --release -p meridian-engine --example lengths -- FILE [int8]`; `int8` quantizes the weights first.
#![allow(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a measurement, not a service"
)]

use engine::graph::Graph;
use engine::{onnx, quantize};
use proto::oip::Tensor;

/// Rows and tokens a row.
const RUNS: [(usize, usize); 17] = [
    (1, 4),
    (1, 8),
    (1, 16),
    (1, 27),
    (1, 32),
    (1, 64),
    (1, 81),
    (1, 128),
    (1, 178),
    (2, 16),
    (4, 16),
    (8, 16),
    (2, 27),
    (3, 27),
    (8, 27),
    (2, 64),
    (4, 64),
];
/// Figures of which the median is shown.
const FIGURES: usize = 15;

fn main() {
    let mut args = std::env::args().skip(1);
    let mut file = std::fs::read(args.next().expect("a model's file")).expect("it can be read");
    if args.next().as_deref() == Some("int8") {
        file = quantize::weights_int8(&file).expect("weights that can be int8");
    }
    let graph = Graph::new(onnx::decode(&file).expect("an ONNX file")).expect("a graph that the engine plans");
    for (rows, tokens) in RUNS {
        let call = call(&graph, rows, tokens);
        let mut figures: Vec<f64> = (0..FIGURES)
            .map(|_| {
                let start = thread_micros();
                std::hint::black_box(graph.run(&call).expect("the model runs"));
                thread_micros() - start
            })
            .collect();
        figures.sort_by(f64::total_cmp);
        let median = figures[FIGURES / 2];
        let per = median / f64::from(u32::try_from(rows * tokens).expect("few tokens"));
        println!("{rows:>2} rows of {tokens:>3}: {median:>8.0} us, {per:>6.1} a token");
    }
}

/// Ids, a mask of ones, types of zeros, by what their names hold.
fn call(graph: &Graph, rows: usize, tokens: usize) -> Vec<Tensor> {
    let value = |name: &str, at: usize| match name {
        name if name.contains("mask") => 1,
        name if name.contains("type") => 0,
        _ => 1000 + at * 7919 % 20_000,
    };
    let inputs = graph.inputs().iter().map(|spec| Tensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape: vec![rows, tokens],
        data: (0..rows * tokens)
            .flat_map(|at| u64::try_from(value(&spec.name, at)).expect("small").to_le_bytes())
            .collect(),
    });
    inputs.collect()
}

fn thread_micros() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    std::time::Duration::try_from(time)
        .expect("it only grows")
        .as_secs_f64()
        * 1e6
}
