//! What the router promises to clients, with real sockets and three tiny nodes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod small_fleet;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proto::message::{Request as Question, Response as Told};
use regions::health::State;
use runtime::https::{Body, full};
use small_fleet::{Answer, Router, SmallFleet, key, wait_until};

/// Clients near Frankfurt, Dublin and Ashburn.
const BERLIN: &str = "10.1.0.7";
const MANCHESTER: &str = "10.2.0.7";
const BOSTON: &str = "10.3.0.7";

#[tokio::test(flavor = "multi_thread")]
async fn each_client_is_answered_by_its_nearest_allowed_node() {
    let fleet = SmallFleet::start().await;
    let router = fleet.router().await;
    for (tenant, from, node) in [
        ("aa", BERLIN, "eu-fra/n1"),
        ("aa", MANCHESTER, "eu-dub/n1"),
        ("aa", BOSTON, "eu-dub/n1"),
        ("bb", BOSTON, "us-iad/n1"),
    ] {
        let answer = router.infer(tenant, from).await;
        assert_eq!(
            (answer.status, answer.served_by()),
            (StatusCode::OK, node),
            "{tenant} from {from}"
        );
        assert_eq!(answer.body, b"body");
        let timing = answer.headers["server-timing"].to_str().unwrap();
        assert!(
            timing.starts_with("route;dur=") && timing.contains(", exec;dur=1.000, total;dur="),
            "{timing}"
        );
        assert_eq!(answer.headers["via"], "1.1 r1");
    }
    assert!(router.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_may_answer_is_refused_with_its_reason() {
    let fleet = SmallFleet::start().await;
    let router = fleet.router().await;
    let refused = |answer: Answer| {
        (
            answer.status.as_u16(),
            answer.json()["code"].as_str().unwrap().to_owned(),
        )
    };
    let code = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(refused(router.infer("cc", BERLIN).await), code(401, "unauthorized"));
    let unknown = router.post("/v2/models/nobody/infer", "aa", BERLIN, Vec::new()).await;
    assert_eq!(
        unknown.json()["error"],
        "Request for unknown model: 'nobody' is not found"
    );
    assert_eq!(refused(unknown), code(404, "unknown-model"));
    let outside = router.post("/v2/models/local/infer", "aa", BERLIN, Vec::new()).await;
    assert_eq!(refused(outside), code(451, "residency"));
    let status = Request::get("/v1/router").body(full("")).unwrap();
    assert_eq!(refused(router.send(status).await), code(403, "forbidden"));
    let live = Request::get("/v2/health/live").body(full("")).unwrap();
    assert_eq!(router.send(live).await.status, StatusCode::OK);
    assert!(fleet.nodes.iter().all(|n| n.requests() == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_can_ask_who_would_answer_and_be_sent_there() {
    let fleet = SmallFleet::start().await;
    let router = fleet.router().await;
    let explained = router
        .post("/v2/models/minilm/infer?explain=1", "aa", BERLIN, Vec::new())
        .await
        .json();
    assert_eq!(
        (&explained["chosen"], &explained["client"]),
        (&"eu-fra/n1".into(), &"ber".into())
    );
    assert_eq!(explained["candidates"][2]["reason"], "outside-boundary");
    let sent = router
        .post("/v2/models/minilm/infer?redirect=1", "aa", MANCHESTER, Vec::new())
        .await;
    assert_eq!(sent.status, StatusCode::TEMPORARY_REDIRECT);
    let want = format!("https://{}/v2/models/minilm/infer", fleet.nodes[1].ingress);
    assert_eq!(sent.headers["location"], want.as_str());
    assert!(fleet.nodes.iter().all(|n| n.requests() == 0));
}

/// A request for `body`, cut into frames whose number is not announced, of a client that may name a session.
fn cut(body: &str, from: &str, session: Option<&str>) -> Request<Body> {
    let frames: Vec<_> = body
        .as_bytes()
        .chunks(3)
        .map(|frame| Ok(Frame::data(Bytes::copy_from_slice(frame))))
        .collect();
    let mut request = Request::post("/v2/models/minilm/infer")
        .header("authorization", format!("Bearer {}", key("aa")))
        .header("x-forwarded-for", from);
    if let Some(session) = session {
        request = request.header("meridian-session", session);
    }
    let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
    request.body(body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_input_meets_the_same_node_whoever_sends_it_and_however() {
    let fleet = SmallFleet::together().await;
    let router = fleet.router().await;
    for node in &fleet.nodes {
        router.wait_for(&node.id, State::Up).await;
    }
    let mut met = HashSet::new();
    let mut of_session = HashSet::new();
    for input in 0..24 {
        let body = format!("input {input}");
        let first = router
            .post("/v2/models/minilm/infer", "aa", BERLIN, body.clone().into())
            .await;
        assert_eq!((first.status, first.body.as_slice()), (StatusCode::OK, body.as_bytes()));
        for from in ["10.1.1.7", "10.1.2.7", "10.3.0.7"] {
            let again = router.send(cut(&body, from, None)).await;
            assert_eq!(again.served_by(), first.served_by(), "{body} from {from}");
            assert_eq!(again.body, body.as_bytes());
        }
        met.insert(first.served_by().to_owned());
        let named = router.send(cut(&body, BERLIN, Some("s1"))).await;
        of_session.insert(named.served_by().to_owned());
    }
    assert_eq!(met.len(), 3, "all nodes have their share");
    assert_eq!(of_session.len(), 1, "a session that a client names stays with its node");
    assert!(router.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_whose_node_is_gone_is_answered_by_the_next_one_and_others_stay() {
    let fleet = SmallFleet::together().await;
    let router = fleet.router().await;
    for node in &fleet.nodes {
        router.wait_for(&node.id, State::Up).await;
    }
    let ask = async |input: u8| router.send(cut(&format!("input {input}"), BERLIN, None)).await;
    let mut before = Vec::new();
    for input in 0..24 {
        before.push(ask(input).await.served_by().to_owned());
    }
    fleet.nodes[1].kill().await;
    for (input, before) in (0..).zip(&before) {
        let after = ask(input).await;
        assert_eq!(after.status, StatusCode::OK);
        if before == "eu-fra/n2" {
            assert_ne!(after.served_by(), "eu-fra/n2");
        } else {
            assert_eq!(after.served_by(), before);
        }
    }
    assert!(before.iter().any(|node| node == "eu-fra/n2"));
    assert!(router.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_node_would_send_a_client_is_not_told_by_a_router_which_goes_there_itself() {
    let fleet = SmallFleet::together().await;
    let router = fleet.router().await;
    fleet
        .nodes
        .iter()
        .for_each(|node| node.behaviour.draining.store(true, Ordering::SeqCst));
    let refused = router.infer("aa", BERLIN).await;
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, Some("draining"))
    );
    assert_eq!(refused.headers.get("meridian-elsewhere"), None);
    assert!(router.stop().await);
}

/// Sends `count` requests from `workers` clients at once; each answer is judged.
async fn load(router: &Router, tenant: &str, count: usize, done: &AtomicUsize, judge: impl Fn(&Answer)) {
    let worker = |_| async {
        for _ in 0..count {
            let answer = router
                .post("/v2/models/minilm/infer", tenant, BERLIN, vec![7; 100_000])
                .await;
            judge(&answer);
            done.fetch_add(1, Ordering::SeqCst);
        }
    };
    join_all((0..8).map(worker)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_nearest_node_under_load_fails_no_request() {
    let fleet = SmallFleet::start().await;
    let router = fleet.router().await;
    let done = AtomicUsize::new(0);
    let killer = async {
        wait_until(|| done.load(Ordering::SeqCst) > 40).await;
        fleet.nodes[0].kill().await;
    };
    let requests = load(&router, "aa", 40, &done, |answer| {
        assert_eq!(
            answer.status,
            StatusCode::OK,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        assert_eq!(answer.body.len(), 100_000, "a replayed body is whole");
    });
    tokio::join!(requests, killer);
    assert!(fleet.nodes[0].requests() > 0 && fleet.nodes[1].requests() > 0);
    assert_eq!(fleet.nodes[2].requests(), 0, "outside the boundary");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_boundary_dead_the_answer_is_451_and_nothing_is_sent_outside() {
    let fleet = SmallFleet::start().await;
    let router = fleet.router().await;
    let done = AtomicUsize::new(0);
    let killer = async {
        wait_until(|| done.load(Ordering::SeqCst) > 40).await;
        tokio::join!(fleet.nodes[0].kill(), fleet.nodes[1].kill());
    };
    // While both die, a request may be cut off twice: then it fails, but it is never answered from outside.
    let requests = load(&router, "aa", 40, &done, |answer| {
        assert!([200, 451, 503].contains(&answer.status.as_u16()), "{}", answer.status);
    });
    tokio::join!(requests, killer);
    for _ in 0..5 {
        assert_eq!(router.infer("aa", BERLIN).await.status.as_u16(), 451);
    }
    router.wait_for(&fleet.nodes[0].id, State::Down).await;
    router.wait_for(&fleet.nodes[1].id, State::Down).await;
    let refused = router.infer("aa", BERLIN).await;
    assert_eq!(
        (refused.status.as_u16(), refused.json()["code"].as_str()),
        (451, Some("residency"))
    );
    assert_eq!(fleet.nodes[2].requests(), 0, "outside the boundary");
    assert_eq!(router.infer("bb", BERLIN).await.served_by(), "us-iad/n1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_draining_node_turns_away_is_answered_by_the_next() {
    let fleet = SmallFleet::start().await;
    let router = fleet.router().await;
    fleet.nodes[0].behaviour.draining.store(true, Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(router.infer("aa", BERLIN).await.served_by(), "eu-dub/n1");
    }
    fleet.nodes[1].behaviour.draining.store(true, Ordering::SeqCst);
    let refused = router.infer("aa", BERLIN).await;
    assert!(matches!(refused.status.as_u16(), 451 | 503), "{}", refused.status);
    assert_eq!(fleet.nodes[2].requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_in_the_middle_is_asked_of_the_next_node() {
    let fleet = SmallFleet::start().await;
    let router = fleet.router().await;
    fleet.nodes[0].behaviour.cutting_off.store(true, Ordering::SeqCst);
    let answer = router.infer("aa", BERLIN).await;
    assert_eq!(
        (answer.status, answer.served_by(), answer.body.as_slice()),
        (StatusCode::OK, "eu-dub/n1", &b"body"[..])
    );
    assert_eq!(fleet.nodes[0].requests(), 1);
}

async fn resolve(router: &Router, name: &str, subnet: &str) -> Message {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let mut edns = Edns::new();
    edns.options_mut().insert(EdnsOption::Subnet(subnet.parse().unwrap()));
    query.set_edns(edns);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query.to_vec().unwrap(), router.dns).await.unwrap();
    let mut answer = vec![0; 2048];
    let received = tokio::time::timeout(Duration::from_secs(10), socket.recv_from(&mut answer));
    let (len, _) = received.await.unwrap().unwrap();
    Message::from_vec(&answer[..len]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_names_the_nearest_node_and_nobody_when_the_boundary_is_dead() {
    let fleet = SmallFleet::start().await;
    let router = fleet.router().await;
    let answer = resolve(&router, "eea.infer.meridian.test.", "10.1.0.0/24").await;
    assert_eq!(answer.answers[0].data.to_string(), "127.0.0.1");
    let edns = answer.edns.unwrap();
    let Some(EdnsOption::Subnet(subnet)) = edns.option(EdnsCode::Subnet) else {
        panic!("{edns:?}")
    };
    assert_eq!(subnet.scope_prefix(), 16, "10.1.0.0/16 is one place");
    for node in &fleet.nodes[..2] {
        node.kill().await;
        router.wait_for(&node.id, State::Down).await;
    }
    let nobody = resolve(&router, "eea.infer.meridian.test.", "10.1.0.0/24").await;
    assert!(nobody.answers.is_empty());
    let edns = nobody.edns.unwrap();
    let Some(EdnsOption::Unknown(15, bytes)) = edns.option(EdnsCode::Unknown(15)) else {
        panic!("{edns:?}")
    };
    assert_eq!(bytes[..2], [0, 18]);
    assert_eq!(
        resolve(&router, "infer.meridian.test.", "10.1.0.0/24")
            .await
            .answers
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_follows_the_control_plane_and_survives_its_death_and_its_own_restart() {
    let fleet = SmallFleet::start().await;
    let control_plane = runtime::quic::Server::bind("127.0.0.1:0".parse().unwrap(), &fleet.control_plane()).unwrap();
    let address = control_plane.local_addr();
    let router = fleet.router_following(address).await;
    assert_eq!(router.infer("aa", BERLIN).await.json()["code"], "not-ready");
    let told = async {
        let peer = control_plane.accept().await.unwrap();
        let mut stream = peer.accept().await.unwrap();
        let asked = stream.read::<Question>().await.unwrap().unwrap();
        assert_eq!(
            asked,
            Question::FollowView {
                after_seq: 0,
                tree_size: 0
            }
        );
        for seq in [3, 2] {
            // The second one is older than the first: it is not believed, and the router asks again.
            stream
                .write(&Told::View {
                    view: fleet.view(seq),
                    consistency: Vec::new(),
                })
                .await
                .unwrap();
        }
        let peer = control_plane.accept().await.unwrap();
        let mut stream = peer.accept().await.unwrap();
        let asked = stream.read::<Question>().await.unwrap().unwrap();
        assert_eq!(
            asked,
            Question::FollowView {
                after_seq: 3,
                tree_size: 5
            }
        );
    };
    tokio::time::timeout(Duration::from_secs(20), told)
        .await
        .expect("the router asks");
    wait_until(|| router.seq() == 3).await;
    router.wait_for(&fleet.nodes[0].id, State::Up).await;
    assert_eq!(router.infer("aa", BERLIN).await.served_by(), "eu-fra/n1");
    control_plane.close().await;
    drop(control_plane);
    assert_eq!(router.infer("aa", BERLIN).await.served_by(), "eu-fra/n1");
    assert!(router.stop().await);
    let restarted = fleet.router_following(address).await;
    assert_eq!(restarted.seq(), 3);
    assert_eq!(restarted.infer("aa", BERLIN).await.served_by(), "eu-fra/n1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_on_disk_that_was_tampered_with_is_not_steered_by() {
    let fleet = SmallFleet::start().await;
    geo_router::snapshot::Store::open(&fleet.data())
        .unwrap()
        .keep(&fleet.view(1))
        .unwrap();
    let path = fleet.data().join("view");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 3;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let router = fleet.router_following("127.0.0.1:1".parse().unwrap()).await;
    assert_eq!(router.seq(), 0);
    assert_eq!(router.infer("aa", BERLIN).await.json()["code"], "not-ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_shows_every_node_and_no_key() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let fleet = SmallFleet::start().await;
    let router = fleet.router().await;
    assert_eq!(router.infer("aa", BERLIN).await.status, StatusCode::OK);
    let mut shown = String::new();
    for path in ["/v1/router", "/metrics"] {
        let mut stream = tokio::net::TcpStream::connect(router.plain).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut shown).await.unwrap();
    }
    for wanted in [
        "\"eu-fra/n1\"",
        "\"us-iad/n1\"",
        "\"state\":\"up\"",
        "router_requests_total{outcome=\"Proxied\"} 1",
    ] {
        assert!(shown.contains(wanted), "{wanted} in {shown}");
    }
    assert!(!shown.contains("mk_") && !shown.contains(BERLIN));
}
