// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The host's end of the line to the agent in a guest.

use anyhow::{Context, Result};
use lab_agent::{read_frame, write_frame, Exit, Frame, Hello, Kind, Run};
use lab_agent::{MAX_PAYLOAD, RESYNC_ZEROS};
use std::collections::HashMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{mpsc, Arc, Mutex};
use std::thread;

/// What a command in the guest has to say.
pub enum Event {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Exit(Exit),
}

/// The jobs under way; the last is where pongs go.
#[derive(Default)]
struct State {
    jobs: HashMap<u32, mpsc::Sender<Event>>,
    hellos: Vec<Hello>,
    next_id: u32,
    pongs: u64,
}

pub struct Agent {
    writer: Arc<Mutex<UnixStream>>,
    state: Arc<Mutex<State>>,
}

impl Agent {
    pub fn new(stream: UnixStream) -> Result<Agent> {
        let reader = stream.try_clone()?;
        let agent = Agent {
            writer: Arc::new(Mutex::new(stream)),
            state: Arc::default(),
        };
        let (writer, state) = (agent.writer.clone(), agent.state.clone());
        thread::spawn(move || listen(reader, &writer, &state));
        Ok(agent)
    }

    /// How many kernels have said hello, and what the last one said.
    pub fn hellos(&self) -> (usize, Option<Hello>) {
        let state = self.state.lock().unwrap();
        (state.hellos.len(), state.hellos.last().cloned())
    }

    pub fn pongs(&self) -> u64 {
        self.state.lock().unwrap().pongs
    }

    pub fn ping(&self) -> Result<()> {
        self.send(Kind::Ping, 0, &[])
    }

    /// Starts a command. The channel closes without an exit if the guest starts anew meanwhile.
    pub fn start(&self, run: &Run) -> Result<(u32, mpsc::Receiver<Event>)> {
        let (sender, receiver) = mpsc::channel();
        let id = {
            let mut state = self.state.lock().unwrap();
            state.next_id += 1;
            let id = state.next_id;
            state.jobs.insert(id, sender);
            id
        };
        self.send(Kind::Run, id, &serde_json::to_vec(run)?)?;
        Ok((id, receiver))
    }

    pub fn stdin(&self, id: u32, bytes: &[u8]) -> Result<()> {
        bytes
            .chunks(MAX_PAYLOAD)
            .try_for_each(|part| self.send(Kind::Stdin, id, part))?;
        self.send(Kind::Stdin, id, &[])
    }

    fn send(&self, kind: Kind, id: u32, payload: &[u8]) -> Result<()> {
        write_frame(&mut *self.writer.lock().unwrap(), kind, id, payload)
            .context("the line to the guest is cut")
    }
}

fn listen(mut reader: UnixStream, writer: &Mutex<UnixStream>, state: &Mutex<State>) {
    while let Ok(frame) = read_frame(&mut reader) {
        let Frame { kind, id, payload } = frame;
        let mut state = state.lock().unwrap();
        let event = match kind {
            Kind::Hello => {
                let Ok(hello) = serde_json::from_slice(&payload) else {
                    continue;
                };
                // Whatever ran under the kernel before is gone; complete what it left half read.
                state.jobs.clear();
                let _ = writer.lock().unwrap().write_all(&vec![0; RESYNC_ZEROS]);
                state.hellos.push(hello);
                continue;
            }
            Kind::Pong => {
                state.pongs += 1;
                continue;
            }
            Kind::Stdout => Event::Stdout(payload),
            Kind::Stderr => Event::Stderr(payload),
            Kind::Exit => match serde_json::from_slice(&payload) {
                Ok(exit) => Event::Exit(exit),
                Err(_) => continue,
            },
            Kind::Run | Kind::Stdin | Kind::Kill | Kind::Ping => continue,
        };
        let last = matches!(event, Event::Exit(_));
        if let Some(job) = state.jobs.get(&id) {
            let _ = job.send(event);
        }
        if last {
            state.jobs.remove(&id);
        }
    }
    // QEMU has ended: nobody will hear of any job any more.
    state.lock().unwrap().jobs.clear();
}
