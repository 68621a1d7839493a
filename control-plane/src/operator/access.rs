//! Who may see which page, and of which region: one table, and nothing else decides it.

use proto::ids::RegionId;
use runtime::identity::Role;

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The release log's files.
    Log,
    /// The status page.
    Status,
    /// The instruments.
    Metrics,
}

/// Why somebody may not see a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who asked: goes to the log.
    pub who: String,
    /// For which page.
    pub door: Door,
    /// For which region.
    pub region: Option<RegionId>,
    /// The rule: goes to the caller.
    pub rule: &'static str,
}

/// The region that the page is cut down to for this caller; `None` for the whole fleet.
///
/// # Errors
/// [`Refusal`].
pub fn scope(role: Option<&Role>, door: Door, asked: Option<&RegionId>) -> Result<Option<RegionId>, Refusal> {
    let refuse = |rule| {
        let who = role.map_or_else(|| "nobody".to_owned(), ToString::to_string);
        Err(Refusal {
            who,
            door,
            region: asked.cloned(),
            rule,
        })
    };
    match (role, door) {
        (Some(Role::Operator(_)), _) => Ok(asked.cloned()),
        (Some(Role::Auditor { .. }), Door::Metrics) => refuse("an auditor's certificate does not open /metrics"),
        (Some(Role::Auditor { .. }), Door::Log) => Ok(None),
        (Some(Role::Auditor { region, .. }), Door::Status) => match asked {
            Some(asked) if asked != region => refuse("an auditor's certificate opens its own region only"),
            _ => Ok(Some(region.clone())),
        },
        _ => refuse("this door is for operators and auditors: present such a certificate"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    #[test]
    fn an_auditor_sees_the_log_and_their_own_region_and_nothing_else() {
        let auditor = Role::Auditor {
            name: "bob".parse().unwrap(),
            region: region("eu-fra"),
        };
        let see = |door, asked: Option<&RegionId>| scope(Some(&auditor), door, asked);
        assert_eq!(see(Door::Log, None), Ok(None));
        assert_eq!(see(Door::Status, None), Ok(Some(region("eu-fra"))));
        assert_eq!(see(Door::Status, Some(&region("eu-fra"))), Ok(Some(region("eu-fra"))));
        let refusal = see(Door::Status, Some(&region("us-iad"))).unwrap_err();
        assert!(refusal.who.contains("bob"), "{}", refusal.who);
        assert!(see(Door::Metrics, None).is_err());
    }

    #[test]
    fn nodes_routers_and_strangers_see_nothing() {
        for role in [
            Role::ControlPlane,
            Role::Node("eu-fra/n1".parse().unwrap()),
            Role::Router("r".parse().unwrap()),
        ] {
            for door in [Door::Log, Door::Status, Door::Metrics] {
                assert!(scope(Some(&role), door, None).is_err());
                assert!(scope(None, door, None).is_err());
            }
        }
    }

    #[test]
    fn an_operator_sees_the_fleet_or_the_region_they_ask_for() {
        let alice = Role::Operator("alice".parse().unwrap());
        assert_eq!(scope(Some(&alice), Door::Status, None), Ok(None));
        let asked = region("us-iad");
        assert_eq!(scope(Some(&alice), Door::Status, Some(&asked)), Ok(Some(asked)));
    }
}
