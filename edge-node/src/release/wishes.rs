//! What each model of this node should do, read from the orders: the signed state, or standing still.
//!
//! Pure. Only plans in force count: what a state names and its plan forbids is nobody's wish. While activations are stopped (a fork, an expired state) every model is to go on with what serves, or with what
//! served before the restart; nothing is begun and nothing is withdrawn.

use std::collections::BTreeMap;

use proto::ids::{ContentHash, ModelName, NodeClass, Release};
use proto::region_state::Accepted;

use super::machine::{Event, Target};

/// What one model is told at a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To be served by the plan with this digest.
    Serve(Target, ContentHash),
    /// To be fed to its machine.
    Tell(Event),
    /// The plan names no form for this node's class: what serves goes on, and the report says why.
    NoVariant { release: Release, manifest: ContentHash },
}

/// What is known of the models here: what serves, or served before the restart. `None` for one that never did.
pub(super) type Serving = BTreeMap<ModelName, Option<Target>>;

/// One wish per model that has a plan in force or is known.
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
    for in_force in &accepted.permitted {
        let plan = &in_force.plan;
        let (release, manifest) = (plan.to.clone(), plan.manifest);
        let wish = match plan.variant_for(class) {
            Some(variant) => {
                let variant = variant.clone();
                let target = Target {
                    release,
                    manifest,
                    variant,
                };
                Wish::Serve(target, in_force.id)
            }
            None => Wish::NoVariant { release, manifest },
        };
        wishes.push((plan.to.model.clone(), wish));
    }
    let unwanted = serving.keys().filter(|model| accepted.plan_of(model).is_none());
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
    use proto::signed::Document;

    fn target(text: &str) -> Target {
        let release: Release = text.parse().unwrap();
        Target {
            manifest: fixture::manifest_id(&release),
            release,
            variant: "cpu-f32".parse().unwrap(),
        }
    }
    fn wanted(text: &str) -> Wish {
        let target = target(text);
        let plan = fixture::plan(&target.release, target.manifest, 1);
        Wish::Serve(target, plan.id())
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
            (model("a"), wanted("a@2")),
            (model("b"), wanted("b@1")),
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
