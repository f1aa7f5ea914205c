//! Mail servers of other projects as the next hop: Postfix and Exim, found by MX records of a real
//! name server on a network of their own, and Dovecot by LMTP.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::mx_routes::{serve_by_mx, serve_names};
use super::queue_network::{Hosts, send};
use crate::harness::directory::TestDirectory;
use crate::harness::external::{files, unpack};
use crate::harness::mail_servers::{
    Exim, Postfix, make_mail_directory, open_directory, start_dovecot,
};
use crate::harness::server::Server;
use crate::harness::tls::TestCertificate;
use crate::harness::{TIMEOUT, is_true_within, wait_until};

/// Returns the messages of an mbox file of another program, without their From_ lines.
fn messages(mailbox: &Path) -> Vec<String> {
    let text = format!("\n{}", fs::read_to_string(mailbox).unwrap_or_default());
    text.split("\nFrom ").skip(1).map(str::to_owned).collect()
}

/// Mail arrives in the mailboxes of both, and a host that refuses is followed by the next.
#[test]
#[ignore = "needs root, iproute2, postfix, and Debian packages from the network"]
fn postfix_and_exim_take_mail_by_mx() {
    let hosts = Hosts::new("mx-servers");
    let far = Some(hosts.0[1].clone());
    for address in ["10.99.99.4", "10.99.99.5", "10.99.99.6"] {
        hosts.add_far_address(address);
    }
    let directory = open_directory();
    let certificate = TestCertificate::new(directory.path(), "mail");
    fs::set_permissions(&certificate.key, Permissions::from_mode(0o644)).unwrap();
    let (cert, key) = (certificate.cert.display(), certificate.key.display());

    let by_postfix = make_mail_directory(&directory, "mail-postfix");
    let mut postfix = Postfix::prepare(&directory);
    postfix.address = "10.99.99.2:25".parse().unwrap();
    postfix.network.clone_from(&far);
    postfix.start(&format!(
        "mydestination = p.example, grey.example\nmail_spool_directory = {}\n\
         smtpd_tls_security_level = may\nsmtpd_tls_cert_file = {cert}\n\
         smtpd_tls_key_file = {key}\n",
        by_postfix.display()
    ));

    let by_exim = make_mail_directory(&directory, "mail-exim");
    let exim = Exim::fetch(&directory);
    let _exim = exim.serve(
        far.as_deref(),
        &format!(
            "local_interfaces = 10.99.99.4 : 10.99.99.5\ndaemon_smtp_ports = 25\n\
             domainlist local_domains = e.example : closed.example : busy.example\nhost_lookup =\n\
             tls_advertise_hosts = *\ntls_certificate = {cert}\ntls_privatekey = {key}\n\
             acl_smtp_connect = connect\nacl_smtp_rcpt = rcpt\nbegin acl\nconnect:\n  \
             deny condition = ${{if eq{{$received_ip_address}}{{10.99.99.5}}}}\n  accept\n\
             rcpt:\n  defer domains = grey.example\n  accept domains = +local_domains\n  deny\n\
             begin routers\nlocal:\n  driver = accept\n  domains = +local_domains\n  \
             check_local_user\n  transport = mailbox\n\
             begin transports\nmailbox:\n  driver = appendfile\n  \
             file = {}/$local_part_data\n  home_directory = /\n  current_directory = /\n",
            by_exim.display()
        ),
    );

    let records = [
        "--host-record=postfix.example,10.99.99.2",
        "--host-record=exim.example,10.99.99.4",
        // Greets with 554.
        "--host-record=refusing.example,10.99.99.5",
        // No server is there.
        "--host-record=empty.example,10.99.99.6",
        "--mx-host=p.example,postfix.example,10",
        "--mx-host=e.example,exim.example,10",
        // Defers each recipient.
        "--mx-host=grey.example,exim.example,10",
        "--mx-host=grey.example,postfix.example,20",
        "--mx-host=busy.example,refusing.example,10",
        "--mx-host=busy.example,exim.example,20",
        "--mx-host=closed.example,empty.example,10",
        "--mx-host=closed.example,exim.example,20",
    ]
    .map(str::to_owned);
    let names = TestDirectory::new();
    let _names = serve_names(&hosts, names.path(), &records);
    let near = TestDirectory::new();
    let _near = serve_by_mx(&hosts, near.path());

    for domain in ["p", "e", "grey", "busy", "closed"] {
        send(near.path(), &format!("jones@{domain}.example"), domain);
    }
    let arrived = || {
        let found = [&by_postfix, &by_exim].map(|mail| {
            let texts = messages(&mail.join("jones"));
            let subject = |text: &String| {
                text.lines().find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned))
            };
            let mut subjects: Vec<String> = texts.iter().filter_map(subject).collect();
            subjects.sort();
            subjects
        });
        found == [vec!["grey", "p"], vec!["busy", "closed", "e"]]
    };
    if !is_true_within(TIMEOUT, arrived) {
        let log = fs::read_to_string(near.join("log")).unwrap();
        panic!("{log}\nPostfix: {}\nExim: {}", postfix.log(), exim.log());
    }
    let all = [messages(&by_postfix.join("jones")), messages(&by_exim.join("jones"))].concat();
    for text in all {
        assert!(text.to_lowercase().contains(" with esmtps "), "{text}");
    }
}

/// One recipient is accepted, one is deferred at the end of the mail data, and one is unknown.
#[test]
#[ignore = "needs root, dovecot, and Debian packages from the network"]
fn dovecot_takes_mail_by_lmtp() {
    let directory = open_directory();
    let packages = directory.join("packages");
    fs::create_dir(&packages).unwrap();
    unpack(&["dovecot-lmtpd"], &packages);
    let users = directory.join("users");
    fs::write(&users, "jones::65534:65534::/nonexistent::\nbrown::65534:65534::/nonexistent::\n")
        .unwrap();
    let [jones, brown] = ["jones", "brown"].map(|user| directory.join(user));
    fs::create_dir(&jones).unwrap();
    chown(&jones, Some(65534), Some(65534)).unwrap();
    fs::create_dir(&brown).unwrap();
    fs::set_permissions(&brown, Permissions::from_mode(0o700)).unwrap();
    let socket = directory.join("lmtp");
    let settings = format!(
        "protocols = lmtp\nmail_location = maildir:{}/%n\nauth_username_format = %n\n\
         passdb {{\n  driver = static\n  args = password=x\n}}\n\
         userdb {{\n  driver = passwd-file\n  args = {}\n}}\n\
         service lmtp {{\n  executable = {}/usr/lib/dovecot/lmtp\n  \
         unix_listener {} {{\n    mode = 0666\n  }}\n}}\n",
        directory.path().display(),
        users.display(),
        packages.display(),
        socket.display()
    );
    let _dovecot = start_dovecot(directory.path(), &settings, &socket);
    let route = format!("lists.example lmtp:unix:{}", socket.display());
    let server = Server::start(&["--domain", "here.example", "--route", &route]);
    let to = ["jones@lists.example", "brown@lists.example", "ghost@lists.example"];
    let mut client = server.after_ehlo();
    client.deliver("smith@here.example", &to, "Subject: x\r\n\r\n.x\r\n", 250);
    let reported = || server.mailbox("smith").contains("Action: failed");
    if !is_true_within(TIMEOUT, reported) {
        panic!(
            "{:?}\n{}",
            server.stop(),
            fs::read_to_string(directory.join("dovecot/log")).unwrap()
        );
    }
    let report = server.mailbox("smith");
    assert!(report.contains("Final-Recipient: rfc822;ghost@lists.example\n"), "{report}");
    assert!(report.contains("550 5.1.1"), "{report}");
    let in_maildir = |maildir: &Path| {
        let is_new = |path: &Path| path.parent().is_some_and(|p| p.ends_with("new"));
        files(maildir, is_new).iter().map(|f| fs::read_to_string(f).unwrap()).collect::<Vec<_>>()
    };
    wait_until("jones has it", || in_maildir(&jones).len() == 1);
    assert!(in_maildir(&jones)[0].ends_with("\nSubject: x\n\n.x\n"));
    // Its state, old or new, is in files with a dot in their names.
    let is_entry = |name: &&String| !name.contains('.');
    let entries = server.queue().iter().filter(is_entry).count();
    assert_eq!((entries, in_maildir(&brown).len()), (1, 0));

    chown(&brown, Some(65534), Some(65534)).unwrap();
    wait_until("brown has it", || {
        // The attempt before may not have ended, and an entry that is being tried is left alone.
        client.command("ETRN lists.example", 250);
        in_maildir(&brown).len() == 1
    });
    wait_until("the queue is empty", || server.queue().is_empty());
    assert_eq!((in_maildir(&jones).len(), in_maildir(&brown).len()), (1, 1));
    assert_eq!(server.messages("smith").len(), 1);
}
