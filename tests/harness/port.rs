//! A port of this machine that stays a test's own while nobody listens on it.
//!
//! A port that is probed and let go, or whose server was killed, is anybody's: the kernel gives it to
//! the next who asks for any port, tests that run at the same time among them. A socket that is bound
//! to the port and does not listen keeps the kernel from that, and lets a server that asks for just
//! this port have it, as every server does that sets `SO_REUSEADDR`. Nobody answers there meanwhile.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpSocket;

/// See the module. Clones hold the same port, which is free once the last of them is dropped.
#[derive(Clone, Debug)]
pub struct Port {
    addr: SocketAddr,
    _held: Arc<TcpSocket>,
}

impl Port {
    /// Any that is free, on loopback.
    pub fn any() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket can be made");
        socket.set_reuseaddr(true).expect("a socket has options");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(any).expect("a port is free");
        Self {
            addr: socket.local_addr().expect("a bound socket has an address"),
            _held: Arc::new(socket),
        }
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
