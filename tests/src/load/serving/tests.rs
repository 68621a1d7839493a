//! The loops against a server in this process that does as it is told.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::closed::Closed;
use super::open::Open;
use super::target::Target;

/// How a server goes about the n-th request.
type Manner = Arc<dyn Fn(u64) -> (u16, Duration) + Send + Sync>;

/// Answers one request at a time, as a machine of one core would; the tasks end with the set.
async fn server(manner: Manner) -> (SocketAddr, Arc<AtomicU64>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (served, one) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(())));
    let (mut tasks, count) = (JoinSet::new(), Arc::clone(&served));
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (manner, count, one) = (Arc::clone(&manner), Arc::clone(&count), Arc::clone(&one));
            let answer = move |_: Request<hyper::body::Incoming>| {
                let (manner, count, one) = (Arc::clone(&manner), Arc::clone(&count), Arc::clone(&one));
                async move {
                    let (status, takes) = manner(count.fetch_add(1, Ordering::Relaxed));
                    if !takes.is_zero() {
                        let _alone = one.lock().await;
                        tokio::time::sleep(takes).await;
                    }
                    let answer = Response::builder().status(status);
                    Ok::<_, Infallible>(answer.body(Full::new(Bytes::from_static(b"{}"))).unwrap())
                }
            };
            let connection = hyper::server::conn::http1::Builder::new();
            let connection = connection.serve_connection(TokioIo::new(stream), service_fn(answer));
            connections.spawn(async move {
                connection.await.ok();
            });
        }
    });
    (address, served, tasks)
}

fn target(address: SocketAddr) -> Target {
    let write = |_: u64, request: &mut Vec<u8>| {
        request.extend_from_slice(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}");
    };
    Target::new(address, Arc::new(write))
}

fn open(per_second: f64, connections_max: usize, lasts_ms: u64) -> Open {
    Open {
        per_second,
        connections_max,
        lasts: Duration::from_millis(lasts_ms),
        stop: Arc::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_closed_loop_counts_what_was_answered_and_what_was_refused() {
    let manner: Manner = Arc::new(|n| (if n % 4 == 3 { 503 } else { 200 }, Duration::ZERO));
    let (address, served, _server) = server(manner).await;
    let closed = Closed {
        connections: 4,
        warm: Duration::ZERO,
        lasts: Duration::from_millis(200),
    };
    let report = closed.drive(target(address)).await.unwrap();
    let counted = report.answered.count() + report.refused.count();
    let served = usize::try_from(served.load(Ordering::Relaxed)).unwrap();
    // The last of each connection ends after the time and does not count.
    assert!(served - counted <= 4 && counted > 40, "{counted} of {served}");
    assert_eq!(report.statuses.keys().copied().collect::<Vec<_>>(), [200, 503]);
    let quarter = report.refused.count() * 4;
    assert!(quarter.abs_diff(counted) <= 16, "{quarter} of {counted}");
    let per_second = f64::from(u32::try_from(report.answered.count()).unwrap()) / 0.2;
    assert!((report.per_second() - per_second).abs() < 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_open_loop_charges_a_stall_to_all_who_came_meanwhile() {
    // One request in the middle takes 300 ms, the next one queues behind it: both connections stand. At 500 a second 150 come
    // meanwhile and wait, for half of it on average. A loop that waits for answers would tell of two slow ones.
    let takes = |n| match n {
        100 => Duration::from_millis(300),
        101 => Duration::from_micros(1),
        _ => Duration::ZERO,
    };
    let (address, _, _server) = server(Arc::new(move |n| (200, takes(n)))).await;
    let mut report = open(500.0, 2, 1_000).drive(target(address)).await.unwrap();
    assert_eq!((report.answered.count(), report.unanswered), (500, 0));
    let waited = 500 - report.answered.within(Duration::from_millis(50));
    assert!((100..=300).contains(&waited), "{waited} waited");
    assert!(report.answered.percentile_ms(10_000) >= 290.0);
    assert!(report.goodput(Duration::from_millis(50)) < 450.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_open_loop_keeps_its_rate_and_its_bound_whatever_becomes_of_requests() {
    // 20 ms each and one at a time: of 400 a second for half a second 25 can be answered by then, and 100 in the grace.
    let (address, served, _server) = server(Arc::new(|_| (200, Duration::from_millis(20)))).await;
    let report = open(400.0, 16, 500).drive(target(address)).await.unwrap();
    let answered = u64::try_from(report.answered.count()).unwrap();
    assert_eq!(answered + report.unanswered, 200, "each that was due is counted once");
    assert!(answered < 140 && report.unanswered >= 60, "{answered} answered");
    assert!(
        served.load(Ordering::Relaxed) <= answered + 16,
        "no more connections than the bound"
    );
    assert!(report.lasted >= Duration::from_millis(495) && report.lasted < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_open_loop_goes_on_when_connections_break() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut breaks = JoinSet::new();
    breaks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let report = open(200.0, 8, 300).drive(target(address)).await.unwrap();
    assert_eq!((report.answered.count(), report.unanswered), (0, 60));
    assert!(report.broken >= 8, "{} broke", report.broken);
    let closed = Closed {
        connections: 1,
        warm: Duration::ZERO,
        lasts: Duration::from_millis(50),
    };
    assert!(
        closed.drive(target(address)).await.is_err(),
        "a closed loop tells of it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_answer_is_shown_with_the_number_of_its_request() {
    let (address, _, _server) = server(Arc::new(|_| (200, Duration::ZERO))).await;
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let shown = Arc::clone(&seen);
    let target = target(address).seen_by(move |n, answer| {
        assert_eq!(answer.body(), b"{}");
        shown.lock().unwrap().push(n);
    });
    let stop = open(1_000.0, 4, 100);
    stop.drive(target).await.unwrap();
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}
