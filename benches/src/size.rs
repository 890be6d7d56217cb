//! Sizes as people write them: `64KiB`, `2GB`, `1500000`.

use std::{fmt, str::FromStr};

/// A number of bytes, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

const UNITS: [(&str, u64); 13] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("b", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!("write a number above 0 and a unit, as in 64KiB or 2GB, instead of {text:?}")
        };
        let lower = text.trim().to_ascii_lowercase();
        let (number, unit) = UNITS
            .iter()
            .find_map(|(suffix, unit)| lower.strip_suffix(suffix).map(|number| (number, *unit)))
            .unwrap_or((lower.as_str(), 1));
        let number: f64 = number.trim().parse().map_err(|_| refuse())?;
        let bytes = number * unit as f64;
        if bytes.is_finite() && (1.0..1e18).contains(&bytes) {
            Ok(Self(bytes.round() as u64))
        } else {
            Err(refuse())
        }
    }
}

impl fmt::Display for ByteSize {
    /// Exact powers of two as such, the rest in decimal units.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS[..4]
            .iter()
            .rev()
            .find(|(_, unit)| (1..1024).contains(&(self.0 / unit)) && self.0.is_multiple_of(*unit));
        if let Some((name, unit)) = exact {
            let name = match *name {
                "kib" => "KiB",
                "mib" => "MiB",
                "gib" => "GiB",
                _ => "TiB",
            };
            return write!(f, "{} {name}", self.0 / unit);
        }
        let (name, unit) = match self.0 {
            0..1_000 => return write!(f, "{} B", self.0),
            1_000..1_000_000 => ("kB", 1e3),
            1_000_000..1_000_000_000 => ("MB", 1e6),
            _ => ("GB", 1e9),
        };
        write!(f, "{:.2} {name}", self.0 as f64 / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, bytes) in [
            ("1", 1),
            ("64KiB", 65_536),
            ("2GB", 2_000_000_000),
            ("1.5 MiB", 1_572_864),
            ("8k", 8_192),
            ("7b", 7),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "0", "-1GB", "GB", "1XB", "inf", "nan", "1e30GB"] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert!(error.contains("64KiB"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_printed_in_the_unit_that_fits() {
        for (bytes, text) in [
            (65_536, "64 KiB"),
            (2_000_000_000, "2.00 GB"),
            (999, "999 B"),
            (1_500, "1.50 kB"),
            (3 << 30, "3 GiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
