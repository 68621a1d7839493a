//! `node.toml` as written, and the configuration that cannot be wrong.

mod ingress;
mod jobs;
mod receipts;
mod rules;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::onnxruntime::Library;
use proto::ids::{ModelName, NodeClass};
use proto::limits::INFER_BODY_BYTES_MAX;
use runtime::config::{ConfigError, relative_to};
use runtime::telemetry::TelemetryFile;

use crate::batch::Rules;
use crate::batch::accounts::Payer;
use crate::batch::board::Bounds;
use crate::cache::{CacheConfig, Ttl};
use crate::ingress::rate::Rate;
use crate::jobs::JobsConfig;
use crate::memory::MemoryConfig;
use crate::receipt::ReceiptsConfig;
pub use ingress::{IngressConfig, IngressFile};
pub use jobs::JobsFile;
pub use receipts::ReceiptsFile;
use rules::{ClassesFile, TenantsFile, TtlFile};

runtime::config_file! {
    /// What `node.toml` says. Paths are relative to the file.
    pub struct NodeFile {
        /// Folder with ca.pem, cert.pem and key.pem of this node.
        pub identity: PathBuf = required "identity",
        /// Whom it believes: log key, state key, operators.
        pub trust: PathBuf = required "trust.json",
        /// Where models, accepted states and results are kept.
        pub data: PathBuf = required "data",
        /// What hardware this is: the signed plan fixes one variant of each model per class.
        pub class: NodeClass = required "cpu",
        /// The control plane's QUIC address.
        pub control_plane: String = required "127.0.0.1:7001",
        /// The door for requests.
        pub ingress: IngressFile = table,
        /// What is remembered of answers.
        #[serde(default)]
        pub cache: CacheFile = table,
        /// Answers for those who do not wait.
        #[serde(default)]
        pub jobs: JobsFile = table,
        /// Signed promises with answers.
        #[serde(default)]
        pub receipts: ReceiptsFile = table,
        /// How requests are joined.
        #[serde(default)]
        pub batch: BatchFile = table,
        /// What is promised of a model, where its clients do not say.
        #[serde(default)]
        pub classes: ClassesFile = table,
        /// What single tenants may take.
        #[serde(default)]
        pub tenants: TenantsFile = table,
        /// Which models lie in memory.
        #[serde(default)]
        pub models: ModelsFile = table,
        /// What runs models.
        #[serde(default)]
        pub engine: EngineFile = table,
        /// How the node goes.
        #[serde(default)]
        pub stop: StopFile = table,
        /// Where logs and traces go.
        #[serde(default)]
        pub telemetry: TelemetryFile = table,
    }

    /// What is remembered of answers.
    #[derive(PartialEq)]
    #[serde(default)]
    pub struct CacheFile {
        /// Bytes of answers in memory; 0 keeps none there.
        pub memory_bytes: u64 = optional 268_435_456,
        /// Bytes of decoded pictures in memory, which other models and later requests need not decode again; 0 keeps none.
        pub rows_bytes: u64 = optional 67_108_864,
        /// Bytes of disk for answers; 0 keeps none there.
        pub disk_bytes: u64 = optional 1_073_741_824,
        /// How long an answer is given again, seconds, 1 to 604800.
        pub ttl_s: u64 = optional 300,
        /// The same for embeddings, which are answers all of whose outputs have `embed` in their names, seconds, 1 to 604800.
        pub embedding_ttl_s: u64 = optional 86_400,
        /// The same for all answers of single models.
        pub ttl: TtlFile = table,
    }

    /// How requests are joined.
    #[derive(PartialEq)]
    #[serde(default)]
    pub struct BatchFile {
        /// Rows of one model that may wait before new ones get 503, 1 to 1000000.
        pub queue_rows_max: usize = optional 1024,
        /// Input bytes of all models that may wait, from one request body (33554432) on.
        pub queue_bytes_max: usize = optional 268_435_456,
        /// Longest wait for a fuller batch while a thread is idle, milliseconds, 0 to 50; never more than a fifth of the time
        /// until the deadline, and only while much comes and joining was measured to pay. With 0 requests are joined only
        /// while all threads are busy.
        pub linger_ms: u64 = optional 10,
    }

    /// Which models lie in memory.
    #[derive(Default, PartialEq)]
    #[serde(default)]
    pub struct ModelsFile {
        /// Bytes of model files that may lie in memory, from 1048576 on; no bound without it. Beyond it the least recently used
        /// leaves, and is loaded again when somebody asks whose deadline allows it.
        pub memory_bytes: Option<u64> = optional 2_000_000_000,
        /// Models that never leave.
        pub pinned: Vec<ModelName> = optional ["minilm"],
        /// Of each model that a region serves, this many of its nodes keep a copy in memory, 0 to 64: it leaves after all others, and is
        /// loaded again when a node that kept one is gone. Give all nodes of a region the same number.
        pub warm_copies: usize = optional 0,
    }

    /// What runs models.
    #[derive(Default, PartialEq)]
    #[serde(default)]
    pub struct EngineFile {
        /// Threads that run models, 1 to 256; 0 takes one for each core.
        pub threads: usize = optional 0,
        /// The library of ONNX Runtime: allows variants that run in it. `ORT_DYLIB_PATH` where this is not set. Each thread
        /// keeps a copy of such a model. Needs a node that was built with `--features onnxruntime`.
        pub onnxruntime: Option<PathBuf> = optional "/opt/onnxruntime/lib/libonnxruntime.so.1",
    }

    /// How the node goes.
    #[derive(PartialEq)]
    #[serde(default)]
    pub struct StopFile {
        /// How long it says `draining` and still answers, so that routers notice, milliseconds, 0 to 60000.
        pub notice_ms: u64 = optional 1500,
        /// How long accepted requests may then take, seconds, 1 to 600.
        pub grace_s: u64 = optional 30,
    }
}

impl Default for CacheFile {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            rows_bytes: 64 << 20,
            disk_bytes: 1 << 30,
            ttl_s: 300,
            embedding_ttl_s: 86_400,
            ttl: TtlFile::default(),
        }
    }
}
impl Default for BatchFile {
    fn default() -> Self {
        Self {
            queue_rows_max: 1_024,
            queue_bytes_max: 256 << 20,
            linger_ms: 10,
        }
    }
}
impl Default for StopFile {
    fn default() -> Self {
        Self {
            notice_ms: 1_500,
            grace_s: 30,
        }
    }
}

/// A node's configuration, checked.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Folder of the node's identity.
    pub identity: PathBuf,
    /// File of the trust bundle.
    pub trust: PathBuf,
    /// The node's data folder.
    pub data: PathBuf,
    /// What hardware this is.
    pub class: NodeClass,
    /// `host:port` of the control plane.
    pub control_plane: String,
    /// The door for requests.
    pub ingress: IngressConfig,
    /// Bounds of the result cache.
    pub cache: CacheConfig,
    /// Which models lie in memory.
    pub memory: MemoryConfig,
    /// Jobs, if they are kept.
    pub jobs: Option<JobsConfig>,
    /// Receipts, if they are given.
    pub receipts: Option<ReceiptsConfig>,
    /// Bounds of the queue, and the number of engine threads.
    pub bounds: Bounds,
    /// What is said of single models and tenants.
    pub rules: Rules,
    /// How much tenants may ask that have a bound.
    pub rates: HashMap<Payer, Rate>,
    /// Where variants may run that ask for ONNX Runtime.
    pub onnxruntime: Option<Library>,
    /// How long it says that it goes, and still answers.
    pub notice: Duration,
    /// How long accepted requests may take after that.
    pub grace: Duration,
    /// Where logs and traces go.
    pub telemetry: TelemetryFile,
}

impl NodeConfig {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`] names the key that is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut file: NodeFile = runtime::config::read(path)?;
        file.engine.onnxruntime = file.engine.onnxruntime.or_else(Library::in_environment);
        Self::checked(file, path)
    }

    /// Checks what the file at `path` says.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the key.
    pub fn checked(file: NodeFile, path: &Path) -> Result<Self, ConfigError> {
        bounds_kept(&file)?;
        let (rules, rates) = rules::checked(file.classes.clone(), file.tenants.clone())?;
        let data = relative_to(path, &file.data);
        let NodeFile {
            batch, engine, stop, ..
        } = &file;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if engine.threads == 0 { cores() } else { engine.threads };
        let onnxruntime = engine
            .onnxruntime
            .as_ref()
            .map(|library| library_at(&relative_to(path, library), threads));
        Ok(Self {
            ingress: ingress::checked(&file.ingress, path)?,
            cache: CacheConfig {
                memory_bytes: file.cache.memory_bytes,
                rows_bytes: file.cache.rows_bytes,
                disk_bytes: file.cache.disk_bytes,
                ttl: Ttl {
                    results: Duration::from_secs(file.cache.ttl_s),
                    embeddings: Duration::from_secs(file.cache.embedding_ttl_s),
                    models: rules::ttl(&file.cache.ttl)?,
                },
                folder: data.join("results"),
            },
            memory: MemoryConfig {
                bytes_max: file.models.memory_bytes,
                pinned: file.models.pinned.iter().cloned().collect(),
                warm_copies: file.models.warm_copies,
            },
            jobs: jobs::checked(&file.jobs, path, data.join("jobs"))?,
            receipts: receipts::checked(&file.receipts, data.join("receipts"))?,
            bounds: Bounds {
                rows_max: batch.queue_rows_max,
                bytes_max: batch.queue_bytes_max,
                linger: Duration::from_millis(batch.linger_ms),
                threads,
            },
            rules,
            rates,
            onnxruntime: onnxruntime.transpose()?,
            notice: Duration::from_millis(stop.notice_ms),
            grace: Duration::from_secs(stop.grace_s),
            identity: relative_to(path, &file.identity),
            trust: relative_to(path, &file.trust),
            data,
            class: file.class,
            control_plane: file.control_plane,
            telemetry: file.telemetry,
        })
    }
}

/// Refuses a number that no node could keep to.
fn bounds_kept(file: &NodeFile) -> Result<(), ConfigError> {
    let NodeFile {
        cache,
        batch,
        engine,
        stop,
        ..
    } = file;
    within("cache.ttl-s", cache.ttl_s, 1, 604_800)?;
    within("cache.embedding-ttl-s", cache.embedding_ttl_s, 1, 604_800)?;
    within("batch.queue-rows-max", batch.queue_rows_max, 1, 1_000_000)?;
    within(
        "batch.queue-bytes-max",
        batch.queue_bytes_max,
        INFER_BODY_BYTES_MAX,
        usize::MAX,
    )?;
    if let Some(bytes) = file.models.memory_bytes {
        within("models.memory-bytes", bytes, 1 << 20, u64::MAX)?;
    }
    within("models.warm-copies", file.models.warm_copies, 0, 64)?;
    within("batch.linger-ms", batch.linger_ms, 0, 50)?;
    within("engine.threads", engine.threads, 0, 256)?;
    within("stop.notice-ms", stop.notice_ms, 0, 60_000)?;
    within("stop.grace-s", stop.grace_s, 1, 600)
}

/// The library of ONNX Runtime, with a copy of each model for every engine thread: none waits for another.
fn library_at(path: &Path, threads: usize) -> Result<Library, ConfigError> {
    let library = Library::at(path).map_err(|error| ConfigError::Value {
        key: "engine.onnxruntime",
        reason: format!("is refused: {error}"),
    })?;
    Ok(library.for_calls(NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN)))
}

fn within<N: PartialOrd + Copy + std::fmt::Display>(
    key: &'static str,
    found: N,
    min: N,
    max: N,
) -> Result<(), ConfigError> {
    if !(min..=max).contains(&found) {
        return Err(ConfigError::Value {
            key,
            reason: format!("is {found}, allowed is {min} to {max}"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use runtime::config::Example;

    use super::*;

    pub(super) fn checked(text: &str) -> Result<NodeConfig, String> {
        let file = runtime::config::parse::<NodeFile>(text)?;
        NodeConfig::checked(file, Path::new("/etc/meridian/node.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn the_example_is_a_good_configuration_and_shows_the_defaults() {
        let example = NodeFile::example("");
        let config = checked(&example).unwrap();
        assert_eq!(config.cache.folder, Path::new("/etc/meridian/data/results"));
        assert_eq!(config.ingress.certificate, Path::new("/etc/meridian/ingress/cert.pem"));
        let shown: String = example
            .lines()
            .map(|l| l.strip_prefix("# ").filter(|l| l.contains(" = ")).unwrap_or(l))
            .fold(String::new(), |all, l| all + l + "\n");
        let shown = runtime::config::parse::<NodeFile>(&shown).unwrap();
        let cache = CacheFile {
            ttl: TtlFile::default(), // of a model that the example makes up
            ..shown.cache
        };
        assert_eq!((cache, shown.batch), (CacheFile::default(), BatchFile::default()));
        assert_eq!(
            JobsFile {
                webhooks: Vec::new(),
                ..shown.jobs
            },
            JobsFile::default()
        );
        assert_eq!(shown.receipts, ReceiptsFile::default());
        assert_eq!(
            (shown.engine.threads, shown.stop),
            (EngineFile::default().threads, StopFile::default())
        );
    }

    #[test]
    fn a_value_out_of_bounds_is_refused_by_its_key() {
        let example = NodeFile::example("");
        for (table, line, says) in [
            ("batch", "linger-ms = 51", "`batch.linger-ms` is 51, allowed is 0 to 50"),
            ("batch", "queue-rows-max = 0", "`batch.queue-rows-max` is 0"),
            ("cache", "ttl-s = 0", "`cache.ttl-s` is 0"),
            ("cache", "embedding-ttl-s = 604801", "`cache.embedding-ttl-s` is 604801"),
            ("models", "memory-bytes = 9", "`models.memory-bytes` is 9"),
            ("engine", "threads = 257", "`engine.threads` is 257"),
            ("ingress", "threads = 0", "`ingress.threads` is 0"),
            ("receipts", "kept = 1000000001", "`receipts.kept` is 1000000001"),
            ("jobs", "count-max = 1", "`jobs.count-max` is 1"),
            ("jobs", "disk-bytes = 1000", "`jobs.disk-bytes` is 1000"),
            ("jobs", "at-once = 0", "`jobs.at-once` is 0"),
            (
                "jobs",
                "webhooks = [\"http://x/\"]",
                "`jobs.webhooks` \"http://x/\" does not begin",
            ),
            ("stop", "grace-s = 0", "`stop.grace-s` is 0"),
            ("stop", "grace = 1", "grace"),
        ] {
            let text = example.replace(&format!("[{table}]\n"), &format!("[{table}]\n{line}\n"));
            let error = checked(&text).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn a_library_that_cannot_be_used_is_refused_by_its_key() {
        let example = NodeFile::example("");
        assert_eq!(checked(&example).unwrap().onnxruntime, None);
        let text = example.replace("[engine]\n", "[engine]\nonnxruntime = \"lib/nowhere.so\"\n");
        let error = checked(&text).unwrap_err();
        let next_step = if engine::onnxruntime::BUILT_IN {
            "`/etc/meridian/lib/nowhere.so` cannot be used"
        } else {
            "build it with `--features onnxruntime`"
        };
        assert!(
            error.starts_with("`engine.onnxruntime`") && error.contains(next_step),
            "{error}"
        );
    }
}
