//! A bad wire: carries UDP datagrams to one place and back, and turns a bit of every so manieth.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// The longest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Callers at one time.
const CALLERS_MAX: usize = 64;

/// A wire. Dropped, it carries nothing any more.
#[derive(Debug)]
pub struct BadLink {
    /// Where callers send to.
    pub address: SocketAddr,
    spoiler: Spoiler,
    _tasks: JoinSet<()>,
}

/// Counts datagrams and spoils some.
#[derive(Clone, Debug)]
struct Spoiler {
    every: u64,
    carried: Arc<AtomicU64>,
}

impl Spoiler {
    fn pass(&self, datagram: &mut [u8]) {
        let number = self.carried.fetch_add(1, Ordering::Relaxed) + 1;
        let middle = datagram.len() / 2;
        if let Some(byte) = datagram.get_mut(middle).filter(|_| number.is_multiple_of(self.every)) {
            *byte ^= 1;
        }
    }
}

impl BadLink {
    /// A wire to `target` that spoils every `every`th datagram, both ways counted together.
    ///
    /// # Errors
    /// No port is free.
    pub async fn to(target: SocketAddr, every: u64) -> Result<Self> {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        let spoiler = Spoiler {
            every,
            carried: Arc::default(),
        };
        let address = front.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(carry(front, target, spoiler.clone()));
        Ok(Self {
            address,
            spoiler,
            _tasks: tasks,
        })
    }
    /// How many datagrams were spoilt so far.
    #[must_use]
    pub fn spoilt(&self) -> u64 {
        self.spoiler.carried.load(Ordering::Relaxed) / self.spoiler.every
    }
}

/// Carries datagrams of callers forth; one more task a caller carries them back.
async fn carry(front: Arc<UdpSocket>, target: SocketAddr, spoiler: Spoiler) {
    let mut callers: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut backs = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    // A wire tells nobody that it lost something: errors are losses.
    loop {
        let Ok((len, caller)) = front.recv_from(&mut buffer).await else {
            continue;
        };
        if !callers.contains_key(&caller) {
            let Ok(onward) = onward(target).await else { continue };
            if callers.len() >= CALLERS_MAX {
                callers.clear();
                backs.abort_all();
            }
            callers.insert(caller, Arc::clone(&onward));
            backs.spawn(bring_back(onward, Arc::clone(&front), caller, spoiler.clone()));
        }
        let datagram = &mut buffer[..len];
        spoiler.pass(datagram);
        if let Some(onward) = callers.get(&caller) {
            onward.send(datagram).await.ok();
        }
    }
}

async fn onward(target: SocketAddr) -> std::io::Result<Arc<UdpSocket>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(target).await?;
    Ok(Arc::new(socket))
}

async fn bring_back(onward: Arc<UdpSocket>, front: Arc<UdpSocket>, caller: SocketAddr, spoiler: Spoiler) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok(len) = onward.recv(&mut buffer).await else {
            continue;
        };
        spoiler.pass(&mut buffer[..len]);
        front.send_to(&buffer[..len], caller).await.ok();
    }
}
