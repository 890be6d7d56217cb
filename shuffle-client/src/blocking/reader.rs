//! The input of one reduce task, for a thread that waits.

use std::{sync::Mutex, time::Duration};

use tokio::runtime::Handle;

use super::{exclusive, invalid, wait};
use crate::{
    client::Client,
    error::Error,
    reader::{Block, ReadSpec, Reader as Input, ReaderStats},
    tally::Tally,
};

const NAME: &str = "reader";

/// The input of one reduce task.
pub struct Reader {
    handle: Handle,
    state: Mutex<State>,
    /// Beside the state: a task that ends may ask while another thread is still inside.
    tally: Tally,
}

struct State {
    input: Progress,
    /// Counters at the end.
    stats: ReaderStats,
}

/// A finished reader keeps only its end or failure: a task may have thousands of readers.
enum Progress {
    Reading(Box<Input>),
    Ended,
    Failed(Box<Error>),
}

/// What `next` answers.
#[derive(Debug)]
pub enum Next {
    /// A block; its memory stays where it is until dropped.
    Block(Block),
    /// Call again.
    NotYet,
    /// Everything expected was given out and compared with the commits.
    End,
}

impl Reader {
    /// Starts to read; connects in the background.
    pub fn open(client: &Client, spec: ReadSpec) -> Self {
        let _context = client.handle().enter();
        Self::new(client, client.open_reader(spec))
    }

    /// The same, and long records come in parts (see [`Block::part`]).
    pub fn open_in_parts(client: &Client, spec: ReadSpec) -> Self {
        let _context = client.handle().enter();
        Self::new(client, client.open_reader(spec).in_parts())
    }

    fn new(client: &Client, input: Input) -> Self {
        let handle = client.handle().clone();
        Self {
            handle,
            tally: input.tally(),
            state: Mutex::new(State {
                input: Progress::Reading(Box::new(input)),
                stats: ReaderStats::default(),
            }),
        }
    }

    /// Work of each server so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The next block within the time-out. An error is repeated for ever.
    pub fn next(&self, timeout: Duration) -> Result<Next, Error> {
        let mut state = exclusive(&self.state, NAME)?;
        let state = &mut *state;
        let input = match &mut state.input {
            Progress::Reading(input) => input,
            Progress::Ended => return Ok(Next::End),
            Progress::Failed(error) => return Err((**error).clone()),
        };
        let Some(answer) = wait(&self.handle, timeout, input.next()) else {
            return Ok(Next::NotYet);
        };
        match answer {
            Ok(Some(block)) => Ok(Next::Block(block)),
            Ok(None) => {
                state.end(Progress::Ended);
                Ok(Next::End)
            }
            Err(error) => {
                state.end(Progress::Failed(Box::new(error.clone())));
                Err(error)
            }
        }
    }

    /// Frees everything but the blocks given out.
    pub fn cut(&self) -> Result<(), Error> {
        let mut state = exclusive(&self.state, NAME)?;
        if matches!(state.input, Progress::Reading(_)) {
            let cut = invalid("the reader was cut: open another one to read on");
            state.end(Progress::Failed(Box::new(cut)));
        }
        Ok(())
    }

    /// Counters so far.
    pub fn stats(&self) -> Result<ReaderStats, Error> {
        Ok(exclusive(&self.state, NAME)?.stats())
    }
}

impl State {
    fn stats(&self) -> ReaderStats {
        match &self.input {
            Progress::Reading(input) => input.stats(),
            Progress::Ended | Progress::Failed(_) => self.stats,
        }
    }

    fn end(&mut self, end: Progress) {
        self.stats = self.stats();
        self.input = end;
    }
}
