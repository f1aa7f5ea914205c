//! `mailslot check` and the start agree: the test makes a fault, runs `check`, and starts the
//! server. `check` must report that the start fails, with the very text of the start, or that it
//! passes.
//!
//! A row is a line of shell that makes the fault on a host without any. The shell has `$D`, the
//! directory of the host, `$C`, its configuration file, `$USED`, a port that another program
//! listens on, and `$FREE`, one that is free.

use std::net::TcpListener;
use std::path::Path;

use nix::unistd::geteuid;

use super::check_fixes::{Host, PublicProgram, certify, for_each};

/// A fault, and whether the server starts in spite of it.
struct Fault {
    shell: &'static str,
    starts: bool,
}

const fn fails(shell: &'static str) -> Fault {
    Fault { shell, starts: false }
}

const fn starts(shell: &'static str) -> Fault {
    Fault { shell, starts: true }
}

/// Faults of an installation that runs as the user who runs the tests, even as root.
const AS_ANY_USER: &[Fault] = &[
    starts("true"),
    // The configuration.
    fails("echo threads many >>$C"),
    fails("echo threats 1 >>$C"),
    fails("rm $C"),
    fails("rm $C; mkdir $C"),
    fails("head -c 2M /dev/zero >>$C"),
    fails("echo listen 127.0.0.1 >>$C"),
    fails("echo hostname under_score. >>$C"),
    fails("echo 'relay-from 10.0.0.0/33' >>$C"),
    fails("echo run-as no-such-user >>$C"),
    fails("echo run-as root:no-such-group >>$C"),
    starts("echo threads 4096 >>$C"),
    starts("echo forward-files on >>$C"),
    starts("echo metrics-file $D/none/x.prom >>$C"),
    // The mail directory.
    fails("rmdir $D/mail"),
    fails("rmdir $D/mail; touch $D/mail"),
    fails("rmdir $D/mail; ln -s none $D/mail"),
    starts("mv $D/mail $D/real; ln -s real $D/mail"),
    starts("chmod 500 $D/mail"),
    starts("ln -s other $D/mail/alice"),
    fails("chmod 0 $D/mail"),
    fails("sed -i s,/mail$,/none/mail, $C"),
    // The spool.
    fails("rmdir $D/spool"),
    fails("rmdir $D/spool; touch $D/spool"),
    fails("rmdir $D/spool; ln -s none $D/spool"),
    starts("mv $D/spool $D/real; ln -s real $D/spool"),
    fails("chmod 500 $D/spool"),
    fails("chmod 770 $D/spool"),
    fails("chmod 0 $D/spool"),
    fails("sed -i 's,^spool.*,spool '$D/mail, $C"),
    // Journals.
    starts("touch $D/spool/journal-0; chmod 600 $D/spool/journal-0"),
    starts("head -c 8192 /dev/urandom >$D/spool/journal-0; chmod 600 $D/spool/journal-0"),
    fails("touch $D/spool/journal-0; chmod 666 $D/spool/journal-0"),
    fails("touch $D/spool/journal-0; chmod 0 $D/spool/journal-0"),
    fails("mkdir $D/spool/journal-0"),
    fails("ln -s none $D/spool/journal-0"),
    // Addresses.
    fails("sed -i s/:0$/:$USED/ $C"),
    fails("echo lmtp 127.0.0.1:$USED >>$C"),
    fails("echo listen 127.0.0.1:$FREE >>$C; echo listen 127.0.0.1:$FREE >>$C"),
    fails("echo listen 0.0.0.0:$FREE >>$C; echo listen 127.0.0.1:$FREE >>$C"),
    starts("echo listen 0.0.0.0:$FREE >>$C; echo \"listen [::]:$FREE\" >>$C"),
    starts("echo \"listen [::1]:0\" >>$C"),
    fails("echo listen 192.0.2.77:0 >>$C"),
    fails("echo lmtp 192.0.2.77:0 >>$C"),
    fails("echo \"listen [2001:db8::77]:0\" >>$C"),
    starts("echo listen unix:$D/socket >>$C"),
    fails("echo listen unix:$D/none/socket >>$C"),
    fails("echo lmtp unix:$D/none/socket >>$C"),
    fails("echo listen unix:$C >>$C"),
    fails("mkdir $D/s; echo listen unix:$D/s >>$C"),
    fails("mkdir -m 500 $D/shut; echo listen unix:$D/shut/socket >>$C"),
    fails("mkdir -m 0 $D/shut; echo listen unix:$D/shut/socket >>$C"),
    // Relaying.
    starts("echo smarthost 127.0.0.1:25 >>$C; echo smarthost-tls may >>$C"),
    fails("printf 'smarthost a.test\nsmarthost-tls may\nsmarthost-login '$D/none >>$C"),
    fails(
        "printf 'smarthost a.test\nsmarthost-tls may\nsmarthost-login '$D/login >>$C
         echo 'a.test bob x' >$D/login; chmod 644 $D/login",
    ),
    fails(
        "printf 'smarthost a.test\nsmarthost-tls may\nsmarthost-login '$D/login >>$C
         echo 'a.test' >$D/login; chmod 600 $D/login",
    ),
    starts(
        "printf 'smarthost a.test\nsmarthost-tls may\nsmarthost-login '$D/login >>$C
         echo 'a.test bob x' >$D/login; chmod 600 $D/login",
    ),
    fails(
        "printf 'smarthost a.test\nsmarthost-tls may\n' >>$C
         rm -rf $D/spool/queue; touch $D/spool/queue",
    ),
    fails(
        "printf 'smarthost a.test\nsmarthost-tls may\n' >>$C
         rm -rf $D/spool/queue; ln -s none $D/spool/queue",
    ),
    // Aliases.
    starts("rm $D/aliases"),
    starts("chmod 0 $D/aliases"),
    starts("printf 'a: b\nb: a\n' >>$D/aliases"),
];

#[cfg(feature = "tls")]
const TLS: &[Fault] = &[
    starts("echo tls-cert $D/good.pem >>$C"),
    starts("echo tls-cert $D/late.pem >>$C"),
    starts("echo tls-cert $D/good.pem >>$C; echo listen tls:127.0.0.1:0 >>$C"),
    fails("echo tls-cert $D/none.pem >>$C"),
    fails("touch $D/empty.pem; echo tls-cert $D/empty.pem >>$C"),
    fails("echo tls-cert $D >>$C"),
    fails("echo tls-cert $D/good.pem >>$C; echo tls-key $D/late.pem >>$C"),
    fails("chmod 0 $D/good.pem; echo tls-cert $D/good.pem >>$C"),
    fails(CLOSED_DIRECTORY),
    fails("echo tls-key $D/good.pem >>$C"),
    fails("echo tls-required on >>$C"),
    fails("printf 'smarthost a.test\nsmarthost-ca '$D/none >>$C"),
    fails("printf 'smarthost a.test\nsmarthost-ca '$D/empty >>$C; touch $D/empty"),
    starts("printf 'smarthost a.test\nsmarthost-ca '$D/good.pem >>$C"),
    fails("echo listen tls:127.0.0.1:0 >>$C"),
];
#[cfg(not(feature = "tls"))]
const TLS: &[Fault] = &[fails("echo tls-cert $D/good.pem >>$C")];

/// A certificate in a directory that is closed, as those of certbot are.
const CLOSED_DIRECTORY: &str = "mkdir $D/live; mv $D/good.pem $D/live; chmod 0 $D/live
                                echo tls-cert $D/live/good.pem >>$C";

/// Faults that root passes by, because no permission keeps root from reading before the privileges
/// are dropped.
const ROOT_READS: &[&str] = &[
    "chmod 0 $D/good.pem; echo tls-cert $D/good.pem >>$C",
    CLOSED_DIRECTORY,
    "mkdir -m 500 $D/shut; echo listen unix:$D/shut/socket >>$C",
    "mkdir -m 0 $D/shut; echo listen unix:$D/shut/socket >>$C",
];

/// Faults of a host whose server is started as root and becomes mailslot:mail.
const AS_ROOT: &[Fault] = &[
    starts("true"),
    fails("userdel mailslot"),
    fails("chown root $D/spool"),
    starts("chown root:root $D/mail"),
    fails("mkdir -m 700 $D/shut; mv $D/mail $D/shut; sed -i s,/mail$,/shut/mail, $C"),
    fails("mkdir -m 700 $D/shut; mv $D/spool $D/shut; sed -i s,/spool$,/shut/spool, $C"),
    fails("mount -t tmpfs -o size=16k,mode=700,uid=$(id -u mailslot) none $D/spool"),
    fails("mount -t tmpfs -o ro,mode=700,uid=$(id -u mailslot) none $D/spool"),
    fails("touch $D/spool/journal-0; chmod 600 $D/spool/journal-0"),
    fails("sed -i '/^spool/d' $C; echo spool /var/spool >>$C"),
    starts("sed -i '/^mail-dir/d' $C; echo mail-dir /etc >>$C"),
    starts("sed -i s/:0$/:25/ $C"),
    starts("mv $D/mail $D/real; ln -s real $D/mail"),
    starts("chmod 600 $C"),
    fails("ip link set lo down; sed -i s/127.0.0.1:0/192.0.2.1:25/ $C"),
];

/// Faults of a host where systemd starts the service as mailslot:mail. `check` is run by root.
const AS_SERVICE: &[Fault] = &[
    starts("true"),
    starts("sed -i s/:0$/:25/ $C"),
    fails("sed -i s/:0$/:25/ $C; KEPT=-all,+setuid,+setgid; sed -i 's/ CAP_NET.*//' $U"),
    fails("chmod 600 $C"),
    fails("chown root $D/spool"),
    fails("echo run-as alice >>$C"),
    starts("echo run-as mailslot:mail >>$C"),
    fails("echo listen unix:/run/smtp >>$C"),
    fails(
        "printf 'smarthost a.test\nsmarthost-tls may\nsmarthost-login '$D/login >>$C
         echo 'a.test bob x' >$D/login; chmod 600 $D/login",
    ),
    fails("mkdir $U.d; printf '[Service]\nUser=bob\n' >$U.d/user.conf; RUN=bob"),
];

impl Host {
    /// Makes the fault, and compares `check` with the start, which `$AS` begins.
    fn assert_agreement(&mut self, fault: &Fault) {
        let Fault { shell, starts } = fault;
        let used = TcpListener::bind("127.0.0.1:0").unwrap();
        let free = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        self.shell.must(&format!("USED={} FREE={}", port(&used), port(&free)));
        drop(free);
        self.shell.must(shell);
        let (text, status) = self.shell.run("$P check -c $C");
        let (started, _) = self.shell.run(
            "$($AS) $P -c $C >$D/out 2>$D/err & server=$!
             until grep -q ' listens on ' $D/out || ! kill -0 $server 2>/dev/null
             do sleep 0.02; done
             kill $server 2>/dev/null; wait $server; echo ended with $?
             grep '^mailslot: ' $D/err | head -n 1; cat $D/out",
        );
        let said = format!("{shell}\n{text}\n{started}");
        assert_eq!(started.contains(" listens on "), *starts, "{said}");
        let result = text.lines().find_map(|line| line.strip_prefix("start            "));
        match result {
            Some("passes") => assert!(starts, "{said}"),
            Some(result) => {
                let why = result.strip_prefix("fails: ").expect("passes or fails");
                assert!(!starts, "{said}");
                assert_eq!(status, 78, "{said}");
                // setpriv(1) fails where systemd would.
                let same = started.contains(&format!("mailslot: {why}\n"));
                assert!(same || shell.contains("RUN="), "{said}");
                assert!(text.contains("\nproblem: "), "{said}");
            }
            // The configuration is wrong for both.
            None => {
                assert!(!starts, "{said}");
                let line = text.lines().next().unwrap_or_default();
                assert!(started.contains(line), "{said}");
                assert!(started.contains(&format!("ended with {status}\n")), "{said}");
            }
        }
        let left = self.shell.must("ls -A $D/mail $D/spool; rm -f $D/out $D/err");
        assert!(!left.contains("rehearsal-"), "{said}\n{left}");
    }
}

fn assert_agreement(fault: &Fault, mut host: Host) {
    host.shell.must("AS=true");
    host.assert_agreement(fault);
}

#[test]
fn check_agrees_with_the_start() {
    let root = geteuid().is_root();
    let faults = AS_ANY_USER.iter().chain(TLS);
    let faults = faults.filter(|fault| !root || !ROOT_READS.contains(&fault.shell));
    for_each(
        faults,
        |fault| fault.shell,
        |fault| {
            let host = Host::here();
            certify(&host);
            assert_agreement(fault, host)
        },
    );
}

#[test]
#[ignore = "needs root, and setpriv"]
fn check_agrees_with_the_start_of_an_ordinary_user() {
    assert!(geteuid().is_root());
    let program = PublicProgram::new();
    let faults = AS_ANY_USER.iter().chain(TLS);
    let nobody = || Host::of_nobody(&program.path());
    for_each(
        faults,
        |fault| fault.shell,
        |fault| {
            let host = nobody();
            certify(&host);
            host.give_to_nobody();
            assert_agreement(fault, host);
        },
    );
}

#[test]
#[ignore = "needs root, unshare, setpriv, ip, and useradd"]
fn check_agrees_with_the_start_of_root() {
    assert!(geteuid().is_root());
    let program = PublicProgram::new();
    let host = || Host::of_users(&program.path());
    for_each(AS_ROOT.iter(), |fault| fault.shell, |fault| assert_agreement(fault, host()));
}

/// The rehearsal has the user and the capabilities of the unit, and not those of root.
#[test]
#[ignore = "needs root, unshare, setpriv, ip, and useradd"]
fn check_agrees_with_the_start_of_the_service() {
    assert!(geteuid().is_root());
    let program = PublicProgram::new();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd/mailslot.service");
    for_each(
        AS_SERVICE.iter(),
        |fault| fault.shell,
        |fault| {
            let mut host = Host::of_users(&program.path());
            host.shell.must(&format!(
                "mount -t tmpfs -o mode=755 none /run; mkdir -p /run/systemd/system
             mkdir -p /etc/systemd/system; U=/etc/systemd/system/mailslot.service
             sed '/^Protect/d; /^PrivateTmp/d; /^ReadWritePaths/d' {} >$U; RUN=mailslot
             KEPT=-all,+setuid,+setgid,+net_bind_service",
                unit.display()
            ));
            host.shell.must(
                "as() { echo setpriv --reuid $RUN --regid mail --clear-groups --inh-caps $KEPT \
             --ambient-caps $KEPT --bounding-set $KEPT --; }; AS=as",
            );
            host.assert_agreement(fault);
        },
    );
    let mut host = Host::of_users(&program.path());
    let (text, _) = host.shell.run("$P check -c $C");
    assert!(text.contains("\nprivileges       root, becomes mailslot:mail"), "{text}");
}

/// The shipped unit has a file system that is read-only except for two directories, and sees no
/// home directory and another /tmp. The directories of the test take the places of real ones in the
/// namespace.
#[test]
#[ignore = "needs root, unshare, setpriv, ip, and useradd"]
fn check_sees_the_file_system_of_the_service() {
    let program = PublicProgram::new();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd/mailslot.service");
    let read_only = "Read-only file system";
    for (change, result) in [
        ("true", "passes"),
        ("spool /srv/spool", read_only),
        (
            "mkdir $U.d; printf '[Service]\nReadWritePaths=/srv/spool\n' >$U.d/paths.conf
          spool /srv/spool",
            "passes",
        ),
        ("spool /home/spool", "Permission denied"),
        ("spool /tmp/spool-of-a-test", "No such file"),
        ("echo listen unix:/run/mailslot/smtp >>$E", "passes"),
        ("echo listen unix:/srv/smtp >>$E", read_only),
    ] {
        let mut host = Host::of_users(&program.path());
        host.shell.must(&format!(
            "mount -t tmpfs -o mode=755 none /run; mount -t tmpfs -o mode=777 none /srv
             mount -t tmpfs none /home
             mkdir -p /run/systemd/system /run/mailslot; chown mailslot /run/mailslot
             mkdir -p /etc/systemd/system; U=/etc/systemd/system/mailslot.service; cp {} $U
             mkdir -p /var/mail /srv/a; mount -t tmpfs none /srv/a; mkdir /srv/a/mail /srv/a/spool
             chgrp mail /srv/a/mail; chmod 2775 /srv/a/mail
             chown mailslot /srv/a/spool; chmod 700 /srv/a/spool
             mount -t tmpfs -o mode=755 none /var/spool; mkdir /var/spool/mailslot
             mount --bind /srv/a/mail /var/mail; mount --bind /srv/a/spool /var/spool/mailslot
             E=/etc/mailslot.conf; set_path() {{ sed -i \"s,^$1 .*,$1 $2,\" $E; }}
             cp $C $E; cp $D/aliases /etc/aliases; set_path aliases /etc/aliases
             set_path mail-dir /var/mail; set_path spool /var/spool/mailslot
             spool() {{ mkdir -p $1; chown mailslot $1; chmod 700 $1; set_path spool $1; }}
             cp $P /srv/a/mailslot",
            unit.display()
        ));
        host.shell.must(change);
        let (text, _) = host.shell.run("/srv/a/mailslot check");
        let line = text.lines().find(|line| line.starts_with("start   ")).unwrap_or_default();
        assert!(line.contains(result), "{change}\n{result}\n{text}");
        // The view was that of another process.
        host.shell.must("touch /srv/probe && test -d $D/mail; rm -rf /tmp/spool-of-a-test");
    }
}

/// The start logs the same about dangerous settings as `check` prints.
#[test]
fn dangerous_settings_are_reported_by_check_and_at_the_start() {
    let mut host = Host::here();
    host.shell.must(
        "printf 'smarthost a.test\nsmarthost-tls may\nwarn-after 6d\nrelay-from ::/0\n' >>$C
         echo 'listen 0.0.0.0:0' >>$C; printf '*: alice\ndefault: bob\n' >>$D/aliases",
    );
    let (text, status) = host.shell.run("$P check -c $C");
    assert_eq!(status, 0, "{text}");
    let (log, _) = host.shell.run(
        "$P -c $C >$D/out 2>&1 & server=$!
         until grep -q ' listens on ' $D/out || ! kill -0 $server; do sleep 0.02; done
         kill $server; wait $server; cat $D/out",
    );
    for what in ["open relay", "warn-after 518400", "alias `*` is", "alias `default` is"] {
        assert!(text.contains(what), "{what}\n{text}");
        let logged = |line: &str| line.contains("setting-doubtful ") && line.contains(what);
        assert!(log.lines().any(logged), "{what}\n{log}");
    }
}

/// `check -q` prints problems only. An ordinary user is referred to root.
#[test]
#[ignore = "needs root, and setpriv"]
fn check_by_an_ordinary_user_refers_to_root() {
    let program = PublicProgram::new();
    let mut host = Host::of_nobody(&program.path());
    host.give_to_nobody();
    let (text, _) = host.shell.run("$P check -c $C");
    assert!(text.starts_with("checked as nobody; root sees more: sudo mailslot check\n"), "{text}");
    let (text, status) = host.shell.run("$P check -q -c $C");
    assert_eq!((text.as_str(), status), ("", 0));
}
