//! The calls that are about servers and models. Each takes one short message and answers one.

use std::collections::HashMap;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use prost::Message;
use proto::limits::GRPC_PAGE_BYTES_MAX;
use proto::oip::grpc::{
    LogChoice, LogSettings, LogValue, ModelConfigResponse, ModelIndex, ModelReadyResponse, ModelRequest,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelRequest, ServerLiveResponse,
    ServerMetadataResponse, ServerReadyResponse, TraceSettings, TraceValue,
};
use runtime::https::{Body, Unread};

use super::super::auth::Caller;
use super::super::reply::Problem;
use super::super::route::Target;
use super::super::{Door, deadline, metadata, status};
use super::messages::Messages;
use super::{model, statistics, unimplemented, wire};
use crate::metrics::Outcome;
use crate::serving::{ModelSlot, ServingSet};

/// Answers `call`. All but the first three are for those who are known.
pub(super) async fn answer(
    door: &Door,
    call: &str,
    request: &Request<()>,
    body: &mut Unread,
) -> Result<Response<Body>, Problem> {
    let parts = &door.parts;
    let set = parts.serving.load();
    if !matches!(call, "ServerLive" | "ServerReady" | "ServerMetadata") {
        Caller::of(request, &set).known()?;
    }
    if !CALLS.contains(&call) {
        return Err(unknown(call));
    }
    let messages = Messages::of(door, request.headers(), body, GRPC_PAGE_BYTES_MAX)?;
    let message = messages.only(deadline::of_call(request.headers())?.time).await?;
    let asked = message.unpack(GRPC_PAGE_BYTES_MAX)?.bytes;
    let mut out = wire::message();
    let written = match call {
        "ServerLive" => ServerLiveResponse { live: true }.encode(&mut out),
        "ServerReady" => {
            let ready = status::ready(parts).is_ok();
            ServerReadyResponse { ready }.encode(&mut out)
        }
        "ServerMetadata" => server().encode(&mut out),
        "ModelReady" => {
            let ready = target(&asked)?.find(&set).is_ok();
            ModelReadyResponse { ready }.encode(&mut out)
        }
        "ModelMetadata" => model::metadata(target(&asked)?.find(&set)?).encode(&mut out),
        "ModelConfig" => {
            let config = Some(model::config(target(&asked)?.find(&set)?));
            ModelConfigResponse { config }.encode(&mut out)
        }
        "ModelStatistics" => statistics::of(asked_of(&set, &asked)?.into_iter()).encode(&mut out),
        "RepositoryIndex" => index(&set, read::<RepositoryIndexRequest>(&asked)?.ready).encode(&mut out),
        "RepositoryModelLoad" => load(&set, read(&asked)?).map(|()| Ok(()))?,
        "RepositoryModelUnload" => unload(&set, read(&asked)?).map(|()| Ok(()))?,
        "TraceSetting" => trace(&read(&asked)?)?.encode(&mut out),
        _ => log(&read(&asked)?)?.encode(&mut out),
    };
    written.expect("memory takes what is written");
    Ok(wire::whole(wire::framed(out, false)?, false))
}

/// What is answered here.
const CALLS: [&str; 12] = [
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "TraceSetting",
    "LogSettings",
];

fn unknown(call: &str) -> Problem {
    if call.contains("SharedMemory") {
        let message = "this node shares no memory with its clients: send and take tensors in the messages";
        return unimplemented(message);
    }
    let call: String = call.chars().take(64).collect();
    unimplemented(format!("`{call}` is not answered here"))
}

fn read<M: Message + Default>(asked: &[u8]) -> Result<M, Problem> {
    M::decode(asked).map_err(|error| Problem::bad_request(error.to_string()))
}

fn target(asked: &[u8]) -> Result<Target, Problem> {
    let ModelRequest { name, version } = read(asked)?;
    Ok(Target::of(name, version))
}

/// The model that is named, or all.
fn asked_of<'s>(set: &'s ServingSet, asked: &[u8]) -> Result<Vec<&'s ModelSlot>, Problem> {
    let ModelRequest { name, version } = read(asked)?;
    if name.is_empty() {
        return Ok(set.models.values().map(Arc::as_ref).collect());
    }
    Ok(vec![Target::of(name, version).find(set)?])
}

fn server() -> ServerMetadataResponse {
    let server = metadata::server();
    ServerMetadataResponse {
        name: server.name.to_owned(),
        version: server.version.to_owned(),
        extensions: server.extensions.map(str::to_owned).to_vec(),
    }
}

/// The models of this node: those that answer, and unless only those are asked for, those that will.
pub(in super::super) fn index(set: &ServingSet, ready: bool) -> RepositoryIndexResponse {
    let serving = set.models.values().map(|slot| ModelIndex {
        name: slot.release.model.to_string(),
        version: slot.release.version.to_string(),
        state: "READY".to_owned(),
        reason: String::new(),
    });
    let awaited = set
        .awaited
        .iter()
        .filter(|name| !ready && !set.models.contains_key(*name));
    let awaited = awaited.map(|name| ModelIndex {
        name: name.to_string(),
        version: String::new(),
        state: "UNAVAILABLE".to_owned(),
        reason: "on its way to this node, or refused by it".to_owned(),
    });
    let mut models: Vec<ModelIndex> = serving.chain(awaited).collect();
    models.sort_by(|a, b| a.name.cmp(&b.name));
    RepositoryIndexResponse { models }
}

/// A model that is loaded need not be loaded; no other can be, by a client.
pub(in super::super) fn load(set: &ServingSet, asked: RepositoryModelRequest) -> Result<(), Problem> {
    let target = Target::of(asked.model_name, String::new());
    target.find(set).map(|_| ())
}

/// A model that is not here need not be unloaded; every other is here since a signed release says so.
pub(in super::super) fn unload(set: &ServingSet, asked: RepositoryModelRequest) -> Result<(), Problem> {
    if Target::of(asked.model_name, String::new()).find(set).is_err() {
        return Ok(());
    }
    let message = "signed releases alone say which models this node serves: none is unloaded by a client";
    Err(forbidden(message))
}

pub(in super::super) fn forbidden(message: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", message, Outcome::Unauthorized)
}

/// Traces go where the operator sends them; clients see that no files are written for them.
pub(in super::super) fn trace(asked: &TraceSettings) -> Result<TraceSettings, Problem> {
    if !asked.settings.is_empty() {
        return Err(forbidden(
            "traces are set up in this node's configuration: ask its operator",
        ));
    }
    let value = |text: &str| TraceValue {
        value: vec![text.to_owned()],
    };
    let settings = [("trace_level", "OFF"), ("trace_mode", "opentelemetry")];
    Ok(TraceSettings {
        settings: settings.map(|(name, text)| (name.to_owned(), value(text))).into(),
        model_name: asked.model_name.clone(),
    })
}

pub(in super::super) fn log(asked: &LogSettings) -> Result<LogSettings, Problem> {
    if !asked.settings.is_empty() {
        return Err(forbidden(
            "logs are set up in this node's configuration: ask its operator",
        ));
    }
    let settings = [
        ("log_file", LogChoice::String(String::new())),
        ("log_info", LogChoice::Bool(true)),
        ("log_warning", LogChoice::Bool(true)),
        ("log_error", LogChoice::Bool(true)),
        ("log_verbose_level", LogChoice::Uint32(0)),
        ("log_format", LogChoice::String("default".to_owned())),
    ];
    let settings = settings.map(|(name, choice)| (name.to_owned(), LogValue { choice: Some(choice) }));
    Ok(LogSettings {
        settings: HashMap::from(settings),
    })
}
