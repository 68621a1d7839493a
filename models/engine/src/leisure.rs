//! How long work stays out of the way of short work on the same cores.
//!
//! ```text
//!       +-- it gets on, at most 3 times --+
//!       v                                 |
//!   at leisure ---patience is over, work is not--> nice         only where the system lets a thread come back
//!       +-------------work is over---------------> returned
//! ```
//! Niceness says who gets how much; how soon is another matter: a thread that wakes waits until a nice one's slice ends, about 3 ms.
//! A thread of Linux's idle class gives way at once, but beside busy cores it gets next to nothing, so nobody stays in it
//! who does not get on. A child process begins in the class of the thread that started it, and on its core.
//!
//! Giving way at once is not all. Linux gives a core to whoever has had less than their share of it. A thread that was put aside for one
//! that woke has had its share, and one of the idle class has not: so the idle one gets the core beside one that could run, and
//! keeps it until the next tick, 4 ms at 250 Hz. It has had its share in no time, but nobody looks. So somebody wakes on that
//! core all the time ([`beat`]), which puts the idle thread aside and makes the system choose again.

use std::io;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, Thread};
use std::time::Duration;

use rustix::process::getppid;
use rustix::thread::{
    CpuSet, Pid, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity, set_current_timer_slack,
};
use rustix::time::ClockId;
use thread_priority::{
    NormalThreadSchedulePolicy as Normal, ThreadId, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id, thread_schedule_policy,
};

use crate::measure::read;

/// How long work for which nobody waits leaves the cores to all else, and four times as long where it gets on: less than any child may
/// take.
pub const PATIENCE_AHEAD: Duration = Duration::from_secs(5);

/// Who gets on stays at leisure so many times as long as its patience lasts, and no longer: it keeps to one core, and others may be
/// free.
const SPELLS: u32 = 4;

/// Of a thread that waits and looks.
const STACK_BYTES: usize = 64 << 10;

/// Does `work` on this thread in what the others leave; where it waited for a core for half of `patience` or longer, with the niceness
/// `nice`: beside a busy core 5 has a quarter of one, 10 a tenth. Afterwards the thread stays as it is then. Threads that `work`
/// starts begin so, on the same core, and stay so: see [`Starter`].
pub fn at_leisure<T>(nice: i32, patience: Duration, work: impl FnOnce() -> T) -> T {
    on_one_core(nice, patience, sched_getaffinity(None).ok(), work)
}

/// Afterwards the thread may go to `cores`; where nobody knows which, it is not kept to one.
fn on_one_core<T>(nice: i32, patience: Duration, cores: Option<CpuSet>, work: impl FnOnce() -> T) -> T {
    if !lets_back(nice) {
        yield_to_others(nice);
        return work();
    }
    let worker = thread_native_id();
    let (core, over) = (Core::settle(cores), AtomicBool::new(false));
    let entered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = || {
            stand_by();
            // Who has not entered the idle class yet cannot be taken out of it.
            while !entered.load(Ordering::Acquire) {
                std::thread::park();
            }
            for _ in 0..SPELLS {
                let (began, before) = (now(), core.had());
                beat(core.number, || {
                    !over.load(Ordering::Relaxed) && now() < began + patience
                });
                if over.load(Ordering::Relaxed) {
                    return;
                }
                if core.had().is_starved(before, now().saturating_sub(began)) {
                    break;
                }
            }
            change(worker, Normal::Other);
            core.leave();
        };
        let watch = Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, watch);
        let Ok(watch) = watch else {
            core.leave();
            yield_to_others(nice);
            return work();
        };
        change(worker, Normal::Idle);
        // After the class: setting that sets this thread's niceness too.
        yield_to_others(nice);
        entered.store(true, Ordering::Release);
        watch.thread().unpark();
        let _over = Over {
            over: &over,
            watch: watch.thread(),
            core: &core,
        };
        work()
    })
}

/// Wakes on `core` every 50 us while it `goes_on`, on a thread that is for nothing else, and later where somebody has the core who is
/// not at leisure: then nobody has to be put aside. Each time takes 4 to 12 us.
pub fn beat(core: usize, goes_on: impl Fn() -> bool) {
    stand_by();
    keep_to(core);
    let _ = set_current_timer_slack(NonZeroU64::new(1));
    while goes_on() {
        std::thread::park_timeout(BEAT);
    }
}

/// Puts this thread into the batch class: when it wakes it puts aside threads at leisure, and waits for all others.
fn stand_by() {
    change(thread_native_id(), Normal::Batch);
}

/// Lets this thread have less than others, as [`yield_to_others`], and wait for its turn when it wakes: it puts aside threads at
/// leisure, and no others.
pub fn stand_back(nice: i32) {
    // The library sets a niceness with the class: the most urgent one, for a thread may always be made nicer afterwards. Without
    // privileges the niceness stays.
    let behind = ThreadSchedulePolicy::Normal(Normal::Batch);
    let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Max, behind);
    yield_to_others(nice);
}

fn now() -> Duration {
    read(ClockId::Monotonic)
}

/// Longest that one who could run waits beside one at leisure that is not inside the system.
const BEAT: Duration = Duration::from_micros(50);

/// The core that a thread keeps to while it works at leisure, so that one is enough to wake on.
struct Core {
    number: usize,
    worker: Pid,
    afterwards: Option<CpuSet>,
}

impl Core {
    /// Keeps this thread to the core that it is on.
    fn settle(afterwards: Option<CpuSet>) -> Self {
        let (number, worker) = (sched_getcpu(), gettid());
        if afterwards.is_some() {
            keep_to(number);
        }
        Self {
            number,
            worker,
            afterwards,
        }
    }
    /// What the thread has had so far; nothing where the system does not tell.
    fn had(&self) -> Had {
        let told = |file: &str| {
            let path = format!("/proc/self/task/{}/{file}", self.worker.as_raw_nonzero());
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let (times, state) = (told("schedstat"), told("stat"));
        let mut times = times.split(' ').map(|ns| Duration::from_nanos(ns.parse().unwrap_or(0)));
        Had {
            ran: times.next().unwrap_or_default(),
            waited: times.next().unwrap_or_default(),
            // After the thread's name, which may hold blanks and brackets.
            wants: state.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R')),
        }
    }
    /// Any thread may say so.
    fn leave(&self) {
        if let Some(cores) = &self.afterwards {
            let _ = sched_setaffinity(Some(self.worker), cores);
        }
    }
}

/// What the system tells of a thread.
#[derive(Clone, Copy, Debug, Default)]
struct Had {
    /// Time that it ran.
    ran: Duration,
    /// Time that it could have run, as far as that ended: a wait counts when the thread gets a core.
    waited: Duration,
    /// Whether it runs or could run now.
    wants: bool,
}

impl Had {
    /// Whether a thread for which it was `before`, `window` ago, has mostly waited for a core. Whoever waits for something else does
    /// not want one.
    fn is_starved(self, before: Self, window: Duration) -> bool {
        let half = |now: Duration, before| now.saturating_sub(before) >= window / 2;
        !half(self.ran, before.ran) && (self.wants || half(self.waited, before.waited))
    }
}

/// The system takes those of them that there are.
fn all_cores() -> CpuSet {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|core| all.set(core));
    all
}

/// Keeps this thread to one core. Where the system refuses, waking there does less good and no harm.
fn keep_to(core: usize) {
    let mut here = CpuSet::new();
    here.set(core);
    let _ = sched_setaffinity(None, &here);
}

/// Work is over, however it ends.
struct Over<'a> {
    over: &'a AtomicBool,
    watch: &'a Thread,
    core: &'a Core,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.watch.unpark();
        self.core.leave();
    }
}

/// As [`at_leisure`], in a process that was started by somebody at leisure; otherwise `work` is done like any other.
pub(crate) fn if_inherited<T>(nice: i32, patience: Duration, work: impl FnOnce() -> T) -> T {
    if is(Normal::Idle) {
        // This process was started on one core, by a thread of one that may have more.
        let cores = getppid().and_then(|parent| sched_getaffinity(Some(parent)).ok());
        on_one_core(nice, patience, Some(cores.unwrap_or_else(all_cores)), work)
    } else {
        work()
    }
}

/// Lets this thread, and processes that it starts, have less than others.
pub fn yield_to_others(nice: i32) {
    // On Linux this is the calling thread's own priority, and that of processes it starts: setpriority(2), fork(2). Where the system
    // refuses, the work is done all the same.
    let _ = rustix::process::setpriority_process(None, nice);
}

/// Starts threads that are as urgent as the one that made it, for work that may be at leisure: a thread begins in the class and with
/// the niceness of whoever starts it, and one that answers requests may not have those of whoever loads.
#[derive(Clone, Debug)]
pub struct Starter(SyncSender<Start>);

/// A thread that somebody waits for the start of.
struct Start {
    thread: Builder,
    work: Box<dyn FnOnce() + Send>,
    started: SyncSender<io::Result<()>>,
}

impl Default for Starter {
    /// Makes one on this thread. It ends with its last clone.
    fn default() -> Self {
        let (send, asks) = sync_channel::<Start>(0);
        let work = move || {
            while let Ok(Start { thread, work, started }) = asks.recv() {
                // Who asked waits; if not, the thread runs all the same.
                let _ = started.send(thread.spawn(work).map(drop));
            }
        };
        // Without a thread nobody listens, and asking says so.
        let _ = Builder::new()
            .name("starter".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(work);
        Self(send)
    }
}

impl Starter {
    /// Starts `thread`, which does `work`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(&self, thread: Builder, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let gone = || io::Error::other("no thread that starts threads");
        let (started, answer) = sync_channel(1);
        let work = Box::new(work);
        self.0.send(Start { thread, work, started }).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

/// Whether a thread of this niceness that has entered the idle class may leave it: without privileges that is a matter of
/// `RLIMIT_NICE`.
fn lets_back(nice: i32) -> bool {
    let there_and_back = move || {
        yield_to_others(nice);
        let thread = thread_native_id();
        change(thread, Normal::Idle);
        change(thread, Normal::Other);
        is(Normal::Other)
    };
    let tried = Builder::new().stack_size(STACK_BYTES).spawn(there_and_back);
    tried.is_ok_and(|thread| thread.join().unwrap_or(false))
}

/// Puts `thread` into `class`, and this thread's niceness anywhere: the library sets both, of different threads.
fn change(thread: ThreadId, class: Normal) {
    // Whether it did is looked at by `is`: an error may be about the niceness alone.
    let _ = set_thread_priority_and_policy(thread, ThreadPriority::Min, ThreadSchedulePolicy::Normal(class));
}

fn is(class: Normal) -> bool {
    thread_schedule_policy().is_ok_and(|now| now == ThreadSchedulePolicy::Normal(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NICE: i32 = 10;
    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(1);

    /// Works until then. Whoever is put into another class or lets another core have it has little of this one meanwhile.
    fn work(until: impl Fn() -> bool) {
        let end = now() + Duration::from_secs(60);
        while !until() {
            assert!(now() < end, "never");
            std::hint::spin_loop();
        }
    }

    #[test]
    fn work_at_leisure_gives_way_until_patience_ends() {
        let (allowed, niceness) = (lets_back(NICE), || rustix::process::getpriority_process(None).unwrap());
        let there = at_leisure(NICE, LONG, || (is(Normal::Idle), niceness()));
        assert_eq!(there, (allowed, NICE));
        at_leisure(NICE, SHORT, || {
            work(|| is(Normal::Other));
            assert_eq!(niceness(), NICE);
        });
    }

    #[test]
    fn work_at_leisure_keeps_to_one_core_until_patience_ends_or_it_does() {
        let cores = || sched_getaffinity(None).unwrap().count();
        let all = cores();
        let meanwhile = if lets_back(NICE) { 1 } else { all };
        assert_eq!(at_leisure(NICE, LONG, cores), meanwhile);
        assert_eq!(cores(), all);
        at_leisure(NICE, SHORT, || work(|| cores() == all));
    }

    #[test]
    fn who_stands_back_has_less_and_waits_for_their_turn() {
        let behind = std::thread::spawn(|| {
            stand_back(NICE);
            (is(Normal::Batch), rustix::process::getpriority_process(None).unwrap())
        });
        assert_eq!(behind.join().unwrap(), (true, NICE));
    }

    #[test]
    fn who_mostly_waits_for_a_core_is_starved_and_who_waits_for_something_else_is_not() {
        let (ms, window) = (Duration::from_millis, Duration::from_millis(10));
        let before = Had {
            ran: ms(100),
            waited: ms(50),
            wants: true,
        };
        let after = |ran: u64, waited: u64, wants| {
            let (ran, waited) = (before.ran + ms(ran), before.waited + ms(waited));
            Had { ran, waited, wants }.is_starved(before, window)
        };
        assert!(!after(5, 5, true), "half a core");
        assert!(after(4, 6, false));
        assert!(after(0, 0, true), "its wait goes on");
        assert!(!after(1, 2, false), "a disk, or a child");
    }

    #[test]
    fn who_gets_on_stays_at_leisure_longer_than_its_patience() {
        let patience = Duration::from_millis(20);
        let (class, share) = at_leisure(NICE, patience, || {
            let (core, began) = (Core::settle(None), now());
            let before = core.had().ran;
            work(|| now() > began + 3 * patience);
            let took = now() - began;
            (
                is(Normal::Idle),
                (core.had().ran - before).as_secs_f64() / took.as_secs_f64(),
            )
        });
        // On a busy machine it may have been starved in one of the three.
        assert!(class || share < 0.9 || !lets_back(NICE), "{share}");
    }

    #[test]
    fn a_beat_goes_on_for_as_long_as_it_is_told() {
        let beats = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                beat(sched_getcpu(), || {
                    assert!(is(Normal::Batch), "whoever answers is not put aside");
                    beats.fetch_add(1, Ordering::Relaxed) < 3
                });
            });
        });
        assert_eq!(beats.into_inner(), 4);
    }

    #[test]
    fn a_child_process_gives_way_like_the_thread_that_starts_it() {
        let class = || {
            let told = std::process::Command::new("cat")
                .arg("/proc/self/sched")
                .output()
                .unwrap();
            let told = String::from_utf8(told.stdout).unwrap();
            let line = told.lines().find(|line| line.starts_with("policy")).map(str::to_owned);
            line.and_then(|line| line.rsplit(' ').next().map(str::to_owned))
        };
        let told = std::thread::scope(|scope| scope.spawn(|| at_leisure(NICE, LONG, class)).join().unwrap());
        // 5 is SCHED_IDLE; kernels without scheduler statistics tell nothing.
        assert!(told.is_none_or(|class| class == if lets_back(NICE) { "5" } else { "0" }));
    }

    #[test]
    fn a_thread_that_is_started_from_leisure_by_a_starter_is_as_urgent_as_who_made_that() {
        let urgency = || (is(Normal::Idle), rustix::process::getpriority_process(None).unwrap());
        let (own, starter) = (urgency(), Starter::default());
        let (tell, told) = std::sync::mpsc::channel();
        let at = std::thread::spawn(move || {
            at_leisure(NICE, LONG, || {
                let here = urgency();
                starter
                    .start(Builder::new(), move || tell.send(urgency()).unwrap())
                    .unwrap();
                here
            })
        });
        assert_ne!(at.join().unwrap(), own);
        assert_eq!(told.recv().unwrap(), own);
    }

    #[test]
    fn work_that_panics_at_leisure_does_not_wait_for_patience_to_end() {
        let ended = std::thread::spawn(|| at_leisure(NICE, LONG, || panic!("planned"))).join();
        assert!(ended.is_err());
    }
}
