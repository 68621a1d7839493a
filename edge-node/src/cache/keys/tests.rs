use proptest::prelude::*;

use super::*;

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}
fn model(name: &str) -> ModelName {
    name.parse().unwrap()
}
fn subject(name: &str) -> Subject {
    name.parse().unwrap()
}

/// Who asked, whom, about whom.
type Name = (TenantId, ModelName, Option<Subject>);

fn owner(keys: &Keys, (tenant, model, subject): &Name) -> Owner {
    let subject = subject.as_ref();
    keys.owner(Asker { tenant, subject }, model)
}

fn covers(scope: Scope<'_>, (tenant, model, subject): &Name) -> bool {
    match scope {
        Scope::All => true,
        Scope::Model(m) => m == model,
        Scope::Tenant(t) => t == tenant,
        Scope::TenantModel(t, m) => t == tenant && m == model,
        Scope::Subject(t, s) => t == tenant && Some(s) == subject.as_ref(),
    }
}

#[test]
fn to_forget_ends_the_secrets_of_all_that_is_covered_and_of_nobody_else() {
    let keys = Keys::in_memory();
    let (acme, other, m, n, p) = (tenant("acme"), tenant("other"), model("m"), model("n"), subject("p"));
    let names: Vec<Name> = [&acme, &other]
        .into_iter()
        .flat_map(|t| [&m, &n].map(|model| (t.clone(), model.clone())))
        .flat_map(|(t, m)| [None, Some("p"), Some("q")].map(|s| (t.clone(), m.clone(), s.map(subject))))
        .collect();
    let scopes = [
        Scope::Subject(&acme, &p),
        Scope::TenantModel(&acme, &m),
        Scope::Tenant(&acme),
        Scope::Model(&n),
        Scope::All,
    ];
    for scope in scopes {
        let before: Vec<Owner> = names.iter().map(|name| owner(&keys, name)).collect();
        let (gone, keys_in_file) = keys.forget(scope);
        assert_eq!(keys_in_file.unwrap(), 0, "nothing lies in a file");
        for (name, before) in names.iter().zip(before) {
            let meant = covers(scope, name);
            assert_eq!(gone.covers(before.slots), meant, "{scope:?} and {name:?}");
            assert_eq!(keys.while_current(&before, || ()).is_none(), meant);
            assert_eq!(owner(&keys, name).secret != before.secret, meant);
        }
    }
}

#[test]
fn the_key_file_holds_what_memory_holds_whenever_it_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let keys = Keys::create(&path).unwrap();
    let name = (tenant("acme"), model("m"), Some(subject("p")));
    let same = |keys: &Keys| {
        let again = Keys::open(&path).unwrap().unwrap();
        *again.read() == *keys.read()
    };
    assert!(same(&keys));
    let old = keys.read().clone();
    for scope in [Scope::Tenant(&name.0), Scope::Model(&name.1), Scope::All] {
        assert!(keys.forget(scope).1.unwrap() > 0);
        assert!(same(&keys));
    }
    keys.forget_stretches(&[5, 6, 1_000_000]).unwrap();
    assert!(same(&keys));
    let now = std::fs::read(&path).unwrap();
    let mut rows = now.as_chunks::<ROW_BYTES>().0.iter().skip(NAMES + 1);
    assert!(
        !rows.any(|row| old.contains(row)),
        "an old key still stands in the file"
    );
}

#[test]
fn a_key_file_that_others_can_read_or_that_is_not_whole_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    assert!(Keys::open(&path).unwrap().is_none(), "there is none");
    Keys::create(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(Keys::open(&path).unwrap().is_some());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(Keys::open(&path).unwrap().is_none());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    assert!(Keys::open(&path).unwrap().is_none());
}

#[test]
fn what_cannot_be_forgotten_on_disk_is_said_and_is_forgotten_in_memory() {
    let keys = Keys::lost();
    let name = (tenant("acme"), model("m"), None);
    let before = owner(&keys, &name);
    assert!(keys.forget(Scope::Tenant(&name.0)).1.is_err());
    assert!(keys.while_current(&before, || ()).is_none());
}

proptest! {
    #[test]
    fn nobody_is_left_out_of_what_is_forgotten_about_them(
        t in "[a-z0-9]{1,64}", m in "[a-z0-9]{1,64}", s in prop::option::of("[!-~]{1,128}"), which in 0..5_u8,
    ) {
        let keys = Keys::in_memory();
        let name = (tenant(&t), model(&m), s.as_deref().map(subject));
        let before = owner(&keys, &name);
        let scope = match (which, &name.2) {
            (0, Some(subject)) => Scope::Subject(&name.0, subject),
            (1, _) => Scope::TenantModel(&name.0, &name.1),
            (2, _) => Scope::Model(&name.1),
            (3, _) => Scope::All,
            _ => Scope::Tenant(&name.0),
        };
        let (gone, _) = keys.forget(scope);
        prop_assert!(gone.covers(before.slots) && keys.while_current(&before, || ()).is_none());
    }
}
