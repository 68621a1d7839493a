use engine::pre::KeptRows;
use proto::ids::TenantId;

use super::*;
use crate::cache::{Asker, CacheConfig, Results, Ttl};
use crate::testing::{Doubler, fp32};

/// Goal: rows that another thread runs are kept for those whose they are, as they are on the thread that took the batch.
#[test]
fn rows_that_are_given_to_other_threads_stay_their_owners() {
    let metrics = Metrics::new(&mut runtime::metrics::Metrics::new());
    let config = CacheConfig {
        memory_bytes: 0,
        rows_bytes: 1 << 20,
        disk_bytes: 0,
        ttl: Ttl::default(),
        folder: std::path::PathBuf::new(),
    };
    let results = Results::open(&config, &metrics);
    let keeper = |name: &str| {
        let tenant: TenantId = name.parse().unwrap();
        let (tenant, subject) = (&tenant, None);
        results.keeper(Asker { tenant, subject }).unwrap()
    };
    let (a, b) = (keeper("a"), keeper("b"));
    let call = Call {
        deadline: clock::instant(),
        rows: RowsOfRun::joined([(3, Some(&a)), (3, Some(&b))].into_iter()),
    };
    let model: Arc<dyn Model> = Arc::new(Doubler::default());
    let two = || (vec![fp32("x", &[2, 1], &[0.0, 0.0])], Duration::ZERO);
    let shares = shared(&model, vec![two(), two()], 2, &call);
    let is_found = |rows: &RowsOfRun, row: usize| {
        let mut found = true;
        let make = &mut || {
            found = false;
            Ok(vec![1])
        };
        rows.made(row, "stage", b"picture", make).unwrap();
        found
    };
    let here = call.rows.as_ref().unwrap();
    assert!(!is_found(here, 0) && !is_found(here, 3), "a and b each make it once");
    let there: Vec<&RowsOfRun> = shares.iter().map(|share| share.rows.as_ref().unwrap()).collect();
    results
        .purge(crate::cache::Scope::Tenant(&"b".parse().unwrap()))
        .unwrap();
    // Of six rows a has the first three: the shares begin at the third and the fifth.
    let found = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(share, row)| is_found(there[share], row));
    assert_eq!(found, [true, false, false, false]);
}
