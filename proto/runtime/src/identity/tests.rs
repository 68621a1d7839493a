use std::os::unix::fs::PermissionsExt;

use super::samples::{Fleet, node, operator};
use super::*;
use ed25519_dalek::{Signer, Verifier};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_issued_identity_says_who_it_is_and_signs_with_its_certificates_key() {
    let fleet = Fleet::new("dev");
    let identity = fleet.identity(&node(), "n1.eu-fra.dev.internal");
    assert_eq!((identity.role.clone(), identity.fleet.as_str()), (node(), "dev"));
    let days_left = identity.expires_ms.saturating_sub(crate::clock::now_ms()) / 86_400_000;
    assert!(days_left <= 1, "{days_left}");
    let signature = identity.signing_key().sign(b"report");
    let key = role::read(&identity.chain[0]).unwrap().public_key;
    let key = ed25519_dalek::VerifyingKey::from_bytes(&key.try_into().unwrap()).unwrap();
    key.verify(b"report", &signature).unwrap();
}

#[test]
fn an_issued_key_is_of_the_version_that_openssl_reads() {
    use ed25519_dalek::pkcs8::{DecodePrivateKey, KeypairBytes};

    let issued = Fleet::new("dev").ca.issue(&operator(), &[], 1).unwrap();
    let key = KeypairBytes::from_pkcs8_pem(&issued.key_pem).unwrap();
    assert!(key.public_key.is_none(), "a public key makes it version 2");
}

#[test]
fn private_keys_are_written_for_their_owner_only_and_refused_when_others_can_read_them() {
    let fleet = Fleet::new("dev");
    fleet.identity(&node(), "n1");
    let dir = fleet.dir.path().join("node/eu-fra/n1");
    assert_eq!(mode(&fleet.dir.path().join("ca-key.pem")), 0o600);
    assert_eq!(mode(&dir.join("key.pem")), 0o600);
    std::fs::set_permissions(dir.join("key.pem"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = Identity::load(&dir).unwrap_err();
    assert!(
        error.to_string().ends_with("mode 640: run `chmod 600` on it"),
        "{error}"
    );
}

#[test]
fn a_ca_loads_again_and_its_key_is_never_overwritten() {
    let fleet = Fleet::new("dev");
    let key = std::fs::read(fleet.dir.path().join("ca-key.pem")).unwrap();
    assert!(matches!(
        Ca::create(&fleet.ca.fleet, fleet.dir.path()),
        Err(IdentityError::Content { .. })
    ));
    assert_eq!(std::fs::read(fleet.dir.path().join("ca-key.pem")).unwrap(), key);

    let again = Ca::load(fleet.dir.path()).unwrap();
    assert_eq!((again.fleet.as_str(), again.pem()), ("dev", fleet.ca.pem()));
    let issued = again.issue(&operator(), &[], 1).unwrap();
    let certificate = certificates(Path::new("x"), &issued.cert_pem).unwrap().remove(0);
    assert_eq!(role_of(&certificate, &again.fleet), Ok(operator()));
}

#[test]
fn a_role_of_another_fleet_is_refused_by_name() {
    let fleet = Fleet::new("dev").forging("prod");
    let identity = fleet.identity(&node(), "n1");
    let refused = role_of(&identity.chain[0], &"dev".parse().unwrap()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a certificate of fleet `prod`, this is fleet `dev`"
    );
}

#[test]
fn an_ingress_certificate_is_nobody_in_the_fleet() {
    let fleet = Fleet::new("dev");
    let issued = fleet.ca.issue_ingress(&["infer.example".to_owned()], 1).unwrap();
    let certificate = certificates(Path::new("x"), &issued.cert_pem).unwrap().remove(0);
    assert_eq!(
        role_of(&certificate, &fleet.ca.fleet),
        Err(RoleError::Count { found: 0 })
    );
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused() {
    let fleet = Fleet::new("dev");
    fleet.identity(&node(), "n1");
    fleet.identity(&operator(), "ada");
    let [node, ada] = ["node/eu-fra/n1", "operator/ada"].map(|role| fleet.dir.path().join(role));
    std::fs::copy(ada.join("key.pem"), node.join("key.pem")).unwrap();
    let error = Identity::load(&node).unwrap_err();
    assert!(error.to_string().contains("is not the key of"), "{error}");
}

#[test]
fn a_renewed_identity_replaces_the_old_one_whole() {
    let fleet = Fleet::new("dev");
    let old = fleet.identity(&node(), "n1");
    let new = fleet.identity(&node(), "n1");
    assert_ne!(old.signing_key().to_bytes(), new.signing_key().to_bytes());
    let mut left: Vec<_> = std::fs::read_dir(fleet.dir.path().join("node/eu-fra/n1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, Identity::FILES);
}
