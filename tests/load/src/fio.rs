// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! fio as a writer and as a judge. One run of it writes some files, new or written before, one behind the other;
//! when it ends they are acknowledged as a whole. Each block of 4 KiB has fio's header with a checksum, and for the
//! rest a pattern that tells the run that wrote it.
//!
//! Which blocks of a run that was cut short had been acknowledged fio cannot tell, so nothing is concluded from
//! it alone: it wrote one piece at a time, so there are files that are done, one that was under way, files that have
//! not been touched; and in one that is written in order new blocks, one piece, old blocks. A piece that overwrites
//! may be any mix (LAYOUT.md, section 14); elsewhere, a block is there or not.

use crate::{dead, Fate, Load, Rng};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const PROGRAM: &str = "/usr/bin/fio";
const BLOCK: usize = 4096;
/// Of each file.
const BLOCKS: usize = 512;
/// At most.
const FILES: usize = 16;
/// In a run: it takes half a second and more until fio begins to write.
const AT_ONCE: usize = 6;

/// One run of fio.
#[derive(Clone, Debug)]
struct Run {
    /// The pattern of its blocks, and no other's.
    stamp: u64,
    /// In this order.
    places: Vec<Place>,
    /// Blocks written at once.
    piece: usize,
    random: bool,
    engine: &'static str,
    direct: bool,
    /// Room for a whole file is allocated first.
    allocated: bool,
    sync: &'static str,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    file: usize,
    /// Written before by the run with this pattern.
    over: Option<u64>,
}

/// What a block is after a run that was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Old,
    New,
    /// Neither.
    Torn,
}

struct Fio {
    random: Rng,
    runs: u64,
    /// The pattern of each: that of the run that wrote it last.
    files: Vec<u64>,
    /// What is there before all others.
    first: Run,
    flight: Option<Run>,
}

/// One, if there is a fio.
#[must_use]
pub fn start(random: &mut Rng) -> Vec<Box<dyn Load>> {
    let mut random = Rng(random.word());
    if !Path::new(PROGRAM).exists() {
        return Vec::new();
    }
    let first = Run::choose(&mut random, 0, &[]);
    let mut fio = Fio {
        random,
        runs: 0,
        files: Vec::new(),
        first: first.clone(),
        flight: None,
    };
    fio.is_done(&first);
    vec![Box::new(fio)]
}

fn path(root: &Path, file: usize) -> String {
    format!("{}/fio{file}", root.display())
}

impl Run {
    /// One where there are `files` with these patterns.
    fn choose(random: &mut Rng, number: u64, files: &[u64]) -> Run {
        let mut places: Vec<Place> = Vec::new();
        let mut new = files.len();
        while places.len() < AT_ONCE {
            let file = random.below(files.len() as u64 + 3) as usize;
            if let Some(stamp) = files.get(file) {
                if places.iter().all(|place| place.file != file) {
                    let over = Some(*stamp);
                    places.push(Place { file, over });
                }
            } else if new < FILES {
                let file = new;
                places.push(Place { file, over: None });
                new += 1;
            }
        }
        let overwrites = places.iter().all(|place| place.over.is_some());
        let mut piece = *random.pick(&[1, 1, 1, 4, 16]);
        let engine = match random.below(5) {
            0..=2 => "psync",
            3 => "pvsync2",
            // Through a mapping what is new is not written whole: it is for what is there.
            _ if overwrites => "mmap",
            _ => "io_uring",
        };
        if engine == "mmap" {
            piece = 1;
        }
        let sync = *random.pick(&["--fsync=32", "--fdatasync=8", "--fsync=0"]);
        Run {
            // Neither zeros nor another run's.
            stamp: random.word() << 16 | (number + 1),
            places,
            piece,
            random: random.one_in(3),
            engine,
            direct: engine != "mmap" && random.one_in(2),
            allocated: random.one_in(3),
            sync,
        }
    }

    fn carry_out(&self, root: &Path) -> Output {
        let files = self.places.iter().map(|place| path(root, place.file));
        let files = files.collect::<Vec<_>>().join(":");
        let order = if self.random { "randwrite" } else { "write" };
        let allocate = if self.allocated { "native" } else { "none" };
        let mut fio = Command::new(PROGRAM);
        // Its own files lie where it runs.
        fio.current_dir("/tmp")
            .args(["--name=load", "--thread", "--verify=crc32c"])
            .args(["--do_verify=0", "--verify_state_save=0", "--end_fsync=1"])
            .arg(format!("--filename={files}"))
            .arg("--file_service_type=sequential")
            .arg(format!("--filesize={}", BLOCKS * BLOCK))
            .arg(format!("--size={}", self.places.len() * BLOCKS * BLOCK))
            .arg(format!("--bs={}", self.piece * BLOCK))
            .arg(format!("--verify_interval={BLOCK}"))
            .arg(format!("--verify_pattern={:#018x}", self.stamp))
            .arg(format!("--randseed={}", self.stamp >> 1))
            .arg(format!("--ioengine={}", self.engine))
            .arg(format!("--direct={}", u8::from(self.direct)))
            .arg(format!("--rw={order}"))
            .arg(format!("--fallocate={allocate}"))
            .arg(self.sync);
        fio.output().expect("fio runs")
    }

    /// What each block is: its contents, and whether fio has something against it.
    fn blocks(&self, over: Option<u64>, content: &[u8], bad: &BTreeSet<usize>) -> Vec<Block> {
        let kind = |n: usize| {
            let block = content.get(n * BLOCK..).unwrap_or_default();
            let block = &block[..block.len().min(BLOCK)];
            match (stamp_of(block), over) {
                (Some(stamp), _) if stamp == self.stamp && !bad.contains(&n) => Block::New,
                (Some(stamp), Some(old)) if stamp == old && !bad.contains(&n) => Block::Old,
                // A hole, or not there yet.
                (_, None) if block.iter().all(|byte| *byte == 0) => Block::Old,
                _ => Block::Torn,
            }
        };
        (0..BLOCKS).map(kind).collect()
    }

    /// Could this be what is left of it in one file?
    fn judge(&self, over: Option<u64>, blocks: &[Block]) -> Result<Fate, String> {
        let count = |kind| blocks.iter().filter(|block| **block == kind).count();
        match (count(Block::New), count(Block::Torn)) {
            (0, 0) => return Ok(Fate::Before),
            (new, _) if new == blocks.len() => return Ok(Fate::After),
            (_, torn) if torn > 0 && over.is_none() => {
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
        self.runs += 1;
        Run::choose(&mut self.random, self.runs, &self.files)
    }

    fn is_done(&mut self, run: &Run) {
        for place in &run.places {
            match self.files.get_mut(place.file) {
                Some(file) => *file = run.stamp,
                None => self.files.push(run.stamp),
            }
        }
    }

    /// What became of a run whose files were judged each by itself, in its order.
    fn together(fates: &[Fate]) -> Result<Fate, String> {
        let done = fates.iter().take_while(|fate| **fate == Fate::After);
        let done = done.count();
        let behind = fates.get(done + 1..).unwrap_or_default();
        if behind.iter().any(|fate| *fate != Fate::Before) {
            return Err(format!(
                "a file is not there, and one behind it is: {fates:?}"
            ));
        }
        Ok(match fates.get(done) {
            None => Fate::After,
            Some(Fate::Before) if done == 0 => Fate::Before,
            Some(_) => Fate::Part,
        })
    }
}

impl Load for Fio {
    fn prepare(&self, root: &Path) {
        let output = self.first.carry_out(root);
        assert!(
            output.status.success(),
            "{:?}: {}",
            self.first,
            said(&output)
        );
    }

    fn step(&mut self, root: &Path) -> bool {
        let run = self.choose();
        self.flight = Some(run.clone());
        let output = run.carry_out(root);
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
        let run = self.flight.take();
        let places = run.as_ref().map_or(&[][..], |run| &run.places);
        let new = places.iter().filter(|place| place.over.is_none()).count();
        let mut contents = Vec::new();
        for file in 0..self.files.len() + new {
            match fs::read(path(root, file)) {
                Ok(content) => contents.push(content),
                // It had not been made yet.
                Err(_) if file >= self.files.len() => contents.push(Vec::new()),
                Err(e) => return Err(format!("{}: {e}", path(root, file))),
            }
        }
        let bad = verify(root, &contents)?;
        for (file, stamp) in self.files.iter().enumerate() {
            if places.iter().any(|place| place.file == file) {
                continue;
            }
            let content = &contents[file];
            let failed = |e| {
                Err(format!(
                    "{}, {} bytes: {e}",
                    path(root, file),
                    content.len()
                ))
            };
            let other = |block: &[u8]| stamp_of(block) != Some(*stamp);
            if content.len() != BLOCKS * BLOCK || content.chunks(BLOCK).any(other) {
                return failed("not what was acknowledged".to_owned());
            }
            if let Some(first) = bad[file].first() {
                return failed(format!("fio says that block {first} is damaged"));
            }
        }
        let Some(run) = run else {
            return Ok(Fate::None);
        };
        let mut fates = Vec::new();
        for Place { file, over } in run.places.iter().copied() {
            let fate = run.judge(over, &run.blocks(over, &contents[file], &bad[file]));
            fates.push(fate.map_err(|e| format!("{}: {e}: {run:?}", path(root, file)))?);
        }
        Fio::together(&fates)
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
            fio.arg(format!("--name=fio{file}"))
                .arg(format!("--filename={}", path(root, file)))
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
    let run = |random, piece| Run {
        random,
        piece,
        stamp: 2,
        ..Run::choose(&mut Rng(1), 0, &[])
    };
    let (in_order, pairs, shuffled) = (run(false, 1), run(false, 2), run(true, 1));
    let over = |run: &Run, blocks: [Block; 4]| run.judge(Some(1), &blocks);
    assert_eq!(over(&in_order, [Old; 4]), Ok(Fate::Before));
    assert_eq!(over(&in_order, [New; 4]), Ok(Fate::After));
    assert_eq!(over(&in_order, [New, Torn, Old, Old]), Ok(Fate::Part));
    assert!(
        over(&in_order, [New, Old, New, Old]).is_err(),
        "one is lost"
    );
    assert!(over(&in_order, [New, Torn, Torn, Old]).is_err(), "two torn");
    assert!(
        over(&in_order, [New, Old, Torn, Old]).is_err(),
        "torn behind"
    );
    assert_eq!(over(&pairs, [Torn, New, Old, Old]), Ok(Fate::Part));
    assert!(over(&pairs, [New, Torn, Torn, Old]).is_err(), "two pieces");
    assert_eq!(over(&shuffled, [Old, New, Torn, New]), Ok(Fate::Part));
    assert!(over(&shuffled, [Torn, New, Torn, New]).is_err(), "two torn");
    let new = |blocks: [Block; 4]| in_order.judge(None, &blocks);
    assert_eq!(new([New, New, Old, Old]), Ok(Fate::Part));
    assert!(new([New, Torn, Old, Old]).is_err(), "new ones are whole");

    let together = |fates: &[Fate]| Fio::together(fates);
    let (before, part, after) = (Fate::Before, Fate::Part, Fate::After);
    assert_eq!(together(&[before, before]), Ok(before));
    assert_eq!(together(&[after, before]), Ok(part));
    assert_eq!(together(&[after, after]), Ok(after));
    assert!(together(&[before, part]).is_err(), "the first is lost");
    assert!(together(&[part, part]).is_err(), "not one at a time");

    let line = "crc32c: verify failed at file /mnt/fio1 offset 8192, length 4096 (requested block: offset=8192)";
    assert_eq!(damaged(line), Some((1, 2)));
    let mut content = vec![0; 2 * BLOCK];
    content[BLOCK - 1] = 2;
    let blocks = |bad| in_order.blocks(None, &content, &BTreeSet::from([bad]))[..3].to_vec();
    assert_eq!(blocks(1), [New, Old, Old], "a hole, and what is not there");
    assert_eq!(blocks(0), [Torn, Old, Old]);
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
    writer.prepare(&root);
    assert!((0..2).all(|_| writer.step(&root)), "nobody ends it");
    let judge = |count, under_way| {
        let mut judge = load().expect("fio is there");
        (0..count).for_each(|_| judge.follow());
        if under_way {
            judge.follow_under_way();
        }
        judge.check(&root)
    };
    assert_eq!(judge(2, true), Ok(Fate::Before));
    assert_eq!(judge(1, true), Ok(Fate::After));
    assert!(judge(3, true).is_err(), "a run is lost");
    let file = fs::File::options().write(true).open(path(&root, 0));
    file.and_then(|file| file.write_at(b"x", 5 * BLOCK as u64 + 100))
        .expect("write");
    let e = judge(2, false).expect_err("a byte is another one");
    assert!(e.contains("block 5"), "{e}");
    fs::remove_dir_all(&root).expect("remove");
}
