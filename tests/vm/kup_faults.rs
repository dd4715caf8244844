// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Whatever goes wrong with `kup update`, the application runs or can be restored, and a client's
//! connection outlives it, unless CRIU itself is killed. Each case ends with a redis that holds what it held, and answers.

use super::redis_guest::{self, items};
use crate::apps::counter::Counter;
use crate::lab::{Guest, Lab};
use anyhow::{ensure, Context, Result};
use std::time::Duration;

const KEYS: usize = 15_000;
const PATIENCE: Duration = Duration::from_secs(120);
const BASE: &str = "/mnt/kup";

struct Case {
    name: &'static str,
    /// Ends with 0 if it went wrong in the way it should. `$UPDATE` is the command under test, `end` waits for a
    /// CRIU that has lost its `kup`: it lets the application go on. `leave N` leaves N MiB of
    /// the region free.
    script: &'static str,
}

/// A kexec that loads, and where the next kernel should start does something else.
const FALSE_KEXEC: &str = "#!/bin/sh
case \"$*\" in *--exec*) [ -e /tmp/hang ] && exec sleep 300; exit 1;; esac
exec /usr/sbin/kexec.real \"$@\"
";

const CASES: &[Case] = &[
    Case {
        name: "the next kernel does not start",
        script: "! $UPDATE 2>/tmp/said && grep -q 'run on, under the old kernel' /tmp/said && \
                 [ -z \"$(ls $BASE)\" -o \"$(ls $BASE)\" = update.json ]",
    },
    Case {
        name: "the next kernel's command line lacks the region",
        script: "! $UPDATE --command-line quiet 2>/tmp/said && grep -q 'lacks memmap=' /tmp/said",
    },
    Case {
        name: "two at once",
        script: "$UPDATE 2>/dev/null & sleep 1; ! $UPDATE 2>/tmp/said && grep -q 'another kup works' /tmp/said; \
                 result=$?; wait; exit $result",
    },
    Case {
        name: "kup is killed in the first round",
        script: "$UPDATE 2>/dev/null & \
                 until [ -e $BASE/redis/memory/process-$PID ]; do sleep 0.02; done; kill -9 $!; end",
    },
    Case {
        name: "kup is killed when CRIU is ready for the last round",
        script: "guard() { ps -o args | grep -q '[k]up guard'; }; $UPDATE 2>/dev/null & \
                 until guard; do sleep 0.01; done; kill -9 $!; end; ! guard && kup resume && \
                 kup list --json | grep -q '^\\[\\]'",
    },
    Case {
        name: "kup is killed in the last round",
        script: "$UPDATE 2>/dev/null & \
                 until [ -e $BASE/redis/log/dump-* ]; do sleep 0.01; done; kill -9 $!; end; kup resume && \
                 kup list --json | grep -q '^\\[\\]'",
    },
    Case {
        name: "kup is killed when all stand still",
        script: "touch /tmp/hang; $UPDATE 2>/dev/null & \
                 until grep -q switching $BASE/update.json; do sleep 0.1; done; \
                 grep -q ' t ' /proc/$PID/stat && nft list tables | grep -q kup-gate || exit 1; \
                 kill -9 $!; kill -9 $(pidof sleep); rm /tmp/hang; end; \
                 kup resume && kup list --json | grep -q '^\\[\\]'",
    },
    Case {
        name: "the guard is killed when all stand still",
        script: "touch /tmp/hang; ($UPDATE 2>/tmp/said; echo $? > /tmp/status) & \
                 until grep -q switching $BASE/update.json; do sleep 0.1; done; \
                 kill -9 $(ps -o pid,args | awk '/[k]up guard/ { print $1 }') || exit 1; \
                 while grep -q ' t ' /proc/$PID/stat; do sleep 0.1; done; \
                 kill -9 $(pidof sleep); rm /tmp/hang; wait; [ $(cat /tmp/status) = 1 ] && \
                 grep -q 'run on, under the old kernel' /tmp/said && \
                 kup list --json | grep -q '^\\[\\]'",
    },
    Case {
        name: "the region has no room",
        script: "leave 30; ! $UPDATE 2>/tmp/said; result=$?; rm /mnt/filler; \
                 grep -q 'needs about' /tmp/said && exit $result",
    },
    Case {
        name: "the region becomes full in the rounds",
        script: "leave 90; \
                 ($UPDATE 2>/tmp/said; echo $? > /tmp/status) & \
                 until [ -e $BASE/redis/memory/process-$PID ]; do sleep 0.02; done; \
                 dd if=/dev/zero of=/mnt/filler2 bs=64k 2>/dev/null; wait; rm /mnt/filler /mnt/filler2; \
                 [ $(cat /tmp/status) = 1 ] && grep -q 'run on, under the old kernel' /tmp/said",
    },
    Case {
        name: "an application listens at so many ports that nft has much to say",
        script: "list=$(for port in $(seq 2001 2200); do printf '127.0.0.1:%d,' $port; done); \
                 setsid memcached -u root -U 0 -t 1 -l ${list%,} </dev/null >/dev/null 2>&1 & MANY=$!; \
                 until grep -q ':0898 ' /proc/net/tcp; do sleep 0.1; done; \
                 timeout 100 kup -q checkpoint many --leave-running --pid $MANY && kup remove --force many; \
                 result=$?; kill -9 $MANY; exit $result",
    },
    Case {
        name: "an image was changed",
        script: "kup -q checkpoint x --pid $PID && cp $BASE/x/images/fs-$PID.img /tmp/good && \
                 printf X | dd of=$BASE/x/images/fs-$PID.img bs=1 seek=9 conv=notrunc 2>/dev/null && \
                 ! kup restore x 2>/tmp/said && grep -q 'not what was checkpointed' /tmp/said && \
                 ! kup remove x 2>/dev/null && cp /tmp/good $BASE/x/images/fs-$PID.img && \
                 kup -q restore --wait x && ! kup restore x 2>/tmp/said && grep -q 'restored already' /tmp/said && \
                 kup remove x",
    },
];

/// The application runs from the moment in which its CRIU ends, with its connections in repair mode; one on which
/// something has come meanwhile is lost then, before anybody can unlock it.
const WITHOUT_CONNECTION: &[Case] = &[
    Case {
        name: "CRIU is killed in the last round",
        script: "($UPDATE --rounds 0 2>/tmp/said; echo $? > /tmp/status) & \
                 until [ -e $BASE/redis/memory/process-$PID ]; do sleep 0.01; done; \
                 kill -9 $(pidof criu) || exit 1; wait; [ $(cat /tmp/status) = 1 ] && \
                 grep -q 'run on, under the old kernel' /tmp/said && ! nft list tables | grep CRIU && \
                 ! grep -q ' t ' /proc/$PID/stat && kup list --json | grep -q '^\\[\\]'",
    },
    Case {
        name: "kup and CRIU are killed in the last round",
        script: "$UPDATE --rounds 0 2>/dev/null & \
                 until [ -e $BASE/redis/memory/process-$PID ]; do sleep 0.01; done; \
                 kill -9 $! $(pidof criu) || exit 1; end; kup resume && ! nft list tables | grep CRIU && \
                 kup list --json | grep -q '^\\[\\]'",
    },
    Case {
        name: "CRIU is killed when all stand still",
        script: "touch /tmp/hang; ($UPDATE 2>/tmp/said; echo $? > /tmp/status) & \
                 until grep -q switching $BASE/update.json; do sleep 0.1; done; \
                 kill -9 $(pidof criu) || exit 1; kill -9 $(pidof sleep); rm /tmp/hang; wait; \
                 [ $(cat /tmp/status) = 1 ] && ! nft list tables | grep CRIU",
    },
    Case {
        name: "CRIU is killed in a restore",
        script: "kup -q checkpoint x --pid $PID || exit 1; kup restore x 2>/tmp/said & KUP=$!; \
                 until [ \"$CRIU\" ]; do for child in $(cat /proc/$KUP/task/*/children); do \
                 read name < /proc/$child/comm; [ $name = criu ] && CRIU=$child; done; done; \
                 until [ -e /proc/$PID ]; do :; done; kill -9 $CRIU; ! wait $KUP && \
                 if grep -q 'can be tried again' /tmp/said; then AGAIN=; ! [ -e /proc/$PID ] && \
                 kup list --json | grep -q '\"ready\"'; else AGAIN=--again; kill -9 $PID && \
                 grep -q 'kill them' /tmp/said; fi && kup -q restore $AGAIN --wait x && kup remove x",
    },
    Case {
        name: "kup and CRIU are killed when all stand still",
        script: "touch /tmp/hang; $UPDATE 2>/dev/null & \
                 until grep -q switching $BASE/update.json; do sleep 0.1; done; \
                 kill -9 $! $(pidof criu) || exit 1; kill -9 $(pidof sleep); rm /tmp/hang; end; \
                 [ -d $BASE/redis ] && ! [ -e $BASE/redis/manifest.json ] || exit 1; \
                 nft list tables | grep -q CRIU && kup resume && ! nft list tables | grep CRIU && \
                 kup list --json | grep -q '^\\[\\]'",
    },
];

pub fn run(lab: &Lab) -> Result<()> {
    let boot = redis_guest::boot(lab)?.network();
    let guest = lab.boot(&boot)?;
    redis_guest::mount_new(&guest)?;
    let dir = lab.bring(&guest, &boot)?;
    guest.run("mv /usr/sbin/kexec /usr/sbin/kexec.real")?;
    guest.push("/usr/sbin/kexec", FALSE_KEXEC)?;
    guest.run("chmod 755 /usr/sbin/kexec")?;
    redis_guest::start(&guest, KEYS)?;
    let before = items(&guest)?;
    let counter = Counter::start(guest.address()?, PATIENCE)?;
    for case in CASES {
        one(&guest, dir, case).with_context(|| case.name)?;
        counter.wait(10, PATIENCE).with_context(|| case.name)?;
        ensure!(items(&guest)? == before, "{}: the keys differ", case.name);
        println!("{}: ok", case.name);
    }
    counter.finish()?;
    for case in WITHOUT_CONNECTION {
        one(&guest, dir, case).with_context(|| case.name)?;
        ensure!(items(&guest)? == before, "{}: the keys differ", case.name);
        println!("{}: ok", case.name);
    }
    guest.check()
}

fn one(guest: &Guest, dir: &str, case: &Case) -> Result<()> {
    let script = format!(
        "PID=$(pidof redis-server); BASE={BASE}; rm -rf /tmp/said $BASE/update.json; \
         end() {{ sleep 0.5; while pidof criu >/dev/null; do sleep 0.1; done; }}; \
         leave() {{ fallocate -l $(df -k /mnt | awk -v left=$1 'END {{ print $4 - left * 1024 }}')k /mnt/filler; }}; \
         UPDATE=\"kup update --kernel /{dir}/vmlinuz --initrd /{dir}/initrd --pid redis=$PID\"; {}",
        case.script
    );
    let output = guest.command(script).timeout(180).output()?;
    ensure!(
        output.success(),
        "{}{}\n{}",
        output.stdout(),
        output.stderr(),
        guest.run(format!(
            "cat /tmp/said; ls -R {BASE}; cat {BASE}/redis/log/* {BASE}/*.json; true"
        ))?
    );
    // Nobody waits outside any more, whoever was killed.
    guest.run(
        "for i in $(seq 50); do tables=$(nft list tables) || exit 1; \
         case \"$tables\" in *kup-gate*) sleep 0.1;; *) exit 0;; esac; done; exit 1",
    )?;
    Ok(())
}
