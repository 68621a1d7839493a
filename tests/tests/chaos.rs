//! Parts of a real fleet are killed at random moments of publishing and rolling out.
//!
//! Goal: whatever is killed whenever, all regions converge to one digest, no request sees an unverified or half-loaded
//! model, and the log verifies. Method: seeded rounds; each publishes a new version and rolls it out while one of control
//! plane, node and publisher is killed with SIGKILL after a random time, and started again. 50 rounds at
//! `MERIDIAN_SCALE=full`, 2 otherwise; the seed is printed.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use fleet::dev::layout::{Folders, NODES, REGIONS};
use fleet::dev::smoke::{MODEL, SAMPLE};
use fleet::dev::world::World;
use meridian_tests::fleet::next_version;
use meridian_tests::scale;
use meridian_tests::seed::{self, Chance};
use tokio::process::{Child, Command};

/// A killed part's moment lies within this.
const ROUND_MS: u64 = 4_000;
/// Longest time for a publisher whose counterpart was killed, on a machine that has other things to do.
const PUBLISHER_MAX: Duration = Duration::from_secs(180);

fn publisher(world: &World, round: u64) -> Child {
    // What a release engineer's script does: publish, then roll the new version out.
    let fleet = world.program("fleet");
    let home = world.folders.home();
    let script = "release=$(\"$FLEET\" --json publish magika --description \"round $ROUND\" | \
                  sed -n 's/.*\"release\": *\"\\([^\"]*\\)\".*/\\1/p') && \
                  exec \"$FLEET\" rollout start \"$release\" >/dev/null";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .env("FLEET", fleet)
        .env("FLEET_HOME", home)
        .env("ROUND", round.to_string());
    command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    command.spawn().expect("sh runs")
}

/// Kills the publisher's whole group: the shell and whichever `fleet` it runs.
fn kill_group(child: &Child) {
    let Some(pid) = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(rustix::process::Pid::from_raw)
    else {
        return;
    };
    rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).ok();
}

async fn round(world: &mut World, number: u64, chance: &mut Chance) {
    let mut publisher = publisher(world, number);
    tokio::time::sleep(Duration::from_millis(chance.below(ROUND_MS))).await;
    match chance.below(3) {
        0 => {
            world.kill_control().await.expect("the control plane runs");
            world
                .start_control()
                .await
                .expect("the control plane comes back from its log");
        }
        1 => {
            let nodes = u64::try_from(NODES.len()).expect("four nodes");
            let node = &NODES[usize::try_from(chance.below(nodes)).expect("a small number")];
            world.kill_node(node.id).await.expect("the node runs");
            world.start_node(node).await.expect("the node comes back from its disk");
        }
        _ => kill_group(&publisher),
    }
    // What was cut may have failed; it must only leave nothing half done.
    tokio::time::timeout(PUBLISHER_MAX, publisher.wait())
        .await
        .expect("the publisher ends")
        .expect("it was waited for");
}

/// Every answer that a client gets must be an answer of a published release, or a refusal that says so.
async fn watch_answers(world: &World) -> impl Future<Output = u64> + use<> {
    let client = world
        .through_router(REGIONS[2].client, "world")
        .expect("the dev tenant exists");
    async move {
        let mut answered = 0_u64;
        loop {
            let Ok(answer) = client.infer(MODEL, &Bytes::from_static(SAMPLE.as_bytes())).await else {
                continue;
            };
            if answer.status.is_success() {
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                assert!(
                    answer.header("meridian-model").starts_with("magika@"),
                    "an answer without a release: {text}"
                );
                assert!(text.contains("python"), "a wrong answer: {text}");
                answered += 1;
            }
            tokio::task::yield_now().await;
            if answered == u64::MAX {
                return answered;
            }
        }
    }
}

#[test]
fn killed_at_any_moment_the_fleet_converges_to_one_digest_and_its_log_verifies() {
    let seed = seed::from_env(20_261_122);
    let rounds = scale::pick(2, 50);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut world = World::up(Folders::new(folder.path()).expect("folders"), false, |_| {})
            .await
            .expect("the fleet starts");
        next_version(&world, "before the storm")
            .await
            .expect("the model is served");
        let mut chance = Chance::new(seed);
        let mut watching = tokio::task::JoinSet::new();
        watching.spawn(watch_answers(&world).await);
        for number in 0..rounds {
            round(&mut world, number, &mut chance).await;
            assert!(
                watching.try_join_next().is_none(),
                "seed {seed}, round {number}: a request saw what it must not"
            );
        }
        let release = next_version(&world, "after the storm")
            .await
            .expect("the fleet still changes");
        let deadline = runtime::clock::instant() + Duration::from_secs(30);
        let digest = loop {
            match world.one_digest(MODEL, SAMPLE).await {
                Ok(digest) if digest.starts_with(&format!("{release} ")) => break digest,
                other if runtime::clock::instant() > deadline => panic!("seed {seed}: not converged: {other:?}"),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        watching.abort_all();
        let home = fleet::home::Home::open(&world.folders.home()).expect("the operator's home");
        let copy = tempfile::tempdir().expect("a temporary folder");
        let size = fleet::export::log(&home, copy.path())
            .await
            .expect("the log can be copied");
        fleet::audit::verify_log(copy.path(), &home.trust.log_vkey, None).expect("the log verifies");
        println!("seed {seed}: {rounds} kills, all nodes on {digest}, {size} log entries verify");
        world.down().await.expect("all parts stop");
    });
}
