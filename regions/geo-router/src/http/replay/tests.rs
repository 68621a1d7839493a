use std::collections::VecDeque;

use http_body_util::BodyExt;
use proptest::prelude::*;

use super::*;

/// A client that sends these frames and then ends or breaks.
struct Client(VecDeque<Result<Bytes, &'static str>>);

impl Body for Client {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(
            self.0
                .pop_front()
                .map(|frame| frame.map(Frame::data).map_err(Into::into)),
        )
    }
}

fn recording(frames: &[&[u8]]) -> Recording<Client> {
    Recording::new(
        Client(frames.iter().map(|f| Ok(Bytes::copy_from_slice(f))).collect()),
        Budget::default(),
    )
}

async fn rest(attempt: Attempt<Client>) -> Vec<u8> {
    attempt.collect().await.unwrap().to_bytes().to_vec()
}

#[tokio::test]
async fn a_second_node_gets_the_body_from_its_beginning() {
    let body = recording(&[b"one ", b"two ", b"three"]);
    let mut first = body.attempt().unwrap();
    first.frame().await.unwrap().unwrap();
    let second = body.attempt().unwrap();
    assert!(
        first.frame().await.unwrap().is_err(),
        "an older attempt can take nothing away from the newer one"
    );
    assert_eq!(rest(second).await, b"one two three");
}

#[tokio::test]
async fn a_body_that_was_read_ahead_is_sent_whole_and_again() {
    let body = recording(&[b"one ", b"two"]);
    let frames = ["one ", "two"].map(|frame| Bytes::from_static(frame.as_bytes())).into();
    assert_eq!(body.gather(7).await, Gathered::Whole(frames));
    for _ in 0..2 {
        assert_eq!(rest(body.attempt().unwrap()).await, b"one two");
    }
}

#[tokio::test]
async fn reading_ahead_stops_at_its_bound_and_at_a_client_that_breaks_off() {
    let body = recording(&[b"one ", b"two ", b"three"]);
    assert_eq!(body.gather(6).await, Gathered::InPart);
    assert_eq!(body.lock().kept_bytes, 8, "the third frame was left to the client");
    assert_eq!(rest(body.attempt().unwrap()).await, b"one two three");
    let broken = Recording::new(
        Client([Ok(Bytes::from_static(b"one")), Err("gone")].into()),
        Budget::default(),
    );
    assert_eq!(broken.gather(6).await, Gathered::Broke);
    assert!(broken.client_broke());
}

#[tokio::test]
async fn what_is_read_ahead_without_room_to_keep_it_is_sent_whole_once() {
    let budget = Budget::default();
    let full = budget.reserve(REPLAY_BYTES_TOTAL_MAX - 4).unwrap();
    let frames = [b"one ", b"two ", b"tree"].map(|frame| Ok(Bytes::from_static(frame)));
    let body = Recording::new(Client(frames.into()), budget);
    assert_eq!(body.gather(100).await, Gathered::InPart);
    let first = body.attempt().unwrap();
    drop(first);
    assert_eq!(rest(body.attempt().unwrap()).await, b"one two tree");
    assert!(body.attempt().is_none(), "its beginning is kept no longer");
    drop(full);
}

#[tokio::test]
async fn a_body_that_does_not_fit_is_sent_whole_but_only_once() {
    let big = vec![7; REPLAY_BODY_BYTES_MAX];
    let budget = Budget::default();
    let frames = [Ok(Bytes::from(big)), Ok(Bytes::from_static(b"x"))];
    let body = Recording::new(Client(frames.into()), budget.clone());
    assert_eq!(rest(body.attempt().unwrap()).await.len(), REPLAY_BODY_BYTES_MAX + 1);
    assert!(body.attempt().is_none());
    assert_eq!(
        budget.0.load(Ordering::Relaxed),
        0,
        "what is not kept is given back at once"
    );
}

#[tokio::test]
async fn what_was_kept_is_given_back_with_the_request() {
    let budget = Budget::default();
    let body = Recording::new(Client([Ok(Bytes::from_static(b"abc"))].into()), budget.clone());
    assert_eq!(rest(body.attempt().unwrap()).await, b"abc");
    assert_eq!(budget.0.load(Ordering::Relaxed), 3);
    drop(body);
    assert_eq!(budget.0.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_client_that_breaks_off_is_told_from_a_node_that_does() {
    let body = Recording::new(
        Client([Ok(Bytes::from_static(b"a")), Err("reset")].into()),
        Budget::default(),
    );
    assert!(body.attempt().unwrap().collect().await.is_err());
    assert!(body.client_broke());
}

proptest! {
    /// Goal: however often and wherever attempts break off, the last one gets exactly what the client sent.
    #[test]
    fn the_last_attempt_gets_every_byte_once_and_in_order(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..12),
        breaks in proptest::collection::vec(0usize..14, 0..4)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let slices: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let got = runtime.block_on(async {
            let body = recording(&slices);
            for frames in breaks {
                let mut attempt = body.attempt().unwrap();
                for _ in 0..frames {
                    let _ = attempt.frame().await;
                }
            }
            rest(body.attempt().unwrap()).await
        });
        prop_assert_eq!(got, frames.concat());
    }
}
