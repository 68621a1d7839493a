//! A peer's processes: started in a group of their own, ended with it, weighed together.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use runtime::clock;
use rustix::process::{Pid, Signal, kill_process_group};

use super::connection::Connection;
use super::target::OK;

/// Longest wait for the first right answer, and how often it is asked for.
const START: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longest wait for one answer meanwhile.
const ONE: Duration = Duration::from_secs(5);
/// Longest wait for a group that was asked to end, before it is killed.
const END: Duration = Duration::from_secs(3);

/// A running server.
#[derive(Debug)]
pub struct Process {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

/// A port of loopback that nobody has now.
///
/// # Errors
/// None is free.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Process {
    /// Starts `command`, which is to listen at `address`, and waits until it answers `request` with 200. What it says goes to
    /// the file `log`.
    ///
    /// # Errors
    /// It ended or did not answer in time; its last words are told.
    pub async fn start(mut command: Command, address: SocketAddr, request: &[u8], log: &Path) -> Result<Self> {
        let file = std::fs::File::create(log).with_context(|| format!("make {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let mut started = Self { address, child };
        let deadline = clock::instant() + START;
        loop {
            let first = tokio::time::timeout(ONE, asked_once(address, request)).await;
            let said = match first {
                Ok(Ok(OK)) => return Ok(started),
                Ok(Ok(status)) => format!("answers {status}"),
                Ok(Err(why)) => format!("{why:#}"),
                Err(_) => "does not answer".to_owned(),
            };
            let ended = started.child.try_wait()?;
            if ended.is_some() || clock::instant() > deadline {
                bail!("it {said} (ended: {ended:?}); {}", last_words(log));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Memory of all its processes together, MiB.
    ///
    /// # Errors
    /// They cannot be looked at.
    pub fn rss_mib(&self) -> Result<f64> {
        let group = self.child.id();
        let mut all = 0.0;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if group_of(pid) == Some(group) {
                all += rss_mib(pid).unwrap_or(0.0); // one that has just ended weighs nothing
            }
        }
        Ok(all)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else {
            return;
        };
        let _ = kill_process_group(group, Signal::TERM); // gone already is what we want
        let deadline = clock::instant() + END;
        while clock::instant() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Those that it started and left.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

async fn asked_once(address: SocketAddr, request: &[u8]) -> Result<u16> {
    let mut connection = Connection::open(address).await?;
    Ok(connection.ask(request).await?.status)
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut tail: Vec<&str> = text
        .lines()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(3)
        .collect();
    tail.reverse();
    format!("its last words: {}", tail.join(" | "))
}

fn group_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the command's name, which may hold blanks and brackets: state, parent, group.
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

/// Resident memory of a process, MiB.
///
/// # Errors
/// There is no such process.
pub fn rss_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("VmRSS")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_serve_is_ended_with_its_children_and_its_words_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no model here; exit 3"]);
        let refused = Process::start(command, free_address().unwrap(), b"", &log)
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("no model here"), "{refused}");
    }

    #[test]
    fn a_group_is_weighed_together_and_ended_together() {
        let folder = tempfile::tempdir().unwrap();
        let noted = folder.path().join("pid");
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("sleep 60 & echo $! > {}; wait", noted.display()));
        let child = command.process_group(0).spawn().unwrap();
        let process = Process {
            address: free_address().unwrap(),
            child,
        };
        let pid: u32 = loop {
            let text = std::fs::read_to_string(&noted).unwrap_or_default();
            if let Ok(pid) = text.trim().parse() {
                break pid;
            }
            std::thread::yield_now();
        };
        assert_eq!(group_of(pid), Some(process.child.id()));
        assert!(process.rss_mib().unwrap() > rss_mib(pid).unwrap());
        drop(process);
        // Whoever adopts it may take a moment to bury it: it runs no more.
        let gone =
            |pid| std::fs::read_to_string(format!("/proc/{pid}/status")).map_or(true, |s| s.contains("State:\tZ"));
        while !gone(pid) {
            std::thread::yield_now();
        }
    }
}
