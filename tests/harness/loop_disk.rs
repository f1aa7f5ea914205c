//! A real file system on a loop device, mounted in a namespace of its own, that loses power.
//!
//! Needs root, losetup(8), xfs_io(8) and the programs that make and check the file system. The
//! image is in memory if the host can, because every sync of the file system also syncs the image.
//! The kernel unmounts the file system and frees the loop device when the namespace ends, so
//! nothing is left if a test fails or is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::directory::TestDirectory;
use super::namespace::Namespace;
use super::random::Random;
use super::server::Server;
use super::shell::Shell;

/// File system, with the properties that decide what a power loss leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 as Debian makes it: a journal of the metadata, and blocks of 4 KiB.
    Ext4,
    /// ext4 with blocks of 1 KiB, in which only small holes are free.
    Ext4Fragmented,
    /// ext4 that fsck(8) must repair, because it has no journal.
    Ext4NoJournal,
    Xfs,
}

impl FileSystem {
    /// Returns the command that makes the file system, without the path of the image.
    fn mkfs(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "mkfs.ext4 -q -b 4096",
            FileSystem::Ext4Fragmented => "mkfs.ext4 -q -b 1024",
            FileSystem::Ext4NoJournal => "mkfs.ext4 -q -b 4096 -O ^has_journal",
            FileSystem::Xfs => "mkfs.xfs -q",
        }
    }

    /// Returns the size of the image. mkfs.xfs makes none below 300 MB.
    fn size(self) -> &'static str {
        match self {
            FileSystem::Ext4 | FileSystem::Ext4NoJournal => "192M",
            FileSystem::Ext4Fragmented => "256M",
            FileSystem::Xfs => "320M",
        }
    }

    /// Returns the type as mount(8) takes it, with options.
    fn mount_type(self) -> &'static str {
        match self {
            FileSystem::Ext4 | FileSystem::Ext4Fragmented => "ext4 -o data=ordered",
            FileSystem::Ext4NoJournal => "ext4",
            FileSystem::Xfs => "xfs",
        }
    }
}

/// A file system on a loop device, and a boot id.
pub struct LoopDisk {
    /// A shell in the namespace. Dropped first, because the file system goes with it.
    shell: Shell,
    pub kind: FileSystem,
    /// Directory where the file system is mounted, empty outside the namespace.
    directory: TestDirectory,
    /// Directory of the image and the boot id.
    files: TestDirectory,
    boots: u64,
}

impl LoopDisk {
    /// Makes a file system and mounts it. Returns the reason if the host has no loop devices, or
    /// does not know the file system.
    pub fn create(kind: FileSystem) -> Result<LoopDisk, String> {
        let files = TestDirectory::in_memory();
        let boot_id = files.join("boot_id");
        fs::write(&boot_id, "").unwrap();
        let namespace = Namespace::new().bind(&boot_id, "/proc/sys/kernel/random/boot_id");
        let mut command = namespace.command();
        command.arg("sh");
        let shell = Shell::start(command);
        let directory = TestDirectory::new();
        let mut disk = LoopDisk { shell, kind, directory, files, boots: 0 };
        disk.boot();
        let (reason, status) = disk.shell.run("losetup --find");
        if status != 0 {
            return Err(reason);
        }
        let image = disk.image();
        disk.shell.must(&format!("truncate -s {} '{}'", kind.size(), image.display()));
        disk.shell.must(&format!("{} '{}'", kind.mkfs(), image.display()));
        let (reason, status) = disk.mount();
        if status != 0 {
            assert!(reason.contains("unknown filesystem type"), "{reason}");
            return Err(reason);
        }
        if kind == FileSystem::Ext4Fragmented {
            disk.fragment();
        }
        Ok(disk)
    }

    /// Returns the root of the file system, as processes outside the namespace see it.
    pub fn root(&self) -> PathBuf {
        let namespace = format!("/proc/{}/root", self.shell.pid());
        Path::new(&namespace).join(self.directory.path().strip_prefix("/").unwrap())
    }

    /// Starts a server that keeps its mailboxes and its spool in the file system.
    pub fn start(&self, options: &[&str]) -> Server {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.shell.pid());
        let started = self.directory.start_by(&["nsenter", &namespace], options);
        started.unwrap_or_else(|(log, status)| panic!("not ready, {status}: {log:#?}"))
    }

    /// Shuts the file system down. What was not written is lost, and no later call succeeds.
    pub fn shut_down(&self) {
        // Without -f, which would write the log first.
        let mut command = Command::new("xfs_io");
        let output = command.args(["-x", "-c", "shutdown"]).arg(self.root()).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }

    /// Mounts the file system again, as it was when it was shut down. No process may use it.
    pub fn remount(&mut self) {
        let (image, copy) = (self.image(), self.files.join("copy"));
        let (image, copy) = (image.display(), copy.display());
        // Unmounting writes metadata that a power loss drops, if there is no journal.
        self.shell.must(&format!("cp --sparse=always '{image}' '{copy}'"));
        self.shell.must(&format!("umount '{}'", self.directory.as_str()));
        self.shell.must(&format!("mv '{copy}' '{image}'"));
        if self.kind == FileSystem::Ext4NoJournal {
            // 1: errors were corrected.
            let (text, status) = self.shell.run(&format!("fsck.ext4 -f -y '{image}'"));
            assert!(status <= 1, "{status}: {text}");
        }
        let (text, status) = self.mount();
        assert_eq!(status, 0, "{text}");
    }

    /// Removes all mailboxes. A power loss does not bring them back.
    pub fn remove_mailboxes(&mut self) {
        let root = self.directory.as_str();
        self.shell.must(&format!("rm -f '{root}'/mail/* && sync --file-system '{root}'"));
    }

    /// Shows the boot id of another boot from now on.
    pub fn boot(&mut self) {
        self.boots += 1;
        let id = format!("00000000-0000-4000-8000-{:012}\n", self.boots);
        fs::write(self.files.join("boot_id"), id).unwrap();
    }

    fn image(&self) -> PathBuf {
        self.files.join("image")
    }

    fn mount(&mut self) -> (String, i32) {
        let (kind, image) = (self.kind.mount_type(), self.image());
        let mount = format!("mount -o loop -t {kind} '{}'", image.display());
        self.shell.run(&format!("{mount} '{}'", self.directory.as_str()))
    }

    /// Fills the file system, and removes every other file.
    fn fragment(&mut self) {
        let directory = self.root().join("filler");
        fs::create_dir(&directory).unwrap();
        let mut random = Random(1);
        let path = |n: usize| directory.join(n.to_string());
        let text = [b'x'; 9 * 1024];
        let is_written = |n: &usize| {
            let length = 1 + random.below(text.len() as u64) as usize;
            fs::write(path(*n), &text[..length]).is_ok()
        };
        let count = (0..).take_while(is_written).count();
        assert!(count > 1000, "{count}");
        for n in (0..=count).step_by(2) {
            fs::remove_file(path(n)).unwrap();
        }
        // Blocks are not free before the file system has recorded that.
        self.shell.must(&format!("sync --file-system '{}'", self.directory.as_str()));
    }
}
