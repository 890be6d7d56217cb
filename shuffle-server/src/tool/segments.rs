//! Examines segments and commit logs, one file at a time, for a person: content, and all checksums.
//!
//! Reads the bytes described by `staging::files::format` and nothing else; the index, which knows
//! the counting ones, is not asked. One table row and one block are in memory at a time, beside
//! sums per attempt.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    path::Path,
};

use shuffle_proto::{
    block::BlockHeader,
    ids::{AppId, Owner, PartitionId, ShuffleId, VolumeId},
    stored::{ROW, row},
};

use crate::{
    staging::files::{
        format::{ALIGNMENT, HEADER, Header, Subject, align, head_length},
        layout::app_of,
    },
    tool::report::{Finding, Report, Source},
};

/// Rows read at once.
const ROWS: u64 = 16 << 10;
/// Bytes searched at once for the next header.
const SEARCH: u64 = 1 << 20;

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Segment,
    Log,
}

/// Blocks, and what they add up to.
#[derive(Clone, Copy, Default)]
struct Sum {
    blocks: u64,
    bytes: u64,
    raw: u64,
    records: u64,
}

/// What was found so far.
struct Look {
    kind: Kind,
    source: Source,
    report: Report,
    volume: Option<VolumeId>,
    /// One row per run or record.
    pieces: Vec<Vec<String>>,
    attempts: BTreeMap<(ShuffleId, Owner), Sum>,
    partitions: BTreeSet<PartitionId>,
    sum: Sum,
}

/// Looks into a segment; tables have up to `rows` rows.
pub(crate) fn segment(path: &Path, rows: usize) -> io::Result<Report> {
    look(path, rows, Kind::Segment)
}

/// Looks into a commit log.
pub(crate) fn log(path: &Path, rows: usize) -> io::Result<Report> {
    look(path, rows, Kind::Log)
}

fn look(path: &Path, rows: usize, kind: Kind) -> io::Result<Report> {
    let mut look = Look {
        kind,
        source: Source::open(path)?,
        report: Report::new(rows),
        volume: None,
        pieces: Vec::new(),
        attempts: BTreeMap::new(),
        partitions: BTreeSet::new(),
        sum: Sum::default(),
    };
    look.walk();
    Ok(look.tell(path))
}

/// The app and shuffle in whose directory a segment lies.
fn owner_of(path: &Path) -> Option<(AppId, ShuffleId)> {
    let path = path.canonicalize().ok()?;
    let names: Vec<_> = path.iter().rev().take(4).map(|it| it.to_str()).collect();
    let [Some(_), Some(shuffle), Some(app), Some("apps")] = names[..] else {
        return None;
    };
    Some((app_of(app)?, ShuffleId(shuffle.parse::<u32>().ok()?)))
}

// === impl Look ===

impl Look {
    fn walk(&mut self) {
        let mut at = 0;
        while at < self.source.length {
            at = match self.piece(at) {
                Ok(end) => end,
                Err(Finding { at: wrong, what }) => {
                    let next = self.search(at);
                    let rest = match next {
                        next if next == self.source.length => "nothing follows it".to_owned(),
                        next => format!("the next one begins at {next}"),
                    };
                    self.report.broken(wrong, format!("{what}; {rest}"));
                    next
                }
            };
        }
    }

    /// A run or record; answers where the next one begins. An error means that it is not known
    /// where this one ends.
    fn piece(&mut self, at: u64) -> Result<u64, Finding> {
        let head = at..at + HEADER as u64;
        let wrong = |what: String| Finding {
            at: head.start..head.end,
            what,
        };
        if head.end > self.source.length {
            let left = self.source.length - at;
            return Err(wrong(format!(
                "the file is cut off: it ends {left} bytes into a header of {HEADER}"
            )));
        }
        let bytes = self.source.read(head.clone())?;
        let header = bytes
            .first_chunk()
            .ok_or_else(|| "it is short".to_owned())
            .and_then(Header::decode)
            .map_err(|reason| wrong(format!("no header: {reason}{}", other_kind(&bytes))))?;
        let name = match (header.subject, self.kind) {
            (Subject::Run { id, .. }, Kind::Segment) => format!("run {id}"),
            (
                Subject::Record {
                    map_index, attempt, ..
                },
                Kind::Log,
            ) => {
                format!("record of map {map_index} attempt {attempt}")
            }
            _ => {
                return Err(wrong(format!(
                    "the header is of another kind of file{}",
                    other_kind(&bytes)
                )));
            }
        };
        let volume = *self.volume.get_or_insert(header.volume);
        if volume != header.volume {
            let what = format!(
                "{name} is of volume {}, what is before it of {volume}",
                header.volume
            );
            self.report.broken(head.clone(), what);
        }
        let data = at + head_length(header.blocks);
        let Some(end) = data.checked_add(header.data_length) else {
            return Err(wrong(format!(
                "{name} says it has {} bytes",
                header.data_length
            )));
        };
        if end > self.source.length {
            let what = format!(
                "{name} is cut off: it ends at {end}, the file at {}",
                self.source.length
            );
            self.report.broken(at..end, what);
        }
        match self.blocks(&header, at + HEADER as u64..data, end, &name) {
            Ok((of_piece, owners, partitions)) => {
                let cells = match header.subject {
                    Subject::Run { id, attempts } => {
                        if u64::from(attempts) < owners {
                            let what = format!(
                                "{name} says it has {attempts} attempts, its blocks are of {owners}"
                            );
                            self.report.broken(at + 16..at + 20, what);
                        }
                        vec![at.to_string(), id.to_string(), attempts.to_string()]
                    }
                    Subject::Record {
                        app,
                        shuffle,
                        map_index,
                        attempt,
                    } => vec![
                        at.to_string(),
                        app.0.to_string(),
                        shuffle.to_string(),
                        map_index.to_string(),
                        attempt.to_string(),
                    ],
                };
                self.pieces
                    .push(of_piece.cells([cells, vec![partitions.to_string()]].concat()));
            }
            // Its length is known all the same.
            Err(finding) => self.report.broken(finding.at, finding.what),
        }
        let next = match self.kind {
            Kind::Segment => align(end),
            Kind::Log => end,
        };
        self.padding(end..next);
        Ok(next.min(self.source.length))
    }

    /// Compares table and blocks; answers their sum, and of how many attempts and partitions they
    /// are.
    fn blocks(
        &mut self,
        header: &Header,
        table: Range<u64>,
        end: u64,
        name: &str,
    ) -> Result<(Sum, u64, u64), Finding> {
        self.check_table(header, &table, name)?;
        let (mut sum, mut owners, mut partitions) =
            (Sum::default(), BTreeSet::new(), BTreeSet::new());
        let mut before: Option<BlockHeader> = None;
        let mut at = table.end;
        for start in table.clone().step_by(ROWS as usize * ROW) {
            let rows = start..table.end.min(start + ROWS * ROW as u64);
            for (ordinal, bytes) in self.source.read(rows)?.chunks(ROW).enumerate() {
                let place = start + (ordinal * ROW) as u64;
                let place = place..place + ROW as u64;
                let Some(block) = row(bytes) else {
                    let what = format!("{name}: a row of the table is no block");
                    return Err(Finding { at: place, what });
                };
                let key = |block: &BlockHeader| match self.kind {
                    Kind::Segment => (block.partition.0, owner(block), block.seq),
                    Kind::Log => (0, owner(block), block.seq),
                };
                if before.is_some_and(|before| key(&before) >= key(&block)) {
                    let what = format!("{name}: {} is not in its order", block_name(&block));
                    self.report.broken(place, what);
                }
                before = Some(block);
                let shuffle = match header.subject {
                    Subject::Run { .. } => ShuffleId(0),
                    Subject::Record {
                        shuffle,
                        map_index,
                        attempt,
                        ..
                    } => {
                        if owner(&block) != (map_index, attempt) {
                            let what = format!("{name}: {} is not its", block_name(&block));
                            self.report.broken(at..at, what);
                        }
                        shuffle
                    }
                };
                let bytes = at..at + u64::from(block.length);
                at = bytes.end;
                if bytes.end > end.min(self.source.length) {
                    // Said already, or the rows contradict the header, which is said below.
                    continue;
                }
                let stored = self.source.read(bytes.clone())?;
                if !block.verify([&stored[..]]) {
                    let what = format!("{name}: {} fails its checksum", block_name(&block));
                    self.report.broken(bytes, what);
                }
                for sum in [
                    &mut sum,
                    &mut self.sum,
                    self.attempts.entry((shuffle, owner(&block))).or_default(),
                ] {
                    sum.add(&block);
                }
                self.partitions.insert(block.partition);
                partitions.insert(block.partition);
                owners.insert(owner(&block));
            }
        }
        if at != end {
            let what = format!("{name}: its blocks end at {at}, its header says {end}");
            self.report.broken(table, what);
        }
        Ok((sum, owners.len() as u64, partitions.len() as u64))
    }

    fn check_table(&self, header: &Header, table: &Range<u64>, name: &str) -> Result<(), Finding> {
        let mut checksum = crc32fast::Hasher::new();
        for start in table.clone().step_by(SEARCH as usize) {
            checksum.update(&self.source.read(start..table.end.min(start + SEARCH))?);
        }
        let checksum = checksum.finalize();
        if checksum == header.table_checksum {
            return Ok(());
        }
        let what = format!(
            "{name}: checksum of its table of {} blocks is {checksum:08x}, its header says {:08x}",
            header.blocks, header.table_checksum
        );
        Err(Finding {
            at: table.clone(),
            what,
        })
    }

    /// What is between two runs is zero, or not there.
    fn padding(&mut self, at: Range<u64>) {
        let at = at.start.min(self.source.length)..at.end.min(self.source.length);
        match self.source.read(at.clone()) {
            Ok(bytes) => {
                if let Some(first) = bytes.iter().position(|byte| *byte != 0) {
                    let first = at.start + first as u64;
                    let what = "bytes between two runs are not zero";
                    self.report.broken(first..at.end, what);
                }
            }
            Err(finding) => self.report.broken(finding.at, finding.what),
        }
    }

    /// Where the next header that is whole begins, or the end of the file.
    fn search(&self, after: u64) -> u64 {
        let step = match self.kind {
            Kind::Segment => ALIGNMENT,
            Kind::Log => 1,
        };
        let mut start = match self.kind {
            Kind::Segment => align(after + 1),
            Kind::Log => after + 1,
        };
        while start + HEADER as u64 <= self.source.length {
            let end = self.source.length.min(start + SEARCH + HEADER as u64);
            let Ok(bytes) = self.source.read(start..end) else {
                return self.source.length;
            };
            for at in (0..SEARCH as usize).step_by(step as usize) {
                let Some(header) = bytes.get(at..).and_then(|rest| rest.first_chunk()) else {
                    break;
                };
                if header.starts_with(b"FB") && Header::decode(header).is_ok() {
                    return start + at as u64;
                }
            }
            start += SEARCH;
        }
        self.source.length
    }

    fn tell(self, path: &Path) -> Report {
        let Self {
            kind,
            source,
            mut report,
            volume,
            pieces,
            attempts,
            partitions,
            sum,
        } = self;
        let what = match kind {
            Kind::Segment => "segment",
            Kind::Log => "commit log",
        };
        report.fact(what, path.display());
        report.fact("length", source.length);
        if let Some(volume) = volume {
            report.fact("volume", volume);
        }
        if kind == Kind::Segment {
            match owner_of(path) {
                Some((app, shuffle)) => {
                    report.fact("app", app);
                    report.fact("shuffle", shuffle);
                }
                None => report.fact(
                    "app, shuffle",
                    "not known: they are in the path of a data directory",
                ),
            }
            report.fact("runs", pieces.len());
        } else {
            report.fact("records", pieces.len());
        }
        report.fact("attempts", attempts.len());
        report.fact("partitions", partitions.len());
        report.fact("blocks", sum.blocks);
        report.fact(
            "bytes",
            format!("{} ({} before they were encoded)", sum.bytes, sum.raw),
        );
        report.fact("records of blocks", sum.records);
        match kind {
            Kind::Segment => {
                report.table(
                    &[
                        "offset",
                        "run",
                        "attempts",
                        "partitions",
                        "blocks",
                        "bytes",
                        "records",
                    ],
                    pieces.into_iter(),
                );
                let row = |((_, (map, attempt)), sum): (&(_, Owner), &Sum)| {
                    sum.cells(vec![map.to_string(), attempt.to_string()])
                };
                report.table(
                    &["map", "attempt", "blocks", "bytes", "records"],
                    attempts.iter().map(row),
                );
            }
            Kind::Log => report.table(
                &[
                    "offset",
                    "app no",
                    "shuffle",
                    "map",
                    "attempt",
                    "partitions",
                    "blocks",
                    "bytes",
                    "records",
                ],
                pieces.into_iter(),
            ),
        }
        report.note(
            "what the volume's index does not name is never served, such as a tail that a crash cut off; this looks at bytes only",
        );
        report
    }
}

impl Sum {
    fn add(&mut self, block: &BlockHeader) {
        self.blocks += 1;
        self.bytes += u64::from(block.length);
        self.raw += u64::from(block.raw_length);
        self.records += u64::from(block.records);
    }

    fn cells(&self, mut first: Vec<String>) -> Vec<String> {
        first.extend([self.blocks, self.bytes, self.records].map(|it| it.to_string()));
        first
    }
}

fn owner(block: &BlockHeader) -> Owner {
    (block.map_index, block.attempt)
}

fn block_name(block: &BlockHeader) -> String {
    format!(
        "block {} of map {} attempt {} partition {}",
        block.seq, block.map_index, block.attempt, block.partition
    )
}

/// A hint for who names the wrong kind.
fn other_kind(bytes: &[u8]) -> &'static str {
    match bytes.first_chunk() {
        Some(b"FBRN") => " (this is a run: forebay inspect segment)",
        Some(b"FBLG") => " (this is a record of a commit log: forebay inspect log)",
        Some(b"FBOB") => " (this is an object: forebay inspect object)",
        Some(b"FBMF") => " (this is a manifest: forebay inspect manifest)",
        _ => "",
    }
}
