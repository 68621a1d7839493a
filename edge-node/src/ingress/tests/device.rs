//! What clients see of a device that fails: answers, whose they are, and that those of one are not given as those of the other.

use super::super::*;
use super::harness::*;
use crate::engine::device::tests::{Bench, HASTY, Manner, bench_of, in_use};
use crate::testing::{slot, slot_on_device};

const PROCESSOR: &str = "onnxruntime-1.32.0+cpu/f32";
const MISS: &str = "meridian; fwd=miss";
const HIT: &str = "meridian; hit";

/// A node that serves `m` on a device, and `other` on the processor.
async fn node_on_device() -> (Node, Bench) {
    let node = Node::start().await;
    let metrics = node.ingress.0.parts.metrics.device.clone();
    let bench = bench_of(Manner::Good, HASTY, [10, 20], metrics);
    let slots = [slot_on_device("m", bench.model.clone()), slot("other", 1)];
    node.serving.publish(set(&slots));
    (node, bench)
}

impl Node {
    /// Asks for twice `value`: where the answer came from, and whose numerics it has if they are not the signed ones.
    async fn twice(&self, value: f32) -> (String, String) {
        let request = post(KEY).header("meridian-deadline-ms", 5_000);
        let got = self.send(request, "/v2/models/m/infer", row(value, 0.0)).await;
        assert_eq!(got.status, 200, "{:?}", got.body);
        let answer = got.json()["outputs"][0]["data"][0].as_f64().unwrap();
        assert!((answer - 2.0 * f64::from(value)).abs() < 1e-6);
        (
            got.header("cache-status").to_owned(),
            got.header("meridian-stand-in").to_owned(),
        )
    }
    fn device(&self) -> serde_json::Value {
        let page = serde_json::to_value(status::node(&self.ingress.0.parts)).unwrap();
        page["models"][0]["device"].clone()
    }
}

fn told(from: &str, by: &str) -> (String, String) {
    (from.to_owned(), by.to_owned())
}

/// Goal: a client whose device hangs or fails gets its answer inside its one deadline, is told whose it is, and later ones are given
/// neither's answer for the other's.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_device_costs_no_request_and_its_cache_keeps_the_two_apart() {
    for manner in [Manner::Hangs, Manner::Fails] {
        let (node, bench) = node_on_device().await;
        assert_eq!(node.twice(1.0).await, told(MISS, ""));
        bench.device.becomes(manner);
        assert_eq!(
            node.twice(1.0).await,
            told(HIT, ""),
            "what the device answered is the device's answer"
        );
        // Named by the device's numerics, answered by the processor: told, and not kept.
        assert_eq!(node.twice(2.0).await, told(MISS, PROCESSOR));
        until("the device to go out of use", || !in_use(&bench.model.standing())).await;
        // From now on questions are named by the processor's, and its answers are kept as such.
        assert_eq!(
            node.twice(1.0).await,
            told(MISS, PROCESSOR),
            "the device's own answer is another"
        );
        assert_eq!(node.twice(2.0).await, told(MISS, PROCESSOR));
        assert_eq!(node.twice(2.0).await, told(HIT, PROCESSOR));
        let device = node.device();
        assert_eq!(device["state"], "out-of-use", "{device}");
        node.until_counted("edge_device_out_of_use 1").await;
        assert!(node.engine_is_free().await, "no engine thread is inside the device");
        bench.device.becomes(Manner::Good);
        until("the device to come back", || in_use(&bench.model.standing())).await;
        assert_eq!(node.twice(1.0).await, told(HIT, ""));
        assert_eq!(
            node.twice(2.0).await,
            told(MISS, ""),
            "the processor's answer is not given as the device's"
        );
        assert_eq!(node.device(), serde_json::json!({"state": "in-use"}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_one_answer_are_all_told_whose_it_is() {
    let (node, bench) = node_on_device().await;
    bench.device.becomes(Manner::Hangs);
    let all = futures_util::future::join_all((0..64).map(|_| node.twice(3.0))).await;
    assert!(all.iter().all(|(_, by)| by == PROCESSOR), "{all:?}");
    bench.device.becomes(Manner::Good);
}

impl Node {
    /// Whether another model is answered: there is one engine thread.
    async fn engine_is_free(&self) -> bool {
        let got = self.send(post(KEY), "/v2/models/other/infer", row(1.0, 1.0)).await;
        got.status == 200
    }
}
