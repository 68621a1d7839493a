//! The accept loop and one task per connection, bounded in number and time, drained in order.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::ALT_SVC;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use pin_project_lite::pin_project;
use proto::limits::{HTTP_CONNECTIONS_MAX, HTTP_HEAD_BYTES_MAX, HTTP_STREAMS_MAX};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::gather::Gather;
use super::inbound::Inbound;
use super::patience::Patience;
use super::plain::Kind;
use super::waking::Ear;
use super::{HttpsError, Origin, PeerAddr, PlainListener, ServerTls, Transport};
use crate::identity::role_of;
use crate::lifecycle::{Lifecycle, unless};

/// How often an HTTP/2 connection is asked whether it is there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Rest after the system refused to accept: out of file descriptors, most likely.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// How long a connection that has just been made may still send its first request when the listener has closed. Its
/// client knows of no close yet: the request may be on its way.
const FIRST_REQUEST: Duration = Duration::from_millis(500);
/// How much of a request body HTTP/2 may send ahead of the service, per stream and per connection.
pub(super) const STREAM_WINDOW_BYTES: u32 = 1 << 20;
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// What one listener allows its clients.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Connections at one time.
    pub(super) connections_max: usize,
    /// From the first byte of a connection to the end of its TLS handshake.
    pub(super) handshake: Duration,
    /// From the first wish to read a request to the end of its head; also how long an idle HTTP/1.1 connection is kept.
    pub(super) head: Duration,
}

impl Bounds {
    pub(super) const USUAL: Self = Self {
        connections_max: HTTP_CONNECTIONS_MAX,
        handshake: Duration::from_secs(5),
        head: Duration::from_secs(30),
    };
}

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the daemons put behind a listener.
pub trait HttpService<B>:
    Service<Request<Inbound>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
{
}
impl<B, S> HttpService<B> for S where
    S: Service<Request<Inbound>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Answers `listener` with `service` in tasks of `lifecycle`, until that drains: then the listener closes, and open
/// connections end when the requests they have taken are answered. Without `tls` the listener must be on loopback.
///
/// Each request carries its [`Origin`].
///
/// # Errors
/// [`HttpsError::PlainNotLocal`].
pub fn serve<S, B>(
    listener: TcpListener,
    tls: Option<ServerTls>,
    lifecycle: &Lifecycle,
    service: S,
) -> Result<(), HttpsError>
where
    S: HttpService<B>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let Some(tls) = tls else {
        serve_plain(PlainListener::from_tcp(listener)?, lifecycle, service);
        return Ok(());
    };
    serve_tls(listener, tls, Door::new(lifecycle, service, Bounds::USUAL));
    Ok(())
}

pub(super) fn serve_tls<S, B>(listener: TcpListener, tls: ServerTls, door: Door<S>)
where
    S: HttpService<B>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    door.lifecycle.clone().spawn("https-accept", async move {
        while let Some((stream, address, room)) = door.next(|| listener.accept()).await {
            let _ = stream.set_nodelay(true); // a socket that refuses is slower, not wrong
            door.admit(secure(door.clone(), tls.clone(), stream, address), room);
        }
    });
}

/// As [`serve`], without TLS, for this machine only.
pub fn serve_plain<S, B>(listener: PlainListener, lifecycle: &Lifecycle, service: S)
where
    S: HttpService<B>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let door = Door::new(lifecycle, service, Bounds::USUAL);
    lifecycle.spawn("http-accept", async move {
        match listener.0 {
            Kind::Tcp(listener, _) => {
                while let Some((stream, address, room)) = door.next(|| listener.accept()).await {
                    let _ = stream.set_nodelay(true); // a socket that refuses is slower, not wrong
                    let origin = Origin {
                        peer: PeerAddr::Ip(address),
                        transport: Transport::Plain,
                        role: None,
                    };
                    door.admit(door.clone().converse(Gather(stream), origin, Version::Sniff), room);
                }
            }
            Kind::Unix(listener, _file) => {
                while let Some((stream, _, room)) = door.next(|| listener.accept()).await {
                    let origin = Origin {
                        peer: PeerAddr::Unix,
                        transport: Transport::Plain,
                        role: None,
                    };
                    door.admit(door.clone().converse(stream, origin, Version::Sniff), room);
                }
            }
        }
    });
}

/// Which HTTP a connection speaks: TLS has agreed on one, a plain client shows it by its first bytes.
#[derive(Clone, Copy)]
enum Version {
    One,
    Two,
    Sniff,
}

/// What all connections of one listener share.
#[derive(Clone)]
pub(super) struct Door<S> {
    pub(super) lifecycle: Lifecycle,
    pub(super) service: S,
    pub(super) bounds: Bounds,
    pub(super) room: Arc<Semaphore>,
    /// What every answer says of the same service elsewhere.
    alt_svc: Option<HeaderValue>,
}

impl<S> Door<S> {
    pub(super) fn new(lifecycle: &Lifecycle, service: S, bounds: Bounds) -> Self {
        let room = Arc::new(Semaphore::new(bounds.connections_max));
        Self {
            lifecycle: lifecycle.clone(),
            service,
            bounds,
            room,
            alt_svc: None,
        }
    }
    /// Lets every answer carry `alt_svc`.
    pub(super) fn saying(self, alt_svc: HeaderValue) -> Self {
        let alt_svc = Some(alt_svc);
        Self { alt_svc, ..self }
    }

    /// The next connection there is room for; none when draining.
    async fn next<T, A, F>(&self, accept: impl Fn() -> F) -> Option<(T, A, OwnedSemaphorePermit)>
    where
        F: Future<Output = io::Result<(T, A)>>,
    {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.lifecycle.drain().cancelled() => return None,
                accepted = accept() => accepted,
            };
            match (accepted, self.room.clone().try_acquire_owned()) {
                (Ok((stream, address)), Ok(room)) => return Some((stream, address, room)),
                (Ok(_), Err(_)) => tracing::warn!(
                    max = self.bounds.connections_max,
                    "closed a connection: too many are open"
                ),
                (Err(error), _) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    pub(super) fn admit(&self, connection: impl Future<Output = ()> + Send + 'static, room: OwnedSemaphorePermit) {
        self.lifecycle.spawn("http-connection", async move {
            connection.await;
            drop(room);
        });
    }

    /// Speaks HTTP until the peer leaves, breaks the protocol or the lifecycle drains.
    async fn converse<IO, B>(self, stream: IO, origin: Origin, version: Version)
    where
        S: HttpService<B>,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let builder = http(version, self.bounds.head);
        // It is looked at with each request: one token for all connections would be a lock for all of them.
        let drain = self.lifecycle.drain().child_token();
        let asked = CancellationToken::new();
        let service = Told {
            service: self.service,
            origin: Arc::new(origin),
            asked: asked.clone(),
            first: Once::new(),
            alt_svc: self.alt_svc,
        };
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let (ear, mut connection) = (Ear::new(), std::pin::pin!(connection));
        // A request that has arrived is taken before the drain is seen.
        let over = match unless(&drain, ear.hear(connection.as_mut())).await {
            Some(result) => Some(result),
            None => tokio::select! {
                biased;
                result = ear.hear(connection.as_mut()) => Some(result),
                _ = tokio::time::timeout(FIRST_REQUEST, asked.cancelled()) => None,
            },
        };
        let result = match over {
            Some(result) => result,
            None => {
                connection.as_mut().graceful_shutdown();
                ear.hear(connection).await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a client's connection ended early");
        }
    }
}

/// Shakes hands, then speaks HTTP.
async fn secure<S, B>(door: Door<S>, tls: ServerTls, stream: tokio::net::TcpStream, address: SocketAddr)
where
    S: HttpService<B>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let handshake = tokio::time::timeout(door.bounds.handshake, TlsAcceptor::from(tls.current()).accept(stream));
    // A client is done with the handshake, and sends its request, before the server is: the drain leaves it a moment.
    let late = async {
        door.lifecycle.drain().cancelled().await;
        tokio::time::sleep(FIRST_REQUEST).await;
    };
    let stream = match within(late, handshake).await {
        Some(Ok(Ok(stream))) => stream,
        Some(Ok(Err(error))) => return tracing::debug!(%address, %error, "TLS handshake"),
        Some(Err(_)) => return tracing::debug!(%address, "no TLS handshake in time"),
        None => return,
    };
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let role = certificate
        .zip(tls.fleet())
        .and_then(|(certificate, fleet)| role_of(certificate, fleet).ok());
    let version = if session.alpn_protocol() == Some(b"h2") {
        Version::Two
    } else {
        Version::One
    };
    let origin = Origin {
        peer: PeerAddr::Ip(address),
        transport: Transport::Tls,
        role,
    };
    door.converse(stream, origin, version).await;
}

fn http(version: Version, head_timeout: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    let head_bytes_max = usize::try_from(HTTP_HEAD_BYTES_MAX).unwrap_or(usize::MAX);
    builder
        .http1()
        .timer(Patience::default())
        .header_read_timeout(head_timeout)
        .max_buf_size(head_bytes_max.max(64 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .max_concurrent_streams(HTTP_STREAMS_MAX)
        .max_header_list_size(HTTP_HEAD_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    match version {
        Version::One => builder.http1_only(),
        Version::Two => builder.http2_only(),
        Version::Sniff => builder,
    }
}

/// The result of `work`, or none if `stop` comes first.
async fn within<T>(stop: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = stop => None,
    }
}

/// A service that is told about the connection in each request's extensions.
struct Told<S> {
    service: S,
    origin: Arc<Origin>,
    /// Cancelled by the first request.
    asked: CancellationToken,
    first: Once,
    alt_svc: Option<HeaderValue>,
}

pin_project! {
    /// An answer on its way, and what is said with it.
    struct Answering<F> {
        #[pin]
        answer: F,
        alt_svc: Option<HeaderValue>,
    }
}

impl<F: Future<Output = Result<Response<B>, E>>, B, E> Future for Answering<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.answer.poll(context));
        if let (Ok(answer), Some(value)) = (&mut answer, this.alt_svc.take()) {
            answer.headers_mut().insert(ALT_SVC, value);
        }
        Poll::Ready(answer)
    }
}

impl<S: Service<Request<Inbound>, Response = Response<B>>, B> Service<Request<Incoming>> for Told<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.first.call_once(|| self.asked.cancel());
        let mut request = Inbound::of(request);
        request.extensions_mut().insert(Arc::clone(&self.origin));
        Answering {
            answer: self.service.call(request),
            alt_svc: self.alt_svc.clone(),
        }
    }
}
