//! Opening a volume, and what becomes of one that cannot be opened as it should.
//!
//! | what is wrong | what is opened |
//! |---|---|
//! | no space for the index | all that it has, for reading; it is full, and takes attempts when there is space |
//! | its file system, or its index, takes no writes | all that it has, for reading; it is out of service |
//! | anything else | nothing: with [`Volume::open_or_broken`] a volume that is out of service and says why |
//!
//! One bad disk is one bad disk: whether the others are enough to serve is for the server to say.

use std::{
    fs::{self, File},
    path::Path,
    sync::{
        Arc, OnceLock,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use parking_lot::Mutex;
use shuffle_proto::ids::VolumeId;

use crate::{
    index::{self, MemoryIndex, RocksIndex},
    staging::{
        disk::{Disk, Place, index::WatchedIndex, operation::Operation},
        error::Error,
        files::{
            ballast::Ballast,
            directory::{check_mounted, identity, known_id, lock, note_mount},
        },
        options::{Components, Options},
        recover::{self, Recovered},
        state::{
            health::at_start,
            names::Names,
            shared::{self, Shared},
        },
        volume::{CALL_POLL_INTERVAL, Handle, Volume},
        words::Health,
        write::{commit_log::Logs, remover, writer},
    },
};

/// The least that a call may take at the start: the index is opened in one.
const PATIENCE: Duration = Duration::from_secs(5);

impl Volume {
    /// Opens a data directory, or makes one. Blocking: loads all records of the index, and removes
    /// files that no record names.
    pub fn open(dir: &Path, options: Options, components: Components) -> Result<Self, Error> {
        let disk = Arc::new(Disk::new(components.faults.clone(), options.slow));
        open(&disk, dir, options, components, &OnceLock::new())
    }

    /// Opens one of several volumes. A directory that cannot be opened, or whose disk does not
    /// answer, becomes an empty volume that is out of service, under the id in its file `volume` if
    /// that can be read.
    pub fn open_or_broken(dir: &Path, options: Options, components: Components) -> Self {
        let disk = Arc::new(Disk::new(components.faults.clone(), options.slow));
        let patience = PATIENCE.max(3 * options.slow);
        let id = Arc::new(OnceLock::new());
        let (reply, receiver) = mpsc::channel();
        let spawned = std::thread::Builder::new()
            .name("forebay-open".into())
            .spawn({
                let (disk, dir, id) = (disk.clone(), dir.to_owned(), id.clone());
                let (options, components) = (options.clone(), components.clone());
                move || {
                    let opened = open(&disk, &dir, options, components, &id).map_err(|error| {
                        if let Some(known) = known_id(&dir) {
                            let _ = id.set(known);
                        }
                        let health = at_start(&disk, &dir, &error);
                        (health, disk.place(&dir).ok())
                    });
                    // Who asked may have given up; the volume is closed again then.
                    let _ = reply.send(opened);
                }
            });
        let (health, place) = match spawned {
            Err(error) => (
                Health::failing(format!("no thread to open it: {error}")),
                None,
            ),
            Ok(_) => loop {
                match receiver.recv_timeout(CALL_POLL_INTERVAL) {
                    Ok(Ok(volume)) => return volume,
                    Ok(Err(broken)) => break broken,
                    Err(RecvTimeoutError::Timeout) => {
                        if let Some(call) = disk.watch.overdue_by(patience) {
                            break (Health::failing(call), None);
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        let bug = "opening it has panicked, which is a bug of this server";
                        break (Health::failing(bug), None);
                    }
                }
            },
        };
        let id = id.get().copied();
        broken(dir, (id, place), health, options, components)
    }

    /// Whether it was opened, if only for reading.
    pub fn is_open(&self) -> bool {
        self.0.shared.is_open()
    }
}

fn open(
    disk: &Arc<Disk>,
    dir: &Path,
    options: Options,
    components: Components,
    seen: &OnceLock<VolumeId>,
) -> Result<Volume, Error> {
    let (lock, (id, new)) = {
        let _running = disk.watch.begin(Operation::Open, dir);
        check_mounted(dir)?;
        (lock(dir)?, identity(dir)?)
    };
    let _ = seen.set(id);
    let space = disk.space(dir)?;
    let made = make_directories(disk, dir)?;
    let ballast = Ballast::open(disk, dir, &options, space);
    let (index, found, health) = open_index(disk, dir, new)?;
    if made && !space.read_only {
        // What is synced below them is of no use without their names.
        disk.sync_dir(dir)?;
    }
    if health == Health::Ok {
        let _running = disk.watch.begin(Operation::Open, dir);
        note_mount(dir, id);
    }
    let opened = shared::Opened {
        id,
        dir: dir.into(),
        lock: Some(lock),
        index: Box::new(index),
        times: found.times,
        names: found.names,
        used: found.used,
        place: disk
            .place(dir)
            .map_err(|source| Error::io("look at", dir, source))?,
        free: disk.space(dir)?.free,
        ballast,
    };
    let shared = Arc::new(Shared::new(opened, options, components, disk.clone()));
    let missing = shared.ballast.missing();
    if health != Health::Ok {
        shared.worsen(health);
    } else if missing > 0 && shared.free() < missing + shared.enough() {
        let free = shared.free();
        shared.worsen(Health::full(format!(
            "{free} bytes are free, of which {missing} are kept for the index"
        )));
    }
    found
        .waste
        .into_iter()
        .for_each(|waste| shared.trash.put(waste));
    start(shared, Logs::recovered(found.logs))
}

/// Makes the subdirectories that are missing; returns whether there were any.
fn make_directories(disk: &Disk, dir: &Path) -> Result<bool, Error> {
    let _running = disk.watch.begin(Operation::Open, dir);
    let mut made = false;
    for name in ["apps", "log", "trash"] {
        let path = dir.join(name);
        if !path.is_dir() {
            fs::create_dir_all(&path).map_err(|source| Error::io("create", path, source))?;
            made = true;
        }
    }
    Ok(made)
}

/// The index and what it has: for reading and writing if that can be, else for reading.
fn open_index(
    disk: &Arc<Disk>,
    dir: &Path,
    new: bool,
) -> Result<(WatchedIndex, Recovered, Health), Error> {
    let path = dir.join("index");
    let writable = || -> Result<_, Error> {
        let index = WatchedIndex::open(disk, &path)?;
        let found = recover::recover(dir, &index, disk, new, true)?;
        Ok((index, found))
    };
    let salvaged = || -> Result<_, Error> {
        let _running = disk.watch.begin(Operation::Index, &path);
        RocksIndex::salvage(&path)?;
        writable()
    };
    let opened = match writable() {
        // invariant: one-bit-one-map. An unreadable part of the index costs the records in it, and
        // not the volume.
        Err(Error::Index(index::Error::Unreadable { .. })) => salvaged(),
        opened => opened,
    };
    let error: Error = match opened {
        Ok((index, found)) => return Ok((index, found, Health::Ok)),
        Err(error) => error,
    };
    let is_of_the_disk = matches!(
        &error,
        Error::Index(index::Error::Store { .. }) | Error::Io { .. }
    );
    if new || !is_of_the_disk {
        return Err(error);
    }
    let health = at_start(disk, dir, &error);
    let readable = || -> Result<_, Error> {
        let index = WatchedIndex::open_read_only(disk, &path)?;
        let found = recover::recover(dir, &index, disk, new, false)?;
        Ok((index, found))
    };
    let Ok((index, mut found)) = readable() else {
        return Err(error);
    };
    if matches!(health, Health::Full(_)) {
        index.write_first(std::mem::take(&mut found.changes));
    }
    Ok((index, found, health))
}

/// Starts the threads of the volume.
fn start(shared: Arc<Shared>, logs: Logs) -> Result<Volume, Error> {
    let weak = Arc::downgrade(&shared);
    shared.budget.on_pressure(move || {
        if let Some(shared) = weak.upgrade() {
            shared.wake();
        }
    });
    let thread = |name: &str, what: Box<dyn FnOnce() + Send>| {
        let spawned = std::thread::Builder::new().name(name.into()).spawn(what);
        spawned.map_err(|source| Error::io("start a thread of", &shared.dir, source))
    };
    let writer = thread("forebay-writer", {
        let shared = shared.clone();
        Box::new(move || writer::run(&shared, logs))
    })?;
    let (alive, over) = mpsc::channel();
    let warden = thread("forebay-warden", {
        let shared = shared.clone();
        Box::new(move || shared.guard(&over))
    })?;
    let remover = thread("forebay-remover", {
        let shared = shared.clone();
        Box::new(move || remover::clear_away(&shared))
    })?;
    shared.wake();
    Ok(Volume(Arc::new(Handle {
        shared,
        writer: Mutex::new(Some(writer)),
        warden: Mutex::new(Some((alive, warden))),
        remover: Mutex::new(Some(remover)),
        blocking_calls: Arc::default(),
    })))
}

/// A volume that is out of service from the start.
fn broken(
    dir: &Path,
    (id, place): (Option<VolumeId>, Option<Place>),
    health: Health,
    options: Options,
    components: Components,
) -> Volume {
    // Not that of the attempt to open it, which may hang for ever.
    let disk = Arc::new(Disk::new(components.faults.clone(), options.slow));
    let opened = shared::Opened {
        // Nobody knows of one that cannot be read; none is like any other's.
        id: id.unwrap_or_else(VolumeId::random),
        dir: dir.into(),
        lock: None::<File>,
        index: Box::new(MemoryIndex::default()),
        times: 0,
        names: Names::default(),
        used: 0,
        place: place.unwrap_or_default(),
        free: 0,
        ballast: Ballast::none(),
    };
    let shared = Arc::new(Shared::new(opened, options, components, disk));
    shared.worsen(health);
    shared.close();
    Volume(Arc::new(Handle {
        shared,
        writer: Mutex::default(),
        warden: Mutex::default(),
        remover: Mutex::default(),
        blocking_calls: Arc::default(),
    }))
}
