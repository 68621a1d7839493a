//! What makes two requests the same question.
//!
//! The key covers everything that shapes the answer: the weights, the arithmetic, the steps around them, who asks, about
//! whom, what is asked for, and the inputs in their one binary form. So another tenant, another person, another version or
//! another variant can never hit, and JSON and binary clients of one tenant share.
//!
//! It is a hash under the owner's secret: who finds it on disk cannot try out inputs, and when the owner is forgotten the
//! same question gets another key.

use proto::ids::ContentHash;
use proto::oip::Tensor;

use super::keys::{Asker, Owner};
use crate::batch::join;
use crate::engine::Answerer;
use crate::serving::ModelSlot;

/// A question by its name, and what is needed to keep its answer.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Two questions with one name have one answer.
    pub(super) name: ContentHash,
    pub(super) owner: Owner,
    /// By whose arithmetic it is named: answers of others are not kept under it.
    pub(super) by: Answerer,
    /// How long answers of its model are given again, if that is set for it alone, milliseconds.
    pub(super) ttl_ms: Option<u64>,
}

#[cfg(test)]
impl Key {
    /// A key for tests that keep nothing.
    pub(super) fn named(name: ContentHash) -> Self {
        use super::keys::Slots;
        let owner = Owner {
            slots: Slots::NONE,
            secret: [0; 32],
        };
        Self {
            name,
            owner,
            by: Answerer::Signed,
            ttl_ms: None,
        }
    }
}

impl Key {
    /// By whose arithmetic it is named.
    #[must_use]
    pub const fn by(&self) -> Answerer {
        self.by
    }
}

/// The name of a request to be answered by `by`. `outputs` are the names asked for, `parameters` those that may change the answer, rendered.
pub(super) fn name(
    owner: &Owner,
    asker: Asker<'_>,
    (slot, by): (&ModelSlot, Answerer),
    outputs: &[String],
    parameters: &str,
    inputs: &[Tensor],
) -> ContentHash {
    let mut key = Fields::new(&owner.secret);
    key.field(slot.weights.as_bytes());
    key.field(slot.numerics(by).as_bytes());
    key.field(slot.pipeline.as_bytes());
    // Two tenants, or two persons, may have one owner's secret: they share rows of the key file.
    key.field(asker.tenant.as_str().as_bytes());
    key.field(asker.subject.map_or(&[], |subject| subject.as_bytes()));
    let mut outputs: Vec<&String> = outputs.iter().collect();
    outputs.sort();
    outputs.dedup();
    key.count(outputs.len());
    outputs.iter().for_each(|name| key.field(name.as_bytes()));
    key.field(parameters.as_bytes());
    key.count(inputs.len());
    for tensor in join::sorted(inputs) {
        key.field(tensor.name.as_bytes());
        key.field(tensor.datatype.as_str().as_bytes());
        key.count(tensor.shape.len());
        tensor.shape.iter().for_each(|&size| key.count(size));
        key.field(&tensor.data);
    }
    key.finish()
}

/// Each field carries its length, so that no two lists of fields give the same bytes.
struct Fields {
    hasher: blake3::Hasher,
    /// Short fields that are not hashed yet: the hash takes many bytes at once far quicker than a few many times.
    short: Vec<u8>,
}

/// Longer fields are hashed where they lie.
const SHORT_BYTES_MAX: usize = 256;

impl Fields {
    fn new(secret: &[u8; 32]) -> Self {
        Self {
            hasher: blake3::Hasher::new_keyed(secret),
            short: Vec::with_capacity(2 * SHORT_BYTES_MAX),
        }
    }
    fn field(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        if bytes.len() > SHORT_BYTES_MAX {
            self.flush();
            self.hasher.update(bytes);
        } else {
            self.short.extend_from_slice(bytes);
        }
    }
    fn count(&mut self, n: usize) {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        self.short.extend_from_slice(&n.to_le_bytes());
    }
    fn flush(&mut self) {
        self.hasher.update(&self.short);
        self.short.clear();
    }
    fn finish(mut self) -> ContentHash {
        self.flush();
        self.hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::TenantId;
    use proto::purge::Subject;

    use super::*;
    use crate::cache::keys::Keys;
    use crate::testing;

    const SIGNED: Answerer = Answerer::Signed;

    #[test]
    fn anything_that_shapes_the_answer_shapes_the_key_and_nothing_else_does() {
        let (one, two) = (testing::slot("m", 1), testing::slot("m", 2));
        let (a, b): (TenantId, TenantId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let person: Subject = "p".parse().unwrap();
        let of = |tenant| Asker { tenant, subject: None };
        let x = |v: f32| testing::fp32("x", &[1, 1], &[v]);
        let y = || testing::fp32("y", &[1, 1], &[0.0]);
        let reshaped = testing::fp32("x", &[1, 1, 1], &[1.0]);
        // One owner for all: what tells them apart is the name alone.
        let owner = Keys::in_memory().owner(of(&a), &one.release.model);
        let base = name(&owner, of(&a), (&one, SIGNED), &[], "", &[x(1.0), y()]);
        let about = Asker {
            tenant: &a,
            subject: Some(&person),
        };
        let others = [
            name(&owner, of(&a), (&two, SIGNED), &[], "", &[x(1.0), y()]),
            name(&owner, of(&b), (&one, SIGNED), &[], "", &[x(1.0), y()]),
            name(&owner, about, (&one, SIGNED), &[], "", &[x(1.0), y()]),
            name(&owner, of(&a), (&one, SIGNED), &["p".to_owned()], "", &[x(1.0), y()]),
            name(&owner, of(&a), (&one, SIGNED), &[], "p", &[x(1.0), y()]),
            name(&owner, of(&a), (&one, SIGNED), &[], "", &[x(2.0), y()]),
            name(&owner, of(&a), (&one, SIGNED), &[], "", &[reshaped, y()]),
        ];
        assert!(others.iter().all(|other| *other != base));
        // As long as this its bytes are hashed apart from the short fields around them.
        let long = |first: f32| {
            let values: Vec<f32> = std::iter::once(first).chain((1_u8..100).map(f32::from)).collect();
            name(
                &owner,
                of(&a),
                (&one, SIGNED),
                &[],
                "",
                &[testing::fp32("x", &[50, 2], &values), y()],
            )
        };
        assert_ne!(long(1.0), long(2.0));
        assert_eq!(
            name(&owner, of(&a), (&one, SIGNED), &[], "", &[y(), x(1.0)]),
            base,
            "the order of inputs does not matter"
        );
        let elsewhere = Keys::in_memory().owner(of(&a), &one.release.model);
        assert_ne!(
            name(&elsewhere, of(&a), (&one, SIGNED), &[], "", &[x(1.0), y()]),
            base,
            "who has not the secret cannot try out inputs"
        );
    }
}
