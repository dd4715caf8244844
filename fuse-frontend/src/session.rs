// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A mount from opening the region to giving it back.

use crate::filesystem::{RpRamFs, Settings, Sync, READAHEAD};
use crate::mountpoint::{self, Unmounted, Users};
use crate::options::Options;
use fs_core::{MountOptions, OwnerKind, Region as _, SetAttr, ROOT_INO};
use fuser::{Config, Session, SessionACL};
use host::{Access, Backing, Error, Kind, Result, Spec, UserHost, UserRegion, Volume};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::statfs::{statfs, FUSE_SUPER_MAGIC};
use parking_lot::{Condvar, Mutex};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often to look for space to reclaim when there was none.
const RECLAIM_PAUSE: Duration = Duration::from_secs(10);

/// Threads without `threads=`: enough for every CPU, and for requests that wait for each other's
/// locks on a small machine.
fn default_threads() -> usize {
    thread::available_parallelism()
        .map_or(4, |n| n.get() + 1)
        .clamp(3, 17)
}

/// Opens the region and mounts the filesystem in it.
fn open_volume(options: &Options) -> Result<Arc<Volume<UserRegion>>> {
    let spec = host::resolve::resolve(&options.region()?)?;
    // Read-only mounts write the mount marker, and what a crash left in the journal: into memory of
    // their own where the region cannot be written.
    let region = match host::open(&spec, Access::ReadWrite) {
        Err(e)
            if options.read_only()
                && matches!(e.kind(), Kind::WriteProtected | Kind::Permission)
                && matches!(spec, Spec::Path(_)) =>
        {
            log::info!("{spec} can only be read: nothing is written to it");
            host::open(&spec, Access::Private)?
        }
        other => other?,
    };
    let len = region.len();
    let holder = fs_core::probe(&region, &UserHost::new())
        .ok()
        .and_then(|info| info.owner);
    let foreign = host::signature::foreign(&region).map(|found| found.name);
    let volume = Volume::mount(
        region,
        UserHost::new(),
        &MountOptions {
            read_only: options.read_only(),
            owner: host::owner::current(OwnerKind::Fuse)?,
            alive: &host::owner::alive,
        },
    )
    .map_err(|e| {
        let error = Error::core(format!("cannot mount {spec}"), e);
        match (e, holder) {
            (fs_core::Error::Busy, Some(owner)) => error.hint(format!(
                "it is mounted by {}",
                host::owner::describe(&owner)
            )),
            (fs_core::Error::NotOurs, _) if foreign.is_some() => {
                error.hint(format!("it holds {}", foreign.unwrap_or_default()))
            }
            (fs_core::Error::NotOurs, _) => error.hint(format!(
                "{} were searched; format it with: mkfs.rpramfs {spec}\n\
                 if it held one before a kexec: is memmap= the same as then?",
                host::size::human(len)
            )),
            (fs_core::Error::Corrupt(_), _) => error.hint(format!("check it: fsck.rpramfs {spec}")),
            (fs_core::Error::TooSmall, _) => error.hint(
                "the region is smaller than the filesystem in it: is the size the one it was \
                 made with?",
            ),
            _ => error,
        }
    })?;
    Ok(Arc::new(volume))
}

/// Owner and permissions of the root directory, where they were asked for and differ.
fn dress_root(volume: &Volume<UserRegion>, options: &Options) -> Result<()> {
    let what = "cannot set owner or mode of the root directory";
    let failed = |e| Error::core(what, e);
    let root = volume.getattr(ROOT_INO).map_err(failed)?;
    let set = SetAttr {
        uid: options.uid.filter(|uid| *uid != root.uid),
        gid: options.gid.filter(|gid| *gid != root.gid),
        mode: options.mode.filter(|mode| *mode != root.mode & 0o7777),
        ..SetAttr::default()
    };
    if set.uid.is_some() || set.gid.is_some() || set.mode.is_some() {
        volume.setattr(ROOT_INO, &set).map_err(failed)?;
    }
    Ok(())
}

/// Gives space of unlinked files and cut-off tails back that a crash left behind.
struct Reclaim {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: JoinHandle<()>,
}

impl Reclaim {
    fn start(volume: Arc<Volume<UserRegion>>) -> Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let shared = stop.clone();
        let thread = thread::Builder::new()
            .name("reclaim".into())
            .spawn(move || Self::run(&volume, &shared))
            .map_err(|e| Error::io("cannot start a thread", &e))?;
        Ok(Reclaim { stop, thread })
    }

    fn run(volume: &Volume<UserRegion>, (stop, wake): &(Mutex<bool>, Condvar)) {
        let mut stopped = stop.lock();
        while !*stopped {
            let pause = if volume.is_read_only() || volume.stats().pending == 0 {
                RECLAIM_PAUSE
            } else {
                let step =
                    parking_lot::MutexGuard::unlocked(&mut stopped, || volume.reclaim_step());
                match step {
                    // A breath for those who wait for the same locks.
                    Ok(true) => Duration::from_micros(50),
                    Ok(false) => RECLAIM_PAUSE,
                    Err(e) => {
                        log::error!("reclaiming space after a crash: {e}");
                        return;
                    }
                }
            };
            if !*stopped {
                wake.wait_for(&mut stopped, pause);
            }
        }
    }

    fn finish(self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        // A panic of the thread has been reported by the hook.
        let _ = self.thread.join();
    }
}

/// Signals that ask the daemon to end. Blocked before any thread is started, so that they reach
/// only the thread that waits for them.
fn end_signals() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set
}

/// Mounts, calls `ready` when the mount answers, serves until it is unmounted, and ends the
/// process. Returns only if it could not be mounted.
pub fn run(options: &Options, ready: impl FnOnce()) -> Result<std::convert::Infallible> {
    let block = |set: &SigSet| {
        set.thread_block()
            .map_err(|e| Error::io("cannot block signals", &e.into()))
    };
    block(&end_signals())?;
    mountpoint::remember_proc();
    // A terminal that goes away is no reason to end.
    let mut hangup = SigSet::empty();
    hangup.add(Signal::SIGHUP);
    block(&hangup)?;

    crate::sigbus::install();
    let volume = open_volume(options)?;
    let result = serve(options, &volume, ready);
    // Nobody was told that the mount is there.
    if let Err(e) = volume.unmount() {
        log::warn!("the mount marker stays until the next mount: {e}");
    }
    result
}

fn serve(
    options: &Options,
    volume: &Arc<Volume<UserRegion>>,
    ready: impl FnOnce(),
) -> Result<std::convert::Infallible> {
    dress_root(volume, options)?;
    let info = volume.info();
    log::info!(
        "{}: {} filesystem, label \"{}\", UUID {}{}",
        volume.fs().region().name(),
        host::size::human(info.size),
        host::resolve::label(&info),
        host::uuid::format(&info.uuid),
        if info.from_backup {
            ", from the backup superblock: run fsck.rpramfs"
        } else {
            ""
        }
    );
    if volume.is_read_only() && !options.read_only() {
        log::warn!(
            "{}: mounted read-only because of damage or features unknown here",
            volume.fs().region().name()
        );
    }

    if volume.fs().region().backing() == Backing::Block {
        log::warn!(
            "{}: writes pass the device's page cache: unmount it, or sync, before a kexec",
            volume.fs().region().name()
        );
    }

    let device = mountpoint::open_device()?;
    if let Some(namespace) = &options.namespace {
        mountpoint::enter_namespace(namespace)?;
    }
    let users = match options.allow_other {
        Some(true) => Users::All,
        Some(false) => Users::Caller,
        None if nix::unistd::geteuid().is_root() => Users::All,
        None => Users::Caller,
    };
    mountpoint::mount(
        &device,
        &options.spec,
        &options.dir,
        "rpramfs",
        options.flags,
        users,
        &options.kernel_data,
    )?;
    let undo = Undo(&options.dir);

    let settings = Settings {
        io: options.io,
        atime: options.atime,
        nodiratime: options.nodiratime,
    };
    let filesystem = RpRamFs::new(volume.clone(), settings, sync_of(volume));
    let notifier = filesystem.notifier_slot();
    let mut config = Config::default();
    config.n_threads = Some(options.threads.unwrap_or_else(default_threads));
    config.clone_fd = true;
    // The kernel lets in whom the mount's options say; fuser need not check again.
    let session = Session::from_fd(filesystem, device, SessionACL::All, config)
        .map_err(|e| Error::io("the kernel did not agree to talk", &e))?;
    // Set once, here.
    let _ = notifier.set(session.notifier());

    let reclaim = Reclaim::start(volume.clone())?;
    let served = volume.clone();
    thread::Builder::new()
        .name("session".into())
        .spawn(move || {
            let result = session.run();
            if let Err(e) = &result {
                log::error!("the session ended: {e}");
            }
            reclaim.finish();
            std::process::exit(end(&served, result.is_ok()));
        })
        .map_err(|e| Error::io("cannot start a thread", &e))?;

    // The kernel asks us for both answers: when they come, the mount works.
    let shown = options.dir.display();
    let stat = statfs(&options.dir).map_err(|e| Error::io(&shown, &e.into()))?;
    let meta = options.dir.metadata().map_err(|e| Error::io(&shown, &e))?;
    if stat.filesystem_type() != FUSE_SUPER_MAGIC || meta.ino() != ROOT_INO {
        return Err(Error::new(
            Kind::System,
            format!("{shown}: something else was mounted over it meanwhile"),
        ));
    }
    mountpoint::set_readahead(meta.dev(), READAHEAD);
    std::mem::forget(undo);
    ready();
    wait_for_end(meta.dev())
}

/// Detaches the mount again if it does not come to life.
struct Undo<'a>(&'a std::path::Path);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let flags = nix::mount::MntFlags::MNT_DETACH;
        if let Err(e) = nix::mount::umount2(self.0, flags) {
            log::warn!("{}: cannot unmount: {e}", self.0.display());
        }
    }
}

/// For fsync(2): behind a file or block device lies a page cache; memory has none.
fn sync_of(volume: &Arc<Volume<UserRegion>>) -> Option<Sync> {
    let region = volume.fs().region();
    if region.is_direct() || !region.writable() {
        return None;
    }
    let volume = volume.clone();
    Some(Box::new(move || {
        let synced = volume.fs().region().sync();
        synced.map_err(|e| std::io::Error::other(e.to_string()))
    }))
}

/// Waits for signals for ever; the session's thread ends the process.
fn wait_for_end(device: u64) -> Result<std::convert::Infallible> {
    let signals = end_signals();
    let mut asked = false;
    loop {
        match signals.wait() {
            Ok(signal) if asked => {
                // Ending at any point is harmless: the region is whole after every store.
                log::warn!("{signal} again: ended with users left");
                std::process::exit(0);
            }
            Ok(signal) => {
                asked = true;
                match mountpoint::unmount(device) {
                    Unmounted::Gone => {}
                    Unmounted::Detached => {
                        log::warn!("{signal}: in use; detached, served until the last user leaves");
                    }
                    Unmounted::Nowhere => {
                        log::warn!("{signal}: mounted nowhere that can be seen; ended");
                        std::process::exit(0);
                    }
                }
            }
            Err(e) => log::error!("waiting for signals: {e}"),
        }
    }
}

/// After the last request: orphans are evicted, the region is given back. Returns the exit code.
fn end(volume: &Volume<UserRegion>, ok: bool) -> i32 {
    let mut ok = ok;
    let mut check = |what: &str, result: std::result::Result<(), String>| {
        if let Err(e) = result {
            log::error!("{what}: {e}");
            ok = false;
        }
    };
    if !volume.is_read_only() {
        let evicted = volume.evict_all();
        check(
            "unlinked files are left for the next mount",
            evicted.map_err(|e| e.to_string()),
        );
    }
    let unmounted = volume.unmount();
    check(
        "the mount marker stays until the next mount",
        unmounted.map_err(|e| e.to_string()),
    );
    let synced = volume.fs().region().sync();
    check("not written back", synced.map_err(|e| e.to_string()));
    i32::from(!ok)
}
