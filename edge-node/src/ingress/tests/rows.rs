//! Pictures that are asked about again: for whom they are still decoded, and for whom not any more.

use std::sync::atomic::{AtomicUsize, Ordering};

use engine::pre::KeptRows;
use proto::manifest::{DataType, Dim, PreStep, Signature, TensorSpec};
use proto::oip::Tensor;
use proto::signed::Document as _;

use super::super::*;
use super::harness::*;
use crate::cache::RowsOfRun;
use crate::engine::{Fault, Model};
use crate::serving::ModelSlot;
use crate::testing::{fp32, manifest};

/// "Decodes" each picture, which gives its length, and counts.
#[derive(Default)]
struct Decoder {
    decoded: AtomicUsize,
    runs: AtomicUsize,
}

impl Model for Decoder {
    fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Fault> {
        self.decoded.fetch_add(1, Ordering::SeqCst);
        let length = u8::try_from(inputs[0].data.len() - 4).unwrap();
        Ok(vec![fp32("y", &[1, 1], &[f32::from(length)])])
    }
    fn run_keeping(&self, inputs: &[Tensor], rows: &RowsOfRun) -> Result<Vec<Tensor>, Fault> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let picture = &inputs[0].data[4..];
        let made = rows.made(0, "lengths", picture, &mut || {
            self.decoded.fetch_add(1, Ordering::SeqCst);
            Ok(vec![u8::try_from(picture.len()).unwrap()])
        });
        Ok(vec![fp32("y", &[1, 1], &[f32::from(made.unwrap()[0])])])
    }
}

fn slot(name: &str, model: Arc<dyn Model>) -> Arc<ModelSlot> {
    let spec = |name: &str, datatype, more: &[Dim]| TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: [&[Dim::Named("batch".to_owned())], more].concat(),
    };
    let step = PreStep::Image {
        from: "image".to_owned(),
        to: "x".to_owned(),
        width: 2,
        height: 2,
        resize_shorter: None,
        scale: 1.0,
        mean: [0.0; 3],
        std: [1.0; 3],
        channels_first: true,
        bgr: false,
    };
    let mut manifest = manifest(name, 1);
    manifest.signatures = vec![Signature {
        name: "image".to_owned(),
        inputs: vec![spec("image", DataType::Bytes, &[])],
        outputs: vec![spec("y", DataType::Fp32, &[Dim::Fixed(1)])],
        pre: vec![step],
        post: Vec::new(),
    }];
    let variant = manifest.variants[0].clone();
    Arc::new(ModelSlot::new(manifest.id(), Arc::new(manifest), variant, model).unwrap())
}

/// A node with two models of one size.
async fn node() -> (Node, Arc<Decoder>) {
    let (node, decoder) = (Node::start().await, Arc::new(Decoder::default()));
    let slots = ["m", "other"].map(|name| slot(name, decoder.clone()));
    node.serving.publish(set(&slots));
    (node, decoder)
}

/// Asks `model` about `picture`, with a `parameter` that makes it another question.
async fn ask(node: &Node, request: http::request::Builder, model: &str, picture: &str, parameter: u8) {
    let body = format!(
        r#"{{"parameters":{{"p":{parameter}}},"inputs":[{{"name":"image","datatype":"BYTES","shape":[1],"data":["{picture}"]}}]}}"#
    );
    let got = node.send(request, &format!("/v2/models/{model}/infer"), body).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    let length = f64::from(u32::try_from(picture.len()).unwrap());
    assert_eq!(got.json()["outputs"][0]["data"][0].as_f64(), Some(length));
}

/// Goal: the same picture under another question or for another model is not decoded again; for another tenant, another person,
/// after a purge, or for who wants nothing kept it is.
#[tokio::test]
async fn a_picture_is_decoded_once_for_whose_it_is_whatever_is_asked_about_it() {
    let (node, decoder) = node().await;
    let decoded = || decoder.decoded.load(Ordering::SeqCst);
    ask(&node, post(KEY), "m", "cat", 1).await;
    ask(&node, post(KEY), "m", "cat", 2).await;
    ask(&node, post(KEY), "other", "cat", 1).await;
    assert_eq!((decoded(), decoder.runs.load(Ordering::SeqCst)), (1, 3));
    ask(&node, post(KEY), "m", "horse", 1).await;
    ask(&node, post(OTHER), "m", "cat", 1).await;
    let about = || post(KEY).header("meridian-subject", "p-1");
    ask(&node, about(), "m", "cat", 1).await;
    ask(&node, about(), "other", "cat", 1).await;
    assert_eq!(decoded(), 4);

    let unkept = || post(KEY).header("cache-control", "no-store");
    ask(&node, unkept(), "m", "dog", 1).await;
    ask(&node, post(KEY), "m", "dog", 2).await;
    assert_eq!(decoded(), 6, "what nobody wanted kept was not");

    let purged = node
        .send(post(KEY), "/v1/purge", r#"{"model":"other"}"#.to_owned())
        .await;
    assert_eq!(purged.status, 200);
    ask(&node, post(KEY), "m", "cat", 3).await;
    ask(&node, post(OTHER), "m", "cat", 3).await;
    assert_eq!(decoded(), 7, "the tenant's own went, another's stayed");
}
