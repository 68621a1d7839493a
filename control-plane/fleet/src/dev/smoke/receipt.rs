//! That an answer through the router can have a receipt, and that the two logs bear it out.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use proto::receipt::Promise;

use super::{MODEL, SAMPLE, until};
use crate::audit::{Held, receipt};
use crate::dev::layout::REGIONS;
use crate::dev::world::World;
use crate::home::Home;

pub(super) async fn borne_out(world: &World) -> Result<String> {
    let [region, ..] = &REGIONS;
    let client = world.through_router(region.client, "world")?;
    let request = http::Request::post(format!("/v2/models/{MODEL}/infer")).header("meridian-receipt", "?1");
    let question = Bytes::from_static(SAMPLE.as_bytes());
    let answer = client.send(request, question.clone()).await?;
    ensure!(answer.status.is_success(), "answered {}", answer.status);
    let promise = answer.header("meridian-receipt").to_owned();
    let id = Promise::read(&promise).context("read the promise")?.id;
    let proof = until("the receipt to be in the node's log", async || {
        let page = client.get(&format!("/v1/receipts/{id}")).await?;
        ensure!(page.status.is_success(), "answered {}", page.status);
        Ok(String::from_utf8(page.body.to_vec())?)
    })
    .await?;
    let home = Home::open(&world.folders.home())?;
    let copy = tempfile::tempdir()?;
    crate::export::log(&home, copy.path()).await?;
    let held = Held {
        promise: Some(promise),
        proof: Some(proof),
        question: Some(question.to_vec()),
        answer: Some(answer.body.to_vec()),
    };
    let seen = receipt(copy.path(), &home.trust.log_vkey, &held)?;
    ensure!(seen.is_good() && seen.logged.is_some(), "{seen}");
    Ok(format!("{} signed for {}@{}", seen.node, seen.model, seen.version))
}
