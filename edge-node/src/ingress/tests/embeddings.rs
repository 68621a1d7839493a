use proto::manifest::{DataType, Dim, TensorSpec};
use proto::oip::{Tensor, bytes_elements};
use proto::receipt::{Commitment, Promise, Receipt};

use super::harness::*;
use crate::engine::{Fault, Model};
use crate::ingress::*;
use crate::serving::ModelSlot;
use crate::testing::{fp32, manifest};

/// Makes `[bytes, -1]` of each text.
struct Embedder;

impl Model for Embedder {
    fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Fault> {
        let rows = bytes_elements(&inputs[0].data).unwrap();
        let vectors: Vec<f32> = rows
            .iter()
            .flat_map(|row| [f32::from(u8::try_from(row.len()).unwrap()), -1.0])
            .collect();
        Ok(vec![fp32("embedding", &[rows.len(), 2], &vectors)])
    }
    fn tokens(&self, inputs: &[Tensor]) -> usize {
        bytes_elements(&inputs[0].data)
            .unwrap()
            .iter()
            .map(|row| row.len())
            .sum()
    }
}

async fn start() -> Node {
    let node = Node::start().await;
    let mut of = manifest("words", 3);
    let spec = |name: &str, datatype, shape: Vec<Dim>| TensorSpec {
        name: name.to_owned(),
        datatype,
        shape,
    };
    let batch = || Dim::Named("batch".to_owned());
    of.signatures[0].inputs = vec![spec("text", DataType::Bytes, vec![batch()])];
    of.signatures[0].outputs = vec![spec("embedding", DataType::Fp32, vec![batch(), Dim::Fixed(2)])];
    let variant = of.variants[0].clone();
    let id = proto::signed::Document::id(&of);
    let slot = Arc::new(ModelSlot::new(id, Arc::new(of), variant, Arc::new(Embedder)).unwrap());
    node.serving.publish(set(&[Arc::clone(&node.slot), slot]));
    node
}

#[tokio::test]
async fn texts_are_embedded_and_their_tokens_told() {
    let node = start().await;
    let body = r#"{"model":"words","input":["one","three"],"encoding_format":"float"}"#;
    let got = node.send(post(KEY), "/v1/embeddings", body).await;
    let want = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[3.0,-1.0]},{"object":"embedding","index":1,"embedding":[5.0,-1.0]}],"model":"words","usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    assert_eq!((got.status, std::str::from_utf8(&got.body).unwrap()), (200, want));
    assert_eq!(got.header("cache-status"), "meridian; fwd=miss");
    assert!(got.header("meridian-model").starts_with("words@3 b3:"));
    // What the inference protocol asked before is known here too, and in the other form.
    let packed = r#"{"model":"words@3","input":["one","three"],"encoding_format":"base64"}"#;
    let again = node.send(post(KEY), "/v1/embeddings", packed).await;
    let text = String::from_utf8_lossy(&again.body).into_owned();
    assert!(text.contains(r#""embedding":"AABAQAAAgL8=""#), "{text}");
    assert_eq!(again.header("cache-status"), "meridian; hit");
    let infer = r#"{"inputs":[{"name":"text","datatype":"BYTES","shape":[2],"data":["one","three"]}],"outputs":[{"name":"embedding"}]}"#;
    let infer = node.send(post(KEY), "/v2/models/words/infer", infer).await;
    assert_eq!((infer.status, infer.header("cache-status")), (200, "meridian; hit"));
}

#[tokio::test]
async fn embeddings_have_receipts_too() {
    let node = start().await;
    let body = r#"{"model":"words","input":"one"}"#;
    let request = post(KEY).header("meridian-receipt", "?1");
    let got = node.send(request, "/v1/embeddings", body).await;
    let promise = Promise::read(got.header("meridian-receipt")).unwrap();
    let said = Receipt::decode(&promise.proof.entry).unwrap();
    assert_eq!(
        (said.model.as_str(), said.input),
        ("words", Commitment::of(&promise.key, body.as_bytes()))
    );
    assert_eq!(said.output, Commitment::of(&promise.key, &got.body));
}

#[tokio::test]
async fn what_cannot_be_embedded_is_refused_in_a_sentence() {
    let node = start().await;
    for (body, status, says) in [
        (r#"{"model":"m","input":"a"}"#, 400, "makes no embeddings"),
        (r#"{"model":"nobody","input":"a"}"#, 404, "'nobody' is not found"),
        (r#"{"model":"words@2","input":"a"}"#, 404, "version 2 is not found"),
        (r#"{"model":"words","input":"a","dimensions":5}"#, 400, "have 2"),
        (
            r#"{"model":"words","input":[[1,2]]}"#,
            400,
            "neither a text nor a list of texts",
        ),
        ("", 400, "EOF"),
    ] {
        let got = node.send(post(KEY), "/v1/embeddings", body).await;
        let text = String::from_utf8_lossy(&got.body).into_owned();
        assert!(
            got.status == status && text.contains(says),
            "{body}: {} {text}",
            got.status
        );
    }
    let body = r#"{"model":"words","input":"a"}"#;
    assert_eq!(node.send(post("mk_none"), "/v1/embeddings", body).await.status, 401);
    assert_eq!(node.send(post(AMERICAN), "/v1/embeddings", body).await.status, 451);
}
