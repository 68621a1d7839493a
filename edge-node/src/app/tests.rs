use std::path::Path;

use proto::signed::{Operator, PublicKey, TrustBundle};
use runtime::identity::Ca;

use super::*;

fn config(dir: &Path) -> NodeConfig {
    let ca = Ca::create(&"test".parse().unwrap(), &dir.join("ca")).unwrap();
    let node = Role::Node("eu-fra/n1".parse().unwrap());
    ca.issue(&node, &[], 1).unwrap().write(&dir.join("identity")).unwrap();
    ca.issue_ingress(&["localhost".to_owned()], 1)
        .unwrap()
        .write(&dir.join("ingress"))
        .unwrap();
    let trust = TrustBundle {
        fleet: "test".parse().unwrap(),
        log_vkey: "test.log+00000000+AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        state_key: PublicKey([1; 32]),
        operators: vec![Operator {
            name: "ada".parse().unwrap(),
            key: PublicKey([2; 32]),
        }],
        threshold: 1,
    };
    std::fs::write(dir.join("trust.json"), serde_json::to_vec(&trust).unwrap()).unwrap();
    let file = r#"
        identity = "identity"
        trust = "trust.json"
        data = "data"
        class = "cpu"
        control-plane = "127.0.0.1:9"
        [ingress]
        listen = "127.0.0.1:0"
        certificate = "ingress/cert.pem"
        key = "ingress/key.pem"
        plain = "unix:node.sock"
        [stop]
        notice-ms = 0
    "#;
    std::fs::write(dir.join("node.toml"), file).unwrap();
    NodeConfig::read(&dir.join("node.toml")).unwrap()
}

#[tokio::test]
async fn a_node_without_a_control_plane_starts_listens_and_stops_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::build(config(dir.path()), EngineLoader::new("none".into()))
        .await
        .unwrap();
    assert_ne!(app.addresses.ingress.port(), 0);
    assert!(tokio::net::TcpStream::connect(app.addresses.ingress).await.is_ok());
    assert!(
        tokio::net::UnixStream::connect(dir.path().join("node.sock"))
            .await
            .is_ok()
    );
    let address = app.addresses.ingress;
    assert!(app.stop().await);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_router_cannot_be_started_as_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let ca = Ca::load(&dir.path().join("ca")).unwrap();
    ca.issue(&Role::Router("r1".parse().unwrap()), &[], 1)
        .unwrap()
        .write(&config.identity)
        .unwrap();
    let error = App::build(config, EngineLoader::new("none".into())).await.unwrap_err();
    assert!(matches!(error, BuildError::NotANode { .. }), "{error}");
}
