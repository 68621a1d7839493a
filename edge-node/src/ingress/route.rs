//! Which question a method and a path ask.

use std::sync::Arc;

use http::{Method, StatusCode};
use proto::ids::{ModelName, ModelVersion};

use super::reply::Problem;
use crate::metrics::Outcome;
use crate::serving::{ModelSlot, ServingSet};

/// A question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Server,
    Live,
    Ready,
    Model(Target),
    ModelReady(Target),
    Infer(Target),
    Node,
    Checkpoints,
    Metrics,
}

/// A model as a path names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    name: String,
    version: Option<String>,
}

impl Target {
    /// `version` may be empty: whichever is served.
    pub(super) fn of(name: String, version: String) -> Self {
        let version = Some(version).filter(|version| !version.is_empty());
        Self { name, version }
    }
    /// The model meant, if it is served.
    pub(super) fn find<'s>(&self, set: &'s ServingSet) -> Result<&'s Arc<ModelSlot>, Problem> {
        let unknown = || Problem::not_found(format!("Request for unknown model: '{}' is not found", cut(&self.name)));
        let name = self.name.parse::<ModelName>().map_err(|_| unknown())?;
        let absent = || {
            if set.awaited.contains(&name) {
                Problem::loading(&name)
            } else {
                unknown()
            }
        };
        let slot = set.models.get(&name).ok_or_else(absent)?;
        match &self.version {
            Some(version) if version.parse::<ModelVersion>() != Ok(slot.release.version) => {
                let (asked, served) = (cut(version), slot.release.version);
                let (name, here) = (&slot.release.model, format!("this node serves version {served}"));
                Err(Problem::not_found(format!(
                    "Request for unknown model: '{name}' version {asked} is not found, {here}"
                )))
            }
            _ => Ok(slot),
        }
    }
}

/// Names come from outside: what is echoed is short and printable.
fn cut(text: &str) -> String {
    text.chars().take(64).filter(|c| !c.is_control()).collect()
}

/// What `method` on `path` asks.
pub(super) fn of(method: &Method, path: &str) -> Result<Route, Problem> {
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    let target = |name: &str, version: Option<&str>| Target {
        name: name.to_owned(),
        version: version.map(str::to_owned),
    };
    let route = match *segments.as_slice() {
        ["v2"] => Route::Server,
        ["v2", "health", "live"] => Route::Live,
        ["v2", "health", "ready"] => Route::Ready,
        ["v2", "models", name] => Route::Model(target(name, None)),
        ["v2", "models", name, "ready"] => Route::ModelReady(target(name, None)),
        ["v2", "models", name, "infer"] => Route::Infer(target(name, None)),
        ["v2", "models", name, "versions", version] => Route::Model(target(name, Some(version))),
        ["v2", "models", name, "versions", version, "ready"] => Route::ModelReady(target(name, Some(version))),
        ["v2", "models", name, "versions", version, "infer"] => Route::Infer(target(name, Some(version))),
        ["v1", "node"] => Route::Node,
        ["v1", "checkpoints"] => Route::Checkpoints,
        ["metrics"] => Route::Metrics,
        _ => {
            return Err(Problem::not_found(
                "no such page: inference is at /v2/models/NAME/infer".to_owned(),
            ));
        }
    };
    let posted = matches!(route, Route::Infer(_) | Route::Checkpoints);
    let allowed = if posted {
        method == Method::POST
    } else {
        method == Method::GET || method == Method::HEAD
    };
    if allowed {
        return Ok(route);
    }
    let allow = if posted { "POST" } else { "GET, HEAD" };
    let message = format!("{method} is not answered here, use {allow}");
    let status = StatusCode::METHOD_NOT_ALLOWED;
    Err(Problem::new(status, "method_not_allowed", message, Outcome::BadRequest).with("allow", allow))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_of_the_protocol_is_answered_to_its_own_method_only() {
        for (path, get, post) in [
            ("/v2", true, false),
            ("/v2/health/live", true, false),
            ("/v2/health/ready", true, false),
            ("/v2/models/m", true, false),
            ("/v2/models/m/ready", true, false),
            ("/v2/models/m/versions/3", true, false),
            ("/v2/models/m/versions/3/ready", true, false),
            ("/v2/models/m/infer", false, true),
            ("/v2/models/m/versions/3/infer", false, true),
            ("/v1/node", true, false),
            ("/v1/checkpoints", false, true),
            ("/metrics", true, false),
            ("/v2/", false, false),
            ("/", false, false),
            ("//v2", false, false),
            ("/v2/models/m/infer/", false, false),
            ("/v2/models/m/../infer", false, false),
        ] {
            assert_eq!(of(&Method::GET, path).is_ok(), get, "GET {path}");
            assert_eq!(of(&Method::POST, path).is_ok(), post, "POST {path}");
            assert!(of(&Method::DELETE, path).is_err(), "DELETE {path}");
        }
    }
}
