//! What an operator says of jobs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::limits::INFER_BODY_BYTES_MAX;
use runtime::config::{ConfigError, relative_to};

use super::within;
use crate::jobs::JobsConfig;
use crate::jobs::ledger::Bounds;
use crate::jobs::webhook::Allowed;

runtime::config_file! {
    /// Answers for those who do not wait.
    #[derive(PartialEq)]
    #[serde(default)]
    pub struct JobsFile {
        /// Jobs that are kept, finished ones included, 2 to 1000000; 0 keeps none: `Prefer: respond-async` means nothing then.
        /// One tenant has at most half of these and of the bytes.
        pub count_max: usize = optional 10_000,
        /// Bytes of bodies and answers, from four request bodies (134217728) on.
        pub disk_bytes: u64 = optional 1_073_741_824,
        /// Jobs that are run at the same time while nobody waits, 1 to 64.
        pub at_once: usize = optional 4,
        /// How long a job may wait for its answer, seconds, 1 to 2592000.
        pub queue_ttl_s: u64 = optional 86_400,
        /// How long a finished job is kept, seconds, 1 to 2592000.
        pub result_ttl_s: u64 = optional 86_400,
        /// Where webhooks may be sent: these addresses and what lies below their paths. Without any there are no webhooks.
        pub webhooks: Vec<String> = optional ["https://hooks.example/meridian/"],
        /// Authorities that certificates of webhook receivers may come from.
        pub webhook_ca: PathBuf = optional "/etc/ssl/certs/ca-certificates.crt",
    }
}

impl Default for JobsFile {
    fn default() -> Self {
        Self {
            count_max: 10_000,
            disk_bytes: 1 << 30,
            at_once: 4,
            queue_ttl_s: 86_400,
            result_ttl_s: 86_400,
            webhooks: Vec::new(),
            webhook_ca: "/etc/ssl/certs/ca-certificates.crt".into(),
        }
    }
}

/// Checks the table of the file at `path`; `None` where no jobs are kept.
pub(super) fn checked(file: &JobsFile, path: &Path, folder: PathBuf) -> Result<Option<JobsConfig>, ConfigError> {
    if file.count_max == 0 {
        return Ok(None);
    }
    within("jobs.count-max", file.count_max, 2, 1_000_000)?;
    let body = u64::try_from(INFER_BODY_BYTES_MAX).unwrap_or(u64::MAX);
    within("jobs.disk-bytes", file.disk_bytes, 4 * body, u64::MAX)?;
    within("jobs.at-once", file.at_once, 1, 64)?;
    within("jobs.queue-ttl-s", file.queue_ttl_s, 1, 2_592_000)?;
    within("jobs.result-ttl-s", file.result_ttl_s, 1, 2_592_000)?;
    let allowed = |text: &String| {
        Allowed::parse(text).map_err(|why| ConfigError::Value {
            key: "jobs.webhooks",
            reason: format!("{text:?} {why}"),
        })
    };
    let webhooks: Result<Vec<Allowed>, ConfigError> = file.webhooks.iter().map(allowed).collect();
    Ok(Some(JobsConfig {
        bounds: Bounds {
            count_max: file.count_max,
            bytes_max: file.disk_bytes,
            queue_ttl: Duration::from_secs(file.queue_ttl_s),
            result_ttl: Duration::from_secs(file.result_ttl_s),
        },
        at_once: file.at_once,
        webhooks: webhooks?,
        webhook_ca: relative_to(path, &file.webhook_ca),
        folder,
    }))
}
