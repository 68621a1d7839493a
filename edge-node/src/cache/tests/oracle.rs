//! Random lives of a cache, watched by somebody who remembers everything.
//!
//! Goal: whatever is asked, landed late, published, rolled back, purged, erased, restarted or killed in whatever order, no
//! answer is given that is another tenant's, person's, release's or question's, that is past its time, or that began
//! before its owner's last purge. Method: every run of a model writes its serial number into its answer, so each answer
//! that is given says which run it is of, and what was known of that run can be looked up. Which things happen is drawn
//! from a seed and the number of the step.
//!
//! `MERIDIAN_SCALE=full cargo test -p edge-node --lib oracle -- --nocapture` takes a million steps; `MERIDIAN_SEED` another
//! course.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::FutureExt;
use proto::ids::TenantId;
use proto::purge::Subject;

use super::super::*;
use super::erase::copied;
use super::{landed, metrics};
use crate::cache::flight::{Flight, Waiter};
use crate::serving::ModelSlot;
use crate::testing::{fp32, slot};

const TENANTS: usize = 3;
const MODELS: usize = 3;
/// The last stands for no person.
const SUBJECTS: usize = 4;
const QUESTIONS: usize = 4;
const VERSIONS: usize = 3;
/// Runs under way at once.
const AIR_MAX: usize = 48;
/// Keys that are used again long after they were made.
const OLD_MAX: usize = 32;

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(below).unwrap()).unwrap()
    }
}

/// A question, by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    tenant: usize,
    model: usize,
    subject: usize,
    question: usize,
    version: usize,
}

/// A run of a model.
#[derive(Clone, Copy, Debug)]
struct Run {
    of: Asked,
    began: u64,
    /// When its answer was kept.
    landed: Option<UnixMs>,
}

struct Airborne {
    key: Key,
    flight: Flight,
    serial: usize,
    /// Who waits: the step before which all runs were forgotten when they asked.
    waiting: Vec<(Waiter, u64)>,
}

#[derive(Debug, Default)]
struct Seen {
    memory: u64,
    disk: u64,
    joined: u64,
    ran: u64,
    late: u64,
    purges: u64,
    restarts: u64,
    after_restart: u64,
}

/// What a purge names: tenant, model, person; `None` where it is left out.
type Purge = (Option<usize>, Option<usize>, Option<usize>);

struct World {
    folder: tempfile::TempDir,
    results: Results,
    now: Arc<AtomicU64>,
    tenants: Vec<TenantId>,
    models: Vec<ModelName>,
    subjects: Vec<Option<Subject>>,
    slots: Vec<Vec<Arc<ModelSlot>>>,
    versions: Vec<usize>,
    runs: Vec<Run>,
    air: Vec<Airborne>,
    old: Vec<(Key, Asked)>,
    /// The step of the last purge of each scope.
    purged: HashMap<Purge, u64>,
    step: u64,
    seen: Seen,
    since_restart: u64,
}

fn ttl() -> Ttl {
    Ttl {
        results: Duration::from_secs(60),
        embeddings: Duration::from_secs(300),
        models: HashMap::from([("m2".parse().unwrap(), Duration::from_secs(120))]),
    }
}

fn opened(folder: &tempfile::TempDir, now: &Arc<AtomicU64>) -> Results {
    let config = CacheConfig {
        memory_bytes: 10_000,
        rows_bytes: 10_000,
        disk_bytes: 600_000,
        ttl: ttl(),
        folder: folder.path().join("results"),
    };
    let now = Arc::clone(now);
    Results::by(&config, &metrics(), Arc::new(move || now.load(Ordering::SeqCst)))
}

/// A question's number as what is asked.
fn number(question: usize) -> f32 {
    f32::from(u16::try_from(question).unwrap())
}

/// What the run `serial` of a model gives: model 1 embeds.
fn answer(model: usize, serial: usize) -> Vec<Tensor> {
    let mut tensor = fp32(if model == 1 { "embedding" } else { "label" }, &[2], &[0.0; 2]);
    tensor.data = u64::try_from(serial).unwrap().to_le_bytes().to_vec();
    vec![tensor]
}

fn serial(outputs: &[Tensor]) -> usize {
    usize::try_from(u64::from_le_bytes(outputs[0].data.as_slice().try_into().unwrap())).unwrap()
}

impl World {
    fn new() -> Self {
        let (folder, now) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(1_000_000_000)));
        let models: Vec<ModelName> = (0..MODELS).map(|n| format!("m{n}").parse().unwrap()).collect();
        let versions = 1..=u32::try_from(VERSIONS).unwrap();
        let slots = |model: &ModelName| versions.clone().map(|v| slot(model.as_str(), v)).collect();
        Self {
            results: opened(&folder, &now),
            folder,
            now,
            tenants: (0..TENANTS).map(|n| format!("t{n}").parse().unwrap()).collect(),
            subjects: (0..SUBJECTS)
                .map(|n| (n + 1 < SUBJECTS).then(|| format!("p{n}").parse().unwrap()))
                .collect(),
            slots: models.iter().map(slots).collect(),
            models,
            versions: vec![0; MODELS],
            runs: Vec::new(),
            air: Vec::new(),
            old: Vec::new(),
            purged: HashMap::new(),
            step: 0,
            seen: Seen::default(),
            since_restart: 0,
        }
    }

    fn key(&self, of: Asked) -> Key {
        let asker = Asker {
            tenant: &self.tenants[of.tenant],
            subject: self.subjects[of.subject].as_ref(),
        };
        let input = fp32("x", &[1, 1], &[number(of.question)]);
        self.results
            .key(asker, &self.slots[of.model][of.version], &[], "", &[input])
    }

    /// The step of the last purge that covered `of`.
    fn floor(&self, of: Asked) -> u64 {
        let (t, m, s) = (Some(of.tenant), Some(of.model), Some(of.subject));
        let scopes = [
            (None, None, None),
            (None, m, None),
            (t, None, None),
            (t, m, None),
            (t, None, s),
        ];
        scopes
            .iter()
            .filter_map(|scope| self.purged.get(scope))
            .copied()
            .max()
            .unwrap_or(0)
    }

    /// Whether `outputs` may be given to somebody who asks `of`, who knows that all from before `floor` is forgotten.
    fn check(&self, outputs: &[Tensor], of: Asked, floor: u64, kept: bool) {
        let run = &self.runs[serial(outputs)];
        assert_eq!(run.of, of, "an answer to another question, release, person or tenant");
        assert!(run.began > floor, "{run:?} is from before the purge at step {floor}");
        if kept {
            let (ttl, now) = (ttl(), self.now.load(Ordering::SeqCst));
            let ttl = [ttl.results, ttl.embeddings, ttl.models[&self.models[2]]][of.model];
            let landed = run.landed.expect("nobody can have kept what has not landed");
            assert!(now < landed + ms(ttl), "{run:?} is past its time at {now}");
        }
    }

    /// Asks as the ingress does.
    fn ask(&mut self, of: Asked, at_once: bool) {
        let (key, floor) = (self.key(of), self.floor(of));
        if self.old.len() < OLD_MAX {
            self.old.push((key, of));
        }
        if let Some(outputs) = self.results.in_memory(&key) {
            self.check(&outputs, of, floor, true);
            self.seen.memory += 1;
            return;
        }
        let (flight, waiter) = match self.results.board(&key, clock::instant()) {
            Boarding::Follow(waiter) => {
                let mut air = self.air.iter_mut();
                let leader = air.find(|other| other.key.name == key.name).expect("somebody leads");
                leader.waiting.push((waiter, floor));
                self.seen.joined += 1;
                return;
            }
            Boarding::Lead(flight, waiter) => (flight, waiter),
        };
        if let Some(outputs) = self.results.on_disk(&key) {
            self.check(&outputs, of, floor, true);
            self.seen.disk += 1;
            self.seen.after_restart += u64::from(self.since_restart < 200);
            flight.land_kept(landed(&outputs));
            return;
        }
        let serial = self.runs.len();
        self.runs.push(Run {
            of,
            began: self.step,
            landed: None,
        });
        self.seen.ran += 1;
        let waiting = vec![(waiter, floor)];
        self.air.push(Airborne {
            key,
            flight,
            serial,
            waiting,
        });
        if at_once {
            self.land(self.air.len() - 1);
        } else if self.air.len() > AIR_MAX {
            self.land(0);
        }
    }

    fn land(&mut self, at: usize) {
        let Airborne {
            flight,
            serial,
            waiting,
            ..
        } = self.air.remove(at);
        let run = &mut self.runs[serial];
        run.landed = Some(self.now.load(Ordering::SeqCst));
        let of = run.of;
        self.seen.late += u64::from(run.began + 10 < self.step);
        flight.land(landed(&answer(of.model, serial)));
        for (waiter, floor) in waiting {
            let told = waiter.now_or_never().expect("it has landed").unwrap();
            self.check(&told.outputs, of, floor, false);
        }
    }

    fn ask_by_an_old_key(&mut self, at: usize) {
        let (key, of) = self.old.swap_remove(at);
        let floor = self.floor(of);
        let found = self.results.in_memory(&key).or_else(|| self.results.on_disk(&key));
        if let Some(outputs) = found {
            self.check(&outputs, of, floor, true);
        }
    }

    fn purge(&mut self, chance: &mut Chance) {
        let (t, m, s) = (chance.below(TENANTS), chance.below(MODELS), chance.below(SUBJECTS - 1));
        let (tenant, model) = (&self.tenants[t], &self.models[m]);
        let subject = self.subjects[s].as_ref().unwrap();
        let (scope, name) = match chance.below(20) {
            0 => (Scope::All, (None, None, None)),
            1..4 => (Scope::Model(model), (None, Some(m), None)),
            4..8 => (Scope::Tenant(tenant), (Some(t), None, None)),
            8..13 => (Scope::TenantModel(tenant, model), (Some(t), Some(m), None)),
            _ => (Scope::Subject(tenant, subject), (Some(t), None, Some(s))),
        };
        self.results.purge(scope).unwrap();
        self.purged.insert(name, self.step);
        self.seen.purges += 1;
    }

    /// Lets time pass, in milliseconds.
    fn pass(&self, ms: usize) {
        self.now.fetch_add(u64::try_from(ms).unwrap(), Ordering::SeqCst);
    }

    /// Ends the process, in order or as a kill does, and starts it again.
    fn restart(&mut self, killed: bool) {
        self.air.clear();
        self.old.clear();
        if killed {
            let folder = tempfile::tempdir().unwrap();
            copied(self.folder.path(), folder.path());
            self.results.close();
            self.results = opened(&folder, &self.now);
            self.folder = folder;
        } else {
            self.results.close();
            // The folder is locked until nobody holds it any more.
            let (elsewhere, now) = (tempfile::tempdir().unwrap(), Arc::clone(&self.now));
            self.results = opened(&elsewhere, &now);
            self.results = opened(&self.folder, &now);
        }
        self.seen.restarts += 1;
        self.since_restart = 0;
    }

    fn step(&mut self, seed: u64) {
        self.step += 1;
        self.since_restart += 1;
        let mut chance = Chance(seed ^ self.step.wrapping_mul(0xd134_2543_de82_ef95));
        match chance.below(2_000) {
            0 => self.restart(chance.below(2) == 0),
            1..25 => self.purge(&mut chance),
            25..40 => self.versions[chance.below(MODELS)] = chance.below(VERSIONS),
            40..100 => self.pass(chance.below(2_000)),
            100..102 => self.pass(chance.below(200_000)),
            102..110 if !self.air.is_empty() => drop(self.air.swap_remove(chance.below(self.air.len()))),
            110..300 if !self.air.is_empty() => self.land(chance.below(self.air.len())),
            300..350 if !self.old.is_empty() => self.ask_by_an_old_key(chance.below(self.old.len())),
            _ => {
                let model = chance.below(MODELS);
                let of = Asked {
                    tenant: chance.below(TENANTS),
                    model,
                    subject: chance.below(SUBJECTS),
                    question: chance.below(QUESTIONS),
                    version: self.versions[model],
                };
                self.ask(of, chance.below(4) > 0);
            }
        }
    }
}

#[test]
fn no_course_of_events_gives_a_stale_a_foreign_or_a_forgotten_answer() {
    let full = std::env::var("MERIDIAN_SCALE").is_ok_and(|scale| scale == "full");
    let seed = std::env::var("MERIDIAN_SEED").ok().and_then(|seed| seed.parse().ok());
    let (seed, steps) = (seed.unwrap_or(20_261_124), if full { 1_000_000 } else { 20_000 });
    println!("seed {seed}, {steps} steps");
    let mut world = World::new();
    for _ in 0..steps {
        world.step(seed);
    }
    println!("{:?}", world.seen);
    let Seen {
        memory,
        disk,
        joined,
        late,
        purges,
        restarts,
        after_restart,
        ..
    } = world.seen;
    assert!(
        [memory, disk, joined, late, purges, restarts, after_restart]
            .iter()
            .all(|&times| times >= steps / 20_000),
        "the course was too tame to show anything: {:?}",
        world.seen
    );
    assert!(
        (memory + disk) * 4 > steps,
        "too few answers were given again to show anything"
    );
}

/// Goal: the same when everything happens at once. Method: each answer carries how many purges had begun when its run
/// began; whoever starts to ask after the n-th purge ended must not be given one of a run from before it began.
#[test]
fn threads_that_ask_during_purges_are_given_nothing_from_before_a_purge_that_had_ended() {
    let folder = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicU64::new(1_000_000_000));
    let results = opened(&folder, &now);
    let (tenant, model): (TenantId, _) = ("t0".parse().unwrap(), slot("m0", 1));
    let (begun, ended, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let ask = |question: usize| {
        let known = ended.load(Ordering::SeqCst);
        let asker = Asker {
            tenant: &tenant,
            subject: None,
        };
        let key = results.key(asker, &model, &[], "", &[fp32("x", &[1, 1], &[number(question)])]);
        let outputs = match results.in_memory(&key) {
            Some(outputs) => outputs,
            None => match results.board(&key, clock::instant()) {
                Boarding::Follow(waiter) => match futures_util::FutureExt::now_or_never(waiter) {
                    Some(Ok(told)) => told.outputs,
                    _ => return false,
                },
                Boarding::Lead(flight, _waiter) => {
                    let outputs = results.on_disk(&key).unwrap_or_else(|| {
                        let began = usize::try_from(begun.load(Ordering::SeqCst)).unwrap();
                        Arc::new(answer(0, began))
                    });
                    flight.land(landed(&outputs));
                    outputs
                }
            },
        };
        assert!(
            u64::try_from(serial(&outputs)).unwrap() >= known,
            "from before a purge that had ended"
        );
        true
    };
    std::thread::scope(|threads| {
        for first in 0..3 {
            let (ask, over) = (&ask, &over);
            threads.spawn(move || {
                let mut question = first;
                while !over.load(Ordering::SeqCst) {
                    ask(question % 8);
                    question += 1;
                }
            });
        }
        for _ in 0..150 {
            begun.fetch_add(1, Ordering::SeqCst);
            results.purge(Scope::Tenant(&tenant)).unwrap();
            ended.fetch_add(1, Ordering::SeqCst);
            while !ask(0) {}
        }
        over.store(true, Ordering::SeqCst);
    });
}
