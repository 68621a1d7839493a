//! `fleet cache purge`: every node forgets what was named, or is named itself.
//!
//! Each node has its own keys, so each is asked. One that does not answer keeps what it has, and whoever asked has to
//! know: the command then fails, and says whom to ask again.

use anyhow::{Result, bail};
use clap::Args;
use futures_util::future::join_all;
use proto::ids::{ModelName, NodeId, RegionId, TenantId};
use proto::purge::{PurgeRequest, Purged, Subject};
use serde::Serialize;

use crate::home::Home;
use crate::observe::enrolled;
use crate::observe::pages::Pages;
use crate::output::{self, BAD, GOOD, paint, say, table};

/// `fleet cache purge ..`
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["tenant", "model", "subject", "all"])))]
#[command(
    after_help = "Examples:\n  fleet cache purge --tenant acme --subject p-7f3a    what is kept about one person\n  \
    fleet cache purge --model magika --region eu-fra    one model's answers, in one region\n  \
    fleet cache purge --all                             everything\n\n\
    Exits 1 if a node did not answer: it still has what it had. Ask again once it is up."
)]
pub struct PurgeArgs {
    /// Answers to this tenant
    #[arg(long)]
    pub tenant: Option<TenantId>,
    /// Answers of this model; with a person all of theirs, of whatever model
    #[arg(long)]
    pub model: Option<ModelName>,
    /// Answers about this person, by the tenant's own word (the header Meridian-Subject); by the environment, where no
    /// list of processes shows it
    #[arg(
        long,
        requires = "tenant",
        env = "MERIDIAN_SUBJECT",
        hide_env_values = true,
        value_name = "ID"
    )]
    pub subject: Option<Subject>,
    /// All answers
    #[arg(long, conflicts_with_all = ["tenant", "model", "subject"])]
    pub all: bool,
    /// Only on nodes of this region
    #[arg(long)]
    pub region: Option<RegionId>,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    purged: Vec<Done>,
    missing: Vec<Missing>,
}

#[derive(Debug, Serialize)]
struct Done {
    node: NodeId,
    #[serde(flatten)]
    purged: Purged,
}

#[derive(Debug, Serialize)]
struct Missing {
    node: NodeId,
    why: String,
}

/// Asks all nodes at once and shows what each said.
///
/// # Errors
/// No node is enrolled there, or one of them did not do it.
pub async fn run(args: &PurgeArgs, home: &Home, as_json: bool) -> Result<()> {
    let mut nodes = enrolled(home).await?;
    nodes.retain(|node| args.region.as_ref().is_none_or(|region| node.node.region == *region));
    if nodes.is_empty() {
        bail!("no node is enrolled there: see `fleet status`");
    }
    let asked = PurgeRequest {
        tenant: args.tenant.clone(),
        model: args.model.clone(),
        subject: args.subject.clone(),
    };
    let pages = Pages::new(home)?;
    let answers = join_all(nodes.iter().map(|node| pages.post::<Purged>(node, "/v1/purge", &asked))).await;
    let mut report = Report {
        purged: Vec::new(),
        missing: Vec::new(),
    };
    for (status, answer) in nodes.into_iter().zip(answers) {
        let node = status.node;
        match answer {
            Ok(purged) => report.purged.push(Done { node, purged }),
            Err(why) => report.missing.push(Missing {
                node,
                why: format!("{why:#}"),
            }),
        }
    }
    if as_json {
        output::json(&report);
    } else {
        say(&format!("{}\n\n{}", told(&asked), shown(&report)));
    }
    match report.missing.len() {
        0 => Ok(()),
        missing => bail!("{missing} of the nodes did not forget: ask again once they answer"),
    }
}

/// What was asked for, as a sentence.
fn told(asked: &PurgeRequest) -> String {
    match (&asked.tenant, &asked.model, &asked.subject) {
        (Some(tenant), _, Some(_)) => format!("all answers to {tenant} about this person"),
        (Some(tenant), Some(model), None) => format!("all answers of {model} to {tenant}"),
        (Some(tenant), None, None) => format!("all answers to {tenant}"),
        (None, Some(model), _) => format!("all answers of {model}"),
        (None, None, _) => "all answers".to_owned(),
    }
}

fn shown(report: &Report) -> String {
    let head = ["node", "in memory", "keys on disk", "state"];
    let done = report.purged.iter().map(|done| {
        vec![
            done.node.to_string(),
            done.purged.memory_entries.to_string(),
            done.purged.disk_keys.to_string(),
            paint(GOOD, "forgotten"),
        ]
    });
    let missing = report.missing.iter().map(|missing| {
        let why = paint(BAD, &missing.why);
        vec![missing.node.to_string(), "-".to_owned(), "-".to_owned(), why]
    });
    table(&head, &done.chain(missing).collect::<Vec<_>>(), &head[1..3])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn typed(words: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(format!("fleet cache purge {words}").split_whitespace())
    }

    #[test]
    fn nobody_purges_everything_by_leaving_words_out() {
        for fine in [
            "--all",
            "--all --region eu-fra",
            "--tenant a",
            "--model m",
            "--tenant a --subject p --model m",
        ] {
            typed(fine).unwrap();
        }
        for wrong in ["", "--region eu-fra", "--subject p", "--all --tenant a", "--tenant A!"] {
            assert!(typed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_did_not_forget_stands_in_the_table_with_the_reason() {
        let node = |name: &str| name.parse().unwrap();
        let purged = Purged {
            memory_entries: 31,
            disk_keys: 1,
        };
        let report = Report {
            purged: vec![Done {
                node: node("eu-fra/n1"),
                purged,
            }],
            missing: vec![Missing {
                node: node("us-iad/n1"),
                why: "does not answer".to_owned(),
            }],
        };
        let text = shown(&report);
        assert!(text.contains("31") && text.contains("us-iad/n1"), "{text}");
        assert!(text.contains("does not answer"), "{text}");
        assert_eq!(serde_json::to_value(&report).unwrap()["purged"][0]["disk_keys"], 1);
    }
}
