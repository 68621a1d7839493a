//! What the node adds to one run of its engine when nothing waits: beside the engine's own time, and beside a server that does nothing
//! else.
//!
//! That server takes the same requests off a socket, keeps its thread busy for as long as the engine ran, and answers as many
//! bytes. It reads no HTTP, no JSON and has no queue: what it adds is what a socket and two threads that wake each other cost on this
//! machine. It is a thread of the client's process and is asked after the node, which makes it cheaper rather than dearer.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use runtime::clock;

use super::super::{Figure, median};
use super::answer::Answer;
use super::connection::Connection;
use super::target::{OK, Target, on_own_thread};
use super::timing::Timing;
use super::{Bench, SUITE};

/// Longest request that is read at once.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Of requests that follow one another, so that none waits for another.
#[derive(Default)]
struct Seen {
    /// Microseconds of each, less the engine's.
    added: Vec<f64>,
    /// The engine's part of each, the first ones' too.
    bare: Vec<Duration>,
    /// Bytes of the last answer.
    answer: usize,
}

/// What the node adds to one run of the engine.
pub(super) async fn added(bench: &Bench, model: &str, name: &str, target: &Target) -> Result<Vec<Figure>> {
    eprintln!("·· what the node adds to `{model}`");
    let count: u64 = bench.scale.pick(500, 5_000);
    let of_node = target.clone();
    let mut node =
        on_own_thread(async move || one_by_one(&of_node, count, |_, answer| engines_part(answer)).await).await?;
    let idler = Target {
        address: serve_nothing(node.bare.clone(), node.answer)?,
        ..target.clone()
    };
    let busy = node.bare.clone();
    let as_busy = move |n, _: &Answer<'_>| at(&busy, n);
    let mut least = on_own_thread(async move || one_by_one(&idler, count, as_busy).await).await?;
    let (added, bare) = (median(&mut node.added), median(&mut micros(&node.bare)));
    let figure = |name: &str| Figure::alone(SUITE, name, added, "us");
    Ok(vec![
        figure(name).beside("bare engine", bare),
        figure(&format!("{name}/limit")).beside("does nothing", median(&mut least.added)),
    ])
}

/// As the node tells.
fn engines_part(answer: &Answer<'_>) -> Option<Duration> {
    Some(Timing::of(answer)?.exec)
}

/// The n-th time of several, again and again.
fn at(times: &[Duration], n: u64) -> Option<Duration> {
    let count = u64::try_from(times.len()).ok()?;
    times.get(usize::try_from(n.checked_rem(count)?).ok()?).copied()
}

fn micros(times: &[Duration]) -> Vec<f64> {
    times.iter().map(|time| time.as_secs_f64() * 1e6).collect()
}

/// Asks `count` times; `busy` gives the engine's part of the n-th answer's time.
async fn one_by_one(target: &Target, count: u64, busy: impl Fn(u64, &Answer<'_>) -> Option<Duration>) -> Result<Seen> {
    let mut connection = Connection::open(target.address).await?;
    let (mut seen, mut request) = (Seen::default(), Vec::new());
    for n in 0..count {
        request.clear();
        (target.write)(n, &mut request);
        let began = clock::instant();
        let answer = connection.ask(&request).await?;
        let took = began.elapsed();
        ensure!(answer.status == OK, "{} answers {}", target.address, answer.status);
        let engines = busy(n, &answer).context("the node tells how long its engine ran")?;
        seen.answer = answer.bytes;
        // The first ones find nothing warm.
        if n >= count / 10 {
            seen.added.push(took.saturating_sub(engines).as_secs_f64() * 1e6);
        }
        seen.bare.push(engines);
    }
    Ok(seen)
}

/// Starts a thread that answers each request of one connection after being `busy` for the next of these times, and ends with it.
fn serve_nothing(busy: Vec<Duration>, bytes: usize) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (address, answer) = (listener.local_addr()?, nothing(bytes));
    let serve = move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut request = vec![0; REQUEST_BYTES_MAX];
        for busy in busy.iter().cycle() {
            // One write of a client that waits for its answer is one read here.
            if stream.read(&mut request)? == 0 {
                break;
            }
            let began = clock::instant();
            while began.elapsed() < *busy {
                std::hint::spin_loop();
            }
            stream.write_all(&answer)?;
        }
        Ok(())
    };
    let thread = std::thread::Builder::new().name("idler".to_owned());
    thread.spawn(move || match serve() {
        Err(why) if why.kind() != ErrorKind::ConnectionReset => eprintln!("·· the server that does nothing: {why}"),
        _ => (),
    })?;
    Ok(address)
}

/// An answer of so many bytes, or of the fewest that there can be.
fn nothing(bytes: usize) -> Vec<u8> {
    let head = |body: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {body}\r\n\r\n");
    let body = bytes.saturating_sub(head(bytes).len());
    let mut answer = head(body).into_bytes();
    answer.resize(answer.len() + body, b' ');
    answer
}

#[cfg(test)]
mod tests {
    use super::super::answer::Answer;
    use super::*;

    #[test]
    fn an_answer_that_says_nothing_is_one_of_nearly_as_many_bytes() {
        for bytes in [0, 40, 137, 1_000, 10_035] {
            let answer = nothing(bytes);
            let read = Answer::read(&answer).unwrap().unwrap();
            assert_eq!((read.status, read.bytes), (OK, answer.len()));
            assert!(answer.len() <= bytes.max(38) && answer.len() + 1 >= bytes);
        }
    }

    #[tokio::test]
    async fn the_server_that_does_nothing_is_as_busy_as_it_is_told() {
        let busy = [1, 3].map(Duration::from_millis);
        let target = Target::new(
            serve_nothing(busy.to_vec(), 500).unwrap(),
            std::sync::Arc::new(|_, request: &mut Vec<u8>| request.extend_from_slice(b"anything")),
        );
        let whole = one_by_one(&target, 10, |_, _| Some(Duration::ZERO)).await.unwrap();
        assert!(whole.added.iter().all(|us| *us >= 1e3), "{:?}", whole.added);
        let long = whole.added.iter().filter(|us| **us >= 3e3);
        assert!(long.count() >= 4, "every other one: {:?}", whole.added);
        assert!((499..=500).contains(&whole.answer));
    }
}
