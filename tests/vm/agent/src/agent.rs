// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Runs commands for the host.

use lab_agent::{read_frame, write_frame, Exit, Hello, Kind, Run};
use lab_agent::{MAX_PAYLOAD, PORT_NAME, RESYNC_ZEROS};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

type Port = Arc<Mutex<File>>;

/// A command that is under way.
struct Job {
    pid: u32,
    stdin: mpsc::Sender<Vec<u8>>,
}

type Jobs = Arc<Mutex<HashMap<u32, Job>>>;

pub fn serve() -> io::Result<()> {
    let mut input = open_port()?;
    let port: Port = Arc::new(Mutex::new(input.try_clone()?));
    let jobs = Jobs::default();
    let mut zeros_and_hello = vec![0; RESYNC_ZEROS];
    write_frame(&mut zeros_and_hello, Kind::Hello, 0, &json(&hello()))?;
    port.lock().unwrap().write_all(&zeros_and_hello)?;
    loop {
        let frame = match read_frame(&mut input) {
            Ok(frame) => frame,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                // The host is not connected (any more): wait for it.
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            Err(error) => return Err(error),
        };
        match frame.kind {
            Kind::Run => start(frame.id, &frame.payload, &port, &jobs),
            Kind::Stdin => {
                if let Some(job) = jobs.lock().unwrap().get(&frame.id) {
                    let _ = job.stdin.send(frame.payload);
                }
            }
            Kind::Kill => {
                if let Some(job) = jobs.lock().unwrap().get(&frame.id) {
                    kill_group(job.pid);
                }
            }
            Kind::Ping => send(&port, Kind::Pong, frame.id, &[]),
            _ => {}
        }
    }
}

fn open_port() -> io::Result<File> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports")
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            let device = std::path::Path::new("/dev").join(entry.file_name());
            if name.trim() == PORT_NAME && device.exists() {
                return fs::OpenOptions::new().read(true).write(true).open(device);
            }
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no virtio port of the lab",
            ));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn hello() -> Hello {
    let read = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let uptime = read("/proc/uptime");
    Hello {
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        release: read("/proc/sys/kernel/osrelease"),
        uptime: uptime
            .split(' ')
            .next()
            .and_then(|s| s.parse().ok())
            .unwrap_or(0.0),
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

fn send(port: &Port, kind: Kind, id: u32, payload: &[u8]) {
    // A host that went away is not our concern.
    let _ = write_frame(&mut *port.lock().unwrap(), kind, id, payload);
}

fn start(id: u32, request: &[u8], port: &Port, jobs: &Jobs) {
    match spawn(request) {
        Ok((run, mut child)) => {
            let (sender, receiver) = mpsc::channel();
            let job = Job {
                pid: child.id(),
                stdin: sender,
            };
            if let Some(stdin) = child.stdin.take() {
                thread::spawn(move || feed(stdin, &receiver));
            }
            jobs.lock().unwrap().insert(id, job);
            let (port, jobs) = (port.clone(), jobs.clone());
            thread::spawn(move || {
                let exit = attend(id, &run, child, &port);
                jobs.lock().unwrap().remove(&id);
                send(&port, Kind::Exit, id, &json(&exit));
            });
        }
        Err(error) => {
            let exit = Exit {
                error: Some(error.to_string()),
                ..Exit::default()
            };
            send(port, Kind::Exit, id, &json(&exit));
        }
    }
}

fn spawn(request: &[u8]) -> io::Result<(Run, Child)> {
    let run: Run = serde_json::from_slice(request)?;
    let Some((program, args)) = run.argv.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "empty command"));
    };
    let child = Command::new(program)
        .args(args)
        .envs(run.env.iter().cloned())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    Ok((run, child))
}

/// Hands the host's bytes to the command; an empty message closes its standard input.
fn feed(mut stdin: ChildStdin, receiver: &mpsc::Receiver<Vec<u8>>) {
    while let Ok(bytes) = receiver.recv() {
        if bytes.is_empty() || stdin.write_all(&bytes).is_err() {
            return;
        }
    }
}

/// Passes on what the command writes until it has ended.
fn attend(id: u32, run: &Run, mut child: Child, port: &Port) -> Exit {
    let start = Instant::now();
    let timed_out = Arc::new(AtomicBool::new(false));
    let over = Arc::new(AtomicBool::new(false));
    if run.timeout_ms > 0 {
        let (pid, over, timed_out) = (child.id(), over.clone(), timed_out.clone());
        let deadline = Instant::now() + Duration::from_millis(run.timeout_ms);
        thread::spawn(move || {
            while !over.load(Ordering::Acquire) {
                if Instant::now() >= deadline {
                    timed_out.store(true, Ordering::Release);
                    kill_group(pid);
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
    }
    let (done, pumps) = mpsc::channel();
    pump(child.stdout.take(), Kind::Stdout, id, port, done.clone());
    pump(child.stderr.take(), Kind::Stderr, id, port, done);
    let status = child.wait();
    let seconds = start.elapsed().as_secs_f64();
    over.store(true, Ordering::Release);
    // A daemon the command left behind may hold the pipes open: do not wait for it long.
    let patience = Instant::now() + Duration::from_millis(500);
    for _ in 0..2 {
        let left = patience.saturating_duration_since(Instant::now());
        if pumps.recv_timeout(left).is_err() {
            break;
        }
    }
    match status {
        Ok(status) => Exit {
            code: status.code(),
            signal: status.signal(),
            timed_out: timed_out.load(Ordering::Acquire),
            error: None,
            seconds,
        },
        Err(error) => Exit {
            error: Some(error.to_string()),
            ..Exit::default()
        },
    }
}

fn pump(
    pipe: Option<impl Read + Send + 'static>,
    kind: Kind,
    id: u32,
    port: &Port,
    done: mpsc::Sender<()>,
) {
    let port = port.clone();
    thread::spawn(move || {
        let mut buffer = vec![0; MAX_PAYLOAD];
        if let Some(mut pipe) = pipe {
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                send(&port, kind, id, &buffer[..n]);
            }
        }
        let _ = done.send(());
    });
}

fn kill_group(pid: u32) {
    // SAFETY: a plain system call; the process group was made for the command.
    unsafe {
        libc::kill(-(pid as i32), libc::SIGKILL);
    }
}
