//! Calls over gRPC, as bytes on HTTP/2.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::time::Duration;

use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use proto::oip::grpc::{
    HealthRequest, HealthResponse, ModelConfigResponse, ModelMetadataResponse, ModelRequest, ModelStatisticsResponse,
    Prefix, RepositoryIndexResponse,
};
use proto::receipt::{Commitment, Promise};
use proto::signed::PublicKey;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::super::*;
use super::harness::*;

#[derive(Clone, PartialEq, Message)]
struct Infer {
    #[prost(string, tag = "1")]
    model: String,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(map = "string, message", tag = "4")]
    parameters: HashMap<String, Micros>,
    #[prost(message, repeated, tag = "5")]
    tensors: Vec<Tensor>,
    #[prost(bytes = "vec", repeated, tag = "7")]
    raw: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Micros {
    #[prost(int64, tag = "2")]
    us: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Answered {
    #[prost(string, tag = "1")]
    model: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(message, repeated, tag = "5")]
    tensors: Vec<Tensor>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    raw: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Streamed {
    #[prost(string, tag = "1")]
    error: String,
    #[prost(message, optional, tag = "2")]
    answer: Option<Answered>,
}

fn doubles(id: &str, values: &[f32]) -> Infer {
    let rows = i64::try_from(values.len() / 2).unwrap();
    Infer {
        model: "m".to_owned(),
        id: id.to_owned(),
        parameters: HashMap::new(),
        tensors: vec![Tensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![rows, 2],
        }],
        raw: vec![values.iter().flat_map(|v| v.to_le_bytes()).collect()],
    }
}

fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let (compressed, bytes) = (false, message.len());
    [Prefix { compressed, bytes }.encode().unwrap().to_vec(), message]
        .concat()
        .into()
}

/// What a call gave: its messages, and its head and trailers together.
struct Ended {
    messages: Vec<Bytes>,
    said: HeaderMap,
}

impl Ended {
    fn of(&self, name: &str) -> &str {
        self.said.get(name).map_or("", |value| value.to_str().unwrap())
    }
    fn message<M: Message + Default>(&self) -> M {
        assert_eq!(
            (self.of("grpc-status"), self.messages.len()),
            ("0", 1),
            "{:?}",
            self.said
        );
        M::decode(self.messages[0].clone()).unwrap()
    }
}

type Sent = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

async fn connect(node: &Node) -> SendRequest<Sent> {
    let stream = TcpStream::connect(node.address).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    node.lifecycle.spawn("a client", async {
        connection.await.ok();
    });
    sender
}

fn call(name: &str, key: &str) -> http::request::Builder {
    Request::post(format!("http://node/inference.GRPCInferenceService/{name}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {key}"))
}

async fn send(node: &Node, request: http::request::Builder, body: impl Into<Bytes>) -> Ended {
    let request = request.body(Full::new(body.into()).boxed_unsync()).unwrap();
    let answer = connect(node).await.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap();
    let mut said = head.headers;
    said.extend(body.trailers().cloned().unwrap_or_default());
    let mut bytes = body.to_bytes();
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let prefix = proto::oip::grpc::prefix(&bytes).unwrap().unwrap();
        let _prefix = bytes.split_to(5);
        let message = bytes.split_to(prefix.bytes);
        messages.push(if prefix.compressed { unpacked(&message) } else { message });
    }
    Ended { messages, said }
}

fn unpacked(message: &[u8]) -> Bytes {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(message).read_to_end(&mut out).unwrap();
    out.into()
}

async fn infer(node: &Node, asked: &Infer) -> Ended {
    send(node, call("ModelInfer", KEY), framed(asked)).await
}

fn numbers(answered: &Answered) -> Vec<f32> {
    answered.raw[0]
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

#[tokio::test]
async fn a_call_is_answered_as_rest_answers_and_from_the_same_cache() {
    let node = Node::start().await;
    let ended = infer(&node, &doubles("r1", &[1.0, 2.0])).await;
    assert_eq!(ended.of("cache-status"), "meridian; fwd=miss");
    assert!(ended.of("meridian-model").starts_with("m@1 b3:"), "{:?}", ended.said);
    assert_eq!(ended.of("meridian-served-by"), "eu-fra/n1");
    let answered: Answered = ended.message();
    assert_eq!(
        (answered.model.as_str(), answered.version.as_str(), answered.id.as_str()),
        ("m", "1", "r1")
    );
    assert_eq!(numbers(&answered), [2.0, 4.0]);
    assert_eq!(
        (answered.tensors[0].name.as_str(), answered.tensors[0].shape.as_slice()),
        ("y", &[1, 2][..])
    );
    let rest = node.infer(row(1.0, 2.0)).await;
    assert_eq!((rest.header("cache-status"), node.model.count()), ("meridian; hit", 1));
}

#[tokio::test]
async fn a_call_that_asks_for_a_receipt_gets_one_of_its_two_messages_and_a_stream_gets_none() {
    let node = Node::start().await;
    let asked = doubles("r1", &[1.0, 2.0]);
    let request = |name| call(name, KEY).header("meridian-receipt", "?1");
    let ended = send(&node, request("ModelInfer"), framed(&asked)).await;
    let promise = Promise::read(ended.of("meridian-receipt")).unwrap();
    let key = PublicKey::of(&crate::receipt::tests::key());
    let (receipt, _) = proto::receipt::open(&promise.proof, &crate::receipt::tests::fleet(), &key).unwrap();
    assert_eq!(receipt.input, Commitment::of(&promise.key, &asked.encode_to_vec()));
    assert_eq!(receipt.output, Commitment::of(&promise.key, &ended.messages[0]));
    let streamed = send(&node, request("ModelStreamInfer"), framed(&asked)).await;
    assert_eq!((streamed.of("grpc-status"), streamed.messages.len()), ("12", 0));
    assert!(
        streamed.of("grpc-message").contains("ModelInfer"),
        "{:?}",
        streamed.said
    );
}

#[tokio::test]
async fn each_refusal_has_the_status_that_fits_and_rests_sentence() {
    let node = Node::start().await;
    let one = doubles("", &[1.0, 2.0]);
    let wrong = Infer {
        tensors: vec![Tensor {
            shape: vec![1, 3],
            ..one.tensors[0].clone()
        }],
        ..one.clone()
    };
    let unknown = Infer {
        model: "nobody".to_owned(),
        ..one.clone()
    };
    let infer = |key| call("ModelInfer", key);
    let bytes = |bytes: &'static [u8]| Bytes::from_static(bytes);
    for (request, body, status, code, says) in [
        (
            infer("mk_wrong"),
            framed(&one),
            "16",
            "unauthorized",
            "no valid API key",
        ),
        (infer(AMERICAN), framed(&one), "9", "residency", "stays inside `us`"),
        (
            infer(KEY),
            framed(&unknown),
            "5",
            "not_found",
            "Request for unknown model: 'nobody' is not found",
        ),
        (
            infer(KEY),
            framed(&wrong),
            "3",
            "invalid_request",
            "tensor `x`: 2 elements, its shape [1, 3] has 3",
        ),
        (
            infer(KEY),
            framed(&doubles("", &[-1.0, 0.0])),
            "3",
            "invalid_request",
            "negative numbers",
        ),
        (
            infer(KEY),
            bytes(b""),
            "3",
            "invalid_request",
            "the call ended without a message",
        ),
        (
            infer(KEY),
            bytes(b"\0\0\0\0\x09\0"),
            "3",
            "invalid_request",
            "the call ended inside a message",
        ),
        (
            infer(KEY),
            bytes(b"\x02\0\0\0\0"),
            "3",
            "invalid_request",
            "a message begins with 2",
        ),
        (
            infer(KEY),
            bytes(b"\0\xff\0\0\0"),
            "8",
            "too_large",
            "allowed is 33554432",
        ),
        (
            infer(KEY).header("grpc-encoding", "snappy"),
            framed(&one),
            "12",
            "unsupported_encoding",
            "use gzip",
        ),
        (
            infer(KEY).header("grpc-timeout", "soon"),
            framed(&one),
            "3",
            "invalid_request",
            "grpc-timeout",
        ),
        (
            call("SystemSharedMemoryRegister", KEY),
            framed(&()),
            "12",
            "not_implemented",
            "shares no memory",
        ),
        (
            call("RepositoryModelUnload", KEY),
            framed(&proto::oip::grpc::RepositoryModelRequest {
                repository_name: String::new(),
                model_name: "m".to_owned(),
            }),
            "7",
            "forbidden",
            "signed releases",
        ),
        (
            call("Nothing", KEY),
            framed(&()),
            "12",
            "not_implemented",
            "`Nothing` is not answered",
        ),
    ] {
        let ended = send(&node, request, body).await;
        assert_eq!(
            (ended.of("grpc-status"), ended.of("meridian-code")),
            (status, code),
            "{says}"
        );
        assert!(
            ended.of("grpc-message").contains(says),
            "{:?} where {says} was expected",
            ended.said
        );
    }
}

#[tokio::test]
async fn a_call_ends_at_the_shortest_of_its_deadlines_and_is_not_run_later() {
    let node = Node::start().await;
    node.model.hold();
    let first = doubles("", &[1.0, 1.0]);
    let held = infer(&node, &first);
    let late = async {
        node.until_runs(1).await;
        let short = call("ModelInfer", KEY)
            .header("grpc-timeout", "40m")
            .header("meridian-deadline-ms", "9000");
        let ended = send(&node, short, framed(&doubles("", &[2.0, 2.0]))).await;
        assert_eq!(ended.of("grpc-status"), "4");
        let mut timed = doubles("", &[3.0, 3.0]);
        timed.parameters.insert("timeout".to_owned(), Micros { us: 40_000 });
        assert_eq!(infer(&node, &timed).await.of("grpc-status"), "4");
        node.model.release();
    };
    let (held, ()) = tokio::join!(held, late);
    assert_eq!(held.of("grpc-status"), "0");
    node.until_queued(0).await;
    assert_eq!(node.model.count(), 1);
}

#[tokio::test]
async fn a_client_that_compresses_is_read_and_answered_compressed() {
    let node = Node::start().await;
    let asked = doubles("", &[1.0; 1000]).encode_to_vec();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&asked).unwrap();
    let packed = packed.finish().unwrap();
    let prefix = Prefix {
        compressed: true,
        bytes: packed.len(),
    }
    .encode()
    .unwrap();
    let request = call("ModelInfer", KEY).header("grpc-encoding", "gzip");
    let ended = send(&node, request, [prefix.to_vec(), packed].concat()).await;
    assert_eq!(ended.of("grpc-encoding"), "gzip");
    assert_eq!(numbers(&ended.message()), [2.0; 1000]);
    let spoilt = call("ModelInfer", KEY).header("grpc-encoding", "gzip");
    let ended = send(&node, spoilt, Bytes::from_static(b"\x01\0\0\0\x04abcd")).await;
    assert_eq!(ended.of("grpc-message"), "the body is not compressed as its head says");
    let unnamed = send(
        &node,
        call("ModelInfer", KEY),
        Bytes::from_static(b"\x01\0\0\0\x04abcd"),
    )
    .await;
    assert_eq!(unnamed.of("grpc-status"), "3");
}

#[tokio::test]
async fn what_a_model_was_asked_is_told_of_one_or_of_all() {
    let node = Node::start().await;
    for _ in 0..3 {
        let _: Answered = infer(&node, &doubles("", &[1.0, 2.0, 3.0, 4.0])).await.message();
    }
    let name = |name: &str| ModelRequest {
        name: name.to_owned(),
        version: String::new(),
    };
    for asked in [name("m"), name("")] {
        let told = send(&node, call("ModelStatistics", KEY), framed(&asked)).await;
        let told: ModelStatisticsResponse = told.message();
        let stats = &told.model_stats[0];
        assert_eq!(
            (stats.name.as_str(), stats.inference_count, stats.execution_count),
            ("m", 2, 1)
        );
        let parts = stats.inference_stats.unwrap();
        let counts = [parts.success, parts.cache_miss, parts.cache_hit].map(|part| part.unwrap().count);
        assert_eq!((counts, stats.batch_stats[0].batch_size), ([3, 1, 2], 2));
    }
    let gone = send(&node, call("ModelStatistics", KEY), framed(&name("nobody"))).await;
    assert_eq!(gone.of("grpc-status"), "5");
}

#[tokio::test]
async fn servers_and_models_are_described() {
    let node = Node::start().await;
    let asked = ModelRequest {
        name: "m".to_owned(),
        version: "1".to_owned(),
    };
    let model: ModelMetadataResponse = send(&node, call("ModelMetadata", KEY), framed(&asked)).await.message();
    assert_eq!(
        (model.name.as_str(), model.versions.as_slice()),
        ("m", &["1".to_owned()][..])
    );
    assert_eq!(model.inputs[0].shape, [-1, 2]);
    let config: ModelConfigResponse = send(&node, call("ModelConfig", KEY), framed(&asked)).await.message();
    let config = config.config.unwrap();
    assert_eq!((config.max_batch_size, config.input[0].dims.as_slice()), (8, &[2][..]));
    let index: RepositoryIndexResponse = send(&node, call("RepositoryIndex", KEY), framed(&())).await.message();
    assert_eq!(
        (index.models[0].name.as_str(), index.models[0].state.as_str()),
        ("m", "READY")
    );
    let load = send(
        &node,
        call("RepositoryModelLoad", KEY),
        Bytes::from_static(b"\0\0\0\0\x03\x12\x01m"),
    )
    .await;
    assert_eq!(load.of("grpc-status"), "0");
    let other = ModelRequest {
        name: "m".to_owned(),
        version: "2".to_owned(),
    };
    let gone = send(&node, call("ModelMetadata", KEY), framed(&other)).await;
    assert_eq!(gone.of("grpc-status"), "5");
    // Whoever has no key may see that the server lives, and nothing of its models.
    let live = send(&node, call("ServerLive", ""), framed(&())).await;
    assert_eq!(live.messages, [Bytes::from_static(&[8, 1])]);
    node.draining.cancel();
    let ready = send(&node, call("ServerReady", ""), framed(&())).await;
    assert_eq!(ready.messages, [Bytes::new()], "false is written as nothing");
}

/// A call that a test speaks in.
struct Talk {
    say: mpsc::Sender<Bytes>,
    answer: hyper::body::Incoming,
}

impl Talk {
    async fn begin(node: &Node, request: http::request::Builder) -> Self {
        let (say, heard) = mpsc::channel::<Bytes>(8);
        let frames = futures_util::stream::unfold(heard, |mut heard| async move {
            let frame = Frame::data(heard.recv().await?);
            Some((Ok(frame), heard))
        });
        let body = http_body_util::StreamBody::new(frames).boxed_unsync();
        let answer = connect(node)
            .await
            .send_request(request.body(body).unwrap())
            .await
            .unwrap();
        let answer = answer.into_body();
        Self { say, answer }
    }
    async fn say(&self, asked: &Infer) {
        self.say.send(framed(asked)).await.unwrap();
    }
    /// The next message, or the status of the end.
    async fn hear(&mut self) -> Result<Streamed, String> {
        let frame = self.answer.frame().await.unwrap().unwrap();
        match frame.into_data() {
            Ok(data) => Ok(Streamed::decode(data.slice(5..)).unwrap()),
            Err(end) => Err(end.trailers_ref().unwrap()["grpc-status"].to_str().unwrap().to_owned()),
        }
    }
}

#[tokio::test]
async fn a_stream_answers_each_request_when_it_is_done_and_refuses_inside_its_messages() {
    let node = Node::start().await;
    let mut talk = Talk::begin(&node, call("ModelStreamInfer", KEY)).await;
    assert_eq!(numbers(&answer(&mut talk, "a", &[1.0, 1.0]).await), [2.0, 2.0]);
    // What is in the cache overtakes what must be run.
    node.model.hold();
    talk.say(&doubles("slow", &[5.0, 5.0])).await;
    node.until_runs(2).await;
    assert_eq!(answer(&mut talk, "fast", &[1.0, 1.0]).await.id, "fast");
    talk.say(&Infer {
        model: "nobody".to_owned(),
        ..doubles("odd", &[1.0, 1.0])
    })
    .await;
    let refused = talk.hear().await.unwrap();
    assert!(refused.error.contains("'nobody' is not found"), "{refused:?}");
    assert_eq!(refused.answer.unwrap().id, "odd");
    node.model.release();
    assert_eq!(talk.hear().await.unwrap().answer.unwrap().id, "slow");
    drop(talk.say);
    let end = talk.answer.frame().await.unwrap().unwrap();
    assert_eq!(end.trailers_ref().unwrap()["grpc-status"], "0");
    node.until_counted(r#"edge_requests_total{outcome="Answered"} 3"#).await;
}

async fn answer(talk: &mut Talk, id: &str, values: &[f32]) -> Answered {
    talk.say(&doubles(id, values)).await;
    let streamed = talk.hear().await.unwrap();
    assert_eq!(streamed.error, "");
    streamed.answer.unwrap()
}

#[tokio::test]
async fn a_stream_ends_when_its_key_has_none_when_its_time_is_over_and_when_the_node_drains() {
    let node = Node::start().await;
    let none = send(
        &node,
        call("ModelStreamInfer", "mk_wrong"),
        framed(&doubles("", &[1.0, 1.0])),
    )
    .await;
    assert_eq!(none.of("grpc-status"), "16");
    let mut timed = Talk::begin(&node, call("ModelStreamInfer", KEY).header("grpc-timeout", "50m")).await;
    assert_eq!(timed.hear().await.unwrap_err(), "4");
    let mut talk = Talk::begin(&node, call("ModelStreamInfer", KEY)).await;
    talk.say(&doubles("", &[1.0, 1.0])).await;
    talk.hear().await.unwrap();
    node.draining.cancel();
    assert_eq!(talk.hear().await.unwrap_err(), "14");
}

#[tokio::test]
async fn a_client_that_leaves_its_stream_takes_its_requests_with_it() {
    let node = Node::start().await;
    node.model.hold();
    let talk = Talk::begin(&node, call("ModelStreamInfer", KEY)).await;
    talk.say(&doubles("", &[1.0, 1.0])).await;
    node.until_runs(1).await;
    talk.say(&doubles("", &[2.0, 2.0])).await;
    node.until_queued(1).await;
    drop(talk);
    node.until_counted(r#"edge_requests_total{outcome="ClientGone"} 2"#)
        .await;
    node.model.release();
    node.until_queued(0).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(node.model.count(), 1, "the second was never run");
}

#[tokio::test]
async fn a_call_that_cannot_be_answered_in_time_is_told_where_else_to_go() {
    let node = Node::start().await;
    super::elsewhere::told(&node);
    (0..64).for_each(|_| node.slot.pace.learn(1, 0, Duration::from_secs(3)));
    let short = call("ModelInfer", KEY).header("grpc-timeout", "500m");
    let ended = send(&node, short, framed(&doubles("", &[2.0, 2.0]))).await;
    assert_eq!(
        (ended.of("grpc-status"), ended.of("meridian-code")),
        ("4", "deadline_unmeetable")
    );
    assert_eq!(
        ended.of("meridian-elsewhere"),
        "https://192.0.2.2:443, https://192.0.2.4:443"
    );
}

fn health(call: &str) -> http::request::Builder {
    Request::post(format!("http://node/grpc.health.v1.Health/{call}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

fn of_service(service: &str) -> Bytes {
    let service = service.to_owned();
    framed(&HealthRequest { service })
}

#[tokio::test]
async fn health_is_told_to_everybody_and_follows_readiness() {
    let node = Node::start().await;
    let status = async |service: &str| {
        let ended = send(&node, health("Check"), of_service(service)).await;
        ended.message::<HealthResponse>().status
    };
    assert_eq!(
        (status("").await, status("inference.GRPCInferenceService").await),
        (1, 1)
    );
    let unknown = send(&node, health("Check"), of_service("other.Service")).await;
    assert_eq!((unknown.of("grpc-status"), unknown.messages.len()), ("5", 0));
    let odd = send(&node, health("List"), of_service("")).await;
    assert_eq!(odd.of("grpc-status"), "12");
    let garbage = send(&node, health("Check"), Bytes::from_static(b"\0\0\0\0\x01\xff")).await;
    assert_eq!(garbage.of("grpc-status"), "3");
    node.draining.cancel();
    assert_eq!(status("").await, 2);
}

#[tokio::test]
async fn a_watch_tells_each_change_once_and_ends_with_the_node() {
    let node = Node::start().await;
    let ready = node.serving.load();
    node.serving.publish(crate::serving::ServingSet::default());
    let request = health("Watch").body(Full::new(of_service("")).boxed_unsync()).unwrap();
    let mut body = connect(&node).await.send_request(request).await.unwrap().into_body();
    let mut next = async || body.frame().await.unwrap().unwrap();
    let status = |frame: Frame<Bytes>| {
        HealthResponse::decode(frame.into_data().unwrap().slice(5..))
            .unwrap()
            .status
    };
    assert_eq!(status(next().await), 2, "it has no state yet");
    node.serving.publish(crate::serving::ServingSet {
        region: ready.region.clone(),
        ..Default::default()
    });
    assert_eq!(status(next().await), 1);
    node.draining.cancel();
    assert_eq!(status(next().await), 2);
    assert_eq!(next().await.into_trailers().unwrap()["grpc-status"], "14");
}

#[tokio::test]
async fn who_watches_a_service_that_is_not_here_is_told_that_once() {
    let node = Node::start().await;
    let request = health("Watch")
        .body(Full::new(of_service("other")).boxed_unsync())
        .unwrap();
    let mut body = connect(&node).await.send_request(request).await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(HealthResponse::decode(first.slice(5..)).unwrap().status, 3);
    node.draining.cancel();
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
}

#[tokio::test]
async fn there_are_only_so_many_watches_and_a_client_that_leaves_gives_its_place_back() {
    let node = Node::start().await;
    let places = Arc::clone(&node.ingress.0.watches);
    let all = places.available_permits();
    let request = || health("Watch").body(Full::new(of_service("")).boxed_unsync()).unwrap();
    let mut sender = connect(&node).await;
    let first = sender.send_request(request()).await.unwrap();
    assert_eq!(places.available_permits(), all - 1);
    let rest = Arc::clone(&places)
        .try_acquire_many_owned(u32::try_from(all - 1).unwrap())
        .unwrap();
    let refused = send(&node, health("Watch"), of_service("")).await;
    assert_eq!(
        (refused.of("grpc-status"), refused.of("meridian-code")),
        ("8", "queue_full")
    );
    drop((first, rest));
    until("its place to come back", || places.available_permits() >= all).await;
}
