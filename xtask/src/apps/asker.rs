// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A client that asks by datagrams, over and over, and notes how long nobody answered.

use super::wait_for_more;
use anyhow::{bail, ensure, Result};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Asker {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: JoinHandle<Result<Duration>>,
}

impl Asker {
    /// With `nobody`, it is an answer too that nobody is there.
    pub fn start(host: Ipv4Addr, port: u16, nobody: bool) -> Result<Asker> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((host, port))?;
        socket.set_read_timeout(Some(PAUSE))?;
        let (stop, answers) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stop_too, answers_too) = (stop.clone(), answers.clone());
        let thread = thread::spawn(move || run(&socket, nobody, &stop_too, &answers_too));
        Ok(Asker {
            stop,
            answers,
            thread,
        })
    }

    /// Waits for some answers more.
    pub fn wait(&self) -> Result<()> {
        let is_there = || {
            ensure!(
                !self.thread.is_finished(),
                "somebody said that nobody is there"
            );
            Ok(())
        };
        wait_for_more(
            3,
            PATIENCE,
            || self.answers.load(Ordering::Acquire),
            is_there,
            "no answer",
        )
    }

    /// The longest time from one answer to the next.
    pub fn finish(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Release);
        match self.thread.join() {
            Ok(gap) => gap,
            Err(_) => bail!("the client panicked"),
        }
    }
}

fn run(
    socket: &UdpSocket,
    nobody: bool,
    stop: &AtomicBool,
    answers: &AtomicU64,
) -> Result<Duration> {
    let (mut gap, mut last) = (Duration::ZERO, Instant::now());
    while !stop.load(Ordering::Acquire) {
        let answered = socket
            .send(b"are you there")
            .and_then(|_| socket.recv(&mut [0; 64]));
        match answered {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionRefused && nobody => {}
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => bail!("nobody is at that port"),
            Err(_) => {
                // Not there, or no way to it for now.
                thread::sleep(PAUSE);
                continue;
            }
        }
        gap = gap.max(last.elapsed());
        last = Instant::now();
        answers.fetch_add(1, Ordering::Release);
        thread::sleep(PAUSE);
    }
    Ok(gap)
}
