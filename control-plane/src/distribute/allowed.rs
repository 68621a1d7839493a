//! Who may ask what: one table, and nothing else decides it.
//!
//! | | node | router | operator | auditor |
//! |---|---|---|---|---|
//! | `Follow`, `Report`, `Neighbours` | yes | | | |
//! | `FollowView` | | yes | | |
//! | `Manifest`, `Plan`, `Chunks` | yes | | yes | |
//! | `Checkpoint`, `Consistency` | yes | yes | yes | yes |
//! | `Missing`, `PutChunk`, `PutManifest`, `PutPlan`, `NextVersion`, `Command` | | | yes | |

use proto::message::Request;
use runtime::identity::Role;

/// Whether a caller with this role may ask this. A node's enrolment is checked apart, against the log.
#[must_use]
pub fn allowed(role: &Role, request: &Request) -> bool {
    match request {
        Request::Follow { .. } | Request::Report(_) | Request::Neighbours => matches!(role, Role::Node(_)),
        Request::FollowView { .. } => matches!(role, Role::Router(_)),
        Request::Manifest(_) | Request::Plan(_) | Request::Chunks { .. } => {
            matches!(role, Role::Node(_) | Role::Operator(_))
        }
        Request::Checkpoint | Request::Consistency { .. } => !matches!(role, Role::ControlPlane),
        Request::Missing { .. }
        | Request::PutChunk { .. }
        | Request::PutManifest(_)
        | Request::PutPlan(_)
        | Request::NextVersion(_)
        | Request::Command { .. } => matches!(role, Role::Operator(_)),
    }
}

/// The request's name, for metrics and refusals.
#[must_use]
pub fn kind(request: &Request) -> &'static str {
    match request {
        Request::Follow { .. } => "follow",
        Request::FollowView { .. } => "follow-view",
        Request::Report(_) => "report",
        Request::Manifest(_) => "manifest",
        Request::Plan(_) => "plan",
        Request::Chunks { .. } => "chunks",
        Request::Consistency { .. } => "consistency",
        Request::Missing { .. } => "missing",
        Request::PutChunk { .. } => "put-chunk",
        Request::NextVersion(_) => "next-version",
        Request::PutManifest(_) => "put-manifest",
        Request::PutPlan(_) => "put-plan",
        Request::Command { .. } => "command",
        Request::Checkpoint => "checkpoint",
        Request::Neighbours => "neighbours",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::ids::ContentHash;
    use proto::message::NodeReport;
    use proto::signed::Signed;

    fn requests() -> Vec<Request> {
        let hash = ContentHash::of(b"x");
        let signed = Signed {
            payload: vec![],
            signatures: vec![],
        };
        let report = NodeReport {
            seq: 0,
            checkpoint: String::new(),
            models: vec![],
            queued: 0,
            stopped: None,
        };
        vec![
            Request::Follow {
                after_seq: 0,
                tree_size: 0,
            },
            Request::Report(report),
            Request::FollowView {
                after_seq: 0,
                tree_size: 0,
            },
            Request::Manifest(hash),
            Request::Plan(hash),
            Request::Chunks { chunks: vec![] },
            Request::Checkpoint,
            Request::Consistency { from: 0, to: 0 },
            Request::Missing { chunks: vec![] },
            Request::PutChunk { bytes: vec![] },
            Request::PutManifest(signed.clone()),
            Request::PutPlan(signed),
            Request::NextVersion("m".parse().unwrap()),
            Request::Command { leaf: String::new() },
            Request::Neighbours,
        ]
    }

    #[test]
    fn each_role_may_ask_what_the_table_says_and_nothing_else() {
        let may = |role: Role| -> Vec<&str> { requests().iter().filter(|r| allowed(&role, r)).map(kind).collect() };
        let node = Role::Node("eu-fra/n1".parse().unwrap());
        let router = Role::Router("r1".parse().unwrap());
        let operator = Role::Operator("alice".parse().unwrap());
        let auditor = Role::Auditor {
            name: "bob".parse().unwrap(),
            region: "eu-fra".parse().unwrap(),
        };
        assert_eq!(
            may(node),
            [
                "follow",
                "report",
                "manifest",
                "plan",
                "chunks",
                "checkpoint",
                "consistency",
                "neighbours"
            ]
        );
        assert_eq!(may(router), ["follow-view", "checkpoint", "consistency"]);
        assert_eq!(may(auditor), ["checkpoint", "consistency"]);
        assert_eq!(may(Role::ControlPlane), [""; 0]);
        let all_but_following = requests().len() - 4;
        assert_eq!(may(operator).len(), all_but_following);
    }
}
