//! What an error of the system says of the disk: the table from error numbers to conclusions.

use std::io;

use rustix::io::Errno;

use crate::staging::error::Error;

/// What an error of the system says of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing: it is about this process' limits.
    None,
    /// Nothing: this process, or the machine, has no files left.
    Files,
    /// No space.
    Full,
    /// The file system takes no writes.
    ReadOnly,
    /// The device or the directory is gone.
    Removed,
    /// The device fails.
    Failing,
    /// Something else, which may well be about one file.
    Other,
}

/// What an error says of the disk.
pub(crate) fn trouble(error: &io::Error) -> Trouble {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw_os_error) else {
        return match error.kind() {
            io::ErrorKind::StorageFull => Trouble::Full,
            _ => Trouble::Other,
        };
    };
    match errno {
        Errno::MFILE | Errno::NFILE => Trouble::Files,
        Errno::NOMEM => Trouble::None,
        Errno::NOSPC | Errno::DQUOT => Trouble::Full,
        Errno::ROFS => Trouble::ReadOnly,
        // The last three: a file system that is a process, or another machine, which has gone.
        Errno::NODEV
        | Errno::NXIO
        | Errno::NOMEDIUM
        | Errno::NOTCONN
        | Errno::SHUTDOWN
        | Errno::STALE => Trouble::Removed,
        Errno::IO | Errno::UCLEAN | Errno::REMOTEIO | Errno::TIMEDOUT => Trouble::Failing,
        _ => Trouble::Other,
    }
}

/// Whether a failure is about this process' limits and says nothing of the file.
pub(crate) fn passes(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => matches!(trouble(source), Trouble::None | Trouble::Files),
        _ => false,
    }
}
