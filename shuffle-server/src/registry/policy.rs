//! When write-back copies: the app's choice, or the server's for apps without one.

use std::{fmt, str::FromStr};

/// When committed output of an app is written back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// After a delay, when the disk is nearly full, or when the server ends.
    #[default]
    Lazy,
    /// As soon as attempts have committed.
    Eager,
    /// Never.
    Off,
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "lazy" => Ok(Policy::Lazy),
            "eager" => Ok(Policy::Eager),
            "off" => Ok(Policy::Off),
            other => Err(format!("{other:?} is not one of lazy, eager, off")),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::Lazy => "lazy",
            Policy::Eager => "eager",
            Policy::Off => "off",
        })
    }
}
