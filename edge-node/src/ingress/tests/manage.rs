//! Pages about models and settings, and what they refuse.

use http::Request;

use super::harness::*;

#[tokio::test]
async fn statistics_count_what_was_run_kept_and_refused() {
    let node = Node::start().await;
    let two = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[2,2],"data":[1,2,3,4]}]}"#;
    assert_eq!(node.infer(two).await.status, 200);
    assert_eq!(node.infer(two).await.status, 200);
    assert_eq!(node.infer(row(-1.0, 0.0)).await.status, 400);
    for path in [
        "/v2/models/m/stats",
        "/v2/models/m/versions/1/stats",
        "/v2/models/stats",
    ] {
        let stats = node.get(path).await.json();
        let model = &stats["model_stats"][0];
        let counts = |part: &str| model["inference_stats"][part]["count"].as_u64().unwrap();
        assert_eq!(
            (&model["name"], &model["inference_count"]),
            (&"m".into(), &2.into()),
            "{path}: {stats}"
        );
        assert_eq!(
            (&model["execution_count"], &model["batch_stats"][0]["batch_size"]),
            (&1.into(), &2.into())
        );
        assert_eq!(
            ["success", "fail", "queue", "cache_hit", "cache_miss"].map(counts),
            [2, 1, 2, 1, 1]
        );
    }
    assert_eq!(node.get("/v2/models/m/versions/2/stats").await.status, 404);
}

#[tokio::test]
async fn the_configuration_tells_tensors_and_batching_as_they_are() {
    let node = Node::start().await;
    let config = node.get("/v2/models/m/config").await.json();
    assert_eq!(
        (&config["name"], &config["max_batch_size"]),
        (&"m".into(), &8.into()),
        "{config}"
    );
    let input = serde_json::json!([{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}]);
    assert_eq!(
        (&config["input"], config["dynamic_batching"].is_object()),
        (&input, true)
    );
}

#[tokio::test]
async fn clients_see_repository_and_settings_and_change_neither() {
    let node = Node::start().await;
    let post = async |path: &str, body: &'static str| node.send(Request::post("/"), path, body).await;
    for body in ["", "{}", r#"{"ready":true}"#] {
        let index = post("/v2/repository/index", body).await.json();
        assert_eq!(
            (&index[0]["name"], &index[0]["state"]),
            (&"m".into(), &"READY".into()),
            "{index}"
        );
    }
    assert_eq!(
        node.get("/v2/systemsharedmemory/status").await.json(),
        serde_json::json!([])
    );
    assert_eq!(
        node.get("/v2/trace/setting").await.json()["trace_level"],
        serde_json::json!(["OFF"])
    );
    assert_eq!(node.get("/v2/logging").await.json()["log_error"], true);
    for (path, body, status, code) in [
        ("/v2/repository/models/m/load", "", 200, ""),
        (
            "/v2/repository/models/m/load",
            r#"{"parameters":{"config":"{}"}}"#,
            403,
            "forbidden",
        ),
        ("/v2/repository/models/none/load", "", 404, "not_found"),
        ("/v2/repository/models/m/unload", "{}", 403, "forbidden"),
        ("/v2/repository/models/none/unload", "{}", 200, ""),
        ("/v2/models/m/trace/setting", "{}", 200, ""),
        ("/v2/models/none/trace/setting", "{}", 404, "not_found"),
        ("/v2/trace/setting", r#"{"trace_level":["OFF"]}"#, 403, "forbidden"),
        ("/v2/logging", r#"{"log_info":false}"#, 403, "forbidden"),
        ("/v2/logging", "[1]", 400, "invalid_request"),
        ("/v2/repository/index", "\u{ff}", 400, "invalid_request"),
        ("/v2/repository/index", r#"{"ready":1}"#, 400, "invalid_request"),
        ("/v2/cudasharedmemory/region/r/register", "{}", 501, "not_implemented"),
        ("/v2/systemsharedmemory/unregister", "", 501, "not_implemented"),
    ] {
        let got = post(path, body).await;
        let found = if got.body.is_empty() || status == 200 {
            String::new()
        } else {
            got.code()
        };
        assert_eq!(
            (got.status, found.as_str()),
            (status, code),
            "{path} {body}: {:?}",
            got.body
        );
    }
}

#[tokio::test]
async fn a_model_without_text_is_not_asked_to_generate() {
    let node = Node::start().await;
    let got = node.send(post(KEY), "/v2/models/m/generate", r#"{"x":[1,2]}"#).await;
    assert_eq!((got.status, got.code().as_str()), (400, "invalid_request"));
}

#[tokio::test]
async fn long_answers_are_compressed_for_those_who_ask() {
    use std::io::Read;
    let node = Node::start().await;
    let plain = node.get("/v2/openapi.json").await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", ""));
    for name in ["gzip", "deflate"] {
        let ask = || Request::get("/").header("accept-encoding", name);
        let got = node.send(ask(), "/v2/openapi.json", "").await;
        assert_eq!(
            (got.header("content-encoding"), got.header("vary")),
            (name, "accept-encoding")
        );
        let mut text = Vec::new();
        if name == "gzip" {
            flate2::read::GzDecoder::new(&*got.body).read_to_end(&mut text).unwrap();
        } else {
            flate2::read::ZlibDecoder::new(&*got.body)
                .read_to_end(&mut text)
                .unwrap();
        }
        assert_eq!(text, plain.body);
        assert_eq!(node.send(ask(), "/v2", "").await.header("content-encoding"), "");
    }
}

#[tokio::test]
async fn the_openapi_document_is_served_to_everybody() {
    let node = Node::start().await;
    assert_eq!(node.get("/v2/openapi.json").await.json()["openapi"], "3.1.0");
}
