//! Linux namespaces: a command that sees other files, another network or another host name than the
//! rest of the system. Needs root and unshare(1).

use std::path::Path;
use std::process::Command;

/// Namespaces, and what is done in them before the command is run. The namespace of mounts is
/// always one of them, so that what is mounted goes with the command.
#[derive(Clone, Debug)]
pub struct Namespace {
    options: Vec<&'static str>,
    setup: String,
}

impl Namespace {
    /// Creates a namespace of mounts.
    pub fn new() -> Namespace {
        let options = vec!["--mount", "--propagation", "private"];
        Namespace { options, setup: "set -e\n".to_owned() }
    }

    /// Adds options of unshare(1).
    pub fn unshare(mut self, options: &[&'static str]) -> Namespace {
        self.options.extend(options);
        self
    }

    /// Adds a line of shell.
    pub fn run(mut self, line: &str) -> Namespace {
        self.setup += &format!("{line}\n");
        self
    }

    /// Has the file or directory `from` be seen as `to`.
    pub fn bind(self, from: &Path, to: &str) -> Namespace {
        self.run(&format!("mount --bind '{}' '{to}'", from.display()))
    }

    /// Returns the words to be put in front of a command.
    pub fn words(&self) -> Vec<String> {
        let script = format!("{}exec \"$@\"", self.setup);
        let shell = ["sh", "-c", &script, "sh"];
        let words = ["unshare"].iter().chain(&self.options).copied().chain(shell);
        words.map(str::to_owned).collect()
    }

    /// Returns a command that runs the program and arguments that are added to it.
    pub fn command(&self) -> Command {
        let words = self.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }
}
