//! A TCP relay before servers: leads to them in turn, and falls silent without closing anything.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

pub struct Relay {
    address: String,
    /// Of the connections that are up now: what makes each fall silent.
    silent: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

impl Relay {
    /// The first connection leads to the first target, the next to the second, and so on around.
    pub async fn to(targets: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let silent = Arc::new(Mutex::new(Vec::new()));
        let (accepted, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let accepting = tokio::spawn({
            let (silent, accepted, open) = (silent.clone(), accepted.clone(), open.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let number = accepted.fetch_add(1, Ordering::Relaxed);
                    let target = targets[number % targets.len()].clone();
                    let quiet = Arc::new(AtomicBool::new(false));
                    silent.lock().push(quiet.clone());
                    let open = open.clone();
                    tokio::spawn(async move {
                        open.fetch_add(1, Ordering::Relaxed);
                        if let Ok(server) = TcpStream::connect(target).await {
                            forward(client, server, &quiet).await;
                        }
                        open.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            }
        });
        Self {
            address,
            silent,
            accepted,
            open,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Connections that are up carry nothing from now on, and are not closed; new ones work.
    pub fn silence(&self) {
        for quiet in self.silent.lock().drain(..) {
            quiet.store(true, Ordering::Relaxed);
        }
    }

    /// Connections since the start.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections that are up.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

async fn forward(client: TcpStream, server: TcpStream, quiet: &AtomicBool) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = copy(&mut from_client, &mut to_server, quiet);
    let down = copy(&mut from_server, &mut to_client, quiet);
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

async fn copy(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    quiet: &AtomicBool,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count) = from.read(&mut buffer).await {
        if quiet.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

impl Relay {
    /// Another name of one server, until the test ends.
    pub async fn leak(target: String) -> String {
        let relay = Box::leak(Box::new(Self::to(vec![target]).await));
        relay.address()
    }
}

/// A server that has as many connections as it may, in HTTP/2's words: GOAWAY, ENHANCE_YOUR_CALM.
/// Gives its address.
pub async fn full_of_connections() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let settings: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
                let goaway: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb];
                let _ = stream
                    .write_all(&[&settings[..], &goaway[..]].concat())
                    .await;
                let _ = stream.shutdown().await;
                // A socket that is closed with unread bytes takes its last words with it.
                let mut unread = [0; 4096];
                while stream.read(&mut unread).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    address
}
