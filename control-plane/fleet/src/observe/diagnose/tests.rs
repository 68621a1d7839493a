use std::fmt::Write;
use std::time::Duration;

use proptest::prelude::*;
use proto::usage::{UsageLine, Used};

use super::*;
use crate::observe::series;

/// A node at ease, ten seconds apart: 1,000 requests of 5 ms.
const AT_EASE: &[(&str, f64)] = &[
    ("edge_request_seconds_count", 1_000.0),
    ("edge_request_seconds_sum", 5.0),
    ("edge_stage_seconds_sum{stage=\"route\"}", 1.0),
    ("edge_stage_seconds_sum{stage=\"queue\"}", 1.0),
    ("edge_stage_seconds_sum{stage=\"exec\"}", 2.0),
    ("edge_stage_seconds_sum{stage=\"encode\"}", 1.0),
    ("edge_requests_total{outcome=\"Answered\"}", 1_000.0),
    ("edge_engine_busy_seconds_total", 2.0),
    ("process_cpu_seconds_total", 4.0),
];
/// How it is, whenever asked.
const STANDING: &[(&str, f64)] = &[
    ("process_resident_memory_bytes", 1e8),
    ("machine_memory_bytes", 1e10),
    ("machine_memory_available_bytes", 5e9),
    ("machine_cpu_cores", 2.0),
];

fn sample(values: &[(&str, f64)], at: Instant, engine_us: u64) -> Sample {
    let mut text = String::new();
    for (name, value) in values {
        writeln!(text, "{name} {value}").unwrap();
    }
    let line = |model: &str, engine_us| UsageLine {
        model: model.parse().unwrap(),
        tenant: None,
        used: Used {
            engine_us,
            ..Used::default()
        },
    };
    Sample {
        at,
        series: series::read(&text),
        usage: UsagePage {
            since: 0,
            now: 0,
            engine_threads: 2,
            lines: vec![line("small", 1), line("large", engine_us)],
        },
    }
}

/// The verdict on a node at ease but for `odd`.
fn with(odd: &[(&str, f64)]) -> Diagnosis {
    let began = runtime::clock::instant();
    let mut after: Vec<(&str, f64)> = [AT_EASE, STANDING].concat();
    after.retain(|(name, _)| odd.iter().all(|(other, _)| other != name));
    after.extend(odd);
    let before = sample(STANDING, began, 0);
    of(
        &"eu-fra/n1".parse().unwrap(),
        &before,
        &sample(&after, began + Duration::from_secs(10), 1_000_000),
    )
}

#[test]
fn a_node_at_ease_has_no_bottleneck_and_its_stages_are_told() {
    let d = with(&[]);
    assert_eq!((d.bottleneck, d.findings.len()), (None, 0), "{:?}", d.findings);
    assert!((d.answered_per_s - 100.0).abs() < 1e-6 && (d.mean_ms - 5.0).abs() < 1e-6);
    assert!((d.stages[3].share - 0.4).abs() < 1e-9 && d.stages[3].stage == "exec");
}

#[test]
fn each_shortage_is_named_for_what_it_is() {
    let many = ("edge_requests_total{outcome=\"QueueFull\"}", 500.0);
    for (odd, named) in [
        (&[("edge_device_out_of_use", 1.0)][..], Resource::Device),
        (
            &[
                ("edge_device_stand_in_runs_total", 7.0),
                ("process_resident_memory_bytes", 9.5e9),
            ],
            Resource::Device,
        ),
        (&[("process_resident_memory_bytes", 9.5e9)], Resource::Memory),
        (&[("node_pressure_memory_waiting_seconds_total", 2.0)], Resource::Memory),
        (&[("node_pressure_io_waiting_seconds_total", 3.0)], Resource::Disk),
        (&[("edge_cache_dropped_total", 7.0)], Resource::Disk),
        (
            &[
                ("edge_engine_busy_seconds_total", 19.0),
                ("process_cpu_seconds_total", 19.5),
                many,
            ],
            Resource::Cpu,
        ),
        (&[("node_pressure_cpu_waiting_seconds_total", 6.0)], Resource::Cpu),
        (&[("edge_stage_seconds_sum{stage=\"queue\"}", 3.0)], Resource::Queue),
        (&[many], Resource::Queue),
        (&[("edge_stage_seconds_sum{stage=\"route\"}", 3.0)], Resource::Network),
        (&[("edge_stage_seconds_sum{stage=\"exec\"}", 4.0)], Resource::Model),
    ] {
        let d = with(odd);
        assert_eq!(d.bottleneck, Some(named), "{odd:?}: {:?}", d.findings);
    }
}

#[test]
fn the_model_that_takes_the_engine_is_named() {
    let d = with(&[("edge_stage_seconds_sum{stage=\"exec\"}", 4.0)]);
    assert!(
        d.findings[0].evidence.contains("`large` takes 100 %"),
        "{:?}",
        d.findings
    );
}

#[test]
fn an_idle_node_and_one_that_was_started_anew_between_the_readings_are_no_trouble() {
    let began = runtime::clock::instant();
    let node: NodeId = "eu-fra/n1".parse().unwrap();
    let full: Vec<(&str, f64)> = [AT_EASE, STANDING].concat();
    for (before, after) in [(STANDING, STANDING), (&full, STANDING)] {
        let d = of(
            &node,
            &sample(before, began, 9),
            &sample(after, began + Duration::from_secs(1), 0),
        );
        assert_eq!((d.bottleneck, d.answered_per_s), (None, 0.0), "{:?}", d.findings);
    }
}

proptest! {
    #[test]
    fn no_reading_makes_a_number_that_is_none(values in prop::collection::vec(-1e12_f64..1e12, AT_EASE.len() + STANDING.len())) {
        let names = [AT_EASE, STANDING].concat();
        let odd: Vec<(&str, f64)> = names.iter().zip(values).map(|((name, _), value)| (*name, value)).collect();
        let d = with(&odd);
        prop_assert!(d.mean_ms.is_finite() && d.engine_busy.is_finite() && d.refused_share.is_finite());
    }
}
