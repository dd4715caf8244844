// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A client that writes to one value of a server after the other, so many each second, and reads no answers.

use anyhow::{anyhow, Result};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(20);
/// Who is further behind does not make up for it: the server stood still, or cannot do as much.
const BEHIND: Duration = Duration::from_millis(200);

pub struct Toucher {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Toucher {
    /// Goes around `count` values. `request` adds the request for one of them, which is not to be answered.
    pub fn start(
        stream: TcpStream,
        count: usize,
        each_second: f64,
        request: fn(&mut Vec<u8>, usize),
    ) -> Result<Toucher> {
        // So that nothing is left of the connection in the end, at either side, however much is under way.
        let at_once = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&stream, sockopt::Linger, &at_once)?;
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stop_too, sent_too) = (stop.clone(), sent.clone());
        let thread = thread::spawn(move || {
            let mut numbers = (0..count).cycle();
            touch(stream, each_second, &stop_too, &sent_too, |requests| {
                numbers
                    .next()
                    .into_iter()
                    .for_each(|n| request(requests, n));
            })
        });
        Ok(Toucher { stop, sent, thread })
    }

    /// Values that were written to up to now.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Resets the connection.
    pub fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow!("who writes to the server panicked"))?
    }
}

fn touch(
    mut stream: TcpStream,
    each_second: f64,
    stop: &AtomicBool,
    sent: &AtomicU64,
    mut next: impl FnMut(&mut Vec<u8>),
) -> Result<()> {
    let mut paid = Instant::now();
    let mut requests = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let now = Instant::now();
        let due = (now - paid).min(BEHIND).as_secs_f64() * each_second;
        paid = now;
        requests.clear();
        (0..due as u64).for_each(|_| next(&mut requests));
        stream.write_all(&requests)?;
        sent.fetch_add(due as u64, Ordering::Relaxed);
        thread::sleep(TICK.saturating_sub(now.elapsed()));
    }
    Ok(())
}
