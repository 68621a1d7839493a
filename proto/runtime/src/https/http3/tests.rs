use std::convert::Infallible;

use bytes::Buf;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use tokio::sync::Semaphore;

use super::super::ServerTls;
use super::*;
use crate::identity::samples::{Fleet, node};
use crate::identity::{Role, anonymous_client_config};

const NAME: &str = "ingress.example";

/// A listener. `/echo` answers with the body, `/slow` waits until `go` has a permit, all else with who asked.
struct Site {
    fleet: Fleet,
    lifecycle: Lifecycle,
    /// Of the clients' connections.
    callers: Lifecycle,
    address: SocketAddr,
    me: crate::identity::Identity,
    started: Arc<Semaphore>,
    go: Arc<Semaphore>,
    /// One permit for each request that was dropped before it was answered.
    dropped: Arc<Semaphore>,
}

struct Asked {
    dropped: Option<Arc<Semaphore>>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(dropped) = &self.dropped {
            dropped.add_permits(1);
        }
    }
}

impl Site {
    async fn open() -> Self {
        let fleet = Fleet::new("dev");
        let dir = fleet.dir.path().join("ingress");
        fleet
            .ca
            .issue_ingress(&[NAME.to_owned()], 1)
            .unwrap()
            .write(&dir)
            .unwrap();
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| dir.join(name));
        let me = fleet.identity(&node(), "n1");
        let tls = ServerTls::load(&certificate, &key, Some(&me)).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let [started, go, dropped] = [0; 3].map(|n| Arc::new(Semaphore::new(n)));
        let lifecycle = Lifecycle::new();
        let (begun, gate, lost) = (started.clone(), go.clone(), dropped.clone());
        let service = service_fn(move |request: Request<Inbound>| {
            let (begun, gate, lost) = (begun.clone(), gate.clone(), lost.clone());
            async move {
                let mut asked = Asked { dropped: Some(lost) };
                let answer = answer(request, &begun, &gate).await;
                asked.dropped = None;
                Ok::<_, Infallible>(answer)
            }
        });
        serve_http3(socket, tls, &lifecycle, service).unwrap();
        Self {
            fleet,
            lifecycle,
            callers: Lifecycle::new(),
            address,
            me,
            started,
            go,
            dropped,
        }
    }

    async fn dial(&self, tls: rustls::ClientConfig) -> Caller {
        let mut tls = tls;
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let config = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(config));
        let connection = endpoint
            .connect_with(config, self.address, NAME)
            .unwrap()
            .await
            .unwrap();
        let quic = h3_quinn::Connection::new(connection.clone());
        let (mut driver, send) = h3::client::new(quic).await.unwrap();
        self.callers.spawn("http3-client", async move {
            std::future::poll_fn(|context| driver.poll_close(context)).await;
        });
        Caller { connection, send }
    }
    async fn anonymous(&self) -> Caller {
        self.dial(anonymous_client_config(self.fleet.ca.pem()).unwrap()).await
    }
}

async fn answer(request: Request<Inbound>, begun: &Semaphore, gate: &Semaphore) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let text = match head.uri.path() {
        "/echo" => match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => Bytes::from_static(b"broken"),
        },
        path => {
            begun.add_permits(1);
            if path == "/slow" {
                gate.acquire().await.unwrap().forget();
            }
            let Origin { peer, transport, role } = Origin::of(&head.extensions).unwrap();
            let role = role.as_ref().map(Role::to_string);
            let local = matches!(peer, PeerAddr::Ip(a) if a.ip().is_loopback());
            format!("{:?} {transport:?} {role:?} {local}", head.version).into()
        }
    };
    let answer = Response::builder().header(CONNECTION, "close");
    answer.body(Full::new(text)).unwrap()
}

/// A client's connection.
struct Caller {
    connection: quinn::Connection,
    send: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
}

impl Caller {
    async fn ask(&self, request: http::request::Builder, path: &str, body: &[u8]) -> Result<Response<Bytes>, BoxError> {
        let request = request.uri(format!("https://{NAME}{path}")).body(()).unwrap();
        let mut stream = self.send.clone().send_request(request).await?;
        for piece in body.chunks(100_000) {
            stream.send_data(Bytes::copy_from_slice(piece)).await?;
        }
        stream.finish().await?;
        let (head, ()) = stream.recv_response().await?.into_parts();
        let mut all = Vec::new();
        while let Some(mut data) = stream.recv_data().await? {
            while data.has_remaining() {
                all.extend_from_slice(data.chunk());
                data.advance(data.chunk().len());
            }
        }
        Ok(Response::from_parts(head, all.into()))
    }
    async fn get(&self, path: &str) -> Result<String, BoxError> {
        let answer = self.ask(Request::get("/"), path, b"").await?;
        Ok(String::from_utf8(answer.into_body().to_vec())?)
    }
}

#[tokio::test]
async fn requests_over_quic_meet_the_same_service_which_is_told_who_asks() {
    let site = Site::open().await;
    let (stranger, fellow) = (
        site.anonymous().await,
        site.dial(site.me.ingress_client_config(site.fleet.ca.pem()).unwrap())
            .await,
    );
    assert_eq!(stranger.get("/").await.unwrap(), "HTTP/3.0 Tls None true");
    let role = Some(site.me.role.to_string());
    assert_eq!(fellow.get("/").await.unwrap(), format!("HTTP/3.0 Tls {role:?} true"));
    let answer = stranger.ask(Request::head("/"), "/", b"").await.unwrap();
    assert_eq!((answer.status(), answer.body().len()), (StatusCode::OK, 0));
    assert_eq!(answer.headers()[CONTENT_LENGTH], "22");
    assert!(!answer.headers().contains_key(CONNECTION), "malformed in HTTP/3");
}

#[tokio::test]
async fn bodies_larger_than_any_window_go_both_ways_and_many_at_once() {
    let site = Site::open().await;
    let caller = site.anonymous().await;
    let body: Vec<u8> = (0..6_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let ask = |n: usize| {
        let (caller, body) = (&caller, &body[n..]);
        async move {
            let answer = caller.ask(Request::post("/"), "/echo", body).await.unwrap();
            assert_eq!(answer.body(), body);
        }
    };
    tokio::join!(ask(0), ask(1), ask(5_999_999));
}

#[tokio::test]
async fn a_body_of_another_length_than_it_announces_is_broken() {
    let site = Site::open().await;
    let caller = site.anonymous().await;
    for (announced, told) in [("3", "abc"), ("2", "broken"), ("4", "broken")] {
        let request = Request::post("/").header(CONTENT_LENGTH, announced);
        let answer = caller.ask(request, "/echo", b"abc").await.unwrap();
        assert_eq!(answer.body(), told, "{announced}");
    }
}

#[tokio::test]
async fn a_client_that_is_gone_takes_its_requests_with_it() {
    let site = Site::open().await;
    let caller = site.anonymous().await;
    let slow = caller.get("/slow");
    let leave = async {
        site.started.acquire().await.unwrap().forget();
        caller.connection.close(VarInt::from_u32(0), b"");
    };
    let (answer, ()) = tokio::join!(slow, leave);
    assert!(answer.is_err());
    site.dropped.acquire().await.unwrap().forget();
}

#[tokio::test]
async fn drain_answers_what_was_taken_and_takes_no_more() {
    let site = Site::open().await;
    let caller = site.anonymous().await;
    let stop = async {
        site.started.acquire().await.unwrap().forget();
        let (clean, ()) = tokio::join!(site.lifecycle.stop(Duration::from_secs(10)), async {
            site.lifecycle.drain().cancelled().await;
            while caller.get("/").await.is_ok() {} // GOAWAY is on its way
            site.go.add_permits(1);
        });
        clean
    };
    let (answer, clean) = tokio::join!(caller.get("/slow"), stop);
    assert_eq!(answer.unwrap(), "HTTP/3.0 Tls None true");
    assert!(clean, "every connection ended by itself");
}

#[tokio::test]
async fn one_number_is_two_ports_and_answers_over_tcp_say_so() {
    let site = Site::open().await;
    let dir = site.fleet.dir.path().join("ingress");
    let tls = || ServerTls::load(&dir.join("cert.pem"), &dir.join("key.pem"), None).unwrap();
    let client = super::super::Client::new(anonymous_client_config(site.fleet.ca.pem()).unwrap());
    for (http3, says) in [(true, true), (false, false)] {
        let ports = super::super::Ports::bind("127.0.0.1:0".parse().unwrap(), http3)
            .await
            .unwrap();
        let address = ports.address();
        let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))) });
        super::super::serve_ports(ports, tls(), &site.lifecycle, service).unwrap();
        let request = Request::get("/").body(super::super::empty()).unwrap();
        let answer = client.request(address, NAME, request).await.unwrap();
        let told = answer
            .headers()
            .get(http::header::ALT_SVC)
            .map(|value| value.to_str().unwrap());
        let want = format!("h3=\":{}\"; ma=86400", address.port());
        assert_eq!(told, says.then_some(want.as_str()));
        let taken = UdpSocket::bind(address).is_err();
        assert_eq!(taken, http3, "the UDP port of the same number");
    }
}
