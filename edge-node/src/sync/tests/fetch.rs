//! What a node makes of sources that break off or send other bytes, and of its own damaged files.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_was_killed_goes_on_where_it_was() {
    let (fleet, bytes) = (Fleet::new(), weights(1, 4_000_000));
    let manifest = fleet.publish("m@1", &bytes);
    fleet.plane.lock().unwrap().chunks_left = 130;
    fleet.order("m@1", manifest, 1);
    let first = fleet.node();
    fleet
        .report(|r| r.models.iter().any(|m| m.fetched_bytes > 1_000_000))
        .await;
    first.end().await;
    fleet.plane.lock().unwrap().chunks_left = usize::MAX;
    let second = fleet.node();
    second.serves("m@1").await;
    // Not what was sent: that may still go to who is gone.
    let again = second.instruments.fetched_bytes.get();
    assert!(again < 3_200_000, "{again} of 4,000,000 bytes were fetched again");
    second.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_a_source_broke_off_is_kept_however_little_it_is() {
    let (fleet, bytes) = (Fleet::new(), weights(1, 4_000_000));
    let manifest = fleet.publish("m@1", &bytes);
    fleet.plane.lock().unwrap().chunks_left = 10;
    fleet.order("m@1", manifest, 1);
    let node = fleet.node();
    let report = fleet.report(|r| r.models.iter().any(|m| m.fetched_bytes > 0)).await;
    assert!(report.models[0].fetched_bytes < 1_000_000, "{report:?}");
    fleet.plane.lock().unwrap().chunks_left = usize::MAX;
    node.serves("m@1").await;
    // The weights, and golden vectors of two bytes.
    assert_eq!(fleet.sent(), 4_000_002, "no chunk came twice");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_flipped_on_disk_is_never_loaded_but_fetched_again() {
    let (fleet, bytes) = (Fleet::new(), weights(1, 300_000));
    let manifest = fleet.publish("m@1", &bytes);
    fleet.order("m@1", manifest, 1);
    let first = fleet.node();
    first.serves("m@1").await;
    first.end().await;
    let mut spoilt = std::fs::read(fleet.file(&bytes)).unwrap();
    spoilt[1234] ^= 1;
    std::fs::write(fleet.file(&bytes), &spoilt).unwrap();
    let second = fleet.node();
    second.serves("m@1").await;
    assert_eq!(
        *second.loader.loaded.lock().unwrap(),
        [ContentHash::of(&bytes)],
        "only the right bytes were loaded"
    );
    assert_eq!(second.instruments.bad_files.get(), 1);
    assert_eq!(second.instruments.fetched_bytes.get(), 300_000);
    second.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_flipped_on_the_wire_is_refused_counted_and_asked_for_again() {
    let (fleet, bytes) = (Fleet::new(), weights(1, 300_000));
    let manifest = fleet.publish("m@1", &bytes);
    fleet.plane.lock().unwrap().spoil = 2;
    fleet.order("m@1", manifest, 1);
    let node = fleet.node();
    node.serves("m@1").await;
    assert!(node.instruments.bad_chunks.get() >= 1);
    assert_eq!(std::fs::read(fleet.file(&bytes)).unwrap(), bytes);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_only_lies_ends_in_a_refusal_and_what_serves_stays() {
    let (fleet, bytes) = (Fleet::new(), weights(1, 50_000));
    let good = fleet.publish("m@1", &bytes);
    fleet.order("m@1", good, 1);
    let node = fleet.node();
    node.serves("m@1").await;
    let next = fleet.publish("m@2", &weights(2, 50_000));
    fleet.plane.lock().unwrap().spoil = usize::MAX;
    fleet.order("m@2", next, 2);
    let report = fleet
        .report(|r| r.models.iter().any(|m| matches!(m.stage, Stage::Refused(_))))
        .await;
    let Stage::Refused(why) = &report.models[1].stage else {
        panic!("{report:?}")
    };
    assert!(why.contains("came with other bytes"), "{why}");
    assert_eq!(served(&node.serving.load()).as_deref(), Some("m@1"));
    node.end().await;
}
