//! Two models that push each other out of memory, over and over: what the node's process grows to.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::Figure;
use super::asked::Length;
use super::connection::Connection;
use super::embedder::requests;
use super::target::OK;
use super::{Bench, EMBEDDER, EMBEDDER_F32, NO_CACHE, SUITE};

/// Bytes of model files that may lie in memory: the f32 form alone, or the int8 form and the tiny model.
pub(super) const BYTES_MAX: u64 = 100 << 20;
/// The same with room for the int8 form beside it, which is asked all the time.
pub(super) const BYTES_BESIDE_EMBEDDER: u64 = 140 << 20;
/// After so many loads memory is taken as the process's own.
const SETTLED: u32 = 50;
/// Loading 90 MB from disk takes a fraction of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Of a node that is bound to [`BYTES_MAX`] and serves both forms.
pub(super) async fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let loads: u32 = bench.scale.pick(100, 1_000);
    eprintln!("·· memory: {loads} loads");
    let doors = [
        requests(bench, EMBEDDER, NO_CACHE, Length::Mixed)?,
        requests(bench, EMBEDDER_F32, NO_CACHE, Length::Mixed)?,
    ];
    let before = bench.ours.metric("edge_model_loads_total").await?;
    let mut connection = Connection::open(bench.ours.address).await?;
    let (mut settled, mut request) = (0.0, Vec::new());
    for n in 0..loads {
        if n == SETTLED {
            settled = bench.ours.rss_mib()?;
        }
        request.clear();
        doors[usize::from(n % 2 == 1)](u64::from(n / 2), &mut request);
        let answer = tokio::time::timeout(PATIENCE, connection.ask(&request)).await??;
        ensure!(
            answer.status == OK,
            "load {n}: {}",
            String::from_utf8_lossy(&answer.body())
        );
    }
    let (after, done) = (
        bench.ours.rss_mib()?,
        bench.ours.metric("edge_model_loads_total").await? - before,
    );
    ensure!(
        done >= f64::from(loads - 2),
        "{done} of {loads} requests had to load their model"
    );
    Ok(vec![
        Figure::alone(SUITE, format!("memory/rss_mib_after_{loads}_loads"), after, "MiB").beside("after 50", settled),
    ])
}
