//! `forebay inspect`: prints a report, then what is wrong.

use std::path::Path;

use super::{End, Kind, complain, objects, say, segments, usage};

pub(super) fn run(kind: Kind, file: &Path, rows: usize) -> End {
    let looked = match kind {
        Kind::Segment => segments::segment(file, rows),
        Kind::Log => segments::log(file, rows),
        Kind::Object => objects::object(file, rows),
        Kind::Manifest => objects::manifest(file, rows),
        Kind::Lease => objects::lease(file),
    };
    let report = match looked {
        Ok(report) => report,
        Err(error) => return usage(format!("file is {}: {error}", file.display())),
    };
    say(report.to_string());
    if report.is_good() {
        say("\ngood: every checksum fits\n");
        return End::Good;
    }
    for finding in report.findings() {
        let (begin, end) = (finding.at.start, finding.at.end);
        complain(format!(
            "broken: {} bytes {begin}..{end}: {}",
            file.display(),
            finding.what
        ));
    }
    if report.more() > 0 {
        complain(format!("broken: and {} more", report.more()));
    }
    End::Bad
}
