//! Real disks that fail on command: ext4 on a loop device over `nbdkit`'s memory. Writes or reads
//! of the device can be made to fail (EIO), the device to hang and to go on, to vanish, and the
//! file system to declare itself broken.
//!
//! ```text
//! ext4 on mnt/ ─▶ /dev/loopN ─▶ fuse/disk (nbdfuse) ─▶ socket ─▶ nbdkit: memory, and errors while a trigger file is there
//! ```
//!
//! Needs root, and `setup.sh --disks`; [`Shaky::mount`] names missing parts on standard error, past
//! the capture of test output, and the test is skipped. Everything goes with the drop. After a kill
//! of the test the device fails at once, because both processes die with it; left mounts carry the
//! test's process id in their names, and the next [`Shaky::mount`] removes them.
//!
//! A process in a wait for a hanging device cannot be killed, so keep the [`Hang`] in a variable
//! below the server's: it is dropped first.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    fs::{Advice, fadvise},
    process::{Signal, kill_process},
};

use crate::server::{mortal, pid};

const PREFIX: &str = "forebay-disk-";
/// A busy machine gets this long for what takes a moment.
const START: Duration = Duration::from_secs(60);

/// See the module.
pub struct Shaky {
    root: PathBuf,
    /// `/dev/loopN`.
    device: PathBuf,
    processes: Vec<Child>,
    mounted: bool,
}

/// While it lives, no call of the device comes back.
pub struct Hang<'a>(&'a Shaky);

impl Shaky {
    /// An empty file system of this many MiB.
    pub fn mount(mib: u32) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if let Some(missing) = missing() {
            crate::skipped(&format!("no disk that fails: {missing}"));
            return None;
        }
        sweep();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", std::process::id());
        let root = std::env::temp_dir().join(name);
        for dir in ["fuse", "mnt"] {
            fs::create_dir_all(root.join(dir)).expect("a directory can be made");
        }
        let mut disk = Self {
            device: PathBuf::new(),
            processes: Vec::new(),
            mounted: false,
            root,
        };
        disk.start(mib);
        Some(disk)
    }

    fn start(&mut self, mib: u32) {
        let at = |name: &str| self.root.join(name);
        let mut nbdkit = mortal(&find("nbdkit"));
        nbdkit
            .args(["-f", "--filter=error", "--unix"])
            .arg(at("socket"));
        nbdkit.args(["memory", &format!("{mib}M")]);
        for (call, trigger) in [
            ("pread", "fail-reads"),
            ("pwrite", "fail-writes"),
            ("zero", "fail-writes"),
            ("trim", "fail-writes"),
        ] {
            nbdkit.arg(format!("error-{call}=EIO"));
            nbdkit.arg(format!("error-{call}-rate=100%"));
            nbdkit.arg(format!("error-{call}-file={}", at(trigger).display()));
        }
        let nbdkit = spawn(nbdkit, &at("nbdkit.log"));
        self.processes.push(nbdkit);
        self.until_there("socket");
        let mut nbdfuse = mortal(&find("nbdfuse"));
        nbdfuse.arg(self.root.join("fuse/disk"));
        nbdfuse.arg("--unix").arg(self.root.join("socket"));
        let nbdfuse = spawn(nbdfuse, &self.root.join("nbdfuse.log"));
        self.processes.push(nbdfuse);
        self.until_there("fuse/disk");
        let file = self.root.join("fuse/disk");
        // Past the page cache of that file: what the device does is to be seen at once.
        let device = run("losetup", &["--find", "--show", "--direct-io=on"], &[&file]);
        self.device = device.expect("a loop device is free").trim().into();
        let made = run(
            "mkfs.ext4",
            &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            &[&self.device],
        );
        made.expect("a file system can be made");
        let mount = run(
            "mount",
            &["-o", "errors=remount-ro"],
            &[&self.device, &self.path()],
        );
        mount.expect("a file system can be mounted");
        self.mounted = true;
        // From now on it goes with the mount, however that ends.
        run("losetup", &["--detach"], &[&self.device]).expect("a loop device can be told to end");
    }

    fn until_there(&mut self, name: &str) {
        let begin = Instant::now();
        while !self.root.join(name).exists() {
            assert!(
                begin.elapsed() < START,
                "{name} does not appear\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn logs(&self) -> String {
        ["nbdkit.log", "nbdfuse.log"]
            .map(|name| fs::read_to_string(self.root.join(name)).unwrap_or_default())
            .join("\n")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.root.join("mnt")
    }

    /// Whether its file system takes no writes any more, by what the kernel says.
    pub fn is_read_only(&self) -> bool {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let path = self.path();
        let mut lines = mounts.lines().map(|line| line.split(' '));
        let options = lines.find_map(|mut fields| {
            (fields.nth(1) == path.to_str())
                .then(|| fields.nth(1))
                .flatten()
        });
        options.is_some_and(|options| {
            options
                .split(',')
                .any(|option| option == "ro" || option == "emergency_ro")
        })
    }

    /// Writes of the device fail, or do not any more.
    pub fn fail_writes(&self, on: bool) {
        self.trigger("fail-writes", on);
    }

    /// Reads of the device fail, or do not any more.
    pub fn fail_reads(&self, on: bool) {
        self.trigger("fail-reads", on);
    }

    fn trigger(&self, name: &str, on: bool) {
        let path = self.root.join(name);
        if on {
            fs::write(path, "").expect("a trigger can be set");
        } else {
            fs::remove_file(path).expect("a trigger was set");
        }
    }

    /// From now on no call of the device comes back.
    pub fn hang(&self) -> Hang<'_> {
        self.signal(Signal::STOP);
        Hang(self)
    }

    /// The device is gone for good.
    pub fn vanish(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if let Some(nbdkit) = self.processes.first() {
            let _ = kill_process(pid(nbdkit), signal);
        }
    }

    /// Breaks the file system, as if it had met nonsense on its disk: it takes no writes from then
    /// on.
    pub fn find_broken(&self) {
        let name = self.device.file_name().expect("a device has a name");
        let trigger = Path::new("/sys/fs/ext4")
            .join(name)
            .join("trigger_fs_error");
        fs::write(trigger, "1").expect("ext4 can be told that it is broken");
    }

    /// Takes the disk from its path, like the unmount of a disk in use.
    pub fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            let _ = run("umount", &["--lazy"], &[&self.path()]);
        }
    }

    /// Makes the next reads of all its files come from the device.
    pub fn forget_pages(&self) {
        for path in crate::disk::walk(&self.path()) {
            if let Ok(file) = fs::File::open(&path) {
                let _ = file.sync_all();
                let _ = fadvise(&file, 0, None, Advice::DontNeed);
            }
        }
    }
}

impl Drop for Hang<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

impl Drop for Shaky {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        self.unmount();
        for mut process in self.processes.drain(..).rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = run("umount", &["--lazy"], &[&self.root.join("fuse")]);
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// What this machine lacks.
fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root can mount one");
    }
    if !Path::new("/dev/fuse").exists() || !Path::new("/dev/loop-control").exists() {
        return Some("there are no /dev/fuse and /dev/loop-control here");
    }
    let tools = ["nbdkit", "nbdfuse", "mkfs.ext4", "losetup", "mount"];
    (!tools.into_iter().all(|name| find(name).exists()))
        .then_some("nbdkit, nbdfuse, mkfs.ext4 or losetup is not installed: ./setup.sh --disks")
}

/// Where distributions put it; some keep tools of root's apart.
fn find(program: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let mut places = places.iter().map(|dir| Path::new(dir).join(program));
    places
        .find(|path| path.exists())
        .unwrap_or_else(|| program.into())
}

/// Removes what tests that were killed have left.
fn sweep() {
    let temporary = std::env::temp_dir();
    let orphaned = |name: &str| {
        let owner = name.strip_prefix(PREFIX)?.split('-').next()?;
        let alive = Path::new("/proc").join(owner).exists();
        (!alive).then(|| temporary.join(name))
    };
    for entry in fs::read_dir(&temporary).into_iter().flatten().flatten() {
        if let Some(root) = entry.file_name().to_str().and_then(orphaned) {
            for mount in ["mnt", "fuse"] {
                let _ = run("umount", &["--lazy"], &[&root.join(mount)]);
            }
            let _ = fs::remove_dir_all(root);
        }
    }
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let log = fs::File::create(log).expect("a log file can be made");
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log file can be shared"))
        .stderr(log);
    command.spawn().expect("a program can be started")
}

/// The program's output; an error with its complaint if it fails.
fn run(program: &str, args: &[&str], paths: &[&Path]) -> Result<String, String> {
    let output = Command::new(find(program)).args(args).args(paths).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!(
            "{program} {args:?} {paths:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
