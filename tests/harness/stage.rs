//! A server with one committed attempt (map 0), so that its shuffle is known and an answer can be
//! compared exactly.

use shuffle_proto::v1;
use tonic::Status;

use crate::{
    attempt::{App, Attempt, Shape},
    oracle::Oracle,
    peer::{Peer, fetch_first},
    server::Server,
};

/// See the module.
pub struct Stage {
    /// The server.
    pub server: Server,
    /// A client of it.
    pub peer: Peer,
    /// Who has the attempt.
    pub app: App,
    /// What was committed.
    pub oracle: Oracle,
    shape: Shape,
}

impl Stage {
    /// With attempts of this shape.
    pub async fn new(shape: Shape) -> Self {
        let server = Server::start().await;
        let peer = server.peer().await;
        let (app, mut oracle) = (App::new("app-1"), Oracle::default());
        oracle
            .push(&peer, &Attempt::generate(&app, 0, shape, 0, 1))
            .await;
        Self {
            server,
            peer,
            app,
            oracle,
            shape,
        }
    }

    /// One more, of map 1, that nobody has pushed.
    pub fn attempt(&self) -> Attempt {
        Attempt::generate(&self.app, 0, self.shape, 1, 2)
    }

    /// The refusal of a changed open.
    pub async fn open(&self, change: impl FnOnce(&mut v1::Open)) -> Status {
        let mut open = Attempt::empty(&self.app, 0, self.shape, 1, 2).open();
        change(&mut open);
        match self.peer.open(open.clone()).await {
            Err(status) => status,
            Ok(_) => panic!("taken: {open:?}"),
        }
    }

    /// The refusal of a changed fetch.
    pub async fn fetch(&self, change: impl FnOnce(&mut v1::FetchRequest)) -> Status {
        let mut request = fetch_first(&self.app, 0, self.server.volumes());
        change(&mut request);
        match self.peer.fetch(request.clone()).await {
            Err(status) => status,
            Ok(_) => panic!("taken: {request:?}"),
        }
    }

    /// Exactly what was committed is visible, on a connection that still works, and after a crash.
    pub async fn check(mut self) {
        self.oracle.check(&self.peer, &self.app, 0).await;
        self.server.kill();
        self.server.restart().await;
        self.oracle
            .check(&self.server.peer().await, &self.app, 0)
            .await;
    }

    /// The same, and the attempt can still be pushed as it should be.
    pub async fn check_and_push(mut self) {
        self.oracle.check(&self.peer, &self.app, 0).await;
        let attempt = self.attempt();
        self.oracle.push(&self.peer, &attempt).await;
        self.check().await;
    }
}
