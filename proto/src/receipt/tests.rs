use super::*;
use crate::merkle::{Tree, leaf_hash};
use crate::note::Signer;
use proptest::prelude::*;

const KEY: CommitmentKey = CommitmentKey([9; 32]);
const SEED: [u8; 32] = [7; 32];

fn fleet() -> PrincipalName {
    "dev".parse().unwrap()
}

fn node() -> NodeId {
    "eu-fra/n1".parse().unwrap()
}

fn node_key() -> PublicKey {
    PublicKey::of(&ed25519_dalek::SigningKey::from_bytes(&SEED))
}

fn receipt(index: u64) -> Receipt {
    let answered = Answered {
        release: "minilm@7".parse().unwrap(),
        manifest: ContentHash::of(b"a manifest"),
        variant: "cpu-int8".parse().unwrap(),
        numerics: "tract-0.23.9+kernels-6/int8".to_owned(),
        input: Commitment::of(&KEY, b"a question"),
        output: Commitment::of(&KEY, b"an answer"),
    };
    Receipt::of(node(), index, 1_764_446_400_123, answered)
}

/// A proof of the receipt at `index` of a log or batch of `size` that is called `name`.
fn proof(name: &str, index: u64, size: u64) -> Proof {
    let tree = Tree::of((0..size).map(|i| leaf_hash(&receipt(i).encode())).collect());
    Proof {
        entry: receipt(index).encode(),
        index,
        hashes: tree.inclusion(index),
        checkpoint: Signer::new(name, SEED).unwrap().sign_checkpoint(size, &tree.root()),
    }
}

fn log() -> String {
    origin(&fleet(), &node(), &node_key())
}

#[test]
fn golden_entry_does_not_change() {
    let text = String::from_utf8(receipt(12).encode()).unwrap();
    assert_eq!(
        text,
        "{\"receipt\":1,\"index\":12,\"time\":1764446400123,\"node\":\"eu-fra/n1\",\"model\":\"minilm\",\"version\":7,\
         \"manifest\":\"b3:c161acb4065fb456ded857fcc01f61847e2aa4e55872dbe090bc93d1b438bb3d\",\"variant\":\"cpu-int8\",\
         \"numerics\":\"tract-0.23.9+kernels-6/int8\",\"input\":\"hmac-sha256:9e67eae2dff5984de0ce606a9fb035270228bc1b49e3696c31e8792068079adf\",\
         \"output\":\"hmac-sha256:c868b490a9a4c97f489c933976baa8419a2ebc82d33294d3660362ebbab5aca6\"}"
    );
    assert_eq!(Receipt::decode(text.as_bytes()).unwrap(), receipt(12));
}

/// Source: RFC 4231, test case 1, with the key filled up to 32 bytes as HMAC itself fills it up.
#[test]
fn a_commitment_is_plain_hmac_sha256() {
    let mut key = [0; 32];
    key[..20].fill(0x0b);
    assert_eq!(
        Commitment::of(&CommitmentKey(key), b"Hi There").to_string(),
        "hmac-sha256:b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    );
}

#[test]
fn promise_and_receipt_are_told_apart_by_whose_checkpoint_they_carry() {
    let promised = proof(&promises(&log()), 3, 5);
    let (read, standing) = open(&promised, &fleet(), &node_key()).unwrap();
    assert_eq!((read, standing), (receipt(3), Standing::Promised));
    let logged = proof(&log(), 3, 5);
    let (read, standing) = open(&logged, &fleet(), &node_key()).unwrap();
    assert_eq!(read, receipt(3));
    assert!(matches!(standing, Standing::Logged(checkpoint) if checkpoint.size == 5));
}

#[test]
fn nobody_but_the_node_that_it_names_signs_a_receipt() {
    let other = PublicKey::of(&ed25519_dalek::SigningKey::from_bytes(&[8; 32]));
    let logged = proof(&log(), 3, 5);
    // Another key has another log; that log's name with the wrong key does not help either.
    assert!(matches!(
        open(&logged, &fleet(), &other),
        Err(ReceiptError::Origin { .. })
    ));
    let forged = Signer::new(&log(), [8; 32]).unwrap();
    let tree = Tree::of(vec![leaf_hash(&receipt(0).encode())]);
    let forged = Proof {
        entry: receipt(0).encode(),
        index: 0,
        hashes: Vec::new(),
        checkpoint: forged.sign_checkpoint(1, &tree.root()),
    };
    assert!(matches!(
        open(&forged, &fleet(), &node_key()),
        Err(ReceiptError::Proof(_))
    ));
    // A node may not log another node's receipts, nor one for another fleet.
    let neighbour = origin(&fleet(), &"eu-fra/n2".parse().unwrap(), &node_key());
    for name in [neighbour, origin(&"prod".parse().unwrap(), &node(), &node_key())] {
        let foreign = proof(&name, 0, 1);
        assert!(matches!(
            open(&foreign, &fleet(), &node_key()),
            Err(ReceiptError::Origin { .. })
        ));
    }
}

#[test]
fn a_receipt_stands_where_it_says_or_nowhere() {
    let shifted = Tree::of(vec![leaf_hash(b"another entry"), leaf_hash(&receipt(0).encode())]);
    let proof = Proof {
        entry: receipt(0).encode(),
        index: 1,
        hashes: shifted.inclusion(1),
        checkpoint: Signer::new(&log(), SEED).unwrap().sign_checkpoint(2, &shifted.root()),
    };
    assert!(matches!(
        open(&proof, &fleet(), &node_key()),
        Err(ReceiptError::Malformed { .. })
    ));
}

#[test]
fn the_longest_names_still_fit_a_log_entry() {
    let longest = "a".repeat(crate::limits::NAME_BYTES_MAX);
    let answered = Answered {
        release: format!("{longest}@{}", u32::MAX).parse().unwrap(),
        manifest: ContentHash::of(b""),
        variant: longest.parse().unwrap(),
        numerics: "\"".repeat(crate::limits::NUMERICS_BYTES_MAX),
        input: Commitment::of(&KEY, b""),
        output: Commitment::of(&KEY, b""),
    };
    let node = format!("{longest}/{longest}").parse().unwrap();
    let entry = Receipt::of(node, u64::MAX, u64::MAX, answered).encode();
    assert!(entry.len() <= LOG_ENTRY_BYTES_MAX, "{}", entry.len());
}

#[test]
fn a_promise_reads_back_as_itself_and_a_changed_one_does_not() {
    let promise = Promise {
        id: ReceiptId {
            node: node(),
            index: 3,
            leaf: leaf_hash(&receipt(3).encode()),
        },
        key: KEY,
        proof: proof(&promises(&log()), 3, 5),
    };
    let text = promise.write();
    assert_eq!(Promise::read(&text).unwrap(), promise);
    assert_eq!(Promise::read(&format!("more=1, {text}")).unwrap(), promise);
    for changed in [
        ReceiptId {
            index: 4,
            ..promise.id.clone()
        },
        ReceiptId {
            leaf: [0; 32],
            ..promise.id.clone()
        },
        ReceiptId {
            node: "eu-fra/n2".parse().unwrap(),
            ..promise.id.clone()
        },
    ] {
        let other = Promise {
            id: changed,
            ..promise.clone()
        };
        assert!(
            matches!(Promise::read(&other.write()), Err(ReceiptError::Promise { .. })),
            "{}",
            other.id
        );
    }
    for (part, with) in [
        ("id=\"", "id="),
        ("key=:", "key="),
        ("proof=:", "proof=:!"),
        ("-", "+"),
        ("key", "yek"),
    ] {
        assert!(
            Promise::read(&text.replacen(part, with, 1)).is_err(),
            "{part} -> {with}"
        );
    }
}

proptest! {
    #[test]
    fn every_id_reads_back_and_no_text_makes_the_readers_panic(index: u64, leaf: [u8; 32], text in "\\PC{0,120}") {
        let id = ReceiptId { node: "us-iad/n.2".parse().unwrap(), index, leaf };
        prop_assert_eq!(id.to_string().parse::<ReceiptId>(), Ok(id));
        if let Ok(read) = text.parse::<ReceiptId>() {
            prop_assert_eq!(read.to_string(), text.clone());
        }
        let _ = (Promise::read(&text), Receipt::decode(text.as_bytes()));
    }
    #[test]
    fn another_key_or_content_is_another_commitment(key: [u8; 32], content: Vec<u8>) {
        let of = |key, content: &[u8]| Commitment::of(&CommitmentKey(key), content);
        let mut more = content.clone();
        more.push(1);
        prop_assert_ne!(of(key, &content), of(key, &more));
        let mut other = key;
        other[31] ^= 1;
        prop_assert_ne!(of(key, &content), of(other, &content));
    }
}
