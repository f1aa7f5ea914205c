//! A machine of the test's own: all that is installed here, in an overlay that takes what is
//! written, with a name, a loopback network and processes of its own, and a shell of root in it.
//! When it is dropped nothing is left. Needs root and unshare(1).

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tempfile::TempDir;

/// See above.
pub struct Conversation {
    shell: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    folder: TempDir,
}

impl Conversation {
    /// Starts it. `folder` is seen in it by the same path, which is `$D` to its shell; so is the
    /// tree of the sources, `$TREE`, where it begins. `$BUILT` has the programs.
    pub fn start(folder: TempDir) -> Conversation {
        let layer = folder.path().join("layer");
        fs::create_dir(&layer).unwrap();
        let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "--uts", "--net", "--ipc", "--pid", "--fork", "--kill-child"]);
        shell.args(["--propagation", "private", "sh", "-ec", BOOT]).env_clear();
        shell.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        shell.env("D", folder.path()).env("LAYER", &layer).env("TREE", tree);
        shell.env("BUILT", built()).env("HOME", "/root").env("LC_ALL", "C.UTF-8");
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = shell.stdin.take().unwrap();
        let output = BufReader::new(shell.stdout.take().unwrap());
        let mut machine = Conversation { shell, input, output, folder };
        machine.must("cd $TREE && umask 022 && useradd --create-home alice");
        machine
    }

    /// What a line of shell prints on both its outputs, and how it ends.
    pub fn run(&mut self, line: &str) -> (String, i32) {
        writeln!(self.input, "{{ {line}\n}} 2>&1 </dev/null; echo \"=status $?\"").unwrap();
        let mut text = String::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).unwrap();
            assert!(read > 0, "the shell is gone: {text}");
            if let Some((before, status)) = line.split_once("=status ") {
                return (text + before, status.trim().parse().unwrap());
            }
            text += &line;
        }
    }

    /// The same; it must end well.
    pub fn must(&mut self, line: &str) -> String {
        let (text, status) = self.run(line);
        assert_eq!(status, 0, "{line}: {text}");
        text
    }

    /// What was written, made and removed since it was started: paths, without their first `/`.
    /// Folders that were there are left out.
    pub fn changed(&mut self) -> BTreeSet<String> {
        let text = self.must("find /mnt -mindepth 1 -printf '%y %P\\n'");
        let entries = text.lines().filter_map(|line| line.split_once(' '));
        let there = |path: &str| Path::new("/").join(path).is_dir();
        let changed = entries.filter(|(kind, path)| *kind != "d" || !there(path));
        changed.map(|(_, path)| path.to_owned()).collect()
    }

    /// The folder it was given.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // A child that was not waited for. With it end all processes of the machine, and with the
        // last of them its file systems.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// The folder of the programs that cargo built.
pub fn built() -> PathBuf {
    Path::new(super::server::PROGRAM).parent().unwrap().to_owned()
}

/// Becomes the machine. What is changed is seen at /mnt.
const BOOT: &str = "
    mount -t tmpfs -o mode=755 none $LAYER
    mkdir $LAYER/up $LAYER/work $LAYER/root
    mount -t overlay -o lowerdir=/,upperdir=$LAYER/up,workdir=$LAYER/work none $LAYER/root
    cd $LAYER/root
    mount -t tmpfs none tmp
    mount -t tmpfs none run
    mount -t proc none proc
    mount --rbind /dev dev
    for folder in $TREE $BUILT; do
        mkdir -p .$folder
        mount --bind $folder .$folder
    done
    mkdir -p .$D
    mount --bind $D .$D
    mount --bind $LAYER/up mnt
    ip link set lo up
    hostname host.example
    exec chroot . sh";
