//! Which question a method and a path ask.

use std::sync::Arc;

use http::{Method, StatusCode};
use proto::ids::ModelVersion;

use super::jobs::Page;
use super::manage::Manage;
use super::receipts;
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
    Generate(Target),
    /// The same, told as an event stream.
    GenerateStream(Target),
    /// Of texts, as OpenAI's clients ask.
    Embeddings,
    Config(Target),
    /// Of one model, or of all.
    Stats(Option<Target>),
    Manage(Manage),
    Jobs(Page),
    Receipts(receipts::Page),
    /// Of kept answers.
    Purge,
    OpenApi,
    Node,
    Usage,
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
    /// Model and version as the path has them.
    pub(super) fn names(&self) -> (&str, Option<&str>) {
        (&self.name, self.version.as_deref())
    }
    /// The model meant, if it is served.
    pub(super) fn find<'s>(&self, set: &'s ServingSet) -> Result<&'s Arc<ModelSlot>, Problem> {
        let unknown = || Problem::not_found(format!("Request for unknown model: '{}' is not found", cut(&self.name)));
        let absent = || {
            let awaited = set.awaited.get(self.name.as_str());
            awaited.map_or_else(unknown, Problem::loading)
        };
        let slot = set.models.get(self.name.as_str()).ok_or_else(absent)?;
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

/// One more than the longest path that is answered has: what is longer is none of them.
const SEGMENTS_MAX: usize = 5 + TILE_SEGMENTS_MAX;
/// Parts of a tile's place in its level: a log of 2^38 entries has four, and a partial tile has one more.
const TILE_SEGMENTS_MAX: usize = 5;

/// What `method` on `path` asks.
pub(super) fn of(method: &Method, path: &str) -> Result<Route, Problem> {
    let (mut places, mut count) = ([""; SEGMENTS_MAX], 0);
    for (place, segment) in places.iter_mut().zip(path.strip_prefix('/').unwrap_or(path).split('/')) {
        (*place, count) = (segment, count + 1);
    }
    let segments = &places[..count];
    let route = match segments {
        ["v2"] => Some(Route::Server),
        ["v2", "health", "live"] => Some(Route::Live),
        ["v2", "health", "ready"] => Some(Route::Ready),
        ["v2", "openapi.json"] => Some(Route::OpenApi),
        ["v2", "models", "stats"] => Some(Route::Stats(None)),
        ["v2", "models", name, "trace", "setting"] => Some(Route::Manage(Manage::Trace(Some(target(name, None))))),
        ["v2", "models", name, "versions", version, rest @ ..] => of_model(target(name, Some(version)), rest),
        ["v2", "models", name, rest @ ..] => of_model(target(name, None), rest),
        ["v2", rest @ ..] => manage(rest).map(Route::Manage),
        ["v1", "jobs"] => Some(Route::Jobs(Page::List)),
        ["v1", "jobs", "key"] => Some(Route::Jobs(Page::Key)),
        ["v1", "jobs", id] => Some(Route::Jobs(Page::One((*id).to_owned()))),
        ["v1", "jobs", id, "result"] => Some(Route::Jobs(Page::Result((*id).to_owned()))),
        ["v1", "receipts", rest @ ..] => of_receipts(rest).map(Route::Receipts),
        ["v1", "embeddings"] => Some(Route::Embeddings),
        ["v1", "purge"] => Some(Route::Purge),
        ["v1", "node"] => Some(Route::Node),
        ["v1", "usage"] => Some(Route::Usage),
        ["v1", "checkpoints"] => Some(Route::Checkpoints),
        ["metrics"] => Some(Route::Metrics),
        _ => None,
    };
    let route = route.ok_or_else(|| {
        let message = "no such page: inference is at /v2/models/NAME/infer, all pages are in /v2/openapi.json";
        Problem::not_found(message.to_owned())
    })?;
    let allow = methods(&route, segments.last().copied().unwrap_or_default());
    if allow.split(',').any(|allowed| allowed.trim_start() == method.as_str()) {
        return Ok(route);
    }
    let method = cut(method.as_str());
    let message = format!("{method} is not answered here, use {allow}");
    let status = StatusCode::METHOD_NOT_ALLOWED;
    Err(Problem::new(status, "method_not_allowed", message, Outcome::BadRequest).with("allow", allow))
}

fn target(name: &str, version: Option<&str>) -> Target {
    Target {
        name: name.to_owned(),
        version: version.map(str::to_owned),
    }
}

fn of_model(target: Target, rest: &[&str]) -> Option<Route> {
    Some(match rest {
        [] => Route::Model(target),
        ["ready"] => Route::ModelReady(target),
        ["infer"] => Route::Infer(target),
        ["generate"] => Route::Generate(target),
        ["generate_stream"] => Route::GenerateStream(target),
        ["config"] => Route::Config(target),
        ["stats"] => Route::Stats(Some(target)),
        _ => return None,
    })
}

fn of_receipts(rest: &[&str]) -> Option<receipts::Page> {
    Some(match rest {
        ["key"] => receipts::Page::Key,
        ["checkpoint"] => receipts::Page::File(rest.join("/")),
        ["tile", _, place @ ..] if (1..=TILE_SEGMENTS_MAX).contains(&place.len()) => {
            receipts::Page::File(rest.join("/"))
        }
        [id] => receipts::Page::One((*id).to_owned()),
        _ => return None,
    })
}

fn manage(rest: &[&str]) -> Option<Manage> {
    Some(match rest {
        ["repository", "index"] => Manage::Index,
        ["repository", "models", name, "load"] => Manage::Load((*name).to_owned()),
        ["repository", "models", name, "unload"] => Manage::Unload((*name).to_owned()),
        ["trace", "setting"] => Manage::Trace(None),
        ["logging"] => Manage::Logging,
        ["systemsharedmemory" | "cudasharedmemory", "status"] => Manage::MemoryStatus,
        ["systemsharedmemory" | "cudasharedmemory", "unregister"]
        | [
            "systemsharedmemory" | "cudasharedmemory",
            "region",
            _,
            "status" | "register" | "unregister",
        ] => Manage::MemoryRegion,
        _ => return None,
    })
}

/// The methods of `route`, whose path ends in `last`.
fn methods(route: &Route, last: &str) -> &'static str {
    match route {
        Route::Infer(_) | Route::Generate(_) | Route::GenerateStream(_) | Route::Embeddings => "POST",
        Route::Purge | Route::Checkpoints => "POST",
        Route::Manage(Manage::Trace(_) | Manage::Logging) => "GET, HEAD, POST",
        Route::Manage(Manage::MemoryRegion) if last != "status" => "POST",
        Route::Manage(Manage::Index | Manage::Load(_) | Manage::Unload(_)) => "POST",
        Route::Jobs(Page::One(_)) => "GET, HEAD, DELETE",
        _ => "GET, HEAD",
    }
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
            ("/v2/models/m/versions/3/config", true, false),
            ("/v2/models/m/stats", true, false),
            ("/v2/models/stats", true, false),
            ("/v2/models/m/generate", false, true),
            ("/v2/models/m/versions/3/generate_stream", false, true),
            ("/v2/models/m/trace/setting", true, true),
            ("/v2/trace/setting", true, true),
            ("/v2/logging", true, true),
            ("/v2/repository/index", false, true),
            ("/v2/repository/models/m/load", false, true),
            ("/v2/repository/models/m/unload", false, true),
            ("/v2/systemsharedmemory/status", true, false),
            ("/v2/cudasharedmemory/region/r/status", true, false),
            ("/v2/cudasharedmemory/region/r/register", false, true),
            ("/v2/systemsharedmemory/unregister", false, true),
            ("/v2/models/m/versions/3/trace/setting", false, false),
            ("/v2/repository", false, false),
            ("/v2/models/m/versions/3/infer", false, true),
            ("/v1/embeddings", false, true),
            ("/v1/jobs", true, false),
            ("/v1/jobs/key", true, false),
            ("/v1/jobs/r:n:00/result", true, false),
            ("/v1/jobs/r:n:00/other", false, false),
            ("/v1/receipts/key", true, false),
            ("/v1/receipts/r:n:0-00", true, false),
            ("/v1/receipts/checkpoint", true, false),
            ("/v1/receipts/tile/0/x001/x234/067.p/5", true, false),
            ("/v1/receipts/tile/0", false, false),
            ("/v1/receipts", false, false),
            ("/v1/purge", false, true),
            ("/v1/node", true, false),
            ("/v1/usage", true, false),
            ("/v1/checkpoints", false, true),
            ("/metrics", true, false),
            ("/v2/", false, false),
            ("/", false, false),
            ("//v2", false, false),
            ("/v2/models/m/infer/", false, false),
            ("/v2/models/m/../infer", false, false),
            ("/v2/models/m/versions/3/trace/setting/a/b", false, false),
            ("/v2/cudasharedmemory/region/r/register/a/b/c", false, false),
            ("/v1/receipts/tile/0/x000/x001/x234/067/5/6/7", false, false),
        ] {
            assert_eq!(of(&Method::GET, path).is_ok(), get, "GET {path}");
            assert_eq!(of(&Method::POST, path).is_ok(), post, "POST {path}");
            assert!(of(&Method::DELETE, path).is_err(), "DELETE {path}");
        }
    }
}
