//! `trust.json`: what a part believes before it has talked to anybody.

use std::path::Path;

use proto::signed::TrustBundle;

use super::{IdentityError, files};

/// Reads a trust bundle and checks that its threshold can be met.
///
/// # Errors
/// [`IdentityError::File`], [`IdentityError::Content`] with the broken rule.
pub fn load(path: &Path) -> Result<TrustBundle, IdentityError> {
    let content = |reason: String| IdentityError::Content {
        path: path.to_owned(),
        reason,
    };
    let bundle: TrustBundle =
        serde_json::from_str(&files::read(path)?).map_err(|e| content(format!("not a trust bundle: {e}")))?;
    let mut keys = bundle.operator_keys();
    keys.sort_unstable();
    keys.dedup();
    if keys.len() != bundle.operators.len() {
        return Err(content("two operators share one key".to_owned()));
    }
    if bundle.threshold == 0 || bundle.threshold > keys.len() {
        let reason = format!(
            "`threshold` is {}, allowed is 1 to {} (the operators)",
            bundle.threshold,
            keys.len()
        );
        return Err(content(reason));
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(threshold: usize, keys: &[u8]) -> String {
        let operators: Vec<_> = keys
            .iter()
            .map(|k| serde_json::json!({"name": format!("o{k}"), "key": proto::ids::hex(&[*k; 32])}))
            .collect();
        serde_json::json!({
            "fleet": "dev", "log_vkey": "dev/log+00000000+AAAA", "state_key": proto::ids::hex(&[9; 32]),
            "operators": operators, "threshold": threshold,
        })
        .to_string()
    }

    #[test]
    fn a_threshold_that_nobody_or_everybody_together_cannot_meet_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust.json");
        for (threshold, keys, good) in [
            (1, &[1][..], true),
            (2, &[1, 2], true),
            (0, &[1], false),
            (2, &[1], false),
            (1, &[1, 1], false),
        ] {
            std::fs::write(&path, bundle(threshold, keys)).unwrap();
            assert_eq!(load(&path).is_ok(), good, "{threshold} of {keys:?}");
        }
    }

    #[test]
    fn a_bundle_with_an_unknown_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust.json");
        std::fs::write(&path, bundle(1, &[1]).replace("\"fleet\"", "\"flet\"")).unwrap();
        assert!(matches!(load(&path), Err(IdentityError::Content { .. })));
    }
}
