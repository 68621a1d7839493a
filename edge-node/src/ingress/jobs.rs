//! Jobs over HTTP: `Prefer: respond-async` (RFC 7240) on an inference request, and the pages about what became of it.
//!
//! Only the tenant that submitted a job sees it, and only where its boundary holds the node: for anybody else there is no
//! such job.

mod run;

use http::header::{CACHE_CONTROL, CONTENT_ENCODING, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use proto::ids::{ContentHash, TenantId};
use proto::jobs::{JobId, JobKey, is_idempotency_key, prefers_async};
use proto::limits::{IDEMPOTENCY_KEY_BYTES_MAX, JOBS_LISTED_MAX};
use serde::Serialize;

use super::infer::{self, Admitted, Question, SUBJECT};
use super::receipts;
use super::reply::{self, Problem};
use super::rest::Sent;
use super::route::Target;
use super::{Answer, Door};
use crate::jobs::record::{Ask, Progress, Record, State, Twin};
use crate::jobs::{Jobs, Submission, SubmitError, chain, webhook};
use crate::metrics::Outcome;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const WEBHOOK: &str = "meridian-webhook";
/// How long a client should wait before it asks again, seconds.
const ASK_AGAIN_S: &str = "1";
/// How long it should wait where there is no room for another job: some must expire or be deleted.
const FULL: std::time::Duration = std::time::Duration::from_secs(30);

/// A page about jobs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// All of the tenant.
    List,
    /// One: its state, or its end.
    One(String),
    /// Its answer.
    Result(String),
    /// The key that webhooks are signed by.
    Key,
}

/// A job, as clients read it.
#[derive(Debug, Serialize)]
struct Told {
    id: String,
    state: &'static str,
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    attempts: u32,
    created_ms: u64,
    expires_ms: u64,
    location: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<TroubleTold>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<HookTold>,
}

#[derive(Debug, Serialize)]
struct TroubleTold {
    status: u16,
    code: String,
    error: String,
}

#[derive(Debug, Serialize)]
struct HookTold {
    state: &'static str,
    attempts: u32,
}

#[derive(Debug, Serialize)]
struct ListTold {
    jobs: Vec<Told>,
    total: usize,
}

fn told(jobs: &Jobs, key: JobKey, record: Record) -> Told {
    let id = jobs.id(key).to_string();
    let location = format!("/v1/jobs/{id}");
    Told {
        state: record.state.word(),
        model: record.ask.model,
        version: record.ask.version,
        attempts: record.attempts,
        created_ms: record.created,
        expires_ms: record.expires,
        result: (record.state == State::Done).then(|| format!("{location}/result")),
        error: record.trouble.map(|trouble| TroubleTold {
            status: trouble.status,
            code: trouble.code,
            error: trouble.message,
        }),
        webhook: record.hook.map(|hook| HookTold {
            state: match hook.progress {
                Progress::Idle | Progress::Due(_) => "waiting",
                Progress::Sent => "sent",
                Progress::GivenUp => "given-up",
            },
            attempts: hook.attempts,
        }),
        id,
        location,
    }
}

/// What a client wants that does not wait.
#[derive(Debug)]
pub(super) struct Wish {
    idempotency_key: Option<String>,
    webhook: Option<String>,
}

impl Wish {
    /// What the head asks for; nothing where no jobs are kept: a preference may be left out.
    pub(super) fn of(door: &Door, headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut prefers = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        let (Some(jobs), true) = (&door.parts.jobs, prefers.any(prefers_async)) else {
            return Ok(None);
        };
        // What is erased of a person must lie nowhere else, and a receipt is promised in the head of an answer: what names a
        // person or asks for a receipt is answered at once.
        if headers.contains_key(SUBJECT) || receipts::asked(headers)? {
            return Ok(None);
        }
        if door.parts.draining.is_cancelled() {
            return Err(Problem::draining());
        }
        let text = |name: &str| match headers.get(name) {
            None => Ok(None),
            Some(value) => value.to_str().map(|text| Some(text.trim().to_owned())).map_err(|_| ()),
        };
        let key = text(IDEMPOTENCY_KEY)
            .ok()
            .filter(|key| key.as_deref().is_none_or(is_idempotency_key));
        let wrong = || {
            let bound = IDEMPOTENCY_KEY_BYTES_MAX;
            Problem::bad_request(format!(
                "Idempotency-Key is not 1 to {bound} printable ASCII characters"
            ))
        };
        let idempotency_key = key.ok_or_else(wrong)?;
        let webhook = text(WEBHOOK).map_err(|()| Problem::bad_request("Meridian-Webhook is not ASCII"))?;
        if let Some(url) = &webhook {
            let signed = door
                .parts
                .webhook_key
                .as_ref()
                .ok_or("is of no use: this node sends no webhooks");
            let checked = signed.and_then(|_| webhook::check(&jobs.config().webhooks, url));
            checked.map_err(|why| {
                let code = "webhook_not_allowed";
                let message = format!("Meridian-Webhook {why}");
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, message, Outcome::BadRequest)
            })?;
        }
        Ok(Some(Self {
            idempotency_key,
            webhook,
        }))
    }

    /// The job that it asks for: `sent` to `target` by `tenant`.
    pub(super) fn submission(self, target: &Target, sent: &Sent, headers: &HeaderMap, tenant: TenantId) -> Submission {
        let (model, version) = target.names();
        let encoding = headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
        let ask = Ask {
            model: model.to_owned(),
            version: version.map(str::to_owned),
            encoding: encoding.map(str::to_owned),
            json_bytes: sent.json_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
            bypass: infer::bypasses(headers),
        };
        let body = sent.received.bytes.clone();
        let twin = self.idempotency_key.map(|key| Twin {
            key: digest(&[tenant.as_str().as_bytes(), key.as_bytes()]),
            asked: digest(&[format!("{ask:?} {:?}", self.webhook).as_bytes(), &body]),
        });
        Submission {
            tenant,
            ask,
            body,
            twin,
            webhook: self.webhook,
        }
    }
}

/// A digest of `parts` that no other division into parts has.
fn digest(parts: &[&[u8]]) -> ContentHash {
    let inner: Vec<u8> = parts
        .iter()
        .flat_map(|part| *ContentHash::of(part).as_bytes())
        .collect();
    ContentHash::of(&inner)
}

/// Accepts what fits its model and is paid for. The memory of `question` is given back when the job is on disk.
pub(super) async fn accept(door: &Door, question: Question, submission: Submission) -> Result<Answer, Problem> {
    let jobs = door.parts.jobs.as_ref().ok_or_else(absent)?;
    infer::charge(door, &question)?;
    let submitted = jobs.submit(submission).await.map_err(refused)?;
    drop(question);
    let (key, record) = submitted;
    let status = if record.state.is_final() {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let told = told(jobs, key, record);
    let mut answer = reply::json(&told);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let location = HeaderValue::try_from(&told.location).expect("ids are printable ASCII");
    headers.insert(LOCATION, location);
    headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
    headers.insert("retry-after", HeaderValue::from_static(ASK_AGAIN_S));
    Ok(answer)
}

fn refused(error: SubmitError) -> Problem {
    match error {
        SubmitError::Full => {
            let message = "as many jobs are kept as may be: fetch and DELETE finished ones, or try again after the time in \
                           Retry-After";
            let status = StatusCode::SERVICE_UNAVAILABLE;
            Problem::new(status, "jobs_full", message, Outcome::QueueFull).retry_after(FULL)
        }
        SubmitError::Mismatch => {
            let message = "this Idempotency-Key came with another request before: send a new key for a new request";
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            Problem::new(status, "idempotency_mismatch", message, Outcome::BadRequest)
        }
        SubmitError::Store(_) | SubmitError::Random => {
            tracing::error!(error = chain(&error), "a job is refused");
            storage()
        }
    }
}

fn storage() -> Problem {
    let message = "the node cannot read or write its jobs: ask another one; the node's log says more";
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Problem::new(status, "storage", message, Outcome::Failed).retry_after(FULL)
}

fn absent() -> Problem {
    Problem::not_found("there is no such job here: it may have expired, or it lies on another node".to_owned())
}

/// Answers `page`.
pub(super) async fn answer(door: &Door, page: Page, request: &Request<()>) -> Result<Answer, Problem> {
    let set = door.parts.serving.load();
    if page == Page::Key {
        return key(door);
    }
    let tenant = Admitted::of(&door.parts, &set, request)?.asker.tenant;
    drop(set);
    let jobs = door.parts.jobs.as_ref().ok_or_else(absent)?;
    match page {
        Page::Key => key(door),
        Page::List => {
            let (found, total) = jobs.list(&tenant, state(request.uri().query())?, JOBS_LISTED_MAX);
            let found = found.into_iter().map(|(key, record)| told(jobs, key, record));
            Ok(reply::json(&ListTold {
                jobs: found.collect(),
                total,
            }))
        }
        Page::One(id) => {
            let (key, record) = find(jobs, &id, &tenant)?;
            if request.method() == Method::DELETE {
                jobs.forget(key).await.map_err(|error| refused(error.into()))?;
                return Ok(reply::empty(StatusCode::NO_CONTENT));
            }
            let waits = !record.state.is_final();
            let mut answer = reply::json(&told(jobs, key, record));
            if waits {
                answer
                    .headers_mut()
                    .insert("retry-after", HeaderValue::from_static(ASK_AGAIN_S));
            }
            Ok(answer)
        }
        Page::Result(id) => result(jobs, &id, &tenant).await,
    }
}

fn find(jobs: &Jobs, id: &str, tenant: &TenantId) -> Result<(JobKey, Record), Problem> {
    let key = id
        .parse::<JobId>()
        .ok()
        .and_then(|id| jobs.key(&id))
        .ok_or_else(absent)?;
    let record = jobs.get(key, tenant).ok_or_else(absent)?;
    Ok((key, record))
}

/// What the direct request would have got.
async fn result(jobs: &Jobs, id: &str, tenant: &TenantId) -> Result<Answer, Problem> {
    let (key, record) = find(jobs, id, tenant)?;
    match (record.state, record.trouble) {
        (State::Queued | State::Running, _) => {
            let message = "the job is not finished: ask again after the time in Retry-After";
            let status = StatusCode::CONFLICT;
            let problem = Problem::new(status, "job_unfinished", message, Outcome::BadRequest);
            Err(problem.with("retry-after", ASK_AGAIN_S))
        }
        (State::Failed, trouble) => {
            let trouble = trouble.ok_or_else(storage)?;
            let status = StatusCode::from_u16(trouble.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let failed = format!("the job failed ({}): {}", trouble.code, trouble.message);
            Err(Problem::new(status, "job_failed", failed, Outcome::Failed))
        }
        (State::Done, _) => {
            let kept = jobs
                .answer(key)
                .await
                .map_err(|error| refused(error.into()))?
                .ok_or_else(storage)?;
            let mut answer = Answer::new(kept.body.into());
            for (name, value) in kept.headers {
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                    answer.headers_mut().insert(name, value);
                }
            }
            Ok(answer)
        }
    }
}

fn key(door: &Door) -> Result<Answer, Problem> {
    #[derive(Serialize)]
    struct Keys<'a> {
        node: String,
        keys: [&'a str; 1],
    }
    let none = || Problem::not_found("this node sends no webhooks".to_owned());
    let key = door.parts.webhook_key.as_deref().ok_or_else(none)?;
    Ok(reply::json(&Keys {
        node: door.parts.node.to_string(),
        keys: [key],
    }))
}

/// `state=..` of a query; `dead` is another word for `failed`.
fn state(query: Option<&str>) -> Result<Option<State>, Problem> {
    let mut pairs = query.unwrap_or_default().split('&');
    let Some(word) = pairs.find_map(|pair| pair.strip_prefix("state=")) else {
        return Ok(None);
    };
    let word = if word == "dead" { State::Failed.word() } else { word };
    let wrong = || Problem::bad_request("`state` is none of queued, running, done, failed, dead");
    State::ALL
        .into_iter()
        .find(|state| state.word() == word)
        .map(Some)
        .ok_or_else(wrong)
}

/// The head of a direct request that asks the same.
fn head(ask: &Ask) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(value) = ask
        .encoding
        .as_deref()
        .and_then(|encoding| HeaderValue::from_str(encoding).ok())
    {
        headers.insert(CONTENT_ENCODING, value);
    }
    if ask.bypass {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    headers
}
