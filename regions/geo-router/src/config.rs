//! `router.toml` as written, and the configuration that cannot be wrong.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regions::geo::Places;
use regions::prefix::{Cidr, PrefixTable};
use runtime::config::{ConfigError, relative_to};
use runtime::telemetry::TelemetryFile;

use crate::dns::Zone;

runtime::config_file! {
    /// What `router.toml` says. Paths are relative to the file.
    pub struct RouterFile {
        /// Folder with ca.pem, cert.pem and key.pem of this router.
        pub identity: PathBuf = required "identity",
        /// Whom it believes: log key, state key, operators.
        pub trust: PathBuf = required "trust.json",
        /// Where the last view is kept, so that the router starts without the control plane.
        pub data: PathBuf = required "data",
        /// The control plane's QUIC address.
        pub control_plane: SocketAddr = required "127.0.0.1:7001",
        /// The front for requests.
        pub http: HttpFile = table,
        /// The front for names. Without this table there is none.
        pub dns: Option<DnsFile> = table,
        /// Where clients are. Without this table nobody knows, and all nodes are equally near.
        pub clients: Option<ClientsFile> = table,
        /// How nodes are watched.
        #[serde(default)]
        pub probe: ProbeFile = table,
        /// Where logs and traces go.
        #[serde(default)]
        pub telemetry: TelemetryFile = table,
    }

    /// The HTTPS front.
    pub struct HttpFile {
        /// Where it listens.
        pub listen: SocketAddr = required "127.0.0.1:8443",
        /// Its certificate chain, read again when it changes.
        pub certificate: PathBuf = required "ingress/cert.pem",
        /// The key of it.
        pub key: PathBuf = required "ingress/key.pem",
        /// HTTP/3 on the UDP port of the same number; on unless this says false.
        pub http3: Option<bool> = optional true,
        /// A listener without TLS for this machine only: a loopback address or `unix:/path`.
        pub plain: Option<String> = optional "127.0.0.1:0",
        /// Proxies in front of this one, whose Forwarded and X-Forwarded-For are believed.
        #[serde(default)]
        pub forwarded_from: Vec<String> = optional ["10.0.0.0/8"],
        /// "proxy" passes requests on; "redirect" answers 307 with the node's address.
        #[serde(default)]
        pub mode: Mode = optional "proxy",
    }

    /// The DNS front.
    pub struct DnsFile {
        /// Where it listens, UDP and TCP.
        pub listen: SocketAddr = required "127.0.0.1:5353",
        /// The zone it answers for.
        pub zone: String = required "infer.meridian.test",
        /// Its name servers; by default `ns.<zone>` at the address above.
        #[serde(default)]
        pub nameservers: Vec<String> = optional ["ns1.example.net"],
        /// How long an answer may be kept, seconds, 1 to 3600.
        #[serde(default = "default_ttl_s")]
        pub ttl_s: u32 = optional 10,
        /// How long "nobody" may be kept, seconds, 1 to 3600.
        #[serde(default = "default_negative_ttl_s")]
        pub negative_ttl_s: u32 = optional 5,
    }

    /// Where clients are.
    pub struct ClientsFile {
        /// Prefixes and their places: TOML, or `prefix,place` lines if the name ends in `.csv`.
        pub places: PathBuf = required "clients.toml",
    }

    /// How nodes are watched.
    #[derive(PartialEq)]
    #[serde(default)]
    pub struct ProbeFile {
        /// How often each node is asked, milliseconds, 50 to 60000.
        pub period_ms: u64 = optional 500,
        /// How long it may take to answer, milliseconds, 10 to 60000.
        pub timeout_ms: u64 = optional 1000,
    }
}

impl Default for ProbeFile {
    fn default() -> Self {
        Self {
            period_ms: 500,
            timeout_ms: 1000,
        }
    }
}

fn default_ttl_s() -> u32 {
    10
}

fn default_negative_ttl_s() -> u32 {
    5
}

/// What the HTTP front does with a request unless the request asks for something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Pass it on.
    #[default]
    Proxy,
    /// Send the client to the node.
    Redirect,
}

/// The HTTPS front, checked.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whether HTTP/3 is spoken too.
    pub http3: bool,
    /// A listener without TLS.
    pub plain: Option<String>,
    /// Proxies that are believed.
    pub forwarded_from: Vec<Cidr>,
    /// What it does.
    pub mode: Mode,
}

/// What the router runs by.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// Folder of its identity.
    pub identity: PathBuf,
    /// Its trust bundle.
    pub trust: PathBuf,
    /// Folder of its data.
    pub data: PathBuf,
    /// The control plane.
    pub control_plane: SocketAddr,
    /// The front for requests.
    pub http: HttpConfig,
    /// The front for names: where, and for what.
    pub dns: Option<(SocketAddr, Zone)>,
    /// Where clients are.
    pub clients: PrefixTable,
    /// Between two probes of one node.
    pub probe_period: Duration,
    /// For one probe.
    pub probe_timeout: Duration,
    /// Logs and traces.
    pub telemetry: TelemetryFile,
}

impl RouterConfig {
    /// Reads `router.toml` at `path` and the client table it names.
    ///
    /// # Errors
    /// [`ConfigError`] names the key and what is allowed.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file: RouterFile = runtime::config::read(path)?;
        let at = |p: &Path| relative_to(path, p);
        let clients = match &file.clients {
            Some(clients) => read_clients(&at(&clients.places))?,
            None => PrefixTable::parse_csv("", Places::builtin()).map_err(|e| value("clients.places", e))?,
        };
        let dns = file.dns.as_ref().map(zone).transpose()?;
        let probe = &file.probe;
        within("probe.period-ms", probe.period_ms, 50, 60_000)?;
        within("probe.timeout-ms", probe.timeout_ms, 10, 60_000)?;
        let forwarded_from = file
            .http
            .forwarded_from
            .iter()
            .map(|c| c.parse())
            .collect::<Result<_, _>>();
        Ok(Self {
            identity: at(&file.identity),
            trust: at(&file.trust),
            data: at(&file.data),
            control_plane: file.control_plane,
            http: HttpConfig {
                listen: file.http.listen,
                certificate: at(&file.http.certificate),
                key: at(&file.http.key),
                http3: file.http.http3.unwrap_or(true),
                plain: file.http.plain,
                forwarded_from: forwarded_from.map_err(|e| value("http.forwarded-from", e))?,
                mode: file.http.mode,
            },
            dns,
            clients,
            probe_period: Duration::from_millis(probe.period_ms),
            probe_timeout: Duration::from_millis(probe.timeout_ms),
            telemetry: file.telemetry,
        })
    }
}

fn value(key: &'static str, error: impl std::fmt::Display) -> ConfigError {
    ConfigError::Value {
        key,
        reason: format!("is wrong: {error}"),
    }
}

fn within(key: &'static str, found: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&found) {
        return Ok(());
    }
    Err(ConfigError::Value {
        key,
        reason: format!("is {found}, allowed is {min} to {max}"),
    })
}

fn zone(file: &DnsFile) -> Result<(SocketAddr, Zone), ConfigError> {
    within("dns.ttl-s", file.ttl_s.into(), 1, 3600)?;
    within("dns.negative-ttl-s", file.negative_ttl_s.into(), 1, 3600)?;
    let own = Some(file.listen.ip()).filter(|ip| !ip.is_unspecified());
    let zone = Zone::new(&file.zone, &file.nameservers, own, file.ttl_s, file.negative_ttl_s);
    Ok((file.listen, zone.map_err(|e| value("dns.zone", e))?))
}

fn read_clients(path: &Path) -> Result<PrefixTable, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > u64::try_from(proto::limits::PREFIX_TABLE_BYTES_MAX).unwrap_or(u64::MAX) {
        return Err(ConfigError::TooLong {
            path: path.to_owned(),
            bytes,
        });
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let parsed = match path.extension().is_some_and(|e| e == "csv") {
        true => PrefixTable::parse_csv(&text, Places::builtin()),
        false => PrefixTable::parse_toml(&text, Places::builtin()),
    };
    parsed.map_err(|e| ConfigError::Parse {
        path: path.to_owned(),
        reason: e.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::config::Example;

    fn load(text: &str) -> Result<RouterConfig, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("router.toml"), text).unwrap();
        std::fs::write(
            dir.path().join("clients.toml"),
            "[[prefix]]\ncidr = \"127.1.0.0/16\"\nplace = \"fra\"\n",
        )
        .unwrap();
        RouterConfig::load(&dir.path().join("router.toml"))
    }

    #[test]
    fn the_example_that_is_printed_is_a_configuration() {
        let config = load(&RouterFile::example("")).unwrap();
        assert_eq!(config.probe_period, Duration::from_millis(500));
        assert_eq!(
            config.clients.locate("127.1.0.9".parse().unwrap()).place.unwrap().id,
            "fra"
        );
        assert_eq!(config.dns.unwrap().1.apex().to_string(), "infer.meridian.test.");
        assert!(config.identity.is_absolute());
    }

    #[test]
    fn a_value_out_of_range_is_refused_by_its_key() {
        let example = RouterFile::example("");
        let probe = example.replace("# period-ms = 500", "period-ms = 5");
        assert!(
            load(&probe)
                .unwrap_err()
                .to_string()
                .contains("`probe.period-ms` is 5, allowed is 50 to 60000")
        );
        let proxies = example.replace(
            "# forwarded-from = [\"10.0.0.0/8\"]",
            "forwarded-from = [\"10.0.0.1/8\"]",
        );
        assert!(load(&proxies).unwrap_err().to_string().contains("http.forwarded-from"));
    }
}
