//! HTTP/3: the same service over QUIC, on the UDP port of the same number.
//!
//! ```text
//!   datagrams --> handshake (its address proven first, when many come) --> connection --accept--> one task a request
//!       | drain: GOAWAY, no new connection; what was taken is answered, then the connection closes
//! ```
//! A connection that is lost drops its requests. One request that is called off is noticed only when its answer is sent:
//! `h3` tells of it no sooner.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h3::error::Code;
use h3::server::RequestResolver;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Response};
use http_body::Body;
use http_body_util::BodyExt;
use proto::limits::{HTTP_HEAD_BYTES_MAX, HTTP_STREAMS_MAX};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, ServerConfig, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::task::JoinSet;

use super::inbound::Inbound;
use super::server::{Bounds, BoxError, CONNECTION_WINDOW_BYTES, Door, HttpService, STREAM_WINDOW_BYTES};
use super::{HttpsError, Origin, PeerAddr, ServerTls, Transport};
use crate::identity::role_of;
use crate::lifecycle::Lifecycle;

/// A client that says nothing for this long is gone.
const IDLE_TIMEOUT_MS: u32 = 30_000;
/// Streams that a client may open beside its requests: its settings and two of QPACK, and some to spare for those it makes up.
const SIDE_STREAMS_MAX: u32 = 8;
/// Connections may take this share of the room before a client must prove its address: a forged one then costs no state.
const UNPROVEN_SHARE: usize = 2;
/// How long a closing listener waits for its clients to hear of it.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// The body of an answer.
pub trait Outbound: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + Unpin + 'static {}
impl<B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + Unpin + 'static> Outbound for B {}

/// What an answer over TCP says of the same service over QUIC on `port` (RFC 7838).
pub(super) fn alt_svc(port: u16) -> HeaderValue {
    HeaderValue::try_from(format!("h3=\":{port}\"; ma=86400")).expect("digits are printable ASCII")
}

/// As [`serve`](super::serve), over QUIC.
///
/// # Errors
/// [`HttpsError::Bind`] when the socket cannot be used, [`HttpsError::Certificate`] when QUIC cannot use the certificate.
pub(super) fn serve_http3<S, B>(
    socket: UdpSocket,
    tls: ServerTls,
    lifecycle: &Lifecycle,
    service: S,
) -> Result<(), HttpsError>
where
    S: HttpService<B>,
    B: Outbound,
{
    let failed = |source| HttpsError::Bind {
        address: "a UDP socket for HTTP/3".to_owned(),
        source,
    };
    let current = tls.current();
    let config = config(&current).map_err(|e| failed(std::io::Error::other(e)))?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime).map_err(failed)?;
    let door = Door::new(lifecycle, service, Bounds::USUAL);
    lifecycle.spawn("http3-accept", accept(endpoint, tls, current, door));
    Ok(())
}

/// Takes connections until the lifecycle drains, then waits for those that are open.
async fn accept<S, B>(endpoint: Endpoint, tls: ServerTls, mut seen: Arc<rustls::ServerConfig>, door: Door<S>)
where
    S: HttpService<B>,
    B: Outbound,
{
    let all = door.bounds.connections_max;
    loop {
        let incoming = tokio::select! {
            biased;
            () = door.lifecycle.drain().cancelled() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        let current = tls.current();
        if !Arc::ptr_eq(&current, &seen) {
            if let Ok(config) = config(&current) {
                endpoint.set_server_config(Some(config)); // for the next; this one began with the old
            }
            seen = current;
        }
        let crowded = door.room.available_permits() < all / UNPROVEN_SHARE;
        if crowded && !incoming.remote_address_validated() && incoming.may_retry() {
            incoming.retry().unwrap_or_else(|e| e.into_incoming().refuse());
            continue;
        }
        match door.room.clone().try_acquire_owned() {
            Ok(room) => door.admit(converse(door.clone(), tls.clone(), incoming), room),
            Err(_) => incoming.refuse(),
        }
    }
    endpoint.set_server_config(None);
    // The lifecycle's own grace bounds this wait.
    let _ = door.room.acquire_many(u32::try_from(all).unwrap_or(u32::MAX)).await;
    endpoint.close(VarInt::from_u32(0), b"stopping");
    let _ = tokio::time::timeout(CLOSE_GRACE, endpoint.wait_idle()).await; // the rest find out by their idle timeout
}

fn config(tls: &rustls::ServerConfig) -> Result<ServerConfig, BoxError> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    tls.max_early_data_size = 0; // what comes early can be sent again by somebody else
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(HTTP_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(SIDE_STREAMS_MAX))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS).into()));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Shakes hands, then answers until the client leaves, breaks the protocol or the lifecycle drains.
async fn converse<S, B>(door: Door<S>, tls: ServerTls, incoming: quinn::Incoming)
where
    S: HttpService<B>,
    B: Outbound,
{
    let address = incoming.remote_address();
    let shaken = async { incoming.accept()?.await };
    let connection = match tokio::time::timeout(door.bounds.handshake, shaken).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "QUIC handshake"),
        Err(_) => return tracing::debug!(%address, "no QUIC handshake in time"),
    };
    let origin = Arc::new(origin(&connection, address, &tls));
    let mut builder = h3::server::builder();
    builder.max_field_section_size(u64::from(HTTP_HEAD_BYTES_MAX));
    let mut http = match builder.build(h3_quinn::Connection::new(connection.clone())).await {
        Ok(http) => http,
        Err(error) => return tracing::debug!(%address, %error, "a client's connection ended early"),
    };
    let mut requests = JoinSet::new(); // dropped with the connection, and all its requests with it
    let mut leaving = false;
    loop {
        tokio::select! {
            biased;
            accepted = http.accept() => match accepted {
                Ok(Some(resolver)) => {
                    requests.spawn(request(door.service.clone(), Arc::clone(&origin), door.bounds.head, resolver));
                }
                Ok(None) => break,
                Err(error) => return tracing::debug!(%address, %error, "a client's connection ended early"),
            },
            Some(_) = requests.join_next() => {}
            () = door.lifecycle.drain().cancelled(), if !leaving => {
                leaving = true;
                if http.shutdown(0).await.is_err() {
                    return;
                }
            }
            else => break,
        }
        if leaving && requests.is_empty() {
            break;
        }
    }
    while requests.join_next().await.is_some() {}
    let code = VarInt::from_u64(Code::H3_NO_ERROR.value()).unwrap_or_default();
    connection.close(code, b"");
}

fn origin(connection: &quinn::Connection, address: SocketAddr, tls: &ServerTls) -> Origin {
    let chain = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let certificate = chain.as_deref().and_then(|chain| chain.first());
    Origin {
        peer: PeerAddr::Ip(address),
        transport: Transport::Tls,
        role: certificate
            .zip(tls.fleet())
            .and_then(|(certificate, fleet)| role_of(certificate, fleet).ok()),
    }
}

/// Reads one head, asks the service, sends its answer.
async fn request<S, B>(
    service: S,
    origin: Arc<Origin>,
    head_timeout: Duration,
    resolver: RequestResolver<h3_quinn::Connection, Bytes>,
) where
    S: HttpService<B>,
    B: Outbound,
{
    let Ok(Ok((head, stream))) = tokio::time::timeout(head_timeout, resolver.resolve_request()).await else {
        return; // the client left, or sent no head: h3 has told it
    };
    let (send, receive) = stream.split();
    let announced = head.headers().get(CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse().ok());
    let only_head = *head.method() == Method::HEAD;
    let mut request = head.map(|()| Inbound::over_quic(receive, announced));
    request.extensions_mut().insert(origin);
    let Ok(answer) = service.call(request).await;
    if let Err(error) = reply(send, answer, only_head).await {
        tracing::debug!(%error, "an answer was not taken");
    }
}

async fn reply<B>(
    mut send: h3::server::RequestStream<h3_quinn::SendStream<Bytes>, Bytes>,
    answer: Response<B>,
    only_head: bool,
) -> Result<(), BoxError>
where
    B: Outbound,
{
    let (mut head, mut body) = answer.into_parts();
    for name in [CONNECTION, TRANSFER_ENCODING] {
        head.headers.remove(name); // of one hop, and malformed here: RFC 9114, section 4.2
    }
    if let Some(length) = body.size_hint().exact() {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    send.send_response(Response::from_parts(head, ())).await?;
    if !only_head {
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    send.stop_stream(Code::H3_INTERNAL_ERROR); // an end would look like a whole answer
                    return Err(error.into());
                }
            };
            match frame.into_data() {
                Ok(data) => send.send_data(data).await?,
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        send.send_trailers(trailers).await?;
                    }
                }
            }
        }
    }
    send.finish().await?;
    Ok(())
}

#[cfg(test)]
mod tests;
