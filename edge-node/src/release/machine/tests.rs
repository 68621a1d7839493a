use super::*;
use std::collections::HashSet;

fn target(version: u32) -> Target {
    let release: Release = format!("m@{version}").parse().unwrap();
    let manifest = ContentHash::of(release.to_string().as_bytes());
    Target {
        release,
        manifest,
        variant: "cpu-f32".parse().unwrap(),
    }
}

fn after(events: impl IntoIterator<Item = Event>) -> (Machine, Action) {
    events
        .into_iter()
        .fold((Machine::default(), Action::Wait), |(machine, _), event| {
            machine.on(event)
        })
}

fn to_serving(version: u32) -> [Event; 3] {
    [
        Event::Wanted(target(version)),
        Event::Stored(target(version)),
        Event::Warmed(target(version)),
    ]
}

#[test]
fn a_release_is_fetched_warmed_and_switched_to_in_that_order() {
    let one = target(1);
    let (m, action) = Machine::default().on(Event::Wanted(one.clone()));
    assert_eq!(action, Action::Fetch(one.clone()));
    let (m, action) = m.on(Event::Stored(one.clone()));
    assert_eq!(action, Action::Warm(one.clone()));
    let (m, action) = m.on(Event::Warmed(one.clone()));
    assert_eq!(action, Action::Switch(one.clone()));
    assert_eq!(m, Machine::resumed(one, None));
}

#[test]
fn a_wish_said_twice_is_fetched_once() {
    let (_, action) = after([Event::Wanted(target(1)), Event::Wanted(target(1))]);
    assert_eq!(action, Action::Wait);
}

#[test]
fn a_failed_candidate_leaves_the_old_version_serving_and_rests() {
    let events = to_serving(1)
        .into_iter()
        .chain([Event::Wanted(target(2)), Event::Failed(target(2))]);
    let (m, action) = after(events);
    assert_eq!(
        (m.serving.clone(), action),
        (Some(target(1)), Action::Rest(target(2), 1))
    );
    let (m, action) = m.on(Event::Wanted(target(2)));
    assert_eq!(action, Action::Wait, "wanting it again does not wake it");
    let (_, action) = m.on(Event::RetryDue(target(2)));
    assert_eq!(action, Action::Fetch(target(2)));
}

#[test]
fn a_rollback_keeps_the_version_it_left_as_the_previous_one() {
    let (m, _) = after(to_serving(1).into_iter().chain(to_serving(2)).chain(to_serving(1)));
    assert_eq!((m.serving, m.previous), (Some(target(1)), Some(target(2))));
}

#[test]
fn a_wish_for_what_serves_gives_up_the_candidate() {
    let (m, action) = after(
        to_serving(1)
            .into_iter()
            .chain([Event::Wanted(target(2)), Event::Wanted(target(1))]),
    );
    assert_eq!((m.candidate, action), (Candidate::None, Action::Wait));
}

#[test]
fn files_that_go_bad_again_and_again_end_in_a_refusal() {
    let mut m = after([Event::Wanted(target(1))]).0;
    let mut actions = Vec::new();
    for _ in 0..=LACKING_MAX {
        m = m.on(Event::Stored(target(1))).0;
        let (next, action) = m.on(Event::Lacking(target(1)));
        m = next;
        actions.push(action);
    }
    assert!(actions[..3].iter().all(|a| *a == Action::Fetch(target(1))));
    assert!(matches!(m.candidate, Candidate::Refused(..)), "{m:?}");
}

#[test]
fn a_model_that_is_wanted_no_more_is_withdrawn_once() {
    let (m, action) = after(to_serving(1).into_iter().chain([Event::Unwanted]));
    assert_eq!((m.serving.clone(), action), (None, Action::Withdraw));
    assert_eq!(m.on(Event::Unwanted).1, Action::Wait);
}

type Step = fn(Machine, Event) -> (Machine, Action);

/// Every state that any order of events over 3 releases can reach, each with the release wanted last.
fn walk(step: Step) -> Result<usize, String> {
    let targets = [target(1), target(2), target(3)];
    let events: Vec<Event> = targets.iter().flat_map(about).chain([Event::Unwanted]).collect();
    let start = (Machine::default(), None::<Target>);
    let (mut seen, mut open) = (HashSet::from([start.clone()]), vec![start]);
    while let Some((machine, wanted)) = open.pop() {
        let finished = reaches(step, &machine, &wanted);
        if !finished {
            return Err(format!("{machine:?} never serves {wanted:?}"));
        }
        for event in &events {
            let (next, action) = step(machine.clone(), event.clone());
            let wanted = match event {
                Event::Wanted(t) => Some(t.clone()),
                Event::Unwanted => None,
                _ => wanted.clone(),
            };
            legal(&machine, event, &next, &action, &wanted)?;
            if seen.insert((next.clone(), wanted.clone())) {
                open.push((next, wanted));
            }
        }
    }
    Ok(seen.len())
}

fn about(t: &Target) -> [Event; 6] {
    let t = || t.clone();
    [
        Event::Wanted(t()),
        Event::Stored(t()),
        Event::Lacking(t()),
        Event::Warmed(t()),
        Event::Failed(t()),
        Event::RetryDue(t()),
    ]
}

/// The promises of one step.
fn legal(was: &Machine, event: &Event, next: &Machine, action: &Action, wanted: &Option<Target>) -> Result<(), String> {
    let told = || format!("{was:?} on {event:?} gave {next:?} and {action:?}");
    let switched = was.serving != next.serving;
    match &next.serving {
        None if switched && *event != Event::Unwanted => return Err(format!("out of service: {}", told())),
        Some(now) if switched => {
            let warm =
                matches!((&was.candidate, event), (Candidate::Warming(c, _), Event::Warmed(e)) if c == now && e == now);
            if !warm || wanted.as_ref() != Some(now) || *action != Action::Switch(now.clone()) {
                return Err(format!("switched to what is not warm or not wanted: {}", told()));
            }
            if was.serving.is_some() && next.previous != was.serving {
                return Err(format!("forgot the version to roll back to: {}", told()));
            }
        }
        _ if matches!(action, Action::Switch(_)) => return Err(format!("switched to nothing: {}", told())),
        _ => {}
    }
    match next.candidate.target() {
        Some(candidate) if wanted.as_ref() != Some(candidate) => Err(format!("works for nobody: {}", told())),
        _ => Ok(()),
    }
}

/// Whether a node where nothing fails any more comes to serve what is wanted.
fn reaches(step: Step, from: &Machine, wanted: &Option<Target>) -> bool {
    let Some(t) = wanted else { return from.serving.is_none() };
    let mut machine = from.clone();
    for event in [
        Event::RetryDue(t.clone()),
        Event::Wanted(t.clone()),
        Event::Stored(t.clone()),
        Event::Warmed(t.clone()),
    ] {
        machine = step(machine, event).0;
    }
    machine.serving.as_ref() == Some(t)
}

/// Goal: no order of events, however late, repeated or long, takes a serving node out of service, moves it to a release
/// that is not the one wanted last, or leaves it stuck. Method: walk every state reachable over 3 releases.
#[test]
fn no_event_order_stops_misleads_or_strands_a_serving_node() {
    let states = walk(Machine::on).unwrap();
    assert!(states > 300, "only {states} states: the walk does not walk");
}

/// The walk is worth something only if it finds what it looks for.
#[test]
fn the_walk_catches_planted_bugs() {
    let late_word_counts: Step = |m, e| match (&m.candidate, &e) {
        (Candidate::Warming(..), Event::Warmed(t)) => {
            let (t, previous) = (t.clone(), m.serving.clone());
            (
                Machine {
                    serving: Some(t.clone()),
                    previous,
                    candidate: Candidate::None,
                },
                Action::Switch(t),
            )
        }
        _ => m.on(e),
    };
    assert!(walk(late_word_counts).unwrap_err().contains("not warm or not wanted"));
    let failure_stops_service: Step = |m, e| match e {
        Event::Failed(_) => (Machine { serving: None, ..m }, Action::Withdraw),
        e => m.on(e),
    };
    assert!(walk(failure_stops_service).unwrap_err().contains("out of service"));
    let refused_for_ever: Step = |m, e| match e {
        Event::RetryDue(_) => (m, Action::Wait),
        e => m.on(e),
    };
    assert!(walk(refused_for_ever).unwrap_err().contains("never serves"));
    let forgets_previous: Step = |m, e| {
        let (m, a) = m.on(e);
        if matches!(a, Action::Switch(_)) {
            (Machine { previous: None, ..m }, a)
        } else {
            (m, a)
        }
    };
    assert!(walk(forgets_previous).unwrap_err().contains("roll back"));
}
