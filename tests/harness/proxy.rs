//! A TCP proxy that breaks things: cuts a connection after some bytes, flips a bit, or stands
//! still.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Trouble for the bytes from the server, counted over all connections since it was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The connection is cut before this byte. Once.
    CutAt(u64),
    /// The lowest bit of this byte is flipped. Once.
    FlipAt(u64),
    /// Every connection is cut after this many bytes.
    CutEvery(u64),
    /// Nothing comes through any more, and nothing is closed.
    Stall,
}

struct State {
    fault: Fault,
    passed: u64,
    /// How often a fault has struck.
    struck: u64,
    target: SocketAddr,
}

/// A listener that forwards to a server.
pub struct Proxy {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Forwards to `target`.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let addr = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(Mutex::new(State {
            fault: Fault::None,
            passed: 0,
            struck: 0,
            target,
        }));
        let accepting = tokio::spawn({
            let state = state.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(forward(client, state.clone()));
                }
            }
        });
        Self {
            addr,
            state,
            accepting,
        }
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on.
    pub fn set(&self, fault: Fault) {
        let mut state = lock(&self.state);
        (state.fault, state.passed) = (fault, 0);
    }

    /// How often a fault has struck.
    pub fn struck(&self) -> u64 {
        lock(&self.state).struck
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What to do with a piece that came from the server.
enum Verdict {
    Pass,
    Cut(usize),
    Stall,
}

fn judge(state: &mut State, piece: &mut [u8], own: u64) -> Verdict {
    let (start, end) = (state.passed, state.passed + piece.len() as u64);
    state.passed = end;
    match state.fault {
        Fault::CutAt(at) if (start..end).contains(&at) => {
            (state.fault, state.struck) = (Fault::None, state.struck + 1);
            Verdict::Cut((at - start) as usize)
        }
        Fault::FlipAt(at) if (start..end).contains(&at) => {
            piece[(at - start) as usize] ^= 1;
            (state.fault, state.struck) = (Fault::None, state.struck + 1);
            Verdict::Pass
        }
        Fault::CutEvery(bytes) if own + piece.len() as u64 > bytes => {
            state.struck += 1;
            Verdict::Cut(bytes.saturating_sub(own) as usize)
        }
        Fault::Stall => {
            state.struck += 1;
            Verdict::Stall
        }
        _ => Verdict::Pass,
    }
}

async fn forward(client: TcpStream, state: Arc<Mutex<State>>) {
    let target = lock(&state).target;
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let mut buffer = vec![0; 16 << 10];
    let mut own = 0;
    while let Ok(count) = from_server.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let verdict = judge(&mut lock(&state), &mut buffer[..count], own);
        own += count as u64;
        let (pass, end) = match verdict {
            Verdict::Pass => (count, false),
            Verdict::Cut(pass) => (pass, true),
            Verdict::Stall => std::future::pending().await,
        };
        if to_client.write_all(&buffer[..pass]).await.is_err() || end {
            break;
        }
    }
    up.abort();
}
