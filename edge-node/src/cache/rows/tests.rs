use std::path::PathBuf;

use proto::ids::{ModelName, TenantId};
use proto::purge::Subject;

use super::super::{CacheConfig, Results, Ttl};
use super::*;
use crate::metrics::Metrics;

const STAGE: &str = "rgb 2 2 None";

struct Bench {
    results: Results,
    metrics: Metrics,
}

fn bench(rows_bytes: u64) -> Bench {
    let metrics = Metrics::new(&mut runtime::metrics::Metrics::new());
    let config = CacheConfig {
        memory_bytes: 1 << 20,
        rows_bytes,
        disk_bytes: 0,
        ttl: Ttl::default(),
        folder: PathBuf::new(),
    };
    let results = Results::open(&config, &metrics);
    Bench { results, metrics }
}

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

impl Bench {
    fn keeper(&self, tenant: &TenantId, subject: Option<&str>) -> Keeper {
        let subject: Option<Subject> = subject.map(|name| name.parse().unwrap());
        let asker = Asker {
            tenant,
            subject: subject.as_ref(),
        };
        self.results.keeper(asker).unwrap()
    }
    /// Whether the row had to be made. What is found is what was made.
    fn is_made(&self, keeper: &Keeper, stage: &str, from: &[u8]) -> bool {
        let mut made = false;
        let bytes = keeper.made(stage, from, &mut || {
            made = true;
            Ok([from, stage.as_bytes()].concat())
        });
        assert_eq!(*bytes.unwrap(), *[from, stage.as_bytes()].concat());
        made
    }
}

#[test]
fn a_row_is_made_once_for_its_owner_and_stage_and_again_for_any_other() {
    let bench = bench(1 << 20);
    let (a, b) = (tenant("a"), tenant("b"));
    let own = bench.keeper(&a, None);
    assert!(bench.is_made(&own, STAGE, b"picture"));
    assert!(!bench.is_made(&own, STAGE, b"picture"));
    assert!(
        !bench.is_made(&bench.keeper(&a, None), STAGE, b"picture"),
        "a later request's too"
    );
    assert!(bench.is_made(&own, "rgb 4 4 None", b"picture"));
    assert!(bench.is_made(&own, STAGE, b"another"));
    assert!(bench.is_made(&bench.keeper(&a, Some("p")), STAGE, b"picture"));
    assert!(bench.is_made(&bench.keeper(&b, None), STAGE, b"picture"));
    assert_eq!((bench.metrics.rows.found.get(), bench.metrics.rows.made.get()), (2, 5));
}

/// Goal: no tenant comes upon another's row, also where both share the rows of the key file: there are more tenants than those.
#[test]
fn among_more_tenants_than_keys_nobody_is_given_anothers_row() {
    let bench = bench(64 << 20);
    for n in 0..5_000 {
        let keeper = bench.keeper(&tenant(&format!("t{n}")), None);
        assert!(bench.is_made(&keeper, STAGE, b"picture"), "t{n}");
    }
}

#[test]
fn whatever_is_forgotten_of_its_tenant_its_person_or_any_model_takes_a_row_along() {
    let (a, b, model): (TenantId, TenantId, ModelName) = (tenant("a"), tenant("b"), "m".parse().unwrap());
    let person: Subject = "p".parse().unwrap();
    // Whether the rows of a, of a's person and of b are gone.
    for (scope, gone) in [
        (Scope::All, [true; 3]),
        (Scope::Model(&model), [true; 3]),
        (Scope::Tenant(&a), [true, true, false]),
        (Scope::TenantModel(&a, &model), [true, true, false]),
        (Scope::Subject(&a, &person), [false, true, false]),
    ] {
        let bench = bench(1 << 20);
        let of = || {
            [
                bench.keeper(&a, None),
                bench.keeper(&a, Some("p")),
                bench.keeper(&b, None),
            ]
        };
        of().iter()
            .for_each(|keeper| assert!(bench.is_made(keeper, STAGE, b"picture")));
        bench.results.purge(scope).unwrap();
        let made = of().map(|keeper| bench.is_made(&keeper, STAGE, b"picture"));
        assert_eq!(made, gone, "{scope:?}");
    }
}

#[test]
fn a_row_that_was_being_made_while_something_was_forgotten_is_not_kept() {
    let bench = bench(1 << 20);
    let (a, model): (TenantId, ModelName) = (tenant("a"), "m".parse().unwrap());
    for scope in [Scope::All, Scope::Tenant(&a), Scope::Model(&model)] {
        let keeper = bench.keeper(&a, None);
        let made = keeper.made(STAGE, b"picture", &mut || {
            bench.results.purge(scope).unwrap();
            Ok(vec![1])
        });
        assert_eq!(*made.unwrap(), [1], "who asked before is answered");
        assert_eq!(bench.metrics.rows.bytes.get(), 0, "{scope:?}");
        assert!(bench.is_made(&bench.keeper(&a, None), STAGE, b"picture"));
        bench.results.purge(Scope::All).unwrap();
    }
}

#[test]
fn rows_take_no_more_memory_than_allowed_and_what_fails_is_not_kept() {
    let bench = bench(64 << 10);
    let a = tenant("a");
    let keeper = bench.keeper(&a, None);
    for n in 0..1_000_u32 {
        let from = [n.to_le_bytes().as_slice(), &[0; 2_000]].concat();
        bench.is_made(&keeper, STAGE, &from);
        assert!(bench.metrics.rows.bytes.get() <= 64 << 10);
    }
    assert!(bench.metrics.rows.bytes.get() > 32 << 10);
    let fails = keeper.made(STAGE, b"broken", &mut || Err("no picture".to_owned()));
    assert_eq!(fails.unwrap_err(), "no picture");
    assert!(bench.is_made(&keeper, STAGE, b"broken"));
    let none = super::tests::bench(0);
    assert!(
        none.results
            .keeper(Asker {
                tenant: &a,
                subject: None
            })
            .is_none()
    );
}

#[test]
fn each_row_of_a_run_is_its_own_requests_wherever_the_run_is_cut() {
    let bench = bench(1 << 20);
    let (a, b) = (tenant("a"), tenant("b"));
    let (of_a, of_b) = (bench.keeper(&a, None), bench.keeper(&b, None));
    let run = RowsOfRun::joined([(2, Some(&of_a)), (1, None), (1, Some(&of_b))].into_iter()).unwrap();
    let asked = |run: &RowsOfRun, row: usize| {
        let mut made = false;
        let make = &mut || {
            made = true;
            Ok(vec![7])
        };
        assert_eq!(*run.made(row, STAGE, b"picture", make).unwrap(), [7]);
        made
    };
    assert!(asked(&run, 0) && !asked(&run, 1), "two rows of a");
    assert!(asked(&run, 2) && asked(&run, 2), "nobody's");
    assert!(asked(&run.from(3), 0) && !asked(&run.from(1), 2), "b's");
    assert!(asked(&run, 4), "beyond the end nothing is kept");
    assert!(RowsOfRun::joined([(2, None)].into_iter()).is_none());
    assert!(
        !asked(&RowsOfRun::alone(Some(&of_b)).unwrap(), 9),
        "all rows of one request"
    );
}
