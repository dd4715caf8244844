// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `/init work [--only KIND] ROUNDS DIR...`: the same work in several directories, in turns. One line for
//! each piece of work, directory (by number) and round: `NAME DIRECTORY SECONDS`. KIND is `large`, `small`,
//! `mapped` or `names`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Instant;

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
/// What is written and read in pieces of 1 MiB, and of 4 KiB.
const LARGE: usize = 64 * MIB;
const SMALL: usize = 16 * MIB;
const MAPPED: usize = 32 * MIB;
const FILES: usize = 1000;

pub fn main(args: &[String]) -> Result<(), String> {
    let (only, args) = match args {
        [option, kind, rest @ ..] if option == "--only" => (Some(kind.as_str()), rest),
        all => (None, all),
    };
    let [rounds, dirs @ ..] = args else {
        return Err("usage: /init work [--only KIND] ROUNDS DIR...".to_owned());
    };
    let rounds: usize = rounds.parse().map_err(|_| "ROUNDS is a number")?;
    let dirs: Vec<PathBuf> = dirs.iter().map(PathBuf::from).collect();
    let data: Vec<u8> = (0..MIB).map(|i| (i / 7) as u8 | 1).collect();
    // One round to warm up, which is not told.
    for round in 0..=rounds {
        for turn in 0..dirs.len() {
            let which = (round + turn) % dirs.len();
            let mut tell = |name: &str, seconds: f64| {
                if round > 0 {
                    println!("{name} {which} {seconds:.9}");
                }
            };
            one(&dirs[which], only, &data, &mut tell)
                .map_err(|error| format!("{}: {error}", dirs[which].display()))?;
        }
    }
    Ok(())
}

type Tell<'a> = &'a mut dyn FnMut(&str, f64);

fn one(dir: &Path, only: Option<&str>, data: &[u8], tell: Tell<'_>) -> io::Result<()> {
    let wanted = |kind: &str| only.is_none_or(|only| only == kind);
    if wanted("large") {
        copies(dir, data, MIB, LARGE, "1m", tell)?;
    }
    if wanted("small") {
        copies(dir, data, PAGE, SMALL, "4k", tell)?;
    }
    if wanted("mapped") {
        mapped(dir, tell)?;
    }
    if wanted("names") {
        for threads in [1, 2] {
            names(dir, threads, tell)?;
        }
    }
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

fn copies(
    dir: &Path,
    data: &[u8],
    piece: usize,
    all: usize,
    name: &str,
    tell: Tell<'_>,
) -> io::Result<()> {
    let path = dir.join("copies");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    let write = |file: &mut File| {
        file.rewind()?;
        (0..all)
            .step_by(piece)
            .try_for_each(|_| file.write_all(&data[..piece]))
    };
    tell(&format!("write_new_{name}"), timed(|| write(&mut file))?);
    tell(&format!("write_over_{name}"), timed(|| write(&mut file))?);
    let mut buffer = vec![0; piece];
    let read = timed(|| {
        file.rewind()?;
        (0..all)
            .step_by(piece)
            .try_for_each(|_| file.read_exact(&mut buffer))
    })?;
    if buffer != data[..piece] {
        return Err(io::Error::other("other bytes than were written"));
    }
    tell(&format!("read_{name}"), read);
    drop(file);
    fs::remove_file(path)
}

/// Stores to each page of a new file, for the first time and again.
fn mapped(dir: &Path, tell: Tell<'_>) -> io::Result<()> {
    let path = dir.join("mapped");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    file.set_len(MAPPED as u64)?;
    // SAFETY: a mapping at an address that the kernel chooses, of a file that keeps its size.
    let map = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            MAPPED,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if map == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let store = |value: u8| {
        for at in (0..MAPPED).step_by(PAGE) {
            // SAFETY: inside the mapping, which is writable.
            unsafe { map.cast::<u8>().add(at).write_volatile(value) };
        }
        Ok(())
    };
    tell("mmap_touch", timed(|| store(1))?);
    tell("mmap_again", timed(|| store(2))?);
    // SAFETY: mapped above; no pointer into it is left.
    unsafe { libc::munmap(map, MAPPED) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, (MAPPED - PAGE) as u64)?;
    if byte != [2] {
        return Err(io::Error::other("the mapping and the file differ"));
    }
    drop(file);
    fs::remove_file(path)
}

/// Names made, looked at, moved and taken away, each thread in a directory of its own.
fn names(dir: &Path, threads: usize, tell: Tell<'_>) -> io::Result<()> {
    let suffix = if threads == 1 { "" } else { "_2_threads" };
    let dirs: Vec<PathBuf> = (0..threads)
        .map(|n| dir.join(format!("names{n}")))
        .collect();
    dirs.iter().try_for_each(fs::create_dir)?;
    let all = |work: &(dyn Fn(&Path, usize) -> io::Result<()> + Sync)| -> io::Result<f64> {
        let barrier = Barrier::new(threads + 1);
        std::thread::scope(|scope| {
            let running: Vec<_> = dirs
                .iter()
                .map(|dir| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        (0..FILES).try_for_each(|n| work(dir, n))
                    })
                })
                .collect();
            barrier.wait();
            let start = Instant::now();
            for thread in running {
                thread.join().expect("no panic")?;
            }
            Ok(start.elapsed().as_secs_f64() / threads as f64)
        })
    };
    let old = |dir: &Path, n: usize| dir.join(format!("file-{n}"));
    let new = |dir: &Path, n: usize| dir.join(format!("moved-{n}"));
    tell(
        &format!("create{suffix}"),
        all(&|dir, n| File::create_new(old(dir, n)).map(drop))?,
    );
    tell(
        &format!("stat{suffix}"),
        all(&|dir, n| match fs::metadata(old(dir, n))?.size() {
            0 => Ok(()),
            _ => Err(io::Error::other("an empty file has a size")),
        })?,
    );
    tell(
        &format!("rename{suffix}"),
        all(&|dir, n| fs::rename(old(dir, n), new(dir, n)))?,
    );
    tell(
        &format!("unlink{suffix}"),
        all(&|dir, n| fs::remove_file(new(dir, n)))?,
    );
    dirs.iter().try_for_each(fs::remove_dir)
}
