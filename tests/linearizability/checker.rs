// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Is a history linearizable? The search of Wing and Gong, with Lowe's memory of what was tried: the set of
//! operations done and the state they led to.

use std::collections::HashSet;
use std::fmt::{Debug, Write};
use std::hash::Hash;

/// An object that does one operation at a time.
pub trait Model {
    type State: Clone + Debug + Eq + Hash;
    type Op: Clone + Debug;
    type Answer: Clone + Debug;

    /// The state afterwards, if the object may answer so.
    fn step(state: &Self::State, op: &Self::Op, answer: &Self::Answer) -> Option<Self::State>;
}

/// One operation: asked for at `begin`, answered at `end`, on a clock that all threads share.
#[derive(Debug)]
pub struct Call<M: Model> {
    pub thread: usize,
    pub begin: u64,
    pub end: u64,
    pub op: M::Op,
    pub answer: M::Answer,
}

impl<M: Model> Clone for Call<M> {
    fn clone(&self) -> Self {
        Call {
            thread: self.thread,
            begin: self.begin,
            end: self.end,
            op: self.op.clone(),
            answer: self.answer.clone(),
        }
    }
}

/// Is there an order of the calls that explains all answers given until `until`? Calls that were under way
/// then may have happened or not.
fn explained<M: Model>(start: &M::State, calls: &[Call<M>], until: u64) -> bool {
    assert!(calls.len() <= 64, "a set is a word");
    let required = (0..calls.len())
        .filter(|i| calls[*i].end <= until)
        .fold(0u64, |set, i| set | 1 << i);
    let mut seen = HashSet::new();
    let mut todo = vec![(0u64, start.clone())];
    while let Some((done, state)) = todo.pop() {
        if done & required == required {
            return true;
        }
        if !seen.insert((done, state.clone())) {
            continue;
        }
        // The next one began before any that is left has ended.
        let left = |i: &usize| done >> i & 1 == 0;
        let first_end = (0..calls.len())
            .filter(left)
            .map(|i| calls[i].end)
            .min()
            .unwrap_or(u64::MAX);
        for i in (0..calls.len()).filter(left) {
            let call = &calls[i];
            if call.begin < first_end && call.begin <= until {
                if let Some(next) = M::step(&state, &call.op, &call.answer) {
                    todo.push((done | 1 << i, next));
                }
            }
        }
    }
    false
}

/// Checks a history; where no order explains it, the least part of it for which that is so.
pub fn linearizable<M: Model>(start: &M::State, history: &[Call<M>]) -> Result<(), String> {
    if explained(start, history, u64::MAX) {
        return Ok(());
    }
    // The first answer that nothing explains.
    let mut ends: Vec<u64> = history.iter().map(|c| c.end).collect();
    ends.sort_unstable();
    let until = ends
        .into_iter()
        .find(|end| !explained(start, history, *end))
        .unwrap_or(u64::MAX);
    let mut least: Vec<Call<M>> = history
        .iter()
        .filter(|c| c.begin <= until)
        .cloned()
        .collect();
    // Without a call that changes nothing wherever it stands, whatever explained all explains the rest.
    let mut i = 0;
    while i < least.len() {
        let mut fewer = least.clone();
        let call = fewer.remove(i);
        if changes_nothing::<M>(start, &least, &call) && !explained(start, &fewer, until) {
            least = fewer;
        } else {
            i += 1;
        }
    }
    least.sort_by_key(|c| c.begin);
    let mut text = format!("no order explains these answers; at first: {start:?}\n");
    for call in &least {
        let pending = if call.end > until { " (later)" } else { "" };
        let _ = writeln!(
            text,
            "  {:3}..{:<3} thread {}: {:?} -> {:?}{pending}",
            call.begin, call.end, call.thread, call.op, call.answer
        );
    }
    Err(text)
}

/// Does the call, with its answer, leave every state alone that the calls can lead to?
fn changes_nothing<M: Model>(start: &M::State, calls: &[Call<M>], call: &Call<M>) -> bool {
    let mut seen = HashSet::from([start.clone()]);
    let mut todo = vec![start.clone()];
    while let Some(state) = todo.pop() {
        if M::step(&state, &call.op, &call.answer).is_some_and(|next| next != state) {
            return false;
        }
        for other in calls {
            if let Some(next) = M::step(&state, &other.op, &other.answer) {
                // Beyond that many states it is not worth the time: then the call stays.
                if seen.len() > 20_000 {
                    return false;
                }
                if seen.insert(next.clone()) {
                    todo.push(next);
                }
            }
        }
    }
    true
}
