//! Sizes and times as people write them: `8MiB`, `2GiB`, `30s`, `10min`.

use std::{fmt, str::FromStr, time::Duration};

/// A number of bytes. `8MiB` is 8 · 2²⁰, `8MB` is 8 · 10⁶, a bare number is bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Largest first, so that printing finds the shortest form.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

/// In nanoseconds. Months and years are left out: nobody agrees on how long they are.
const TIMES: [(&str, u64); 11] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("m", 60_000_000_000),
    ("sec", 1_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
    ("day", 86_400_000_000_000),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let remedy = "write a number with a unit, as in 512MiB or 2GiB";
        let (number, unit) = split(text).ok_or(remedy)?;
        let scale = if unit.is_empty() {
            Some(1)
        } else {
            scale(&SIZES, unit)
        };
        let bytes = scaled(
            number,
            scale.ok_or_else(|| format!("{unit:?} is no unit of size: {remedy}"))?,
        );
        bytes
            .map(Self)
            .ok_or_else(|| format!("out of range: {remedy}"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |&&(_, scale): &&(&str, u64)| self.0 >= scale && self.0.is_multiple_of(scale);
        match SIZES.iter().find(fits) {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "0B"),
        }
    }
}

/// Reads `30s`, `10min`, `1.5h`. The unit is needed: `10` could be anything.
pub fn duration(text: &str) -> Result<Duration, String> {
    let remedy = "write a number with a unit, as in 500ms, 30s or 10min";
    let (number, unit) = split(text).ok_or(remedy)?;
    let scale = scale(&TIMES, unit).ok_or_else(|| match unit {
        "" => format!("the unit is missing: {remedy}"),
        unit => format!("{unit:?} is no unit of time: {remedy}"),
    })?;
    scaled(number, scale)
        .map(Duration::from_nanos)
        .ok_or_else(|| format!("out of range: {remedy}"))
}

/// Prints a duration so that [`duration`] reads the same value back.
pub fn show(duration: Duration) -> String {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let fits = |&&(_, scale): &&(&str, u64)| nanos >= scale && nanos.is_multiple_of(scale);
    TIMES.iter().find(fits).map_or_else(
        || "0s".to_owned(),
        |(unit, scale)| format!("{}{unit}", nanos / scale),
    )
}

/// The number and the unit.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    number
        .starts_with(|c: char| c.is_ascii_digit())
        .then_some((number, unit.trim_start()))
}

fn scale(units: &[(&str, u64)], name: &str) -> Option<u64> {
    units
        .iter()
        .find(|(unit, _)| unit.eq_ignore_ascii_case(name))
        .map(|&(_, scale)| scale)
}

/// Exact for whole numbers; a fraction may lose less than one byte or nanosecond.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let value = number.parse::<f64>().ok()? * scale as f64;
    (value < u64::MAX as f64).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("8MiB", 8 << 20),
            ("8 mib", 8 << 20),
            ("2GB", 2_000_000_000),
            ("1.5KiB", 1536),
            ("3B", 3),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "8 parsecs", "-1", "99999999TiB", "1.2.3MiB"] {
            let error = text.parse::<ByteSize>().expect_err(text);
            assert!(error.contains("as in 512MiB"), "{error}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, millis) in [
            ("30s", 30_000),
            ("10min", 600_000),
            ("10 m", 600_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert!(
            duration("10")
                .expect_err("a unit is needed")
                .contains("unit is missing")
        );
        assert!(
            duration("3 years")
                .expect_err("no such unit")
                .contains("\"years\"")
        );
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(value in any::<u64>(), shift in 0u32..64) {
            let value = value >> shift;
            prop_assert_eq!(ByteSize(value).to_string().parse(), Ok(ByteSize(value)));
            prop_assert_eq!(duration(&show(Duration::from_nanos(value))), Ok(Duration::from_nanos(value)));
        }
    }
}
