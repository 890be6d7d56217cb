//! Examines objects, manifests and leases, one file at a time, for a person: content, and all
//! checksums.
//!
//! A file of a `file://` store, or a downloaded one. Neighbouring files are examined too: the
//! manifest of an object, the objects of a manifest. One section is in memory at a time, beside the
//! footer.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use shuffle_proto::{
    ids::AppId,
    stored::totals::{Accumulator, Sum, Totals},
};
use shuffle_remote::{
    Owner, Place, keys,
    lease::Lease,
    manifest::{Attempt, Manifest},
    object::{Entry, Footer, HEADER, Head, Section, Trailer},
};

use crate::tool::report::{Finding, Report, Source};

/// More than any section: sections end at 4 MiB.
const LARGEST_SECTION: u64 = 64 << 20;

/// Looks into an object; tables have up to `rows` rows.
pub(super) fn object(path: &Path, rows: usize) -> io::Result<Report> {
    let source = Source::open(path)?;
    let mut report = Report::new(rows);
    report.fact("object", path.display());
    report.fact("length", source.length);
    if let Err(Finding { at, what }) = look_at_object(path, &source, &mut report) {
        report.broken(at, what);
    }
    Ok(report)
}

fn look_at_object(path: &Path, source: &Source, report: &mut Report) -> Result<(), Finding> {
    let edge = HEADER as u64;
    if source.length < 2 * edge {
        let what = format!(
            "the file is cut off: it has {} bytes, header and trailer alone have {}",
            source.length,
            2 * edge
        );
        return Err(Finding {
            at: 0..source.length,
            what,
        });
    }
    let head = block_at(source, 0..edge, Head::decode);
    let last = source.length - edge..source.length;
    let trailer = match block_at(source, last.clone(), Trailer::decode) {
        Ok(trailer) => trailer,
        Err(Finding { at, what }) => {
            // Without a footer the bytes in between are unknown.
            if let Err(Finding { at, what }) = head {
                report.broken(at, what);
            }
            let what =
                format!("no trailer: {what}; the file is cut off, or these bytes are broken");
            return Err(Finding { at, what });
        }
    };
    match head {
        Ok(head) if head != trailer.head => report.broken(
            0..edge,
            format!("the header says {head:?}, the trailer {:?}", trailer.head),
        ),
        Ok(_) => {}
        Err(Finding { at, what }) => report.broken(at, what),
    }
    let place = place_of(path, &trailer.head);
    report.fact(
        "app",
        place.as_ref().map_or_else(
            || "not known: it is in the key".to_owned(),
            |place| place.app.to_string(),
        ),
    );
    report.fact("shuffle", trailer.head.shuffle);
    report.fact("volume", trailer.head.volume);
    report.fact(
        "generation, number",
        format!("{}, {}", trailer.head.generation, trailer.head.number),
    );
    if let Some(named) = generation_and_number(path)
        && named != (trailer.head.generation, trailer.head.number)
    {
        let what = format!("it lies under the name of generation, number {named:?}");
        report.broken(8..20, what);
    }
    let index = trailer.footer..last.start;
    if !(edge..=index.end).contains(&index.start) {
        let what = format!("the trailer says the footer begins at {}", index.start);
        return Err(Finding { at: last, what });
    }
    let footer = source.read(index.clone())?;
    let footer = Footer::read(&footer, &trailer, index.start).map_err(|what| Finding {
        at: index.clone(),
        what,
    })?;
    look_at_blocks(source, &footer, index, report);
    beside(path, &trailer.head, source, report);
    Ok(())
}

/// Sections with their blocks, and the footer's totals.
fn look_at_blocks(source: &Source, footer: &Footer, index: Range<u64>, report: &mut Report) {
    let mut counted: BTreeMap<Owner, Accumulator> = BTreeMap::new();
    let mut whole = true;
    for section in &footer.sections {
        if let Err(Finding { at, what }) = look_at_section(source, section, &mut counted) {
            report.broken(at, what);
            whole = false;
        }
    }
    let sum = |section: fn(&Section) -> u64| footer.sections.iter().map(section).sum::<u64>();
    let partitions = footer
        .sections
        .chunk_by(|a, b| a.partition == b.partition)
        .count();
    let totals = footer.all_totals();
    let all = |totals: &Totals| totals.sum(&(0..u32::MAX));
    report.fact("sections", footer.sections.len());
    report.fact("partitions", partitions);
    report.fact("attempts", totals.len());
    report.fact("blocks", sum(|section| section.blocks.into()));
    report.fact("bytes", sum(|section| section.data));
    report.fact(
        "records",
        totals
            .iter()
            .map(|(_, totals)| all(totals).records)
            .sum::<u64>(),
    );
    // Unreadable bytes are not counted, and would be told twice.
    if whole {
        let named: Vec<_> = totals.iter().map(|(owner, _)| *owner).collect();
        let there: Vec<_> = counted.keys().copied().collect();
        if named != there {
            let what = "the totals are of other attempts than the blocks";
            report.broken(index.clone(), what);
        }
        for ((map, attempt), totals) in totals {
            let held = counted.get_mut(&(*map, *attempt));
            let held = held.map_or(&[][..], |held| held.totals());
            let said: Vec<_> = totals.entries_from(0).collect();
            if held != said {
                let what =
                    format!("totals of map {map} attempt {attempt} are not those of its blocks");
                report.broken(index.clone(), what);
            }
        }
    }
    let section = |section: &Section| {
        [
            section.offset,
            section.partition.into(),
            section.first_map.into(),
            section.last_map.into(),
            section.blocks.into(),
            section.data,
        ]
        .map(|number| number.to_string())
        .to_vec()
    };
    report.table(
        &[
            "offset",
            "partition",
            "first map",
            "last map",
            "blocks",
            "bytes",
        ],
        footer.sections.iter().map(section),
    );
    let attempt = |(owner, totals): &(Owner, _)| {
        let Sum {
            blocks,
            bytes,
            records,
        } = all(totals);
        let mut row = vec![owner.0.to_string(), owner.1.to_string()];
        row.extend([blocks, bytes, records].map(|number| number.to_string()));
        row
    };
    report.table(
        &["map", "attempt", "blocks", "bytes", "records"],
        totals.iter().map(attempt),
    );
}

fn look_at_section(
    source: &Source,
    section: &Section,
    counted: &mut BTreeMap<Owner, Accumulator>,
) -> Result<(), Finding> {
    // A readable footer has an end.
    let at = section.offset..section.end().unwrap_or(u64::MAX);
    let told = |what: String| Finding {
        at: at.clone(),
        what: format!("section of partition {}: {what}", section.partition),
    };
    if at.end - at.start > LARGEST_SECTION {
        return Err(told(format!("it says it has {} bytes", at.end - at.start)));
    }
    let bytes = Bytes::from(source.read(at.clone())?);
    let blocks = section.blocks(&bytes).map_err(told)?;
    let owner = |block: &shuffle_proto::block::BlockHeader| (block.map_index, block.attempt);
    for of_one in blocks.chunk_by(|(a, _), (b, _)| owner(a) == owner(b)) {
        let headers: Vec<_> = of_one.iter().map(|(header, _)| *header).collect();
        counted.entry(owner(&headers[0])).or_default().add(&headers);
    }
    let order = |block: &shuffle_proto::block::BlockHeader| (owner(block), block.seq);
    if !blocks.is_sorted_by(|(a, _), (b, _)| order(a) < order(b)) {
        return Err(told("its blocks are not in their order".into()));
    }
    Ok(())
}

/// A neighbouring manifest's entry of the object.
fn beside(path: &Path, head: &Head, source: &Source, report: &mut Report) {
    let manifest = path.with_file_name(keys::manifest_name(head.generation));
    let Ok(bytes) = fs::read(&manifest) else {
        report.note(
            "the manifest that names it is not beside it: length and checksum of the whole were not compared with it",
        );
        return;
    };
    let entry = Manifest::read(&bytes).map(|manifest| {
        let entry = manifest
            .objects
            .into_iter()
            .find(|entry| entry.number == head.number);
        entry.filter(|_| manifest.place.volume == head.volume)
    });
    let all = 0..source.length;
    match entry {
        Err(reason) => report.note(format!(
            "{} is broken: {reason}; inspect it",
            manifest.display()
        )),
        Ok(None) => report.note(format!(
            "{} does not name it: nobody reads it",
            manifest.display()
        )),
        Ok(Some(entry)) => {
            report.fact("named by", manifest.display());
            if let Some(later) = replaced_by(&manifest, head.generation) {
                report.fact("replaced by", later.display());
            }
            if let Err(Finding { at, what }) = as_named(source, entry.length, entry.checksum, all) {
                report.broken(at, what);
            }
        }
    }
}

/// The neighbouring manifest that replaces this generation.
fn replaced_by(manifest: &Path, generation: u32) -> Option<PathBuf> {
    let mut later: Vec<_> = fs::read_dir(manifest.parent()?)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "manifest"))
        .collect();
    // By the name's eight nines minus the generation: the last one first.
    later.sort();
    later.into_iter().rev().find(|path| {
        let read = fs::read(path).ok().map(|bytes| Manifest::read(&bytes));
        matches!(read, Some(Ok(manifest)) if manifest.replaces.contains(&generation))
    })
}

fn as_named(source: &Source, length: u64, checksum: u32, at: Range<u64>) -> Result<(), Finding> {
    let what = if source.length != length {
        format!("it has {} bytes, its manifest says {length}", source.length)
    } else {
        match source.checksum()? {
            same if same == checksum => return Ok(()),
            other => {
                format!("checksum of the whole is {other:08x}, its manifest says {checksum:08x}")
            }
        }
    };
    Err(Finding { at, what })
}

/// Examines a manifest, and compares the neighbouring objects with its entries.
pub(super) fn manifest(path: &Path, rows: usize) -> io::Result<Report> {
    let source = Source::open(path)?;
    let mut report = Report::new(rows);
    report.fact("manifest", path.display());
    report.fact("length", source.length);
    let all = 0..source.length;
    let read = source.read(all.clone()).and_then(|bytes| {
        Manifest::read(&bytes).map_err(|what| Finding {
            at: all.clone(),
            what,
        })
    });
    let manifest = match read {
        Ok(manifest) => manifest,
        Err(Finding { at, what }) => {
            report.broken(at, what);
            return Ok(report);
        }
    };
    report.fact("app", &manifest.place.app);
    report.fact("shuffle", manifest.place.shuffle);
    report.fact("volume", manifest.place.volume);
    report.fact("generation", manifest.generation);
    if let [first, .., last] | [first @ last] = &manifest.replaces[..] {
        let count = manifest.replaces.len();
        let text = format!("{count} generations from {first} to {last}");
        report.fact("takes the place of", text);
    }
    report.fact("generations that count", manifest.live.len());
    let carried = manifest.carried.iter().map(|part| part.attempts.len());
    report.fact(
        "carries of others",
        format!(
            "{} attempts of {} generations",
            carried.sum::<usize>(),
            manifest.carried.len()
        ),
    );
    if manifest.base != 0 {
        report.fact("base", manifest.base);
    }
    report.fact("maps of the shuffle", manifest.num_maps);
    report.fact("partitions of the shuffle", manifest.num_partitions);
    report.fact("objects", manifest.objects.len());
    report.fact("attempts", manifest.attempts.len());
    let sum = |field: fn(&Attempt) -> u64| -> u64 { manifest.attempts.iter().map(field).sum() };
    report.fact("bytes", sum(|attempt| attempt.bytes));
    report.fact("records", sum(|attempt| attempt.records));
    let named = |entry: &Entry| {
        let name = keys::object_name(manifest.generation, entry.number, entry.nonce);
        (path.with_file_name(&name), name)
    };
    let mut rows = Vec::new();
    for entry in &manifest.objects {
        let (object, name) = named(entry);
        let found = match Source::open(&object) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => "not beside it".to_owned(),
            Err(error) => error.to_string(),
            Ok(source) => match as_named(&source, entry.length, entry.checksum, all.clone()) {
                Ok(()) => "as named".to_owned(),
                Err(Finding { at, what }) => {
                    report.broken(at, format!("object {name}: {what}"));
                    "broken".to_owned()
                }
            },
        };
        rows.push(vec![
            name,
            format!("{}..={}", entry.first_partition, entry.last_partition),
            entry.length.to_string(),
            format!("crc {:08x}", entry.checksum),
            found,
        ]);
    }
    report.table(
        &["object", "partitions", "bytes", "checksum", "found"],
        rows.into_iter(),
    );
    let attempt = |attempt: &Attempt| {
        vec![
            attempt.owner.0.to_string(),
            attempt.owner.1.to_string(),
            attempt.bytes.to_string(),
            attempt.records.to_string(),
        ]
    };
    report.table(
        &["map", "attempt", "bytes", "records"],
        manifest.attempts.iter().map(attempt),
    );
    Ok(report)
}

/// Looks into the record of an app's lease.
pub(super) fn lease(path: &Path) -> io::Result<Report> {
    let source = Source::open(path)?;
    let mut report = Report::new(0);
    report.fact("lease record", path.display());
    let all = 0..source.length;
    let read = source
        .read(all.clone())
        .and_then(|bytes| Lease::decode(&bytes).map_err(|what| Finding { at: all, what }));
    match read {
        Ok(lease) => {
            report.fact("lease", crate::config::units::show(lease.lease()));
            report.fact("renewals", lease.renewals());
            report.note("it has no date: an app lives as long as its record changes");
        }
        Err(Finding { at, what }) => report.broken(at, what),
    }
    Ok(report)
}

fn block_at<T>(
    source: &Source,
    at: Range<u64>,
    decode: fn(&[u8; HEADER]) -> Result<T, String>,
) -> Result<T, Finding> {
    let bytes = source.read(at.clone())?;
    let decoded = bytes
        .first_chunk()
        .ok_or_else(|| "it is short".to_owned())
        .and_then(decode);
    decoded.map_err(|what| Finding { at, what })
}

/// The place by the path, if the path looks like a key and agrees with the content.
fn place_of(path: &Path, head: &Head) -> Option<Place> {
    let path: PathBuf = path.canonicalize().ok()?;
    let mut names = path.iter().rev().skip(1).map(|name| name.to_str());
    let (volume, shuffle, app) = (names.next()??, names.next()??, names.next()??);
    let place = Place {
        app: AppId::try_new(app)?,
        shuffle: head.shuffle,
        volume: head.volume,
    };
    let lies = volume == head.volume.to_string() && shuffle == head.shuffle.to_string();
    lies.then_some(place)
}

/// The place by the file's name, if the name is one of a store.
fn generation_and_number(path: &Path) -> Option<(u32, u32)> {
    let (generation, number, _) = keys::object_of(path.file_name()?.to_str()?)?;
    Some((generation, number))
}
