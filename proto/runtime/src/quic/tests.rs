use super::*;
use crate::identity::anonymous_client_config;
use crate::identity::samples::{Fleet, node, operator};
use proto::message::ErrorCode;

const NAME: &str = "control-plane";

fn server(fleet: &Fleet) -> Server {
    Server::bind(
        (Ipv4Addr::LOCALHOST, 0).into(),
        &fleet.identity(&Role::ControlPlane, NAME),
    )
    .unwrap()
}

/// Answers one stream of `peer` with what it asked for.
async fn answer_one(peer: &Peer) {
    let mut stream = peer.accept().await.unwrap();
    let answer = match stream.read::<Request>().await.unwrap() {
        Some(Request::NextVersion(_)) => Response::Done,
        other => Response::Error {
            code: ErrorCode::Invalid,
            message: format!("{other:?}"),
        },
    };
    stream.write(&answer).await.unwrap();
    stream.finish();
    assert!(stream.read::<Request>().await.unwrap().is_none());
}

fn question() -> Request {
    Request::NextVersion("minilm".parse().unwrap())
}

/// Connects as a hostile client would, with any TLS configuration.
async fn dial(server: &Server, mut tls: rustls::ClientConfig) -> Result<quinn::Connection, quinn::ConnectionError> {
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    endpoint
        .connect_with(transport::client(tls).unwrap(), server.local_addr(), NAME)
        .unwrap()
        .await
}

/// Runs the server's door while `client` acts; gives the roles that came through until the client is done.
async fn roles_let_in<T>(server: &Server, client: impl Future<Output = T>) -> (Vec<Role>, T) {
    let mut peers = Vec::new();
    let mut client = std::pin::pin!(client);
    loop {
        let peer = tokio::select! {
            out = client.as_mut() => return (peers.iter().map(|peer: &Peer| peer.role.clone()).collect(), out),
            peer = server.accept() => peer.unwrap(),
        };
        peers.push(peer);
    }
}

#[tokio::test]
async fn two_parts_of_a_fleet_know_each_other_and_talk() {
    let fleet = Fleet::new("dev");
    let server = server(&fleet);
    let me = fleet.identity(&node(), "n1");
    let serve = async {
        let peer = server.accept().await.unwrap();
        assert_eq!(peer.role, node());
        answer_one(&peer).await;
        peer
    };
    let ask = async {
        let connection = connect(server.local_addr(), NAME, &me).await.unwrap();
        assert_eq!(connection.peer_role(), &Role::ControlPlane);
        assert_eq!(connection.ask(&question()).await.unwrap(), Response::Done);
        connection
    };
    let (_peer, connection) = tokio::join!(serve, ask);
    server.close().await;
    assert!(server.accept().await.is_none());
    assert!(matches!(connection.closed().await, QuicError::Connection { .. }));
    assert!(connection.is_closed());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_in_the_handshake() {
    let fleet = Fleet::new("dev");
    let server = server(&fleet);
    let tls = anonymous_client_config(fleet.ca.pem()).unwrap();
    let (roles, reason) = roles_let_in(&server, async {
        match dial(&server, tls).await {
            Ok(connection) => connection.closed().await,
            Err(refused) => refused,
        }
    })
    .await;
    assert!(
        roles.is_empty() && reason.to_string().contains("certificate"),
        "{roles:?} {reason}"
    );
}

#[tokio::test]
async fn a_client_with_a_certificate_of_a_foreign_ca_is_refused_in_the_handshake() {
    let (fleet, foreign) = (Fleet::new("dev"), Fleet::new("dev"));
    let server = server(&fleet);
    let tls = foreign
        .identity(&operator(), "ada")
        .ingress_client_config(fleet.ca.pem())
        .unwrap();
    let (roles, reason) = roles_let_in(&server, async { dial(&server, tls).await.unwrap().closed().await }).await;
    assert!(
        roles.is_empty() && matches!(reason, quinn::ConnectionError::ConnectionClosed(_)),
        "{roles:?} {reason}"
    );
}

#[tokio::test]
async fn a_client_of_our_ca_that_names_another_fleet_is_refused_in_the_handshake() {
    let fleet = Fleet::new("dev");
    let server = server(&fleet);
    let ca_pem = fleet.ca.pem().to_owned();
    let forged = fleet.forging("prod").identity(&operator(), "ada");
    let tls = forged.ingress_client_config(&ca_pem).unwrap();
    let (roles, reason) = roles_let_in(&server, async { dial(&server, tls).await.unwrap().closed().await }).await;
    assert!(
        roles.is_empty() && matches!(reason, quinn::ConnectionError::ConnectionClosed(_)),
        "{roles:?} {reason}"
    );
}

#[tokio::test]
async fn a_client_talks_only_to_a_server_of_its_fleet_under_the_name_it_dialled() {
    let fleet = Fleet::new("dev");
    let me = fleet.identity(&node(), "n1");
    let right = server(&fleet);
    let foreign = server(&Fleet::new("dev"));
    let impostor = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), &fleet.identity(&operator(), "ada")).unwrap();
    let other_fleet = server(&fleet.forging("prod"));
    for (server, name) in [
        (&right, "ada"),
        (&foreign, NAME),
        (&impostor, NAME),
        (&other_fleet, NAME),
    ] {
        let (_, made) = roles_let_in(server, connect(server.local_addr(), name, &me)).await;
        assert!(matches!(made, Err(QuicError::Connection { .. })), "{made:?}");
    }
    assert!(matches!(
        connect(right.local_addr(), "not a name", &me).await,
        Err(QuicError::Name { .. })
    ));
}

/// A raw stream to a server that reads one request from it: what the server read, and the client's stream.
async fn raw_stream(bytes: &[u8], finish: bool) -> (Result<Option<Request>, QuicError>, Option<u64>) {
    let fleet = Fleet::new("dev");
    let server = server(&fleet);
    let me = fleet.identity(&node(), "n1");
    let serve = async {
        let peer = server.accept().await.unwrap();
        let mut stream = peer.accept().await.unwrap();
        let read = stream.read::<Request>().await;
        (peer, read)
    };
    let send = async {
        let connection = connect(server.local_addr(), NAME, &me).await.unwrap();
        let (mut send, _receive) = connection.quic.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        if finish {
            send.finish().unwrap();
        }
        let stopped = send.stopped().await.ok().flatten();
        stopped.map(quinn::VarInt::into_inner)
    };
    let ((_peer, read), stopped) = tokio::join!(serve, send);
    (read, stopped)
}

#[tokio::test]
async fn a_frame_over_the_bound_closes_the_stream_without_waiting_for_its_body() {
    // Only the header is sent and the stream stays open: whoever waited for 4 GiB, or took memory for it, would not return.
    let (read, stopped) = raw_stream(&u32::MAX.to_le_bytes(), false).await;
    assert!(
        matches!(read, Err(QuicError::Frame(FrameError::TooLong { .. }))),
        "{read:?}"
    );
    assert_eq!(stopped, Some(code::BAD_FRAME.into_inner()));
}

#[tokio::test]
async fn bytes_that_are_no_message_close_the_stream() {
    let (read, stopped) = raw_stream(&[2, 0, 0, 0, 0xff, 0xff], false).await;
    assert!(
        matches!(read, Err(QuicError::Frame(FrameError::Malformed { .. }))),
        "{read:?}"
    );
    assert_eq!(stopped, Some(code::BAD_FRAME.into_inner()));
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_frame_is_not_a_message() {
    for bytes in [&[9, 0][..], &[9, 0, 0, 0, 1, 2]] {
        let (read, _) = raw_stream(bytes, true).await;
        assert!(matches!(read, Err(QuicError::Truncated)), "{read:?}");
    }
    assert!(matches!(raw_stream(&[], true).await.0, Ok(None)));
}

#[tokio::test]
async fn a_message_that_is_as_long_as_allowed_arrives_whole() {
    let fleet = Fleet::new("dev");
    let server = server(&fleet);
    let me = fleet.identity(&node(), "n1");
    let sent = Request::PutChunk {
        bytes: vec![7; proto::limits::FRAME_BYTES_MAX - 16],
    };
    let serve = async {
        let peer = server.accept().await.unwrap();
        let mut stream = peer.accept().await.unwrap();
        let got = stream.read::<Request>().await.unwrap();
        stream.write(&Response::Done).await.unwrap();
        stream.finish();
        stream.stopped().await;
        got
    };
    let ask = async {
        let connection = connect(server.local_addr(), NAME, &me).await.unwrap();
        connection.ask(&sent).await.unwrap()
    };
    let (got, answer) = tokio::join!(serve, ask);
    assert!(got == Some(sent) && answer == Response::Done);
}

#[tokio::test]
async fn a_renewed_certificate_is_for_new_connections_and_old_ones_go_on() {
    let fleet = Fleet::new("dev");
    let server = server(&fleet);
    let me = fleet.identity(&node(), "n1");
    let (first, old) = tokio::join!(server.accept(), connect(server.local_addr(), NAME, &me));
    let (first, old) = (first.unwrap(), old.unwrap());
    server.renew(&fleet.identity(&Role::ControlPlane, "renewed")).unwrap();
    let (second, new) = tokio::join!(server.accept(), connect(server.local_addr(), "renewed", &me));
    let (_second, _new) = (second.unwrap(), new.unwrap());
    let (answer, ()) = tokio::join!(async { old.ask(&question()).await }, answer_one(&first));
    assert_eq!(answer.unwrap(), Response::Done);
}
