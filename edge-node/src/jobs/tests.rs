use super::store::*;
use super::webhook::{Allowed, check};
use super::*;

fn record() -> Record {
    Record {
        tenant: "acme".parse().unwrap(),
        ask: Ask {
            model: "m".to_owned(),
            version: Some("1".to_owned()),
            encoding: None,
            json_bytes: Some(7),
            bypass: false,
        },
        twin: None,
        state: State::Queued,
        attempts: 2,
        created: 1,
        due: 2,
        expires: 3,
        bytes: 4,
        trouble: None,
        hook: None,
    }
}

#[test]
fn a_kill_between_body_and_record_leaves_nothing_and_after_the_record_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, half) = (JobKey([1; 16]), JobKey([2; 16]));
    let (store, found) = Store::open(folder.path()).unwrap();
    assert!(found.is_empty());
    store.write(whole, Part::Body, b"body").unwrap();
    store.put(whole, &record()).unwrap();
    store.flush().unwrap();
    store.write(half, Part::Body, b"nobody names me").unwrap();
    std::fs::write(folder.path().join(format!("files/{}.new", half.hex())), b"cut off").unwrap();
    // What a killed process leaves is what is on disk at this moment.
    let copy = tempfile::tempdir().unwrap();
    copied(folder.path(), copy.path());
    let (store, found) = Store::open(copy.path()).unwrap();
    assert_eq!(found, [(whole, record())]);
    assert_eq!(store.read(whole, Part::Body).unwrap(), b"body");
    assert!(store.read(half, Part::Body).is_err());
    assert_eq!(std::fs::read_dir(copy.path().join("files")).unwrap().count(), 1);
    store.remove(whole).unwrap();
    drop(store);
    assert!(Store::open(copy.path()).unwrap().1.is_empty());
}

fn copied(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(item.file_name());
        if item.path().is_dir() {
            copied(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), target).unwrap();
        }
    }
}

#[test]
fn a_webhook_goes_only_below_what_the_operator_allows() {
    let allowed = ["https://hooks.example/meridian", "https://h.example:8443/"].map(|a| Allowed::parse(a).unwrap());
    for good in [
        "https://hooks.example/meridian",
        "https://HOOKS.example:443/meridian/a?b=c",
        "https://hooks.example/meridian?x=/../",
        "https://h.example:8443/any",
    ] {
        assert_eq!(check(&allowed, good), Ok(()), "{good}");
    }
    for bad in [
        "http://hooks.example/meridian",
        "https://hooks.example/meridianx",
        "https://hooks.example/",
        "https://hooks.example/meridian/../other",
        "https://hooks.example/meridian/%2e%2e/other",
        "https://hooks.example:444/meridian",
        "https://hooks.example.evil/meridian",
        "https://user@hooks.example/meridian",
        "https://evil#@hooks.example/meridian",
        "https://h.example/any",
        "//hooks.example/meridian",
        "/meridian",
        "",
    ] {
        assert!(check(&allowed, bad).is_err(), "{bad}");
    }
}

proptest::proptest! {
    #[test]
    fn no_address_and_no_record_makes_its_reader_panic(text in ".{0,60}", bytes: Vec<u8>) {
        let _ = (check(&[], &text), Record::read(&bytes), Kept::read(&bytes));
        proptest::prop_assert!(check(&[Allowed::parse("https://a.b/c/").unwrap()], &text).is_err());
    }
}
