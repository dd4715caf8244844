// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The restore daemon against processes that behave as restored ones do, on the kernel that runs here.
//! One program plays CRIU; its children register memory and then do to it whatever they may, and
//! compare with a model of what must be there. It needs root: for userfaultfd(2) and for the signals.

mod app;
mod harness;
mod model;
mod random;
mod role;
mod system;

use std::time::Duration;

use harness::{run, Run};
use role::{Play, Scenario};

/// What must hold of any restore that went well.
fn restored(scenario: Scenario, kills: u32) -> kup::foam::restore::Outcome {
    let seed = scenario.seed;
    let processes = scenario.processes as u64;
    let Run { outcome, apps_ok } = run(&scenario, kills);
    assert!(
        apps_ok,
        "seed {seed}: a process saw memory that it should not have"
    );
    let outcome = outcome.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    assert_eq!(outcome.processes, processes, "seed {seed}");
    assert!(
        outcome.bytes_copied > 0 && outcome.seconds > 0.0,
        "seed {seed}: {outcome:?}"
    );
    assert!(scenario_kills(kills, &outcome), "seed {seed}: {outcome:?}");
    outcome
}

fn scenario_kills(kills: u32, outcome: &kup::foam::restore::Outcome) -> bool {
    kills > 0 || outcome.restarts == 0
}

#[test]
fn memory_is_what_it_was() {
    let mut faults = 0;
    let mut forks = 0;
    for seed in 0..10 {
        let outcome = restored(Scenario::new(seed), 0);
        assert!(outcome.bad_pages.is_empty());
        faults += outcome.faults;
        forks += outcome.forks;
    }
    // Whoever faults on nothing and forks never tests nothing.
    assert!(
        faults > 1000 && forks > 10,
        "{faults} faults, {forks} forks"
    );
}

#[test]
fn the_daemon_may_die() {
    let (mut restarts, mut forks) = (0, 0);
    for seed in 100..108 {
        let scenario = Scenario {
            pages: 1024,
            threads: 1 + seed % 2,
            ..Scenario::new(seed)
        };
        let outcome = restored(scenario, 40);
        assert!(outcome.bad_pages.is_empty());
        restarts += outcome.restarts;
        forks += outcome.forks;
    }
    assert!(
        restarts > 20 && forks > 10,
        "{restarts} restarts, {forks} forks"
    );
}

#[test]
fn many_processes_at_once() {
    let base = Scenario {
        processes: 24,
        threads: 1,
        pages: 128,
        ..Scenario::new(200)
    };
    let outcome = restored(base.clone(), 0);
    assert!(outcome.faults > 0);
    restored(Scenario { seed: 201, ..base }, 20);
}

#[test]
fn a_crowd_faults_on_the_same_pages() {
    for (seed, kills) in [(300, 0), (301, 30)] {
        let scenario = Scenario {
            play: Play::Crowd,
            threads: 6,
            processes: 2,
            pages: 2048,
            ..Scenario::new(seed)
        };
        let outcome = restored(scenario, kills);
        assert!(outcome.faults > 0);
    }
}

#[test]
fn no_fault_waits_for_the_last_word() {
    for seed in [310, 311] {
        let scenario = Scenario {
            play: Play::Patient,
            threads: 6,
            processes: 2,
            pages: 1024,
            ..Scenario::new(seed)
        };
        let outcome = restored(scenario, 50);
        assert!(outcome.faults > 100 && outcome.restarts > 0, "{outcome:?}");
    }
}

#[test]
fn a_wrong_sum_harms_who_looks_and_no_one_else() {
    for (seed, kills) in [(400, 0), (401, 20)] {
        let scenario = Scenario {
            play: Play::Bad,
            spoil: true,
            sums: true,
            ..Scenario::new(seed)
        };
        let expected = scenario.bad_pages();
        assert!(expected.len() > 10);
        let outcome = restored(scenario, kills);
        assert_eq!(outcome.bad_pages, expected, "seed {seed}");
    }
}

#[test]
fn pages_behind_the_end_of_the_file_are_bad() {
    for (seed, sums) in [(500, false), (501, true)] {
        let scenario = Scenario {
            play: Play::Bad,
            truncate: true,
            sums,
            ..Scenario::new(seed)
        };
        let expected = scenario.bad_pages();
        assert!(expected.len() > 10);
        let outcome = restored(scenario, 0);
        assert_eq!(outcome.bad_pages, expected, "seed {seed}");
    }
}

#[test]
fn without_poison_who_has_a_bad_page_dies() {
    for seed in [600, 601] {
        // Only the first process has bad pages.
        let scenario = Scenario {
            play: Play::Killed,
            spoil: true,
            sums: true,
            old_kernel: true,
            ..Scenario::new(seed)
        };
        let outcome = restored(scenario, 0);
        assert!(!outcome.bad_pages.is_empty());
        assert!(outcome
            .bad_pages
            .iter()
            .all(|(pid, _)| *pid == role::pid(0)));
    }
}

#[test]
fn a_connection_that_ends_early_is_an_error() {
    for play in [Play::HangUp, Play::HalfADescriptor] {
        let scenario = Scenario {
            play,
            ..Scenario::new(700)
        };
        let run = run(&scenario, 0);
        let error = run.outcome.unwrap_err();
        assert!(error.contains("CRIU"), "{error}");
        // The processes are let go of: they see zeros, or what they were given, and do not hang.
        assert!(run.apps_ok);
    }
}

#[test]
fn a_process_without_a_memory_is_an_error() {
    let run = run(
        &Scenario {
            play: Play::Stranger,
            ..Scenario::new(701)
        },
        0,
    );
    let error = run.outcome.unwrap_err();
    assert!(
        error.contains("31337") && error.contains("no memory"),
        "{error}"
    );
    assert!(run.apps_ok);
}

#[test]
fn the_supervisor_may_die() {
    for seed in 0..12 {
        let scenario = Scenario {
            pages: 2048,
            processes: 6,
            sums: true,
            play: Play::Orphans,
            ..Scenario::new(702 + seed)
        };
        let run = run(&scenario, 0);
        assert!(run.apps_ok, "seed {seed}");
        assert!(run.outcome.unwrap_err().contains("signal"));
    }
}

#[test]
fn a_daemon_that_never_comes_can_be_waited_for_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let scenario = Scenario {
        dir: deep.clone(),
        ..Scenario::new(703)
    };
    let mut supervisor = harness::supervisor(&scenario);
    kup::foam::restore::Listener::abandon(&deep).unwrap();
    assert!(!harness::wait(&mut supervisor, Duration::from_secs(30)).success());
    assert!(std::fs::read_to_string(deep.join("error"))
        .unwrap()
        .contains("ended before"));
    assert!(kup::foam::restore::Listener::abandon(&deep).is_err());
}

/// Not a check: prints how fast memory is filled.
#[test]
#[ignore = "a measurement"]
fn throughput() {
    for sums in [false, true] {
        let scenario = Scenario {
            play: Play::Idle,
            processes: 1,
            threads: 1,
            pages: 262_144,
            sums,
            ..Scenario::new(800)
        };
        let outcome = restored(scenario, 0);
        let rate = outcome.bytes_copied as f64 / outcome.seconds / f64::from(1 << 20);
        println!("sums {sums}: {rate:.0} MiB/s, {outcome:?}");
    }
}
