//! What each model of this node should do, read from the orders: the signed state, or standing still.
//!
//! Pure. While activations are stopped (a fork, an expired state) every model is to go on with what serves, or with what
//! served before the restart; nothing is begun and nothing is withdrawn.

use std::collections::BTreeMap;

use proto::ids::{ContentHash, ModelName, NodeClass, Release};

use super::machine::{Event, Target};
use crate::sync::Accepted;

/// What one model is told at a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To be fed to its machine.
    Tell(Event),
    /// The plan names no form for this node's class: what serves goes on, and the report says why.
    NoVariant { release: Release, manifest: ContentHash },
}

/// What is known of the models here: what serves, or served before the restart. `None` for one that never did.
pub(super) type Serving = BTreeMap<ModelName, Option<Target>>;

/// One wish per model that is desired or known.
pub(super) fn wishes(
    accepted: Option<&Accepted>,
    stopped: bool,
    class: &NodeClass,
    serving: &Serving,
) -> Vec<(ModelName, Wish)> {
    let Some(accepted) = accepted else { return Vec::new() };
    if stopped {
        let stay = |target: &Option<Target>| target.clone().map_or(Event::Unwanted, Event::Wanted);
        return serving
            .iter()
            .map(|(model, target)| (model.clone(), Wish::Tell(stay(target))))
            .collect();
    }
    let mut wishes = Vec::new();
    for (desired, plan) in accepted.state.desired.iter().zip(&accepted.plans) {
        let (release, manifest) = (desired.release.clone(), desired.manifest);
        let wish = match plan.variant_for(class) {
            Some(variant) => Wish::Tell(Event::Wanted(Target {
                release,
                manifest,
                variant: variant.clone(),
            })),
            None => Wish::NoVariant { release, manifest },
        };
        wishes.push((desired.release.model.clone(), wish));
    }
    let desired = |model: &ModelName| accepted.state.desired.iter().any(|d| &d.release.model == model);
    let unwanted = serving.keys().filter(|model| !desired(model));
    wishes.extend(
        unwanted
            .map(|model| (model.clone(), Wish::Tell(Event::Unwanted)))
            .collect::<Vec<_>>(),
    );
    wishes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::fixture;

    fn target(text: &str) -> Target {
        let release: Release = text.parse().unwrap();
        Target {
            manifest: fixture::manifest_id(&release),
            release,
            variant: "cpu-f32".parse().unwrap(),
        }
    }
    fn cpu() -> NodeClass {
        "cpu".parse().unwrap()
    }
    fn model(name: &str) -> ModelName {
        name.parse().unwrap()
    }

    #[test]
    fn the_state_says_what_is_wanted_and_what_is_no_more() {
        let accepted = fixture::accepted(&["a@2", "b@1"]);
        let serving = Serving::from([
            (model("a"), Some(target("a@1"))),
            (model("gone"), Some(target("gone@1"))),
        ]);
        let want = vec![
            (model("a"), Wish::Tell(Event::Wanted(target("a@2")))),
            (model("b"), Wish::Tell(Event::Wanted(target("b@1")))),
            (model("gone"), Wish::Tell(Event::Unwanted)),
        ];
        assert_eq!(wishes(Some(&accepted), false, &cpu(), &serving), want);
    }

    #[test]
    fn while_stopped_everything_stays_and_nothing_begins() {
        let accepted = fixture::accepted(&["a@2", "b@1"]);
        let serving = Serving::from([(model("a"), Some(target("a@1"))), (model("b"), None)]);
        let want = vec![
            (model("a"), Wish::Tell(Event::Wanted(target("a@1")))),
            (model("b"), Wish::Tell(Event::Unwanted)),
        ];
        assert_eq!(wishes(Some(&accepted), true, &cpu(), &serving), want);
    }

    #[test]
    fn a_class_that_the_plan_does_not_name_gets_nothing_new() {
        let accepted = fixture::accepted(&["a@2"]);
        let got = wishes(Some(&accepted), false, &"tpu".parse().unwrap(), &Serving::new());
        assert!(matches!(&got[..], [(_, Wish::NoVariant { .. })]), "{got:?}");
    }

    #[test]
    fn before_the_first_state_nothing_is_asked_of_any_model() {
        assert!(wishes(None, false, &cpu(), &Serving::from([(model("a"), None)])).is_empty());
    }
}
