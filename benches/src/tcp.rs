//! The floor: the same bytes over raw TCP loopback, between this process and a child of it, so that
//! both ends' CPU is known apart.
//!
//! The sender writes 40 bytes and 1 MiB of the payload's region in one `writev`, again and again;
//! the receiver reads 256 KiB at a time and looks at nothing. No framing, no checksum, no copy
//! beyond the kernel's: what a shuffle on TCP cannot go below.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    cpu::ProcessClock,
    payload::{Payload, Texture},
};

const HEAD: [u8; 40] = [0; 40];
const WRITE: usize = 1 << 20;
const READ: usize = 256 << 10;

/// Which way the bytes go, seen from this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Send,
    Receive,
}

/// One measured transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) elapsed: Duration,
    pub(crate) client_cpu: Duration,
    pub(crate) server_cpu: Duration,
}

/// The child process, which ends when its standard input closes: with this process, however that
/// ends.
pub(crate) struct Floor {
    address: SocketAddr,
    clock: ProcessClock,
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Floor {
    /// Starts `program`, which is this program except in tests.
    pub(crate) fn start(program: &std::path::Path) -> Result<Self> {
        let mut child = Command::new(program)
            .arg("tcp-floor")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {} tcp-floor", program.display()))?;
        let stdin = child.stdin.take();
        let mut line = String::new();
        let stdout = child.stdout.take().context("read from the raw TCP child")?;
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("read from the raw TCP child")?;
        let Ok(address) = line.trim().parse() else {
            child.kill().ok();
            child.wait().ok();
            bail!("the raw TCP child said {line:?} instead of its address");
        };
        Ok(Self {
            address,
            clock: ProcessClock::of(child.id())?,
            child,
            stdin,
        })
    }

    /// Moves `bytes` bytes once.
    pub(crate) async fn measure(
        &self,
        direction: Direction,
        payload: &Payload,
        bytes: u64,
    ) -> Result<Transfer> {
        let client = ProcessClock::of_self()?;
        let mut stream = TcpStream::connect(self.address)
            .await
            .context("connect to the raw TCP child")?;
        stream.set_nodelay(true)?;
        let (client_start, server_start, start) =
            (client.now()?, self.clock.now()?, Instant::now());
        stream
            .write_u8(u8::from(direction == Direction::Receive))
            .await?;
        stream.write_u64(bytes).await?;
        match direction {
            Direction::Send => {
                send(&mut stream, payload, bytes).await?;
                ensure!(
                    stream.read_u64().await? == on_wire(bytes),
                    "the raw TCP child got fewer bytes than were sent"
                );
            }
            Direction::Receive => {
                let received = receive(&mut stream, on_wire(bytes)).await?;
                ensure!(
                    received == on_wire(bytes),
                    "the raw TCP child sent fewer bytes than were asked for"
                );
            }
        }
        Ok(Transfer {
            elapsed: start.elapsed(),
            client_cpu: client.now()?.saturating_sub(client_start),
            server_cpu: self.clock.now()?.saturating_sub(server_start),
        })
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The child: serves transfers until standard input ends.
pub(crate) async fn serve() -> Result<()> {
    // The bytes need not be the parent's, only as many and as cold.
    let payload = Payload::new(1, Texture::Random);
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .context("listen on loopback")?;
    println!("{}", listener.local_addr()?);
    let (ended, mut end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        ended.send(()).ok();
    });
    loop {
        tokio::select! {
            _ = &mut end => return Ok(()),
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("accept a connection")?;
                let payload = payload.clone();
                // A transfer that fails is reported by the parent, which sees its connection close.
                tokio::spawn(async move { serve_one(stream, &payload).await.ok() });
            }
        }
    }
}

async fn serve_one(mut stream: TcpStream, payload: &Payload) -> Result<()> {
    stream.set_nodelay(true)?;
    let sends = stream.read_u8().await? != 0;
    let bytes = stream.read_u64().await?;
    if sends {
        send(&mut stream, payload, bytes).await
    } else {
        let received = receive(&mut stream, on_wire(bytes)).await?;
        Ok(stream.write_u64(received).await?)
    }
}

fn on_wire(bytes: u64) -> u64 {
    bytes + bytes.div_ceil(WRITE as u64) * HEAD.len() as u64
}

async fn send(stream: &mut TcpStream, payload: &Payload, bytes: u64) -> Result<()> {
    for piece in payload.pieces(WRITE, bytes) {
        stream
            .write_all_buf(&mut Bytes::from_static(&HEAD).chain(piece))
            .await
            .context("send over raw TCP")?;
    }
    Ok(())
}

async fn receive(stream: &mut TcpStream, bytes: u64) -> Result<u64> {
    let mut buffer = vec![0; READ];
    let mut received = 0;
    while received < bytes {
        match stream
            .read(&mut buffer)
            .await
            .context("receive over raw TCP")?
        {
            0 => break,
            read => received += read as u64,
        }
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_directions_move_every_byte_with_its_heads() {
        let payload = Payload::with_region(3, Texture::Random, 10_000_019);
        let bytes = 3 * WRITE as u64 + 12_345;
        for sends in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut stream = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            let served = payload.clone();
            let child = tokio::spawn(async move { serve_one(accepted, &served).await });
            stream.write_u8(u8::from(sends)).await.unwrap();
            stream.write_u64(bytes).await.unwrap();
            if sends {
                assert_eq!(
                    receive(&mut stream, u64::MAX).await.unwrap(),
                    bytes + 4 * HEAD.len() as u64
                );
            } else {
                send(&mut stream, &payload, bytes).await.unwrap();
                assert_eq!(stream.read_u64().await.unwrap(), on_wire(bytes));
            }
            child.await.unwrap().unwrap();
        }
    }

    #[test]
    fn a_program_that_is_no_child_of_this_kind_is_told() {
        let error = Floor::start(std::path::Path::new("/bin/echo"))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("tcp-floor"), "{error}");
    }
}
