//! Counts the parts of an ONNX file in its protobuf bytes, before anything is allocated for them.

use proto::limits::GRAPH_MESSAGES_MAX;

use super::OnnxError;

/// Messages of ONNX whose repetition costs memory; the numbers of their fields are those of `onnx.proto3`.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    Leaf,
}

/// Strings cost less than messages, and tree ensembles hold one per tree node.
const STRINGS_PER_MESSAGE: usize = 16;
/// Subgraphs inside subgraphs; the decoder itself stops at 100 messages.
const DEPTH_MAX: usize = 24;

const fn inner(kind: Kind, field: u64) -> Option<Kind> {
    Some(match (kind, field) {
        (Kind::Model, 7) => Kind::Graph,
        (Kind::Model, 25) => Kind::Function,
        (Kind::Graph, 1) | (Kind::Function, 7) => Kind::Node,
        (Kind::Node, 5) => Kind::Attribute,
        (Kind::Attribute, 6 | 11) => Kind::Graph,
        (Kind::Graph, 5 | 11..=15) | (Kind::Attribute, 5 | 10 | 15 | 22 | 23) | (Kind::Model, 8 | 14 | 20) => {
            Kind::Leaf
        }
        _ => return None,
    })
}

/// Refuses a file of too many parts, or one that is no protobuf at all.
pub(super) fn check_parts(bytes: &[u8]) -> Result<(), OnnxError> {
    let mut budget = GRAPH_MESSAGES_MAX * STRINGS_PER_MESSAGE;
    walk(bytes, Kind::Model, 0, &mut budget)
}

fn walk(mut bytes: &[u8], kind: Kind, depth: usize, budget: &mut usize) -> Result<(), OnnxError> {
    let broken = |why: &str| OnnxError::Malformed { why: why.to_owned() };
    if depth > DEPTH_MAX {
        return Err(broken("graphs are nested too deep"));
    }
    while !bytes.is_empty() {
        let tag = varint(&mut bytes).ok_or_else(|| broken("it ends inside a field's number"))?;
        let cut = || broken("it ends inside a field");
        match tag & 7 {
            0 => drop(varint(&mut bytes).ok_or_else(cut)?),
            1 => bytes = bytes.get(8..).ok_or_else(cut)?,
            5 => bytes = bytes.get(4..).ok_or_else(cut)?,
            2 => {
                let length = usize::try_from(varint(&mut bytes).ok_or_else(cut)?).map_err(|_| cut())?;
                let (field, rest) = bytes.split_at_checked(length).ok_or_else(cut)?;
                bytes = rest;
                let next = inner(kind, tag >> 3);
                let cost = if next.is_some() { STRINGS_PER_MESSAGE } else { 1 };
                *budget = budget.checked_sub(cost).ok_or(OnnxError::TooMany)?;
                if let Some(next) = next.filter(|next| !matches!(next, Kind::Leaf)) {
                    walk(field, next, depth + 1, budget)?;
                }
            }
            _ => return Err(broken("a field has no known wire type")),
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_megabyte_of_empty_nodes_is_refused_before_it_becomes_a_hundred() {
        let nodes = [0x0a, 0].repeat(1 << 19);
        let mut file = vec![0x3a];
        let mut length = nodes.len();
        while length >= 0x80 {
            file.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        file.push(u8::try_from(length).unwrap());
        file.extend(nodes);
        assert_eq!(check_parts(&file), Err(OnnxError::TooMany));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_count_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = check_parts(&bytes);
            let _ = crate::onnx::decode(&bytes);
        }
    }
}
