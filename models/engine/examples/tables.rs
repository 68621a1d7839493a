//! Times models of tables: CPU time of this thread for one call of one row, and of as many as the engine runs at once.
//!
//! `models/engine/tests/trees/time.py FOLDER` makes models and rows, and times ONNX Runtime on them in the same way; then
//! `cargo run --release -p meridian-engine --example tables -- FOLDER/*.onnx`.
#![allow(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a measurement, not a service"
)]

use std::path::Path;

use engine::{graph::Graph, onnx};
use proto::manifest::DataType;
use proto::oip::Tensor;

/// Rows that each measurement goes through.
const ROWS: usize = 3200;
/// Passes over all rows for one figure: the kernel counts a thread's time in ticks of some milliseconds.
const PASSES: usize = 20;
/// Figures of which the median is shown.
const FIGURES: usize = 9;

fn main() {
    for path in std::env::args().skip(1) {
        let path = Path::new(&path);
        let bytes = std::fs::read(path).expect("the model can be read");
        let rows = std::fs::read(path.with_file_name("rows.f32")).expect("`rows.f32` lies beside the model");
        let graph = Graph::new(onnx::decode(&bytes).expect("an ONNX file")).expect("a graph that the engine plans");
        for batch in [1, 32] {
            let micros = median(&graph, &rows, batch);
            println!("{}, batch {batch}: {micros:.1} us", path.display());
        }
    }
}

/// The median of the CPU time of one call, in microseconds.
fn median(graph: &Graph, rows: &[u8], batch: usize) -> f64 {
    let row_bytes = rows.len() / ROWS;
    let calls: Vec<[Tensor; 1]> = rows
        .chunks_exact(row_bytes * batch)
        .map(|data| {
            [Tensor {
                name: graph.inputs()[0].name.clone(),
                datatype: DataType::Fp32,
                shape: vec![batch, row_bytes / 4],
                data: data.to_vec(),
            }]
        })
        .collect();
    let count = f64::from(u32::try_from(calls.len() * PASSES).expect("few calls"));
    let mut figures: Vec<f64> = (0..FIGURES)
        .map(|_| {
            let start = thread_micros();
            for call in std::iter::repeat_n(&calls, PASSES).flatten() {
                std::hint::black_box(graph.run(call).expect("the model runs"));
            }
            (thread_micros() - start) / count
        })
        .collect();
    figures.sort_by(f64::total_cmp);
    figures[FIGURES / 2]
}

/// CPU time of this thread so far.
fn thread_micros() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells a thread's time");
    let nanos = text.split(' ').next().and_then(|first| first.parse::<f64>().ok());
    nanos.expect("nanoseconds") / 1e3
}
