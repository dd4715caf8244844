// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Mutants of the core's write path, made at its one door: a line that stores is told by where it
//! is called from, so a store can be lost, or made too early, without another build of the core.

use crate::crash::{apply, ends, ground, junk, look, quietly, record_on, Case, Recording};
use crate::env;
use crate::record::{calls, Call, Log, Lost, Recorder, Scratch, Site, Store};
use crate::tree::diff;
use crate::workers;
use fs_core::layout::{marker, slot, SLOT_MAGIC};
use fs_core::{probe, Region, PAGE_SIZE};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a structure is called, by its magic number.
#[must_use]
pub fn structure(magic: u32) -> &'static str {
    match &magic.to_le_bytes() {
        b"RPFR" => "group frontier",
        b"RPIF" => "inode frontier",
        b"RPIS" => "inode shard",
        b"RPCD" => "chunk descriptor",
        b"RPSM" => "summary",
        b"RPJS" => "journal slot",
        b"RPJA" => "account",
        b"RPIN" => "inode",
        b"RPND" => "tree node",
        b"RPXA" => "attributes",
        b"RPRA" => "superblock",
        _ => "payload",
    }
}

/// What lies at an offset; `load` reads words of the region.
fn place(load: &dyn Fn(u64) -> u64, off: u64) -> &'static str {
    if off < PAGE_SIZE {
        let marker = marker::OFFSET..marker::OFFSET + marker::SIZE as u64;
        return if marker.contains(&off) {
            "mount marker"
        } else {
            "superblock"
        };
    }
    let page = off / PAGE_SIZE;
    let slot = (page.saturating_sub(slot::PAGES - 1)..=page)
        .rev()
        .map(|p| p * PAGE_SIZE)
        .find(|p| load(*p) as u32 == SLOT_MAGIC);
    if let Some(slot) = slot {
        return match off - slot {
            at if at >= slot::DATA => "staged sector",
            at if at >= slot::TABLE => "staged table",
            at if at >= slot::ACCOUNT => "account",
            slot::COMMIT if load(off) == 0 => "cleared commit word",
            slot::COMMIT => "commit word",
            _ => "journal header",
        };
    }
    [256, 128, PAGE_SIZE]
        .into_iter()
        .map(|size| structure(load(off / size * size) as u32))
        .find(|name| *name != "payload")
        .unwrap_or("page")
}

/// The steps of docs/LAYOUT.md, section 9. Stores of one step have no order among each other.
#[derive(PartialEq, Eq)]
enum Step {
    /// Pages filled before anything names them, and the transaction staged.
    Prepare,
    Commit,
    Home,
    Clear,
    /// When the marker is taken matters to other processes, not in a crash.
    Marker,
}

fn step(c: &Call) -> Step {
    match c.place {
        "commit word" => Step::Commit,
        "cleared commit word" => Step::Clear,
        "mount marker" => Step::Marker,
        "staged sector" | "staged table" => Step::Prepare,
        _ if c.bulk => Step::Prepare,
        _ => Step::Home,
    }
}

/// Do these two, one behind the other, come in an order that matters?
fn ordered(before: &Call, c: &Call) -> bool {
    match (step(before), step(c)) {
        // Unnamed pages are no business of the transaction that went before: a replay of it does
        // not touch them.
        (Step::Clear, Step::Prepare) if !c.place.starts_with("staged") => false,
        (Step::Marker, _) | (_, Step::Marker) => false,
        (a, b) => a != b,
    }
}

/// One line of the core that stores to one kind of place.
pub type Line = (Site, &'static str);

/// A fault in the write path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// The store is never made.
    Lost(Line),
    /// It is not made the first time in the operation, of several.
    LostFirst(Line),
    /// It is not made the last time in the operation, of several.
    LostLast(Line),
    /// The store comes before the bulk stores that it should come after: no barrier.
    Early(Line),
    /// The two stores, one right after the other, come the other way round.
    Swapped(Line, Line),
    /// The checksum is not the right one.
    WrongSum(Line),
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |(site, place): &Line| {
            let file = site.file().rsplit('/').next().unwrap_or_default();
            format!("{file}:{}:{} ({place})", site.line(), site.column())
        };
        match self {
            Mutant::Lost(a) => write!(f, "lost: {}", line(a)),
            Mutant::LostFirst(a) => write!(f, "lost once, the first: {}", line(a)),
            Mutant::LostLast(a) => write!(f, "lost once, the last: {}", line(a)),
            Mutant::Early(a) => write!(f, "before the bulk stores in front of it: {}", line(a)),
            Mutant::Swapped(a, b) => write!(f, "swapped: {} and {}", line(a), line(b)),
            Mutant::WrongSum(a) => write!(f, "checksum wrong: {}", line(a)),
        }
    }
}

/// What was there before must not be in metadata: it may be from a file of somebody else, and
/// people send each other dumps of metadata.
fn leaks(region: &Scratch, junk: &[u8]) -> Option<String> {
    let mut page = [0u8; PAGE_SIZE as usize];
    for (n, old) in (0u64..).zip(junk.chunks_exact(page.len())) {
        region.read(n * PAGE_SIZE, &mut page).expect("inside");
        let magic = page.first_chunk().map_or(0, |m| u32::from_le_bytes(*m));
        if !matches!(structure(magic), "tree node" | "attributes") {
            continue;
        }
        let same = |(a, b): (&[u8], &[u8])| a == b;
        if page.chunks(16).zip(old.chunks(16)).any(same) {
            return Some(format!(
                "old contents in the {} at page {n}",
                structure(magic)
            ));
        }
    }
    None
}

fn tape(case: &Case, lost: Option<Lost>) -> Recorder<Scratch> {
    let mut tape = Recorder::new(ground(case));
    tape.name_places(place);
    if let Some(lost) = lost {
        tape.lose(lost);
    }
    tape
}

/// All mutants there are in what the cases do, each with the cases it shows in.
///
/// # Panics
/// When a case does not work as it is.
#[must_use]
pub fn survey(cases: &[Case]) -> BTreeMap<Mutant, Vec<usize>> {
    let mut all: BTreeMap<Mutant, BTreeSet<usize>> = BTreeMap::new();
    for (i, case) in cases.iter().enumerate() {
        let rec = record_on(case, tape(case, None), None)
            .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let mut note = |m| {
            all.entry(m).or_default().insert(i);
        };
        let line = |c: &Call| (c.site, c.place);
        let runs = calls(&rec.log.stores);
        let call = |n: usize| &rec.log.calls[rec.log.stores[runs[n].start].call as usize];
        for n in 0..runs.len() {
            let c = call(n);
            note(Mutant::Lost(line(c)));
            if (0..n).any(|k| line(call(k)) == line(c)) {
                note(Mutant::LostFirst(line(c)));
                note(Mutant::LostLast(line(c)));
            }
            if n == 0 {
                continue;
            }
            let before = call(n - 1);
            if !c.bulk && before.bulk && ordered(before, c) {
                note(Mutant::Early(line(c)));
            }
            let same_word = rec.log.stores[runs[n].clone()].iter().any(|s| {
                let before = &rec.log.stores[runs[n - 1].clone()];
                before.iter().any(|b| b.off == s.off)
            });
            if ordered(before, c) && !same_word {
                note(Mutant::Swapped(line(before), line(c)));
            }
        }
        for sum in rec.sums {
            let m = Mutant::WrongSum(sum);
            // The core's one place where checksums are compared is no update of one.
            if !m.source().1.starts_with("let right = ") {
                note(m);
            }
        }
    }
    all.into_iter()
        .map(|(m, cases)| (m, cases.into_iter().collect()))
        .collect()
}

/// The log with its calls in the order of the mutant; and the numbers of stores after which there
/// is a state that the right order does not have.
fn reorder(log: &Log, mutant: Mutant) -> (Vec<Store>, Vec<usize>) {
    let runs = calls(&log.stores);
    let call = |n: usize| &log.calls[log.stores[runs[n].start].call as usize];
    let is = |n: usize, l: Line| (call(n).site, call(n).place) == l;
    let mut order: Vec<usize> = (0..runs.len()).collect();
    // Ranges of positions in `order` that are not as they were.
    let mut moved = Vec::new();
    for n in 1..runs.len() {
        let to = match mutant {
            Mutant::Swapped(a, b) if is(n - 1, a) && is(n, b) => n - 1,
            Mutant::Early(a) if is(n, a) => (0..n)
                .rev()
                .take_while(|k| call(*k).bulk)
                .last()
                .unwrap_or(n),
            _ => n,
        };
        // An exchange that undoes the one before would be no mutant at all.
        if to < n && order[n] == n && order[to] == to {
            order[to..=n].rotate_right(1);
            moved.push((to, n));
        }
    }
    let mut stores = Vec::new();
    let mut ends_at = Vec::new();
    for n in order {
        stores.extend_from_slice(&log.stores[runs[n].clone()]);
        ends_at.push(stores.len());
    }
    let mut states = Vec::new();
    for (from, to) in moved {
        let start = if from == 0 { 0 } else { ends_at[from - 1] };
        let end = ends_at[to];
        // Every call's end, and every word of the short ones.
        states.extend((from..to).map(|n| ends_at[n]));
        if end - start <= 256 {
            states.extend(start + 1..end);
        }
    }
    states.sort_unstable();
    states.dedup();
    (stores, states)
}

/// The stores of a line that changed something, to be lost one at a time.
fn numbers(log: &Log, line: Line) -> Vec<Lost> {
    let changed: BTreeSet<u32> = log.stores.iter().map(|s| s.call).collect();
    (0u32..)
        .zip(&log.calls)
        .filter(|(_, c)| (c.site, c.place) == line)
        .enumerate()
        .filter(|(_, (call, _))| changed.contains(call))
        .map(|(n, _)| Lost {
            line,
            only: Some(n),
        })
        .collect()
}

/// Runs a case with the mutant in it. What gave the mutant away, if something did; an error where
/// the operation itself noticed.
fn caught(case: &Case, mutant: Mutant) -> Result<Option<String>, String> {
    let clean = record_on(case, tape(case, None), None)?;
    let allowed = ends(case, &clean)?;
    let right_owner = {
        let mut last = clean.base.clone();
        apply(&mut last, &clean.log.stores);
        probe(&Scratch::new(&last), &clean.host).map(|i| i.owner)
    };
    let run = |lost, wrong| quietly(|| record_on(case, tape(case, lost), wrong)).and_then(|r| r);
    let (base, stores, states, host) = match mutant {
        Mutant::Lost(_) | Mutant::LostFirst(_) | Mutant::LostLast(_) | Mutant::WrongSum(_) => {
            let (lost, wrong) = match mutant {
                Mutant::Lost(line) => (Some(Lost { line, only: None }), None),
                Mutant::LostFirst(line) => (numbers(&clean.log, line).first().copied(), None),
                Mutant::LostLast(line) => (numbers(&clean.log, line).last().copied(), None),
                Mutant::WrongSum(line) => (None, Some(line)),
                _ => (None, None),
            };
            let Recording {
                base, log, host, ..
            } = run(lost, wrong)?;
            if wrong.is_some() && log.stores == clean.log.stores {
                // It is computed to be compared, and the operation went on without it.
                return Err("no store is another".into());
            }
            let mut states = log.points(2, 7);
            // The end says most.
            states.rotate_right(1);
            (base, log.stores, states, host)
        }
        Mutant::Early(_) | Mutant::Swapped(..) => {
            let (stores, states) = reorder(&clean.log, mutant);
            (clean.base, stores, states, clean.host)
        }
    };
    let rolling = base.clone();
    let scratch = Scratch::new(&base);
    let mut undo = Vec::new();
    let mut at = 0;
    for k in states {
        // Forward, or back from the end.
        for s in &stores[at.min(k)..k] {
            undo.push((s.off, rolling.mem.load(s.off).expect("inside")));
            rolling.mem.store(s.off, s.new).expect("inside");
            scratch.touch(s.off, 8);
        }
        while undo.len() > k {
            let (off, old) = undo.pop().expect("not empty");
            rolling.mem.store(off, old).expect("inside");
            scratch.touch(off, 8);
        }
        at = k;
        scratch.reset(&rolling.mem);
        let owner = probe(&scratch, &host).map(|i| i.owner);
        match quietly(|| look(&scratch, &host, Some(&allowed), None)).and_then(|r| r) {
            Err(e) => return Ok(Some(format!("{}, {k} stores: {e}", case.name))),
            // What has returned is there.
            Ok(seen) if k == stores.len() => {
                if let Some(d) = diff(&allowed.after, &seen.tree) {
                    return Ok(Some(format!("{}, done: {d}", case.name)));
                }
                if let Some(leak) = leaks(&scratch, &junk(case)) {
                    return Ok(Some(format!("{}, done: {leak}", case.name)));
                }
                if owner != right_owner {
                    return Ok(Some(format!("{}, done: owner {owner:?}", case.name)));
                }
            }
            Ok(_) => {}
        }
    }
    Ok(None)
}

/// What became of the mutants.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Mutants that lived in at least one case.
    pub mutants: usize,
    /// Of these, caught.
    pub caught: usize,
    /// Those that stayed.
    pub alive: Vec<Mutant>,
}

impl Mutant {
    /// The line of the core that was changed: its file, its text.
    ///
    /// # Panics
    /// When the sources are not where they were compiled.
    #[must_use]
    pub fn source(&self) -> (&'static str, String) {
        let (Mutant::Lost((site, _))
        | Mutant::LostFirst((site, _))
        | Mutant::LostLast((site, _))
        | Mutant::Early((site, _))
        | Mutant::Swapped((site, _), _)
        | Mutant::WrongSum((site, _))) = self;
        let top = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let text = std::fs::read_to_string(format!("{top}/{}", site.file())).expect("the source");
        let line = text.lines().nth(site.line() as usize - 1);
        let name = site.file().rsplit('/').next().unwrap_or_default();
        (name, line.unwrap_or_default().trim().to_string())
    }
}

impl fmt::Debug for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hunts each mutant through the cases it shows in, until one gives it away.
///
/// # Panics
/// When a thread does.
#[must_use]
pub fn hunt(cases: &[Case], mutants: &BTreeMap<Mutant, Vec<usize>>) -> Outcome {
    let mut outcome = Outcome::default();
    workers::share(
        mutants,
        || (),
        |(), (mutant, shows)| (*mutant, chase(cases, *mutant, shows)),
        |(mutant, fate)| {
            match fate {
                Fate::Stillborn => return,
                Fate::Caught => outcome.caught += 1,
                Fate::Alive => outcome.alive.push(mutant),
            }
            outcome.mutants += 1;
        },
    );
    outcome.alive.sort();
    outcome
}

/// What becomes of one mutant.
enum Fate {
    /// It lives in no case.
    Stillborn,
    Caught,
    Alive,
}

fn chase(cases: &[Case], mutant: Mutant, shows: &[usize]) -> Fate {
    let mut found = None;
    let mut noticed = 0;
    for &i in shows {
        match caught(&cases[i], mutant) {
            Ok(Some(how)) => {
                found = Some(how);
                break;
            }
            Ok(None) => {}
            // The operation fell over it. A wrong checksum that is computed to be compared does so
            // wherever it is met; one that is stored does not.
            Err(how) => {
                noticed += 1;
                if !matches!(mutant, Mutant::WrongSum(_)) {
                    found = Some(format!("{}: {how}", cases[i].name));
                    break;
                }
            }
        }
    }
    if noticed == shows.len() && matches!(mutant, Mutant::WrongSum(_)) {
        return Fate::Stillborn;
    }
    if env::is_verbose() {
        let how = found.as_deref().unwrap_or("ALIVE").lines().next();
        println!(
            "{mutant}: {} [{} cases]",
            how.unwrap_or_default(),
            shows.len()
        );
    }
    match found {
        Some(_) => Fate::Caught,
        None => Fate::Alive,
    }
}
