// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Applications with their data in memory are carried over a kernel update by `kup update`: checkpointed
//! into the region, a new kernel started under them by kexec, restored from there. A client outside the
//! guest counts all the while over one TCP connection.
//!
//! By hand, the same is done by CRIU's and kexec's own commands, with CRIU's own images.

use crate::apps::counter::{self, Counter};
use crate::apps::load::Load;
use crate::apps::memcached::{self, Memcached};
use crate::apps::redis::{self, Redis};
use crate::apps::{digest, Fingerprints};
use crate::kmod;
use crate::lab::{Boot, Filesystem, Guest, Lab, Region, Size};
use crate::timeline::Timeline;
use anyhow::{bail, ensure, Context, Result};
use serde::Serialize;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const MOUNT: &str = "/mnt/rpramfs";
const MODULE: &str = "usr/lib/rpramfs.ko";
/// No client waits longer than this for an answer.
const PATIENCE: Duration = Duration::from_secs(180);
/// The first PID of the applications: none of the next kernel's own threads will have it.
const FIRST_PID: u32 = 20_000;
const RESIDENT: u64 = 256 << 20;

pub struct Options {
    pub from: String,
    pub to: String,
    pub filesystem: Filesystem,
    pub region: Size,
    pub keys: usize,
    pub items: usize,
    /// By the commands of CRIU and kexec, otherwise by `kup`.
    pub by_hand: bool,
    /// Otherwise the kernel module serves the mount in every kernel that it is built for.
    pub only_fuse: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            from: "6.12".to_owned(),
            to: "7.x".to_owned(),
            filesystem: Filesystem::Rpramfs,
            region: Size::gib(1),
            keys: 100_000,
            items: 10_000,
            by_hand: false,
            only_fuse: false,
        }
    }
}

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub kernel_from: String,
    pub kernel_to: String,
    pub mount_from: String,
    pub mount_to: String,
    pub apps: Vec<AppReport>,
    pub connection_survived: bool,
    pub seconds: Seconds,
}

#[derive(Debug, Serialize)]
pub struct AppReport {
    pub name: &'static str,
    pub items: usize,
    pub digest_before: String,
    pub digest_after: String,
}

#[derive(Debug, Default, Serialize)]
pub struct Seconds {
    pub dump: f64,
    pub kexec_to_init: f64,
    pub mount: f64,
    pub restore: f64,
    pub client_gap: f64,
}

struct App {
    name: &'static str,
    start: &'static str,
    filled: fn(&Options) -> usize,
    items: fn(Ipv4Addr) -> Result<Fingerprints>,
}

const APPS: &[App] = &[
    App {
        name: "redis",
        start: "redis-server --bind 0.0.0.0 --protected-mode no --save '' --appendonly no",
        filled: |options| options.keys,
        items: |host| Redis::connect(host)?.items("key:"),
    },
    App {
        name: "memcached",
        start: "memcached -u root -l 0.0.0.0 -U 0 -m 256",
        filled: |options| options.items,
        items: |host| Memcached::connect(host)?.items("item-"),
    },
];

pub fn run(lab: &Lab) -> Result<()> {
    carry(lab, &Options::default()).map(drop)
}

/// The same, by the commands that `kup` runs.
pub fn run_by_hand(lab: &Lab) -> Result<()> {
    carry(
        lab,
        &Options {
            by_hand: true,
            ..Options::default()
        },
    )
    .map(drop)
}

/// From one kernel that has the module to the next.
pub fn run_module_to_module(lab: &Lab) -> Result<()> {
    let report = carry(
        lab,
        &Options {
            from: "7.x-1".to_owned(),
            to: "7.x".to_owned(),
            ..Options::default()
        },
    )?;
    ensure!(
        [&report.mount_from, &report.mount_to] == ["rpramfs", "rpramfs"],
        "not by the module: {} and {}",
        report.mount_from,
        report.mount_to
    );
    Ok(())
}

/// Fails unless everything that was there before is there after.
pub fn carry(lab: &Lab, options: &Options) -> Result<Report> {
    let fs = options.filesystem;
    let region = fs.region(options.region);
    let boot = |kernel: &str| -> Result<Boot> {
        let boot = Boot::new(kernel).region(region).network();
        if !fs.needs_tools() {
            return Ok(boot.without_tools());
        }
        match module(lab, kernel, options)? {
            Some(module) => Ok(boot.file(MODULE, &module)),
            None => Ok(boot),
        }
    };
    let (old, new) = (boot(&options.from)?, boot(&options.to)?);
    let time = Timeline::start();
    lab.prepare(&old)?;
    lab.prepare(&new)?;
    let accel = lab.accel()?.name();
    let mut report = Report::default();
    time.say("kernels, programs and tools are at hand");
    let guest = lab.boot(&old)?;
    report.kernel_from = guest.release();
    time.say(format!(
        "{} is up in QEMU ({accel}), {}",
        report.kernel_from,
        region.argument()
    ));
    guest.network_up()?;
    guest.run(fs.mkfs(&region))?;
    report.mount_from = mount(&guest, fs, &region)?.0;
    time.say(format!(
        "formatted and mounted as {}",
        served_by(&report.mount_from)
    ));

    start_apps(&guest)?;
    let host = guest.address()?;
    let seed = std::process::id().into();
    Redis::connect(host)?.fill(seed, options.keys, 2900)?;
    Memcached::connect(host)?.fill(seed, options.items, 1000)?;
    for app in APPS {
        time.say(format!(
            "{} holds {} MiB",
            app.name,
            resident(&guest, app)? >> 20
        ));
    }
    ensure!(
        resident(&guest, &APPS[0])? >= RESIDENT,
        "redis holds less than 256 MiB"
    );

    let counter = Counter::start(host, PATIENCE)?;
    let load = Load::start(host, PATIENCE)?;
    counter.wait(50, PATIENCE)?;
    time.say("a client outside counts in redis; others write to both servers");
    for app in APPS {
        let items = (app.items)(host)?;
        let (name, digest_before) = (app.name, digest(&items));
        time.say(format!(
            "{name}: {} items, digest {}…",
            items.len(),
            &digest_before[..12]
        ));
        ensure!(
            items.len() == (app.filled)(options),
            "{name} does not name all that was put into it"
        );
        let digest_after = String::new();
        report.apps.push(AppReport {
            name,
            items: items.len(),
            digest_before,
            digest_after,
        });
    }
    let at = counter.count();
    time.say(format!("{} requests served so far", load.requests()));
    if options.by_hand {
        by_hand(lab, &guest, &new, options, &mut report, &time)?;
    } else {
        by_kup(lab, &guest, &new, options, &mut report, &time)?;
    }

    timers_run(host).context("redis after the restore")?;
    counter.wait(50, PATIENCE)?;
    time.say(format!(
        "the client counts on: {at} before, {} now",
        counter.count()
    ));
    let load = load.finish().context("a client under load")?;
    time.say(format!(
        "the other clients too: {} requests, {} keys in redis and {} in memcached as answered",
        load.requests, load.redis_keys, load.memcached_keys
    ));
    for (app, report) in APPS.iter().zip(&mut report.apps) {
        let items = (app.items)(host)?;
        report.digest_after = digest(&items);
        let same = report.digest_after == report.digest_before && items.len() == report.items;
        let verdict = if same { "the same" } else { "NOT THE SAME" };
        time.say(format!("{}: {} items, {verdict}", app.name, items.len()));
        ensure!(same, "{}: the items differ: {report:?}", app.name);
    }
    let counted = counter.finish().context("the client that counts")?;
    report.seconds.client_gap = counted.gap.as_secs_f64();
    let stored = Redis::connect(host)?.call(&[b"GET", counter::KEY.as_bytes()])?;
    let expected = redis::Reply::Bulk(counted.counts.to_string().into_bytes());
    ensure!(
        stored == expected,
        "counted {}, stored {stored:?}",
        counted.counts
    );
    report.connection_survived = true;
    time.say(format!(
        "{} counts over one connection, the longest wait {:.2} s",
        counted.counts, report.seconds.client_gap
    ));
    end(&guest, fs, &region)?;
    time.say("all ended, unmounted, and clean again");
    Ok(report)
}

/// As a user does it: one command in the old kernel, one in the new one.
fn by_kup(
    lab: &Lab,
    guest: &Guest,
    new: &Boot,
    options: &Options,
    report: &mut Report,
    time: &Timeline,
) -> Result<()> {
    let (fs, region) = (
        options.filesystem,
        options.filesystem.region(options.region),
    );
    let dir = lab.bring(guest, new)?;
    let mut members = String::new();
    for app in APPS {
        members += &format!(" --pid {}={}", app.name, pid(guest, app)?);
    }
    let before = uptime(guest)?;
    let (hello, said, seconds) = lab.leave_by(
        guest,
        &format!(
            "exec kup update --kernel /{dir}/vmlinuz --initrd /{dir}/initrd \
             --command-line \"$(cat /{dir}/cmdline)\" {members}"
        ),
    )?;
    for line in said.lines() {
        println!("              {line}");
    }
    report.kernel_to = hello.release;
    guest.run("kup prepare >/dev/null 2>&1 &")?;
    clean(guest, fs, &region)?;
    (report.mount_to, report.seconds.mount) = mount(guest, fs, &region)?;
    let update = update_report(guest)?;
    let stopped = update.at("stopped")? - update.at("stopping")?;
    let ran = update.up("switching")? - before;
    report.seconds.dump = stopped;
    report.seconds.kexec_to_init = seconds - ran;
    time.say(format!(
        "stopped for {stopped:.2} s, then kexec into {}: init after {:.2} s",
        report.kernel_to, report.seconds.kexec_to_init
    ));
    guest.run("kup hold")?;
    guest.network_up()?;
    time.say(format!(
        "checked clean, mounted as {} in {:.2} s",
        served_by(&report.mount_to),
        report.seconds.mount
    ));
    let output = guest.command("kup resume").timeout(180).output()?;
    for line in output.stderr().lines() {
        println!("              {line}");
    }
    if !output.success() {
        let logs = guest.run(format!("tail -n 30 {MOUNT}/kup/*/log/*"))?;
        bail!("kup resume: {}\n{logs}", output.stderr());
    }
    let update = update_report(guest)?;
    report.seconds.restore = update.at("running")? - update.at("resuming")?;
    time.say(format!("restored in {:.2} s", report.seconds.restore));
    Ok(())
}

/// What `kup report` tells: when each step began, by the clock and since the kernel began.
struct UpdateReport(serde_json::Value);

impl UpdateReport {
    fn event(&self, step: &str, field: &str) -> Result<f64> {
        let events = self.0["events"].as_array().context("no events")?;
        let event = events.iter().rev().find(|event| event["step"] == step);
        let value = event.and_then(|event| event[field].as_f64());
        value.with_context(|| format!("kup report: no {step}"))
    }

    fn at(&self, step: &str) -> Result<f64> {
        self.event(step, "at")
    }

    fn up(&self, step: &str) -> Result<f64> {
        self.event(step, "uptime")
    }
}

fn update_report(guest: &Guest) -> Result<UpdateReport> {
    let text = guest.run("kup report --json")?;
    Ok(UpdateReport(serde_json::from_str(&text)?))
}

fn uptime(guest: &Guest) -> Result<f64> {
    let text = guest.run("cut -d ' ' -f 1 /proc/uptime")?;
    Ok(text.trim().parse()?)
}

fn clean(guest: &Guest, fs: Filesystem, region: &Region) -> Result<()> {
    let clean = guest.command(fs.check(region)).timeout(120).output()?;
    ensure!(
        clean.success(),
        "not clean:\n{}{}",
        clean.stdout(),
        clean.stderr()
    );
    Ok(())
}

/// With CRIU's own images, by the commands themselves.
fn by_hand(
    lab: &Lab,
    guest: &Guest,
    new: &Boot,
    options: &Options,
    report: &mut Report,
    time: &Timeline,
) -> Result<()> {
    let (fs, region) = (
        options.filesystem,
        options.filesystem.region(options.region),
    );
    lab.kexec_load(guest, new)?;
    let start = Instant::now();
    for app in APPS.iter().rev() {
        dump(guest, app)?;
        time.say(format!("{} is checkpointed", app.name));
    }
    report.seconds.dump = start.elapsed().as_secs_f64();
    let size = guest.run(format!("du -shx {MOUNT} | cut -f1"))?;
    let seconds = report.seconds.dump;
    time.say(format!(
        "both in the region after {seconds:.2} s: {}",
        size.trim()
    ));
    guest.run(format!("umount {MOUNT}"))?;

    let (hello, seconds) = lab.kexec(guest)?;
    report.seconds.kexec_to_init = seconds;
    report.kernel_to = hello.release;
    time.say(format!(
        "kexec into {}: init after {seconds:.2} s",
        report.kernel_to
    ));
    hold_packets(guest)?;
    guest.network_up()?;
    clean(guest, fs, &region)?;
    (report.mount_to, report.seconds.mount) = mount(guest, fs, &region)?;
    let seconds = report.seconds.mount;
    time.say(format!(
        "checked clean, mounted as {} in {seconds:.2} s",
        served_by(&report.mount_to)
    ));
    let start = Instant::now();
    for app in APPS {
        restore(guest, app)?;
        time.say(format!("{} is restored", app.name));
    }
    report.seconds.restore = start.elapsed().as_secs_f64();
    release_packets(guest)?;
    time.say(format!("restored in {:.2} s", report.seconds.restore));
    Ok(())
}

/// The kernel module for a kernel that it is built for.
fn module(lab: &Lab, kernel: &str, options: &Options) -> Result<Option<PathBuf>> {
    let kernels = lab.kernels()?;
    let release = kernels.release(kernel)?;
    if options.only_fuse || !kernels.series(7).contains(&release) {
        return Ok(None);
    }
    kmod::module(lab.cache(), kernels, release).map(Some)
}

/// Who is behind a type of mount.
pub fn served_by(kind: &str) -> String {
    match kind {
        "rpramfs" => "rpramfs (the kernel module)".to_owned(),
        "fuse.rpramfs" => "fuse.rpramfs (FUSE)".to_owned(),
        other => other.to_owned(),
    }
}

/// Mounts, and returns the type of the mount and the seconds it took, with those for loading the
/// kernel module where the guest has it: mount takes it then.
fn mount(guest: &Guest, fs: Filesystem, region: &Region) -> Result<(String, f64)> {
    guest.run(format!("mkdir -p {MOUNT}"))?;
    let start = Instant::now();
    guest.run(format!("! [ -e /{MODULE} ] || insmod /{MODULE}"))?;
    guest.run(fs.mount(region, MOUNT))?;
    let seconds = start.elapsed().as_secs_f64();
    let kind = guest.run(format!("findmnt -n -o FSTYPE {MOUNT}"))?;
    let kind = kind.trim().to_owned();
    let has_module = guest
        .command(format!("[ -e /{MODULE} ]"))
        .output()?
        .success();
    ensure!(
        !has_module || kind == "rpramfs",
        "not by the module: {kind}"
    );
    Ok((kind, seconds))
}

fn start_apps(guest: &Guest) -> Result<()> {
    guest.run(format!("echo {FIRST_PID} > /proc/sys/kernel/ns_last_pid"))?;
    for app in APPS {
        let start = app.start;
        guest.run(format!(
            "cd / && setsid {start} </dev/null >/dev/null 2>&1 &"
        ))?;
    }
    Ok(())
}

/// A clock in redis that its timer moves on every second. The next kernel's monotonic clock begins
/// at zero: if CRIU did not bring the old one along, the timers would be far in the future.
fn timers_run(host: Ipv4Addr) -> Result<()> {
    let mut redis = Redis::connect(host)?;
    let mut clock = || -> Result<String> {
        let redis::Reply::Bulk(info) = redis.call(&[b"INFO", b"server"])? else {
            bail!("redis: INFO");
        };
        let info = String::from_utf8_lossy(&info).into_owned();
        let line = info.lines().find(|line| line.starts_with("lru_clock:"));
        Ok(line.context("redis: no lru_clock")?.to_owned())
    };
    let (start, before) = (Instant::now(), clock()?);
    while clock()? == before {
        ensure!(
            start.elapsed() < Duration::from_secs(5),
            "its timers do not run"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn pid(guest: &Guest, app: &App) -> Result<String> {
    let program = app.start.split(' ').next().unwrap_or(app.name);
    Ok(guest.run(format!("pidof {program}"))?.trim().to_owned())
}

fn resident(guest: &Guest, app: &App) -> Result<u64> {
    let pid = pid(guest, app)?;
    let text = guest.run(format!("awk '/^VmRSS:/ {{ print $2 }}' /proc/{pid}/status"))?;
    Ok(text.trim().parse::<u64>()? * 1024)
}

fn dump(guest: &Guest, app: &App) -> Result<()> {
    let (pid, dir) = (pid(guest, app)?, format!("{MOUNT}/{}", app.name));
    let criu = "criu dump --tcp-established --network-lock nftables --manage-cgroups=ignore";
    criu_run(
        guest,
        &dir,
        &format!("{criu} -t {pid} --images-dir {dir} -o dump.log"),
    )
}

fn restore(guest: &Guest, app: &App) -> Result<()> {
    let dir = format!("{MOUNT}/{}", app.name);
    let criu = "criu restore -d --tcp-established --network-lock nftables --manage-cgroups=ignore";
    criu_run(
        guest,
        &dir,
        &format!("{criu} --images-dir {dir} -o restore.log"),
    )
}

/// The servers end by themselves, and what is left behind is whole.
fn end(guest: &Guest, fs: Filesystem, region: &Region) -> Result<()> {
    for app in APPS {
        let pid = pid(guest, app)?;
        guest.run(format!(
            "kill {pid}; for i in $(seq 100); do [ -e /proc/{pid} ] || exit 0; sleep 0.1; done; exit 1"
        ))?;
    }
    guest.run(format!("umount {MOUNT}"))?;
    guest.command(fs.check(region)).timeout(120).run()?;
    guest.check()
}

fn criu_run(guest: &Guest, dir: &str, criu: &str) -> Result<()> {
    let script = format!("mkdir -p {dir}; {criu} || {{ tail -n 30 {dir}/*.log >&2; exit 1; }}");
    guest.command(script).timeout(180).run().map(drop)
}

/// The lock that CRIU put on the connections died with the old kernel. Until the servers are back
/// the new one must not answer their clients: it would say that there is no such connection.
fn hold_packets(guest: &Guest) -> Result<()> {
    let ports = [redis::PORT, memcached::PORT]
        .map(|port| port.to_string())
        .join(", ");
    let rules = format!(
        "table inet hold {{
             chain input {{
                 type filter hook input priority -300;
                 tcp dport {{ {ports} }} drop
             }}
         }}"
    );
    guest.command("nft -f -").stdin(rules).run().map(drop)
}

fn release_packets(guest: &Guest) -> Result<()> {
    guest.run("nft delete table inet hold").map(drop)
}
