//! Which variant a class of nodes should run, and why, from what was measured. Decides and does nothing else.

use proto::ids::NodeClass;
use proto::manifest::{Measured, Proposal, Variant};

use crate::output;

/// A variant may take this much longer, in percent, and still win by being smaller: less is noise of the clock.
pub(super) const SLOWER_PERCENT_MAX: u64 = 10;
/// Joining rows pays from here: eight rows in the time of less than 8 / 1.2.
const JOIN_GAIN_PERCENT: u64 = 120;
/// Rows joined at most where joining pays.
const JOINED_ROWS: u32 = 32;

/// Proposes one of `offered` (variants with their file's length, all within their checks) for nodes of `class`: the
/// fastest for one row; of those within 10 % of it, the smallest.
#[must_use]
pub fn propose(class: &NodeClass, offered: &[(Variant, u64)]) -> Option<Proposal> {
    let mine: Vec<_> = offered.iter().filter(|(v, _)| &v.class == class).collect();
    let fastest = mine.iter().map(|(v, _)| u64::from(v.measured.row_us)).min()?;
    let near = |v: &Variant| u64::from(v.measured.row_us) * 100 <= fastest * (100 + SLOWER_PERCENT_MAX);
    let (best, bytes) = mine.iter().filter(|(v, _)| near(v)).min_by_key(|(_, bytes)| *bytes)?;
    let others: Vec<String> = mine
        .iter()
        .filter(|(v, _)| v.id != best.id)
        .map(|(v, bytes)| format!("{} has {}", v.id, figures(&v.measured, *bytes)))
        .collect();
    let against = if others.is_empty() {
        "no other variant passed".to_owned()
    } else {
        others.join("; ")
    };
    let rule = "the fastest for one row, of those within 10 % the smallest";
    let why = format!(
        "{} with {} ({rule}); {against}",
        best.id,
        figures(&best.measured, *bytes)
    );
    Some(Proposal {
        class: class.clone(),
        variant: best.id.clone(),
        why,
    })
}

fn figures(m: &Measured, bytes: u64) -> String {
    format!(
        "{}, {} us a row, cosine {:.5}, top-1 {:.1} %",
        output::bytes(bytes),
        m.row_us,
        m.cosine_min,
        m.top1_share * 100.0
    )
}

/// Largest number of rows worth joining into one run, of a model whose rows are known to be independent.
#[must_use]
pub fn batch_rows_max(measured: &Measured) -> u32 {
    let apart = u64::from(measured.row_us) * 8 * 100;
    let joined = u64::from(measured.rows8_us);
    if joined > 0 && apart >= joined * JOIN_GAIN_PERCENT {
        JOINED_ROWS
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variant(id: &str, row_us: u32) -> Variant {
        let measured = Measured {
            cosine_min: 1.0,
            top1_share: 1.0,
            abs_max: 0.0,
            row_us,
            rows8_us: 0,
            load_us: 0,
        };
        Variant {
            id: id.parse().unwrap(),
            class: "cpu".parse().unwrap(),
            file: id.to_owned(),
            numerics: String::new(),
            checks: Vec::new(),
            measured,
            batch_rows_max: 1,
        }
    }

    #[test]
    fn the_faster_variant_wins_however_large() {
        let offered = [(variant("cpu-f32", 100), 1000), (variant("cpu-int8", 111), 10)];
        assert_eq!(
            propose(&"cpu".parse().unwrap(), &offered).unwrap().variant.as_str(),
            "cpu-f32"
        );
    }

    #[test]
    fn equally_fast_variants_are_told_apart_by_size_and_the_sentence_has_the_figures() {
        let offered = [
            (variant("cpu-f32", 100), 4_000_000),
            (variant("cpu-int8", 110), 1_000_000),
        ];
        let proposal = propose(&"cpu".parse().unwrap(), &offered).unwrap();
        assert_eq!(proposal.variant.as_str(), "cpu-int8");
        assert!(
            proposal.why.contains("110 us") && proposal.why.contains("4.0 MB"),
            "{}",
            proposal.why
        );
    }

    #[test]
    fn a_class_without_variants_gets_no_proposal() {
        assert!(propose(&"cuda".parse().unwrap(), &[(variant("cpu-f32", 1), 1)]).is_none());
    }

    #[test]
    fn rows_are_joined_only_where_that_gains_a_fifth() {
        let timed = |row_us, rows8_us| {
            batch_rows_max(&Measured {
                rows8_us,
                ..variant("v", row_us).measured
            })
        };
        assert_eq!([timed(100, 660), timed(100, 670), timed(100, 0)], [32, 1, 1]);
    }
}
