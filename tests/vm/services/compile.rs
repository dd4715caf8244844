// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A compilation in progress: processes that come and go, their pipes and temporary files. It ends with the program
//! that it ends with undisturbed.

use super::{App, Witness};
use crate::lab::{Apt, Guest, Lab};
use anyhow::{ensure, Result};
use std::net::Ipv4Addr;

pub const COMPILE: App = App {
    name: "compile",
    unit: None,
    configure: "true",
    prepare,
    begin,
};

/// Lua, thirty-odd files of C.
const MAKE: &str = "make -C src -j2 generic CC='gcc -std=gnu99' MYCFLAGS=-O2";

struct Make;

/// The sources twice, and one of them compiled.
fn prepare(lab: &Lab, guest: &Guest) -> Result<()> {
    let source = Apt::open_sources(lab.cache(), "sources", &["forky"])?.source("lua5.4")?;
    guest.push_file("/root/source.tar.gz", &source)?;
    // /tmp is memory, and goes with the kernel: temporary files belong on the disk.
    let undisturbed = format!(
        "cd /root && mkdir -p tmp undisturbed carried && export TMPDIR=/root/tmp
         for dir in undisturbed carried; do tar -xz -C $dir --strip-components=1 -f source.tar.gz || exit 1; done
         cd undisturbed && {MAKE} >log 2>&1 || {{ tail log >&2; exit 1; }}"
    );
    guest.command(undisturbed).timeout(600).run().map(drop)
}

fn begin(_: &Lab, guest: &Guest, _: Ipv4Addr) -> Result<Box<dyn Witness>> {
    // It has little of the CPUs when all the others are there.
    let start = format!(
        "cd /root/carried && export TMPDIR=/root/tmp
         setsid {MAKE} </dev/null >log 2>&1 & echo $! > /root/compile.pid
         for i in $(seq 2000); do [ $(ls /root/carried/src/*.o 2>/dev/null | wc -l) -ge 3 ] && exit; sleep 0.1; done
         cat /root/carried/log; exit 1"
    );
    guest.command(start).timeout(400).run()?;
    Ok(Box::new(Make))
}

impl Witness for Make {
    fn goes_on(&mut self, guest: &Guest) -> Result<()> {
        // Otherwise nothing was shown.
        let done = guest.run("ls /root/carried/src/*.o | wc -l")?;
        println!("compile: {} objects so far", done.trim());
        Ok(())
    }

    fn end(self: Box<Self>, guest: &Guest) -> Result<String> {
        let wait = "for i in $(seq 1200); do pgrep -x make >/dev/null || break; sleep 0.2; done
            tail -n 3 /root/carried/log; cd /root && ls undisturbed/src/*.o | wc -l
            for file in lua luac; do cmp undisturbed/src/$file carried/src/$file || exit 1; done";
        let said = guest.command(wait).timeout(300).run()?;
        ensure!(!said.contains("Error"), "{said}");
        Ok("the same programs as undisturbed".to_owned())
    }
}
