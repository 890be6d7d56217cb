//! Which server is tried next: a pure decision on what came of the tries so far.
//!
//! Every server is asked once before any is waited for: one that refuses costs a round trip, one
//! that cannot be connected to no second try, and only a stream that broke is tried once more at
//! the same server, because most break for reasons that are over at once. Who was asked are the
//! candidates first, then the servers that joined later. Then the rounds begin: each server once,
//! with a pause before the round that grows from round to round.

use std::time::Duration;

/// What came of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server has answered that it does not take the output, or does not take it now.
    Refused(Option<Duration>),
    /// The server could not be connected to, or has said nothing to the first message.
    Silent,
    /// A stream broke that was open.
    Broke,
    /// The server was not tried: another copy is there.
    Taken,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try the same server again, after a moment.
    Again,
    /// Another server, at once.
    Other,
    /// All were asked that are known: more should be added, if there are more, before a round
    /// begins.
    Round {
        /// A server of the round before has answered: that all are full or busy does not mean that
        /// they are gone.
        answered: bool,
        /// The shortest pause that one of them asked for.
        at_least: Option<Duration>,
    },
}

/// Servers in the order in which they are tried.
#[derive(Debug)]
pub(super) struct Route {
    servers: Vec<String>,
    position: usize,
    /// The server at `position` had its second chance, or none has one any more.
    again: bool,
    rounds: bool,
    answered: bool,
    at_least: Option<Duration>,
}

impl Route {
    pub(super) fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            position: 0,
            again: false,
            rounds: false,
            answered: false,
            at_least: None,
        }
    }

    /// The server whose turn it is.
    pub(super) fn current(&self) -> &str {
        &self.servers[self.position]
    }

    pub(super) fn servers(&self) -> &[String] {
        &self.servers
    }

    /// The current server was of use for long: what comes now is a new trouble.
    pub(super) fn afresh(&mut self) {
        self.again = self.rounds;
    }

    /// Goes on after this outcome at the current server.
    pub(super) fn after(&mut self, outcome: Outcome) -> Next {
        match outcome {
            Outcome::Broke if !self.again => {
                self.again = true;
                return Next::Again;
            }
            Outcome::Refused(pause) => {
                self.answered = true;
                self.at_least = match (self.at_least, pause) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
            Outcome::Broke => self.answered = true,
            Outcome::Silent | Outcome::Taken => {}
        }
        self.again = self.rounds;
        self.position += 1;
        if self.position < self.servers.len() {
            return Next::Other;
        }
        self.position = 0;
        (self.rounds, self.again) = (true, true);
        Next::Round {
            answered: std::mem::take(&mut self.answered),
            at_least: self.at_least.take(),
        }
    }

    /// Adds servers that are not there yet, to be asked before the round that was about to begin;
    /// false if there are none.
    pub(super) fn add(&mut self, others: impl IntoIterator<Item = String>) -> bool {
        let before = self.servers.len();
        for address in others {
            if !self.servers.contains(&address) {
                self.servers.push(address);
            }
        }
        let grown = self.servers.len() > before;
        if grown {
            (self.position, self.rounds, self.again) = (before, false, false);
        }
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(count: usize) -> Route {
        Route::new(
            (0..count)
                .map(|number| format!("server-{number}:1"))
                .collect(),
        )
    }

    const BUSY: Outcome = Outcome::Refused(Some(Duration::from_millis(500)));

    #[test]
    fn every_server_that_refuses_is_asked_once_and_at_once_however_many_there_are() {
        let mut route = route(200);
        for number in 0..199 {
            assert_eq!(route.current(), format!("server-{number}:1"));
            assert_eq!(route.after(Outcome::Refused(None)), Next::Other);
        }
        let round = Next::Round {
            answered: true,
            at_least: None,
        };
        assert_eq!(route.after(Outcome::Refused(None)), round);
        // Those that joined later have their turn before anybody is waited for.
        assert!(route.add(["server-7:1".to_string(), "new:1".to_string()]));
        assert_eq!(route.current(), "new:1");
        assert!(matches!(
            route.after(BUSY),
            Next::Round { answered: true, .. }
        ));
        assert!(!route.add(["new:1".to_string()]));
        assert_eq!(route.current(), "server-0:1");
    }

    #[test]
    fn only_a_stream_that_was_open_is_tried_once_more_at_its_server() {
        let mut route = route(3);
        assert_eq!(route.after(Outcome::Broke), Next::Again);
        assert_eq!(route.after(Outcome::Broke), Next::Other);
        assert_eq!(route.after(Outcome::Silent), Next::Other);
        assert_eq!(route.after(Outcome::Broke), Next::Again);
        assert_eq!(route.current(), "server-2:1");
        assert!(matches!(route.after(Outcome::Broke), Next::Round { .. }));
        // From the second round on one try each.
        assert_eq!(route.after(Outcome::Broke), Next::Other);
        assert_eq!(route.after(Outcome::Broke), Next::Other);
    }

    #[test]
    fn a_round_without_an_answer_is_told_from_one_with() {
        let mut route = route(2);
        route.after(Outcome::Silent);
        let silent = Next::Round {
            answered: false,
            at_least: None,
        };
        assert_eq!(route.after(Outcome::Taken), silent);
        route.after(Outcome::Refused(Some(Duration::from_secs(3))));
        let busy = Next::Round {
            answered: true,
            at_least: Some(Duration::from_millis(500)),
        };
        assert_eq!(route.after(BUSY), busy);
        route.after(Outcome::Silent);
        assert_eq!(route.after(Outcome::Silent), silent);
    }
}
