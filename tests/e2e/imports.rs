//! Holds the code's imports against ARCHITECTURE.md's pictures of floors: no module imports a
//! higher one.
//!
//! A picture is a fenced block with the first line `floors <folder>`: a line per floor, from the
//! highest to the lowest, with the folder's modules on that floor, and behind two spaces their
//! purpose. Modules of one floor do not import each other either. Definitions in the folder's own
//! `mod.rs` are the ground under all floors. Tests are left out: they may look at everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use shuffle_tests::disk;

/// A module, as its path from the root of the crate.
type Module = Vec<String>;

/// A crate's modules, each with its code.
struct Sources {
    modules: BTreeMap<Module, String>,
}

/// One picture.
struct Floors {
    /// The folder's module.
    root: Module,
    /// From the highest to the lowest.
    lines: Vec<Vec<String>>,
}

impl Floors {
    fn of(&self, name: &str) -> Option<usize> {
        let holds = |line: &Vec<String>| line.iter().any(|one| one == name);
        self.lines.iter().position(holds)
    }
}

fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

/// The pictures of a document, each with its folder.
fn pictures(text: &str) -> Vec<(String, Vec<Vec<String>>)> {
    let blocks = text.split("\n```floors ").skip(1);
    blocks
        .map(|block| {
            let (block, _) = block.split_once("\n```").unwrap();
            let (folder, lines) = block.split_once('\n').unwrap();
            let names = |line: &str| {
                let names = line.split("  ").next().unwrap_or_default();
                names.split_whitespace().map(Into::into).collect()
            };
            (folder.to_owned(), lines.lines().map(names).collect())
        })
        .collect()
}

/// Code without comments, strings and tests.
fn bare(text: &str) -> String {
    let tests = [
        "#[cfg(test)]\nmod tests",
        "#[cfg(test)]\npub(crate) mod tests",
    ];
    let end = tests.iter().filter_map(|mark| {
        // Only a module with a body ends the code: it is the last thing in a file.
        let at = text.find(mark)?;
        let line = text[at + mark.len()..].lines().next()?;
        line.ends_with('{').then_some(at)
    });
    let text = &text[..end.min().unwrap_or(text.len())];
    let mut code = String::new();
    for line in text.lines() {
        let mut quoted = false;
        let mut before = ' ';
        for (at, char) in line.char_indices() {
            if !quoted && line[at..].starts_with("//") {
                break;
            }
            if char == '"' && before != '\\' && before != '\'' {
                quoted = !quoted;
            } else if !quoted {
                code.push(char);
            }
            before = char;
        }
        code.push('\n');
    }
    code
}

/// All paths that begin with `crate`, `super` or `self`, with each branch of a tree of them.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if !before.is_alphanumeric() && before != '_' && before != ':' {
                branches(&code[at..], &mut Vec::new(), &mut found);
            }
        }
    }
    found
}

/// Reads one path, or a tree of paths; returns the text behind it.
fn branches<'a>(
    mut rest: &'a str,
    prefix: &mut Vec<String>,
    found: &mut Vec<Vec<String>>,
) -> &'a str {
    let length = prefix.len();
    loop {
        rest = rest.trim_start();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside.trim_start();
            while !rest.starts_with('}') {
                let behind = branches(rest, prefix, found);
                assert!(behind.len() < rest.len(), "{rest:.80}");
                rest = behind.trim_start().trim_start_matches(',').trim_start();
            }
            rest = &rest[1..];
            break;
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*');
        let (name, behind) = rest.split_at(end.unwrap_or(rest.len()));
        prefix.push(name.to_owned());
        rest = behind;
        match rest.trim_start().strip_prefix("::") {
            // Arguments of a type end a path.
            Some(more) if !more.starts_with('<') => rest = more,
            _ => {
                found.push(prefix.clone());
                break;
            }
        }
    }
    prefix.truncate(length);
    // A name that is given to what is imported.
    let behind = rest.trim_start().strip_prefix("as ").map(str::trim_start);
    behind.map_or(rest, |behind| {
        let end = behind.find(|c: char| !c.is_alphanumeric() && c != '_');
        &behind[end.unwrap_or(behind.len())..]
    })
}

impl Sources {
    /// Of the crate whose code is in `src`, without its tests.
    fn read(src: &Path) -> Self {
        let mut modules = BTreeMap::new();
        for path in disk::walk(src) {
            let inside = path.strip_prefix(src).unwrap().with_extension("");
            let mut module: Module = inside
                .iter()
                .map(|part| part.to_str().unwrap().to_owned())
                .collect();
            let is_code = path.extension().is_some_and(|extension| extension == "rs");
            if !is_code || module.iter().any(|part| part == "tests") {
                continue;
            }
            if ["mod", "lib"].contains(&module.last().unwrap().as_str()) {
                module.pop();
            }
            modules.insert(module, bare(&fs::read_to_string(&path).unwrap()));
        }
        Self { modules }
    }

    /// The innermost module that a path leads to from within a module, and the first name behind
    /// it.
    fn resolve(&self, from: &Module, path: &[String]) -> (Module, Option<String>) {
        let mut names = path;
        let mut at = match names[0].as_str() {
            "crate" => Module::new(),
            _ => from.clone(),
        };
        while let Some(first) = names.first() {
            match first.as_str() {
                "crate" | "self" => {}
                "super" => drop(at.pop()),
                _ => break,
            }
            names = &names[1..];
        }
        while let Some(name) = names.first() {
            at.push(name.clone());
            if !self.modules.contains_key(&at) {
                at.pop();
                break;
            }
            names = &names[1..];
        }
        let behind = names.first().filter(|name| *name != "self" && *name != "*");
        // What a module only passes on is where it comes from.
        if let Some(name) = behind
            && let Some(origin) = self.passed_on(&at, name)
        {
            return (origin, None);
        }
        (at, behind.cloned())
    }

    /// Where a name is from that a module makes public by `pub use`.
    fn passed_on(&self, module: &Module, name: &str) -> Option<Module> {
        let code = self.modules.get(module)?;
        for (at, mark) in code.match_indices("pub use ") {
            let mut found = Vec::new();
            branches(&code[at + mark.len()..], &mut Vec::new(), &mut found);
            let passed = |path: &&Vec<String>| path.last().is_some_and(|last| last == name);
            if let Some(path) = found.iter().find(passed) {
                let from_here = [vec!["self".to_owned()], path.clone()].concat();
                let (origin, _) = self.resolve(module, &from_here);
                return (origin != *module).then_some(origin);
            }
        }
        None
    }

    /// The modules that a module imports.
    fn imports(&self, module: &Module) -> BTreeSet<Module> {
        let paths = paths(&self.modules[module]);
        let resolved = paths.iter().map(|path| self.resolve(module, path).0);
        resolved.filter(|to| to != module).collect()
    }
}

/// What a picture says and the code does not do.
fn violations(sources: &Sources, floors: &Floors) -> Vec<String> {
    let depth = floors.root.len();
    let inside = |module: &Module| module.starts_with(&floors.root) && module.len() > depth;
    let top = |module: &Module| module[depth].clone();
    let mut found = Vec::new();
    let there: BTreeSet<String> = sources
        .modules
        .keys()
        .filter(|m| inside(m))
        .map(top)
        .collect();
    let drawn: BTreeSet<String> = floors.lines.iter().flatten().cloned().collect();
    for name in there.symmetric_difference(&drawn) {
        found.push(format!("{name} is not both in the picture and in the code"));
    }
    for module in sources.modules.keys().filter(|module| inside(module)) {
        for to in sources.imports(module).iter().filter(|to| inside(to)) {
            let (mine, its) = (top(module), top(to));
            let lower = floors.of(&mine) >= floors.of(&its);
            if mine != its && lower {
                found.push(format!("{} imports {}", module.join("::"), to.join("::")));
            }
        }
    }
    found
}

/// A circle of modules that import each other, without arrows between parents and their children:
/// those are one thing in several files.
fn circle(sources: &Sources, root: &Module) -> Option<Vec<String>> {
    let related = |a: &Module, b: &Module| a.starts_with(b) || b.starts_with(a);
    let mut left: BTreeMap<&Module, BTreeSet<Module>> = BTreeMap::new();
    for module in sources.modules.keys().filter(|m| m.starts_with(root)) {
        let imports = sources.imports(module).into_iter();
        left.insert(module, imports.filter(|to| !related(module, to)).collect());
    }
    loop {
        let known: BTreeSet<Module> = left.keys().map(|module| (*module).clone()).collect();
        let free = left.iter().find(|(_, to)| to.is_disjoint(&known));
        let Some(module) = free.map(|(module, _)| *module) else {
            let names = left.keys().map(|module| module.join("::"));
            return (!left.is_empty()).then(|| names.collect());
        };
        left.remove(module);
    }
}

#[test]
fn no_module_imports_what_stands_higher_in_the_pictures() {
    let root = repository();
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let pictures = pictures(&text);
    assert!(
        !pictures.is_empty(),
        "ARCHITECTURE.md has no picture of floors"
    );
    for (folder, lines) in pictures {
        let (src, inside) = folder.split_once("/src").unwrap();
        let sources = Sources::read(&root.join(src).join("src"));
        let names = inside.split('/').filter(|name| !name.is_empty());
        let floors = Floors {
            root: names.map(Into::into).collect(),
            lines,
        };
        let wrong = violations(&sources, &floors);
        assert!(wrong.is_empty(), "{folder}:\n{}", wrong.join("\n"));
        if !floors.root.is_empty() {
            assert_eq!(circle(&sources, &floors.root), None, "{folder}: a circle");
        }
    }
}

#[test]
fn an_import_from_below_is_found_however_it_is_written() {
    let code = |text: &str| bare(text);
    let sources = |low: &str| Sources {
        modules: [
            (vec![], code("pub mod high; pub mod low;")),
            (
                vec!["high".into()],
                code("pub use inner::Thing; use crate::low::Small;"),
            ),
            (
                vec!["high".into(), "inner".into()],
                code("pub struct Thing;"),
            ),
            (vec!["low".into()], code(low)),
        ]
        .into(),
    };
    let floors = Floors {
        root: vec![],
        lines: vec![vec!["high".into()], vec!["low".into()]],
    };
    for low in [
        "",
        "// use crate::high::Thing;",
        "const TEXT: &str = \"crate::high\";",
        "#[cfg(test)]\nmod tests {\n    use crate::high::Thing;\n}",
    ] {
        assert!(violations(&sources(low), &floors).is_empty(), "{low}");
    }
    for low in [
        "use crate::high::Thing;",
        "use crate::{low::Small, high::{self as other, Thing}};",
        "use super::high;",
        "fn small() -> crate::high::inner::Thing { todo!() }",
    ] {
        assert!(!violations(&sources(low), &floors).is_empty(), "{low}");
    }
}
