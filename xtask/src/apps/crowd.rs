// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Visitors of a web server who open a connection each time: there must always be an answer, late perhaps, but whole.

use super::wait_for_more;
use anyhow::{bail, ensure, Context, Result};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two visits of a visitor.
const PAUSE: Duration = Duration::from_millis(100);

pub struct Crowd {
    stop: Arc<AtomicBool>,
    visits: Arc<AtomicU64>,
    /// What the first of them met who got no answer.
    failed: Arc<OnceLock<String>>,
    threads: Vec<JoinHandle<Duration>>,
}

/// What all of them saw.
pub struct Report {
    pub visits: u64,
    /// The longest visit.
    pub longest: Duration,
}

impl Crowd {
    /// So many visitors, none of whom waits longer than `limit` for an answer.
    pub fn start(server: SocketAddr, visitors: usize, limit: Duration) -> Crowd {
        let stop = Arc::new(AtomicBool::new(false));
        let visits = Arc::new(AtomicU64::new(0));
        let failed = Arc::new(OnceLock::new());
        let visitor = |_| {
            let (stop, visits, failed) = (stop.clone(), visits.clone(), failed.clone());
            thread::spawn(move || {
                let mut longest = Duration::ZERO;
                if let Err(e) = come_again(server, limit, &stop, &visits, &mut longest) {
                    let _ = failed.set(format!("{e:#}"));
                }
                longest
            })
        };
        let threads = (0..visitors).map(visitor).collect();
        Crowd {
            stop,
            visits,
            failed,
            threads,
        }
    }

    /// Waits for some visits more.
    pub fn wait(&self, more: u64, limit: Duration) -> Result<()> {
        wait_for_more(
            more,
            limit,
            || self.visits.load(Ordering::Acquire),
            || self.is_content(),
            "visitors get no answers",
        )
    }

    fn is_content(&self) -> Result<()> {
        match self.failed.get() {
            Some(met) => bail!("a visitor got no answer: {met}"),
            None => Ok(()),
        }
    }

    /// Sends them home; an error is what one of them met.
    pub fn finish(mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Release);
        let mut longest = Duration::ZERO;
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(visit) => longest = longest.max(visit),
                Err(_) => bail!("a visitor panicked"),
            }
        }
        self.is_content()?;
        Ok(Report {
            visits: self.visits.load(Ordering::Acquire),
            longest,
        })
    }
}

fn come_again(
    server: SocketAddr,
    limit: Duration,
    stop: &AtomicBool,
    visits: &AtomicU64,
    longest: &mut Duration,
) -> Result<()> {
    let mut first = None;
    while !stop.load(Ordering::Acquire) {
        let start = Instant::now();
        let page = visit(server, limit)
            .with_context(|| format!("a visit that took {:.1} s", start.elapsed().as_secs_f64()))?;
        let first = first.get_or_insert_with(|| page.clone());
        ensure!(page == *first, "another page");
        *longest = start.elapsed().max(*longest);
        visits.fetch_add(1, Ordering::Release);
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// The page, without what is said of it.
fn visit(server: SocketAddr, limit: Duration) -> Result<Vec<u8>> {
    let mut stream = connect(server, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "no page");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    Ok(answer.split_off(end.context("no end of the head")? + 4))
}

fn connect(server: SocketAddr, limit: Duration) -> Result<TcpStream> {
    let deadline = Instant::now() + limit;
    loop {
        match TcpStream::connect(server) {
            // Our own kernel says so, of a machine on its own network that does not tell its address: in the midst of
            // a kexec nobody is there at all. Or it has asked seven times, last after 63 s, and given up after 127.
            Err(e)
                if matches!(e.kind(), ErrorKind::HostUnreachable | ErrorKind::TimedOut)
                    && Instant::now() < deadline => {}
            other => return other.context("opening a connection"),
        }
    }
}
