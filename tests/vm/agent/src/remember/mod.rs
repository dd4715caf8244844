// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Programs for checkpoints and what they do to memory.
//!
//! `/init remember SEED MIB DIR [FILES]`: three processes with memory of every kind, which know what it must hold,
//! do with it by chance what programs do, and look all the time. The file `DIR/phase` says when to come to an end
//! (`end`): then everything is compared, and `DIR/good` made. `DIR/wrong` says what was not as it must be;
//! `DIR/beat-N` counts while process N goes on. Private mappings of files are of files in FILES.
//!
//! `/init pages save|compare FILE PID...`: all memory of processes, page by page.
//!
//! `/init change FILE OFFSET COUNT`: another bit in so many pages behind OFFSET that are no holes.
//!
//! `/init drain kill|stop|go COUNT`: the process that gives restored processes their memory.

mod drain;
mod model;
mod pages;
mod random;
mod shared;
mod system;
mod things;

use model::{Kind, Model, Page};
use random::{mix, word, Random};
use shared::Shared;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use system::{PAGE, WORDS};
use things::Things;

pub use drain::main as drain;
pub use pages::{change, main as pages};

const PROCESSES: u64 = 3;
const THREADS: u64 = 2;
const MIB: u64 = 1 << 20;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Where the memory of a thread lies.
fn base(thread: u64) -> u64 {
    0x2000_0000_0000 + (thread << 40)
}

struct Setting {
    seed: u64,
    mib: u64,
    dir: PathBuf,
    files: PathBuf,
}

pub fn main(args: &[String]) -> Result<(), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
    let (seed, mib, dir, files) = match args {
        [seed, mib, dir] => (seed, mib, dir, dir),
        [seed, mib, dir, files] => (seed, mib, dir, files),
        _ => return Err("usage: /init remember SEED MIB DIR [FILES]".to_owned()),
    };
    let setting = Setting {
        seed: mix(number(seed)?),
        mib: number(mib)?,
        dir: PathBuf::from(dir),
        files: PathBuf::from(files),
    };
    let wrong = setting.dir.join("wrong");
    std::panic::set_hook(Box::new(move |info| {
        let text = format!("process {}: {info}\n", std::process::id());
        let file = OpenOptions::new().create(true).append(true).open(&wrong);
        let _ = file.and_then(|mut file| file.write_all(text.as_bytes()));
        // All threads: what is wrong once must not be made good by others.
        system::exit(3);
    }));
    system::block_queued();
    live(&setting);
    fs::write(setting.dir.join("good"), "").map_err(|e| e.to_string())
}

/// Makes the memory, and the processes that have it.
fn live(setting: &Setting) {
    let mut random = Random(setting.seed);
    let models: Vec<Model> = (0..THREADS)
        .map(|thread| private(setting, &mut random, thread))
        .collect();
    let shared = shared_memory(setting);
    // Each process is the child of the one before.
    process(setting, 0, models, shared);
}

fn process(setting: &Setting, number: u64, mut models: Vec<Model>, mut shared: Vec<Shared>) {
    let mut random = Random(mix(setting.seed ^ number << 8));
    let mut child = None;
    if number + 1 < PROCESSES {
        let (mut models, shared) = (models.clone(), shared.clone());
        models.iter_mut().for_each(Model::forked);
        child = Some(system::fork(|| {
            process(setting, number + 1, models, shared);
        }));
    }
    shared
        .iter_mut()
        .for_each(|shared| shared.begin(&mut random, number));
    let mut things = Things::new(&mut random);
    let rest = models.split_off(1);
    std::thread::scope(|scope| {
        for (thread, model) in (1..).zip(rest) {
            let random = Random(mix(setting.seed ^ number << 8 ^ thread));
            scope.spawn(move || {
                work(setting, random, model, &mut |_, _| {});
            });
        }
        let mut beats = 0u64;
        let model = models.remove(0);
        work(setting, random, model, &mut |random, beat| {
            for shared in &mut shared {
                shared.step(random, number);
            }
            things.step(random);
            if beat {
                beats += 1;
                let path = setting.dir.join(format!("beat-{number}"));
                fs::write(path, beats.to_string()).expect("a heartbeat");
            }
        });
    });
    shared
        .iter_mut()
        .for_each(|shared| shared.check_all(number));
    things.end();
    if let Some(child) = child {
        assert_eq!(
            system::ended(child, true),
            Some(0),
            "how process {} ended",
            number + 1
        );
    }
}

/// A thread: until the end is said.
fn work(
    setting: &Setting,
    mut random: Random,
    mut model: Model,
    more: &mut dyn FnMut(&mut Random, bool),
) {
    let mut children = Vec::new();
    let mut over = false;
    while !over {
        let (key, depth) = (random.next() | 1, 1 + random.below(40));
        things::on_a_stack(key, depth, &mut || {
            for _ in 0..1 + random.below(12) {
                if fs::read(setting.dir.join("phase")).is_ok_and(|phase| phase == b"end") {
                    over = true;
                    break;
                }
                for step in 0..24 {
                    model.step(&mut random);
                    if step % 3 == 0 {
                        more(&mut random, false);
                    }
                }
                more(&mut random, true);
                if random.one_in(8) && children.is_empty() {
                    children.push(offspring(&model, &mut random));
                }
                children.retain(|child| !has_ended(*child, false));
                // Leaves the processor to others, and something for the drain to meet.
                std::thread::sleep(Duration::from_micros(random.below(10_000)));
            }
        });
    }
    model.check_all();
    children.into_iter().for_each(|child| {
        has_ended(child, true);
    });
}

/// A child that has the memory for a while, as it was and as it makes it.
fn offspring(model: &Model, random: &mut Random) -> i32 {
    let mut random = Random(random.next());
    let mut model = model.clone();
    model.forked();
    system::fork(move || {
        for _ in 0..random.below(100) {
            model.step(&mut random);
        }
        if random.one_in(8) {
            model.check_all();
        } else {
            model.check_some(&mut random, 100);
        }
    })
}

fn has_ended(child: i32, wait: bool) -> bool {
    let status = system::ended(child, wait);
    if let Some(status) = status {
        assert_eq!(status, 0, "how a child ended");
    }
    status.is_some()
}

/// Private memory of each kind.
fn private(setting: &Setting, random: &mut Random, thread: u64) -> Model {
    let base = base(thread);
    let mut model = Model {
        pages: Default::default(),
        sparse: 0..0,
        fresh: base,
        end: base + (1 << 40),
    };
    let mib = if thread == 0 { setting.mib } else { 1 };
    // One part where huge pages are not asked for, one where they are.
    for (advice, size) in [
        (None, mib * MIB / 2),
        (Some(libc::MADV_HUGEPAGE), mib * MIB / 2),
    ] {
        model.fresh = model.fresh.next_multiple_of(2 * MIB);
        let at = area(&mut model, Kind::Plain, size, ANONYMOUS, None);
        if let Some(advice) = advice {
            let _ = system::advise(at, size, advice);
        }
        plain(&mut model, random, at, size);
    }
    let size = MIB / 4;
    let at = area(&mut model, Kind::Locked, size, ANONYMOUS, None);
    fill(&mut model, random, at, size);
    system::lock(at, size);
    let at = area(&mut model, Kind::Wiped, size, ANONYMOUS, None);
    system::advise(at, size, libc::MADV_WIPEONFORK).expect("MADV_WIPEONFORK");
    fill(&mut model, random, at, size);
    guarded(&mut model, random);
    // Far more than there is memory; written here and there.
    let size = 8 << 30;
    let at = model.room(size);
    system::map(at, size, ANONYMOUS | libc::MAP_NORESERVE, None);
    // Where huge pages are given unasked each of the pages would be 2 MiB, in every process.
    let _ = system::advise(at, size, libc::MADV_NOHUGEPAGE);
    model.sparse = at..at + size;
    for _ in 0..64 {
        let addr = at + random.below(size / PAGE) * PAGE;
        model.pages.insert(addr, Page::new(Kind::Sparse, 0));
        model.fill(addr, random.next());
    }
    for (number, dir) in [&setting.dir, &setting.files].iter().enumerate() {
        let path = dir.join(format!("private-{}-{thread}-{number}", setting.seed));
        file(&mut model, random, Some(&path));
    }
    file(&mut model, random, None);
    model
}

/// Maps, and has the pages in the model.
fn area(model: &mut Model, kind: Kind, size: u64, flags: i32, file: Option<&File>) -> u64 {
    let at = model.room(size);
    system::map(at, size, flags, file);
    for addr in (at..at + size).step_by(PAGE as usize) {
        model.pages.insert(addr, Page::new(kind, 0));
    }
    at
}

fn fill(model: &mut Model, random: &mut Random, at: u64, size: u64) {
    for addr in (at..at + size).step_by(PAGE as usize) {
        model.fill(addr, random.next());
    }
}

/// Runs of pages: filled, never touched, written with zeros, given back, protected.
fn plain(model: &mut Model, random: &mut Random, at: u64, size: u64) {
    let mut start = at;
    while start < at + size {
        let len = ((1 + random.below(64)) * PAGE).min(at + size - start);
        match random.below(12) {
            0 => {}
            1 => (start..start + len)
                .step_by(PAGE as usize)
                .for_each(|addr| model.fill(addr, 0)),
            2 => {
                fill(model, random, start, len);
                model.zap(start, len);
            }
            what => {
                fill(model, random, start, len);
                let prot = [libc::PROT_NONE, libc::PROT_READ];
                if let Some(prot) = prot.get(what as usize - 3) {
                    model.protect(start, len, *prot);
                }
            }
        }
        start += len;
    }
}

/// Pages that nobody can read among others.
fn guarded(model: &mut Model, random: &mut Random) {
    const MADV_GUARD_INSTALL: i32 = 102;
    let size = 16 * PAGE;
    let at = area(model, Kind::Plain, size, ANONYMOUS, None);
    fill(model, random, at, size);
    if system::advise(at + 4 * PAGE, 4 * PAGE, MADV_GUARD_INSTALL).is_ok() {
        for number in 4..8 {
            let addr = at + number * PAGE;
            model.pages.insert(addr, Page::new(Kind::Guard, 0));
        }
    }
    // None of them is to be moved or unmapped: the model does so only with plain pages.
    for (_, page) in model.pages.range_mut(at..at + size) {
        if page.kind == Kind::Plain {
            page.kind = Kind::Sparse;
        }
    }
}

/// A file with content, mapped privately; every third page is a copy. Without a path: a memfd.
fn file(model: &mut Model, random: &mut Random, path: Option<&Path>) {
    let pages = 96;
    let key = random.next() | 1;
    let bytes: Vec<u8> = (0..pages)
        .flat_map(|page| (0..WORDS).map(move |index| word(mix(key ^ page) | 1, index)))
        .flat_map(u64::to_ne_bytes)
        .collect();
    let file = match path {
        Some(path) => {
            fs::write(path, &bytes).expect("a file");
            File::open(path).expect("a file")
        }
        None => {
            let mut file = system::memfd();
            file.write_all(&bytes).expect("a memfd");
            file
        }
    };
    let at = area(
        model,
        Kind::File,
        pages * PAGE,
        libc::MAP_PRIVATE,
        Some(&file),
    );
    for page in 0..pages {
        let of_file = Page::new(Kind::File, mix(key ^ page) | 1);
        model.pages.insert(at + page * PAGE, of_file);
        if page % 3 == 0 {
            model.fill(at + page * PAGE, random.next());
        }
    }
}

/// Memory that the processes share, of each kind.
fn shared_memory(setting: &Setting) -> Vec<Shared> {
    let pages = 60;
    let size = pages * PAGE;
    let at = |number: u64| base(THREADS) + number * 64 * MIB;
    let new = |name, at| Shared::new(name, at, pages, setting.seed, PROCESSES);
    let mut all = Vec::new();
    let anonymous = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    system::map(at(0), size, anonymous, None);
    all.push(new("shared anonymous memory", at(0)));
    let memfd = system::memfd();
    memfd.set_len(size).expect("a memfd");
    system::map(at(1), size, libc::MAP_SHARED, Some(&memfd));
    all.push(new("a memfd", at(1)));
    for (number, dir) in (2..).zip([&setting.dir, &setting.files]) {
        let path = dir.join(format!("shared-{}-{number}", setting.seed));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(path);
        let file = file.expect("a file");
        file.set_len(size).expect("a file");
        system::map(at(number), size, libc::MAP_SHARED, Some(&file));
        all.push(new("a shared file", at(number)));
    }
    if setting.seed % 2 == 0 {
        system::own_segments();
        system::segment(at(4), size);
        all.push(new("a SysV segment", at(4)));
    }
    all
}
