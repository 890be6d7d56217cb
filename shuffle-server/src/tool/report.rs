//! Report on a file: facts, tables, and findings. Filled by the formats, printed by the tool.

use std::{
    fmt::{self, Write},
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
};

/// Findings kept; further ones are counted.
const FINDINGS: usize = 100;

/// See the module.
#[derive(Debug)]
pub(crate) struct Report {
    facts: Vec<(&'static str, String)>,
    tables: Vec<Table>,
    findings: Vec<Finding>,
    more: u64,
    notes: Vec<String>,
    rows: usize,
}

/// A finding: damage or a mismatch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Bytes of the file with the damage.
    pub(crate) at: Range<u64>,
    /// The mismatch.
    pub(crate) what: String,
}

/// Rows under a headline.
#[derive(Debug)]
pub(crate) struct Table {
    columns: &'static [&'static str],
    rows: Vec<Vec<String>>,
    more: u64,
}

/// A file under examination, with its length at the start.
pub(crate) struct Source {
    file: File,
    /// The file's bytes.
    pub(crate) length: u64,
}

// === impl Report ===

impl Report {
    /// An empty report. Tables keep this many rows and count the others.
    pub(crate) fn new(rows: usize) -> Self {
        Self {
            facts: Vec::new(),
            tables: Vec::new(),
            findings: Vec::new(),
            more: 0,
            notes: Vec::new(),
            rows,
        }
    }

    /// A line of its own.
    pub(crate) fn fact(&mut self, name: &'static str, value: impl ToString) {
        self.facts.push((name, value.to_string()));
    }

    /// Adds a table.
    pub(crate) fn table(
        &mut self,
        columns: &'static [&'static str],
        rows: impl Iterator<Item = Vec<String>>,
    ) {
        let mut table = Table {
            columns,
            rows: Vec::new(),
            more: 0,
        };
        for row in rows {
            if table.rows.len() < self.rows {
                table.rows.push(row);
            } else {
                table.more += 1;
            }
        }
        self.tables.push(table);
    }

    /// Adds a finding.
    pub(crate) fn broken(&mut self, at: Range<u64>, what: impl Into<String>) {
        if self.findings.len() < FINDINGS {
            let what = what.into();
            self.findings.push(Finding { at, what });
        } else {
            self.more += 1;
        }
    }

    /// Adds a note beside the facts.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Whether every checksum fits, and all else.
    pub(crate) fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    /// The kept findings.
    pub(crate) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Number of findings not kept.
    pub(crate) fn more(&self) -> u64 {
        self.more
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.facts.iter().map(|(name, _)| name.len()).max();
        let width = width.unwrap_or(0);
        for (name, value) in &self.facts {
            writeln!(f, "{name:width$}  {value}")?;
        }
        for table in &self.tables {
            write!(f, "\n{table}")?;
        }
        for note in &self.notes {
            writeln!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}

impl Table {
    /// A table with all these rows.
    pub(crate) fn new(columns: &'static [&'static str], rows: Vec<Vec<String>>) -> Self {
        Self {
            columns,
            rows,
            more: 0,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let columns = self.columns.iter().enumerate();
        let widths: Vec<_> = columns
            .map(|(column, name)| {
                let longest = cells(column).map(|cell| cell.chars().count()).max();
                let number = |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit());
                (
                    name.len().max(longest.unwrap_or(0)),
                    cells(column).all(number),
                )
            })
            .collect();
        let mut line = |row: &mut dyn Iterator<Item = &str>| {
            let mut text = String::new();
            for ((width, right), cell) in widths.iter().zip(row) {
                let width = *width;
                match right {
                    true => write!(text, "{cell:>width$}  ")?,
                    false => write!(text, "{cell:width$}  ")?,
                }
            }
            writeln!(f, "{}", text.trim_end())
        };
        line(&mut self.columns.iter().copied())?;
        for row in &self.rows {
            line(&mut row.iter().map(String::as_str))?;
        }
        if self.more > 0 {
            writeln!(f, "… and {} more: --all prints them", self.more)?;
        }
        Ok(())
    }
}

// === impl Source ===

impl Source {
    /// Opens a file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        Ok(Self {
            file,
            length: meta.len(),
        })
    }

    /// Bytes of a range; the error names the unreadable part.
    pub(crate) fn read(&self, at: Range<u64>) -> Result<Vec<u8>, Finding> {
        let finding = |what: String| Finding {
            at: at.clone(),
            what,
        };
        let length = at.end.checked_sub(at.start).map(usize::try_from);
        let Some(Ok(length)) = length.filter(|_| at.end <= self.length) else {
            return Err(finding(format!("the file ends at {}", self.length)));
        };
        let mut bytes = vec![0; length];
        self.file
            .read_exact_at(&mut bytes, at.start)
            .map_err(|error| finding(format!("it cannot be read: {error}")))?;
        Ok(bytes)
    }

    /// CRC-32 of the whole file.
    pub(crate) fn checksum(&self) -> Result<u32, Finding> {
        const STEP: usize = 4 << 20;
        let mut hasher = crc32fast::Hasher::new();
        for start in (0..self.length).step_by(STEP) {
            let end = self.length.min(start + STEP as u64);
            hasher.update(&self.read(start..end)?);
        }
        Ok(hasher.finalize())
    }
}

/// A size for people, beside the number.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    match unit {
        "B" => format!("{bytes} B"),
        unit => format!("{value:.1} {unit}"),
    }
}
