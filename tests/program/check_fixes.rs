//! Every fault that `mailslot check` knows: the test makes it, `check` reports it with a fix, the
//! test applies the fix, and `check` reports nothing more.
//!
//! A row is a line of shell that makes the fault on a host without any, what `check` must report,
//! and the fix: mostly the line just as `check` printed it. The shell has `$D`, the directory of
//! the host, and `$C`, its configuration file. The rows of [`AS_ANY_USER`] run as the user who runs
//! the tests and, if that is root, once more as nobody. Those of [`AS_ROOT`] have a host name,
//! `/etc` and network of their own.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use Fix::{By, Printed, Unneeded};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::harness::directory::TestDirectory;
use crate::harness::namespace::Namespace;
use crate::harness::server::{PROGRAM, Server, copy_program, mailslot};
use crate::harness::shell::Shell;

/// A fault.
struct Row {
    /// Shell that makes it.
    fault: &'static str,
    /// Text that `check` must print.
    says: &'static str,
    /// Whether it is a problem, which stops mail, and not advice.
    stops: bool,
    fix: Fix,
}

/// Fix of a fault.
enum Fix {
    /// The line that `check` printed.
    Printed,
    /// `check` prints the first text as part of its fix. The second is the shell that does what it
    /// says.
    By(&'static str, &'static str),
    /// `check` prints no fix. The shell does what mailslot does next.
    Unneeded(&'static str),
}

const fn stops(fault: &'static str, says: &'static str, fix: Fix) -> Row {
    Row { fault, says, stops: true, fix }
}

const fn advice(fault: &'static str, says: &'static str, fix: Fix) -> Row {
    Row { fault, says, stops: false, fix }
}

const AS_ANY_USER: &[Row] = &[
    // Settings.
    advice(
        "echo max-size 63K >>$C",
        "max-size 64512 is below",
        By("set max-size to 64K", "sed -i s/63K$/64K/ $C"),
    ),
    advice(
        "echo max-recipients 99 >>$C",
        "max-recipients 99 is below",
        By("set max-recipients to 100", "sed -i s/99$/100/ $C"),
    ),
    advice(
        "echo timeout 4m >>$C",
        "timeout 240 is below",
        By("set timeout to 300", "sed -i s/4m$/300/ $C"),
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
    // Mail directory and spool.
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
        "echo mailbox-limit 1 >>$C; echo 'From ' >$D/mail/alice; chmod 600 $D/mail/alice",
        "(6 bytes) has reached mailbox-limit",
        By("raise mailbox-limit", "sed -i 's/limit.*/limit 1M/' $C"),
    ),
    advice(
        "printf 'From a\\n\\nb' >$D/mail/alice; chmod 600 $D/mail/alice",
        "does not end with a newline",
        Unneeded(DELIVER),
    ),
    advice(
        "echo 77 >$D/mail/alice.lock; touch -d '1 hour ago' $D/mail/alice.lock",
        "/alice.lock (pid 77, 36",
        Unneeded(DELIVER),
    ),
    advice(
        "touch -d '1 hour ago' $D/mail/alice.lock",
        "/alice.lock (pid unknown, 36",
        Unneeded("rm $D/mail/alice.lock"),
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
const TLS: &[Row] = &[
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
const TLS: &[Row] = &[];

/// Users are those of the system, and mailslot becomes mailslot:mail. `$AS` runs `check` as another
/// user.
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
        "127.0.0.1:25: not permitted to mailslot",
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
    // Directories.
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
        By("let mailslot:mail search", "chmod o+x $D/shut"),
    ),
    stops(
        "mount -t tmpfs -o size=16k,mode=711,uid=$(id -u mailslot) none $D/spool",
        "/spool: 0 MiB are free",
        By("free space", "umount $D/spool"),
    ),
    stops(
        "mount -t tmpfs -o ro,mode=711,uid=$(id -u mailslot) none $D/spool",
        "mounted read-only",
        By("mount -o remount,rw", "mount -o remount,rw $D/spool"),
    ),
    advice("chmod 700 $D/spool", "users cannot leave mail in", Printed),
    advice("mkdir $D/spool/hand-over", "/hand-over (owner 0:0, mode 755) is not used", Printed),
    stops(
        "install -d -o mailslot -g mail -m 3733 $D/spool/hand-over; touch $D/spool/journal-0",
        "cannot be opened by mailslot:mail",
        Printed,
    ),
    // Mailboxes.
    stops(
        "touch $D/mail/alice; chown bob $D/mail/alice; chmod 600 $D/mail/alice",
        "/alice belongs to bob, not alice",
        Printed,
    ),
    // Names.
    advice(
        "echo mail.example >/etc/mailname",
        "mail for user@mail.example is rejected",
        By("correct /etc/mailname", "echo host.example >/etc/mailname"),
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

/// Shell that delivers a message to alice.
const DELIVER: &str = "printf 'HELO h\\r\\nMAIL FROM:<>\\r\\nRCPT TO:<alice@host.example>\\r\\n\
                       DATA\\r\\nSubject: x\\r\\n\\r\\nx\\r\\n.\\r\\nQUIT\\r\\n' | \
                       $P --inetd -c $C --log stderr 2>$D/log | grep '^250 2.0.0' || cat $D/log";

/// A host in a directory, and a shell in which a row may change what belongs to the shell.
pub struct Host {
    directory: TestDirectory,
    pub shell: Shell,
}

impl Host {
    /// Creates a host without any fault. Its shell is run by `command`.
    fn new(program: &Path, mut command: Command, conf: &str) -> Host {
        let directory = TestDirectory::with_mail_and_spool();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let dir = directory.as_str();
        let conf = format!(
            "listen 127.0.0.1:0\nhostname host.example\ndomain host.example\n\
             aliases {dir}/aliases\nmail-dir {dir}/mail\nspool {dir}/spool\n{conf}"
        );
        fs::write(directory.join("conf"), conf).unwrap();
        fs::write(directory.join("aliases"), "postmaster: alice\n").unwrap();
        for (name, mode) in [("conf", 0o644), ("aliases", 0o644), ("mail", 0o700), ("spool", 0o700)]
        {
            fs::set_permissions(directory.join(name), Permissions::from_mode(mode)).unwrap();
        }
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("D", directory.path()).env("C", directory.join("conf")).env("P", program);
        let mut host = Host { directory, shell: Shell::start(command) };
        host.shell.must("umask 022");
        host
    }

    /// Creates a host with the program and the users of the test.
    pub fn here() -> Host {
        Host::new(Path::new(PROGRAM), Command::new("sh"), USERS)
    }

    /// Creates a host whose shell runs as the user nobody. Needs root.
    pub fn of_nobody(program: &Path) -> Host {
        // The shell changes its user before the files are given to that user.
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--", "sh"]);
        Host::new(program, command, USERS)
    }

    /// Gives all files of the host to nobody.
    pub fn give_to_nobody(&self) {
        let path = self.directory.path();
        chown(path, Some(65534), Some(65534)).unwrap();
        for entry in fs::read_dir(path).unwrap() {
            chown(entry.unwrap().path(), Some(65534), Some(65534)).unwrap();
        }
    }

    /// Creates a host with its own users of the system, name and network. Needs root.
    pub fn of_users(program: &Path) -> Host {
        let mut command = Namespace::new().unshare(&["--uts", "--net"]).command();
        command.arg("sh");
        let mut host = Host::new(program, command, "");
        host.shell.must(
            "mkdir $D/etc; cp -L /etc/nsswitch.conf /etc/login.defs /etc/ld.so.cache $D/etc
             echo root:x:0:0::/root:/bin/sh >$D/etc/passwd
             printf 'root:x:0:\\nmail:x:8:\\n' >$D/etc/group
             touch $D/etc/shadow $D/etc/gshadow
             mount --bind $D/etc /etc && ip link set lo up && hostname host.example
             useradd --system --gid mail --shell /usr/sbin/nologin mailslot
             useradd -M alice && useradd -M bob
             chown root:mail $D/mail && chmod 2775 $D/mail && chown mailslot:mail $D/spool
             chmod 711 $D/spool
             for path in /usr/sbin/sendmail /usr/lib/sendmail; do
                 [ ! -e $path ] || mount --bind $P $(readlink -f $path)
             done
             echo root: alice >>$D/aliases",
        );
        host
    }

    /// Returns what `check` prints, and its exit status.
    fn check(&mut self) -> (String, i32) {
        self.shell.run("$AS $P check -c $C")
    }

    /// Asserts that `check` finds nothing.
    fn assert_no_problems(&mut self, after: &str) {
        let (text, status) = self.check();
        assert!(text.ends_with("\nno problems\n"), "{after}\n{text}");
        assert_eq!(status, 0, "{after}");
    }

    /// Makes the fault of a row, checks what `check` prints, and applies the fix.
    fn make_and_fix(&mut self, row: &Row) {
        let Row { fault, says, stops, fix } = row;
        self.assert_no_problems("before");
        self.shell.must(fault);
        let (text, status) = self.check();
        let weight = if *stops { "problem" } else { "advice" };
        let hit = text.split("\n\n").find(|part| {
            part.trim_start().starts_with(&format!("{weight}: ")) && part.contains(says)
        });
        let hit = hit.unwrap_or_else(|| panic!("{fault}\nno {weight} {says:?} in\n{text}"));
        assert_eq!(status, if *stops { 78 } else { 0 }, "{fault}\n{text}");
        if let Unneeded(line) = fix {
            assert!(!hit.contains("\n   fix: "), "{fault}\n{text}");
            self.shell.must(line);
            return self.assert_no_problems(fault);
        }
        let (_, printed) = hit.split_once("\n   fix: ").expect("a fix");
        let printed = printed.lines().next().unwrap();
        assert!(!printed.is_empty(), "{fault}\n{text}");
        match fix {
            Printed | Unneeded(_) => drop(self.shell.must(printed)),
            By(words, line) => {
                assert!(printed.contains(words), "{fault}: {words:?} in {printed:?}");
                self.shell.must(line);
            }
        }
        self.assert_no_problems(fault);
    }
}

/// Writes certificates to `$D`, each in one file with its key: for the host, for another host, and
/// an expired one.
#[cfg(feature = "tls")]
pub fn certify(host: &Host) {
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
        let path = host.directory.join(format!("{file}.pem"));
        fs::write(&path, cert.pem() + &key.serialize_pem()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
}
#[cfg(not(feature = "tls"))]
pub fn certify(_: &Host) {}

/// A copy of the program that every user may run, because the directories of cargo may not let
/// them.
pub struct PublicProgram(TestDirectory);

impl PublicProgram {
    pub fn new() -> PublicProgram {
        let directory = TestDirectory::new();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        copy_program(&directory.join("mailslot"));
        PublicProgram(directory)
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("mailslot")
    }
}

/// Tests every row, even if others fail.
pub fn for_each<R: 'static>(
    rows: impl Iterator<Item = &'static R>,
    name: impl Fn(&R) -> &'static str,
    test: impl Fn(&R),
) {
    let tested = rows.filter(|row| catch_unwind(AssertUnwindSafe(|| test(row))).is_err());
    let failed: Vec<_> = tested.map(name).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

const USERS: &str = "user alice\nuser bob\n";

#[test]
fn each_fault_is_reported_with_a_fix_that_works() {
    for_each(
        AS_ANY_USER.iter().chain(TLS),
        |row| row.fault,
        |row| {
            let mut host = Host::here();
            certify(&host);
            host.make_and_fix(row);
        },
    );
}

/// root evaluates the permission bits, other users ask the kernel.
#[test]
#[ignore = "needs root, and setpriv"]
fn each_fault_for_an_ordinary_user() {
    assert!(geteuid().is_root());
    let program = PublicProgram::new();
    for_each(
        AS_ANY_USER.iter().chain(TLS),
        |row| row.fault,
        |row| {
            let mut host = Host::of_nobody(&program.path());
            certify(&host);
            host.give_to_nobody();
            host.make_and_fix(row);
        },
    );
}

#[test]
#[ignore = "needs root, unshare, setpriv, ip, and useradd"]
fn each_fault_of_a_host_is_reported_with_a_fix_that_works() {
    assert!(geteuid().is_root());
    let program = PublicProgram::new();
    let host = || Host::of_users(&program.path());
    for_each(AS_ROOT.iter(), |row| row.fault, |row| host().make_and_fix(row));
}

/// A new host has neither the user nor the directories. The fixes, applied in their order, create
/// them.
#[test]
#[ignore = "needs root, unshare, setpriv, ip, and useradd"]
fn check_prepares_the_first_start() {
    let program = PublicProgram::new();
    let mut host = Host::of_users(&program.path());
    host.shell.must("userdel mailslot; rmdir $D/mail $D/spool");
    let (text, status) = host.check();
    assert_eq!(status, 78, "{text}");
    let fixes: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("   fix: ")).collect();
    assert_eq!(fixes.len(), 3, "{text}");
    for fix in fixes {
        host.shell.must(fix);
    }
    host.assert_no_problems("first start");
    host.shell.must(
        "echo test $(stat -c '%U:%G %a' $D/mail $D/spool) | grep -Fx \
               'test root:mail 2775 mailslot:mail 711'",
    );
}

/// A wrong path led to fixes that would have given the directories of the host to mailslot.
#[test]
#[ignore = "needs root, unshare, setpriv, ip, and useradd"]
fn no_fix_changes_what_is_not_mailslots() {
    let program = PublicProgram::new();
    for (option, path) in [
        ("spool", "/var/spool"),
        ("spool", "/tmp"),
        ("spool", "/etc"),
        ("mail-dir", "/etc"),
        ("mail-dir", "/home/ann"),
        ("mail-dir", "/var"),
        ("metrics-file", "/etc/x.prom"),
        ("metrics-file", "/var/log/x.prom"),
    ] {
        let mut host = Host::of_users(&program.path());
        host.shell.must(
            "mount -t tmpfs none /home; mkdir -m 700 -p /home/ann; mkdir /home/ann/Documents
             touch /home/ann/notes; useradd -M -d /home/ann ann; chown -R ann /home/ann",
        );
        host.shell.must(&format!("sed -i '/^{option}/d' $C; echo '{option} {path}' >>$C"));
        let (text, _) = host.check();
        assert!(text.contains(&format!("{option} {path}")) || option == "metrics-file", "{text}");
        for fix in text.lines().filter_map(|line| line.strip_prefix("   fix: ")) {
            let word = fix.split(' ').next().unwrap();
            let changes = ["chown", "chmod", "chgrp", "mv", "rm", "install"];
            assert!(!changes.contains(&word), "{option} {path}: {fix}\n{text}");
        }
    }
}

#[test]
fn port_in_use_by_another_server() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut host = Host::here();
    host.shell.must(&format!("sed -i 's/^listen.*/listen {}/' $C", other.local_addr().unwrap()));
    let (text, status) = host.check();
    assert_eq!(status, 78, "{text}");
    assert!(text.contains("is in use by a program that sends no greeting"), "{text}");
    assert!(text.contains("fix: stop it, or choose another address"), "{text}");
    drop(other);
    host.assert_no_problems("after it is stopped");
}

/// Mail that was acknowledged, and that a killed server had not yet written to the mailbox.
#[test]
fn journal_of_a_dead_server() {
    let directory = TestDirectory::new();
    let path = directory.as_str().to_owned();
    let check = || {
        let output =
            mailslot(&["check", "--sandbox", &path, "-l", "127.0.0.1:0"]).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    let server = Server::start_in(directory.clone(), &[]);
    let pid = server.pid();
    server.after_ehlo().deliver("", &["a@localhost"], "Subject: x\r\n\r\nx\r\n", 250);
    // The journal of a running server is not reported.
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
    let (_, status) = Server::start_in(directory, &[]).stop();
    assert_eq!(status.code(), Some(0));
    assert!(check().0.ends_with("\nno problems\n"), "{}", check().0);
}
