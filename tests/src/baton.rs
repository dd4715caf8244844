// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Two threads of which one runs at a time: who holds the baton. The first hands it over before a
//! store of its choice, or whoever finds a lock taken; so an interleaving is chosen, and repeats.

use crate::host::{set_cpu, Rng};
use parking_lot::{Condvar, Mutex};
use std::cell::RefCell;
use std::sync::Arc;

struct Shared {
    turn: usize,
    over: [bool; 2],
}

struct Runner {
    me: usize,
    rng: Rng,
    /// Hands over before the store of this number.
    at: Option<u64>,
    stores: u64,
    shared: Arc<(Mutex<Shared>, Condvar)>,
}

thread_local! {
    static RUNNER: RefCell<Option<Runner>> = const { RefCell::new(None) };
}

/// Hands the baton over and waits until it comes back. False if there is nobody to take it.
pub fn pass() -> bool {
    let Some((me, shared)) =
        RUNNER.with(|r| r.borrow().as_ref().map(|r| (r.me, Arc::clone(&r.shared))))
    else {
        return false;
    };
    let (lock, wake) = &*shared;
    let mut state = lock.lock();
    if state.over[1 - me] {
        return false;
    }
    state.turn = 1 - me;
    wake.notify_all();
    wake.wait_while(&mut state, |s| s.turn != me);
    true
}

/// A store is about to be made.
pub(crate) fn before_store() {
    let now = RUNNER.with(|r| {
        r.borrow_mut().as_mut().is_some_and(|r| {
            r.stores += 1;
            r.at == Some(r.stores - 1)
        })
    });
    if now {
        pass();
    }
}

/// Randomness of the runner's own, whatever the other one does meanwhile.
pub(crate) fn random() -> Option<u64> {
    RUNNER.with(|r| r.borrow_mut().as_mut().map(|r| r.rng.word()))
}

fn run<T>(
    me: usize,
    at: Option<u64>,
    shared: Arc<(Mutex<Shared>, Condvar)>,
    f: impl FnOnce() -> T,
) -> (T, u64) {
    set_cpu(me + 1);
    {
        let (lock, wake) = &*shared;
        wake.wait_while(&mut lock.lock(), |s| s.turn != me);
    }
    let runner = Runner {
        me,
        rng: Rng(77 + me as u64),
        at,
        stores: 0,
        shared: Arc::clone(&shared),
    };
    RUNNER.with(|r| *r.borrow_mut() = Some(runner));
    // Whatever becomes of it, the other one must go on.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
    let stores = RUNNER
        .with(|r| r.borrow_mut().take())
        .map_or(0, |r| r.stores);
    {
        let (lock, wake) = &*shared;
        let mut state = lock.lock();
        state.over[me] = true;
        state.turn = 1 - me;
        wake.notify_all();
    }
    match result {
        Ok(value) => (value, stores),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs `first`; before its store number `at` (from 0), `second` runs as far as it comes. Returns
/// what they returned, and how many stores the first one made. Without `at`, `second` comes behind
/// `first`.
///
/// # Panics
/// When one of them does.
pub fn interleave<A: Send, B: Send>(
    at: Option<u64>,
    first: impl FnOnce() -> A + Send,
    second: impl FnOnce() -> B + Send,
) -> (A, B, u64) {
    let shared = Arc::new((
        Mutex::new(Shared {
            turn: 0,
            over: [false; 2],
        }),
        Condvar::new(),
    ));
    std::thread::scope(|s| {
        let other = Arc::clone(&shared);
        let a = s.spawn(move || run(0, at, shared, first));
        let b = s.spawn(move || run(1, None, other, second));
        let (a, stores) = a.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
        let (b, _) = b.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
        (a, b, stores)
    })
}
