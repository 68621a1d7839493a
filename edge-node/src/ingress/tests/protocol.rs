use std::io::Write;

use super::harness::*;

#[tokio::test]
async fn a_json_request_of_any_content_type_is_answered_in_json_with_its_id_and_story() {
    let node = Node::start().await;
    let body = row(1.5, 2.0).replacen('{', r#"{"id":"42","#, 1);
    let request = post(KEY).header("content-type", "application/x-www-form-urlencoded");
    let got = node.send(request, "/v2/models/m/versions/1/infer", body).await;
    let want = r#"{"model_name":"m","model_version":"1","id":"42","outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[3.0,4.0]}]}"#;
    assert_eq!((got.status, std::str::from_utf8(&got.body).unwrap()), (200, want));
    assert_eq!(got.header("content-type"), "application/json");
    assert_eq!(got.header("meridian-model"), format!("m@1 {}", node.slot.manifest_id));
    assert_eq!(got.header("meridian-served-by"), "eu-fra/n1");
    assert_eq!(got.header("cache-status"), "meridian; fwd=miss");
}

/// Parts of a `Server-Timing`, milliseconds, and the total it tells.
fn timing(got: &Got) -> (Vec<(&str, f64)>, f64) {
    let mut parts: Vec<(&str, f64)> = got
        .header("server-timing")
        .split(", ")
        .map(|part| part.split_once(";dur=").unwrap())
        .map(|(name, ms)| (name, ms.parse().unwrap()))
        .collect();
    let (name, total) = parts.pop().unwrap();
    assert_eq!(name, "total");
    (parts, total)
}

#[tokio::test]
async fn the_parts_of_server_timing_follow_the_request_and_sum_to_its_total() {
    let node = Node::start().await;
    for (origin, all) in [("fwd=miss", true), ("hit", false)] {
        let began = runtime::clock::instant();
        let got = node.infer(row(1.5, 2.0)).await;
        let whole_ms = began.elapsed().as_secs_f64() * 1e3;
        assert!(got.header("cache-status").ends_with(origin));
        let (parts, total) = timing(&got);
        let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        assert!(
            ["route", "queue", "batch", "exec", "encode"]
                .iter()
                .filter(|n| names.contains(n))
                .eq(names.iter())
        );
        assert_eq!(names.contains(&"exec"), all, "{names:?}");
        let sum: f64 = parts.iter().map(|(_, ms)| ms).sum();
        assert!(
            (sum - total).abs() < 1e-6 && total <= whole_ms,
            "{sum} {total} {whole_ms}"
        );
    }
    let metrics = node.get("/metrics").await;
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(text.contains("edge_request_seconds_count 2"), "{text}");
    assert!(text.contains(r#"edge_stage_seconds_count{stage="exec"} 1"#), "{text}");
    assert!(text.contains(r#"edge_stage_seconds_count{stage="route"} 2"#), "{text}");
}

#[tokio::test]
async fn the_fleet_sees_what_each_tenant_had_of_each_model() {
    let node = Node::start().await;
    for key in [KEY, KEY, OTHER] {
        let answer = node.send(post(key), "/v2/models/m/infer", row(1.0, 2.0)).await;
        assert_eq!(answer.status, 200);
    }
    let page = node.get("/v1/usage").await.json();
    let line = |tenant: &str| {
        let lines = page["lines"].as_array().unwrap();
        lines.iter().find(|line| line["tenant"] == tenant).unwrap().clone()
    };
    let of = |tenant: &str, what: &str| line(tenant)[what].as_u64().unwrap();
    let counts = ["requests", "predictions", "kept"];
    assert_eq!(counts.map(|what| of("acme", what)), [2, 2, 1]);
    assert_eq!(counts.map(|what| of("other", what)), [1, 1, 0]);
}

#[tokio::test]
async fn binary_tensors_go_in_and_out_and_share_the_cache_with_json() {
    let node = Node::start().await;
    let values = [1.0_f32, 2.0].map(f32::to_le_bytes).concat();
    let json = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}],"outputs":[{"name":"y","parameters":{"binary_data":true}}]}"#;
    let request = post(KEY).header("inference-header-content-length", json.len());
    let got = node
        .send(request, "/v2/models/m/infer", [json.as_bytes(), &values].concat())
        .await;
    let length: usize = got.header("inference-header-content-length").parse().unwrap();
    assert_eq!(
        (got.status, got.header("content-type")),
        (200, "application/octet-stream")
    );
    assert_eq!(got.body[length..], [2.0_f32, 4.0].map(f32::to_le_bytes).concat());
    let asked = r#""outputs":[{"name":"y"}],"#;
    let again = node.infer(&row(1.0, 2.0).replacen('{', &format!("{{{asked}"), 1)).await;
    assert_eq!((again.header("cache-status"), node.model.count()), ("meridian; hit", 1));
    let raw = post(KEY).header("inference-header-content-length", 0);
    let raw = node
        .send(
            raw,
            "/v2/models/m/infer",
            [1.0_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat(),
        )
        .await;
    assert!(
        String::from_utf8_lossy(&raw.body).contains(r#""shape":[2,2]"#),
        "{:?}",
        raw.body
    );
}

#[tokio::test]
async fn classes_are_told_by_score_and_index() {
    let node = Node::start().await;
    let asked = r#"{"outputs":[{"name":"y","parameters":{"classification":1}}],"#;
    let got = node.infer(&row(1.0, 2.0).replacen('{', asked, 1)).await;
    assert_eq!(got.json()["outputs"][0]["data"], serde_json::json!(["4.000000:1"]));
}

#[tokio::test]
async fn server_health_and_model_pages_speak_the_protocol() {
    let node = Node::start().await;
    assert_eq!(node.get("/v2").await.json()["name"], "meridian");
    for path in [
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/m/ready",
        "/v2/models/m/versions/1/ready",
    ] {
        let got = node.get(path).await;
        assert_eq!((got.status, got.body.len()), (200, 0), "{path}");
    }
    let model = node.get("/v2/models/m").await.json();
    assert_eq!(model["versions"], serde_json::json!(["1"]));
    assert_eq!(
        model["inputs"],
        serde_json::json!([{"name": "x", "datatype": "FP32", "shape": [-1, 2]}])
    );
    assert_eq!(node.get("/v2/models/other/ready").await.status, 404);
    node.draining.cancel();
    let got = node.get("/v2/health/ready").await;
    assert_eq!(
        (got.status, got.code().as_str(), got.header("connection")),
        (503, "draining", "close")
    );
    assert_eq!(node.get("/v2/health/live").await.status, 200);
}

#[tokio::test]
async fn every_mistake_gets_its_status_its_code_and_a_sentence() {
    let node = Node::start().await;
    let x = |rest: &str| format!(r#"{{"inputs":[{{"name":"x",{rest}}}]}}"#);
    let infer = "/v2/models/m/infer";
    for (path, body, status, code, says) in [
        (infer, "{".to_owned(), 400, "invalid_request", "EOF"),
        (infer, String::new(), 400, "invalid_request", "EOF"),
        (
            infer,
            row(1.0, 1.0).replace("FP32", "FP64"),
            400,
            "invalid_request",
            "FP64 was sent, it takes FP32",
        ),
        (
            infer,
            row(1.0, 1.0).replace("\"x\"", "\"z\""),
            400,
            "invalid_request",
            "unexpected inference inputs `z`",
        ),
        (
            infer,
            x(r#""datatype":"FP32","shape":[2],"data":[1,2]"#),
            400,
            "invalid_request",
            "it takes [batch, 2]",
        ),
        (
            infer,
            x(r#""datatype":"FP32","shape":[0,2],"data":[]"#),
            400,
            "invalid_request",
            "it takes [batch, 2]",
        ),
        (
            infer,
            row(1.0, 1.0).replacen('{', r#"{"outputs":[{"name":"q"}],"#, 1),
            400,
            "invalid_request",
            "unknown output `q`",
        ),
        (
            infer,
            row(-1.0, 1.0),
            400,
            "invalid_request",
            "negative numbers are not doubled",
        ),
        (
            "/v2/models/nope/infer",
            row(1.0, 1.0),
            404,
            "not_found",
            "Request for unknown model: 'nope' is not found",
        ),
        (
            "/v2/models/m/versions/2/infer",
            row(1.0, 1.0),
            404,
            "not_found",
            "serves version 1",
        ),
        ("/v2/models/m", row(1.0, 1.0), 405, "method_not_allowed", "use GET"),
        ("/nowhere", row(1.0, 1.0), 404, "not_found", "no such page"),
    ] {
        let got = node.send(post(KEY), path, body.clone()).await;
        assert_eq!((got.status, got.code().as_str()), (status, code), "{path} {body}");
        let error = got.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(says), "{path} {body}: {error}");
        assert_eq!(got.header("content-type"), "application/json");
    }
    let wrong = post(KEY).header("content-encoding", "br");
    assert_eq!(node.send(wrong, infer, row(1.0, 1.0)).await.status, 415);
    let wrong = post(KEY).header("inference-header-content-length", "many");
    assert_eq!(node.send(wrong, infer, row(1.0, 1.0)).await.status, 400);
}

#[tokio::test]
async fn a_hit_has_the_bits_of_the_first_answer_and_a_client_may_insist_on_a_run() {
    let node = Node::start().await;
    let first = node.infer(&row(0.1, 0.7)).await;
    let second = node.infer(&row(0.1, 0.7)).await;
    assert_eq!(first.body, second.body);
    assert_eq!(
        (second.header("cache-status"), node.model.count()),
        ("meridian; hit", 1)
    );
    let fresh = post(KEY).header("cache-control", "no-cache");
    let third = node.send(fresh, "/v2/models/m/infer", row(0.1, 0.7)).await;
    assert_eq!(
        (third.header("cache-status"), node.model.count()),
        ("meridian; fwd=request", 2)
    );
}

#[tokio::test]
async fn compressed_bodies_are_read_and_a_bomb_is_refused() {
    let node = Node::start().await;
    let pack = |body: &[u8]| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(body).unwrap();
        packer.finish().unwrap()
    };
    let gzip = || post(KEY).header("content-encoding", "gzip");
    let got = node
        .send(gzip(), "/v2/models/m/infer", pack(row(1.0, 2.0).as_bytes()))
        .await;
    assert_eq!(got.status, 200);
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(row(1.0, 2.0).as_bytes()).unwrap();
    let deflate = post(KEY).header("content-encoding", "deflate");
    let got = node.send(deflate, "/v2/models/m/infer", packer.finish().unwrap()).await;
    assert_eq!(got.header("cache-status"), "meridian; hit");
    let bomb = pack(&vec![b' '; proto::limits::INFER_BODY_BYTES_MAX + 1]);
    assert!(bomb.len() < 64 << 10);
    let got = node.send(gzip(), "/v2/models/m/infer", bomb).await;
    assert_eq!((got.status, got.code().as_str()), (413, "too_large"));
    assert_eq!(node.send(gzip(), "/v2/models/m/infer", row(1.0, 2.0)).await.status, 400);
    let announced = post(KEY);
    let long = vec![b' '; proto::limits::INFER_BODY_BYTES_MAX + 1];
    // A client that is still sending may see the answer or the closed connection.
    if let Ok(got) = node.try_send(announced, "/v2/models/m/infer", long).await {
        assert_eq!(got.status, 413);
    }
}
