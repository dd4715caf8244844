// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `/init holes FILE`: where a file has data, as lseek(2) tells: one line `START END` for each run.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

pub fn main(args: &[String]) -> Result<(), String> {
    let [path] = args else {
        return Err("usage: /init holes FILE".to_owned());
    };
    list(path).map_err(|error| format!("{path}: {error}"))
}

fn list(path: &str) -> io::Result<()> {
    let file = File::open(path)?;
    let size = file.metadata()?.len() as libc::off_t;
    let mut at = 0;
    while at < size {
        let start = match seek(&file, at, libc::SEEK_DATA) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => break,
            start => start?,
        };
        let end = seek(&file, start, libc::SEEK_HOLE)?;
        if start < at || end <= start {
            return Err(io::Error::other(format!(
                "from {at} on data at {start}, a hole at {end}"
            )));
        }
        // Inside data and inside holes the answers must fit.
        for inside in [start, end - 1] {
            expect(&file, inside, libc::SEEK_DATA, inside)?;
            expect(&file, inside, libc::SEEK_HOLE, end)?;
        }
        if start > at {
            expect(&file, start - 1, libc::SEEK_DATA, start)?;
            expect(&file, start - 1, libc::SEEK_HOLE, start - 1)?;
        }
        println!("{start} {end}");
        at = end;
    }
    // At the end and behind it there is neither.
    for (at, whence) in [
        (size, libc::SEEK_DATA),
        (size, libc::SEEK_HOLE),
        (size + 1, libc::SEEK_HOLE),
    ] {
        match seek(&file, at, whence) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {}
            other => return Err(io::Error::other(format!("seek from {at}: {other:?}"))),
        }
    }
    Ok(())
}

fn expect(file: &File, at: libc::off_t, whence: i32, right: libc::off_t) -> io::Result<()> {
    match seek(file, at, whence)? {
        found if found == right => Ok(()),
        found => {
            let what = if whence == libc::SEEK_DATA {
                "data"
            } else {
                "a hole"
            };
            let text = format!("from {at} on {what} is at {found}, not {right}");
            Err(io::Error::other(text))
        }
    }
}

fn seek(file: &File, at: libc::off_t, whence: i32) -> io::Result<libc::off_t> {
    // SAFETY: a plain system call on an open file.
    match unsafe { libc::lseek(file.as_raw_fd(), at, whence) } {
        -1 => Err(io::Error::last_os_error()),
        found => Ok(found),
    }
}
