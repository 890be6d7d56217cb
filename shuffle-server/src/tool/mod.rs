//! The operator's tool `forebay`: looks into files, tries a store, talks to servers.
//!
//! | file | does |
//! |---|---|
//! | [`dev`], [`demo`] | a server for trying things out; the demo of the Python package |
//! | [`jar`] | where the plugin for Spark is |
//! | [`inspect`] | prints what `segments` and `objects` find in a file |
//! | [`segments`] | looks into segments and commit logs |
//! | [`objects`] | looks into files of an object store |
//! | [`store`] | prints what `shuffle_remote::doctor` finds, and `shuffle_remote::lifecycle` makes |
//! | [`server`], [`admin`] | calls of the admin port, and the way there |
//! | [`report`] | facts and tables, printed |
//!
//! Owns words and exit codes; formats, checks and calls are elsewhere. Reports go to stdout, whole;
//! what is wrong goes to stderr.

mod admin;
mod demo;
mod dev;
mod inspect;
mod jar;
mod objects;
mod report;
mod segments;
mod server;
mod store;

use std::{ffi::OsString, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::units;

/// Time limit of a call that reads.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rows of a table that are printed unless all are asked for.
const ROWS: usize = 50;

/// What is typed.
#[derive(Debug, Parser)]
#[command(
    name = "forebay",
    version = crate::release::text(),
    about = "The operator's tool of Forebay: looks into files, tries an object store, drains servers and frees what they hold.",
    after_help = "Exit codes: 0 it is good or done; 1 it is broken or failed, and stderr says what; 2 it was called wrongly, or a file \
                  could not be opened.",
    max_term_width = 120
)]
struct Tool {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a server on this machine for trying things out, and prints the settings for Spark.
    ///
    /// It serves on 127.0.0.1 alone, with a temporary directory as its disk. Ctrl-C, SIGTERM,
    /// SIGHUP and the end of the terminal end it, and nothing is left.
    Dev(dev::Dev),
    /// Runs the demo of the Python package (`pip install 'forebay[demo]'`): the same jobs on
    /// Spark's own shuffle and on Forebay, with an executor and then a server killed in between.
    #[command(disable_help_flag = true)] // the demo has its own
    Demo {
        /// As `forebay demo --help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Prints where the plugin for Spark is, forebay-spark.jar, or copies it.
    Jar {
        /// A directory, which then has forebay-spark.jar, or a file that ends in .jar.
        to: Option<PathBuf>,
    },
    /// Prints what is in a file of a server or of an object store, and compares every checksum.
    ///
    /// FILE is one of a data directory (segments below apps/, commit logs below log/) or of a
    /// file:// store, or one that was downloaded. It is only read. One that a running server is
    /// writing may end in the middle of something.
    Inspect {
        /// Which kind of file.
        #[arg(value_enum)]
        kind: Kind,
        /// The file.
        file: PathBuf,
        /// Prints all rows of tables, not only the first 50.
        #[arg(long)]
        all: bool,
    },
    /// Tries what servers need of something, and says what to do about what does not work.
    Doctor {
        #[command(subcommand)]
        of: Doctor,
    },
    /// Prints a lifecycle rule for a store's bucket, as a net below the leases. The rule is on
    /// stdout, words are on stderr.
    LifecycleRule {
        /// As in the server's `remote`.
        url: String,
        /// Age from which objects go: more than any lease, and than your longest application runs.
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        days: u32,
        /// Longest lease that the servers grant, as in their `max-lease`.
        #[arg(long, value_name = "TIME", default_value = "1d", value_parser = units::duration)]
        max_lease: Duration,
    },
    /// Prints volumes, apps, memory and running calls of servers.
    Status {
        #[command(flatten)]
        servers: Servers,
        /// Prints the servers' own JSON, one line each.
        #[arg(long)]
        json: bool,
    },
    /// Prints which apps hold what on servers, shuffle by shuffle, and how safe it is.
    Apps {
        #[command(flatten)]
        servers: Servers,
        /// Prints the servers' own JSON, one line each.
        #[arg(long)]
        json: bool,
    },
    /// Starts what SIGTERM starts: no new attempts, running ones commit, what is live is written
    /// back, the process ends.
    ///
    /// Asking again changes nothing.
    Drain {
        #[command(flatten)]
        servers: Servers,
        /// Waits until the drain is over; exit code 0 if nothing is left that only the server's
        /// disk has.
        #[arg(long)]
        wait: bool,
    },
    /// Frees all that an app has, on these servers and in their object store. What is not there is
    /// freed already.
    ///
    /// No token is asked for. A driver that is alive may register the app again; what it had is
    /// gone.
    DeleteApp {
        /// The app's id.
        app: String,
        #[command(flatten)]
        servers: Servers,
    },
    /// Frees one shuffle of an app, on these servers and in their object store. What is not there
    /// is freed already.
    DeleteShuffle {
        /// The app's id.
        app: String,
        /// The shuffle's number.
        shuffle: u32,
        #[command(flatten)]
        servers: Servers,
    },
}

#[derive(Debug, Subcommand)]
enum Doctor {
    /// An object store: access, conditional put, ranged get, multipart upload and abort, clock,
    /// lifecycle rule, and whose things lie there.
    ///
    /// It writes below PREFIX/.doctor-…/ and removes that again. Credentials are found where
    /// servers find them.
    Store {
        /// As in the server's `remote`.
        url: String,
    },
}

/// Kinds of files.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Runs of a shuffle in a data directory: *.seg
    Segment,
    /// Small commits in a data directory: log/*.log
    Log,
    /// Blocks in an object store: *.obj
    Object,
    /// What a round of write-back added: *.manifest
    Manifest,
    /// Until when an app's objects live: lease
    Lease,
}

#[derive(Args, Debug)]
struct Servers {
    /// Admin addresses of servers. Repeat it, or separate with commas, for several. Without
    /// admin-auth, what changes something is taken on a server's own machine only: 127.0.0.1:7401
    /// there (`kubectl exec POD -- forebay …`).
    /// https://HOST:PORT for servers with tls-cert.
    #[arg(
        long = "server",
        value_name = "[https://]HOST:PORT",
        value_delimiter = ',',
        required = true
    )]
    servers: Vec<String>,

    /// File with the token to show to servers that ask for one (admin-auth = token or kubernetes).
    /// [env: FOREBAY_TOKEN_FILE]
    #[arg(long, value_name = "FILE", env = "FOREBAY_TOKEN_FILE", hide_env = true)]
    token_file: Option<PathBuf>,
    /// PEM file with the authority of the servers' tls-cert. Implies https://.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file with a certificate of one's own, which tls-client-ca of the servers has signed.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// PEM file with the private key of --cert.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Name that the servers' certificates have, where HOST is none of them: 127.0.0.1, say.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is good, or done.
    Good,
    /// It is broken, or failed; stderr has said what.
    Bad,
    /// It was called wrongly; stderr has said how.
    Usage,
}

/// Does what the arguments say (`args`, with the program's name first).
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let tool = match Tool::try_parse_from(args) {
        Ok(tool) => tool,
        Err(error) => error.exit(),
    };
    let end = match tool.command {
        Command::Dev(dev) => dev::run(&dev),
        Command::Demo { options } => demo::run(&options),
        Command::Jar { to } => jar::run(to.as_deref()),
        Command::Inspect { kind, file, all } => {
            inspect::run(kind, &file, if all { usize::MAX } else { ROWS })
        }
        Command::LifecycleRule {
            url,
            days,
            max_lease,
        } => store::lifecycle_rule(&url, days, max_lease),
        Command::Doctor {
            of: Doctor::Store { url },
        } => asynchronous(store::doctor(&url)),
        Command::Status { servers, json } => asynchronous(server::status(&servers, json)),
        Command::Apps { servers, json } => asynchronous(server::apps(&servers, json)),
        Command::Drain { servers, wait } => asynchronous(server::drain(&servers, wait)),
        Command::DeleteApp { app, servers } => asynchronous(server::free(&servers, &app, None)),
        Command::DeleteShuffle {
            app,
            shuffle,
            servers,
        } => asynchronous(server::free(&servers, &app, Some(shuffle))),
    };
    match end {
        End::Good => ExitCode::SUCCESS,
        End::Bad => ExitCode::from(1),
        End::Usage => ExitCode::from(2),
    }
}

fn asynchronous(command: impl Future<Output = End>) -> End {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => bad(format!("start a thread: {error}")),
    }
}

/// Prints; whoever reads may have had enough already.
fn say(text: impl AsRef<str>) {
    let mut stdout = std::io::stdout();
    let _ = stdout
        .write_all(text.as_ref().as_bytes())
        .and_then(|()| stdout.flush());
}

/// Says what is wrong.
fn complain(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
}

fn bad(text: impl AsRef<str>) -> End {
    complain(format!("error: {}", text.as_ref()));
    End::Bad
}

fn usage(text: impl AsRef<str>) -> End {
    complain(format!("error: {}", text.as_ref()));
    End::Usage
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Tool::command().debug_assert();
    }
}
