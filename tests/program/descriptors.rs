//! The limit of open descriptors: raised at the start, and no obstacle to a message for many
//! mailboxes.

use std::fs;
use std::path::Path;

use crate::harness::directory::TestDirectory;
use crate::harness::server::Server;

/// Starts a server whose soft and hard limits of descriptors are these, with a list of `members`
/// mailboxes.
fn start(soft: usize, hard: usize, members: usize) -> Server {
    let directory = TestDirectory::in_memory();
    let names: Vec<String> = (0..members).map(|n| format!("u{n}")).collect();
    let aliases = directory.join("list-aliases");
    fs::write(&aliases, format!("list: {}\n", names.join(", "))).unwrap();
    let limits = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$@\"");
    let options = ["--aliases", aliases.to_str().unwrap()];
    directory
        .start_by(&["sh", "-c", &limits, "sh"], &options)
        .unwrap_or_else(|(log, status)| panic!("not ready, {status}:\n{}", log.join("\n")))
}

/// Returns the number of messages in each mailbox of `directory`, without repetitions.
fn message_counts(directory: &Path) -> (usize, Vec<usize>) {
    let mut counts: Vec<usize> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"u"))
        .map(|entry| {
            fs::read_to_string(entry.path()).unwrap().matches("\nSubject: to all\n").count()
        })
        .collect();
    let mailboxes = counts.len();
    counts.sort_unstable();
    counts.dedup();
    (mailboxes, counts)
}

/// The files of the message before are still open. With those of the second message they are more
/// than the limit.
#[test]
fn a_large_message_for_a_list_of_990_members_is_delivered_after_another_message() {
    let server = start(1100, 1100, 990);
    let mut client = server.after_ehlo();
    let line = "a line of a message that is larger than those that are copied\r\n";
    for size in [64, 400 << 10] {
        let content = format!("Subject: to all\r\n\r\n{}", line.repeat(size / line.len() + 1));
        client.deliver("smith@example.org", &["list@localhost"], &content, 250);
    }
    assert_eq!(message_counts(&server.join("mail")), (990, vec![2]));
}

#[cfg(target_os = "linux")]
#[test]
fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
    let server = start(128, 700, 1);
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let values: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(values, ["700", "700"]);
}
