//! One request, one trace: from the client's `traceparent` through router and node to the engine's run.
//!
//! Method: a collector in this process takes OTLP over HTTP from a real router and a real node. Every byte that it gets,
//! and every log, is searched for the payloads and keys of the requests, good and bad, that went through.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fleet::dev::client::{Answer, DevClient};
use fleet::dev::layout::{Folders, REGIONS};
use fleet::dev::smoke::{MODEL, SAMPLE};
use fleet::dev::world::World;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use meridian_tests::fleet::{command, log_of, next_version, until};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use proto::ids::{ContentHash, hex};
use proto::oip::grpc::{PREFIX_BYTES, Prefix};
use runtime::https::{Inbound, PlainListener, serve_plain};
use runtime::lifecycle::Lifecycle;

const NODE: &str = "us-iad/n1";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT_SPAN: &str = "b7ad6b7169203331";
/// Stands in every input, and nowhere else.
const MARKER: &str = "kestrel-4711-payload";
/// A key that nobody has.
const WRONG_KEY: &str = "mk_kestrel4711kestrel4711kestrel4711";

/// A span, as far as it matters here.
#[derive(Clone, Debug)]
struct Seen {
    service: String,
    instance: String,
    id: String,
    parent: String,
}

/// Exports as they came.
type Exports = Arc<Mutex<Vec<Bytes>>>;

async fn collector(lifecycle: &Lifecycle) -> Result<(String, Exports)> {
    let exports = Exports::default();
    let listener = PlainListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.address());
    let got = Arc::clone(&exports);
    let service = service_fn(move |request: Request<Inbound>| {
        let got = Arc::clone(&got);
        async move {
            let body = request.into_body().collect().await.map(|body| body.to_bytes());
            let mut got = got.lock().unwrap_or_else(PoisonError::into_inner);
            got.extend(body);
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }
    });
    serve_plain(listener, lifecycle, service);
    Ok((endpoint, exports))
}

fn all(exports: &Exports) -> Vec<Bytes> {
    exports.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Spans of the trace that were exported so far, by name.
fn spans_of(exports: &Exports, trace: &str) -> Result<BTreeMap<String, Seen>> {
    let mut seen = BTreeMap::new();
    for export in all(exports) {
        for of in ExportTraceServiceRequest::decode(export)?.resource_spans {
            let about = |key: &str| {
                let resource = of.resource.as_ref()?;
                let attribute = resource.attributes.iter().find(|attribute| attribute.key == key)?;
                match attribute.value.as_ref()?.value.as_ref()? {
                    Value::StringValue(text) => Some(text.clone()),
                    _ => None,
                }
            };
            let spans = of.scope_spans.iter().flat_map(|scope| &scope.spans);
            for span in spans.filter(|span| hex(&span.trace_id) == trace) {
                let one = Seen {
                    service: about("service.name").context("a service without a name")?,
                    instance: about("service.instance.id").context("a service without an instance")?,
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                };
                let twice = seen.insert(span.name.clone(), one);
                ensure!(twice.is_none(), "two spans are called {}: {twice:?}", span.name);
            }
        }
    }
    Ok(seen)
}

/// Waits until a trace has spans of all these `names`; gives all it has by then.
async fn spans_arrive(exports: &Exports, trace: &str, names: &[&str]) -> Result<BTreeMap<String, Seen>> {
    until("the spans of a request", async || {
        let spans = spans_of(exports, trace)?;
        let missing = names.iter().find(|name| !spans.contains_key(**name));
        ensure!(missing.is_none(), "no span {missing:?} in {:?}", spans.keys());
        Ok(spans)
    })
    .await
}

async fn ask(client: &DevClient, trace: &str, body: String) -> Result<Answer> {
    let request = Request::post(format!("/v2/models/{MODEL}/infer"))
        .header("traceparent", format!("00-{trace}-{CLIENT_SPAN}-01"));
    client.send(request, Bytes::from(body)).await
}

async fn one_trace_goes_from_the_client_through_router_and_node_to_the_engine(
    world: &World,
    exports: &Exports,
) -> Result<()> {
    let client = world.through_router(REGIONS[2].client, "world")?;
    let answer = ask(&client, TRACE, SAMPLE.replace("sys.argv", MARKER)).await?;
    ensure!(answer.status.is_success(), "{}", answer.status);
    ensure!(answer.header("meridian-served-by") == NODE, "{:?}", answer.headers);
    let names = ["route", "infer", "queue", "batch.run", "engine.run"];
    let spans = spans_arrive(exports, TRACE, &names).await?;
    let (route, infer) = (&spans["route"], &spans["infer"]);
    let (queue, batch, run) = (&spans["queue"], &spans["batch.run"], &spans["engine.run"]);
    ensure!(route.parent == CLIENT_SPAN, "{route:?}");
    ensure!(infer.parent == route.id, "{infer:?} is no child of {route:?}");
    ensure!(queue.parent == infer.id, "{queue:?} is no child of {infer:?}");
    ensure!(batch.parent == infer.id, "{batch:?} is no child of {infer:?}");
    ensure!(run.parent == batch.id, "{run:?} is no child of {batch:?}");
    ensure!(route.service == "geo-router", "{route:?}");
    for span in [infer, queue, batch, run] {
        ensure!(
            (span.service.as_str(), span.instance.as_str()) == ("edge-node", &format!("node/{NODE}")),
            "{span:?}"
        );
    }
    // Nothing hangs beside the tree.
    let ids: Vec<&str> = spans
        .values()
        .map(|span| span.id.as_str())
        .chain([CLIENT_SPAN])
        .collect();
    let orphan = spans.values().find(|span| !ids.contains(&span.parent.as_str()));
    ensure!(orphan.is_none(), "{orphan:?}");
    Ok(())
}

async fn no_payload_and_no_key_is_in_any_span_or_log(world: &World, exports: &Exports) -> Result<()> {
    // What goes wrong is told in more words than what goes well.
    let cut_off = SAMPLE.replace("sys.argv", MARKER).replace("}]}", "");
    let misshapen = SAMPLE.replace("sys.argv", MARKER).replace("[1]", "[7]");
    let misnamed = SAMPLE.replace("\"file\"", &format!("\"{MARKER}\""));
    let client = world.through_router(REGIONS[2].client, "world")?;
    for (n, body) in [cut_off, misshapen, misnamed].into_iter().enumerate() {
        let trace = format!("{:032x}", n + 1);
        let status = ask(&client, &trace, body).await?.status;
        ensure!(status.is_client_error(), "answered {status}");
        spans_arrive(exports, &trace, &["route", "infer"]).await?;
    }
    let ca = std::fs::read_to_string(world.folders.home().join("ca/ca.pem"))?;
    let stranger = DevClient::new(
        REGIONS[2].client,
        world.addresses.http,
        "infer.meridian.test",
        &ca,
        WRONG_KEY,
    )?;
    let trace = format!("{:032x}", 9);
    let status = ask(&stranger, &trace, SAMPLE.replace("sys.argv", MARKER)).await?.status;
    ensure!(status == 401, "a key that nobody has was answered {status}");
    spans_arrive(exports, &trace, &["route"]).await?;
    let key = world.keys.get("world").context("a key")?;
    let key_hash = ContentHash::of(key.as_bytes()).hex();
    let parts = ["geo-router", NODE, "control-plane"].map(|part| Bytes::from(log_of(world, part)));
    for told in all(exports).iter().chain(&parts) {
        for secret in [MARKER, key, &key_hash, WRONG_KEY] {
            let found = told.windows(secret.len()).any(|window| window == secret.as_bytes());
            ensure!(!found, "`{secret}` was told: {}", String::from_utf8_lossy(told));
        }
    }
    Ok(())
}

async fn people_see_where_the_time_goes_and_what_it_costs(world: &World) -> Result<()> {
    let client = world.through_router(REGIONS[2].client, "world")?;
    let answer = ask(&client, &format!("{:032x}", 77), SAMPLE.to_owned()).await?;
    let timing = answer.header("server-timing");
    let parts: Option<Vec<(&str, f64)>> = timing
        .split(", ")
        .map(|part| {
            part.split_once(";dur=")
                .and_then(|(name, ms)| Some((name, ms.parse().ok()?)))
        })
        .collect();
    let (total, stages): (Vec<_>, Vec<_>) = parts
        .context("stages")?
        .into_iter()
        .partition(|(name, _)| *name == "total");
    let (total, sum) = (total[0].1, stages.iter().map(|(_, ms)| ms).sum::<f64>());
    ensure!((sum / total - 1.0).abs() < 0.02, "the stages sum to {sum}: {timing}");
    let diagnosis = command(world, &["--json", "diagnose", NODE, "--seconds", "1"]).await?;
    let diagnosis: serde_json::Value = serde_json::from_str(&diagnosis)?;
    ensure!(
        diagnosis["node"] == NODE && diagnosis["stages"].is_array(),
        "{diagnosis}"
    );
    let prices = world.folders.home().join("prices.toml");
    std::fs::write(&prices, "currency = \"EUR\"\n[class.cpu]\ncore-hour = 0.041\n")?;
    let bill = command(world, &["--json", "cost", "--prices", &prices.to_string_lossy()]).await?;
    let bill: serde_json::Value = serde_json::from_str(&bill)?;
    let line = bill["lines"]
        .as_array()
        .and_then(|lines| lines.iter().find(|line| line["tenant"] == "world"));
    let line = line.with_context(|| format!("a line of the tenant: {bill}"))?;
    ensure!(
        line["predictions"].as_u64() > Some(0) && line["all_in_per_1000"].as_f64() > Some(0.0),
        "{bill}"
    );
    Ok(())
}

/// What of `ModelInferRequest` a text needs.
#[derive(Clone, PartialEq, Message)]
struct Infer {
    #[prost(string, tag = "1")]
    model: String,
    #[prost(message, repeated, tag = "5")]
    tensors: Vec<Tensor>,
    #[prost(bytes = "vec", repeated, tag = "7")]
    raw: Vec<Vec<u8>>,
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

/// What of `ModelInferResponse` is compared.
#[derive(Clone, PartialEq, Message)]
struct Answered {
    #[prost(message, repeated, tag = "5")]
    tensors: Vec<Tensor>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    raw: Vec<Vec<u8>>,
}

/// `text` as the one input of a model, of `rows` rows as it says.
fn asked(model: &str, text: &str, rows: i64) -> Infer {
    let length = u32::try_from(text.len()).expect("a short text").to_le_bytes();
    Infer {
        model: model.to_owned(),
        tensors: vec![Tensor {
            name: "file".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![rows],
        }],
        raw: vec![[&length[..], text.as_bytes()].concat()],
    }
}

async fn call(client: &DevClient, path: &str, named: Option<&str>, message: &impl Message) -> Result<Answer> {
    let bytes = message.encode_to_vec();
    let (compressed, length) = (false, bytes.len());
    let prefix = Prefix {
        compressed,
        bytes: length,
    };
    let prefix = prefix.encode().context("a short message")?;
    let mut request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(model) = named {
        request = request.header("meridian-model", model);
    }
    client.send(request, [&prefix[..], &bytes].concat().into()).await
}

async fn a_call_over_grpc_goes_through_the_router_and_is_told_what_rest_is_told(world: &World) -> Result<()> {
    const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
    let client = world.through_router(REGIONS[2].client, "world")?;
    let rest = client.infer(MODEL, &Bytes::from_static(SAMPLE.as_bytes())).await?;
    let rest: serde_json::Value = serde_json::from_slice(&rest.body)?;
    let text = "#!/usr/bin/env python3\nimport sys\nprint(sys.argv)\n";
    for named in [None, Some(MODEL)] {
        let answer = call(&client, INFER, named, &asked(MODEL, text, 1)).await?;
        ensure!(answer.header("grpc-status") == "0", "{:?}", answer.headers);
        ensure!(answer.header("meridian-model").starts_with(MODEL) && !answer.header("via").is_empty());
        ensure!(named.is_none() || answer.header("meridian-served-by") == NODE);
        let answered = Answered::decode(answer.body.slice(PREFIX_BYTES..))?;
        let place = answered.tensors.iter().position(|tensor| tensor.datatype == "FP32");
        let place = place.context("numbers")?;
        let numbers = answered.raw[place].chunks_exact(4);
        let numbers = numbers.map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("four bytes"))));
        let same = rest["outputs"][place]["data"].as_array().context("numbers")?;
        let same = same.iter().filter_map(serde_json::Value::as_f64);
        // REST writes the shortest decimals that give the same 32 bits.
        ensure!(
            numbers.zip(same).all(|(a, b)| (a - b).abs() <= a.abs() * 1e-7),
            "{rest}"
        );
    }
    let ca = std::fs::read_to_string(world.folders.home().join("ca/ca.pem"))?;
    let at = (REGIONS[2].client, world.addresses.http);
    let stranger = DevClient::new(at.0, at.1, "infer.meridian.test", &ca, WRONG_KEY)?;
    for (client, named, message, status, says) in [
        (
            &client,
            None,
            asked("nobody", text, 1),
            "5",
            "Request for unknown model: 'nobody'",
        ),
        (
            &client,
            Some("nobody"),
            asked("nobody", text, 1),
            "5",
            "Request for unknown model: 'nobody'",
        ),
        (&client, Some(MODEL), asked(MODEL, text, 7), "3", "tensor `file`"),
        (&stranger, Some(MODEL), asked(MODEL, text, 1), "16", "key"),
    ] {
        let answer = call(client, INFER, named, &message).await?;
        let told = (answer.header("grpc-status"), answer.header("grpc-message"));
        ensure!(
            answer.status == 200 && told.0 == status && told.1.contains(says),
            "{told:?}"
        );
    }
    let health = call(&stranger, "/grpc.health.v1.Health/Check", None, &()).await?;
    ensure!(health.header("grpc-status") == "0" && health.body.ends_with(&[8, 1]));
    Ok(())
}

/// Lets the router and one node send their spans to `endpoint`.
async fn trace_to(world: &mut World, endpoint: &str) -> Result<()> {
    let files = [
        world.folders.router().join("router.toml"),
        world.folders.node(NODE).join("node.toml"),
    ];
    for file in files {
        let mut file = std::fs::File::options().append(true).open(file)?;
        write!(file, "\n[telemetry]\notlp = \"{endpoint}\"\nlog = \"debug\"\n")?;
    }
    world.stop_node(NODE).await?;
    world.start_node_named(NODE).await?;
    world.restart_router().await?;
    until("the router to find the node", async || {
        let client = world.through_router(REGIONS[2].client, "world")?;
        let answer = client.infer(MODEL, &Bytes::from_static(SAMPLE.as_bytes())).await?;
        ensure!(
            answer.header("meridian-served-by") == NODE,
            "{} {:?}",
            answer.status,
            answer.headers
        );
        Ok(())
    })
    .await
}

#[test]
fn one_trace_spans_router_node_and_engine_and_tells_no_payload_and_no_key() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut world = World::up(Folders::new(folder.path()).expect("folders"), false, |_| {})
            .await
            .expect("the fleet starts");
        next_version(&world, "to be traced").await.expect("it serves");
        let lifecycle = Lifecycle::new();
        let (endpoint, exports) = collector(&lifecycle).await.expect("a collector");
        trace_to(&mut world, &endpoint)
            .await
            .expect("router and node start again");
        one_trace_goes_from_the_client_through_router_and_node_to_the_engine(&world, &exports)
            .await
            .expect("one trace");
        no_payload_and_no_key_is_in_any_span_or_log(&world, &exports)
            .await
            .expect("nothing is told");
        people_see_where_the_time_goes_and_what_it_costs(&world)
            .await
            .expect("seen");
        a_call_over_grpc_goes_through_the_router_and_is_told_what_rest_is_told(&world)
            .await
            .expect("gRPC passes");
        world.down().await.expect("all parts stop");
        assert!(lifecycle.stop(Duration::from_secs(10)).await);
    });
}
