//! Windows, timeouts and congestion control of all connections.
//!
//! Measured at 50 ms, 1 % loss and 200 Mbit/s: quinn's Cubic reaches 3 Mbit/s, its BBR 82 to 127 with 2.5 MB in flight,
//! and beyond that window it floods the queue (36 to 44 % lost). So: BBR, and never more than
//! [`QUIC_WINDOW_BYTES`] in flight. The initial MTU stays at the safe 1200, only discovery raises it.

use std::sync::Arc;
use std::time::Duration;

use proto::limits::{QUIC_STREAMS_MAX, QUIC_WINDOW_BYTES};
use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, ServerConfig, TransportConfig, VarInt};

use super::QuicError;
use crate::identity::IdentityError;

/// A peer that says nothing for this long is gone.
const IDLE_TIMEOUT_MS: u32 = 10_000;
/// How often a quiet connection says that it is there: three may get lost.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

fn transport() -> Arc<TransportConfig> {
    let window = VarInt::from_u32(QUIC_WINDOW_BYTES);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(QUIC_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(window)
        .receive_window(window)
        .send_window(u64::from(QUIC_WINDOW_BYTES))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS).into()))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .congestion_controller_factory(Arc::new(BbrConfig::default()));
    Arc::new(config)
}

pub(super) fn server(tls: rustls::ServerConfig) -> Result<ServerConfig, QuicError> {
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).map_err(no_suite)?));
    config.transport_config(transport());
    Ok(config)
}

pub(super) fn client(tls: rustls::ClientConfig) -> Result<ClientConfig, QuicError> {
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(no_suite)?));
    config.transport_config(transport());
    Ok(config)
}

fn no_suite(e: NoInitialCipherSuite) -> QuicError {
    QuicError::Identity(IdentityError::Tls(rustls::Error::General(e.to_string())))
}
