//! ARCHITECTURE.md's table of invariants is held against the code: each has a marker there, each
//! marker a row, each test exists.

use std::{collections::BTreeSet, fs, path::Path};

use shuffle_tests::disk;

/// What lies between two of `mark`, of every other piece.
fn quoted(text: &str, mark: char) -> BTreeSet<String> {
    text.split(mark)
        .skip(1)
        .step_by(2)
        .map(Into::into)
        .collect()
}

#[test]
fn every_invariant_is_marked_in_code_and_tested_by_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, section) = text.split_once("\n## Invariants\n").unwrap();
    let rows: Vec<_> = section
        .lines()
        .filter(|line| line.starts_with("| *"))
        .collect();
    assert!(rows.len() >= 10, "{rows:?}");
    let folders = [
        "benches",
        "jvm-bridge",
        "proto",
        "shuffle-client",
        "shuffle-server",
        "tests",
    ];
    let files = folders
        .iter()
        .flat_map(|folder| disk::walk(&root.join(folder)));
    let sources = files.filter(|path| {
        let code = path
            .extension()
            .is_some_and(|it| ["rs", "java", "scala", "py"].iter().any(|code| it == *code));
        code && !path.components().any(|part| part.as_os_str() == "target")
    });
    let code: String = sources
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();

    let marked: BTreeSet<String> = code
        .split("invariant: ")
        .skip(1)
        .map(|rest| {
            rest.split(|c: char| c != '-' && !c.is_ascii_lowercase())
                .next()
                .unwrap_or("")
                .to_owned()
        })
        .filter(|name| name.contains('-'))
        .collect();
    let named: BTreeSet<String> = rows
        .iter()
        .flat_map(|row| quoted(row.split('|').nth(1).unwrap(), '*'))
        .collect();
    assert_eq!(marked, named, "markers in code, and rows of the table");
    for row in &rows {
        let tests = quoted(row.rsplit('|').nth(1).unwrap(), '`');
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            let forms = [
                format!("fn {test}("),
                format!("def {test}("),
                format!("void {test}("),
                format!("class {test} "),
            ];
            let exists = forms.iter().any(|form| code.contains(form));
            assert!(exists, "there is no test {test}: {row}");
        }
    }
}

#[test]
fn every_file_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let server = "shuffle-server/src";
    let folders = [
        "",
        server,
        &format!("{server}/staging"),
        &format!("{server}/staging/write"),
        "shuffle-client/src",
        "shuffle-client/remote/src",
        "jvm-bridge/native/src",
    ];
    let (_, section) = text.split_once("\n## The way of a block\n").unwrap();
    let (section, _) = section.split_once("\n## Invariants\n").unwrap();
    let named = quoted(section, '`');
    let files: Vec<_> = named.iter().filter(|it| it.ends_with(".rs")).collect();
    assert!(files.len() >= 30, "{files:?}");
    for file in files {
        let exists = folders
            .iter()
            .any(|folder| root.join(folder).join(file).is_file());
        assert!(exists, "there is no {file}");
    }
}
