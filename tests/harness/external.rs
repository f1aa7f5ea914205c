//! Programs of other projects, run with a limit of time, and messages that are difficult to keep
//! unchanged.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::directory::TestDirectory;
use super::mbox::assert_same;
use super::server::{Server, sendmail_path};

/// Returns a command that is killed after `SECONDS_MAX`, with a home directory of its own, and
/// without the language and the mail of the user who runs the test. Debian's programs are found in
/// sbin too.
pub fn external(program: &str, home: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", SECONDS_MAX, program]).current_dir(home).stdin(Stdio::null());
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    command.env("PATH", path).env("HOME", home).env("LC_ALL", "C.UTF-8").env("USER", "nobody");
    for name in ["MAIL", "MAILRC", "EMAIL", "MAILDIR", "MBOX", "http_proxy", "all_proxy"] {
        command.env_remove(name);
    }
    command
}

/// Returns the command of a program in `tests/peers`, in Python.
pub fn python(script: &str, home: &Path) -> Command {
    let mut command = external("python3", home);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUTF8", "1");
    command
}

/// Writes a configuration file and a script named sendmail that uses it. Returns the path of the
/// script. Writes `body` for [`caller`].
pub fn write_sendmail(directory: &TestDirectory, config: &str, body: &str) -> String {
    let (file, script) = (directory.join("conf"), directory.join("sendmail"));
    fs::write(&file, config).unwrap();
    let text = format!("#!/bin/sh\nexec {} -C {} \"$@\"\n", sendmail_path(), file.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    fs::write(directory.join("body"), body).unwrap();
    script.to_str().unwrap().to_owned()
}

/// Returns a command that reads the body from [`write_sendmail`].
pub fn caller(program: &str, directory: &TestDirectory) -> Command {
    let mut command = external(program, directory.path());
    command.stdin(open(&directory.join("body")));
    command
}

/// Runs a command that must succeed. Returns what it printed.
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}: {}\n{errors}\n{printed}", output.status);
    output.stdout
}

/// Runs a command that must succeed. Returns what it printed, as text.
pub fn run_for_text(command: &mut Command) -> String {
    String::from_utf8_lossy(&run(command)).into_owned()
}

/// Writes each message to a file `0000`, `0001`, ... in the directory `into`, which is created.
pub fn write_all(messages: &[Vec<u8>], into: &Path) -> Vec<PathBuf> {
    fs::create_dir_all(into).unwrap();
    let write = |(number, message): (usize, &Vec<u8>)| {
        let path = into.join(format!("{number:04}"));
        fs::write(&path, message).unwrap();
        path
    };
    messages.iter().enumerate().map(write).collect()
}

/// Writes a copy of `file` with CR LF for LF beside it. Returns its path.
pub fn with_crlf(file: &Path) -> PathBuf {
    let path = file.with_extension("crlf");
    let text = fs::read(file).unwrap();
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let crlf = lines.map(|line| match line.strip_suffix(b"\n") {
        Some(line) => [line, b"\r\n"].concat(),
        None => line.to_vec(),
    });
    fs::write(&path, crlf.collect::<Vec<_>>().concat()).unwrap();
    path
}

/// Returns messages with something in them that is easily lost, each with a subject of its own.
/// Lines end with LF.
pub fn difficult_messages() -> Vec<Vec<u8>> {
    let bodies: Vec<Vec<u8>> = vec![
        b"Plain text.\n".to_vec(),
        b"".to_vec(),
        b"\n\n\n".to_vec(),
        b".\n..\n...\n.dot\n. \n".to_vec(),
        b"From here on\n>From there\n>>From afar\nFrom\n From x\n".to_vec(),
        b"\nFrom smith@example.org Tue Jul  1 08:52:37 2025\nSubject: not one\n\nno\n".to_vec(),
        b"Status: RO\nContent-Length: 3\n".to_vec(),
        "Gr\u{fc}\u{df}e, \u{4f60}\u{597d}, \u{1f4ee}\n".as_bytes().to_vec(),
        b"latin-1: caf\xe9, controls: \x01\x1b[31m\x7f, tab:\t.\n".to_vec(),
        [b"x".repeat(998), b"\n".to_vec(), b"y".repeat(20_000), b"\n".to_vec()].concat(),
        b"blanks at the end   \n\t\n   \n".to_vec(),
        b"a line of text that is repeated, again and again, until there is 1 MiB\n".repeat(15_000),
    ];
    let head = |number| format!("From: Smith <smith@example.org>\nSubject: hard {number}\n\n");
    (0..).zip(bodies).map(|(number, body)| [head(number).into_bytes(), body].concat()).collect()
}

/// Sends files as messages in one session of Python's smtplib. Returns the replies, a line for
/// each.
pub fn send_files(server: &Server, recipient: &str, files: &[PathBuf]) -> String {
    let mut send = python("send.py", server.path());
    run_for_text(
        send.args([&server.address.to_string(), "smith@example.org", recipient]).args(files),
    )
}

/// Postfix's load generator, while it runs.
pub struct SmtpSource(Child);

/// Starts an smtp-source(1) that sends to `user`.
pub fn smtp_source(address: SocketAddr, home: &Path, user: &str, options: &str) -> SmtpSource {
    let mut source = external("smtp-source", home);
    source.args(options.split(' ')).args(["-f", "smith@example.org"]);
    source.args(["-t", &format!("{user}@localhost"), &address.to_string()]);
    SmtpSource(source.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
}

impl SmtpSource {
    /// Waits for its end. Every message must have been accepted.
    pub fn ended(self) {
        let output = self.0.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "smtp-source: {} {errors}", output.status);
    }
}

/// Asserts that these are `count` messages of smtp-source, each once, with the text that it sends:
/// `length` bytes in lines of 80, each a digit and then the same letter.
pub fn assert_from_smtp_source(messages: &[Vec<u8>], count: usize, length: usize) {
    let lines = (1..=length / 80).map(|number| format!("{}{}\n", number % 10, "X".repeat(77)));
    let body = lines.collect::<String>() + &"X".repeat(length % 80) + "\n";
    let mut ids = BTreeSet::new();
    for message in messages {
        let end = message.windows(2).position(|two| two == b"\n\n").expect("a header") + 2;
        let (header, found) = message.split_at(end);
        let header = String::from_utf8_lossy(header);
        let id = header.lines().find(|line| line.starts_with("Message-Id: ")).unwrap().to_owned();
        assert_same(found, body.as_bytes(), &id);
        assert!(ids.insert(id), "came twice: {header}");
    }
    assert_eq!(ids.len(), count);
}

/// Downloads Debian packages, for each pattern the last one with a matching name, and unpacks them
/// below `into`.
pub fn unpack(patterns: &[&str], into: &Path) {
    if patterns.iter().any(|pattern| package(pattern, into).is_none()) {
        // A new machine has no list of packages yet. Only root can fetch it.
        run(external("apt-get", into).args(["-qq", "update"]));
    }
    for pattern in patterns {
        let name = package(pattern, into).unwrap_or_else(|| panic!("no package {pattern}"));
        // Otherwise root fetches as a user who cannot write here, and apt-get complains.
        let options = ["-q", "-o", "APT::Sandbox::User=root", "download"];
        run(external("apt-get", into).args(options).arg(name));
    }
    for package in files(into, |path| path.extension().is_some_and(|e| e == "deb")) {
        run(external("dpkg-deb", into).arg("--extract").arg(package).arg(into));
    }
}

/// Returns the last of the packages with a matching name.
fn package(pattern: &str, home: &Path) -> Option<String> {
    let mut search = external("apt-cache", home);
    let found = run_for_text(search.args(["--names-only", "search", &format!("^{pattern}$")]));
    // Each line is `name - description`.
    found.lines().filter_map(|line| line.split(' ').next()).max().map(str::to_owned)
}

/// Returns the sorted files below `directory` for which `wanted` is true.
pub fn files(directory: &Path, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let (mut directories, mut found) = (vec![directory.to_owned()], Vec::new());
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                directories.push(path);
            } else if wanted(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Opens a file as standard input.
pub fn open(path: &Path) -> Stdio {
    Stdio::from(File::open(path).unwrap())
}

/// Seconds that any of these programs may take.
const SECONDS_MAX: &str = "120";
