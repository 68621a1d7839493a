//! Signing a package and bringing it to the control plane: only the chunks that it lacks, then the manifest, then the
//! log entry. Each step can be repeated, so a killed upload is resumed by starting it again.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use models::chunk::placed;
use proto::entry::Body;
use proto::ids::{ContentHash, ModelName, ModelVersion, Release};
use proto::limits::CHUNKS_PER_REQUEST_MAX;
use proto::message::{Request, Response};
use proto::signed::Signed;

use super::Made;
use crate::client::Session;
use crate::state;

/// Chunks on their way at once: hides the round trip, bounds memory to this many chunks.
const IN_FLIGHT: usize = 16;
/// How often the version is taken anew because somebody else published meanwhile.
const VERSION_TRIES: usize = 5;
/// Names asked about in one question.
const ASKED_AT_ONCE: usize = 4096;
const _: () = assert!(IN_FLIGHT <= CHUNKS_PER_REQUEST_MAX);

/// A release that is in the log.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Model and version.
    pub release: Release,
    /// Its manifest.
    pub manifest: ContentHash,
    /// Index in the log.
    pub entry: u64,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Bytes of the package.
    pub all_bytes: u64,
}

/// Where a chunk's bytes lie here.
struct Place {
    file: usize,
    offset: u64,
    bytes: u32,
}

/// Uploads, signs and logs `made` as the model's next version. With `show`, draws a progress bar on a terminal.
///
/// # Errors
/// The connection broke, a file changed meanwhile, or the control plane refused. Starting again resumes.
pub async fn upload(session: &Session, made: Made, show: bool) -> Result<Sent> {
    let sent_bytes = send_chunks(session, &made, show).await?;
    let all_bytes = made.files.iter().map(|(entry, _)| entry.bytes).sum();
    let model = made.manifest.model.clone();
    let fleet = state::fleet(&session.home).await?;
    let mut manifest = made.manifest.clone();
    let newest = fleet
        .releases
        .get(&model)
        .and_then(|versions| versions.last_key_value());
    manifest.parent = newest.map(|(_, published)| published.manifest);
    let mut version = next_version(session, &model).await?;
    for _ in 0..VERSION_TRIES {
        manifest.version = version;
        let signed = Signed::seal(&manifest, session.home.identity.signing_key());
        let id = signed.id();
        expect_done(session.ask(&Request::PutManifest(signed)).await?)?;
        match session
            .command(&Body::Publish {
                model: model.clone(),
                version,
                manifest: id,
            })
            .await
        {
            Ok(logged) => {
                let release = Release { model, version };
                return Ok(Sent {
                    release,
                    manifest: id,
                    entry: logged.index,
                    sent_bytes,
                    all_bytes,
                });
            }
            Err(refused) => {
                let now_next = next_version(session, &model).await?;
                if now_next == version {
                    return Err(refused);
                }
                version = now_next; // somebody else published meanwhile
            }
        }
    }
    bail!("others published `{model}` {VERSION_TRIES} times meanwhile: try again")
}

async fn next_version(session: &Session, model: &ModelName) -> Result<ModelVersion> {
    match session.ask(&Request::NextVersion(model.clone())).await? {
        Response::NextVersion(version) => Ok(version),
        _ => bail!("the control plane answered something else than a version"),
    }
}

fn expect_done(answer: Response) -> Result<()> {
    match answer {
        Response::Done => Ok(()),
        Response::Error { message, .. } => bail!("the control plane refused: {message}"),
        _ => bail!("the control plane answered something else than done"),
    }
}

async fn send_chunks(session: &Session, made: &Made, show: bool) -> Result<u64> {
    let mut order = Vec::new();
    let mut places: HashMap<ContentHash, Place> = HashMap::new();
    for (file, (entry, _)) in made.files.iter().enumerate() {
        for (offset, chunk) in placed(entry) {
            places.entry(chunk.blake3).or_insert_with(|| {
                order.push(chunk.blake3);
                Place {
                    file,
                    offset,
                    bytes: chunk.bytes,
                }
            });
        }
    }
    let mut missing = Vec::new();
    for chunks in order.chunks(ASKED_AT_ONCE) {
        match session
            .ask(&Request::Missing {
                chunks: chunks.to_vec(),
            })
            .await?
        {
            Response::Missing(lacking) => missing.extend(lacking),
            _ => bail!("the control plane answered something else than missing chunks"),
        }
    }
    let wanted = missing.iter().map(|hash| places.get(hash).map(|place| (*hash, place)));
    let wanted: Vec<_> = wanted
        .collect::<Option<_>>()
        .context("the control plane asks for chunks of something else")?;
    let total = wanted.iter().map(|(_, place)| u64::from(place.bytes)).sum();
    let open = |(_, path): &(_, PathBuf)| File::open(path).with_context(|| format!("open {}", path.display()));
    let files = made.files.iter().map(open).collect::<Result<Vec<_>>>()?;
    let bar = bar(total, show);
    let mut stream = session.connection().open().await?;
    let mut waiting = 0;
    for (hash, place) in wanted {
        let mut bytes = vec![0; usize::try_from(place.bytes)?];
        let path = &made.files[place.file].1;
        files[place.file]
            .read_exact_at(&mut bytes, place.offset)
            .with_context(|| format!("read {}", path.display()))?;
        ensure!(
            ContentHash::of(&bytes) == hash,
            "{} changed while it was being published: start again",
            path.display()
        );
        stream.write(&Request::PutChunk { bytes }).await?;
        bar.inc(u64::from(place.bytes));
        waiting += 1;
        if waiting == IN_FLIGHT {
            acknowledged(&mut stream).await?;
            waiting -= 1;
        }
    }
    stream.finish();
    for _ in 0..waiting {
        acknowledged(&mut stream).await?;
    }
    bar.finish_and_clear();
    Ok(total)
}

async fn acknowledged(stream: &mut runtime::quic::Stream) -> Result<()> {
    expect_done(
        stream
            .read()
            .await?
            .context("the control plane ended the upload early: start again to resume")?,
    )
}

fn bar(total: u64, show: bool) -> ProgressBar {
    let target = if show {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    let style = ProgressStyle::with_template("uploading {bar:30} {bytes} of {total_bytes}  {bytes_per_sec}  {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
