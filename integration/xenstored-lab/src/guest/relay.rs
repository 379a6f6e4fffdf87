//! Several programs on one ring, as the guest kernel's xenbus driver lets them.
//!
//! Request numbers and watch tokens are made unique per program on the way in and put back on the way
//! out. What a program leaves behind, watches and open transactions, ends with its connection.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::ring::Ring;
use crate::wire::{Message, TRANSACTION_END, TRANSACTION_START, UNWATCH, WATCH, WATCH_EVENT};

#[derive(Debug)]
pub(super) struct Relay {
    ring: Ring,
    /// Held while a whole message is written.
    writing: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    programs: HashMap<u32, Program>,
    asked: HashMap<u32, Asked>,
    last_program: u32,
    last_request: u32,
}

#[derive(Debug)]
struct Program {
    stream: Arc<UnixStream>,
    /// Payloads that undo its watches.
    watches: HashSet<Vec<u8>>,
    transactions: HashSet<u32>,
}

/// A request on its way, so that the answer finds back.
#[derive(Debug)]
struct Asked {
    program: u32,
    request: u32,
}

impl Relay {
    pub(super) fn new(ring: Ring) -> Self {
        Self {
            ring,
            writing: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Ends the ring and every program's connection.
    pub(super) fn stop(&self) {
        self.ring.stop();
        for program in lock(&self.state).programs.values() {
            let _ = program.stream.shutdown(Shutdown::Both);
        }
    }

    /// Takes connections until the guest is dropped.
    pub(super) fn accept(this: &Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            if this.ring.is_stopped() {
                return;
            }
            let stream = Arc::new(stream);
            let id = {
                let mut state = lock(&this.state);
                state.last_program += 1;
                let id = state.last_program;
                state.programs.insert(
                    id,
                    Program {
                        stream: Arc::clone(&stream),
                        watches: HashSet::new(),
                        transactions: HashSet::new(),
                    },
                );
                id
            };
            let this = Arc::clone(this);
            thread::spawn(move || {
                let mut input = &*stream;
                while let Ok(message) = Message::read(&mut input) {
                    if this.forward(id, message).is_err() {
                        break;
                    }
                }
                this.forget(id);
            });
        }
    }

    /// Gives xenstored's answers and events to whom they belong.
    pub(super) fn deliver(&self, mut answers: impl Read) {
        while let Ok(message) = Message::read(&mut answers) {
            if let Some((stream, message)) = self.addressee(message) {
                // A program that has gone away meanwhile.
                let _ = (&*stream).write_all(&message.to_bytes());
            }
        }
    }

    fn forward(&self, program: u32, mut message: Message) -> io::Result<()> {
        if matches!(message.kind, WATCH | UNWATCH) {
            message.payload = with_marked_token(program, &message.payload);
        }
        let mut state = lock(&self.state);
        if let Some(entry) = state.programs.get_mut(&program) {
            match message.kind {
                WATCH => {
                    entry.watches.insert(message.payload.clone());
                }
                UNWATCH => {
                    entry.watches.remove(&message.payload);
                }
                TRANSACTION_END => {
                    entry.transactions.remove(&message.transaction);
                }
                _ => {}
            }
        }
        state.last_request = state.last_request.wrapping_add(1);
        let number = state.last_request;
        state.asked.insert(
            number,
            Asked {
                program,
                request: message.request,
            },
        );
        drop(state);
        message.request = number;
        self.send(&message)
    }

    fn addressee(&self, mut message: Message) -> Option<(Arc<UnixStream>, Message)> {
        let mut state = lock(&self.state);
        let program = if message.kind == WATCH_EVENT {
            let (program, payload) = without_mark(&message.payload)?;
            message.payload = payload;
            program
        } else {
            let asked = state.asked.remove(&message.request)?;
            message.request = asked.request;
            asked.program
        };
        let entry = state.programs.get_mut(&program)?;
        if message.kind == TRANSACTION_START {
            let id = String::from_utf8_lossy(&message.payload);
            entry
                .transactions
                .extend(id.trim_end_matches('\0').parse::<u32>());
        }
        Some((Arc::clone(&entry.stream), message))
    }

    fn send(&self, message: &Message) -> io::Result<()> {
        let _whole_messages = lock(&self.writing);
        self.ring.send(&message.to_bytes())
    }

    fn forget(&self, program: u32) {
        let Some(entry) = lock(&self.state).programs.remove(&program) else {
            return;
        };
        let unwatch = entry.watches.into_iter().map(|payload| Message {
            kind: UNWATCH,
            request: 0,
            transaction: 0,
            payload,
        });
        let abort = entry.transactions.into_iter().map(|transaction| Message {
            kind: TRANSACTION_END,
            request: 0,
            transaction,
            payload: b"F\0".to_vec(),
        });
        // Request number 0 is nobody's, so the answers go nowhere.
        for message in unwatch.chain(abort) {
            if self.send(&message).is_err() {
                return;
            }
        }
    }
}

/// `path NUL token NUL` with the program's number before the token.
fn with_marked_token(program: u32, payload: &[u8]) -> Vec<u8> {
    let Some(end) = payload.iter().position(|&byte| byte == 0) else {
        return payload.to_vec();
    };
    let (path, token) = payload.split_at(end + 1);
    [path, format!("{program}:").as_bytes(), token].concat()
}

/// The program's number and the payload as that program knows it.
fn without_mark(payload: &[u8]) -> Option<(u32, Vec<u8>)> {
    let end = payload.iter().position(|&byte| byte == 0)?;
    let (path, token) = payload.split_at(end + 1);
    let colon = token.iter().position(|&byte| byte == b':')?;
    let program = std::str::from_utf8(&token[..colon]).ok()?.parse().ok()?;
    Some((program, [path, &token[colon + 1..]].concat()))
}

/// A thread that panicked leaves nothing half done that matters here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
