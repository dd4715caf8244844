// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Crash replay: run an operation, stop after each of its stores, recover, look.

use crate::env;
use crate::figures;
use crate::fixture::{audit, churn, drain, empty, format, mount, mount_as};
use crate::host::{mix, Rng, TestHost};
use crate::record::{Image, Log, Recorder, Scratch, Site, Store, WordOrder};
use crate::tree::{diff, diff_node, walk, Body, Node, Tree};
use crate::workers;
use fs_core::{Error, Fs, Ino, Region, ROOT_INO};
use std::collections::BTreeSet;
use std::io::Write;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

/// The region the operations of a case run on.
pub type Tape = Recorder<Scratch>;

/// The filesystem they run on.
pub type World<'a> = Fs<&'a Tape, TestHost>;

/// A step of a case.
pub type Step = Box<dyn Fn(&World<'_>) -> Result<(), Error> + Send + Sync>;

/// What is run and recorded.
pub enum Act {
    /// A call on the mounted filesystem.
    Op(Step),
    /// Nothing is unmounted: mount again, and do all pending work.
    Remount,
    /// Unmount.
    Unmount,
}

/// An operation to stop at every store.
pub struct Case {
    /// For people.
    pub name: String,
    /// Size of the region.
    pub bytes: u64,
    /// What happened before.
    pub setup: Step,
    /// What is recorded.
    pub act: Act,
    /// Paths of files for which more than "before or after" is allowed: each word old or new, a
    /// size between the two. Everything else must be as it was before or as it is after.
    pub loose: Vec<&'static str>,
    /// The operation must fail, and change nothing.
    pub fails: bool,
}

impl Case {
    /// A case on a small region that must be wholly before or after.
    pub fn new(
        name: impl Into<String>,
        setup: impl Fn(&World<'_>) -> Result<(), Error> + Send + Sync + 'static,
        op: impl Fn(&World<'_>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Self {
        Case {
            name: name.into(),
            bytes: 2 << 20,
            setup: Box::new(setup),
            act: Act::Op(Box::new(op)),
            loose: Vec::new(),
            fails: false,
        }
    }

    /// A mount after `setup`, that finishes what is pending.
    pub fn remount(
        name: impl Into<String>,
        setup: impl Fn(&World<'_>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Self {
        Case {
            act: Act::Remount,
            ..Case::new(name, setup, |_| Ok(()))
        }
    }

    /// On a region of this many bytes.
    #[must_use]
    pub fn on(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// These files may hold any mix of old and new words.
    #[must_use]
    pub fn loose(mut self, paths: &[&'static str]) -> Self {
        self.loose = paths.to_vec();
        self
    }

    /// The operation is to fail.
    #[must_use]
    pub fn fails(mut self) -> Self {
        self.fails = true;
        self
    }
}

/// How much is done.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Stop inside long bulk copies at so many random words.
    pub bulk: usize,
    /// Orders of the words of a bulk copy.
    pub orders: Vec<WordOrder>,
    /// Of the states in which recovery has something to do, stop recovery itself in one of so many.
    pub recovery_one_in: u64,
    /// Stop it at so many of its stores at most, chosen at random.
    pub recovery_stops: usize,
    /// The same where the words of copies come in another order than the first.
    pub recovery_stops_later: usize,
    /// In one of so many states create, write and delete everything.
    pub empty_one_in: u64,
}

impl Effort {
    /// What daily work can afford.
    #[must_use]
    pub fn quick() -> Self {
        Effort {
            bulk: 2,
            orders: vec![WordOrder::Forward],
            recovery_one_in: 24,
            recovery_stops: 40,
            recovery_stops_later: 40,
            empty_one_in: 8,
        }
    }

    /// Everything.
    #[must_use]
    pub fn full() -> Self {
        Effort {
            bulk: 24,
            orders: vec![
                WordOrder::Forward,
                WordOrder::Reverse,
                WordOrder::Shuffled(1),
                WordOrder::Shuffled(2),
            ],
            recovery_one_in: 2,
            recovery_stops: usize::MAX,
            recovery_stops_later: 20,
            empty_one_in: 1,
        }
    }

    /// `RPRAMFS_FULL=1` asks for everything.
    #[must_use]
    pub fn from_env() -> Self {
        if env::is_full() {
            Effort::full()
        } else {
            Effort::quick()
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Cases run.
    pub cases: u64,
    /// Stores recorded.
    pub stores: u64,
    /// States recovered and looked at.
    pub states: u64,
    /// Of these, states in which recovery had been stopped.
    pub recoveries: u64,
    /// Of these, states in which everything was deleted afterwards.
    pub emptied: u64,
    /// What was wrong, for people; at most some of each case.
    pub violations: Vec<String>,
    /// How many states were wrong.
    pub wrong: u64,
}

impl Tally {
    /// Adds what another one counted.
    pub fn add(&mut self, other: Tally) {
        self.cases += other.cases;
        self.stores += other.stores;
        self.states += other.states;
        self.recoveries += other.recoveries;
        self.emptied += other.emptied;
        self.wrong += other.wrong;
        self.violations.extend(other.violations);
    }

    /// Prints the counts, and fails the test if there was a violation.
    ///
    /// # Panics
    /// When there was.
    pub fn conclude(&self, what: &str) {
        println!(
            "{what}: {} cases, {} stores, {} states ({} in recovery, {} emptied), {} violations",
            self.cases, self.stores, self.states, self.recoveries, self.emptied, self.wrong
        );
        figures::append(&serde_json::json!({
            "test": what, "sequences": self.cases, "stores": self.stores,
            "states": self.states, "violations": self.wrong,
        }));
        for v in &self.violations {
            println!("VIOLATION {v}");
        }
        assert!(self.states > 0, "nothing was tested");
        assert_eq!(self.wrong, 0, "{what}: see above");
    }
}

/// Runs all cases: stops after each store.
#[must_use]
pub fn run(cases: &[Case], effort: &Effort) -> Tally {
    run_on_all(cases, |case| run_case(case, effort))
}

/// Does something with each case, and adds up.
///
/// # Panics
/// When a thread does.
pub fn run_on_all(cases: &[Case], f: impl Fn(&Case) -> Tally + Sync) -> Tally {
    let filter = std::env::var("RPRAMFS_CASE").ok();
    let wanted = |case: &&Case| filter.as_ref().is_none_or(|f| case.name.contains(f));
    let one = |case: &Case| {
        let begin = Instant::now();
        let tally = quietly(|| f(case)).unwrap_or_else(|panic| Tally {
            violations: vec![format!("{}: outside of recovery: {panic}", case.name)],
            wrong: 1,
            ..Tally::default()
        });
        if filter.is_some() || env::is_verbose() {
            println!(
                "{:60} {:7} stores {:8} states {:4} wrong {:6} ms",
                case.name,
                tally.stores,
                tally.states,
                tally.wrong,
                begin.elapsed().as_millis()
            );
        }
        tally
    };
    let mut all = Tally::default();
    let cases: Vec<_> = cases.iter().filter(wanted).collect();
    let mut progress = Progress::begin(cases.len());
    let gather = |tally| {
        all.add(tally);
        progress.tell(&all);
    };
    workers::share(cases, || (), |(), case| one(case), gather);
    all
}

/// How far a full run is, said now and then behind the back of the test harness, which keeps what
/// a test prints until the test is over.
struct Progress {
    test: String,
    total: usize,
    told: Instant,
}

impl Progress {
    fn begin(total: usize) -> Self {
        let thread = std::thread::current();
        Progress {
            test: thread.name().unwrap_or("crash").to_owned(),
            total,
            told: Instant::now(),
        }
    }

    fn tell(&mut self, so_far: &Tally) {
        if !env::is_full() || self.told.elapsed() < Duration::from_secs(30) {
            return;
        }
        self.told = Instant::now();
        // Without anybody to read it, the work goes on.
        let _ = writeln!(
            std::io::stderr(),
            "{}: {} of {} cases, {} states, {} violations",
            self.test,
            so_far.cases,
            self.total,
            so_far.states,
            so_far.wrong
        );
    }
}

/// Runs `f`; a panic becomes its message.
pub fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|p| {
        let text = p
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| p.downcast_ref::<&str>().map(ToString::to_string));
        format!("panic: {}", text.unwrap_or_default())
    })
}

/// An operation as it was recorded.
pub struct Recording {
    /// The region when it began.
    pub base: Image,
    /// What was stored since.
    pub log: Log,
    /// Clock and randomness for what comes after.
    pub host: TestHost,
    /// Who computed checksums of what, where places are named.
    pub sums: BTreeSet<(Site, &'static str)>,
}

/// Sets a case up, runs and records its operation.
///
/// # Errors
/// Says which part of the case does not work.
pub fn record(case: &Case) -> Result<Recording, String> {
    record_on(case, Recorder::new(ground(case)), None)
}

/// Memory is not zero where nobody wrote yet, and what others left there must never show; but large
/// regions are sparse.
pub(crate) fn junk(case: &Case) -> Vec<u8> {
    let len = if case.bytes <= 8 << 20 { case.bytes } else { 0 };
    Rng(11).bytes(len as usize)
}

/// The region before it is formatted.
pub(crate) fn ground(case: &Case) -> Scratch {
    let region = Scratch::zeroed(case.bytes);
    region.write(0, &junk(case)).expect("inside");
    region
}

/// As [`record`], on a tape that may lose stores, and with a checksum that may be wrong.
///
/// # Errors
/// Says which part of the case does not work.
pub fn record_on(
    case: &Case,
    tape: Tape,
    wrong: Option<(Site, &'static str)>,
) -> Result<Recording, String> {
    let host = TestHost::new(mix(case.name.len() as u64));
    format(&tape, &host);
    let fs = mount(&tape, host.clone()).map_err(|e| format!("first mount: {e:?}"))?;
    (case.setup)(&fs).map_err(|e| format!("setup: {e:?}"))?;
    for _ in 0..16 {
        host.tick();
    }
    let base = tape.inner().image();
    if tape.names_places() {
        host.watch_sums(wrong);
    }
    match &case.act {
        Act::Op(op) => {
            tape.start();
            let done = op(&fs);
            let held = host.held();
            if !held.is_empty() {
                return Err(format!("locks {held:?} are held at the end"));
            }
            match (done, case.fails) {
                (Ok(()), false) | (Err(_), true) => {}
                (Ok(()), true) => return Err("the operation was to fail".into()),
                (Err(e), false) => return Err(format!("the operation: {e:?}")),
            }
        }
        Act::Remount => {
            drop(fs);
            tape.start();
            let heir = host.reborn();
            if tape.names_places() {
                heir.watch_sums(wrong);
            }
            let fs =
                mount_as(&tape, heir, *b"the next boot id").map_err(|e| format!("mount: {e:?}"))?;
            tape.mark("mounted");
            drain(&fs)?;
        }
        Act::Unmount => {
            tape.start();
            fs.unmount().map_err(|e| format!("unmount: {e:?}"))?;
        }
    }
    let log = tape.stop();
    let sums = host.watched_sums();
    host.tick();
    Ok(Recording {
        base,
        log,
        host,
        sums,
    })
}

/// What a state may look like.
pub struct Allowed {
    /// The tree before the operation.
    pub before: Tree,
    /// The tree behind it.
    pub after: Tree,
    /// Files for which more is allowed.
    pub loose: BTreeSet<Ino>,
}

/// The two ends of an operation: as it found and as it left things, then recovered.
///
/// # Errors
/// What is wrong with them.
pub fn ends(case: &Case, rec: &Recording) -> Result<Allowed, String> {
    let first = Scratch::new(&rec.base);
    let before = look(&first, &rec.host, None, None)?.tree;
    let mut last = rec.base.clone();
    apply(&mut last, &rec.log.stores);
    let last = Scratch::new(&last);
    let after = look(&last, &rec.host, None, None)?.tree;
    let fs = mount(&last, rec.host.reborn()).map_err(|e| format!("{e:?}"))?;
    let mut loose = BTreeSet::new();
    for path in &case.loose {
        // In a sequence an earlier operation may have taken the file away.
        loose.extend(resolve(&fs, path).ok());
    }
    Ok(Allowed {
        before,
        after,
        loose,
    })
}

/// A region in which a look at a state takes so long that recovery is stopped at some of its stores only.
const LARGE: u64 = 256 << 20;

fn run_case(case: &Case, effort: &Effort) -> Tally {
    let mut tally = Tally {
        cases: 1,
        ..Tally::default()
    };
    let wrong = |tally: &mut Tally, text: String| {
        tally.wrong += 1;
        if tally.violations.len() < 3 {
            tally.violations.push(format!("{}: {text}", case.name));
        }
    };
    let rec = match quietly(|| record(case)).and_then(|r| r) {
        Ok(rec) => rec,
        Err(e) => {
            wrong(&mut tally, e);
            return tally;
        }
    };
    tally.stores = rec.log.stores.len() as u64;

    let ends = quietly(|| ends(case, &rec)).and_then(|r| r);
    let allowed = match ends {
        Ok(a) => a,
        Err(e) => {
            wrong(&mut tally, format!("before or after: {e}"));
            return tally;
        }
    };
    if case.fails {
        if let Some(d) = diff(&allowed.before, &allowed.after) {
            wrong(&mut tally, format!("it failed, but changed:\n{d}"));
        }
    }

    let mut rng = Rng(mix(rec.log.stores.len() as u64));
    let points = rec.log.points(effort.bulk, 7);
    let mut scratch = Scratch::new(&rec.base);
    for (n, order) in effort.orders.iter().enumerate() {
        let stores = rec.log.ordered(*order);
        if n > 0 && stores == rec.log.stores {
            continue;
        }
        let rolling = rec.base.clone();
        scratch = if n == 0 {
            scratch
        } else {
            Scratch::new(&rec.base)
        };
        let mut done = 0;
        for &k in &points {
            for s in &stores[done..k] {
                rolling.mem.store(s.off, s.new).expect("inside");
                scratch.touch(s.off, 8);
            }
            done = k;
            scratch.reset(&rolling.mem);
            let deep = effort.empty_one_in == 1 || rng.one_in(effort.empty_one_in);
            tally.states += 1;
            tally.emptied += u64::from(deep);
            let place = || where_(&stores, k);
            let mut replayed = 0;
            match quietly(|| {
                look(
                    &scratch,
                    &rec.host,
                    Some(&allowed),
                    deep.then_some(k as u64),
                )
            })
            .and_then(|r| r)
            {
                Ok(seen) => replayed = seen.replayed,
                Err(e) => wrong(&mut tally, format!("{order:?}, {}: {e}", place())),
            }
            // Recovery stopped at each of its own stores.
            let again = replayed > 0 && rng.one_in(effort.recovery_one_in);
            if again {
                scratch.reset(&rolling.mem);
                let mut log = Log::default();
                let tape = Recorder::new(&scratch);
                tape.start();
                if let Ok(fs) = mount(&tape, rec.host.reborn()) {
                    let _ = drain(&fs);
                    log = tape.stop();
                }
                let inner = log.ordered(*order);
                let mut stops = log.points(effort.bulk, 8);
                let most = match n {
                    0 if case.bytes <= LARGE => effort.recovery_stops,
                    0 => effort.recovery_stops.min(40),
                    _ => effort.recovery_stops_later,
                };
                while stops.len() > most {
                    stops.swap_remove(rng.below(stops.len() as u64) as usize);
                }
                for j in stops {
                    scratch.reset(&rolling.mem);
                    for s in &inner[..j] {
                        scratch.store(s.off, s.new).expect("inside");
                    }
                    tally.states += 1;
                    tally.recoveries += 1;
                    if let Err(e) =
                        quietly(|| look(&scratch, &rec.host, Some(&allowed), None)).and_then(|r| r)
                    {
                        let text = format!(
                            "{order:?}, {}, recovery {}: {e}",
                            place(),
                            where_(&inner, j)
                        );
                        wrong(&mut tally, text);
                    }
                }
                scratch.reset(&rolling.mem);
            }
        }
    }
    tally
}

fn where_(stores: &[Store], k: usize) -> String {
    let at = |i: usize| {
        stores.get(i).map_or_else(
            || "the end".to_string(),
            |s| format!("{:#x} := {:#x}", s.off, s.new),
        )
    };
    match k {
        0 => format!("stopped before store 1 of {} ({})", stores.len(), at(0)),
        k => format!(
            "stopped after store {k} of {} ({}; next {})",
            stores.len(),
            at(k - 1),
            at(k)
        ),
    }
}

/// Makes stores in an image.
///
/// # Panics
/// When they are outside of it.
pub fn apply(image: &mut Image, stores: &[Store]) {
    for s in stores {
        image.mem.store(s.off, s.new).expect("inside");
        image.pages.push(s.off / 4096);
    }
    image.pages.sort_unstable();
    image.pages.dedup();
}

/// What a state turned out to be.
pub struct Seen {
    /// The tree, after recovery and reclaim.
    pub tree: Tree,
    /// Transactions replayed.
    pub replayed: u64,
}

/// Recovers a state and looks at it: the tree as allowed, clean, no page lost; then everything
/// deleted if asked for.
///
/// # Errors
/// What is wrong with it.
pub fn look(
    region: &Scratch,
    host: &TestHost,
    allowed: Option<&Allowed>,
    deep: Option<u64>,
) -> Result<Seen, String> {
    let host = host.reborn();
    crate::checker::clean(region, &host).map_err(|e| format!("before recovery: {e}"))?;
    let fs = mount(region, host.clone()).map_err(|e| format!("mount: {e:?}"))?;
    let replayed = fs.stats().replayed;
    let first = walk(&fs, &[]).map_err(|e| format!("before reclaim: {e}"))?;
    if let Some(a) = allowed {
        a.permits(&first, true)?;
    }
    drain(&fs)?;
    let tree = walk(&fs, &[]).map_err(|e| format!("after reclaim: {e}"))?;
    if let Some(a) = allowed {
        a.permits(&tree, false)
            .map_err(|e| format!("after reclaim: {e}"))?;
    }
    audit(&fs, &tree)?;
    if !host.reports().is_empty() {
        return Err(format!("corruption reported: {:?}", host.reports()));
    }
    crate::checker::clean(region, &host).map_err(|e| format!("after recovery: {e}"))?;
    if let Some(salt) = deep {
        churn(&fs, salt)?;
        let tree = walk(&fs, &[]).map_err(|e| format!("after new work: {e}"))?;
        audit(&fs, &tree).map_err(|e| format!("after new work: {e}"))?;
        empty(&fs).map_err(|e| format!("deleting everything: {e}"))?;
        crate::checker::clean(region, &host).map_err(|e| format!("when emptied: {e}"))?;
    }
    let held = host.held();
    if !held.is_empty() {
        return Err(format!("locks {held:?} are held at the end"));
    }
    Ok(Seen { tree, replayed })
}

impl Allowed {
    /// Is this tree one of them? `pending`: pages that are waiting to be reclaimed may still be counted.
    ///
    /// # Errors
    /// What it differs in from both.
    pub fn permits(&self, got: &Tree, pending: bool) -> Result<(), String> {
        let fits = |want: &Tree| -> Result<(), String> {
            let mut want = want.clone();
            for (ino, node) in &mut want {
                let Some(g) = got.get(ino) else { continue };
                if pending && node.pages != g.pages {
                    node.pages = g.pages;
                    node.runs.clone_from(&g.runs);
                }
                if self.loose.contains(ino) {
                    let before = self.before.get(ino).unwrap_or(node);
                    let after = self.after.get(ino).unwrap_or(node);
                    between(before, after, g).map_err(|e| format!("inode {ino}: {e}"))?;
                    *node = g.clone();
                }
            }
            diff(&want, got).map_or(Ok(()), Err)
        };
        let Err(b) = fits(&self.before) else {
            return Ok(());
        };
        let Err(a) = fits(&self.after) else {
            return Ok(());
        };
        Err(format!("neither before:\n{b}nor after:\n{a}"))
    }
}

/// Is it one of these?
///
/// # Errors
/// In what it differs from each.
pub fn permits(allowed: &[&Tree], got: &Tree) -> Result<(), String> {
    let mut all = String::new();
    for want in allowed {
        match diff(want, got) {
            None => return Ok(()),
            Some(d) => all = format!("{all}not\n{d}"),
        }
    }
    Err(all)
}

/// Is `g` on the way from `b` to `a`, word by word?
fn between(b: &Node, a: &Node, g: &Node) -> Result<(), String> {
    let mut want = a.clone();
    if g.mode == b.mode {
        want.mode = b.mode;
    }
    if g.size < a.size.min(b.size) || g.size > a.size.max(b.size) {
        return Err(format!("size {} is not in {}..={}", g.size, b.size, a.size));
    }
    want.size = g.size;
    for t in 0..4 {
        if g.times[t] == b.times[t] {
            want.times[t] = b.times[t];
        }
    }
    want.pages = g.pages;
    want.runs.clone_from(&g.runs);
    if let (Body::File(old), Body::File(new), Body::File(now)) = (&b.body, &a.body, &g.body) {
        let zeros = vec![0u8; 4096];
        let pages: BTreeSet<_> = old.keys().chain(new.keys()).chain(now.keys()).collect();
        for page in pages {
            let (o, n, x) = (
                old.get(page).unwrap_or(&zeros),
                new.get(page).unwrap_or(&zeros),
                now.get(page).unwrap_or(&zeros),
            );
            for i in (0..4096).step_by(8) {
                let word = |v: &[u8]| -> [u8; 8] { v[i..i + 8].try_into().expect("8 bytes") };
                let at = page * 4096 + i as u64;
                // Where a size grows, what it takes in is new.
                let grown = at >= b.size && at < g.size;
                if word(x) == word(n) || word(x) == word(o) && !grown {
                    continue;
                }
                // The word the size lies in is cut off there.
                let keep = g.size.saturating_sub(at).min(8) as usize;
                let cut = |v: &[u8]| {
                    let mut w = word(v);
                    w[keep..].fill(0);
                    w
                };
                if word(x) != cut(n) && (grown || word(x) != cut(o)) {
                    return Err(format!(
                        "byte {at}: {:02x?}, neither old {:02x?} nor new {:02x?} (size {})",
                        word(x),
                        word(o),
                        word(n),
                        g.size
                    ));
                }
            }
        }
        want.body = g.body.clone();
    }
    if want == *g {
        Ok(())
    } else {
        Err(diff_node(&want, g))
    }
}

/// The inode at a path from the root, "" for the root.
///
/// # Errors
/// What lookup answers.
pub fn resolve<R: Region>(fs: &Fs<R, TestHost>, path: &str) -> Result<Ino, Error> {
    let mut ino = ROOT_INO;
    for name in path.split('/').filter(|n| !n.is_empty()) {
        ino = fs.lookup(ino, name.as_bytes())?;
    }
    Ok(ino)
}
