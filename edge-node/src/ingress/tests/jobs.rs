use std::path::Path;

use super::super::*;
use super::harness::*;
use crate::jobs::ledger::Bounds;
use crate::jobs::webhook::{Allowed, Sender};
use crate::jobs::{JobsConfig, webhook, worker};
use crate::testing::{Doubler, slot_with};

const INFER: &str = "/v2/models/m/infer";

pub(super) fn open(folder: &Path, metrics: &Metrics) -> Jobs {
    let config = JobsConfig {
        bounds: Bounds {
            count_max: 200,
            bytes_max: 1 << 20,
            queue_ttl: std::time::Duration::from_secs(60),
            result_ttl: std::time::Duration::from_secs(60),
        },
        at_once: 2,
        webhooks: vec![Allowed::parse("https://localhost:1/hooks/").unwrap()],
        webhook_ca: folder.join("ca.pem"),
        folder: folder.to_owned(),
    };
    Jobs::open("eu-fra/n1".parse().unwrap(), config, metrics.clone()).unwrap()
}

fn later(key: &str) -> http::request::Builder {
    post(key).header("prefer", "respond-async")
}

impl Node {
    fn jobs(&self) -> Jobs {
        self.ingress.0.parts.jobs.clone().unwrap()
    }
    fn work(&self) {
        let work = worker::work(self.jobs(), self.ingress.clone(), self.draining.clone());
        self.lifecycle.spawn("jobs", work);
    }
    async fn submit(&self, body: String) -> String {
        let got = self.send(later(KEY), INFER, body).await;
        assert_eq!(got.status, 202, "{:?}", got.body);
        got.header("location").to_owned()
    }
    async fn page(&self, key: &str, path: &str) -> Got {
        let request = Request::get("/").header("authorization", format!("Bearer {key}"));
        self.send(request, path, Bytes::new()).await
    }
    async fn until_state(&self, location: &str, state: &str) -> serde_json::Value {
        loop {
            let told = self.page(KEY, location).await.json();
            if told["state"] == state {
                return told;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test]
async fn a_job_gives_the_answer_that_the_direct_request_gives() {
    let node = Node::start().await;
    let got = node.send(later(KEY), INFER, row(1.5, 2.0)).await;
    assert_eq!((got.status, got.header("preference-applied")), (202, "respond-async"));
    let location = got.header("location").to_owned();
    assert!(location.starts_with("/v1/jobs/eu-fra:n1:"), "{location}");
    assert_eq!((got.json()["state"].as_str(), node.model.count()), (Some("queued"), 0));
    let early = node.page(KEY, &format!("{location}/result")).await;
    assert_eq!((early.status, early.code().as_str()), (409, "job_unfinished"));
    node.work();
    let told = node.until_state(&location, "done").await;
    let kept = node.page(KEY, told["result"].as_str().unwrap()).await;
    let direct = node
        .send(post(KEY).header("cache-control", "no-cache"), INFER, row(1.5, 2.0))
        .await;
    assert_eq!((kept.status, direct.status, &kept.body), (200, 200, &direct.body));
    for name in ["content-type", "meridian-model", "meridian-served-by"] {
        assert_eq!(kept.header(name), direct.header(name), "{name}");
    }
    node.until_counted(r#"edge_jobs{state="done"} 1"#).await;
    let delete = Request::delete("/").header("authorization", format!("Bearer {KEY}"));
    assert_eq!(node.send(delete, &location, Bytes::new()).await.status, 204);
    assert_eq!(node.page(KEY, &location).await.status, 404);
}

#[tokio::test]
async fn a_binary_and_packed_body_is_run_as_it_was_sent() {
    use std::io::Write;
    let node = Node::start().await;
    node.work();
    let json = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}],"parameters":{"binary_data_output":true}}"#;
    let mut body = json.as_bytes().to_vec();
    body.extend([3.0_f32, 4.0].iter().flat_map(|v| v.to_le_bytes()));
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&body).unwrap();
    let packed = packer.finish().unwrap();
    let head = |request: http::request::Builder| {
        request
            .header("content-encoding", "gzip")
            .header("inference-header-content-length", json.len())
    };
    let got = node.send(head(later(KEY)), INFER, packed.clone()).await;
    let told = node.until_state(got.header("location"), "done").await;
    let kept = node.page(KEY, told["result"].as_str().unwrap()).await;
    let direct = node.send(head(post(KEY)), INFER, packed).await;
    assert_eq!(kept.body, direct.body);
    let length = "inference-header-content-length";
    assert!(!kept.header(length).is_empty() && kept.header(length) == direct.header(length));
}

#[tokio::test]
async fn what_a_client_did_wrong_is_said_at_once_and_nothing_is_kept() {
    let node = Node::start().await;
    let ask = async |request: http::request::Builder, path: &str, body: &str| {
        let got = node.send(request, path, body.to_owned()).await;
        (got.status, got.code())
    };
    let good = row(1.0, 1.0);
    assert_eq!(ask(later("mk_x"), INFER, &good).await.0, 401);
    assert_eq!(ask(later(AMERICAN), INFER, &good).await.0, 451);
    assert_eq!(ask(later(KEY), "/v2/models/none/infer", &good).await.0, 404);
    assert_eq!(ask(later(KEY), INFER, "{").await.0, 400);
    assert_eq!(ask(later(KEY), INFER, &good.replace("[1,2]", "[1,3]")).await.0, 400);
    assert_eq!(
        ask(later(KEY).header("idempotency-key", "k".repeat(256)), INFER, &good)
            .await
            .0,
        400
    );
    let hook = later(KEY).header("meridian-webhook", "https://169.254.169.254/latest/");
    assert_eq!(ask(hook, INFER, &good).await, (422, "webhook_not_allowed".to_owned()));
    assert_eq!(node.page(KEY, "/v1/jobs").await.json()["total"], 0);
}

#[tokio::test]
async fn the_same_idempotency_key_and_body_is_the_same_job_and_another_body_is_refused() {
    let node = Node::start().await;
    let ask = async |key: &str, body: String| {
        node.send(later(key).header("idempotency-key", "k 1"), INFER, body)
            .await
    };
    let first = ask(KEY, row(1.0, 1.0)).await;
    let again = ask(KEY, row(1.0, 1.0)).await;
    assert_eq!(
        (again.status, again.header("location")),
        (202, first.header("location"))
    );
    let other = ask(KEY, row(2.0, 1.0)).await;
    assert_eq!((other.status, other.code().as_str()), (422, "idempotency_mismatch"));
    assert_ne!(
        ask(OTHER, row(2.0, 1.0)).await.header("location"),
        first.header("location")
    );
    node.work();
    node.until_state(first.header("location"), "done").await;
    let after = ask(KEY, row(1.0, 1.0)).await;
    assert_eq!((after.status, after.json()["state"].as_str()), (200, Some("done")));
    assert_eq!(node.page(KEY, "/v1/jobs").await.json()["total"], 1);
}

#[tokio::test]
async fn a_job_of_another_tenant_is_no_job_and_one_that_may_not_lie_here_is_erased() {
    let node = Node::start().await;
    let location = node.submit(row(1.0, 1.0)).await;
    for path in [location.clone(), format!("{location}/result")] {
        assert_eq!(node.page(OTHER, &path).await.status, 404);
    }
    assert_eq!(node.page(OTHER, "/v1/jobs").await.json()["total"], 0);
    let delete = Request::delete("/").header("authorization", format!("Bearer {OTHER}"));
    assert_eq!(node.send(delete, &location, Bytes::new()).await.status, 404);
    let mut moved = set(&[Arc::clone(&node.slot)]);
    moved
        .tenants
        .values_mut()
        .for_each(|tenant| tenant.boundary = "us".parse().unwrap());
    node.serving.publish(moved);
    assert_eq!(
        node.page(KEY, &location).await.status,
        451,
        "before anything of it is read"
    );
    node.work();
    node.until_counted(r#"edge_jobs{state="queued"} 0"#).await;
    node.serving.publish(set(&[Arc::clone(&node.slot)]));
    assert_eq!((node.page(KEY, &location).await.status, node.model.count()), (404, 0));
}

#[tokio::test]
async fn a_model_that_is_gone_is_waited_for() {
    let node = Node::start().await;
    let got = node
        .send(later(KEY), "/v2/models/m/versions/1/infer", row(1.0, 1.0))
        .await;
    let location = got.header("location").to_owned();
    node.serving
        .publish(set(&[slot_with("m", 2, Arc::new(Doubler::default()))]));
    node.work();
    let waits = loop {
        let told = node.page(KEY, &location).await.json();
        if told["error"].is_object() {
            break told;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    };
    assert_eq!(
        (waits["state"].as_str(), waits["attempts"].as_u64()),
        (Some("queued"), Some(0))
    );
    assert!(
        waits["error"]["error"].as_str().unwrap().contains("serves version 2"),
        "{waits}"
    );
    node.serving.publish(set(&[Arc::clone(&node.slot)]));
    node.until_state(&location, "done").await;
}

#[tokio::test]
async fn an_input_that_the_model_refuses_is_a_dead_letter_at_once() {
    let node = Node::start().await;
    let location = node.submit(row(-1.0, 1.0)).await;
    node.work();
    let told = node.until_state(&location, "failed").await;
    assert_eq!(
        (told["attempts"].as_u64(), told["error"]["status"].as_u64()),
        (Some(1), Some(400))
    );
    let dead = node.page(KEY, "/v1/jobs?state=dead").await.json();
    assert_eq!(
        (dead["total"].as_u64(), &dead["jobs"][0]["location"]),
        (Some(1), &location.as_str().into())
    );
    let result = node.page(KEY, &format!("{location}/result")).await;
    assert_eq!((result.status, result.code().as_str()), (400, "job_failed"));
}

#[tokio::test]
async fn requests_go_before_jobs_that_wait() {
    let node = Node::with(bounds()).await;
    for n in 0_u16..20 {
        node.submit(row(f32::from(n), 1.0)).await;
    }
    node.model.hold();
    node.work();
    node.until_runs(1).await;
    // Two begin while nobody waits, in one run or the second behind the first; once somebody waits, none is let in.
    while node.model.rows_most.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let in_run = u32::try_from(node.model.rows_most.load(std::sync::atomic::Ordering::SeqCst)).unwrap();
    node.until_queued(2 - in_run).await;
    let direct = node.send(post(KEY).header("cache-control", "no-cache"), INFER, row(9.5, 1.0));
    let checked = async {
        node.until_queued(3 - in_run).await;
        node.model.release();
    };
    let (direct, ()) = tokio::join!(direct, checked);
    assert_eq!(direct.status, 200);
    let running = node.model.count();
    assert!(
        running <= 4,
        "{running} runs went before a request that came after one job began"
    );
}

#[tokio::test]
async fn what_was_accepted_is_run_after_a_restart_and_bounds_hold() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Metrics::new(&mut runtime::metrics::Metrics::new());
    let node = Node::start().await;
    let jobs = open(folder.path(), &metrics);
    let submission = |n: u8| crate::jobs::Submission {
        tenant: "acme".parse().unwrap(),
        ask: crate::jobs::record::Ask {
            model: "m".to_owned(),
            version: None,
            encoding: None,
            json_bytes: None,
            bypass: false,
        },
        body: row(f32::from(n), 1.0).into(),
        twin: None,
        webhook: None,
    };
    let (first, _) = jobs.submit(submission(1)).await.unwrap();
    for n in 2..=100 {
        jobs.submit(submission(n)).await.unwrap();
    }
    assert!(
        jobs.submit(submission(101)).await.is_err(),
        "one tenant has half of them"
    );
    drop(jobs);
    let jobs = open(folder.path(), &metrics);
    let tenant = "acme".parse().unwrap();
    assert_eq!(jobs.list(&tenant, None, 5).1, 100);
    let drain = CancellationToken::new();
    let work = worker::work(jobs.clone(), node.ingress.clone(), drain.clone());
    let done = async {
        while jobs.list(&tenant, Some(crate::jobs::record::State::Done), 1).1 < 100 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        drain.cancel();
    };
    tokio::join!(work, done);
    assert!(jobs.answer(first).await.unwrap().unwrap().body.starts_with(b"{"));
    let files = std::fs::read_dir(folder.path().join("files")).unwrap().count();
    assert_eq!(files, 100, "an answer each, no body");
}

/// A receiver of webhooks with a certificate for `localhost`: answers 500 once, then 200, and keeps what it got.
mod receiver {
    pub(super) use std::sync::Mutex;

    use http_body_util::BodyExt;

    use super::*;

    pub(super) type Got = Arc<Mutex<Vec<(http::HeaderMap, Bytes)>>>;

    #[derive(Clone)]
    pub(super) struct Receiver(pub(super) Got);

    impl Service<Request<runtime::https::Inbound>> for Receiver {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

        fn call(&self, request: Request<runtime::https::Inbound>) -> Self::Future {
            let got = Arc::clone(&self.0);
            Box::pin(async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let mut got = got.lock().unwrap();
                got.push((head.headers, body));
                let status = if got.len() == 1 { 500 } else { 200 };
                Ok(Response::builder().status(status).body(full(Bytes::new())).unwrap())
            })
        }
    }
}

#[tokio::test]
async fn a_webhook_tells_the_end_signed_until_it_is_confirmed() {
    use ed25519_dalek::{Signature, SigningKey, Verifier};
    let folder = tempfile::tempdir().unwrap();
    let ca = runtime::identity::Ca::create(&"test".parse().unwrap(), &folder.path().join("ca")).unwrap();
    ca.issue_ingress(&["localhost".to_owned()], 1)
        .unwrap()
        .write(&folder.path().join("tls"))
        .unwrap();
    let (certificate, key) = (folder.path().join("tls/cert.pem"), folder.path().join("tls/key.pem"));
    let tls = runtime::https::ServerTls::load(&certificate, &key, None).unwrap();
    let node = Node::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let got = receiver::Got::default();
    runtime::https::serve(
        listener,
        Some(tls),
        &node.lifecycle,
        receiver::Receiver(Arc::clone(&got)),
    )
    .unwrap();
    let metrics = Metrics::new(&mut runtime::metrics::Metrics::new());
    std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    let mut config = open(&folder.path().join("other"), &metrics).config().clone();
    config.folder = folder.path().join("jobs");
    config.webhooks = vec![Allowed::parse(&format!("https://localhost:{port}/hooks")).unwrap()];
    let jobs = Jobs::open("eu-fra/n1".parse().unwrap(), config, metrics).unwrap();
    let signing = SigningKey::from_bytes(&[7; 32]);
    let sender = Sender::new(signing.clone(), &folder.path().join("ca.pem")).unwrap();
    let submission = crate::jobs::Submission {
        tenant: "acme".parse().unwrap(),
        ask: crate::jobs::record::Ask {
            model: "m".to_owned(),
            version: None,
            encoding: None,
            json_bytes: None,
            bypass: false,
        },
        body: row(1.0, 1.0).into(),
        twin: None,
        webhook: Some(format!("https://localhost:{port}/hooks/a?b=c")),
    };
    let (key, _) = jobs.submit(submission).await.unwrap();
    let work = worker::work(jobs.clone(), node.ingress.clone(), node.draining.clone());
    node.lifecycle.spawn("jobs", work);
    let drain = node.lifecycle.drain().clone();
    node.lifecycle
        .spawn("webhooks", webhook::deliver(jobs.clone(), sender, drain));
    let tenant = "acme".parse().unwrap();
    let told = |record: crate::jobs::record::Record| record.hook.unwrap().progress;
    while told(jobs.get(key, &tenant).unwrap()) != crate::jobs::record::Progress::Sent {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let got = got.lock().unwrap().clone();
    assert_eq!(got.len(), 2, "once more after a 500");
    let text = |n: usize, name: &str| got[n].0[name].to_str().unwrap().to_owned();
    assert_eq!(text(0, "webhook-id"), text(1, "webhook-id"));
    let body = std::str::from_utf8(&got[1].1).unwrap();
    let signed = format!("{}.{}.{body}", text(1, "webhook-id"), text(1, "webhook-timestamp"));
    let signature = text(1, "webhook-signature");
    use base64::Engine as _;
    let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    let signature = Signature::from_slice(&decode(signature.strip_prefix("v1a,").unwrap())).unwrap();
    let public = decode(webhook::public_key(&signing).strip_prefix("whpk_").unwrap());
    let public = ed25519_dalek::VerifyingKey::from_bytes(&public.try_into().unwrap()).unwrap();
    public.verify(signed.as_bytes(), &signature).unwrap();
    let event: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (event["specversion"].as_str(), event["data"]["state"].as_str()),
        (Some("1.0"), Some("done"))
    );
    assert!(!body.contains("outputs"), "nothing of the answer is told");
}
