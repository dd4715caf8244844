// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! mkfs, stopped at every store: there is no filesystem, or there is a whole one.

use fs_core::{probe, Region};
use rpramfs_tests::fixture::{audit, empty, format, mount};
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::record::{Recorder, Scratch};
use rpramfs_tests::script::{file, mkdir};
use rpramfs_tests::tree::walk;

fn stop_everywhere(what: &str, prepare: impl Fn(&Scratch, &TestHost)) {
    let host = TestHost::new(5);
    let scratch = Scratch::zeroed(2 << 20);
    prepare(&scratch, &host);
    let base = scratch.image();
    // What was there before stays reachable until both superblocks are gone.
    let old = mount(&scratch, host.reborn())
        .map(|fs| walk(&fs, &[]).expect("walk"))
        .unwrap_or_default();
    scratch.reset(&base.mem);
    let tape = Recorder::new(scratch);
    tape.start();
    format(&tape, &host);
    let log = tape.stop();
    let rolling = base.clone();
    let scratch = Scratch::new(&base);
    let (mut none, mut whole) = (0, 0);
    for k in 0..=log.stores.len() {
        if k > 0 {
            let s = log.stores[k - 1];
            rolling.mem.store(s.off, s.new).expect("inside");
            scratch.touch(s.off, 8);
        }
        scratch.reset(&rolling.mem);
        let host = host.reborn();
        match probe(&scratch, &host) {
            Err(_) => none += 1,
            Ok(_) => {
                let fs = mount(&scratch, host.reborn())
                    .unwrap_or_else(|e| panic!("{what}: mount after {k} stores: {e:?}"));
                let tree = walk(&fs, &[]).unwrap_or_else(|e| panic!("{what}: {k} stores: {e}"));
                assert!(
                    tree == old || tree.len() == 1,
                    "{what}: half a filesystem after {k} stores"
                );
                audit(&fs, &tree).unwrap_or_else(|e| panic!("{what}: {k} stores: {e}"));
                empty(&fs).unwrap_or_else(|e| panic!("{what}: {k} stores: {e}"));
                whole += 1;
            }
        }
    }
    println!(
        "crash: format {what}: {} states, {none} without a filesystem",
        none + whole
    );
    assert!(whole >= 1, "{what}: the end of it is no filesystem");
    assert!(none >= 1, "{what}: never without");
}

#[test]
fn crash_format() {
    stop_everywhere("zeros", |_, _| {});
    stop_everywhere("junk", |s, _| {
        s.write(0, &Rng(8).bytes(2 << 20)).expect("inside");
    });
    stop_everywhere("a filesystem", |s, host| {
        format(s, host);
        let fs = mount(s, host.clone()).expect("mount");
        mkdir(&fs, "d").expect("mkdir");
        file(&fs, "d/f", 100_000).expect("write");
    });
}
