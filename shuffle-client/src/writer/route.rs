//! What comes after a try at a server, and which server is tried next: pure decisions on what came
//! of the tries so far.
//!
//! Every server is asked once before any is waited for: a refusal costs a round trip, a failed
//! connection gets no second try, and only a broken stream is tried once more at the same server,
//! because most breaks are over at once. The candidates come first, then the servers that joined
//! later. Then the rounds begin: each server once, with a growing pause before each round.

use std::time::Duration;

use crate::error::Kind;

/// A failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tried {
    pub(super) kind: Kind,
    /// The server itself answered.
    pub(super) answered: bool,
    /// The server has its share of the shuffle, and sends the output to another.
    pub(super) elsewhere: bool,
    /// The pause asked for by the server.
    pub(super) retry_after: Option<Duration>,
    /// The server has taken the stream and did not go on with it.
    pub(super) stalled: bool,
    /// The server has answered the first message of the stream.
    pub(super) opened: bool,
    /// The commit was sent on this stream.
    pub(super) commit_sent: bool,
    /// The commit was sent on this stream, or on an earlier one.
    pub(super) committing: bool,
    /// All messages of the output can be sent again.
    pub(super) replayable: bool,
}

/// Meaning of a failed try for the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The lease has run out there: the app is registered again, once.
    Register,
    /// No other try can succeed.
    Refused,
    /// No other server can have the output, because its messages are not kept any more.
    Outgrown,
    /// Only this server can still confirm the output: it is waited for.
    Wait {
        /// The server answers.
        answered: bool,
    },
    /// The route goes on.
    GoOn(Outcome),
}

/// Outcome of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server has answered with a refusal of the output, for now or for good.
    Refused(Option<Duration>),
    /// The server could not be connected to, or has said nothing to the first message.
    Silent,
    /// An open stream broke.
    Broke,
    /// The server was not tried: another copy is there.
    Taken,
}

/// The next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try the same server again, after a moment.
    Again,
    /// Another server, at once.
    Other,
    /// All were asked that are known: more should be added, if there are more, before a round
    /// begins.
    Round {
        /// A server of the round before has answered: full or busy servers are not gone.
        answered: bool,
        /// The shortest pause asked for by a server.
        at_least: Option<Duration>,
    },
}

/// The meaning of a failed try.
pub(super) fn judge(tried: Tried) -> Verdict {
    let answered = tried.answered && tried.kind.retryable();
    if tried.elsewhere {
        return Verdict::GoOn(Outcome::Refused(None));
    }
    if tried.kind == Kind::Fenced && !tried.opened {
        return Verdict::Register;
    }
    if stops(tried.kind) {
        return Verdict::Refused;
    }
    if !tried.replayable {
        // An output without its messages can only be had if its commit is on its way, and only from
        // this server.
        return match tried.committing && tried.kind != Kind::Lost {
            true => Verdict::Wait { answered },
            false => Verdict::Outgrown,
        };
    }
    // A server busy with the commit is asked again like one with a lost answer.
    let busy_with_it = tried.commit_sent && tried.kind == Kind::Busy;
    Verdict::GoOn(if tried.stalled {
        // The server is there, and short of something: another server gets the output.
        Outcome::Refused(None)
    } else if answered && !busy_with_it {
        Outcome::Refused(tried.retry_after)
    } else if tried.opened || answered {
        Outcome::Broke
    } else {
        Outcome::Silent
    })
}

/// Kinds after which no other try can succeed.
fn stops(kind: Kind) -> bool {
    match kind {
        Kind::Invalid | Kind::Fenced | Kind::Denied | Kind::Internal => true,
        // Lost and corrupt on a push: the server does not have what it should, or got other bytes
        // than were sent.
        Kind::Busy | Kind::Unavailable | Kind::Lost | Kind::Corrupt => false,
    }
}

/// Servers in the order in which they are tried.
#[derive(Debug)]
pub(super) struct Route {
    servers: Vec<String>,
    position: usize,
    /// The server at `position` had its second chance, or no server has one any more.
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

    /// The server in turn.
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

    /// A server without a connection.
    const NOBODY: Tried = Tried {
        kind: Kind::Unavailable,
        answered: false,
        elsewhere: false,
        retry_after: None,
        stalled: false,
        opened: false,
        commit_sent: false,
        committing: false,
        replayable: true,
    };
    /// A stream that broke after the commit was sent.
    const COMMITTING: Tried = Tried {
        opened: true,
        commit_sent: true,
        committing: true,
        ..NOBODY
    };

    fn answer(kind: Kind, tried: Tried) -> Tried {
        Tried {
            kind,
            answered: true,
            ..tried
        }
    }

    #[test]
    fn what_a_failed_try_means() {
        const PAUSE: Option<Duration> = Some(Duration::from_secs(2));
        let open = Tried {
            opened: true,
            ..NOBODY
        };
        let busy = Tried {
            retry_after: PAUSE,
            ..answer(Kind::Busy, open)
        };
        let busy_committing = Tried {
            retry_after: PAUSE,
            ..answer(Kind::Busy, COMMITTING)
        };
        let stalled = Tried {
            stalled: true,
            ..COMMITTING
        };
        let elsewhere = Tried {
            elsewhere: true,
            ..answer(Kind::Unavailable, NOBODY)
        };
        for (tried, outcome) in [
            (NOBODY, Outcome::Silent),
            (open, Outcome::Broke),
            (COMMITTING, Outcome::Broke),
            (busy, Outcome::Refused(PAUSE)),
            // The commit may be there: the same server is asked first.
            (busy_committing, Outcome::Broke),
            (answer(Kind::Unavailable, NOBODY), Outcome::Refused(None)),
            (
                answer(Kind::Unavailable, COMMITTING),
                Outcome::Refused(None),
            ),
            (stalled, Outcome::Refused(None)),
            (elsewhere, Outcome::Refused(None)),
            // Wrong bytes received, or data lost: no refusal.
            (answer(Kind::Corrupt, open), Outcome::Broke),
            (answer(Kind::Lost, open), Outcome::Broke),
        ] {
            assert_eq!(judge(tried), Verdict::GoOn(outcome), "{tried:?}");
        }
        for (kind, tried, verdict) in [
            (Kind::Fenced, NOBODY, Verdict::Register),
            (Kind::Fenced, open, Verdict::Refused),
            (Kind::Invalid, NOBODY, Verdict::Refused),
            (Kind::Denied, open, Verdict::Refused),
            (Kind::Internal, COMMITTING, Verdict::Refused),
        ] {
            assert_eq!(judge(answer(kind, tried)), verdict, "{kind:?} {tried:?}");
        }
    }

    #[test]
    fn an_output_that_cannot_be_sent_again_is_only_where_its_commit_went() {
        let gone = |tried: Tried| Tried {
            replayable: false,
            ..tried
        };
        let again = Tried {
            commit_sent: false,
            ..COMMITTING
        };
        let wait = |answered| Verdict::Wait { answered };
        for (tried, verdict) in [
            (NOBODY, Verdict::Outgrown),
            (answer(Kind::Busy, NOBODY), Verdict::Outgrown),
            (COMMITTING, wait(false)),
            (again, wait(false)),
            (answer(Kind::Busy, COMMITTING), wait(true)),
            (answer(Kind::Lost, COMMITTING), Verdict::Outgrown),
            (answer(Kind::Internal, COMMITTING), Verdict::Refused),
        ] {
            assert_eq!(judge(gone(tried)), verdict, "{tried:?}");
        }
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
        // Servers that joined later have their turn before any wait.
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
