//! A shell that stays, so that one line of it may change what the next finds.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running shell, killed when it is dropped.
pub struct Shell {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    /// Starts the shell that `command` runs.
    pub fn start(mut command: Command) -> Shell {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Shell { process, input, output }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Runs a line of shell. Returns what it prints on both of its outputs, and its exit status.
    pub fn run(&mut self, line: &str) -> (String, i32) {
        writeln!(self.input, "{{ {line}\n}} 2>&1 </dev/null; echo \"=status $?\"").unwrap();
        let mut text = String::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).unwrap();
            assert!(read > 0, "the shell has ended: {text}");
            if let Some((before, status)) = line.split_once("=status ") {
                return (text + before, status.trim().parse().unwrap());
            }
            text += &line;
        }
    }

    /// Runs a line of shell that must succeed. Returns what it prints.
    pub fn must(&mut self, line: &str) -> String {
        let (text, status) = self.run(line);
        assert_eq!(status, 0, "{line}: {text}");
        text
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
