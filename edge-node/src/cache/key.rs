//! What makes two requests the same question.
//!
//! The key covers everything that shapes the answer: the weights, the arithmetic, the steps around them, who asks, what
//! is asked for, and the inputs in their one binary form. So another tenant, another version or another variant can
//! never hit, and JSON and binary clients of one tenant share.

use proto::ids::{ContentHash, TenantId};
use proto::oip::Tensor;

use crate::batch::join;
use crate::serving::ModelSlot;

/// Separates these keys from every other use of the hash.
const CONTEXT: &str = "meridian 2026 result cache key v1";

/// The key of a request. `outputs` are the names asked for, `parameters` those that may change the answer, rendered.
#[must_use]
pub fn of(slot: &ModelSlot, tenant: &TenantId, outputs: &[String], parameters: &str, inputs: &[Tensor]) -> ContentHash {
    let mut key = Key(blake3::Hasher::new_derive_key(CONTEXT));
    key.field(slot.weights.as_bytes());
    key.field(slot.variant.numerics.as_bytes());
    key.field(slot.pipeline.as_bytes());
    key.field(tenant.as_str().as_bytes());
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
    key.0.finalize().into()
}

/// Each field carries its length, so that no two lists of fields give the same bytes.
struct Key(blake3::Hasher);

impl Key {
    fn field(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }
    fn count(&mut self, n: usize) {
        self.0.update(&u64::try_from(n).unwrap_or(u64::MAX).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn anything_that_shapes_the_answer_shapes_the_key_and_nothing_else_does() {
        let (one, two) = (testing::slot("m", 1), testing::slot("m", 2));
        let (a, b): (TenantId, TenantId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let x = |v: f32| testing::fp32("x", &[1, 1], &[v]);
        let y = || testing::fp32("y", &[1, 1], &[0.0]);
        let base = of(&one, &a, &[], "", &[x(1.0), y()]);
        let reshaped = testing::fp32("x", &[1, 1, 1], &[1.0]);
        let others = [
            of(&two, &a, &[], "", &[x(1.0), y()]),
            of(&one, &b, &[], "", &[x(1.0), y()]),
            of(&one, &a, &["p".to_owned()], "", &[x(1.0), y()]),
            of(&one, &a, &[], "p", &[x(1.0), y()]),
            of(&one, &a, &[], "", &[x(2.0), y()]),
            of(&one, &a, &[], "", &[reshaped, y()]),
        ];
        assert!(others.iter().all(|other| *other != base));
        assert_eq!(
            of(&one, &a, &[], "", &[y(), x(1.0)]),
            base,
            "the order of inputs does not matter"
        );
    }
}
