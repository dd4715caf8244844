// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! fio as a writer and as a judge. One run of it writes one file, new or written before; when it ends the whole
//! file is acknowledged. Each block of 4 KiB has fio's header with a checksum, and for the rest a pattern that
//! tells the run that wrote it.
//!
//! Which blocks of a run that was cut short had been acknowledged fio cannot tell, so nothing is concluded from
//! it alone: it wrote one piece at a time, so a sequential run leaves new blocks, one piece that was under way,
//! old blocks. A piece that overwrites may be any mix (LAYOUT.md, section 14); elsewhere, a block is there or not.

use crate::{dead, Fate, Load, Rng};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const PROGRAM: &str = "/usr/bin/fio";
const BLOCK: usize = 4096;
/// At most, of up to 16 MiB each.
const FILES: usize = 8;

/// One run of fio.
#[derive(Clone, Debug)]
struct Run {
    /// The pattern of its blocks, and no other's.
    stamp: u64,
    file: usize,
    /// Written before by the run with this pattern.
    over: Option<u64>,
    blocks: usize,
    /// Blocks written at once.
    piece: usize,
    random: bool,
    engine: &'static str,
    direct: bool,
    /// Room for all of it is allocated first.
    allocated: bool,
    sync: &'static str,
}

/// What a block is after a run that was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Old,
    New,
    /// Neither.
    Torn,
}

/// A file that was written whole: its last run's pattern, and its size in blocks.
type Written = (u64, usize);

struct Fio {
    random: Rng,
    runs: u64,
    files: Vec<Written>,
    flight: Option<Run>,
}

/// One, if there is a fio.
#[must_use]
pub fn start(random: &mut Rng) -> Vec<Box<dyn Load>> {
    let random = Rng(random.word());
    if !Path::new(PROGRAM).exists() {
        return Vec::new();
    }
    vec![Box::new(Fio {
        random,
        runs: 0,
        files: Vec::new(),
        flight: None,
    })]
}

fn name(file: usize) -> String {
    format!("fio{file}")
}

impl Run {
    fn command(&self, root: &Path) -> Command {
        let mut fio = Command::new(PROGRAM);
        // Its own files lie where it runs.
        fio.current_dir("/tmp")
            .args(["--name=load", "--thread", "--verify=crc32c"])
            .args(["--do_verify=0", "--verify_state_save=0", "--end_fsync=1"])
            .arg(format!(
                "--filename={}",
                root.join(name(self.file)).display()
            ))
            .arg(format!("--verify_pattern={:#018x}", self.stamp))
            .arg(format!("--verify_interval={BLOCK}"))
            .arg(format!("--size={}", self.blocks * BLOCK))
            .arg(format!("--bs={}", self.piece * BLOCK))
            .arg(format!("--randseed={}", self.stamp >> 1))
            .arg(format!("--ioengine={}", self.engine))
            .arg(format!("--direct={}", u8::from(self.direct)))
            .arg(if self.random {
                "--rw=randwrite"
            } else {
                "--rw=write"
            })
            .arg(if self.allocated {
                "--fallocate=native"
            } else {
                "--fallocate=none"
            })
            .arg(self.sync);
        fio
    }

    /// What each block is: its contents, and whether fio has something against it.
    fn blocks(&self, content: &[u8], bad: &BTreeSet<usize>) -> Vec<Block> {
        let kind = |n: usize| {
            let block = content.get(n * BLOCK..).unwrap_or_default();
            let block = &block[..block.len().min(BLOCK)];
            match (stamp_of(block), self.over) {
                (Some(stamp), _) if stamp == self.stamp && !bad.contains(&n) => Block::New,
                (Some(stamp), Some(old)) if stamp == old && !bad.contains(&n) => Block::Old,
                // A hole, or not there yet.
                (_, None) if block.iter().all(|byte| *byte == 0) => Block::Old,
                _ => Block::Torn,
            }
        };
        (0..self.blocks).map(kind).collect()
    }

    /// Could this be what is left of it?
    fn judge(&self, blocks: &[Block]) -> Result<Fate, String> {
        let count = |kind| blocks.iter().filter(|block| **block == kind).count();
        match (count(Block::New), count(Block::Torn)) {
            (0, 0) => return Ok(Fate::Before),
            (new, _) if new == blocks.len() => return Ok(Fate::After),
            (_, torn) if torn > 0 && self.over.is_none() => {
                return Err("a new block is torn".into());
            }
            _ => {}
        }
        let of = |kind: fn(Block) -> bool| (0..blocks.len()).filter(move |n| kind(blocks[*n]));
        let mut torn = of(|block| block == Block::Torn).peekable();
        let under_way = match self.random {
            true => torn.peek().copied(),
            false => of(|block| block != Block::New).next(),
        };
        // More than one piece was not under way.
        let end = under_way.map_or(0, |n| (n / self.piece + 1) * self.piece);
        if let Some(n) = torn.find(|n| *n >= end) {
            return Err(format!(
                "block {n} is torn, and {under_way:?} was under way"
            ));
        }
        let behind = blocks.get(end..).unwrap_or_default();
        match behind.iter().position(|block| *block == Block::New) {
            Some(n) if !self.random => Err(format!(
                "block {} was written, and what was written before it is not there",
                end + n
            )),
            _ => Ok(Fate::Part),
        }
    }
}

/// The pattern of a whole block.
fn stamp_of(block: &[u8]) -> Option<u64> {
    let word = block.get(BLOCK - 8..BLOCK)?;
    Some(u64::from_be_bytes(word.try_into().expect("8 bytes")))
}

impl Fio {
    fn choose(&mut self) -> Run {
        let random = &mut self.random;
        self.runs += 1;
        // Neither zeros nor another run's.
        let stamp = random.word() << 16 | self.runs;
        let over = match self.files.len() {
            0 => None,
            n if n < FILES && random.one_in(3) => None,
            n => Some(random.below(n as u64) as usize),
        };
        let mut piece = *random.pick(&[1, 1, 1, 4, 16]);
        let blocks = match over {
            Some(file) => self.files[file].1,
            None => 16 * (16 + random.below(240)) as usize,
        };
        let shuffled = random.one_in(3);
        let sync = *random.pick(&["--fsync=32", "--fdatasync=8", "--fsync=0"]);
        // Through a mapping what is new is not written whole: it is for what is there.
        let engine = match random.below(5) {
            0..=2 => "psync",
            3 => "pvsync2",
            _ if over.is_some() => "mmap",
            _ => "io_uring",
        };
        if engine == "mmap" {
            piece = 1;
        }
        Run {
            stamp,
            file: over.unwrap_or(self.files.len()),
            over: over.map(|file| self.files[file].0),
            blocks,
            piece,
            random: shuffled,
            engine,
            direct: engine != "mmap" && random.one_in(2),
            allocated: random.one_in(3),
            sync,
        }
    }

    fn is_done(&mut self, run: &Run) {
        let written = (run.stamp, run.blocks);
        match self.files.get_mut(run.file) {
            Some(file) => *file = written,
            None => self.files.push(written),
        }
    }
}

impl Load for Fio {
    fn prepare(&self, _root: &Path) {}

    fn step(&mut self, root: &Path) -> bool {
        let run = self.choose();
        self.flight = Some(run.clone());
        let output = run.command(root).output().expect("fio runs");
        if !output.status.success() {
            let gone = fs::metadata(root).is_err_and(|e| dead(&e, root));
            assert!(gone, "{run:?}: {}", said(&output));
            return false;
        }
        self.flight = None;
        self.is_done(&run);
        true
    }

    fn follow(&mut self) {
        let run = self.choose();
        self.is_done(&run);
    }

    fn follow_under_way(&mut self) {
        self.flight = Some(self.choose());
    }

    fn check(&mut self, root: &Path) -> Result<Fate, String> {
        let under_way = self.flight.take();
        let mut contents = Vec::new();
        let known = self.files.len();
        let new = under_way.iter().filter(|run| run.file == known).count();
        for file in 0..known + new {
            match fs::read(root.join(name(file))) {
                Ok(content) => contents.push(content),
                // It had not been made yet.
                Err(_) if file == known => contents.push(Vec::new()),
                Err(e) => return Err(format!("{}: {e}", name(file))),
            }
        }
        let bad = verify(root, &contents)?;
        let mut fate = Fate::None;
        for (file, content) in contents.iter().enumerate() {
            let failed = |e| format!("{}, {} bytes: {e}", name(file), content.len());
            if let Some(run) = under_way.as_ref().filter(|run| run.file == file) {
                let judged = run.judge(&run.blocks(content, &bad[file]));
                fate = judged.map_err(|e| failed(format!("{run:?}: {e}")))?;
                continue;
            }
            let (stamp, blocks) = self.files[file];
            let other = |block: &[u8]| stamp_of(block) != Some(stamp);
            if content.len() != blocks * BLOCK || content.chunks(BLOCK).any(other) {
                return Err(failed("not what was acknowledged".into()));
            }
            if let Some(first) = bad[file].first() {
                return Err(failed(format!("fio says that block {first} is damaged")));
            }
        }
        Ok(fate)
    }
}

/// Has fio verify all files, and returns of each the blocks that it finds damaged. What was never written is
/// among them.
fn verify(root: &Path, contents: &[Vec<u8>]) -> Result<Vec<BTreeSet<usize>>, String> {
    let mut bad = vec![BTreeSet::new(); contents.len()];
    let mut fio = Command::new(PROGRAM);
    fio.current_dir("/tmp").args([
        "--thread",
        "--rw=read",
        "--verify=crc32c",
        "--continue_on_error=verify",
        "--verify_state_save=0",
        "--output-format=terse",
        "--terse-version=3",
    ]);
    fio.arg(format!("--bs={BLOCK}"));
    let mut sum = 0;
    for (file, content) in contents.iter().enumerate() {
        let whole = content.len() / BLOCK * BLOCK;
        if whole > 0 {
            fio.arg(format!("--name={}", name(file)))
                .arg(format!("--filename={}", root.join(name(file)).display()))
                .arg(format!("--size={whole}"));
            sum += whole as u64 >> 10;
        }
    }
    if sum == 0 {
        return Ok(bad);
    }
    let output = fio.output().map_err(|e| format!("{PROGRAM}: {e}"))?;
    let text = said(&output);
    let mut read = 0;
    for line in text.lines() {
        if let Some((file, block)) = damaged(line) {
            let blocks = bad.get_mut(file).ok_or_else(|| text.clone())?;
            blocks.insert(block);
        } else if line.starts_with("3;fio") {
            // The sixth field: KiB that were read.
            let number = line.split(';').nth(5).and_then(|n| n.parse::<u64>().ok());
            read += number.unwrap_or(0);
        }
    }
    match read == sum {
        true => Ok(bad),
        false => Err(format!("fio has read {read} KiB of {sum}: {text}")),
    }
}

/// `…: verify failed at file /mnt/fio1 offset 409600, length 4096 (…)`
fn damaged(line: &str) -> Option<(usize, usize)> {
    let (path, rest) = line.split_once(" at file ")?.1.split_once(" offset ")?;
    let file = path.rsplit_once("/fio")?.1.parse().ok()?;
    let offset: usize = rest.split_once(',')?.0.parse().ok()?;
    Some((file, offset / BLOCK))
}

fn said(output: &Output) -> String {
    let mut text = format!("{}\n", output.status);
    for bytes in [&output.stdout, &output.stderr] {
        let _ = writeln!(text, "{}", String::from_utf8_lossy(bytes));
    }
    text
}

#[test]
fn what_no_run_leaves_is_found() {
    use Block::{New, Old, Torn};
    let run = |over: Option<u64>, random, piece| Run {
        stamp: 2,
        file: 0,
        over,
        blocks: 4,
        piece,
        random,
        engine: "psync",
        direct: false,
        allocated: false,
        sync: "",
    };
    let over = run(Some(1), false, 1);
    assert_eq!(over.judge(&[Old; 4]), Ok(Fate::Before));
    assert_eq!(over.judge(&[New; 4]), Ok(Fate::After));
    assert_eq!(over.judge(&[New, Torn, Old, Old]), Ok(Fate::Part));
    assert!(over.judge(&[New, Old, New, Old]).is_err(), "one is lost");
    assert!(over.judge(&[New, Torn, Torn, Old]).is_err(), "two torn");
    assert!(over.judge(&[New, Old, Torn, Old]).is_err(), "torn behind");
    let pairs = run(Some(1), false, 2);
    assert_eq!(pairs.judge(&[Torn, New, Old, Old]), Ok(Fate::Part));
    assert!(pairs.judge(&[New, Torn, Torn, Old]).is_err(), "two pieces");
    let shuffled = run(Some(1), true, 1);
    assert_eq!(shuffled.judge(&[Old, New, Torn, New]), Ok(Fate::Part));
    assert!(shuffled.judge(&[Torn, New, Torn, New]).is_err());
    let new = run(None, false, 1);
    assert_eq!(new.judge(&[New, New, Old, Old]), Ok(Fate::Part));
    assert!(
        new.judge(&[New, Torn, Old, Old]).is_err(),
        "new ones are whole"
    );

    let line = "crc32c: verify failed at file /mnt/fio1 offset 8192, length 4096 (requested block: offset=8192)";
    assert_eq!(damaged(line), Some((1, 2)));
    let mut content = vec![0; 2 * BLOCK];
    content[BLOCK - 1] = 2;
    let whole = new.blocks(&content, &BTreeSet::from([1]));
    assert_eq!(whole, [New, Old, Old, Old], "a hole, and what is not there");
    assert_eq!(new.blocks(&content, &BTreeSet::from([0]))[0], Torn);
}

/// With fio itself, where it is installed: what it wrote is found right, and not when somebody changes it.
#[test]
fn fio_sees_what_is_changed() {
    use std::os::unix::fs::FileExt;
    let load = || start(&mut Rng(3)).pop();
    let Some(mut writer) = load() else {
        println!("SKIPPED: no fio");
        return;
    };
    let root = std::path::PathBuf::from(format!("/dev/shm/rpramfs-fio-{}", std::process::id()));
    fs::create_dir(&root).expect("mkdir");
    assert!((0..3).all(|_| writer.step(&root)), "nobody ends it");
    let judge = |count| {
        let mut judge = load().expect("fio is there");
        (0..count).for_each(|_| judge.follow());
        judge.follow_under_way();
        judge.check(&root)
    };
    assert_eq!(judge(3), Ok(Fate::Before));
    assert_eq!(judge(2), Ok(Fate::After));
    assert!(judge(4).is_err(), "a run is lost");
    let file = fs::File::options().write(true).open(root.join(name(0)));
    file.and_then(|file| file.write_at(b"x", 5 * BLOCK as u64 + 100))
        .expect("write");
    let e = judge(3).expect_err("a byte is another one");
    assert!(e.contains("block 5"), "{e}");
    fs::remove_dir_all(&root).expect("remove");
}
