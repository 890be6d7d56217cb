//! Brings file, environment and flags together.
//!
//! Each value of the file and of the environment is first read alone, like a flag, so that an error
//! can name its source. Then all values that are not overridden are put before the real flags and
//! read as one command line, so that defaults, types and help have one source.

use std::{collections::HashSet, ffi::OsString, fmt::Write, fs, path::Path};

use clap::{ArgMatches, CommandFactory, FromArgMatches, parser::ValueSource};

use super::{Config, Loaded};

const PREFIX: &str = "FOREBAY_";

/// Variables with Forebay's prefix for the build, the tests and the tool `forebay`.
const NOT_OURS: [&str; 4] = [
    "FOREBAY_CACHE",
    "FOREBAY_RUN",
    "FOREBAY_TEST_SERVER",
    "FOREBAY_TOKEN_FILE",
];

/// Why settings cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong, or asks for help or the version: clap knows how to say it.
    #[error(transparent)]
    Usage(Box<clap::Error>),
    /// A setting is wrong.
    #[error("{0}")]
    Setting(String),
}

impl From<clap::Error> for Error {
    fn from(error: clap::Error) -> Self {
        Self::Usage(Box::new(error))
    }
}

/// `key` and its values, as a flag.
struct Setting {
    key: String,
    values: Vec<String>,
}

pub(super) fn load(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    let flags = Config::command().try_get_matches_from(&args)?;
    let env = from_environment(env)?;
    let path = match flags.get_one::<std::path::PathBuf>("config") {
        Some(path) => Some(path.clone()),
        None => env
            .iter()
            .find(|setting| setting.key == "config")
            .and_then(|setting| setting.values.first())
            .map(Into::into),
    };
    let file = match path {
        Some(path) => from_file(&path)?,
        None => Vec::new(),
    };

    let mut set: HashSet<String> = keys()
        .into_iter()
        .filter(|key| is_flag_set(&flags, key))
        .collect();
    let mut line: Vec<OsString> = args.first().cloned().into_iter().collect();
    for source in [env, file] {
        let wins: Vec<_> = source
            .into_iter()
            .filter(|setting| !set.contains(&setting.key))
            .collect();
        for setting in wins {
            line.extend(setting.flags().map(OsString::from));
            set.insert(setting.key);
        }
    }
    line.extend(args.into_iter().skip(1));
    let matches = Config::command().try_get_matches_from(line)?;
    Ok(Loaded {
        config: Config::from_arg_matches(&matches)?,
        effective: effective(&matches),
    })
}

impl Setting {
    fn flags(&self) -> impl Iterator<Item = String> {
        self.values
            .iter()
            .map(|value| format!("--{}={value}", self.key))
    }

    /// Reads a flag alone; the error names `name`, as in its source.
    fn check(self, name: &str) -> Result<Self, Error> {
        // A possible secret is not shown, least of all under a misspelt name.
        if self.key == "remote"
            && let Some(url) = self.values.first()
            && let Err(why) = shuffle_remote::check_url(url)
        {
            let shown = shuffle_remote::shown_url(url);
            return Err(Error::Setting(format!("{name} is {shown:?}: {why}")));
        }
        let line = std::iter::once("forebay-server".to_owned()).chain(self.flags());
        let Err(error) = Config::command().try_get_matches_from(line) else {
            return Ok(self);
        };
        let value = self.values.join(",");
        let reason = match std::error::Error::source(&error) {
            Some(source) => source.to_string(),
            None => error
                .to_string()
                .lines()
                .next()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned(),
        };
        Err(Error::Setting(format!("{name} is {value:?}: {reason}")))
    }
}

fn from_environment(
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    for (name, value) in env {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        let key = name[PREFIX.len()..].to_ascii_lowercase().replace('_', "-");
        if !keys().contains(&key) {
            if is_service_link(name) || NOT_OURS.contains(&name) {
                continue;
            }
            let nearest = nearest(&key)
                .map(|key| format!("{PREFIX}{}", key.to_ascii_uppercase().replace('-', "_")));
            let remedy = nearest.map_or_else(
                || "remove it".to_owned(),
                |name| format!("did you mean {name}?"),
            );
            return Err(Error::Setting(format!(
                "environment variable {name} is no setting: {remedy}"
            )));
        }
        let Some(value) = value.to_str() else {
            return Err(Error::Setting(format!(
                "environment variable {name} is no UTF-8: write it in UTF-8"
            )));
        };
        let setting = Setting {
            key,
            values: vec![value.to_owned()],
        };
        settings.push(setting.check(&format!("environment variable {name}"))?);
    }
    Ok(settings)
}

/// Kubernetes gives every pod variables such as `FOREBAY_SERVICE_HOST` and
/// `FOREBAY_PORT_7400_TCP_ADDR` for a service named `forebay`: no typing errors.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || ["_TCP", "_UDP", "_SCTP"]
            .iter()
            .any(|protocol| name.contains(protocol) && name.contains("_PORT_"))
}

fn from_file(path: &Path) -> Result<Vec<Setting>, Error> {
    let place = path.display();
    let text = fs::read_to_string(path).map_err(|error| {
        Error::Setting(format!(
            "config is {place}: {error}: name a readable TOML file"
        ))
    })?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| {
            text[..span.start.min(text.len())].lines().count().max(1)
        });
        Error::Setting(format!(
            "{place}, line {line}: {}: write it as TOML",
            error.message()
        ))
    })?;
    let mut settings = Vec::new();
    for (key, value) in table {
        if !keys().contains(&key) || key == "config" {
            let remedy = nearest(&key).map_or_else(
                || "remove it".to_owned(),
                |near| format!("did you mean {near}?"),
            );
            return Err(Error::Setting(format!(
                "{place}: {key} is no setting: {remedy}"
            )));
        }
        let values = match &value {
            toml::Value::Array(values) => values.iter().map(scalar).collect::<Option<Vec<_>>>(),
            value => scalar(value).map(|value| vec![value]),
        };
        let Some(values) = values else {
            return Err(Error::Setting(format!(
                "{place}: {key} is {value}: write a string or a number"
            )));
        };
        settings.push(
            Setting {
                key: key.clone(),
                values,
            }
            .check(&format!("{place}: {key}"))?,
        );
    }
    Ok(settings)
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

/// Keys that can be set anywhere.
fn keys() -> Vec<String> {
    let command = Config::command();
    let takes_value = command
        .get_arguments()
        .filter(|arg| arg.get_action().takes_values());
    takes_value
        .filter_map(|arg| arg.get_long())
        .map(str::to_owned)
        .collect()
}

fn is_flag_set(matches: &ArgMatches, key: &str) -> bool {
    matches.value_source(&key.replace('-', "_")) == Some(ValueSource::CommandLine)
}

/// The key that was most likely meant.
fn nearest(key: &str) -> Option<String> {
    let scored = keys()
        .into_iter()
        .map(|known| (strsim::jaro_winkler(&known, key), known));
    scored
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// All keys with their values, each with its help as a comment.
fn effective(matches: &ArgMatches) -> String {
    let mut text = String::new();
    for arg in Config::command()
        .get_arguments()
        .filter(|arg| arg.get_action().takes_values())
    {
        let (Some(key), Some(help)) = (arg.get_long(), arg.get_help()) else {
            continue;
        };
        if key == "config" {
            continue;
        }
        let values: Vec<String> = matches
            .get_raw(arg.get_id().as_str())
            .into_iter()
            .flatten()
            .map(|value| value.to_string_lossy().into_owned())
            .map(|value| {
                if value.parse::<u64>().is_ok() || value.parse::<bool>().is_ok() {
                    value
                } else {
                    toml::Value::String(value).to_string()
                }
            })
            .collect();
        let value = match &values[..] {
            values if matches!(arg.get_action(), clap::ArgAction::Append) => {
                format!("[{}]", values.join(", "))
            }
            [] => String::new(),
            values => values.join(", "),
        };
        let unset = if values.is_empty() { "# " } else { "" };
        writeln!(text, "# {help}\n{unset}{key} = {value}\n").expect("a String takes all");
    }
    text
}
