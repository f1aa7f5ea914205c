//! A container: all that is installed on this host, in an overlay that takes what is written, with
//! a host name, a loopback network and processes of its own, and a shell of root in it. Nothing is
//! left when it is dropped. Needs root and unshare(1).

use std::collections::BTreeSet;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use super::directory::TestDirectory;
use super::namespace::Namespace;
use super::server::PROGRAM;
use super::shell::Shell;

/// A running container. Dereferences to its shell.
pub struct Container {
    // Dropped first: with it all processes of the container end, and with the last of them its file
    // systems.
    shell: Shell,
    _directory: TestDirectory,
}

impl Container {
    /// Starts it. `directory` is seen in it at the same path, and is `$D` to its shell. So is the
    /// tree of the sources, `$TREE`, where the shell begins. `$BUILT` has the programs.
    pub fn start(directory: TestDirectory) -> Container {
        let shell = start_shell(&directory, SETUP, &["chroot", ".", "sh"]);
        let mut container = Container { shell, _directory: directory };
        container.must("cd $TREE && umask 022 && useradd --create-home alice");
        container
    }

    /// Returns the paths that were written, created or removed since the start, without their first
    /// `/`. Directories that were there before are left out.
    pub fn changed(&mut self) -> BTreeSet<String> {
        let text = self.must("find /mnt -mindepth 1 -printf '%y %P\\n'");
        let entries = text.lines().filter_map(|line| line.split_once(' '));
        let was_there = |path: &str| Path::new("/").join(path).is_dir();
        let changed = entries.filter(|(kind, path)| *kind != "d" || !was_there(path));
        changed.map(|(_, path)| path.to_owned()).collect()
    }
}

impl Deref for Container {
    type Target = Shell;

    fn deref(&self) -> &Shell {
        &self.shell
    }
}

impl DerefMut for Container {
    fn deref_mut(&mut self) -> &mut Shell {
        &mut self.shell
    }
}

/// Starts `shell` in new namespaces, after the commands in `setup`. To both, `$D` is `directory`,
/// `$LAYER` a new directory in it, `$TREE` the sources and `$BUILT` the programs.
pub fn start_shell(directory: &TestDirectory, setup: &str, shell: &[&str]) -> Shell {
    let layer = directory.join("layer");
    fs::create_dir(&layer).unwrap();
    let namespace = Namespace::new()
        .unshare(&["--uts", "--net", "--ipc", "--pid", "--fork", "--kill-child"])
        .run(setup);
    let mut command = namespace.command();
    command.args(shell).env_clear();
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("D", directory.path()).env("LAYER", &layer);
    command.env("TREE", env!("CARGO_MANIFEST_DIR")).env("BUILT", built());
    command.env("HOME", "/root").env("LC_ALL", "C.UTF-8");
    Shell::start(command)
}

/// Returns the directory of the programs that cargo built.
pub fn built() -> PathBuf {
    Path::new(PROGRAM).parent().unwrap().to_owned()
}

/// Shell that builds the root directory. What is changed is seen at /mnt.
const SETUP: &str = "
    mount -t tmpfs -o mode=755 none $LAYER
    mkdir $LAYER/up $LAYER/work $LAYER/root
    mount -t overlay -o lowerdir=/,upperdir=$LAYER/up,workdir=$LAYER/work none $LAYER/root
    cd $LAYER/root
    mount -t tmpfs none tmp
    mount -t tmpfs none run
    mount -t proc none proc
    mount --rbind /dev dev
    for directory in $TREE $BUILT; do
        mkdir -p .$directory
        mount --bind $directory .$directory
    done
    mkdir -p .$D
    mount --bind $D .$D
    mount --bind $LAYER/up mnt
    ip link set lo up
    hostname host.example";
