//! The sockets of the name server: datagrams one by one, TCP connections few and short.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proto::limits::{DNS_QUERIES_PER_CONNECTION_MAX, DNS_TCP_CONNECTIONS_MAX};
use runtime::lifecycle::Lifecycle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::{Transport, Zone, answer, nearest};
use crate::metrics::{ByDns, Instruments};
use crate::steering::Steering;

/// The largest datagram that is read; a query is far shorter.
const QUERY_BYTES_MAX: usize = 4096;
/// How long a TCP client may take for its next query, and to take its answer (RFC 7766 asks for seconds).
const TCP_IDLE: Duration = Duration::from_secs(5);

/// The bound sockets, one number for both.
#[derive(Debug)]
pub struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Server {
    /// Binds UDP and TCP at `address`; for port 0 both get the same free port.
    ///
    /// # Errors
    /// As the system says.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        // A free UDP port may be taken on TCP: then the next one is tried.
        let tries = if address.port() == 0 { 16 } else { 1 };
        let mut last = None;
        for _ in 0..tries {
            let udp = UdpSocket::bind(address).await?;
            match TcpListener::bind(udp.local_addr()?).await {
                Ok(tcp) => return Ok(Self { udp, tcp }),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse)))
    }
    /// Where it listens.
    ///
    /// # Errors
    /// As the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

/// What answering takes; shared by all tasks.
struct Desk {
    zone: Zone,
    steering: Arc<Steering>,
    instruments: Instruments,
}

impl Desk {
    fn answer(&self, query: &[u8], peer: IpAddr, transport: Transport) -> Option<Vec<u8>> {
        let steer = |boundary: &_, client| nearest(&self.steering, boundary, client);
        let found = answer(&self.zone, query, peer, transport, &steer)?;
        self.instruments
            .dns
            .get_or_create(&ByDns { outcome: found.outcome })
            .inc();
        Some(found.bytes)
    }
}

/// Answers until the lifecycle drains.
pub fn serve(server: Server, zone: Zone, steering: Arc<Steering>, instruments: Instruments, lifecycle: &Lifecycle) {
    let desk = Arc::new(Desk {
        zone,
        steering,
        instruments,
    });
    lifecycle.spawn("dns-udp", datagrams(server.udp, desk.clone(), lifecycle.clone()));
    lifecycle.spawn("dns-tcp", connections(server.tcp, desk, lifecycle.clone()));
}

async fn datagrams(socket: UdpSocket, desk: Arc<Desk>, lifecycle: Lifecycle) {
    let mut query = vec![0; QUERY_BYTES_MAX];
    loop {
        let received = tokio::select! {
            () = lifecycle.drain().cancelled() => return,
            received = socket.recv_from(&mut query) => received,
        };
        // An error here belongs to one datagram (such as ICMP unreachable for an earlier answer), not to the socket.
        let Ok((len, peer)) = received else { continue };
        if let Some(answer) = desk.answer(&query[..len], peer.ip(), Transport::Udp) {
            // Datagrams may be lost; the client asks again.
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}

async fn connections(listener: TcpListener, desk: Arc<Desk>, lifecycle: Lifecycle) {
    let room = Arc::new(Semaphore::new(DNS_TCP_CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = lifecycle.drain().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        // Full means refuse now: the connection is dropped.
        let (Ok((stream, peer)), Ok(permit)) = (accepted, room.clone().try_acquire_owned()) else {
            continue;
        };
        let (desk, stop) = (desk.clone(), lifecycle.clone());
        lifecycle.spawn("dns-tcp-client", async move {
            let _permit = permit;
            tokio::select! {
                () = stop.drain().cancelled() => {}
                _ = conversation(stream, peer.ip(), &desk) => {}
            }
        });
    }
}

async fn conversation(mut stream: TcpStream, peer: IpAddr, desk: &Desk) -> io::Result<()> {
    for _ in 0..DNS_QUERIES_PER_CONNECTION_MAX {
        let query = tokio::time::timeout(TCP_IDLE, read_message(&mut stream)).await??;
        let Some(answer) = desk.answer(&query, peer, Transport::Tcp) else {
            return Ok(());
        };
        let len = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&len.to_be_bytes()[..], &answer].concat();
        tokio::time::timeout(TCP_IDLE, stream.write_all(&framed)).await??;
    }
    Ok(())
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = usize::from(stream.read_u16().await?);
    if len > QUERY_BYTES_MAX {
        return Err(io::Error::other("longer than any query"));
    }
    let mut query = vec![0; len];
    stream.read_exact(&mut query).await?;
    Ok(query)
}
