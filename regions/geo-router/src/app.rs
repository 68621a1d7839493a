//! Puts the parts together: `build` loads and binds, so that every mistake shows before anything runs; `run` drives.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::service::service_fn;
use proto::signed::TrustBundle;
use runtime::https::{Client, PlainListener, Ports, ServerTls, serve_plain, serve_ports};
use runtime::identity::{Identity, Role, load_trust};
use runtime::lifecycle::Lifecycle;
use runtime::metrics::Metrics;

use crate::config::{HttpConfig, RouterConfig};
use crate::dns;
use crate::gossip::Gossip;
use crate::http::{Budget, Front, Proxy, first_request};
use crate::metrics::Instruments;
use crate::probe::Prober;
use crate::snapshot::{Believed, Follower, Store, follow};
use crate::steering::Steering;

/// What all parts of the router share.
#[derive(Clone)]
struct Shared {
    steering: Arc<Steering>,
    gossip: Arc<Mutex<Gossip>>,
    instruments: Instruments,
    client: Client,
    identity: Identity,
}

/// Everything that is bound.
struct Doors {
    tls: ServerTls,
    ports: Ports,
    plain: Option<PlainListener>,
    dns: Option<(dns::Server, dns::Zone)>,
}

impl Doors {
    async fn open(http: &HttpConfig, dns: Option<(SocketAddr, dns::Zone)>, identity: &Identity) -> Result<Self> {
        let tls = ServerTls::load(&http.certificate, &http.key, Some(identity))?;
        let ports = Ports::bind(http.listen, http.http3).await?;
        let plain = match &http.plain {
            Some(address) => Some(PlainListener::bind(address).await?),
            None => None,
        };
        let dns = match dns {
            Some((listen, zone)) => {
                let server = dns::Server::bind(listen).await;
                Some((server.with_context(|| format!("listen on {listen} for DNS"))?, zone))
            }
            None => None,
        };
        Ok(Self { tls, ports, plain, dns })
    }
}

/// A router whose doors are open and that does not answer yet.
pub struct App {
    front: Arc<Front>,
    doors: Doors,
    follower: Follower,
    used: Option<Believed>,
    prober: Prober,
    lifecycle: Lifecycle,
}

impl App {
    /// Loads identity, trust and the kept view, and binds all ports.
    ///
    /// # Errors
    /// What cannot be loaded or bound, with its name.
    pub async fn build(config: RouterConfig) -> Result<Self> {
        let identity = Identity::load(&config.identity).context("load the identity")?;
        let Role::Router(name) = &identity.role else {
            bail!(
                "the identity in {} is {}, not a router's",
                config.identity.display(),
                identity.role
            )
        };
        let name = name.to_string();
        let trust = load_trust(&config.trust).context("load the trust bundle")?;
        if trust.fleet != identity.fleet {
            bail!(
                "the trust bundle is of fleet `{}`, the identity of fleet `{}`",
                trust.fleet,
                identity.fleet
            );
        }
        let mut metrics = Metrics::new();
        metrics.show_process();
        let shared = Shared {
            steering: Arc::new(Steering::new(config.clients)),
            gossip: Arc::new(Mutex::new(Gossip::new(trust.log_vkey.clone()))),
            instruments: Instruments::register(&mut metrics),
            client: Client::new(identity.ingress_client_config(identity.ca_pem())?),
            identity,
        };
        let doors = Doors::open(&config.http, config.dns, &shared.identity).await?;
        let follower = follower(&shared, config.control_plane, trust, Store::open(&config.data)?);
        let used = follower.start();
        Ok(Self {
            front: front(&shared, name, metrics, config.http),
            doors,
            follower,
            used,
            prober: prober(shared, config.probe_period, config.probe_timeout),
            lifecycle: Lifecycle::new(),
        })
    }
    /// Where it listens: `ingress`, and `plain` and `dns` if they are configured.
    ///
    /// # Errors
    /// As the system says.
    pub fn addresses(&self) -> Result<serde_json::Value> {
        let mut addresses = serde_json::json!({ "ingress": self.doors.ports.address().to_string() });
        if let Some(plain) = &self.doors.plain {
            addresses["plain"] = plain.address().into();
        }
        if let Some((dns, _)) = &self.doors.dns {
            addresses["dns"] = dns.local_addr()?.to_string().into();
        }
        Ok(addresses)
    }
    /// Starts all tasks. A router with a view has probed every node once before it answers.
    ///
    /// # Errors
    /// A listener that cannot be served.
    pub async fn run(self) -> Result<Running> {
        let lifecycle = self.lifecycle;
        self.prober.round().await;
        let front = self.front.clone();
        let service = service_fn(move |request| front.clone().answer(request));
        serve_ports(self.doors.ports, self.doors.tls, &lifecycle, service.clone())?;
        if let Some(plain) = self.doors.plain {
            serve_plain(plain, &lifecycle, service);
        }
        if let Some((server, zone)) = self.doors.dns {
            let (steering, instruments) = (self.front.steering.clone(), self.front.instruments.clone());
            dns::serve(server, zone, steering, instruments, &lifecycle);
        }
        lifecycle.spawn("follow", follow(self.follower, self.used, lifecycle.clone()));
        lifecycle.spawn("probe", self.prober.run(lifecycle.clone()));
        Ok(Running {
            front: self.front,
            lifecycle,
        })
    }
}

fn front(shared: &Shared, name: String, metrics: Metrics, http: HttpConfig) -> Arc<Front> {
    let requests = AtomicU64::new(first_request(&name, runtime::clock::now_ms()));
    let proxy = Proxy {
        client: shared.client.clone(),
        fleet: shared.identity.fleet.clone(),
        name,
        budget: Budget::default(),
        steering: shared.steering.clone(),
        instruments: shared.instruments.clone(),
    };
    Arc::new(Front {
        steering: shared.steering.clone(),
        proxy,
        gossip: shared.gossip.clone(),
        instruments: shared.instruments.clone(),
        metrics: Arc::new(metrics),
        forwarded_from: http.forwarded_from,
        mode: http.mode,
        requests,
    })
}

fn follower(shared: &Shared, control_plane: SocketAddr, trust: TrustBundle, store: Store) -> Follower {
    let Shared {
        steering,
        gossip,
        instruments,
        client: _,
        identity,
    } = shared.clone();
    Follower {
        control_plane,
        identity,
        trust,
        store,
        steering,
        gossip,
        instruments,
    }
}

fn prober(shared: Shared, period: Duration, timeout: Duration) -> Prober {
    let Shared {
        steering,
        gossip,
        instruments,
        client,
        identity,
    } = shared;
    Prober {
        client,
        fleet: identity.fleet,
        steering,
        gossip,
        instruments,
        period,
        timeout,
    }
}

/// A router that answers.
pub struct Running {
    front: Arc<Front>,
    lifecycle: Lifecycle,
}

impl Running {
    /// What it steers by.
    #[must_use]
    pub fn steering(&self) -> &Arc<Steering> {
        &self.front.steering
    }
    /// Takes no new requests, finishes those it has, and drops what is left after `grace`. True if nothing was dropped.
    pub async fn stop(self, grace: Duration) -> bool {
        self.lifecycle.stop(grace).await
    }
}
