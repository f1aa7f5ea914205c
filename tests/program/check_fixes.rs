//! Every fault that `mailslot check` knows: it is made, `check` names it with its fix, the fix is
//! applied, and `check` finds nothing more.
//!
//! A row is a line of shell that breaks a host that was in order, what `check` must say of it, and
//! how it is mended: mostly by the fix just as it was printed, pasted into the shell. The shell
//! has `$D`, the folder of the host, and `$C`, its configuration file. The rows of [`AS_ANYBODY`]
//! run as whoever runs the tests and, as root, once more as nobody; those of [`AS_ROOT`] have a
//! host of their own: name, `/etc` and network.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use crate::harness::server::{PROGRAM, Server, mailslot};
use Fix::{By, Printed};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use tempfile::TempDir;

/// One fault.
struct Row {
    /// How it is made.
    fault: &'static str,
    /// What `check` says of it.
    says: &'static str,
    /// Whether it stops mail.
    stops: bool,
    fix: Fix,
}

/// How a fault is mended.
enum Fix {
    /// By the line that `check` printed.
    Printed,
    /// The fix has the words of the first; the second does what it says.
    By(&'static str, &'static str),
}

const fn stops(fault: &'static str, says: &'static str, fix: Fix) -> Row {
    Row { fault, says, stops: true, fix }
}

const fn advice(fault: &'static str, says: &'static str, fix: Fix) -> Row {
    Row { fault, says, stops: false, fix }
}

const AS_ANYBODY: &[Row] = &[
    // Settings.
    advice(
        "echo max-size 63K >>$C",
        "max-size 64512 is below",
        By("set max-size to 64K", "sed -i s/63K/64K/ $C"),
    ),
    advice(
        "echo max-recipients 99 >>$C",
        "max-recipients 99 is below",
        By("set max-recipients to 100", "sed -i s/99/100/ $C"),
    ),
    advice(
        "echo timeout 4m >>$C",
        "timeout 240 is below",
        By("set timeout to 300", "sed -i s/4m/300/ $C"),
    ),
    advice(
        "echo lock flock >>$C",
        "use only dotlocks or fcntl locks",
        By("set lock to dotlock,fcntl,flock", "sed -i s/flock/dotlock,fcntl,flock/ $C"),
    ),
    advice(
        "sed -i 's/^domain.*/domain mail.example/' $C",
        "mail for user@host.example is rejected",
        By("add domain host.example", "echo domain host.example >>$C"),
    ),
    advice(
        "sed -i 's/^hostname.*/hostname host/; s/^domain.*/domain host/' $C",
        "hostname host has no dot",
        By("set hostname", "sed -i 's/ host$/ host.example/' $C"),
    ),
    advice("chmod 666 $C", "/conf (mode 666) is writable by others", Printed),
    advice("echo metrics-file $D/metrics/x.prom >>$C", "metrics-file: ", Printed),
    // The two folders.
    stops("rmdir $D/mail", "/mail does not exist", Printed),
    stops("rmdir $D/spool", "/spool does not exist", Printed),
    stops("chmod 500 $D/mail", "mode 500) is not writable by", Printed),
    stops("chmod 500 $D/spool", "mode 500) is not writable by", Printed),
    stops(
        "rmdir $D/mail; touch $D/mail",
        "/mail is not a directory",
        By("correct mail-dir", "mkdir -m 700 $D/box; sed -i s,/mail$,/box, $C"),
    ),
    advice("chmod 777 $D/mail", "lets any user remove any mailbox", Printed),
    stops("chmod 770 $D/spool", "/spool is writable by others", Printed),
    // Mailboxes.
    stops("ln -s other $D/mail/alice", "mail/alice is a symbolic link", Printed),
    stops("mkfifo $D/mail/alice", "mail/alice is a FIFO", Printed),
    stops("mkdir $D/mail/alice", "mail/alice is a directory", Printed),
    stops(
        "touch $D/mail/alice; chmod 400 $D/mail/alice",
        "is not readable and writable by its owner",
        Printed,
    ),
    advice("touch $D/mail/alice; chmod 644 $D/mail/alice", "is accessible to all users", Printed),
    stops(
        "echo mailbox-limit 1 >>$C; echo x >$D/mail/alice; chmod 600 $D/mail/alice",
        "(2 bytes) has reached mailbox-limit",
        By("raise mailbox-limit", "sed -i 's/limit.*/limit 1M/' $C"),
    ),
    advice(
        "printf 'From a\\n\\nb' >$D/mail/alice; chmod 600 $D/mail/alice",
        "does not end with a newline",
        By("none needed, because the next delivery", DELIVER),
    ),
    advice(
        "echo 77 >$D/mail/alice.lock; touch -d '1 hour ago' $D/mail/alice.lock",
        "/alice.lock (pid 77, 36",
        By("none needed, because the next delivery removes it", DELIVER),
    ),
    advice(
        "touch -d '1 hour ago' $D/mail/alice.lock",
        "/alice.lock (pid unknown, 36",
        By("or remove it", "rm $D/mail/alice.lock"),
    ),
    // Aliases.
    stops(
        "rm $D/aliases",
        "/aliases cannot be opened",
        By("create the file", "echo postmaster: alice >$D/aliases"),
    ),
    advice("chmod 666 $D/aliases", "/aliases is writable by others", Printed),
    stops(
        "printf 'a: b\\nb: a\\n' >>$D/aliases",
        "a loop: a -> b -> a",
        By("", "sed -i 's/^b: a/b: alice/' $D/aliases"),
    ),
    stops(
        "echo 'sales: alcie' >>$D/aliases",
        "/aliases:2: alias `sales` leads to `alcie`",
        By("", "sed -i s/alcie/alice/ $D/aliases"),
    ),
    stops(
        "echo 'sales alice' >>$D/aliases",
        "/aliases:2: ",
        By("correct the line", "sed -i 's/sales/sales:/' $D/aliases"),
    ),
    stops(
        "echo 'pipe: \"|/bin/cat\"' >>$D/aliases",
        "is a program",
        By("", "sed -i /pipe/d $D/aliases"),
    ),
    stops(
        "echo \"list: :include:$D/list\" >>$D/aliases",
        "/list cannot be opened",
        By("create the file", "echo alice >$D/list; chmod 644 $D/list"),
    ),
    stops(
        "echo \"list: :include:$D/list\" >>$D/aliases; echo bob >$D/list; chmod 666 $D/list",
        "/list is writable by others",
        Printed,
    ),
    advice(
        "echo 'sales@other.example: alice' >>$D/aliases",
        "is never used, because its domain is not local",
        By("remove the alias", "sed -i /sales/d $D/aliases"),
    ),
    advice(
        "echo 'bob: alice' >>$D/aliases",
        "alias `bob` hides the user of that name",
        By("add the name to its own targets", "sed -i 's/^bob.*/bob: bob, alice/' $D/aliases"),
    ),
    stops(
        "echo 'far: a@there.example, b@there.example' >>$D/aliases",
        "leads to several addresses, not all of them local",
        By("use one remote address", "sed -i 's/, b@.*//' $D/aliases"),
    ),
];

#[cfg(feature = "tls")]
const OF_TLS: &[Row] = &[
    stops(
        "echo tls-cert $D/none.pem >>$C",
        "/none.pem",
        By("correct tls-cert and tls-key", "sed -i s/none/good/ $C"),
    ),
    stops(
        "echo tls-cert $D/good.pem >>$C; echo tls-key $D/late.pem >>$C",
        "/late.pem",
        By("correct tls-cert and tls-key", "sed -i s/late/good/ $C"),
    ),
    stops(
        "echo tls-cert $D/late.pem >>$C",
        "/late.pem expired at 2001-",
        By("renew it", "sed -i s/late/good/ $C"),
    ),
    advice(
        "echo tls-cert $D/other.pem >>$C",
        "/other.pem is not valid for host.example",
        By("get one with the hostname", "sed -i s/other/good/ $C"),
    ),
    advice(
        "echo tls-cert $D/good.pem >>$C; chmod 644 $D/good.pem",
        "/good.pem (mode 644) is accessible to all users",
        Printed,
    ),
];
#[cfg(not(feature = "tls"))]
const OF_TLS: &[Row] = &[];

/// Here users are those of the system, and mailslot becomes mailslot:mail. `$AS` is who asks.
const AS_ROOT: &[Row] = &[
    // Before the first start.
    stops("userdel mailslot", "there is no user mailslot", Printed),
    stops("rmdir $D/spool", "/spool does not exist", Printed),
    stops("rmdir $D/mail", "/mail does not exist", Printed),
    // Privileges.
    stops(
        "AS='setpriv --reuid mailslot --regid mail --clear-groups --'",
        "cannot write to the mailboxes of other users",
        By(
            "with CAP_SETUID and CAP_SETGID (AmbientCapabilities= of systemd)",
            "AS='setpriv --reuid mailslot --regid mail --clear-groups --inh-caps=+setuid,+setgid \
             --ambient-caps=+setuid,+setgid --'",
        ),
    ),
    stops(
        "AS='setpriv --reuid mailslot --regid mail --clear-groups --inh-caps=+setuid,+setgid \
         --ambient-caps=+setuid,+setgid --'; sed -i 's/:0$/:25/' $C",
        "127.0.0.1:25: not permitted to uid",
        By("choose a port above 1023", "sed -i 's/:25$/:2525/' $C"),
    ),
    stops(
        "echo run-as mailbox >>$C",
        "there is no user mailbox",
        By("or choose another with run-as", "sed -i s/mailbox/mailslot/ $C"),
    ),
    stops(
        "echo run-as mailslot:post >>$C",
        "there is no group post",
        By("correct run-as", "sed -i s/:post/:mail/ $C"),
    ),
    stops(
        "sed -i /root/d $D/aliases",
        "mail for root is deferred",
        By("add an alias for root", "echo root: alice >>$D/aliases"),
    ),
    // Folders.
    stops("chown root $D/spool", "is not writable by mailslot:mail", Printed),
    stops("chown root:root $D/mail", "is not writable by mailslot:mail", Printed),
    advice(
        "chown mailslot $D/mail; chmod 755 $D/mail",
        "users without a mailbox cannot create one",
        Printed,
    ),
    stops(
        "mkdir -m 700 $D/shut; mv $D/mail $D/shut; sed -i s,/mail$,/shut/mail, $C",
        "/shut is not searchable by mailslot:mail",
        Printed,
    ),
    stops(
        "mount -t tmpfs -o size=16k,mode=700,uid=$(id -u mailslot) none $D/spool",
        "/spool: 0 MiB are free",
        By("free space", "umount $D/spool"),
    ),
    stops(
        "mount -t tmpfs -o ro,mode=700,uid=$(id -u mailslot) none $D/spool",
        "mounted read-only",
        By("mount -o remount,rw", "mount -o remount,rw $D/spool"),
    ),
    stops("touch $D/spool/journal-0", "cannot be opened by mailslot:mail", Printed),
    // Mailboxes.
    stops(
        "touch $D/mail/alice; chown bob $D/mail/alice; chmod 600 $D/mail/alice",
        "/alice belongs to uid",
        Printed,
    ),
    // Names.
    advice(
        "echo mail.example >/etc/mailname",
        "mail for user@mail.example is rejected",
        By("correct /etc/mailname", "echo host.example >/etc/mailname"),
    ),
    advice(
        "echo mail.example >/etc/mailname; sed -i /^domain/d $C",
        "mail for user@host.example is rejected",
        By("add domain host.example", "printf 'domain %s\\n' host.example mail.example >>$C"),
    ),
    advice(
        "hostname other; sed -i '/^hostname/d; s/^domain.*/domain other/' $C",
        "hostname other has no dot",
        By(
            "add the full name to /etc/hosts",
            "echo 127.0.1.1 other.example other >/etc/hosts; echo domain other.example >>$C",
        ),
    ),
    // Aliases.
    advice(
        "echo 'alice: bob' >>$D/aliases",
        "alias `alice` hides the user of that name",
        By("unless that is intended", "sed -i /^alice:/d $D/aliases"),
    ),
    stops(
        "echo \"list: :include:$D/list\" >>$D/aliases; echo bob >$D/list; chown bob $D/list",
        "belongs to user id",
        Printed,
    ),
];

/// A message for alice.
const DELIVER: &str = "printf 'HELO h\\r\\nMAIL FROM:<>\\r\\nRCPT TO:<alice@host.example>\\r\\n\
                       DATA\\r\\nSubject: x\\r\\n\\r\\nx\\r\\n.\\r\\nQUIT\\r\\n' | \
                       $P --inetd -c $C --log stderr 2>$D/log | grep '^250 2.0.0' || cat $D/log";

/// A host in a folder, and a shell that stays, so that a row may change what is the shell's own.
struct Host {
    folder: TempDir,
    shell: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Host {
    /// One where all is in order; its shell is run by `starter`.
    fn new(program: &Path, starter: &[&str], conf: &str) -> Host {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        let dir = path.to_str().unwrap();
        let conf = format!(
            "listen 127.0.0.1:0\nhostname host.example\ndomain host.example\n\
             aliases {dir}/aliases\nmail-dir {dir}/mail\nspool {dir}/spool\n{conf}"
        );
        fs::write(path.join("conf"), conf).unwrap();
        fs::write(path.join("aliases"), "postmaster: alice\n").unwrap();
        for name in ["conf", "aliases"] {
            fs::set_permissions(path.join(name), Permissions::from_mode(0o644)).unwrap();
        }
        for name in ["mail", "spool"] {
            fs::create_dir(path.join(name)).unwrap();
            fs::set_permissions(path.join(name), Permissions::from_mode(0o700)).unwrap();
        }
        let words = [starter, &["sh"]].concat();
        let mut shell = Command::new(words[0]);
        shell.args(&words[1..]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        shell.env("D", path).env("C", path.join("conf")).env("P", program);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = shell.stdin.take().unwrap();
        let output = BufReader::new(shell.stdout.take().unwrap());
        let mut host = Host { folder, shell, input, output };
        host.must("umask 022");
        host
    }

    /// The same, for users of the system, whom it brings with it. Needs root.
    fn of_users(program: &Path) -> Host {
        const UNSHARE: &[&str] =
            &["unshare", "--mount", "--uts", "--net", "--propagation", "private"];
        let mut host = Host::new(program, UNSHARE, "");
        host.must(
            "mkdir $D/etc; cp -L /etc/nsswitch.conf /etc/login.defs /etc/ld.so.cache $D/etc
             echo root:x:0:0::/root:/bin/sh >$D/etc/passwd
             printf 'root:x:0:\\nmail:x:8:\\n' >$D/etc/group
             touch $D/etc/shadow $D/etc/gshadow
             mount --bind $D/etc /etc && ip link set lo up && hostname host.example
             useradd --system --gid mail --shell /usr/sbin/nologin mailslot
             useradd -M alice && useradd -M bob
             chown root:mail $D/mail && chmod 2775 $D/mail && chown mailslot:mail $D/spool
             echo root: alice >>$D/aliases",
        );
        host
    }

    /// What a line of shell prints on both its outputs, and how it ends.
    fn run(&mut self, line: &str) -> (String, i32) {
        write!(self.input, "{{ {line}\n}} 2>&1; echo \"=status $?\"\n").unwrap();
        let mut text = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the shell is gone: {text}");
            if let Some(status) = line.strip_prefix("=status ") {
                return (text, status.trim().parse().unwrap());
            }
            text += &line;
        }
    }

    /// The same; it must end well.
    fn must(&mut self, line: &str) {
        let (text, status) = self.run(line);
        assert_eq!(status, 0, "{line}: {text}");
    }

    /// What `check` prints, and its exit status.
    fn check(&mut self) -> (String, i32) {
        self.run("$AS $P check -c $C")
    }

    /// Asserts that all is in order.
    fn assert_silent(&mut self, after: &str) {
        let (text, status) = self.check();
        assert!(text.ends_with("\nno problems\n"), "{after}\n{text}");
        assert_eq!(status, 0, "{after}");
    }

    /// Breaks the host as `row` tells, and mends it.
    fn suffer(&mut self, row: &Row) {
        let Row { fault, says, stops, fix } = row;
        self.assert_silent("before");
        self.must(fault);
        let (text, status) = self.check();
        let weight = if *stops { "problem" } else { "advice" };
        let hit = text.split("\n\n").find(|part| {
            part.trim_start().starts_with(&format!("{weight}: ")) && part.contains(says)
        });
        let hit = hit.unwrap_or_else(|| panic!("{fault}\nno {weight} {says:?} in\n{text}"));
        assert_eq!(status, if *stops { 78 } else { 0 }, "{fault}\n{text}");
        let (_, printed) = hit.split_once("\n   fix: ").expect("a fix");
        let printed = printed.lines().next().unwrap();
        assert!(!printed.is_empty(), "{fault}\n{text}");
        match fix {
            Printed => self.must(printed),
            By(words, line) => {
                assert!(printed.contains(words), "{fault}: {words:?} in {printed:?}");
                self.must(line);
            }
        }
        self.assert_silent(fault);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It is a child that was not waited for: its pid is nobody else's.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Certificates in `$D`, each in one file with its key: one for the host, one for another, and one
/// that has expired.
#[cfg(feature = "tls")]
fn certify(host: &Host) {
    for (file, name, ends) in [
        ("good", "host.example", 2100),
        ("other", "other.example", 2100),
        ("late", "host.example", 2001),
    ] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(ends, 1, 1);
        let cert = params.self_signed(&key).unwrap();
        let path = host.folder.path().join(format!("{file}.pem"));
        fs::write(&path, cert.pem() + &key.serialize_pem()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
}
#[cfg(not(feature = "tls"))]
fn certify(_: &Host) {}

/// The program where everybody may run it, as cargo's folders may not let them.
struct Everybodys(TempDir);

impl Everybodys {
    fn new() -> Everybodys {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(PROGRAM, folder.path().join("mailslot")).unwrap();
        Everybodys(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("mailslot")
    }
}

/// Tests every row, whatever becomes of the others.
fn for_each(rows: impl Iterator<Item = &'static Row>, test: impl Fn(&Row)) {
    let tested = rows.filter(|row| catch_unwind(AssertUnwindSafe(|| test(row))).is_err());
    let failed: Vec<_> = tested.map(|row| row.fault).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

const USERS: &str = "user alice\nuser bob\n";

#[test]
fn each_fix_repairs_its_fault() {
    for_each(AS_ANYBODY.iter().chain(OF_TLS), |row| {
        let mut host = Host::new(Path::new(PROGRAM), &[], USERS);
        certify(&host);
        host.suffer(row);
    });
}

/// Root checks by the permission bits what others may; others ask the kernel.
#[test]
#[ignore = "needs root, and setpriv"]
fn it_is_the_same_for_nobody() {
    assert!(geteuid().is_root());
    let (uid, gid) = (65534, 65534);
    let starter = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
    let program = Everybodys::new();
    for_each(AS_ANYBODY.iter().chain(OF_TLS), |row| {
        // It may be owned by root until the shell changes its user: that comes first.
        let mut host = Host::new(&program.path(), &starter, USERS);
        certify(&host);
        let path = host.folder.path().to_owned();
        chown(&path, Some(uid), Some(gid)).unwrap();
        for entry in fs::read_dir(&path).unwrap() {
            chown(entry.unwrap().path(), Some(uid), Some(gid)).unwrap();
        }
        host.suffer(row);
    });
}

#[test]
#[ignore = "needs root, unshare, setpriv, ip, and useradd"]
fn each_fix_repairs_its_fault_on_a_host_of_its_own() {
    assert!(geteuid().is_root());
    let program = Everybodys::new();
    for_each(AS_ROOT.iter(), |row| Host::of_users(&program.path()).suffer(row));
}

/// A new host has neither the user, nor the folders. The fixes, pasted in their order, make them.
#[test]
#[ignore = "needs root, unshare, setpriv, ip, and useradd"]
fn check_prepares_the_first_start() {
    let program = Everybodys::new();
    let mut host = Host::of_users(&program.path());
    host.must("userdel mailslot; rmdir $D/mail $D/spool");
    let (text, status) = host.check();
    assert_eq!(status, 78, "{text}");
    let fixes: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("   fix: ")).collect();
    assert_eq!(fixes.len(), 3, "{text}");
    for fix in fixes {
        host.must(fix);
    }
    host.assert_silent("first start");
    host.must(
        "echo test $(stat -c '%U:%G %a' $D/mail $D/spool) | grep -Fx \
               'test root:mail 2775 mailslot:mail 700'",
    );
}

#[test]
fn a_port_that_another_server_has() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut host = Host::new(Path::new(PROGRAM), &[], USERS);
    host.must(&format!("sed -i 's/^listen.*/listen {}/' $C", other.local_addr().unwrap()));
    let (text, status) = host.check();
    assert_eq!(status, 78, "{text}");
    assert!(text.contains("is in use by a program that sends no greeting"), "{text}");
    assert!(text.contains("fix: stop it, or choose another address"), "{text}");
    drop(other);
    host.assert_silent("after it is stopped");
}

/// What was acknowledged, and what a killed server had not written back.
#[test]
fn a_journal_that_a_dead_server_left() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let path = folder.path().to_str().unwrap().to_owned();
    let check = || {
        let output =
            mailslot(&["check", "--sandbox", &path, "-l", "127.0.0.1:0"]).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    let server = Server::start_in(folder.clone(), &[]);
    let pid = server.pid();
    server.after_ehlo().deliver("", &["a@localhost"], "Subject: x\r\n\r\nx\r\n", 250);
    // A living server's journal is its own affair.
    assert!(check().0.ends_with("\nno problems\n"), "{}", check().0);
    server.signal(Signal::SIGKILL);
    server.ended();
    let (text, status) = check();
    assert!(
        text.contains(&format!(
            "was left by a process that is gone (pid {pid}), with 1 message in it"
        )),
        "{text}"
    );
    assert_eq!(status, Some(0), "{text}");
    let (_, status) = Server::start_in(folder, &[]).stop();
    assert_eq!(status.code(), Some(0));
    assert!(check().0.ends_with("\nno problems\n"), "{}", check().0);
}
