//! BDAT in a session: a message in chunks is stored like one that comes by DATA, an incomplete one
//! is not stored, and no part of a chunk is taken for a command.

use mailslot::message::peer::Peer;
use mailslot::net::stream::Disconnect;
use mailslot::session::SessionEnd;

use crate::harness::client::codes;
use crate::harness::library::{MailStore, remote_peer, run_session};

const MESSAGE: &str = "Status: RO\r\nSubject: dots\r\n\r\n.\r\n..\r\nFrom here\r\nQUIT\r\nend.\r\n";

/// Returns the input of a session that sends one message, in chunks that end at `ends`.
fn in_chunks(to: &str, message: &str, ends: &[usize]) -> String {
    let mut text = greeted(to);
    let mut begin = 0;
    for end in ends {
        text += &format!("BDAT {}\r\n{}", end - begin, &message[begin..*end]);
        begin = *end;
    }
    text + &format!("BDAT {} LAST\r\n{}QUIT\r\n", message.len() - begin, &message[begin..])
}

fn greeted(to: &str) -> String {
    format!("EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<{to}@here.example>\r\n")
}

/// Returns the one message of a mailbox, without the parts that differ between messages.
fn stored(store: &MailStore, user: &str) -> String {
    assert_eq!(store.count(user), 1, "{user}");
    let mailbox = store.mailbox(user);
    let (_, after) = mailbox.split_once("\n\tfor ").unwrap();
    after.split_once('\n').unwrap().1.to_owned()
}

#[test]
fn chunks_are_stored_like_data() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let stuffed = MESSAGE.replace("\r\n.", "\r\n..");
    let data = format!("{}DATA\r\n{stuffed}.\r\nQUIT\r\n", greeted("data"));
    let (_, replies) = run_session(&sessions, Peer::Unix, data.as_bytes());
    assert_eq!(codes(&replies), ["220", "250", "250", "250", "354", "250", "221"]);
    let expected = stored(&store, "data");
    assert_eq!(expected, "Subject: dots\n\n.\n..\n>From here\nQUIT\nend.\n\n");

    for first in 0..=MESSAGE.len() {
        let ends = [first, (2 * first).min(MESSAGE.len()), MESSAGE.len()];
        for (name, message) in [("whole", MESSAGE), ("cut", MESSAGE.trim_end())] {
            let user = format!("{name}-{first}");
            let ends = ends.map(|end| end.min(message.len()));
            let text = in_chunks(&user, message, &ends);
            let (end, replies) = run_session(&sessions, Peer::Unix, text.as_bytes());
            let expected = ["220", "250", "250", "250", "250", "250", "250", "250", "221"];
            assert_eq!(codes(&replies), expected, "{first}: {replies}");
            assert!(matches!(end, SessionEnd::Quit), "{end}");
        }
        assert_eq!(stored(&store, &format!("whole-{first}")), expected, "{first}");
        assert_eq!(stored(&store, &format!("cut-{first}")), expected, "{first}");
    }
}

#[test]
fn connection_lost_at_each_byte_delivers_only_a_complete_message() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let text = in_chunks("smith", MESSAGE, &[10, 10, 30]);
    let whole = text.len() - "QUIT\r\n".len();
    for length in 0..=text.len() {
        let before = store.count("smith");
        let (end, _) = run_session(&sessions, Peer::Unix, &text.as_bytes()[..length]);
        let arrived = store.count("smith") - before;
        assert_eq!(arrived, usize::from(length >= whole), "after {length}");
        match length == text.len() {
            true => assert!(matches!(end, SessionEnd::Quit), "{end}"),
            false => assert!(matches!(end, SessionEnd::Disconnect(Disconnect::Closed)), "{end}"),
        }
    }
}

#[test]
fn invalid_chunk_is_refused_at_once() {
    let store = MailStore::new();
    let mut config = store.session_settings();
    config.size_max = 3000;
    let sessions = store.sessions(config);
    let hidden = format!("{}From here\r\n", "x".repeat(1000));
    let hops = "Received: x\r\n".repeat(101);
    for (chunk, reply) in [
        ("a\nb", "554 5.6.0"),
        ("a\rb", "554 5.6.0"),
        (&hidden, "554 5.6.0"),
        (&hops, "554 5.4.6"),
        (&"y".repeat(3001), "552 5.3.4"),
    ] {
        let n = chunk.len();
        let text = format!(
            "{}BDAT {n}\r\n{chunk}BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\n\
             MAIL FROM:<a@b>\r\nRCPT TO:<smith@x>\r\nBDAT {n} LAST\r\n{chunk}QUIT\r\n",
            greeted("smith")
        );
        let (_, replies) = run_session(&sessions, Peer::Unix, text.as_bytes());
        let code = &reply[..3];
        let expected = ["220", "250", "250", "250", code, "503", "503", "250", "250", code, "221"];
        assert_eq!(codes(&replies), expected, "{replies}");
        assert_eq!(replies.matches(reply).count(), 2, "{replies}");
        assert_eq!(store.count("smith"), 0);
    }
    // Messages that are too large are counted, too.
    assert_eq!(store.counters.messages_rejected.value(), 8);
}

#[test]
fn huge_chunk_size_is_not_stored() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let rows = [
        // The chunk is discarded while it comes, and the client closes first.
        ("9223372036854775807 LAST", &["220", "250", "250", "250"][..], "closed"),
        ("18446744073709551615", &["220", "250", "250", "250"], "closed"),
        // A size of more than 64 bits is an error.
        ("18446744073709551616 LAST", &["220", "250", "250", "250", "421"], "errors"),
        ("99999999999999999999999999999999", &["220", "250", "250", "250", "421"], "errors"),
        ("-1 LAST", &["220", "250", "250", "250", "421"], "errors"),
        ("0x10", &["220", "250", "250", "250", "421"], "errors"),
    ];
    for (size, expected, how) in rows {
        let text = format!("{}BDAT {size}\r\nhello\r\nNOOP\r\nQUIT\r\n", greeted("smith"));
        let (end, replies) = run_session(&sessions, remote_peer(1), text.as_bytes());
        assert_eq!(codes(&replies), expected, "{size}: {replies}");
        assert_eq!(end.to_string(), how, "{size}");
        assert_eq!(store.count("smith"), 0);
    }
}
