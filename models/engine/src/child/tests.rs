use super::*;

/// Signals as `wait` gives them.
const ABORT: i32 = 6;

#[test]
fn an_abort_is_told_by_what_the_process_said_and_quotes_none_of_it() {
    let told = |said: &str| how(ExitStatus::from_raw(ABORT), said.as_bytes());
    assert_eq!(told("memory allocation of 8589934592 bytes failed\n"), "out of memory");
    assert_eq!(
        told("terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"),
        "out of memory"
    );
    assert_eq!(
        told("\nthread '<unnamed>' (7) has overflowed its stack\nfatal runtime error: stack overflow, aborting\n"),
        "its stack overflowed"
    );
    for said in ["", "node `memory allocation of` is secret", "\u{fffd}"] {
        assert_eq!(told(said), "abort, by a bug in the engine", "{said}");
    }
}

#[test]
fn only_the_last_words_are_kept_and_a_talkative_child_never_waits() {
    let talks = "head -c 1000000 /dev/zero >&2; echo >&2; echo memory allocation of 7 bytes failed >&2; kill -ABRT $$";
    let mut child = Command::new("sh")
        .args(["-c", talks])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = last_words(child.stderr.take().unwrap());
    assert_eq!(said.len(), 4096);
    let status = child.wait().unwrap();
    assert!(said.ends_with(b"\0\nmemory allocation of 7 bytes failed\n"));
    assert_eq!(how(status, &said), "out of memory");
}

#[test]
fn a_process_knows_the_most_memory_that_it_held() {
    let before = peak_bytes("self");
    let held = vec![1_u8; 64 << 20];
    assert!(before > 0 && peak_bytes("self") >= 64 << 20, "{before} {}", held.len());
    assert_eq!(peak_bytes("nobody"), 0);
}
