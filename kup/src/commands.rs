// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What each command does, and prints.

use crate::args::{self, Command, Line};
use crate::check;
use anyhow::{bail, ensure, Context, Result};
use kup::checkpoint::{self, Checkpoints, Left, Manifest, Request, State};
use kup::kexec::{self, Next};
use kup::update::{self, Member, Update, Wish};
use kup::{criu, guard, namespaces, place, prepare, processes, system, timeline, unit};
use serde::Serialize;
use serde_json::{json, Value};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Does what is asked for. `false`: it was done, and the answer is no.
pub fn run(line: &Line) -> Result<bool> {
    let start = Instant::now();
    let say = |text: &str| {
        if !line.quiet {
            eprintln!("[{:8.3} s] {text}", start.elapsed().as_secs_f64());
        }
    };
    // As units have it, which begin elsewhere.
    let dir = line.dir.as_deref().map(std::path::absolute).transpose()?;
    let dir = dir.as_deref();
    let place = || place::find(dir).map(|dir| Checkpoints::new(&dir));
    match &line.command {
        Command::Check { kernel, unit } => {
            let points = check::all(dir, kernel.as_deref(), unit);
            let good = points
                .iter()
                .all(|point| point.verdict != check::Verdict::Missing);
            print(line, &points, || check::text(&points))?;
            return Ok(good);
        }
        Command::Checkpoint(asked) => {
            let checkpoints = place()?;
            let _lock = checkpoints.lock()?;
            let manifest = take(&checkpoints, asked, dir, &say)?;
            print(line, &manifest, || show(&manifest))?;
        }
        Command::Restore(asked) => {
            let checkpoints = place()?;
            let at = checkpoints.at(&asked.name)?;
            if asked.in_unit {
                // Who has systemd start this may hold the lock.
                in_unit(&at, &say)?;
                return Ok(true);
            }
            let lock = checkpoints.lock()?;
            if asked.again {
                again(&at)?;
            }
            let restored = match at.manifest()?.unit {
                Some(id) if unit::is_systemd() => {
                    let pair = [(id.clone(), at.name.clone())];
                    ensure!(!unit::is_active(&id), "{id} runs: stop it first");
                    unit::divert(&pair, dir)?;
                    let restored = update::restore_unit(&at, &id)?;
                    unit::give_back(&pair)?;
                    restored
                }
                _ => checkpoint::restore::restore(&at, None, &say)?,
            };
            drop(lock);
            if asked.wait {
                wait(&at, &say)?;
            }
            print(line, &restored, String::new)?;
        }
        Command::List => {
            let all = place()?.all()?;
            let rows: Vec<Value> = all.iter().map(|(at, m)| row(&at.name, m)).collect();
            print(line, &rows, || table(&all))?;
        }
        Command::Show { name } => {
            let at = place()?.at(name)?;
            let manifest = at.manifest()?;
            print(line, &manifest, || show(&manifest))?;
        }
        Command::Remove(asked) => remove(&place()?, asked)?,
        Command::Update(asked) => {
            let wish = wish(asked)?;
            update::update(&place()?, &wish, &say)?;
        }
        Command::Resume => {
            let checkpoints = place()?;
            if !update::resume(&checkpoints, dir, &say)? {
                say("no update waits to be resumed");
            }
        }
        Command::Prepare => prepare::prepare()?,
        Command::Hold => {
            let place = place()?;
            if !update::hold(&place, dir)? {
                say("no update waits to be resumed");
            }
        }
        Command::Release => update::release(&place()?)?,
        Command::Placeholder => unit::wait_for_the_end(),
        Command::Report { svg, throughput } => {
            let place = place()?;
            let update = Update::read(place.dir())?;
            let update = update.with_context(|| {
                format!(
                    "no update: {} is not there",
                    update::path(place.dir()).display()
                )
            })?;
            if let Some(path) = svg {
                draw(&place, &update, path, throughput.as_deref())?;
            }
            print(line, &update, || report(&update))?;
        }
        Command::Guard { dir } => guard::run(dir)?,
        Command::Drain { dir } => {
            let parent = dir.parent().unwrap_or(Path::new("/"));
            let name = dir.file_name().and_then(|name| name.to_str());
            let at = Checkpoints::new(parent).at(name.context("no name")?)?;
            checkpoint::drain::drain(&at)?;
        }
    }
    Ok(true)
}

/// The result: for a program, or for a person.
fn print(line: &Line, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    let text = match (line.json, line.quiet) {
        (true, _) => serde_json::to_string_pretty(value)? + "\n",
        (false, true) => return Ok(()),
        (false, false) => text(),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever read has enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// CRIU's options: those that always hold, what the processes ask for, and what the user adds.
fn options(root: u32, treatment: &args::Treatment) -> Result<Vec<String>> {
    let mut all: Vec<String> = criu::ALWAYS
        .iter()
        .map(|&option| option.to_owned())
        .collect();
    all.push("--manage-cgroups=ignore".to_owned());
    let tree = processes::tree(root)?;
    let session = processes::session(root);
    // A session whose leader stays behind, as that of a shell.
    if session.is_some_and(|session| tree.iter().all(|process| process.pid != session)) {
        all.push("--shell-job".to_owned());
    }
    all.extend(treatment.criu_option.iter().cloned());
    Ok(all)
}

fn take(
    checkpoints: &Checkpoints,
    asked: &args::Checkpoint,
    dir: Option<&Path>,
    say: &dyn Fn(&str),
) -> Result<Manifest> {
    let unit = asked.unit.as_deref().map(unit::find).transpose()?;
    let root_pid = match (asked.pid, &asked.cgroup, &unit) {
        (Some(pid), ..) => pid,
        (_, Some(cgroup), _) => processes::root_of_cgroup(cgroup)?,
        (.., Some(unit)) => unit.main_pid,
        _ => bail!("--pid, --cgroup or --unit"),
    };
    let request = Request {
        root_pid,
        unit,
        memory: asked.memory,
        sealed: !asked.treatment.no_seal,
        left: if asked.leave_running {
            Left::Running
        } else {
            Left::Killed
        },
        rounds: asked.treatment.rounds,
        criu_options: options(root_pid, &asked.treatment)?,
    };
    let at = checkpoints.at(&asked.name)?;
    let killed = request.unit.as_ref().filter(|_| !asked.leave_running);
    let Some(id) = killed.map(|unit| unit.id.clone()) else {
        return checkpoint::take(&at, &request, say);
    };
    // Systemd must not start it anew when it is gone.
    let pair = [(id, at.name.clone())];
    unit::divert(&pair, dir)?;
    let taken = checkpoint::take(&at, &request, say);
    if taken.is_err() && at.manifest().is_err() {
        unit::give_back(&pair)?;
    }
    taken
}

/// In the place of a service's own commands, beside the placeholder that systemd takes for its main process.
fn in_unit(at: &checkpoint::Checkpoint, say: &dyn Fn(&str)) -> Result<()> {
    let placeholder = unit::placeholder()?;
    let manifest = at.manifest()?;
    let id = manifest
        .unit
        .context("this is no checkpoint of a service")?;
    if matches!(manifest.state, State::Draining | State::Restored) {
        // It was restored before, and has ended since: this is an ordinary start.
        unit::give_back(&[(id.clone(), at.name.clone())])?;
        return unit::start_anew(&id);
    }
    let within = namespaces::own(placeholder).then_some(placeholder);
    checkpoint::restore::restore(at, within, say)?;
    // It runs. Whatever goes wrong from here on, a failure would have systemd end it.
    if let Some(path) = &manifest.pid_file {
        if let Err(e) = unit::write_pid_file(path, manifest.root_pid) {
            say(&format!("{id}: no PID file: {e:#}"));
        }
    }
    if let Err(e) = unit::hand_over(&id, manifest.root_pid, placeholder) {
        say(&format!("{id}: {e:#}"));
    }
    Ok(())
}

/// A restore that was cut off is to be tried again.
fn again(at: &checkpoint::Checkpoint) -> Result<()> {
    let mut manifest = at.manifest()?;
    if manifest.state != State::Restoring {
        return Ok(());
    }
    let alive = manifest
        .processes
        .iter()
        .find(|process| processes::exists(process.pid));
    if let Some(process) = alive {
        bail!("process {} ({}) runs", process.pid, process.command);
    }
    manifest.state = State::Ready;
    manifest.write(&at.dir)
}

fn wait(at: &checkpoint::Checkpoint, say: &dyn Fn(&str)) -> Result<()> {
    let mut since = None;
    while at.manifest()?.state == State::Draining {
        if at.drains()? {
            since = None;
        } else if since.get_or_insert_with(Instant::now).elapsed() > Duration::from_secs(5) {
            // If it lived it would have said so by now.
            bail!(
                "the processes of {} wait for no memory any more, but the drain does not say that it gave them \
                 all; see {}",
                at.name,
                at.log().display()
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    say(&format!("{} has all its memory", at.name));
    Ok(())
}

fn wish(asked: &args::Update) -> Result<Wish> {
    let mut members = Vec::new();
    let named = |text: &str| match text.split_once('=') {
        Some((name, what)) => (Some(name.to_owned()), what.to_owned()),
        None => (None, text.to_owned()),
    };
    for text in &asked.pid {
        let (name, pid) = named(text);
        let root_pid: u32 = pid.parse().with_context(|| format!("{pid} is no PID"))?;
        let name = name.unwrap_or_else(|| format!("pid-{root_pid}"));
        members.push(Member {
            name,
            root_pid,
            unit: None,
        });
    }
    for text in &asked.cgroup {
        let (name, group) = named(text);
        let last = group.rsplit('/').next().unwrap_or(&group).to_owned();
        members.push(Member {
            name: name.unwrap_or(last),
            root_pid: processes::root_of_cgroup(&group)?,
            unit: None,
        });
    }
    for text in &asked.unit {
        let (name, service) = named(text);
        let unit = unit::find(&service)?;
        members.push(Member {
            name: name.unwrap_or_else(|| unit.id.clone()),
            root_pid: unit.main_pid,
            unit: Some(unit),
        });
    }
    ensure!(
        !members.is_empty(),
        "nothing to carry over: name applications by --pid, --cgroup or --unit"
    );
    let mut criu_options: Vec<String> = Vec::new();
    for member in &members {
        for option in options(member.root_pid, &asked.treatment)? {
            if !criu_options.contains(&option) {
                criu_options.push(option);
            }
        }
    }
    let mut command_line = match &asked.command_line {
        Some(text) => text.clone(),
        None => kexec::current_command_line()?,
    };
    if let Some(more) = &asked.append {
        command_line = format!("{command_line} {more}");
    }
    Ok(Wish {
        members,
        next: Next {
            kernel: asked.kernel.clone(),
            initrd: asked.initrd.clone(),
            command_line,
        },
        rounds: asked.treatment.rounds,
        sealed: !asked.treatment.no_seal,
        criu_options,
    })
}

fn remove(checkpoints: &Checkpoints, asked: &args::Remove) -> Result<()> {
    let _lock = checkpoints.lock()?;
    let at = checkpoints.at(&asked.name)?;
    ensure!(
        at.dir.is_dir(),
        "no checkpoint {}; `kup list` names all",
        asked.name
    );
    match at
        .manifest()
        .map(|manifest| (manifest.state, manifest.boot_id))
    {
        Ok((State::Draining | State::Restoring, _)) if at.drains()? => bail!(
            "processes of {} still get memory from it; wait until `kup list` calls it restored",
            asked.name
        ),
        Ok((State::Ready | State::Restoring, _)) if !asked.force => bail!(
            "{} can still be restored; --force removes it all the same",
            asked.name
        ),
        _ => {}
    }
    if asked.wipe {
        at.wipe()?;
    }
    if let Ok(Manifest { unit: Some(id), .. }) = at.manifest() {
        unit::give_back(&[(id, at.name.clone())])?;
    }
    at.remove()
}

fn name_of(state: State) -> String {
    let value = serde_json::to_value(state).unwrap_or_default();
    value.as_str().unwrap_or("?").to_owned()
}

fn row(name: &str, manifest: &Result<Manifest>) -> Value {
    match manifest {
        Ok(manifest) => json!(manifest),
        Err(e) => json!({ "name": name, "error": format!("{e:#}") }),
    }
}

fn table(all: &[(checkpoint::Checkpoint, Result<Manifest>)]) -> String {
    let mut text = format!(
        "{:20} {:10} {:>11} {:>10} {:24} PROCESSES\n",
        "NAME", "STATE", "SIZE", "AGE", "KERNEL"
    );
    for (at, manifest) in all {
        match manifest {
            Ok(m) => {
                let first = m.processes.first().map_or("", |process| &process.command);
                text += &format!(
                    "{:20} {:10} {:>11} {:>10} {:24} {}: {first}\n",
                    m.name,
                    name_of(m.state),
                    system::size(m.bytes()),
                    age(m.created),
                    m.kernel,
                    m.processes.len(),
                );
            }
            Err(e) => text += &format!("{:20} {e:#}\n", at.name),
        }
    }
    text
}

fn age(since: u64) -> String {
    let seconds = system::now().saturating_sub(since);
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min", seconds / 60),
        6000..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

fn show(m: &Manifest) -> String {
    let mut text = format!(
        "{}: {}, {} old\n  kernel {}, criu {}\n  {} on demand, {} before\n",
        m.name,
        name_of(m.state),
        age(m.created),
        m.kernel,
        m.criu,
        system::size(m.lazy_bytes),
        system::size(m.eager_bytes),
    );
    for (n, round) in m.rounds.iter().enumerate() {
        text += &format!(
            "  round {}: {} in {:.3} s, still for {:.3} s\n",
            n + 1,
            system::size(round.bytes),
            round.seconds,
            round.frozen_seconds
        );
    }
    for process in &m.processes {
        text += &format!("  {:7} {}\n", process.pid, process.command);
    }
    text
}

fn draw(
    checkpoints: &Checkpoints,
    update: &Update,
    path: &Path,
    throughput: Option<&Path>,
) -> Result<()> {
    let mut members = Vec::new();
    for name in &update.members {
        // One that was removed meanwhile is not drawn.
        members.extend(checkpoints.at(name)?.manifest());
    }
    let rates = match throughput {
        None => Vec::new(),
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            timeline::throughput(&text)
        }
    };
    let drawn = timeline::draw(update, &members, &rates)?;
    std::fs::write(path, drawn).with_context(|| path.display().to_string())
}

fn report(update: &Update) -> String {
    let mut text = format!("{} to {}\n", update.members.join(", "), update.next_kernel);
    let mut last = None;
    for event in &update.events {
        let since = last.map_or(0.0, |last| event.at - last);
        last = Some(event.at);
        let step = serde_json::to_value(event.step).unwrap_or_default();
        text += &format!(
            "  {:+10.3} s  {:10} {} {}\n",
            since,
            step.as_str().unwrap_or("?"),
            event.kernel,
            event.note
        );
    }
    text
}
