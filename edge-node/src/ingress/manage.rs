//! The calls that would change a Triton: repository, traces, logs, shared memory. A node serves what signed releases say
//! and is set up by its operator, so clients see how things are, and a wish for a change is refused with the reason.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};
use proto::limits::{INFER_BODY_MS_MAX, MANAGE_BODY_BYTES_MAX};
use proto::oip::grpc::{LogChoice, LogSettings, ModelIndex, RepositoryModelRequest, TraceSettings};
use runtime::https::Unread;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::auth::Caller;
use super::grpc::pages;
use super::reply::{self, Problem};
use super::route::Target;
use super::{Answer, Door, body};
use crate::metrics::Outcome;

/// A call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Manage {
    Index,
    Load(String),
    Unload(String),
    Trace(Option<Target>),
    Logging,
    MemoryStatus,
    /// One region by name: its status, or registering or unregistering it.
    MemoryRegion,
}

#[derive(Default, Deserialize)]
struct IndexAsked {
    #[serde(default)]
    ready: bool,
}

#[derive(Default, Deserialize)]
struct LoadAsked {
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
}

#[derive(Serialize)]
struct Indexed {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    state: String,
    reason: String,
}

/// Answers `call` to whoever is known.
pub(super) async fn answer(
    door: &Door,
    call: &Manage,
    request: &Request<()>,
    body: &mut Unread,
) -> Result<Answer, Problem> {
    let set = door.parts.serving.load();
    Caller::of(request, &set).known()?;
    let asked = if request.method() == http::Method::POST {
        read(door, request.headers(), body, MANAGE_BODY_BYTES_MAX).await?
    } else {
        Vec::new()
    };
    match call {
        Manage::Index => {
            let models = pages::index(&set, parsed::<IndexAsked>(&asked)?.ready).models;
            let models: Vec<Indexed> = models.into_iter().map(indexed).collect();
            Ok(reply::json(&models))
        }
        Manage::Load(model) => {
            let parameters = parsed::<LoadAsked>(&asked)?.parameters;
            if let Some(name) = parameters.keys().next() {
                return Err(changed(name));
            }
            pages::load(&set, of_model(model))?;
            Ok(reply::empty(StatusCode::OK))
        }
        Manage::Unload(model) => {
            parsed::<LoadAsked>(&asked)?;
            pages::unload(&set, of_model(model))?;
            Ok(reply::empty(StatusCode::OK))
        }
        Manage::Trace(target) => {
            if let Some(target) = target {
                target.find(&set)?;
            }
            unchanged(&asked)?;
            trace()
        }
        Manage::Logging => {
            unchanged(&asked)?;
            logging()
        }
        Manage::MemoryStatus => Ok(reply::json(&[(); 0])),
        Manage::MemoryRegion => {
            let message = "this node shares no memory with its clients: send and take tensors in bodies";
            let status = StatusCode::NOT_IMPLEMENTED;
            Err(Problem::new(status, "not_implemented", message, Outcome::BadRequest))
        }
    }
}

/// A short body, unpacked.
pub(super) async fn read(
    door: &Door,
    headers: &HeaderMap,
    body: &mut Unread,
    bytes_max: usize,
) -> Result<Vec<u8>, Problem> {
    let encoding = body::encoding(headers)?;
    let time = Duration::from_millis(INFER_BODY_MS_MAX);
    let received = body::read(&door.room, body.take(), bytes_max, time).await?;
    let received = received.ok_or_else(body::timeout)?;
    Ok(body::unpack(received, encoding, bytes_max)?.bytes.to_vec())
}

/// An object; no body is an empty one.
fn parsed<'a, T: Deserialize<'a> + Default>(asked: &'a [u8]) -> Result<T, Problem> {
    if asked.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    if asked.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Problem::bad_request("the body is not a JSON object"));
    }
    serde_json::from_slice(asked).map_err(|error| Problem::bad_request(format!("failed to read the body: {error}")))
}

/// Settings may be asked for by an empty wish; any other is refused.
fn unchanged(asked: &[u8]) -> Result<(), Problem> {
    let wished: BTreeMap<String, Value> = parsed(asked)?;
    wished.keys().next().map_or(Ok(()), |name| Err(changed(name)))
}

fn changed(name: &str) -> Problem {
    let name: String = name.chars().take(64).filter(|c| !c.is_control()).collect();
    pages::forbidden(format!(
        "`{name}` is set by this node's configuration and signed releases: ask its operator"
    ))
}

fn of_model(model: &str) -> RepositoryModelRequest {
    RepositoryModelRequest {
        model_name: model.to_owned(),
        ..RepositoryModelRequest::default()
    }
}

fn indexed(model: ModelIndex) -> Indexed {
    Indexed {
        name: model.name,
        version: model.version,
        state: model.state,
        reason: model.reason,
    }
}

/// The level is a list and everything else a text, as Triton writes them.
fn trace() -> Result<Answer, Problem> {
    let settings = pages::trace(&TraceSettings::default())?.settings;
    let told = settings.into_iter().map(|(name, setting)| {
        let value = if name == "trace_level" {
            Value::from(setting.value)
        } else {
            Value::from(setting.value.join(","))
        };
        (name, value)
    });
    Ok(reply::json(&told.collect::<BTreeMap<_, _>>()))
}

fn logging() -> Result<Answer, Problem> {
    let settings = pages::log(&LogSettings::default())?.settings;
    let told = settings.into_iter().map(|(name, setting)| {
        let value = match setting.choice {
            Some(LogChoice::Bool(on)) => Value::from(on),
            Some(LogChoice::Uint32(level)) => Value::from(level),
            Some(LogChoice::String(text)) => Value::from(text),
            None => Value::Null,
        };
        (name, value)
    });
    Ok(reply::json(&told.collect::<BTreeMap<_, _>>()))
}
