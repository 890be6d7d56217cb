//! `forebay demo`: hands over to the Python package around this program, since Spark is driven from
//! there.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use super::{End, bad};

/// Becomes Python; returns only with an obstacle.
pub(super) fn run(options: &[OsString]) -> End {
    let Some(python) = python() else {
        return bad(
            "no Python beside this program, nor on the PATH, has the package forebay: install it with pip install 'forebay[demo]'",
        );
    };
    let error = Command::new(&python)
        .args(["-m", "forebay.demo"])
        .args(options)
        .exec();
    bad(format!("start {}: {error}", python.display()))
}

/// The interpreter with this package. In a virtual environment it is beside the program.
fn python() -> Option<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .map(|me| me.with_file_name("python3"));
    beside.into_iter().chain(["python3".into()]).find(|python| {
        Command::new(python)
            .args(["-c", "import forebay.demo"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}
