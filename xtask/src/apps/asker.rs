// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A client that asks, over and over, and notes how long nobody answered. It has no connection that it keeps: on one,
//! TCP waits longer each time before it asks again, so that the silence would say more of that than of who is asked.

use super::{lives, wait_for_more};
use anyhow::{bail, Result};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(5);
/// To open a connection, which an idle guest does in less than a millisecond, and for its answer.
const TO_CONNECT: Duration = Duration::from_millis(20);
const TO_ANSWER: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Asker {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: JoinHandle<Result<Duration>>,
}

impl Asker {
    /// By datagrams. With `nobody`, it is an answer too that nobody is there.
    pub fn by_datagrams(host: Ipv4Addr, port: u16, nobody: bool) -> Result<Asker> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((host, port))?;
        socket.set_read_timeout(Some(PAUSE))?;
        Ok(Asker::start(move || {
            let asked = socket.send(b"are you there");
            match asked.and_then(|_| socket.recv(&mut [0; 64])) {
                Err(e) if e.kind() == ErrorKind::ConnectionRefused && nobody => Ok(()),
                other => other.map(drop),
            }
        }))
    }

    /// By a new connection for each question.
    pub fn by_connections(host: Ipv4Addr, port: u16, question: String) -> Asker {
        Asker::start(move || {
            let mut stream = TcpStream::connect_timeout(&(host, port).into(), TO_CONNECT)?;
            stream.set_read_timeout(Some(TO_ANSWER))?;
            stream.write_all(question.as_bytes())?;
            match stream.read(&mut [0; 64])? {
                0 => Err(ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            }
        })
    }

    fn start(ask: impl FnMut() -> io::Result<()> + Send + 'static) -> Asker {
        let (stop, answers) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stop_too, answers_too) = (stop.clone(), answers.clone());
        let thread = thread::spawn(move || run(ask, &stop_too, &answers_too));
        Asker {
            stop,
            answers,
            thread,
        }
    }

    /// Waits for some answers more.
    pub fn wait(&self) -> Result<()> {
        wait_for_more(
            3,
            PATIENCE,
            || self.answers.load(Ordering::Acquire),
            || lives(&self.thread, "somebody said that nobody is there"),
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
    mut ask: impl FnMut() -> io::Result<()>,
    stop: &AtomicBool,
    answers: &AtomicU64,
) -> Result<Duration> {
    let (mut gap, mut last) = (Duration::ZERO, Instant::now());
    while !stop.load(Ordering::Acquire) {
        match ask() {
            Ok(()) => {
                gap = gap.max(last.elapsed());
                last = Instant::now();
                answers.fetch_add(1, Ordering::Release);
            }
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => bail!("nobody is at that port"),
            // Not there, or no way to it for now.
            Err(_) => {}
        }
        thread::sleep(PAUSE);
    }
    Ok(gap)
}
