//! Small, read-only and faulty disks, and disks that lose their power. Without root these are
//! [`skipped`].

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::skipped;

/// All files below a directory, in order; none if it is not there.
pub fn walk(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => todo.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

/// A file system in memory, unmounted when dropped.
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts a file system of this many KiB; [`skipped`], and `None`, where mounting is not
    /// allowed.
    pub fn mount(path: PathBuf, kib: u64) -> Option<Self> {
        fs::create_dir_all(&path).expect("a mount point can be made");
        let options = format!("size={kib}k");
        let args = ["-t", "tmpfs", "-o", &options, "tmpfs"];
        needed("mount", &args, &path).then_some(Self { path })
    }

    /// Makes it read-only or writable again.
    pub fn read_only(&self, on: bool) -> bool {
        run(
            "mount",
            &["-o", if on { "remount,ro" } else { "remount,rw" }],
            &self.path,
        )
    }

    /// Changes its size.
    pub fn resize(&self, kib: u64) -> bool {
        run(
            "mount",
            &["-o", &format!("remount,size={kib}k")],
            &self.path,
        )
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazy: a server that is still dying keeps it for a moment.
        run("umount", &["-l"], &self.path);
    }
}

/// An overlay of directories, as a container's own file system is one; unmounted when dropped.
pub struct Overlay {
    path: PathBuf,
    /// Writes go to memory: the layers of an overlay in a container cannot lie in that container's
    /// own.
    _layers: Tmpfs,
}

impl Overlay {
    /// Mounts one; [`skipped`], and `None`, where that is not allowed.
    pub fn mount(path: PathBuf) -> Option<Self> {
        let layers = Tmpfs::mount(path.with_extension("layers"), 64 << 10)?;
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| layers.path().join(name));
        for dir in [&lower, &upper, &work, &path] {
            fs::create_dir_all(dir).expect("a directory can be made");
        }
        let [lower, upper, work] = [lower, upper, work].map(|dir| dir.display().to_string());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let args = ["-t", "overlay", "-o", &options, "overlay"];
        needed("mount", &args, &path).then_some(Self {
            path,
            _layers: layers,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        run("umount", &["-l"], &self.path);
    }
}

/// Moves a mount from one path to another; the first is an empty directory then. Panics where that
/// is not allowed.
pub fn move_mount(from: &Path, to: &Path) {
    // Below a mount that is shared it cannot be moved, but bound a second time.
    let from_text = from.to_string_lossy();
    assert!(run("mount", &["--bind", &from_text], to));
    assert!(run("umount", &["-l"], from));
}

/// An ext4 file system in a file of its own, whose power can be cut: unsynced data are gone then,
/// as far as the file system kept them in memory. Unmounted when dropped.
pub struct Ext4 {
    image: PathBuf,
    path: PathBuf,
}

impl Ext4 {
    /// Makes and mounts a file system of this many MiB; [`skipped`], and `None`, where mounting is
    /// not allowed.
    pub fn mount(path: PathBuf, mib: u64) -> Option<Self> {
        fs::create_dir_all(&path).expect("a mount point can be made");
        let image = path.with_extension("ext4");
        let file = fs::File::create(&image).expect("an image can be made");
        file.set_len(mib << 20).expect("an image can be long");
        let made = Self { image, path };
        (needed("mkfs.ext4", &["-q"], &made.image) && made.attach()).then_some(made)
    }

    /// Ends the file system like a power cut, without writing its memory, and mounts it again. No
    /// file of it may be open.
    pub fn cut_power(&self) {
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH, of the kernel's
        // include/uapi/linux/ext4.h.
        let shutdown = "import fcntl, os, struct, sys\n\
             fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";
        assert!(run("python3", &["-c", shutdown], &self.path));
        assert!(run("umount", &[], &self.path) && self.attach());
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn attach(&self) -> bool {
        let image = self.image.to_string_lossy();
        needed("mount", &["-o", "loop", &image], &self.path)
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        run("umount", &["-l"], &self.path);
    }
}

fn run(program: &str, args: &[&str], path: &Path) -> bool {
    tried(program, args, path)
        .inspect_err(|why| eprintln!("{why}"))
        .is_ok()
}

/// A command that a test cannot do without: skips the test where it is not allowed.
fn needed(program: &str, args: &[&str], path: &Path) -> bool {
    tried(program, args, path)
        .inspect_err(|why| skipped(why))
        .is_ok()
}

fn tried(program: &str, args: &[&str], path: &Path) -> Result<(), String> {
    match Command::new(program).args(args).arg(path).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program} {args:?} says {}", said.trim()))
        }
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// Changes one bit of a file.
pub fn flip(path: &Path, offset: u64, bit: u8) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("a file of the server can be opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)
        .expect("the offset is inside the file");
    byte[0] ^= 1 << (bit & 7);
    file.write_all_at(&byte, offset)
        .expect("a file of the server can be written");
}

/// Cuts a file off.
pub fn truncate(path: &Path, length: u64) {
    let file = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("a file of the server can be opened");
    file.set_len(length).expect("a file can be cut off");
}

/// Copies a directory with all that is in it.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("a directory can be read") {
        let entry = entry.expect("a directory can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("an entry has a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}
