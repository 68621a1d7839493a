//! What an operator says of single models and tenants: tables whose keys are their names.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use proto::ids::{ModelName, TenantId};
use runtime::config::{ConfigError, Example};
use serde::Deserialize;

use super::within;
use crate::batch::Rules;
use crate::batch::accounts::Payer;
use crate::batch::class::Class;
use crate::ingress::rate::Rate;

/// Models and their service classes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct ClassesFile(BTreeMap<ModelName, Class>);

impl Example for ClassesFile {
    fn example(_: &str) -> String {
        "# Default deadline and priority: `realtime-50`, `-100`, `-200` (milliseconds, priority 2), `micro-batch` (1 s, 3),\n\
         # `standard` (30 s, 3: all models that are not named), `batch` (300 s, 5).\n\
         # minilm = \"realtime-100\"\n"
            .to_owned()
    }
}

/// Models and how long their answers are given again.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct TtlFile(BTreeMap<ModelName, u64>);

impl Example for TtlFile {
    fn example(_: &str) -> String {
        "# Seconds, 1 to 604800.\n# minilm = 604800\n".to_owned()
    }
}

/// Checks the times to live of models.
pub(super) fn ttl(file: &TtlFile) -> Result<HashMap<ModelName, Duration>, ConfigError> {
    let each = file.0.iter().map(|(model, &seconds)| {
        within("cache.ttl.NAME", seconds, 1, 604_800)?;
        Ok((model.clone(), Duration::from_secs(seconds)))
    });
    each.collect()
}

/// Tenants, their shares and rates.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct TenantsFile(BTreeMap<TenantId, TenantFile>);

impl Example for TenantsFile {
    fn example(_: &str) -> String {
        "# `weight`: share of the engine's time while others wait, 1 to 1000, else 1. `requests-per-s`, 0.01 to 1000000: more get 429;\n\
         # no bound without it. `burst`: requests at once, 1 to 1000000, else those of one second.\n\
         # acme = { weight = 2, requests-per-s = 500.0, burst = 1000 }\n"
            .to_owned()
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TenantFile {
    #[serde(default = "one")]
    weight: u32,
    requests_per_s: Option<f64>,
    burst: Option<u32>,
}

fn one() -> u32 {
    1
}

/// Checks both tables.
pub(super) fn checked(
    classes: ClassesFile,
    tenants: TenantsFile,
) -> Result<(Rules, HashMap<Payer, Rate>), ConfigError> {
    let (mut weights, mut rates) = (HashMap::new(), HashMap::new());
    for (tenant, file) in tenants.0 {
        let payer = Payer::of(&tenant);
        within("tenants.NAME.weight", file.weight, 1, 1_000)?;
        weights.insert(payer, file.weight);
        let Some(per_s) = file.requests_per_s else {
            if file.burst.is_some() {
                return Err(ConfigError::Value {
                    key: "tenants.NAME.burst",
                    reason: format!("of `{tenant}` bounds nothing without `requests-per-s`"),
                });
            }
            continue;
        };
        within("tenants.NAME.requests-per-s", per_s, 0.01, 1_000_000.0)?;
        let burst = file.burst.map_or(per_s.max(1.0), f64::from);
        within("tenants.NAME.burst", burst, 1.0, 1_000_000.0)?;
        rates.insert(payer, Rate { per_s, burst });
    }
    let classes = classes.0.into_iter().collect();
    Ok((Rules { classes, weights }, rates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Both {
        classes: ClassesFile,
        tenants: TenantsFile,
    }

    fn read(tables: &str) -> Result<(Rules, HashMap<Payer, Rate>), String> {
        let Both { classes, tenants } = runtime::config::parse(tables)?;
        checked(classes, tenants).map_err(|error| error.to_string())
    }

    #[test]
    fn models_get_their_class_and_tenants_their_share_and_rate() {
        let text = "[classes]\nm = \"realtime-50\"\n[tenants]\na = { weight = 3 }\nb = { requests-per-s = 7.5 }\n";
        let (rules, rates) = read(text).unwrap();
        let payer = |name: &str| Payer::of(&name.parse().unwrap());
        assert_eq!(rules.classes[&"m".parse::<ModelName>().unwrap()], Class::Realtime50);
        assert_eq!((rules.weights[&payer("a")], rules.weights[&payer("b")]), (3, 1));
        assert_eq!(rates, HashMap::from([(payer("b"), Rate { per_s: 7.5, burst: 7.5 })]));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (tables, says) in [
            ("[classes]\nm = \"fast\"\n[tenants]\n", "realtime-50"),
            (
                "[classes]\n[tenants]\na = { weight = 0 }\n",
                "`tenants.NAME.weight` is 0",
            ),
            ("[classes]\n[tenants]\na = { burst = 9 }\n", "of `a` bounds nothing"),
            ("[classes]\n[tenants]\na = { requests-per-s = nan }\n", "requests-per-s"),
            ("[classes]\n[tenants]\na = { wait = 1 }\n", "wait"),
        ] {
            let error = read(tables).map(|_| ()).unwrap_err();
            assert!(error.contains(says), "{tables}: {error}");
        }
    }
}
