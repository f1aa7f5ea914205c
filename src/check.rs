//! `mailslot check`: the settings in force with where each came from, then every problem found,
//! each with its cure.
//!
//! Each check is a small function from a setting or a file to [`Problem`]s. They look and change
//! nothing: no folder is made, no lock taken, no mail read but for the last octet of a mailbox. A
//! port is bound for an instant to see whether that is allowed.
//!
//! A problem that stops mail (the server would not start, or would refuse or put off mail) makes
//! the exit status 78; the others are advice. What is about certificates is in `check/tls.rs`, what
//! is about users and their rights in `check/privilege.rs`.

mod privilege;
mod tls;

use std::fmt::Write as _;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::libc;
use nix::unistd::{User, geteuid};

use crate::config::{Config, Facts, Names};
use crate::deliver::disk::HostDisk;
use crate::deliver::lock::{IDENTITY_MAX, Identity, STALE_SECS};
use crate::deliver::terminal::Terminals;
use crate::listen::Address;
use crate::logging::value;
use crate::privilege::Account;
use crate::route::{Local, Problem};
use crate::session::Switch;
use crate::smtp::Domain;

/// What `mailslot check` prints.
pub fn report(config: &Config, problems: &[Problem]) -> String {
    let mut text = String::new();
    let width = config.shown.iter().map(|g| g.value.len().min(40)).max().unwrap_or(0);
    for given in &config.shown {
        let shown = given.value.escape_debug().to_string();
        // Writing to a String does not fail.
        let _ = writeln!(text, "{:<16} {shown:<width$}  {}", given.long, given.origin);
    }
    let _ = writeln!(text, "{:<16} {}", "privileges", privilege::standing(config));
    for problem in problems {
        let weight = if problem.stops_mail { "problem" } else { "advice" };
        let _ = write!(text, "\n{weight}: {}\n   cure: {}\n", problem.what, problem.cure);
    }
    let _ = match problems.len() {
        0 => writeln!(text, "\nno problems"),
        n => writeln!(text, "\n{n} found, {} stop mail", stopping(problems)),
    };
    text
}

/// How many of `problems` stop mail.
pub fn stopping(problems: &[Problem]) -> usize {
    problems.iter().filter(|p| p.stops_mail).count()
}

/// Every problem there is with `config` on this host.
pub fn problems(config: &Config, facts: &Facts) -> Vec<Problem> {
    let mut found = limits(config);
    found.extend(names(config, facts));
    if !config.inetd {
        found.extend(config.listen.iter().chain(&config.lmtp).filter_map(port));
    }
    let account = privilege::account(config);
    let account = account.as_ref();
    // The sandbox makes its folders when it starts.
    let made_at_start = |path: &Path| config.sandbox.is_some() && !path.exists();
    if !made_at_start(&config.mail_dir) {
        found.extend(mail_dir(&config.mail_dir, account));
        found.extend(mailboxes(config, account));
    }
    if !made_at_start(&config.spool) {
        found.extend(spool(&config.spool, account));
    }
    let route = Local::new(config.route());
    found.extend(privilege::problems(config, &route));
    found.extend(terminals(config));
    found.extend(metrics_file(config, account));
    found.extend(tls::problems(config));
    found.extend(route.problems());
    found
}

/// Limits below what the standards ask of every receiver, and waits that cannot work.
pub fn limits(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut low = |wrong: bool, what: String, cure: &str| {
        if wrong {
            found.push(advice(what, cure));
        }
    };
    low(
        config.recipients_max < 100,
        format!("max-recipients {} is below RFC 5321's 100", config.recipients_max),
        "set max-recipients to 100 or more",
    );
    low(
        config.size_max < 64 << 10,
        format!("max-size {} is below RFC 5321's 64K", config.size_max),
        "set max-size to 64K or more",
    );
    low(
        config.timeout < Duration::from_secs(300),
        format!("timeout {} is below RFC 5321's 5 minutes", config.timeout.as_secs()),
        "set timeout to 300 or more",
    );
    low(
        config.session_timeout < config.timeout,
        "session-timeout is shorter than timeout, which so never passes".to_owned(),
        "set session-timeout to timeout or more",
    );
    low(
        config.lock_timeout > Duration::from_secs(540),
        format!(
            "lock-timeout {}: clients give up after 10 minutes, and send the message again",
            config.lock_timeout.as_secs()
        ),
        "set lock-timeout to a minute or less",
    );
    low(
        !config.locks.dotlock && !config.locks.fcntl,
        "lock flock: most mail readers look for a dotlock or an fcntl lock only".to_owned(),
        "set lock to dotlock,fcntl,flock unless you know every reader",
    );
    found
}

/// Terminals that nobody can be found at.
fn terminals(config: &Config) -> Option<Problem> {
    let utmp = Terminals::default().utmp;
    let wanted = config.terminals != Switch::Off && !utmp.exists();
    wanted.then(|| {
        advice(
            format!("terminals: without {} nobody is seen to be logged in", utmp.display()),
            "set terminals to off, or have login programs keep utmp",
        )
    })
}

/// A folder in which the file of metrics cannot be replaced.
fn metrics_file(config: &Config, account: Option<&Account>) -> Option<Problem> {
    let folder = config.metrics_file.as_ref()?.parent()?;
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let meta = fs::metadata(folder);
    let writes = meta.is_ok_and(|meta| privilege::may_write(folder, &meta, account));
    (!writes).then(|| {
        advice(
            format!("metrics-file: {} cannot write to {}", name(account), folder.display()),
            "make the folder, or give it to whom mailslot runs as",
        )
    })
}

/// Names that do not fit together.
fn names(config: &Config, facts: &Facts) -> Vec<Problem> {
    let mut found = Vec::new();
    let Names::These(domains) = &config.domains else { return found };
    let local = |name: &str| domains.iter().any(|d| Domain::parse(d) == Domain::parse(name));
    if !local(&config.hostname) {
        found.push(advice(
            format!(
                "mail for user@{} is refused: the hostname is no local domain",
                config.hostname
            ),
            &format!("add domain {}, unless its mail goes elsewhere", config.hostname),
        ));
    }
    if let Some(mailname) = facts.mailname.as_deref().filter(|name| !local(name)) {
        found.push(advice(
            format!(
                "mail for user@{} is refused, though programs here send as that (/etc/mailname)",
                mailname.escape_debug()
            ),
            "add it as a domain, or correct /etc/mailname",
        ));
    }
    if !config.hostname.contains('.') && config.sandbox.is_none() {
        found.push(advice(
            format!(
                "hostname {} has no dot; other hosts may refuse to talk to it",
                config.hostname
            ),
            "set hostname, or name the host in full in /etc/hosts",
        ));
    }
    found
}

/// Whether the server could listen on `address`.
fn port(address: &Address) -> Option<Problem> {
    let Address::Tcp { host, port, .. } = address else { return None };
    let error = TcpListener::bind((host.as_str(), *port)).err()?;
    Some(match error.kind() {
        ErrorKind::AddrInUse => match greeting(host, *port) {
            Some(line) if line.contains("mailslot") => advice(
                format!("{address} is in use by a running mailslot: {}", value(line)),
                "none needed, if that is the one you mean",
            ),
            Some(line) => stops(
                format!("{address} is in use by another server: {}", value(line)),
                "stop it, or choose another address",
            ),
            None => stops(
                format!("{address} is in use by a program that does not greet"),
                "stop it, or choose another address",
            ),
        },
        ErrorKind::PermissionDenied => stops(
            format!("{address}: not permitted to uid {}: {error}", geteuid()),
            "start as root, or let systemd pass the socket, or choose a port above 1023",
        ),
        // No IPv6 on this host; the server leaves such an address out if nobody asked for it.
        ErrorKind::AddrNotAvailable => {
            advice(format!("{address} is no address of this host: {error}"), "correct the address")
        }
        _ => stops(format!("{address}: {error}"), "correct the address"),
    })
}

/// The first line that the server at an address says within a second.
fn greeting(host: &str, port: u16) -> Option<String> {
    let stream = TcpStream::connect((host, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    let mut line = Vec::new();
    // At most 512 octets (RFC 5321 4.5.3.1.5). What came before an error counts.
    let _ = BufReader::new(stream.take(512)).read_until(b'\n', &mut line);
    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
    (!line.is_empty()).then_some(line)
}

/// The folder of the mailboxes: there, ours to write, and nobody else's to play with.
fn mail_dir(path: &Path, account: Option<&Account>) -> Vec<Problem> {
    let shown = path.display();
    let cure = format!("chown root:mail {shown} && chmod 2775 {shown}");
    let mut found =
        folder("mail-dir", path, account, &format!("mkdir -p {shown} && {cure}"), &cure);
    if let Ok(meta) = fs::metadata(path)
        && meta.is_dir()
        && meta.mode() & 0o1002 == 0o002
    {
        found.push(advice(
            format!("mail-dir {} lets everybody remove everybody's mailbox", path.display()),
            &format!("chmod 2775 {0}, or chmod +t {0}", path.display()),
        ));
    }
    found
}

/// The folder of our own files, which hold mail on its way.
fn spool(path: &Path, account: Option<&Account>) -> Vec<Problem> {
    let (shown, owner) = (path.display(), account.map_or("whom mailslot runs as", |a| &a.name));
    let cure = format!("chown {owner} {shown} && chmod 0700 {shown}");
    let mut found = folder("spool", path, account, &format!("mkdir -p {shown} && {cure}"), &cure);
    if let Ok(meta) = fs::metadata(path)
        && meta.is_dir()
        && meta.mode() & 0o022 != 0
    {
        found.push(advice(
            format!("spool {} can be written to by others", path.display()),
            &format!("chmod go-w {}", path.display()),
        ));
    }
    found
}

/// What is wrong with a folder that we must be able to make files in.
fn folder(
    option: &str,
    path: &Path,
    account: Option<&Account>,
    make: &str,
    give: &str,
) -> Vec<Problem> {
    let shown = path.display();
    match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            vec![stops(format!("{option} {shown} is not there"), make)]
        }
        Err(e) => vec![stops(format!("{option} {shown}: {e}"), "make it accessible")],
        Ok(meta) if !meta.is_dir() => {
            vec![stops(format!("{option} {shown} is no folder"), &format!("correct {option}"))]
        }
        Ok(meta) if privilege::may_write(path, &meta, account) => vec![],
        Ok(meta) => vec![stops(
            format!(
                "{option} {shown} (owner {}:{}, mode {:o}) cannot be written to by {}",
                meta.uid(),
                meta.gid(),
                meta.mode() & 0o7777,
                name(account)
            ),
            give,
        )],
    }
}

fn name(account: Option<&Account>) -> String {
    account.map_or_else(|| format!("uid {}", geteuid()), |account| account.name.clone())
}

/// Every mailbox and every lock in the mail folder.
fn mailboxes(config: &Config, account: Option<&Account>) -> Vec<Problem> {
    let Ok(entries) = fs::read_dir(&config.mail_dir) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let Ok(meta) = entry.metadata() else { continue };
        if name.starts_with('.') {
            continue;
        } else if name.ends_with(".lock") {
            found.extend(dotlock(&path, &meta));
        } else {
            found.extend(mailbox(&path, &meta, owner(config, &name, account)));
        }
    }
    found.sort_by(|a, b| a.what.cmp(&b.what));
    found
}

/// Whose the mailbox `name` should be; None where that is nobody's business.
fn owner(config: &Config, name: &str, account: Option<&Account>) -> Option<u32> {
    match &config.users {
        Names::System => User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()),
        Names::These(users) if !users.iter().any(|u| u == name) => None,
        Names::These(_) | Names::Any => Some(account.map_or(geteuid(), |a| a.uid).as_raw()),
    }
}

/// What keeps mail out of one mailbox, or breaks its reader.
fn mailbox(path: &Path, meta: &Metadata, owner: Option<u32>) -> Vec<Problem> {
    let shown = path.display();
    let kind = meta.file_type();
    let odd = [
        (kind.is_symlink(), "a symbolic link"),
        (kind.is_fifo(), "a FIFO"),
        (kind.is_socket(), "a socket"),
        (kind.is_dir(), "a folder"),
        (kind.is_block_device() || kind.is_char_device(), "a device"),
        (kind.is_file() && meta.nlink() > 1, "a file with a second name (hard link)"),
    ];
    if let Some((_, odd)) = odd.iter().find(|(is, _)| *is) {
        return vec![stops(
            format!("mailbox {shown} is {odd}; mail for it is put off"),
            "move it away; the next message makes a new mailbox",
        )];
    }
    let mut found = Vec::new();
    if let Some(owner) = owner.filter(|&owner| owner != meta.uid()) {
        found.push(stops(
            format!("mailbox {shown} belongs to uid {}, not {owner}", meta.uid()),
            &format!("look at what is in it, then chown {owner} {shown}"),
        ));
    }
    if meta.mode() & 0o007 != 0 {
        found.push(advice(
            format!("mailbox {shown} (mode {:o}) is open to everybody", meta.mode() & 0o777),
            &format!("chmod o= {shown}"),
        ));
    }
    if let Ok(false) = ends_with_newline(path, meta.len()) {
        found.push(advice(
            format!("mailbox {shown} does not end with a line end: its last message was cut short"),
            "none needed: the next delivery begins on a line of its own",
        ));
    }
    found
}

fn ends_with_newline(path: &Path, len: u64) -> io::Result<bool> {
    let Some(last) = len.checked_sub(1) else { return Ok(true) };
    let mut octet = [0];
    open(path)?.read_exact_at(&mut octet, last)?;
    Ok(octet == [b'\n'])
}

/// A dotlock whose owner is gone, or that is older than any delivery.
fn dotlock(path: &Path, meta: &Metadata) -> Option<Problem> {
    let mut line = Vec::new();
    let longest = IDENTITY_MAX as u64 + 1;
    // One that cannot be read is judged by its age alone.
    let _ = open(path).map(|file| file.take(longest).read_to_end(&mut line));
    let holder = Identity::parse(&line);
    let digits = String::from_utf8_lossy(&line);
    let digits = digits.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    let pid = if digits.is_empty() { "pid unknown".into() } else { format!("pid {digits:.10}") };
    let age = meta.modified().ok().and_then(|m| SystemTime::now().duration_since(m).ok());
    let age = age.unwrap_or_default().as_secs();
    let dead = holder.is_some_and(|holder| holder.is_gone(&HostDisk::default()));
    (dead || age > STALE_SECS).then(|| {
        let why = if dead { "its process is gone" } else { "nobody holds one that long" };
        advice(
            format!("lock {} ({pid}, {age} s old) is stale: {why}", path.display()),
            "none needed: the next delivery breaks it; or remove it",
        )
    })
}

/// Opens for reading, never through a link and never waiting for a FIFO's writer.
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn stops(what: String, cure: &str) -> Problem {
    Problem { what, cure: cure.to_owned(), stops_mail: true }
}

fn advice(what: String, cure: &str) -> Problem {
    Problem { what, cure: cure.to_owned(), stops_mail: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    fn config(words: &[&str], facts: &Facts) -> Config {
        let args: Vec<_> = words.iter().map(std::ffi::OsString::from).collect();
        let line = options::parse_command_line(&args).unwrap();
        Config::new(&line, vec![], facts).unwrap()
    }

    fn facts(name: &str) -> Facts {
        Facts { name: name.to_owned(), ..Facts::default() }
    }

    /// `word` is in exactly one of `found`, and that one stops mail or not.
    fn assert_found(found: &[Problem], word: &str, stops_mail: bool) {
        let hits: Vec<_> = found.iter().filter(|p| p.what.contains(word)).collect();
        assert_eq!(hits.len(), 1, "{word:?} in {found:#?}");
        assert_eq!(hits[0].stops_mail, stops_mail, "{word:?}");
    }

    #[test]
    fn limits_at_the_standard_are_silent_and_below_it_are_not() {
        let host = facts("a.b");
        assert_eq!(limits(&config(&[], &host)), []);
        for (words, what) in [
            (["--max-recipients", "99"], "max-recipients 99"),
            (["--max-size", "65535"], "max-size 65535"),
            (["--timeout", "299"], "timeout 299"),
            (["--session-timeout", "299"], "session-timeout"),
            (["--lock-timeout", "541"], "lock-timeout 541"),
            (["--lock", "flock"], "lock flock"),
        ] {
            assert_found(&limits(&config(&words, &host)), what, false);
        }
        let exact = ["--max-recipients", "100", "-s", "64K", "--timeout", "300"];
        assert_eq!(limits(&config(&exact, &host)), []);
    }

    #[test]
    fn names_must_fit_together() {
        let mut host = facts("a.b");
        assert_eq!(names(&config(&[], &host), &host), []);
        host.mailname = Some("m.b".to_owned());
        assert_found(&names(&config(&[], &host), &host), "user@a.b", false);
        let found = names(&config(&["-d", "A.B"], &host), &host);
        assert_found(&found, "user@m.b", false);
        assert_eq!(found.len(), 1);
        let host = facts("a");
        assert_found(&names(&config(&[], &host), &host), "has no dot", false);
        assert_eq!(names(&config(&["--sandbox", "d"], &host), &host), []);
    }

    #[test]
    fn a_port_in_use_is_told_with_its_user() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address: Address = other.local_addr().unwrap().to_string().parse().unwrap();
        for (greeting, word, stops_mail) in [
            ("220 h ESMTP Postfix\r\n", "another server: \"220 h ESMTP Postfix\"", true),
            ("220 h ESMTP mailslot\r\n", "a running mailslot", false),
            ("", "does not greet", true),
        ] {
            let problem = std::thread::scope(|scope| {
                let asked = scope.spawn(|| port(&address));
                let (mut stream, _) = other.accept().unwrap();
                io::Write::write_all(&mut stream, greeting.as_bytes()).unwrap();
                drop(stream);
                asked.join().unwrap()
            });
            assert_found(&Vec::from_iter(problem), word, stops_mail);
        }
        drop(other);
        assert_eq!(port(&address), None);
    }

    #[test]
    fn folders_are_there_and_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        assert_found(&mail_dir(&path("none"), None), "is not there", true);
        assert_found(&spool(&path("none"), None), "is not there", true);
        fs::write(path("file"), "").unwrap();
        assert_found(&mail_dir(&path("file"), None), "is no folder", true);
        fs::create_dir(path("dir")).unwrap();
        for (mode, in_mail, in_spool) in
            [(0o700, 0, 0), (0o2775, 0, 1), (0o1777, 0, 1), (0o777, 1, 1), (0o755, 0, 0)]
        {
            fs::set_permissions(path("dir"), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(mail_dir(&path("dir"), None).len(), in_mail, "{mode:o}");
            assert_eq!(spool(&path("dir"), None).len(), in_spool, "{mode:o}");
        }
        if !geteuid().is_root() {
            fs::set_permissions(path("dir"), fs::Permissions::from_mode(0o500)).unwrap();
            assert_found(&mail_dir(&path("dir"), None), "cannot be written to", true);
        }
    }

    #[test]
    fn mailboxes_are_regular_files_of_their_users() {
        let dir = tempfile::tempdir().unwrap();
        let mail = dir.path().join("mail");
        fs::create_dir(&mail).unwrap();
        let make = |name: &str, text: &str, mode: u32| -> PathBuf {
            let path = mail.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let sandbox = config(&["--sandbox", dir.path().to_str().unwrap()], &facts("a"));
        make("good", "From a\n\nb\n\n", 0o600);
        make("empty", "", 0o660);
        make(".hidden", "x", 0o666);
        assert_eq!(mailboxes(&sandbox, None), []);

        make("cut", "From a\n\nb", 0o600);
        make("open", "", 0o604);
        symlink("good", mail.join("link")).unwrap();
        fs::hard_link(make("one", "", 0o600), mail.join("two")).unwrap();
        fs::create_dir(mail.join("folder")).unwrap();
        nix::unistd::mkfifo(&mail.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let found = mailboxes(&sandbox, None);
        for (word, stops_mail) in [
            ("cut does not end", false),
            ("open (mode 604)", false),
            ("link is a symbolic link", true),
            ("one is a file with a second name", true),
            ("two is a file with a second name", true),
            ("folder is a folder", true),
            ("fifo is a FIFO", true),
        ] {
            assert_found(&found, word, stops_mail);
        }
        assert_eq!(found.len(), 7, "{found:#?}");

        let meta = fs::symlink_metadata(mail.join("good")).unwrap();
        assert_found(&mailbox(&mail.join("good"), &meta, Some(meta.uid() + 1)), "belongs to", true);
        // Whose a box is does not matter where it is nobody's.
        assert_eq!(mailbox(&mail.join("good"), &meta, None), []);
    }

    #[test]
    fn a_lock_is_stale_by_its_process_or_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("al.lock");
        let ours = Identity::new(&HostDisk::default());
        let ours = String::from_utf8_lossy(ours.as_bytes()).into_owned();
        let pid = std::process::id().to_string();
        // No process has this pid: the kernel's pids end at 2^22.
        let dead = ours.replacen(&pid, "2000000000", 1);
        for (line, age, word) in [
            (ours.as_str(), 10, None),
            (&dead, 10, Some("pid 2000000000, 10 s old) is stale: its process is gone")),
            (&dead[..dead.len() - 2], 10, None),
            ("77\n", STALE_SECS - 10, None),
            ("77\n", STALE_SECS + 10, Some("pid 77, 310 s old) is stale: nobody")),
            ("", STALE_SECS + 10, Some("pid unknown, 310 s old)")),
        ] {
            fs::write(&path, line).unwrap();
            let then = SystemTime::now() - Duration::from_secs(age);
            OpenOptions::new().write(true).open(&path).unwrap().set_modified(then).unwrap();
            let found = Vec::from_iter(dotlock(&path, &fs::symlink_metadata(&path).unwrap()));
            match word {
                // A second may pass between writing and looking.
                Some(word) if found.len() == 1 => {
                    let what = found[0].what.replace("311 s", "310 s").replace("11 s", "10 s");
                    assert!(what.contains(word), "{what}");
                }
                word => assert_eq!((word, found), (None, vec![]), "{line:?}"),
            }
        }
    }

    #[test]
    fn the_report_shows_everything() {
        let sandbox = config(&["--sandbox", "d", "-t", "4"], &facts("a"));
        let text =
            report(&sandbox, &[stops("x is y".into(), "make it z"), advice("v".into(), "w")]);
        for line in [
            "threads          4",
            "command line",
            "--sandbox",
            "\nproblem: x is y\n   cure: make it z\n",
            "\nadvice: v\n",
            "\n2 found, 1 stop mail\n",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
        assert!(report(&sandbox, &[]).ends_with("\nno problems\n"));
    }
}
