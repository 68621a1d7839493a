//! The node's own fence: a request is answered only where its tenant's data may be, whatever led it here.
//!
//! Fails closed: an unknown boundary or a malformed country lets nothing through.

use proto::region_state::{RegionInfo, Tenant};
use regions::policy::Boundaries;

/// Whether a node in `region` may answer for `tenant`.
#[must_use]
pub fn may_answer(boundaries: &Boundaries, region: &RegionInfo, tenant: &Tenant) -> bool {
    boundaries.allows(&tenant.boundary, &region.country)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::ids::ContentHash;

    #[test]
    fn nothing_passes_unless_the_boundary_is_known_and_holds_the_country() {
        let answers = |boundary: &str, country: &str| {
            let tenant = Tenant {
                id: "acme".parse().unwrap(),
                boundary: boundary.parse().unwrap(),
                key_hash: ContentHash::of(b"key"),
            };
            let region = RegionInfo {
                id: "r".parse().unwrap(),
                country: country.to_owned(),
                lat_e6: 0,
                lon_e6: 0,
            };
            may_answer(Boundaries::builtin(), &region, &tenant)
        };
        assert!(answers("eea", "DE"));
        assert!(!answers("eea", "US"));
        assert!(!answers("eea", "") && !answers("eea", "de-DE"));
        assert!(!answers("no-such-boundary", "DE"));
    }
}
