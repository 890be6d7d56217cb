//! `forebay jar`: the place of the plugin for Spark, and a copy of it: the server's image delivers
//! the plugin as an init container.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{End, bad, say};

pub(super) const NAME: &str = "forebay-spark.jar";
pub(super) const MISSING: &str = "forebay-spark.jar is not beside this program: images, wheels and archives of a release have it, and `make dist` makes it";

/// Places of the jar, relative to the program: wheels and archives, `dist/`, the checkout; and the
/// images.
const PLACES: [&str; 5] = [
    "../share/forebay/forebay-spark.jar",
    "forebay-spark.jar",
    "../forebay-spark.jar",
    "../../jvm-bridge/target/forebay-spark.jar",
    "/usr/share/forebay/forebay-spark.jar",
];

/// Copies the jar to a directory or a file, or prints its place.
pub(super) fn run(to: Option<&Path>) -> End {
    let Some(jar) = find() else {
        return bad(MISSING);
    };
    match to {
        None => {
            say(format!("{}\n", jar.display()));
            End::Good
        }
        Some(to) => match copy(&jar, to) {
            Ok(copy) => {
                say(format!("{}\n", copy.display()));
                End::Good
            }
            Err(error) => bad(format!(
                "copy {} to {}: {error}",
                jar.display(),
                to.display()
            )),
        },
    }
}

/// The jar delivered with this program.
pub(super) fn find() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    PLACES
        .iter()
        .map(|place| folder.join(place))
        .find(|jar| jar.is_file())
        .map(|jar| fs::canonicalize(&jar).unwrap_or(jar))
}

/// Whole or not at all: a process waiting for the file never reads half of it. Readable by
/// everyone, since Spark is often another user.
fn copy(jar: &Path, to: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let to = if to.is_dir() {
        to.join(NAME)
    } else {
        to.to_owned()
    };
    if to.extension().is_none_or(|extension| extension != "jar") {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "it is no directory: name one that is there, or a file that ends in .jar",
        ));
    }
    let fresh = to.with_extension(format!("jar.{}", std::process::id()));
    let copied = fs::copy(jar, &fresh)
        .and_then(|_| fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&fresh, &to));
    match copied {
        Ok(()) => Ok(to),
        Err(error) => {
            let _ = fs::remove_file(&fresh);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gets_the_jar_under_its_own_name_and_a_file_under_that_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let jar = folder.path().join("from.jar");
        fs::write(&jar, b"classes").expect("written");
        let target = folder.path().join("target");
        fs::create_dir(&target).expect("made");
        for _ in 0..2 {
            assert_eq!(copy(&jar, &target).expect("copied"), target.join(NAME));
        }
        let named = target.join("other.jar");
        assert_eq!(copy(&jar, &named).expect("copied"), named);
        assert_eq!(fs::read(&named).expect("read"), b"classes");
        assert_eq!(fs::read_dir(&target).expect("listed").count(), 2);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named_and_not_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let jar = folder.path().join("from.jar");
        fs::write(&jar, b"classes").expect("written");
        let error = copy(&jar, &folder.path().join("none")).expect_err("refused");
        assert!(error.to_string().contains("no directory"), "{error}");
        assert!(copy(&jar, &folder.path().join("none/x.jar")).is_err());
    }
}
