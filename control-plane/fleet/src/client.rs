//! Talking to the control plane as an operator: questions over QUIC, signed commands, and the read-only HTTPS API.

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer;
use proto::entry::{Body, Leaf, command_message};
use proto::ids::PrincipalName;
use proto::message::{ErrorCode, Request, Response};
use proto::note;
use runtime::identity::Role;
use serde_json::value::RawValue;

use crate::home::Home;

/// How often a command is signed again because the log grew in between.
const COMMAND_TRIES: usize = 20;

/// A connection to the control plane in an operator's name.
pub struct Session {
    /// Who and whom.
    pub home: Home,
    connection: runtime::quic::Connection,
}

/// Where a command came to stand.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Index in the log.
    pub index: u64,
    /// The checkpoint that holds it.
    pub checkpoint: String,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// The control plane does not answer, or not as the one that this home trusts.
    pub async fn connect(home: Home) -> Result<Self> {
        let address = home.endpoints.control_plane;
        let connection = runtime::quic::connect(address, "control-plane", &home.identity)
            .await
            .with_context(|| format!("the control plane does not answer at {address}; is it running?"))?;
        Ok(Self { home, connection })
    }

    /// Asks one question.
    ///
    /// # Errors
    /// The connection broke, or the control plane refused; its sentence is kept.
    pub async fn ask(&self, request: &Request) -> Result<Response> {
        match self
            .connection
            .ask(request)
            .await
            .context("the control plane went away")?
        {
            Response::Error { message, .. } => bail!("the control plane refused: {message}"),
            answer => Ok(answer),
        }
    }

    /// The connection itself, for streams of several messages.
    #[must_use]
    pub fn connection(&self) -> &runtime::quic::Connection {
        &self.connection
    }

    /// The name under which this operator speaks.
    ///
    /// # Errors
    /// The home folder belongs to somebody who is not an operator.
    pub fn operator(&self) -> Result<PrincipalName> {
        match &self.home.identity.role {
            Role::Operator(name) => Ok(name.clone()),
            other => bail!("{other} is not an operator: only operators may change the fleet"),
        }
    }

    /// Size of the log by its newest checkpoint, whose signature is checked.
    ///
    /// # Errors
    /// No answer, or a checkpoint that the trusted log did not sign.
    pub async fn epoch(&self) -> Result<u64> {
        let Response::Checkpoint(text) = self.ask(&Request::Checkpoint).await? else {
            bail!("the control plane answered something else than a checkpoint");
        };
        Ok(note::open_checkpoint(&text, &self.home.trust.log_vkey)?.size)
    }

    /// Signs `body` for the log's present end and appends it. Where the log grew meanwhile it is signed again.
    ///
    /// # Errors
    /// Refused, or the log grew too fast.
    pub async fn command(&self, body: &Body) -> Result<Logged> {
        let by = self.operator()?;
        let text = body.to_json();
        let key = self.home.identity.signing_key();
        for _ in 0..COMMAND_TRIES {
            let message = command_message(&self.home.trust.fleet, self.epoch().await?, &text);
            let sig = Some(STANDARD.encode(key.sign(&message).to_bytes()));
            let leaf = Leaf {
                time: 0,
                by: by.clone(),
                sig,
                body: RawValue::from_string(text.clone())?,
            };
            let leaf = String::from_utf8(leaf.encode()?)?;
            match self
                .connection
                .ask(&Request::Command { leaf })
                .await
                .context("the control plane went away")?
            {
                Response::Logged { index, checkpoint } => return Ok(Logged { index, checkpoint }),
                Response::Error {
                    code: ErrorCode::Conflict,
                    message,
                } if message.contains("sign") => {
                    tracing::debug!(%message, "the log grew: signing again");
                }
                Response::Error { message, .. } => bail!("the control plane refused `{}`: {message}", body.kind()),
                _ => bail!("the control plane answered something else than a log position"),
            }
        }
        bail!(
            "the log grew {COMMAND_TRIES} times while `{}` was being signed: try again",
            body.kind()
        )
    }
}
