// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The other kind of memory: dirty cache lines are lost unless the core waited for them. Between
//! two such waits lines persist in any order, each with as many of its stores as it pleases.

use crate::single;
use fs_core::Region;
use rpramfs_tests::crash::{
    apply, ends, look, permits, quietly, record, run_on_all, Allowed, Case, Recording, Tally,
};
use rpramfs_tests::env::is_full;
use rpramfs_tests::fixture::{drain, mount};
use rpramfs_tests::host::Rng;
use rpramfs_tests::record::{Recorder, Scratch, Site};
use std::collections::{BTreeMap, BTreeSet};

const LINE: u64 = 64;

/// Which stores of each line, in the order of the line, are in the memory: how many of them.
type Chosen = BTreeMap<u64, usize>;

/// Choices that tell most: one line ahead of all others, one line behind, any mix.
fn choices(lines: &BTreeMap<u64, Vec<usize>>, some: usize, rng: &mut Rng) -> Vec<Chosen> {
    let mut all = Vec::new();
    let whole: Chosen = lines.iter().map(|(l, s)| (*l, s.len())).collect();
    let keys: Vec<u64> = lines.keys().copied().collect();
    let few = keys.len() <= 2 * some;
    let picked: Vec<u64> = (0..if few { keys.len() } else { some })
        .map(|n| {
            let n = if few {
                n
            } else {
                rng.below(keys.len() as u64) as usize
            };
            keys[n]
        })
        .collect();
    for line in picked {
        all.push(Chosen::from([(line, whole[&line])]));
        let mut late = whole.clone();
        late.remove(&line);
        all.push(late);
    }
    for _ in 0..some {
        let mix = lines
            .iter()
            .map(|(l, s)| (*l, rng.below(s.len() as u64 + 1) as usize));
        all.push(mix.collect());
    }
    all
}

/// A case on such memory, then the recoveries from it; `without` the waits of one line of the core.
fn lossy(case: &Case, some: usize, without: Option<Site>) -> Tally {
    let mut tally = Tally {
        cases: 1,
        ..Tally::default()
    };
    let done = quietly(|| {
        let rec = record(case)?;
        let allowed = ends(case, &rec)?;
        let safe = lose_lines(&rec, &allowed, some, without, &mut tally);
        // What has returned is there, but for file data nobody asked to sync.
        if let Some(safe) = safe {
            let seen = look(&safe, &rec.host, None, None)?;
            permits(&[&allowed.after], &seen.tree).map_err(|e| format!("at the end: {e}"))?;
        }
        for rec in recoveries(&rec)? {
            lose_lines(&rec, &allowed, some, without, &mut tally);
        }
        Ok::<_, String>(())
    });
    if let Err(e) = done.and_then(|r| r) {
        tally.wrong += 1;
        tally.violations.push(e);
    }
    for v in &mut tally.violations {
        *v = format!("{}: {v}", case.name);
    }
    tally.violations.truncate(3);
    tally
}

/// Mounts of what the machine leaves when it stops right behind the first commit of an operation
/// and behind its last: recovery has something to do.
fn recoveries(rec: &Recording) -> Result<Vec<Recording>, String> {
    let stores = &rec.log.stores;
    // Waits come in fours: staged, committed, at home, cleared.
    let commits: Vec<usize> = rec.log.persisted.chunks_exact(4).map(|w| w[1].0).collect();
    let mut ends: Vec<usize> = commits
        .first()
        .into_iter()
        .chain(commits.last())
        .copied()
        .collect();
    ends.dedup();
    let mut all = Vec::new();
    for end in ends {
        let mut base = rec.base.clone();
        apply(&mut base, &stores[..end]);
        let tape = Recorder::new(Scratch::new(&base));
        tape.start();
        let host = rec.host.reborn();
        let fs = mount(&tape, host.clone()).map_err(|e| format!("mount: {e:?}"))?;
        drain(&fs)?;
        all.push(Recording {
            base,
            log: tape.stop(),
            host,
            sums: BTreeSet::new(),
        });
    }
    Ok(all)
}

/// Loses lines between the waits of a recording. Returns what is safe at its end, if all of it is.
fn lose_lines(
    rec: &Recording,
    allowed: &Allowed,
    some: usize,
    without: Option<Site>,
    tally: &mut Tally,
) -> Option<Scratch> {
    let wrong = |tally: &mut Tally, text: String| {
        tally.wrong += 1;
        tally.violations.push(text);
    };
    let stores = &rec.log.stores;
    tally.stores += stores.len() as u64;
    let mut rng = Rng(stores.len() as u64);
    let safe = rec.base.clone();
    let scratch = Scratch::new(&rec.base);
    let mut from = 0;
    let waits = rec.log.persisted.iter();
    let waits = waits.filter(|(_, site)| Some(*site) != without);
    let mut waits: Vec<usize> = waits.map(|(at, _)| *at).collect();
    let last = waits.last().copied();
    waits.push(stores.len());
    waits.dedup();
    for to in waits {
        let mut lines: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (i, s) in stores.iter().enumerate().take(to).skip(from) {
            lines.entry(s.off / LINE).or_default().push(i);
        }
        for chosen in choices(&lines, some, &mut rng) {
            scratch.reset(&safe.mem);
            for (line, n) in &chosen {
                for &i in &lines[line][..*n] {
                    scratch.store(stores[i].off, stores[i].new).expect("inside");
                }
            }
            tally.states += 1;
            if let Err(e) =
                quietly(|| look(&scratch, &rec.host, Some(allowed), None)).and_then(|r| r)
            {
                let text = format!("between stores {from} and {to}, {chosen:x?}: {e}");
                wrong(tally, text);
            }
        }
        for s in &stores[from..to] {
            safe.mem.store(s.off, s.new).expect("inside");
            scratch.touch(s.off, 8);
        }
        from = to;
    }
    scratch.reset(&safe.mem);
    (last == Some(stores.len())).then_some(scratch)
}

#[test]
fn crash_lost_cache_lines() {
    let some = if is_full() { 40 } else { 3 };
    let tally = run_on_all(&single::all(), |case| lossy(case, some, None));
    tally.conclude("crash: lost cache lines");
}

/// Waits that no crash can tell from none: file of the core, why.
const EQUIVALENT: &[(&str, &str)] = &[(
    "marker.rs",
    "who held the region before the power went is of no interest afterwards",
)];

/// Every wait is needed: without it there is a state that is neither before nor after.
#[test]
fn crash_waits_matter() {
    let cases = single::all();
    let mut sites: BTreeSet<Site> = BTreeSet::new();
    for case in &cases {
        let rec = record(case).expect("a case");
        let again = recoveries(&rec).expect("a recovery");
        for rec in again.iter().chain([&rec]) {
            sites.extend(rec.log.persisted.iter().map(|(_, site)| *site));
        }
    }
    let mut needless = Vec::new();
    for site in &sites {
        let name = site.file().rsplit('/').next().unwrap_or_default();
        if let Some((_, why)) = EQUIVALENT.iter().find(|(file, _)| *file == name) {
            println!("wait at {name}:{}: {why}", site.line());
            continue;
        }
        let found = cases
            .iter()
            .any(|case| lossy(case, 8, Some(site)).wrong > 0);
        println!("wait at {name}:{}: needed {found}", site.line());
        if !found {
            needless.push(site);
        }
    }
    assert!(sites.len() >= 6, "{} waits seen", sites.len());
    assert!(needless.is_empty(), "not needed: {needless:?}");
}
