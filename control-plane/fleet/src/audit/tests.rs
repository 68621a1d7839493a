use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use proto::entry::{Body, CONTROL_PLANE, Fleet, Leaf, command_message};
use proto::ids::{ContentHash, ModelName, NodeId, RegionId, UnixMs};
use proto::merkle::{leaf_hash, verify_inclusion};
use proto::note::{Signer, Verifier};
use proto::signed::{Operator, PublicKey};
use proto::tile::{Edge, entry_path, write_entries};

use super::*;

const NINE: UnixMs = 1_794_646_800_000; // 2026-11-14T09:00:00Z

fn alice() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}
fn signer() -> Signer {
    Signer::new("dev.meridian/log", [3; 32]).unwrap()
}
fn vkey() -> String {
    signer().vkey()
}

/// A log in memory, written out by its definition.
#[derive(Default, Clone)]
struct Story {
    fleet: Fleet,
    leaves: Vec<Vec<u8>>,
}

impl Story {
    fn leaf(&self, time: UnixMs, body: &Body) -> Vec<u8> {
        let text = body.to_json();
        let message = command_message(&"dev".parse().unwrap(), self.fleet.epoch, &text);
        let own = body.is_control_plane();
        let sig = (!own).then(|| STANDARD.encode(alice().sign(&message).to_bytes()));
        let by = if own { CONTROL_PLANE } else { "alice" }.parse().unwrap();
        let body = serde_json::value::RawValue::from_string(text).unwrap();
        Leaf { time, by, sig, body }.encode().unwrap()
    }
    fn say(&mut self, time: UnixMs, body: &Body) {
        let leaf = self.leaf(time, body);
        self.fleet.apply(&leaf).unwrap();
        self.leaves.push(leaf);
    }
    /// minilm@1 at nine and minilm@2 at ten in eu-fra; 300 tenants before, so that the log has more than one bundle.
    fn of_two_releases() -> Self {
        let mut story = Self::default();
        let operators = vec![Operator {
            name: "alice".parse().unwrap(),
            key: PublicKey::of(&alice()),
        }];
        story.say(
            NINE - 9000,
            &Body::FleetInit {
                fleet: "dev".parse().unwrap(),
                operators,
                threshold: 1,
            },
        );
        let (country, lat_e6, lon_e6) = ("DE".to_owned(), 50_110_000, 8_680_000);
        story.say(
            NINE - 8000,
            &Body::RegionAdd {
                region: region(),
                country,
                lat_e6,
                lon_e6,
            },
        );
        for i in 0..300_u32 {
            let tenant = format!("tenant-{i}").parse().unwrap();
            let (boundary, key_hash) = ("eea".parse().unwrap(), ContentHash::of(&i.to_le_bytes()));
            story.say(
                NINE - 7000,
                &Body::TenantAdd {
                    tenant,
                    boundary,
                    key_hash,
                },
            );
        }
        for (version, serial, time) in [("1", 1, NINE), ("2", 2, NINE + 3_600_000)] {
            let (model, version) = (model(), version.parse().unwrap());
            let (manifest, plan) = (ContentHash::of(&[serial]), ContentHash::of(&[serial, 0]));
            let (serial, waves, reason) = (u64::from(serial), 1, "test".to_owned());
            story.say(
                time - 30,
                &Body::Publish {
                    model: model.clone(),
                    version,
                    manifest,
                },
            );
            story.say(
                time - 20,
                &Body::Plan {
                    plan,
                    serial,
                    model: model.clone(),
                    version,
                    manifest,
                    waves,
                    reason,
                },
            );
            let regions = vec![region()];
            story.say(
                time - 10,
                &Body::Step {
                    plan,
                    wave: 0,
                    model: model.clone(),
                    version,
                    manifest,
                    regions,
                },
            );
            let nodes = vec!["eu-fra/n1".parse::<NodeId>().unwrap()];
            story.say(
                time,
                &Body::Active {
                    region: region(),
                    model,
                    version,
                    manifest,
                    nodes,
                },
            );
        }
        story
    }
    fn checkpoint(&self, size: usize) -> String {
        let mut edge = Edge::default();
        self.leaves[..size]
            .iter()
            .for_each(|leaf| edge.push(leaf_hash(leaf), &mut |_| {}));
        signer().sign_checkpoint(edge.size(), &edge.root())
    }
    fn write(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: &[u8]| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        let mut edge = Edge::default();
        for leaf in &self.leaves {
            edge.push(leaf_hash(leaf), &mut |tile| put(&tile.path, &tile.bytes));
        }
        edge.unfinished().for_each(|tile| put(&tile.path, &tile.bytes));
        for (index, bundle) in (0..).zip(self.leaves.chunks(256)) {
            let path = entry_path(index, u64::try_from(bundle.len()).unwrap());
            put(&path, &write_entries(bundle.iter().map(Vec::as_slice)).unwrap());
        }
        put(
            "checkpoint",
            signer().sign_checkpoint(edge.size(), &edge.root()).as_bytes(),
        );
        dir
    }
}

fn region() -> RegionId {
    "eu-fra".parse().unwrap()
}
fn model() -> ModelName {
    "minilm".parse().unwrap()
}
fn chain(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|e| format!(": {}", chain(e)));
    format!("{error}{}", cause.unwrap_or_default())
}

#[test]
fn a_sound_log_is_reported_with_what_was_checked() {
    let story = Story::of_two_releases();
    let dir = story.write();
    let report = verify_log(dir.path(), &vkey(), Some(&story.checkpoint(257))).unwrap();
    assert_eq!((report.size, report.tiles, report.extends), (310, 3, Some(257)));
    assert_eq!((report.entries["tenant-add"], report.entries["active"]), (300, 2));
    assert_eq!(report.last.as_deref(), Some("2026-11-14T10:00:00Z"));
    assert!(
        report
            .to_string()
            .contains("checkpoint signature, 310 entries and 3 tiles")
    );
}

/// Goal: no byte of a log can change unseen. Method: one byte of every file, at several places, is changed in turn.
#[test]
fn one_flipped_byte_anywhere_is_found() {
    let dir = Story::of_two_releases().write();
    let mut files = vec![dir.path().join("checkpoint")];
    let paths = proto::tile::entry_paths(310)
        .into_iter()
        .chain(proto::tile::hash_paths(310));
    files.extend(paths.map(|path| dir.path().join(path)));
    for file in files {
        let sound = std::fs::read(&file).unwrap();
        for part in 0..5 {
            let mut flipped = sound.clone();
            flipped[(sound.len() - 2) * part / 4] ^= 1;
            std::fs::write(&file, flipped).unwrap();
            assert!(
                verify_log(dir.path(), &vkey(), None).is_err(),
                "{} part {part}",
                file.display()
            );
        }
        std::fs::write(&file, sound).unwrap();
    }
    assert!(verify_log(dir.path(), &vkey(), None).is_ok());
}

#[test]
fn a_log_that_the_stolen_key_signed_anew_is_caught_by_an_earlier_checkpoint() {
    let story = Story::of_two_releases();
    let mut other = Story {
        leaves: story.leaves[..2].to_vec(),
        ..Story::default()
    };
    for leaf in &other.leaves {
        other.fleet.apply(leaf).unwrap();
    }
    let tenant = Body::TenantAdd {
        tenant: "mallory".parse().unwrap(),
        boundary: "eea".parse().unwrap(),
        key_hash: ContentHash::of(b"m"),
    };
    other.say(NINE, &tenant);
    let forked = other.write();
    assert!(verify_log(forked.path(), &vkey(), Some(&story.checkpoint(2))).is_ok());
    let caught = verify_log(forked.path(), &vkey(), Some(&story.checkpoint(3)));
    assert!(matches!(caught, Err(AuditError::Forked { size: 3 })));
    let short = verify_log(forked.path(), &vkey(), Some(&story.checkpoint(4)));
    assert!(matches!(short, Err(AuditError::Shorter { size: 3, earlier: 4 })));
}

#[test]
fn a_command_that_no_operator_signed_is_found_though_the_log_signed_it() {
    let mut story = Story::of_two_releases();
    let forged = String::from_utf8(story.leaf(
        NINE + 9_000_000,
        &Body::TenantRevoke {
            tenant: "tenant-1".parse().unwrap(),
        },
    ));
    story
        .leaves
        .push(forged.unwrap().replace("tenant-1", "tenant-2").into_bytes());
    let found = verify_log(story.write().path(), &vkey(), None).unwrap_err();
    assert!(chain(&found).contains("entry 310"), "{}", chain(&found));
    assert!(
        chain(&found).contains("the signature is not of this operator"),
        "{}",
        chain(&found)
    );
}

#[test]
fn an_entry_dated_before_the_one_in_front_of_it_is_found() {
    let mut story = Story::of_two_releases();
    story.say(
        NINE,
        &Body::TenantRevoke {
            tenant: "tenant-1".parse().unwrap(),
        },
    );
    let found = verify_log(story.write().path(), &vkey(), None).unwrap_err();
    assert!(
        chain(&found).contains("times in a log never go back"),
        "{}",
        chain(&found)
    );
}

#[test]
fn another_key_proves_nothing() {
    let dir = Story::of_two_releases().write();
    let other = Signer::new("dev.meridian/log", [4; 32]).unwrap().vkey();
    assert!(matches!(
        verify_log(dir.path(), &other, None),
        Err(AuditError::Checkpoint { which: "log's", .. })
    ));
    assert!(matches!(
        verify_log(std::path::Path::new("/nowhere"), &vkey(), None),
        Err(AuditError::Read { .. })
    ));
}

#[test]
fn the_answer_for_a_moment_is_the_last_activation_up_to_it() {
    let dir = Story::of_two_releases().write();
    let at = |time: &str| model_at(dir.path(), &vkey(), &region(), time, &model()).unwrap();
    let release = |time: &str| at(time).active.map(|a| (a.release.to_string(), a.manifest));
    let first = Some(("minilm@1".to_owned(), ContentHash::of(&[1])));
    assert_eq!(release("2026-11-14T08:59:59.999Z"), None);
    assert_eq!(release("2026-11-14T09:00Z"), first);
    assert_eq!(release("2026-11-14T10:59:59+01:00"), first);
    assert_eq!(
        release("2026-11-14T10:00:00Z"),
        Some(("minilm@2".to_owned(), ContentHash::of(&[2])))
    );
    assert!(
        at("2026-11-14T09:00Z")
            .to_string()
            .contains("since       2026-11-14T09:00:00Z, log entry 305")
    );
    assert!(at("2026-11-14T08:00Z").to_string().contains("none was active"));

    let unknown = model_at(
        dir.path(),
        &vkey(),
        &"us-iad".parse().unwrap(),
        "2026-11-14T09:00Z",
        &model(),
    );
    assert_eq!(
        unknown.unwrap_err().to_string(),
        "the log knows no region `us-iad`: it has `eu-fra`"
    );
    assert!(matches!(
        model_at(dir.path(), &vkey(), &region(), "nine", &model()),
        Err(AuditError::Moment { .. })
    ));
}

/// Goal: the proof convinces somebody who has nothing but it, the entry's text and the log's key.
#[test]
fn the_proof_of_an_answer_stands_alone() {
    let dir = Story::of_two_releases().write();
    let answer = model_at(dir.path(), &vkey(), &region(), "2026-11-14T09:30Z", &model()).unwrap();
    let active = answer.active.unwrap();
    let (head, note) = active.proof.split_once("\n\n").unwrap();
    let checkpoint = vkey().parse::<Verifier>().unwrap().open_checkpoint(note).unwrap();
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("c2sp.org/tlog-proof@v1"));
    assert_eq!(lines.next(), Some("index 305"));
    let hashes: Vec<[u8; 32]> = lines
        .map(|line| STANDARD.decode(line).unwrap().try_into().unwrap())
        .collect();
    let leaf = leaf_hash(active.leaf.as_bytes());
    assert!(verify_inclusion(&leaf, 305, checkpoint.size, &hashes, &checkpoint.root));
    assert!(active.leaf.contains(&active.manifest.to_string()));
}

/// A node's log or batch of two receipts for answers of minilm@1, and the promise of the second.
struct Signed {
    promise: proto::receipt::Promise,
    proof: proto::proof::Proof,
}

fn bob() -> SigningKey {
    SigningKey::from_bytes(&[11; 32])
}

/// Two releases, and a node that signs by `bob`.
fn of_a_node() -> Story {
    let mut story = Story::of_two_releases();
    let node = Body::NodeEnrol {
        node: "eu-fra/n7".parse().unwrap(),
        class: "cpu".parse().unwrap(),
        ingress: "127.0.11.7:8443".parse().unwrap(),
        key: PublicKey::of(&bob()),
    };
    story.say(NINE + 9_000_000, &node);
    story
}

/// When its receipts are dated, unless a test says otherwise.
const WRITTEN: UnixMs = NINE + 9_100_000;

fn signed(key: &SigningKey, node: &str, manifest: ContentHash) -> Signed {
    signed_at(WRITTEN, key, node, manifest)
}

fn signed_at(time: UnixMs, key: &SigningKey, node: &str, manifest: ContentHash) -> Signed {
    use proto::merkle::Tree;
    use proto::receipt::{Answered, Commitment, CommitmentKey, Receipt, ReceiptId, origin, promises};
    let (opens, node): (_, NodeId) = (CommitmentKey([5; 32]), node.parse().unwrap());
    let answered = || Answered {
        release: "minilm@1".parse().unwrap(),
        manifest,
        variant: "cpu-int8".parse().unwrap(),
        numerics: "kernels-6/int8".to_owned(),
        input: Commitment::of(&opens, b"question"),
        output: Commitment::of(&opens, b"answer"),
    };
    let entries = [0, 1].map(|index| Receipt::of(node.clone(), index, time, answered()).encode());
    let tree = Tree::of(entries.iter().map(|entry| leaf_hash(entry)).collect());
    let log = origin(&"dev".parse().unwrap(), &node, &PublicKey::of(key));
    let proof = |name: &str| proto::proof::Proof {
        entry: entries[1].clone(),
        index: 1,
        hashes: tree.inclusion(1),
        checkpoint: Signer::new(name, key.to_bytes())
            .unwrap()
            .sign_checkpoint(2, &tree.root()),
    };
    let promise = proto::receipt::Promise {
        id: ReceiptId {
            node,
            index: 1,
            leaf: leaf_hash(&entries[1]),
        },
        key: opens,
        proof: proof(&promises(&log)),
    };
    Signed {
        promise,
        proof: proof(&log),
    }
}

fn published(story: &Story) -> ContentHash {
    story.fleet.releases["minilm"][&"1".parse().unwrap()].manifest
}

#[test]
fn a_receipt_is_borne_out_by_the_release_log_and_opens_for_whoever_has_its_promise() {
    let story = of_a_node();
    let dir = story.write();
    let Signed { promise, proof } = signed(&bob(), "eu-fra/n7", published(&story));
    let held = Held {
        promise: Some(promise.write()),
        question: Some(b"question".to_vec()),
        answer: Some(b"another answer".to_vec()),
        ..Held::default()
    };
    let seen = receipt(dir.path(), &vkey(), &held).unwrap();
    assert_eq!(
        (seen.node.to_string().as_str(), seen.version.to_string().as_str()),
        ("eu-fra/n7", "1")
    );
    assert_eq!(
        (seen.logged, seen.question, seen.answer),
        (None, Some(true), Some(false))
    );
    assert!(!seen.is_good());
    let both = Held {
        proof: Some(proof.write()),
        answer: Some(b"answer".to_vec()),
        ..held
    };
    let seen = receipt(dir.path(), &vkey(), &both).unwrap();
    assert_eq!((seen.logged, seen.is_good()), (Some(2), true));
    let text = seen.to_string();
    assert!(
        text.contains("kernels-6/int8") && text.contains("entry 1 of 2"),
        "{text}"
    );
    // The text of the entry is forgotten there, and the promise still has it.
    let bare = proto::proof::Proof {
        entry: Vec::new(),
        ..proof.clone()
    };
    let of_bare = |promise: Option<String>| Held {
        promise,
        proof: Some(bare.write()),
        ..Held::default()
    };
    assert!(receipt(dir.path(), &vkey(), &of_bare(Some(promise.write()))).is_ok());
    let refused = receipt(dir.path(), &vkey(), &of_bare(None)).unwrap_err();
    assert!(
        matches!(refused, AuditError::Receipt(ReceiptFault::Forgotten)),
        "{refused}"
    );
    assert_eq!(of_bare(Some(promise.write())).whole_proof(), Some(proof.write()));
    // Without the promise nobody learns whether a body is the one.
    let without = Held {
        proof: Some(proof.write()),
        question: Some(b"question".to_vec()),
        ..Held::default()
    };
    let refused = receipt(dir.path(), &vkey(), &without).unwrap_err();
    assert!(matches!(refused, AuditError::Receipt(ReceiptFault::NoKey)), "{refused}");
}

#[test]
fn what_no_enrolled_node_signed_or_nobody_published_is_no_receipt() {
    let story = of_a_node();
    let dir = story.write();
    let manifest = published(&story);
    let refused = |signed: &Signed| {
        let held = Held {
            promise: Some(signed.promise.write()),
            ..Held::default()
        };
        match receipt(dir.path(), &vkey(), &held) {
            Err(AuditError::Receipt(fault)) => fault,
            other => panic!("{other:?}"),
        }
    };
    let stranger = SigningKey::from_bytes(&[12; 32]);
    assert!(matches!(
        refused(&signed(&stranger, "eu-fra/n7", manifest)),
        ReceiptFault::Node { .. }
    ));
    assert!(matches!(
        refused(&signed(&bob(), "eu-fra/n8", manifest)),
        ReceiptFault::Node { .. }
    ));
    let other = ContentHash::of(b"never published");
    assert!(matches!(
        refused(&signed(&bob(), "eu-fra/n7", other)),
        ReceiptFault::Manifest { .. }
    ));
    for time in [NINE + 8_900_000, NINE - 3_600_000] {
        let early = signed_at(time, &bob(), "eu-fra/n7", manifest);
        assert!(matches!(refused(&early), ReceiptFault::Dated { .. }), "{time}");
    }
    let mut forged = signed(&bob(), "eu-fra/n7", manifest);
    let text = String::from_utf8(forged.promise.proof.entry.clone()).unwrap();
    forged.promise.proof.entry = text.replace("cpu-int8", "cpu-f32x").into_bytes();
    assert!(matches!(refused(&forged), ReceiptFault::Receipt(_)));
    assert!(matches!(
        receipt(dir.path(), &vkey(), &Held::default()),
        Err(AuditError::Receipt(ReceiptFault::Nothing))
    ));
}

#[test]
fn a_key_that_was_stolen_and_replaced_signs_for_its_own_time_at_most_and_it_is_said() {
    let mut story = of_a_node();
    let (node, manifest): (NodeId, _) = ("eu-fra/n7".parse().unwrap(), published(&story));
    story.say(NINE + 9_500_000, &Body::NodeRevoke { node: node.clone() });
    let fresh = SigningKey::from_bytes(&[13; 32]);
    let again = Body::NodeEnrol {
        node,
        class: "cpu".parse().unwrap(),
        ingress: "127.0.11.7:8443".parse().unwrap(),
        key: PublicKey::of(&fresh),
    };
    story.say(NINE + 9_600_000, &again);
    let dir = story.write();
    let seen = |time, key: &SigningKey| {
        let held = Held {
            promise: Some(signed_at(time, key, "eu-fra/n7", manifest).promise.write()),
            ..Held::default()
        };
        receipt(dir.path(), &vkey(), &held)
    };
    let old = seen(WRITTEN, &bob()).unwrap();
    assert!(
        old.key_ended.is_some() && old.to_string().contains("may have dated this earlier"),
        "{old}"
    );
    for (time, key) in [(NINE + 9_700_000, bob()), (WRITTEN, fresh.clone())] {
        let refused = seen(time, &key).unwrap_err();
        assert!(
            matches!(refused, AuditError::Receipt(ReceiptFault::Dated { .. })),
            "{refused}"
        );
    }
    assert_eq!(seen(NINE + 9_700_000, &fresh).unwrap().key_ended, None);
}

#[test]
fn a_promise_that_its_node_has_not_kept_is_told_from_a_proof_of_something_else() {
    let story = of_a_node();
    let dir = story.write();
    let manifest = published(&story);
    let promise = signed(&bob(), "eu-fra/n7", manifest).promise;
    let beside = |proof: proto::proof::Proof| {
        let held = Held {
            promise: Some(promise.write()),
            proof: Some(proof.write()),
            ..Held::default()
        };
        match receipt(dir.path(), &vkey(), &held) {
            Err(AuditError::Receipt(fault)) => fault,
            other => panic!("{other:?}"),
        }
    };
    let other = signed_at(WRITTEN + 1, &bob(), "eu-fra/n7", manifest);
    assert!(matches!(beside(other.proof), ReceiptFault::Broken { index: 1, .. }));
    assert!(matches!(beside(other.promise.proof), ReceiptFault::Different));
}

#[test]
fn the_head_of_an_answer_is_taken_as_curl_wrote_it() {
    let Signed { promise, proof } = signed(&bob(), "eu-fra/n7", ContentHash::of(b"m"));
    let value = promise.write();
    for head in [
        value.clone(),
        format!("{value}\n"),
        format!(
            "HTTP/1.1 307\r\nMeridian-Receipt: of another\r\n\r\nHTTP/2 200\r\ncontent-type: a\r\nMeridian-Receipt: {value}\r\n\r\n"
        ),
    ] {
        assert_eq!(Named::of(&head), Named::Promise(value.clone()));
    }
    assert_eq!(Named::of(&proof.write()), Named::Proof(proof.write()));
}
