use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::server::{Bounds, Door, serve_tls};
use super::*;
use crate::identity::samples::{Fleet, node, operator};
use crate::identity::{Identity, Role, anonymous_client_config};
use crate::lifecycle::Lifecycle;

const NAME: &str = "ingress.example";
const LONG: Duration = Duration::from_secs(10);

/// A listener whose service says who asked; a request to `/slow` waits until `go` has a permit.
struct Site {
    fleet: Fleet,
    lifecycle: Lifecycle,
    address: SocketAddr,
    tls: ServerTls,
    me: Identity,
    started: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

fn service(started: &Arc<Semaphore>, go: &Arc<Semaphore>) -> impl super::server::HttpService<Full<Bytes>> + use<> {
    let (started, go) = (started.clone(), go.clone());
    service_fn(move |request: Request<Inbound>| {
        let (started, go) = (started.clone(), go.clone());
        async move {
            if request.uri().path() == "/slow" {
                started.add_permits(1);
                go.acquire().await.unwrap().forget();
            }
            let Origin { peer, transport, role } = Origin::of(request.extensions()).unwrap();
            let role = role.as_ref().map(Role::to_string);
            let local = matches!(peer, PeerAddr::Unix) || matches!(peer, PeerAddr::Ip(a) if a.ip().is_loopback());
            let text = format!("{:?} {transport:?} {role:?} {local}", request.version());
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
        }
    })
}

impl Site {
    fn new_files(fleet: &Fleet) -> [std::path::PathBuf; 2] {
        let dir = fleet.dir.path().join("ingress");
        fleet
            .ca
            .issue_ingress(&[NAME.to_owned()], 1)
            .unwrap()
            .write(&dir)
            .unwrap();
        ["cert.pem", "key.pem"].map(|name| dir.join(name))
    }

    async fn open() -> Self {
        Self::open_with(Bounds {
            connections_max: 100,
            handshake: LONG,
            head: LONG,
        })
        .await
    }

    async fn open_with(bounds: Bounds) -> Self {
        let fleet = Fleet::new("dev");
        let [certificate, key] = Self::new_files(&fleet);
        let me = fleet.identity(&node(), "n1");
        let tls = ServerTls::load(&certificate, &key, Some(&me)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lifecycle = Lifecycle::new();
        let (started, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        serve_tls(
            listener,
            tls.clone(),
            Door::new(&lifecycle, service(&started, &go), bounds),
        );
        Self {
            fleet,
            lifecycle,
            address,
            tls,
            me,
            started,
            go,
        }
    }

    fn anonymous(&self) -> rustls::ClientConfig {
        anonymous_client_config(self.fleet.ca.pem()).unwrap()
    }

    async fn dial(&self, mut tls: rustls::ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(tls))
            .connect(NAME.try_into().unwrap(), stream)
            .await
    }

    async fn get(&self, tls: rustls::ClientConfig, path: &str) -> Result<String, ClientError> {
        get(&Client::new(tls), self.address, path).await
    }
}

async fn get(client: &Client, address: SocketAddr, path: &str) -> Result<String, ClientError> {
    let request = Request::get(path).body(empty()).unwrap();
    let answer = client.request(address, NAME, request).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

/// One HTTP/1.1 exchange on an open connection; the answer's last line.
async fn exchange<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: &mut S, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {NAME}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let mut part = [0; 1024];
        let n = stream.read(&mut part).await.unwrap();
        answer.extend_from_slice(&part[..n]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert!(n > 0, "{text}");
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            return body.to_owned();
        }
    }
}

#[tokio::test]
async fn a_request_knows_its_transport_and_the_role_of_a_client_that_shows_one() {
    let site = Site::open().await;
    let mine = site.me.ingress_client_config(site.fleet.ca.pem()).unwrap();
    assert_eq!(site.get(site.anonymous(), "/").await.unwrap(), "HTTP/2.0 Tls None true");
    assert_eq!(
        site.get(mine, "/").await.unwrap(),
        "HTTP/2.0 Tls Some(\"node/eu-fra/n1\") true"
    );
    let mut old_fashioned = site.dial(site.anonymous()).await.unwrap();
    assert_eq!(exchange(&mut old_fashioned, "/").await, "HTTP/1.1 Tls None true");
}

#[tokio::test]
async fn a_client_certificate_of_a_foreign_ca_or_fleet_is_refused_not_ignored() {
    let site = Site::open().await;
    let ca_pem = site.fleet.ca.pem();
    let foreign = Fleet::new("dev")
        .identity(&operator(), "ada")
        .ingress_client_config(ca_pem)
        .unwrap();
    let answer = site.get(foreign, "/").await;
    assert!(answer.is_err(), "{answer:?}");
    let (address, ca_pem) = (site.address, ca_pem.to_owned());
    let forged = site
        .fleet
        .forging("prod")
        .identity(&operator(), "ada")
        .ingress_client_config(&ca_pem)
        .unwrap();
    let answer = get(&Client::new(forged), address, "/").await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn a_mutual_listener_refuses_a_client_without_a_certificate() {
    let fleet = Fleet::new("dev");
    let dir = fleet.dir.path().join("cp");
    fleet
        .ca
        .issue(&Role::ControlPlane, &[NAME.to_owned()], 1)
        .unwrap()
        .write(&dir)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let lifecycle = Lifecycle::new();
    let (started, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    serve(
        listener,
        Some(ServerTls::load_mutual(&dir).unwrap()),
        &lifecycle,
        service(&started, &go),
    )
    .unwrap();
    let anonymous = anonymous_client_config(fleet.ca.pem()).unwrap();
    assert!(get(&Client::new(anonymous), address, "/").await.is_err());
    let mine = fleet.identity(&operator(), "ada").client_config(&[]).unwrap();
    assert_eq!(
        get(&Client::new(mine), address, "/").await.unwrap(),
        "HTTP/2.0 Tls Some(\"operator/ada\") true"
    );
}

#[tokio::test]
async fn a_client_refuses_a_server_under_another_name_and_knows_that_nothing_was_sent() {
    let site = Site::open().await;
    let client = Client::new(site.anonymous());
    let request = Request::get("/").body(empty()).unwrap();
    let error = client
        .request(site.address, "other.example", request)
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::Connect { .. }) && error.nothing_was_sent(),
        "{error:?}"
    );
}

#[tokio::test]
async fn nothing_older_than_tls_1_3_is_spoken() {
    let site = Site::open().await;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(
            crate::identity::certificates("ca".as_ref(), site.fleet.ca.pem())
                .unwrap()
                .remove(0),
        )
        .unwrap();
    let old = rustls::ClientConfig::builder_with_provider(crate::identity::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let error = site.dial(old).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

#[tokio::test]
async fn drain_lets_accepted_requests_finish_and_refuses_new_ones() {
    let site = Site::open().await;
    let (two, mut idle) = (
        Client::new(site.anonymous()),
        site.dial(site.anonymous()).await.unwrap(),
    );
    let mut one = site.dial(site.anonymous()).await.unwrap();
    exchange(&mut idle, "/").await;
    let accepted = async { tokio::join!(get(&two, site.address, "/slow"), exchange(&mut one, "/slow")) };
    let stop = async {
        site.started.acquire_many(2).await.unwrap().forget();
        let (clean, ()) = tokio::join!(site.lifecycle.stop(LONG), async {
            // An idle connection ends at once; when it has, the listener is closed too.
            assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
            while TcpStream::connect(site.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
            let refused = site.get(site.anonymous(), "/").await.unwrap_err();
            assert!(refused.nothing_was_sent());
            site.go.add_permits(2);
        });
        clean
    };
    let ((over_two, over_one), clean) = tokio::join!(accepted, stop);
    assert_eq!(over_two.unwrap(), "HTTP/2.0 Tls None true");
    assert_eq!(over_one, "HTTP/1.1 Tls None true");
    assert!(clean, "every connection ended by itself");
}

fn presented(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_renewed_certificate_takes_effect_without_dropping_a_connection() {
    let site = Site::open().await;
    let mut old = site.dial(site.anonymous()).await.unwrap();
    exchange(&mut old, "/").await;
    assert!(!site.tls.reload(), "nothing has changed yet");
    Site::new_files(&site.fleet);
    assert!(site.tls.reload());
    let new = site.dial(site.anonymous()).await.unwrap();
    assert_ne!(presented(&old), presented(&new));
    assert_eq!(exchange(&mut old, "/").await, "HTTP/1.1 Tls None true");
}

#[tokio::test]
async fn a_bad_new_certificate_leaves_the_old_one_in_service() {
    let site = Site::open().await;
    let before = presented(&site.dial(site.anonymous()).await.unwrap());
    let key = site.fleet.dir.path().join("ingress/key.pem");
    let good = std::fs::read(&key).unwrap();
    let other = site.fleet.ca.issue_ingress(&[NAME.to_owned()], 1).unwrap().key_pem;
    for bad in ["", "-----BEGIN", other.as_str()] {
        std::fs::write(&key, bad).unwrap();
        assert!(!site.tls.reload(), "{bad}");
        assert_eq!(presented(&site.dial(site.anonymous()).await.unwrap()), before);
    }
    std::fs::write(&key, good).unwrap();
    Site::new_files(&site.fleet);
    assert!(site.tls.reload());
}

#[tokio::test]
async fn clients_that_stall_in_the_handshake_or_the_head_are_closed() {
    let short = Duration::from_millis(50);
    let site = Site::open_with(Bounds {
        connections_max: 100,
        handshake: short,
        head: LONG,
    })
    .await;
    let mut silent = TcpStream::connect(site.address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);

    let site = Site::open_with(Bounds {
        connections_max: 100,
        handshake: LONG,
        head: short,
    })
    .await;
    let mut mute = site.dial(site.anonymous()).await.unwrap();
    let mut drip = site.dial(site.anonymous()).await.unwrap();
    drip.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    for stalled in [&mut mute, &mut drip] {
        let mut rest = Vec::new();
        let _ = stalled.read_to_end(&mut rest).await; // with or without a 408 first
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_connection_over_the_bound_is_closed_at_once_and_a_free_place_is_used_again() {
    let site = Site::open_with(Bounds {
        connections_max: 1,
        handshake: LONG,
        head: LONG,
    })
    .await;
    let mut first = site.dial(site.anonymous()).await.unwrap();
    exchange(&mut first, "/").await;
    let mut second = TcpStream::connect(site.address).await.unwrap();
    assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0);
    drop(first);
    while site.get(site.anonymous(), "/").await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn without_tls_only_this_machine_can_connect() {
    for text in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        assert!(
            matches!(PlainListener::bind(text).await, Err(HttpsError::PlainNotLocal { .. })),
            "{text}"
        );
    }
    assert!(matches!(
        PlainListener::bind("localhost:80").await,
        Err(HttpsError::Address { .. })
    ));
    let open = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let (started, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let refused = serve(open, None, &Lifecycle::new(), service(&started, &go));
    assert!(matches!(refused, Err(HttpsError::PlainNotLocal { .. })));
}

#[tokio::test]
async fn a_unix_socket_serves_replaces_a_stale_socket_and_never_another_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let text = format!("unix:{}", path.display());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // as kill -9 leaves it
    let listener = PlainListener::bind(&text).await.unwrap();
    assert_eq!(listener.address(), text);
    assert!(
        matches!(PlainListener::bind(&text).await, Err(HttpsError::Bind { .. })),
        "a live one is not replaced"
    );
    let lifecycle = Lifecycle::new();
    let (started, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    serve_plain(listener, &lifecycle, service(&started, &go));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    assert_eq!(exchange(&mut stream, "/").await, "HTTP/1.1 Plain None true");
    assert!(lifecycle.stop(LONG).await);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(PlainListener::bind(&text).await, Err(HttpsError::Bind { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}
