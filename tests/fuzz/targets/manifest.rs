//! Signed documents: manifests, plans, reports, states and views, as they arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::manifest::Manifest;
use proto::plan::{Plan, ReadyReport};
use proto::region_state::{RegionState, RouterView};
use proto::signed::Document;

fuzz_target!(|data: &[u8]| {
    let _ = Manifest::decode(data);
    let _ = Plan::decode(data);
    let _ = ReadyReport::decode(data);
    let _ = RegionState::decode(data);
    let _ = RouterView::decode(data);
});
