// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `/init hold SIZE [OPTION VALUE]...`: a process with that much memory of its own, to be checkpointed.
//!
//! `gaps FILE`: adds a line to FILE whenever it did not run for a while: from when to when, in seconds since
//! 1970. `write PERCENT`: writes to so much of its memory each second, page by page. `zeros PERCENT`: so
//! much of it are pages of zeros. `answer PORT`: sends datagrams back.

use crate::memory::word;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::UdpSocket;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Words of a page.
const PAGE: usize = 512;
const TICK: Duration = Duration::from_millis(1);
/// What is a gap: on a busy machine everybody waits for a CPU that long.
const GAP: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Options {
    gaps: Option<String>,
    write: usize,
    zeros: usize,
    answer: Option<UdpSocket>,
}

pub fn main(args: &[String]) -> Result<(), String> {
    let (size, options) = parse(args)?;
    let mut words = vec![0; size / 8];
    for (at, place) in words.iter_mut().enumerate() {
        let zero = at / PAGE % 100 < options.zeros;
        // Stored all the same, so that the page is there.
        *place = std::hint::black_box(if zero { 0 } else { word(1, at) });
    }
    if options.gaps.is_none() && options.write == 0 && options.answer.is_none() {
        loop {
            // Looked at, so that nothing is optimised away.
            std::hint::black_box(&words);
            sleep(Duration::from_secs(3600));
        }
    }
    run(&mut words, &options).map_err(|error| error.to_string())
}

fn parse(args: &[String]) -> Result<(usize, Options), String> {
    let usage = "usage: /init hold SIZE [gaps FILE] [write PERCENT] [zeros PERCENT] [answer PORT]";
    let number = |text: &String| text.parse().map_err(|e| format!("{text}: {e}"));
    let [size, rest @ ..] = args else {
        return Err(usage.to_owned());
    };
    let mut options = Options::default();
    for pair in rest.chunks(2) {
        match pair {
            [name, file] if name == "gaps" => options.gaps = Some(file.clone()),
            [name, percent] if name == "write" => options.write = number(percent)?,
            [name, percent] if name == "zeros" => options.zeros = number(percent)?,
            [name, port] if name == "answer" => {
                options.answer = Some(listen(port).map_err(|e| format!("port {port}: {e}"))?);
            }
            _ => return Err(usage.to_owned()),
        }
    }
    Ok((number(size)?, options))
}

fn listen(port: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(format!("0.0.0.0:{port}"))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn run(words: &mut [u64], options: &Options) -> io::Result<()> {
    let pages = words.len() / PAGE;
    // When it last ran, and the share of a page that it owes.
    let (mut last, mut page, mut due) = (now(), 0, 0.0);
    loop {
        sleep(TICK);
        let time = now();
        let gap = time.saturating_sub(last);
        if gap > GAP {
            if let Some(file) = &options.gaps {
                let mut file = OpenOptions::new().append(true).create(true).open(file)?;
                // In one piece.
                file.write_all(
                    format!("{:.6} {:.6}\n", last.as_secs_f64(), time.as_secs_f64()).as_bytes(),
                )?;
            }
        }
        // What could not be written in a gap is not made up for.
        due += gap.min(GAP).as_secs_f64() * (pages * options.write) as f64 / 100.0;
        while due >= 1.0 {
            words[page * PAGE] = std::hint::black_box(words[page * PAGE].wrapping_add(1));
            page = (page + 1) % pages;
            due -= 1.0;
        }
        if let Some(socket) = &options.answer {
            let mut datagram = [0; 64];
            while let Ok((n, from)) = socket.recv_from(&mut datagram) {
                let _ = socket.send_to(&datagram[..n], from);
            }
        }
        last = time;
    }
}

/// `/init mtime FILE`: when it was last written, by the same clock.
pub fn mtime(args: &[String]) -> Result<(), String> {
    let [path] = args else {
        return Err("usage: /init mtime FILE".to_owned());
    };
    let time = std::fs::metadata(path).and_then(|file| file.modified());
    let time = time.map_err(|e| format!("{path}: {e}"))?;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    println!("{:.6}", since.as_secs_f64());
    Ok(())
}

/// By the clock that goes on while a process is in a checkpoint.
pub fn now() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}
