//! A TCP and a UDP port of one number: HTTP/1.1 and HTTP/2 on the one, HTTP/3 on the other.

use std::net::{SocketAddr, UdpSocket};

use tokio::net::TcpListener;

use super::http3::{Outbound, alt_svc, serve_http3};
use super::server::{Bounds, Door, HttpService, serve_tls};
use super::{HttpsError, ServerTls};
use crate::lifecycle::Lifecycle;

/// How often another number is tried where the system chooses it and only TCP had it free.
const CHOICES_MAX: usize = 16;

/// Where everybody may ask.
#[derive(Debug)]
pub struct Ports {
    address: SocketAddr,
    tcp: TcpListener,
    udp: Option<UdpSocket>,
}

impl Ports {
    /// Binds `listen`, port 0 for a free one, and the UDP port of the same number if there is to be HTTP/3.
    ///
    /// # Errors
    /// [`HttpsError::Bind`] names the address and which of both.
    pub async fn bind(listen: SocketAddr, http3: bool) -> Result<Self, HttpsError> {
        let failed = |kind: &str, address: SocketAddr| {
            let address = format!("{address} ({kind})");
            move |source| HttpsError::Bind { address, source }
        };
        let mut choices = 0;
        loop {
            let tcp = TcpListener::bind(listen).await.map_err(failed("TCP", listen))?;
            let address = tcp.local_addr().map_err(failed("TCP", listen))?;
            if !http3 {
                let udp = None;
                return Ok(Self { address, tcp, udp });
            }
            choices += 1;
            match UdpSocket::bind(address) {
                Ok(udp) => {
                    let udp = Some(udp);
                    return Ok(Self { address, tcp, udp });
                }
                Err(_) if listen.port() == 0 && choices < CHOICES_MAX => {}
                Err(source) => return Err(failed("UDP, for HTTP/3", address)(source)),
            }
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// As [`serve`](super::serve) with TLS, over QUIC too where `ports` has it: then answers over TCP say so (`Alt-Svc`).
///
/// # Errors
/// [`HttpsError::Bind`] when the socket of UDP cannot be used, [`HttpsError::Certificate`] when QUIC cannot use the certificate.
pub fn serve_ports<S, B>(ports: Ports, tls: ServerTls, lifecycle: &Lifecycle, service: S) -> Result<(), HttpsError>
where
    S: HttpService<B>,
    B: Outbound,
{
    let mut door = Door::new(lifecycle, service.clone(), Bounds::USUAL);
    if let Some(udp) = ports.udp {
        serve_http3(udp, tls.clone(), lifecycle, service)?;
        door = door.saying(alt_svc(ports.address.port()));
    }
    serve_tls(ports.tcp, tls, door);
    Ok(())
}
