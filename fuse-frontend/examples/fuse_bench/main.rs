// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What a FUSE mount of RP-RAMFS does with 1 MiB reads and writes, beside tmpfs and beside a FUSE
//! loop with one memcpy behind it. All are measured in turn, round by round, in one run.
//!
//! `fuse_bench [--size MIB] [--rounds N] [--threads N] [--options OPTIONS] --mkfs PROGRAM --mount
//! PROGRAM` prints a JSON array of measures on stdout and a table on stderr. Needs root, /dev/fuse
//! and /dev/shm; regions lie there, in 4 KiB pages for all alike. 20 s with the defaults.

#![allow(clippy::precedence)]

mod empty_loop;

use nix::mount::{mount, umount2, MntFlags, MsFlags};
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

struct Arguments {
    size: usize,
    rounds: usize,
    threads: usize,
    options: String,
    mkfs: PathBuf,
    mounter: PathBuf,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let here = std::env::current_exe()?;
    let programs = here
        .parent()
        .and_then(Path::parent)
        .ok_or("where is this program?")?;
    let mut found = Arguments {
        size: 256,
        rounds: 15,
        threads: std::thread::available_parallelism()
            .map_or(3, |n| n.get() + 1)
            .clamp(3, 17),
        options: String::new(),
        mkfs: programs.join("mkfs-rpramfs"),
        mounter: programs.join("mount-rpramfs"),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--size" => found.size = value()?.parse::<usize>()?.next_multiple_of(SLICE),
            "--rounds" => found.rounds = value()?.parse()?,
            "--threads" => found.threads = value()?.parse()?,
            "--options" => found.options = value()?,
            "--mkfs" => found.mkfs = value()?.into(),
            "--mount" => found.mounter = value()?.into(),
            _ => return Err(format!("unknown argument {word}").into()),
        }
    }
    Ok(found)
}

/// Mounts of this run; gone when it ends, however it does.
struct Stage {
    dir: PathBuf,
    empty: Option<Child>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        for name in ["tmpfs", "ours", "empty"] {
            // What was not mounted cannot be unmounted.
            let _ = umount2(&self.dir.join(name), MntFlags::MNT_DETACH);
        }
        if let Some(mut child) = self.empty.take() {
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn stage(a: &Arguments) -> Result<Stage, Box<dyn Error>> {
    let dir = PathBuf::from(format!("/dev/shm/fuse-bench-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let mut stage = Stage {
        dir: dir.clone(),
        empty: None,
    };
    for name in ["tmpfs", "ours", "empty"] {
        fs::create_dir(dir.join(name))?;
    }
    mount(
        Some("tmpfs"),
        &dir.join("tmpfs"),
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )?;

    let region = dir.join("region");
    // Room for the file twice, rewritten in place and written anew, and little more: as much memory
    // for the caches of the CPU as the empty loop has.
    File::create(&region)?.set_len(((a.size * 2 + 16) * MIB) as u64)?;
    run(Command::new(&a.mkfs).arg("-q").arg(&region))?;
    let threads = format!("threads={}", a.threads);
    let options = if a.options.is_empty() {
        threads
    } else {
        format!("{threads},{}", a.options)
    };
    run(Command::new(&a.mounter)
        .args([&region, &dir.join("ours")])
        .args(["-o", &options]))?;

    let image = dir.join("image");
    File::create(&image)?.set_len((2 * a.size * MIB) as u64)?;
    let child = Command::new(std::env::current_exe()?)
        .arg("--empty-loop")
        .args([&image, &dir.join("empty")])
        .arg(a.threads.to_string())
        .stdin(Stdio::null())
        .spawn()?;
    stage.empty = Some(child);
    let limit = Instant::now() + Duration::from_secs(10);
    let device = fs::metadata(&dir)?.dev();
    while fs::metadata(dir.join("empty")).map_or(true, |m| m.dev() == device) {
        if Instant::now() > limit {
            return Err("the empty loop does not come up".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(stage)
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    if !status.success() {
        return Err(format!("{command:?}: {status}").into());
    }
    Ok(())
}

/// MiB that one kind reads or writes before it is the next one's turn: so little that whatever
/// else the machine does hits all of them alike.
const SLICE: usize = 8;

/// MiB/s over the slice at `from` MiB.
fn timed(from: usize, mut piece: impl FnMut(u64) -> std::io::Result<()>) -> std::io::Result<f64> {
    let start = Instant::now();
    for n in from..from + SLICE {
        piece((n * MIB) as u64)?;
    }
    Ok(SLICE as f64 / start.elapsed().as_secs_f64())
}

/// One measure: ours against a baseline, slice by slice.
struct Measure {
    name: &'static str,
    ours: Vec<f64>,
    baseline: Vec<f64>,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    }
}

impl Measure {
    /// Medians; the ratio is the median of the slices' own ratios, the spread the distance of their
    /// quartiles over it.
    fn json(&self) -> String {
        let mut ratios: Vec<f64> = self
            .ours
            .iter()
            .zip(&self.baseline)
            .map(|(o, b)| o / b)
            .collect();
        ratios.sort_by(f64::total_cmp);
        let ratio = median(&ratios);
        let spread = (ratios[ratios.len() * 3 / 4] - ratios[ratios.len() / 4]) / ratio;
        let (value, baseline) = (median(&self.ours), median(&self.baseline));
        eprintln!(
            "{:32} {value:8.0} MiB/s  {baseline:8.0} MiB/s  {ratio:5.3}  ±{:.0} %",
            self.name,
            spread * 100.0
        );
        format!(
            "{{\"measure\":\"{}\",\"value\":{value:.1},\"unit\":\"MiB/s\",\"baseline\":{baseline:.1},\
             \"ratio\":{ratio:.4},\"spread\":{spread:.4}}}",
            self.name
        )
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, image, dir, threads] = words.as_slice() {
        if word == "--empty-loop" {
            // As the daemon is: the scheduler weighs sessions against each other.
            nix::unistd::setsid()?;
            return empty_loop::serve(Path::new(image), Path::new(dir), threads.parse()?);
        }
    }
    let a = arguments()?;
    let stage = stage(&a)?;
    let path = |kind: &str| stage.dir.join(kind).join("f");
    let open = |kind: &str| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path(kind))
    };

    let mut buffer = vec![0u8; MIB + 4096];
    let start = buffer.as_ptr().align_offset(4096);
    let buffer = &mut buffer[start..start + MIB];
    for (n, byte) in buffer.iter_mut().enumerate() {
        *byte = (n * 31 >> 3) as u8;
    }

    let kinds = ["tmpfs", "ours", "empty"];
    let mut rewrite = [const { Vec::new() }; 3];
    let mut read = [const { Vec::new() }; 3];
    let mut fresh = [const { Vec::new() }; 3];
    let files = [open(kinds[0])?, open(kinds[1])?, open(kinds[2])?];
    // Warm up: every page of the region is there, and mapped by the daemon, before anything is
    // counted, as reserved memory is.
    let fill = stage.dir.join("ours").join("fill");
    let file = File::create_new(&fill)?;
    let mut at = 0;
    while file.write_all_at(buffer, at).is_ok() {
        at += MIB as u64;
    }
    drop(file);
    fs::remove_file(&fill)?;
    for file in &files {
        for from in (0..a.size).step_by(SLICE) {
            timed(from, |at| file.write_all_at(buffer, at))?;
        }
    }
    for from in (a.size..2 * a.size).step_by(SLICE) {
        timed(from, |at| files[2].write_all_at(buffer, at))?;
    }
    for round in 0..a.rounds {
        // A new file beside it, as a checkpoint writes; the empty loop has only one, of
        // twice the size.
        let new: Vec<PathBuf> = kinds[..2]
            .iter()
            .map(|kind| stage.dir.join(kind).join("new"))
            .collect();
        let made = [File::create_new(&new[0])?, File::create_new(&new[1])?];
        for (n, from) in (0..a.size).step_by(SLICE).enumerate() {
            for turn in 0..kinds.len() {
                // Nobody is always first.
                let kind = (turn + round + n) % kinds.len();
                let file = &files[kind];
                // The server of this kind has slept while the others had their turns.
                for at in from..from + 2 {
                    file.write_all_at(buffer, (at * MIB) as u64)?;
                }
                rewrite[kind].push(timed(from, |at| file.write_all_at(buffer, at))?);
                read[kind].push(timed(from, |at| file.read_exact_at(buffer, at))?);
                let (file, from) = match made.get(kind) {
                    Some(file) => (file, from),
                    None => (file, a.size + from),
                };
                fresh[kind].push(timed(from, |at| file.write_all_at(buffer, at))?);
            }
        }
        drop(made);
        for path in &new {
            fs::remove_file(path)?;
        }
    }

    let [rewrite_tmpfs, rewrite_ours, rewrite_empty] = rewrite;
    let [read_tmpfs, read_ours, read_empty] = read;
    let [fresh_tmpfs, fresh_ours, fresh_empty] = fresh;
    let measures = [
        Measure {
            name: "fuse.write_1m_vs_tmpfs",
            ours: rewrite_ours.clone(),
            baseline: rewrite_tmpfs,
        },
        Measure {
            name: "fuse.write_1m_vs_empty_loop",
            ours: rewrite_ours,
            baseline: rewrite_empty,
        },
        Measure {
            name: "fuse.read_1m_vs_empty_loop",
            ours: read_ours.clone(),
            baseline: read_empty,
        },
        Measure {
            name: "fuse.read_1m_vs_tmpfs",
            ours: read_ours,
            baseline: read_tmpfs,
        },
        Measure {
            name: "fuse.write_new_1m_vs_tmpfs",
            ours: fresh_ours.clone(),
            baseline: fresh_tmpfs,
        },
        Measure {
            name: "fuse.write_new_1m_vs_empty_loop",
            ours: fresh_ours,
            baseline: fresh_empty,
        },
    ];
    let entries: Vec<String> = measures.iter().map(Measure::json).collect();
    println!("[{}]", entries.join(",\n "));
    Ok(())
}
