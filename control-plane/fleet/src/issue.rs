//! Making identities and bundles: the authority, the control plane's folder, nodes, routers and auditors.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use proto::ids::{NodeId, PrincipalName};
use proto::note;
use proto::signed::{Operator, PublicKey, TrustBundle};
use runtime::identity::{Ca, Identity, Role};

use crate::cli::{CaInit, NodeEnroll, RouterEnroll};
use crate::home::{Endpoints, Home};

/// Days that the operator's and control plane's certificates are good for.
const OWN_DAYS: u32 = 365;

/// Makes everything that a new fleet needs, in an empty folder.
///
/// # Errors
/// The folder holds a fleet already, or cannot be written.
pub fn init(dir: &Path, options: &CaInit) -> Result<()> {
    if dir.join("ca").exists() {
        bail!(
            "{} holds an authority already: two would not trust each other's nodes",
            dir.display()
        );
    }
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let ca = Ca::create(&options.fleet, &dir.join("ca"))?;
    ca.issue(&Role::Operator(options.operator.clone()), &[], OWN_DAYS)?
        .write(&dir.join("identity"))?;
    let operator = Identity::load(&dir.join("identity"))?;

    let control = dir.join("control-plane");
    let names = [
        "control-plane".to_owned(),
        options.control_plane.ip().to_string(),
        options.operator_api.ip().to_string(),
    ];
    ca.issue(&Role::ControlPlane, &names, OWN_DAYS)?
        .write(&control.join("identity"))?;
    let log_key = note::Signer::new(&format!("{}.meridian/log", options.fleet), random_seed()?)?;
    write_secret(&control.join("log.key"), log_key.skey().as_bytes())?;
    let state_key = SigningKey::from_bytes(&random_seed()?);
    write_secret(
        &control.join("state.key"),
        state_key.to_pkcs8_pem(LineEnding::LF)?.as_bytes(),
    )?;
    let trust = TrustBundle {
        fleet: options.fleet.clone(),
        log_vkey: log_key.vkey(),
        state_key: PublicKey::of(&state_key),
        operators: vec![Operator {
            name: options.operator.clone(),
            key: PublicKey::of(operator.signing_key()),
        }],
        threshold: 1,
    };
    let trust = serde_json::to_vec_pretty(&trust)?;
    std::fs::write(control.join("trust.json"), &trust)?;
    std::fs::write(dir.join("trust.json"), &trust)?;
    let endpoints = Endpoints {
        control_plane: options.control_plane,
        operator_api: options.operator_api,
    };
    std::fs::write(dir.join("fleet.toml"), toml::to_string(&endpoints)?)?;
    let config = format!(
        "identity = \"identity\"\ntrust = \"trust.json\"\ndata = \"data\"\nlog-key = \"log.key\"\nstate-key = \
         \"state.key\"\n\n[listen]\nquic = \"{}\"\noperator = \"{}\"\n",
        options.control_plane, options.operator_api
    );
    std::fs::write(control.join("control-plane.toml"), config)?;
    Ok(())
}

fn random_seed() -> Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("the system gives no random numbers: {e}"))?;
    Ok(seed)
}

/// A file that only its owner may read.
fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("make {}", path.display()))?;
    file.write_all(bytes)?;
    Ok(())
}

/// The authority beside `home`.
fn authority(home: &Home) -> Result<Ca> {
    Ca::load(&home.dir.join("ca")).with_context(|| {
        format!(
            "{} holds no authority: certificates are issued where it lies",
            home.dir.display()
        )
    })
}

/// What a person compares between machines: the TLS name of a node.
#[must_use]
pub fn node_tls_name(node: &NodeId, fleet: &PrincipalName) -> String {
    format!("{}.{}.{fleet}.internal", node.name, node.region)
}

/// Writes a node's bundle and gives the key that the log must name.
///
/// # Errors
/// No authority here, or the folder cannot be written.
pub fn node(home: &Home, options: &NodeEnroll) -> Result<PublicKey> {
    let ca = authority(home)?;
    let (out, node) = (&options.out, &options.node);
    let names = [node_tls_name(node, &home.trust.fleet), options.ingress.ip().to_string()];
    ca.issue(&Role::Node(node.clone()), &names, options.days)?
        .write(&out.join("identity"))?;
    ca.issue_ingress(&names, options.days)?.write(&out.join("ingress"))?;
    bundle(home, out)?;
    let config = format!(
        "identity = \"identity\"\ntrust = \"trust.json\"\ndata = \"data\"\nclass = \"{}\"\ncontrol-plane = \
         \"{}\"\n\n[ingress]\nlisten = \"{}\"\ncertificate = \"ingress/cert.pem\"\nkey = \"ingress/key.pem\"\n",
        options.class, home.endpoints.control_plane, options.ingress
    );
    std::fs::write(out.join("node.toml"), config)?;
    Ok(PublicKey::of(Identity::load(&out.join("identity"))?.signing_key()))
}

/// Writes a router's bundle.
///
/// # Errors
/// No authority here, or the folder cannot be written.
pub fn router(home: &Home, options: &RouterEnroll) -> Result<()> {
    let ca = authority(home)?;
    let out = &options.out;
    let names = [
        options.zone.clone(),
        format!("*.{}", options.zone),
        options.http.ip().to_string(),
    ];
    ca.issue(&Role::Router(options.name.clone()), &names, options.days)?
        .write(&out.join("identity"))?;
    ca.issue_ingress(&names, options.days)?.write(&out.join("ingress"))?;
    bundle(home, out)?;
    let config = format!(
        "identity = \"identity\"\ntrust = \"trust.json\"\ndata = \"data\"\ncontrol-plane = \"{}\"\n\n[http]\nlisten = \
         \"{}\"\ncertificate = \"ingress/cert.pem\"\nkey = \"ingress/key.pem\"\n\n[dns]\nlisten = \"{}\"\nzone = \
         \"{}\"\n\n[clients]\nplaces = \"clients.toml\"\n",
        home.endpoints.control_plane, options.http, options.dns, options.zone
    );
    std::fs::write(out.join("router.toml"), config)?;
    Ok(())
}

/// Writes an auditor's home folder: read-only, one region.
///
/// # Errors
/// No authority here, or the folder cannot be written.
pub fn auditor(home: &Home, name: PrincipalName, region: proto::ids::RegionId, out: &Path, days: u32) -> Result<()> {
    let ca = authority(home)?;
    ca.issue(&Role::Auditor { name, region }, &[], days)?
        .write(&out.join("identity"))?;
    bundle(home, out)?;
    std::fs::write(out.join("fleet.toml"), toml::to_string(&home.endpoints)?)?;
    Ok(())
}

fn bundle(home: &Home, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out)?;
    let trust = serde_json::to_vec_pretty(&home.trust)?;
    std::fs::write(out.join("trust.json"), trust).with_context(|| format!("write {}", out.display()))
}

/// `ADDR:PORT` with the same address and another port.
#[must_use]
pub fn beside(address: SocketAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.ip(), port)
}
