//! All replies of the server, each with a name (RFC 5321 4.2, RFC 3463).
//!
//! The texts are those of RFC 5321 where it has one. A text begins with the command it belongs to,
//! because the replies to pipelined commands are otherwise hard to match (RFC 2920 3.2). A syntax
//! error shows the expected syntax. Only text that the parser has accepted is repeated from the
//! client. Replies are ASCII, except mailboxes for a client that accepts UTF-8.
//!
//! The first half are replies of the receiver. The second half are the replies that a host chooses
//! for rejected recipients and the outcomes of deliveries.

use std::borrow::Cow;
use std::fmt::Write;

use super::client_name::ClientName;
use super::config::{ReceiverConfig, StartTlsMode};
use super::envelope::Delivery;
use super::path::{EtrnNode, ForwardPath, Mailbox, ReversePath, SyntaxError};

/// A reply: a code, an enhanced status code where RFC 2034 requires one, and lines of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The reply code, 200 to 599.
    pub code: u16,
    /// The enhanced status code (RFC 3463): class, subject, detail. The greeting, the replies to
    /// HELO and EHLO, and 3yz have none.
    pub enhanced: Option<(u8, u16, u16)>,
    /// The lines of text, at least one. A longer line than [`REPLY_LINE_MAX`] is cut when written.
    pub lines: Vec<Cow<'static, str>>,
    /// Whether the lines may be sent in UTF-8 (RFC 6531 3.7.4).
    utf8: bool,
}

impl Reply {
    /// Returns a reply of one line. Characters that are not printable ASCII are sent as `?`.
    pub fn new(code: u16, enhanced: (u8, u16, u16), text: impl Into<Cow<'static, str>>) -> Reply {
        Reply::of_lines(code, enhanced, vec![text.into()])
    }

    /// Returns a reply of several lines.
    fn of_lines(code: u16, enhanced: (u8, u16, u16), lines: Vec<Cow<'static, str>>) -> Reply {
        Reply { code, enhanced: Some(enhanced), lines, utf8: false }
    }

    /// Returns a reply of one line without an enhanced status code.
    fn plain(code: u16, text: impl Into<Cow<'static, str>>) -> Reply {
        Reply { code, enhanced: None, lines: vec![text.into()], utf8: false }
    }

    /// Returns the reply with UTF-8 sent unchanged, for a client that accepts it.
    pub(super) fn with_utf8(self) -> Reply {
        Reply { utf8: true, ..self }
    }

    /// True if all lines are ASCII.
    pub fn is_ascii(&self) -> bool {
        self.lines.iter().all(|line| line.is_ascii())
    }

    /// Appends the reply to `out` as it is sent: each line with code, `-` or blank, and CR LF.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let (last, others) = match self.lines.split_last() {
            Some((last, others)) => (last.as_ref(), others),
            None => ("", &[][..]),
        };
        for line in others {
            self.write_line(out, '-', line);
        }
        self.write_line(out, ' ', last);
    }

    fn write_line(&self, out: &mut Vec<u8>, separator: char, text: &str) {
        let mut line = String::with_capacity(REPLY_LINE_MAX);
        // Writing to a string does not fail.
        let _ = write!(line, "{}{separator}", self.code);
        if let Some((class, subject, detail)) = self.enhanced {
            let _ = write!(line, "{class}.{subject}.{detail} ");
        }
        let printable = |c: char| match c {
            ' '..='~' => c,
            c if self.utf8 && !c.is_ascii() && !c.is_control() => c,
            _ => '?',
        };
        for c in text.chars().map(printable) {
            if line.len() + c.len_utf8() > REPLY_LINE_MAX - 2 {
                break;
            }
            line.push(c);
        }
        line.push_str("\r\n");
        out.extend_from_slice(line.as_bytes());
    }

    /// True if the code is 2yz or 3yz.
    pub fn is_positive(&self) -> bool {
        self.code < 400
    }
}

/// The longest reply line with its CR LF, in octets (RFC 5321 4.5.3.1.5).
pub const REPLY_LINE_MAX: usize = 512;

/// Defines a function for each reply with a fixed text, and a list of them for tests.
macro_rules! fixed {
    ($list:ident: $(
        $name:ident $code:literal $class:literal $subject:literal $detail:literal $text:literal
    )*) => {
        $(
            #[doc = concat!(
                "Returns `", $code, " ", $class, ".", $subject, ".", $detail, " ", $text, "`."
            )]
            pub fn $name() -> Reply {
                Reply::new($code, ($class, $subject, $detail), $text)
            }
        )*
        #[cfg(test)]
        const $list: &[fn() -> Reply] = &[$($name),*];
    };
}

// Replies of the receiver.
fixed! { RECEIVER_REPLIES:
    rset                250 2 0 0 "RSET: OK, nothing is pending"
    noop                250 2 0 0 "NOOP: OK"
    cannot_vrfy         252 2 5 0 "Cannot VRFY user, but will accept message and attempt delivery"
    cannot_expn         252 2 5 0 "Cannot EXPN list, but will accept message and attempt delivery"
    cannot_show_name    252 2 6 8 "The mailbox name is in UTF-8; use the SMTPUTF8 parameter"
    too_many_recipients 452 4 5 3 "RCPT: too many recipients; accepted ones are kept"
    bare_line_end       500 5 5 2 "Bare CR, bare LF or NUL; only CR LF ends a line"
    line_too_long       500 5 5 2 "Line too long"
    lmtp_only           500 5 5 1 "This is LMTP; send LHLO"
    unknown_command     500 5 5 2 "Command unrecognized"
    mail_nested         503 5 5 1 "MAIL: a transaction is in progress; send RSET to end it"
    tls_already_active  503 5 5 1 "STARTTLS: TLS is already active"
    rcpt_before_mail    503 5 5 1 "RCPT: send MAIL first"
    data_before_mail    503 5 5 1 "DATA: send MAIL first"
    data_before_rcpt    503 5 5 1 "DATA: send RCPT first"
    tls_required        530 5 7 0 "Must issue a STARTTLS command first"
    rcpt_after_bdat     503 5 5 1 "RCPT: mail data has begun; send RSET to drop it"
    data_after_bdat     503 5 5 1 "DATA: BDAT was used in this transaction; send RSET first"
    bdat_before_mail    503 5 5 1 "BDAT: send MAIL first"
    bdat_before_rcpt    503 5 5 1 "BDAT: send RCPT first"
    bdat_failed         503 5 5 1 "BDAT: an earlier chunk was rejected; send RSET first"
    mail_not_ascii      550 5 6 7 "MAIL: UTF-8 address requires SMTPUTF8"
    moved_to_utf8       550 5 6 8 "RCPT: User not local; the new address requires SMTPUTF8 in MAIL"
    rcpt_not_ascii      553 5 6 7 "RCPT: UTF-8 address requires SMTPUTF8 in MAIL"
    bdat_no_recipients  554 5 5 1 "BDAT: no valid recipients"
    bdat_too_large      552 5 3 4 "BDAT: message exceeds the SIZE shown by EHLO"
    data_no_recipients  554 5 5 1 "DATA: no valid recipients"
    no_binarymime       504 5 5 4 "MAIL: parameter BODY=BINARYMIME not implemented"
    no_such_topic       504 5 5 4 "HELP: no such topic"
    declared_too_large  552 5 3 4 "MAIL: message exceeds the SIZE shown by EHLO"
}

/// Returns the greeting, `220 host ...`.
pub fn greeting(hostname: &str, lmtp: bool) -> Reply {
    let protocol = if lmtp { "LMTP" } else { "ESMTP" };
    Reply::plain(220, format!("{hostname} {protocol} mailslot ready"))
}

/// Returns `250 host greets client`, the reply to HELO.
pub fn helo(hostname: &str, client: &ClientName) -> Reply {
    Reply::plain(250, format!("{hostname} greets {client}"))
}

/// Returns `250-host greets client` and the service extensions, one on each line (RFC 5321
/// 4.1.1.1). `tls` is true inside TLS.
pub fn ehlo(config: &ReceiverConfig, tls: bool, client: &ClientName) -> Reply {
    let mut reply = helo(&config.hostname, client);
    reply.lines.extend([
        "PIPELINING".into(),
        format!("SIZE {}", config.size_max).into(),
        "8BITMIME".into(),
        "ENHANCEDSTATUSCODES".into(),
        "CHUNKING".into(),
        "SMTPUTF8".into(),
        format!("LIMITS RCPTMAX={}", config.recipients_max).into(),
    ]);
    reply.lines.extend(config.offers_prdr().then_some("PRDR".into()));
    reply.lines.extend(config.dsn.then_some("DSN".into()));
    reply.lines.extend((config.tls != StartTlsMode::Off && !tls).then_some("STARTTLS".into()));
    reply.lines.extend(config.vrfy.then_some("VRFY".into()));
    reply.lines.extend(config.expn.then_some("EXPN".into()));
    reply.lines.extend(config.etrn.then_some("ETRN".into()));
    if config.terminals {
        reply.lines.extend(["SEND".into(), "SOML".into(), "SAML".into()]);
    }
    reply.lines.push("HELP".into());
    reply
}

/// Returns `503` to MAIL before EHLO, HELO or LHLO.
pub fn mail_before_hello(lmtp: bool) -> Reply {
    let hello = if lmtp { "LHLO" } else { "EHLO or HELO" };
    Reply::new(503, (5, 5, 1), format!("MAIL: send {hello} first"))
}

/// Returns `220` to STARTTLS.
pub fn start_tls() -> Reply {
    Reply::new(220, (2, 0, 0), "STARTTLS: Ready to start TLS")
}

/// Returns `250` to MAIL, SEND, SOML or SAML.
pub fn mail(delivery: Delivery, from: &ReversePath) -> Reply {
    Reply::new(250, (2, 1, 0), format!("{} FROM:{from} OK", delivery.verb()))
}

/// Returns `250` to RCPT.
pub fn rcpt(to: &ForwardPath) -> Reply {
    Reply::new(250, (2, 1, 5), format!("RCPT TO:{to} OK"))
}

/// Returns `251` to RCPT: mail is forwarded to the user's mailbox on another host.
pub fn will_forward(path: &Mailbox) -> Reply {
    Reply::new(251, (2, 1, 5), format!("User not local; will forward to <{path}>"))
}

/// Returns `250` to RCPT after SOML: the user is not active on a terminal (RFC 821, scenario 6).
pub fn rcpt_not_active(to: &ForwardPath) -> Reply {
    Reply::new(250, (2, 1, 5), format!("RCPT TO:{to}: User not active now, so will do mail"))
}

/// Returns `450` to RCPT after SEND: the user is not active on a terminal (RFC 821, scenario 5).
pub fn not_active(to: &ForwardPath) -> Reply {
    Reply::new(450, (4, 2, 1), format!("RCPT TO:{to}: User not active now"))
}

/// Returns `354` to DATA.
pub fn start_mail_input() -> Reply {
    Reply::plain(354, "Start mail input; end with <CRLF>.<CRLF>")
}

/// Returns `250` to BDAT without LAST: the whole chunk was received.
pub fn chunk(octets: u64) -> Reply {
    Reply::new(250, (2, 0, 0), format!("BDAT: {octets} octets received"))
}

/// Returns `353`, before a reply for each recipient and one for the message (PRDR).
pub fn each_recipient() -> Reply {
    Reply::plain(353, "Message: a reply for each recipient follows, then one for the message")
}

/// Returns `214` to HELP, with the enabled commands.
pub fn help(verbs: impl Iterator<Item = &'static str>) -> Reply {
    let mut list = "HELP: the commands are".to_owned();
    verbs.for_each(|verb| list += &format!(" {verb}"));
    let mut reply = Reply::new(214, (2, 0, 0), list);
    reply.lines.push("Send HELP followed by a command for its syntax".into());
    reply
}

/// Returns `214` to HELP with a command, with the syntax of the command.
pub fn help_topic(syntax: &'static str) -> Reply {
    Reply::new(214, (2, 0, 0), format!("HELP: {syntax}"))
}

/// Returns `221 host ...` to QUIT.
pub fn quit(hostname: &str) -> Reply {
    Reply::new(221, (2, 0, 0), format!("{hostname} Service closing transmission channel"))
}

/// Returns `421 host ...` for a shutdown or an overload.
pub fn closing(hostname: &str, reason: &str) -> Reply {
    Reply::new(421, (4, 3, 2), format!("{hostname} closing transmission channel: {reason}"))
}

/// Returns `421 host ...` for a client or a network that was too slow.
pub fn timed_out(hostname: &str, reason: &str) -> Reply {
    Reply::new(421, (4, 4, 2), format!("{hostname} closing transmission channel: {reason}"))
}

/// Returns `421 host ...` for an error of the server.
pub fn internal_error(hostname: &str) -> Reply {
    Reply::new(421, (4, 3, 0), format!("{hostname} closing transmission channel: internal error"))
}

/// Returns `421 host ...` for an error of the client.
pub fn client_error(hostname: &str, reason: &str) -> Reply {
    Reply::new(421, (4, 7, 0), format!("{hostname} closing transmission channel: {reason}"))
}

/// Returns `501` with the syntax of the command.
pub fn syntax(syntax: &str) -> Reply {
    Reply::new(501, (5, 5, 4), format!("Syntax: {syntax}"))
}

/// Returns `501` to MAIL for an invalid reverse-path.
pub fn bad_reverse_path(error: SyntaxError) -> Reply {
    Reply::new(501, (5, 1, 7), format!("MAIL FROM: {error}"))
}

/// Returns `501` to RCPT for an invalid forward-path.
pub fn bad_forward_path(error: SyntaxError) -> Reply {
    Reply::new(501, (5, 1, 3), format!("RCPT TO: {error}"))
}

/// Returns `501` for a known parameter with an invalid value, or given twice.
pub fn bad_parameter(verb: &str, syntax: &str) -> Reply {
    Reply::new(501, (5, 5, 4), format!("{verb}: expected {syntax}"))
}

/// Returns `502` for a command of the standards that is not enabled or not implemented.
pub fn not_implemented(verb: &str) -> Reply {
    Reply::new(502, (5, 5, 1), format!("{verb}: Command not implemented"))
}

/// Returns `555` for a parameter of no extension that EHLO lists.
pub fn unknown_parameter(verb: &str, keyword: &str) -> Reply {
    Reply::new(555, (5, 5, 4), format!("{verb}: parameter {keyword} not recognized"))
}

// Replies that a host chooses: to STARTTLS, to MAIL, and to the end of mail data.
fixed! { HOST_REPLIES:
    tls_unavailable     454 4 7 0 "STARTTLS: TLS not available due to temporary reason"
    no_room             452 4 3 1 "MAIL: insufficient system storage, try again later"
    data_bare_line_end  554 5 6 0 "Message: bare CR or bare LF; only CR LF ends a line"
    data_too_large      552 5 3 4 "Message: exceeds the SIZE shown by EHLO"
    data_loop           554 5 4 6 "Message: too many Received fields; this is a mail loop"
    data_delivered_loop 554 5 4 6 "Message: it was here before (Delivered-To); this is a mail loop"
    data_hidden_from    554 5 6 0 "Message: an overlong line contains a mailbox separator"
    data_mailbox_busy   451 4 2 0 "Message: a mailbox is locked or unavailable, try again later"
    data_mailbox_full   552 5 2 2 "Message: exceeded storage allocation of a mailbox"
    data_some_accepted  250 2 6 0 "Message: OK, delivered to some; see the replies before"
    data_all_deferred   451 4 3 0 "Message: delivered to none yet; see the replies before"
    data_all_rejected   554 5 3 0 "Message: delivered to none; see the replies before"
    data_no_room        452 4 3 1 "Message: insufficient system storage, try again later"
    data_error          451 4 3 0 "Message: Requested action aborted: error in processing"
    not_shown_to_all    451 4 2 1 "DATA: not shown to all users, because one is not active now"
    too_large_to_show   552 5 3 4 "DATA: message too large for a terminal; use SOML"
    data_stopping       451 4 3 2 "Message: the server is stopping, try again later"
}

/// Returns `250` to the end of mail data: the server has accepted the message as `id`.
pub fn delivered(id: &str) -> Reply {
    Reply::new(250, (2, 6, 0), format!("Message: OK, delivered as {id}"))
}

/// Returns `250` to the end of mail data: the message waits in the queue, for some or all of its
/// recipients.
pub fn held(id: &str) -> Reply {
    Reply::new(250, (2, 6, 0), format!("Message: OK, queued as {id}"))
}

/// Returns `250` to the end of mail data: the message was shown on terminals, and not stored.
pub fn shown(id: &str) -> Reply {
    Reply::new(250, (2, 6, 0), format!("DATA: OK, shown as {id}"))
}

/// Returns `550` to RCPT for an unknown user.
pub fn no_such_user(to: &ForwardPath) -> Reply {
    Reply::new(550, (5, 1, 1), format!("RCPT TO:{to}: No such user here"))
}

/// Returns `550` to RCPT for an alias of a program or a file, which get no mail.
pub fn alias_unsupported(to: &ForwardPath) -> Reply {
    Reply::new(550, (5, 3, 5), format!("RCPT TO:{to}: the alias has an unsupported target"))
}

/// Returns `550` to RCPT for a domain that is not local.
pub fn relaying_denied(to: &ForwardPath) -> Reply {
    Reply::new(550, (5, 7, 1), format!("RCPT TO:{to}: not a local mailbox, relaying denied"))
}

/// Returns `550` to RCPT for a domain that is not local, to a client on this host. It names the
/// option, because such a client is likely to be read by the administrator.
pub fn no_smarthost(to: &ForwardPath) -> Reply {
    let text = "not a local mailbox, and no --smarthost is configured";
    Reply::new(550, (5, 7, 1), format!("RCPT TO:{to}: {text}"))
}

/// Returns `551` with the user's mailbox on another host.
pub fn please_try(path: &Mailbox) -> Reply {
    Reply::new(551, (5, 1, 6), format!("User not local; please try <{path}>"))
}

/// Returns `553` to RCPT for a name that no mailbox here can have.
pub fn name_not_allowed(to: &ForwardPath) -> Reply {
    Reply::new(553, (5, 1, 3), format!("RCPT TO:{to}: mailbox name not allowed"))
}

/// Returns `450` to RCPT for a mailbox that cannot be delivered to now.
pub fn mailbox_unavailable(to: &ForwardPath) -> Reply {
    Reply::new(450, (4, 2, 0), format!("RCPT TO:{to}: mailbox unavailable, try again later"))
}

/// Returns `552` to RCPT for a mailbox that is over its limit.
pub fn mailbox_full(to: &ForwardPath) -> Reply {
    Reply::new(552, (5, 2, 2), format!("RCPT TO:{to}: exceeded storage allocation"))
}

/// Returns `451` to RCPT, VRFY or EXPN: the name cannot be looked up now.
pub fn lookup_failed(verb: &str) -> Reply {
    Reply::new(451, (4, 3, 0), format!("{verb}: error in processing, try again later"))
}

/// Returns `451` to RCPT, VRFY or EXPN: the name cannot be looked up before the aliases are fixed.
pub fn misconfigured(verb: &str) -> Reply {
    Reply::new(
        451,
        (4, 3, 5),
        format!("{verb}: error in the aliases of this host, try again later"),
    )
}

/// Returns `250` to VRFY or EXPN, with lines of the form `Full Name <user@host>`.
pub fn mailboxes(lines: Vec<String>) -> Reply {
    let lines = lines.into_iter().map(Cow::Owned).collect();
    Reply::of_lines(250, (2, 1, 5), lines)
}

/// Returns `550` to VRFY or EXPN for an unknown name.
pub fn no_such_name(verb: &str) -> Reply {
    Reply::new(550, (5, 1, 1), format!("{verb}: no such user or list here"))
}

/// Returns `553` to VRFY or RCPT for a name of several mailboxes, one on each line.
pub fn ambiguous(candidates: &[Mailbox]) -> Reply {
    let mut reply = Reply::new(553, (5, 1, 4), "Ambiguous; possibilities are");
    reply.lines.extend(candidates.iter().map(|mailbox| Cow::Owned(format!("<{mailbox}>"))));
    reply
}

/// Returns `250` to ETRN: the queue is processed in the background.
pub fn queuing_started(node: &EtrnNode) -> Reply {
    Reply::new(250, (2, 0, 0), format!("ETRN: queuing for node {node} started"))
}

/// Returns `458` to ETRN: there is no queue.
pub fn cannot_queue(node: &EtrnNode) -> Reply {
    Reply::new(458, (4, 3, 0), format!("ETRN: unable to queue messages for node {node}"))
}

/// Returns `211` to HELP, with the state of the server.
pub fn status(lines: Vec<String>) -> Reply {
    let lines = lines.into_iter().map(Cow::Owned).collect();
    Reply::of_lines(211, (2, 0, 0), lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// Returns every reply, with the longest arguments that the parser accepts.
    fn all() -> Vec<Reply> {
        let wide = format!("{}@{}", "u".repeat(64), "d".repeat(189));
        let mailbox = Mailbox::parse(&wide).unwrap();
        let (to, from) = (ForwardPath::Mailbox(mailbox.clone()), ReversePath::Null);
        let host = "h".repeat(255);
        let client = ClientName::read("c".repeat(255).as_bytes()).unwrap();
        let config = ReceiverConfig {
            size_max: u64::MAX,
            vrfy: true,
            expn: true,
            terminals: true,
            etrn: true,
            prdr: true,
            tls: StartTlsMode::Offered,
            ..ReceiverConfig::new(&host)
        };
        let word = "w".repeat(2048);
        let mut all = vec![
            greeting(&host, false),
            mail_before_hello(true),
            each_recipient(),
            helo(&host, &client),
            ehlo(&config, false, &client),
            start_tls(),
            mail(Delivery::Mail, &from),
            mail(Delivery::Send, &ReversePath::Mailbox(mailbox.clone())),
            rcpt(&to),
            rcpt_not_active(&to),
            not_active(&to),
            start_mail_input(),
            chunk(u64::MAX),
            help(["MAIL", "RCPT"].into_iter()),
            help_topic("NOOP"),
            quit(&host),
            closing(&host, "reason"),
            timed_out(&host, "reason"),
            internal_error(&host),
            client_error(&host, "reason"),
            syntax("form"),
            bad_reverse_path(SyntaxError("reason")),
            bad_forward_path(SyntaxError("reason")),
            bad_parameter("MAIL", "SIZE=octets"),
            not_implemented("TURN"),
            unknown_parameter("MAIL", &word),
            delivered("id"),
            shown("id"),
            no_such_user(&to),
            alias_unsupported(&to),
            relaying_denied(&to),
            no_smarthost(&to),
            will_forward(&mailbox),
            please_try(&mailbox),
            name_not_allowed(&to),
            mailbox_unavailable(&to),
            mailbox_full(&to),
            lookup_failed("RCPT"),
            misconfigured("RCPT"),
            mailboxes(vec!["Fred <f@x>".to_owned(), "<g@x>".to_owned()]),
            no_such_name("VRFY"),
            ambiguous(&[mailbox.clone(), mailbox]),
            status(vec!["one".to_owned(), "two".to_owned()]),
        ];
        all.extend(RECEIVER_REPLIES.iter().chain(HOST_REPLIES).map(|reply| reply()));
        all
    }

    #[test]
    fn every_reply_follows_the_grammar() {
        for reply in all() {
            let text = wire(&reply);
            let (first, third) = (reply.code / 100, reply.code % 10);
            assert!((2..=5).contains(&first) && reply.code % 100 / 10 <= 5 && third <= 9, "{text}");
            assert!(text.ends_with("\r\n"), "{text}");
            let lines: Vec<&str> = text.strip_suffix("\r\n").unwrap().split("\r\n").collect();
            assert_eq!(lines.len(), reply.lines.len(), "{text}");
            for (i, line) in lines.iter().enumerate() {
                assert!(line.len() <= REPLY_LINE_MAX - 2, "{line}");
                assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
                let separator = if i + 1 == lines.len() { " " } else { "-" };
                let code = format!("{}{separator}", reply.code);
                let rest = line.strip_prefix(&code).unwrap_or_else(|| panic!("{line}"));
                // RFC 2034: on each line, of the class of the code; not on 220, 354, HELO, EHLO.
                let enhanced = rest.split(' ').next().unwrap_or("");
                let numbers: Vec<&str> = enhanced.split('.').collect();
                if let Some((class, subject, detail)) = reply.enhanced {
                    assert_eq!(u16::from(class), first, "{line}");
                    assert_eq!(enhanced, format!("{class}.{subject}.{detail}"), "{line}");
                } else {
                    assert!(matches!(reply.code, 220 | 250 | 353 | 354), "{line}");
                    assert!(numbers.len() != 3, "{line}");
                }
            }
        }
    }

    #[test]
    fn replies_that_programs_parse_begin_with_the_domain() {
        let host = "mx.example";
        assert_eq!(wire(&greeting(host, false)), "220 mx.example ESMTP mailslot ready\r\n");
        assert!(wire(&quit(host)).starts_with("221 2.0.0 mx.example "));
        assert!(wire(&closing(host, "timeout")).starts_with("421 4.3.2 mx.example "));
        assert!(wire(&client_error(host, "reason")).starts_with("421 4.7.0 mx.example "));
        let moved = please_try(&Mailbox::parse("m@usc-isif.arpa").unwrap());
        assert_eq!(
            wire(&moved),
            "551 5.1.6 User not local; please try <m@usc-isif.arpa>\r\n",
            "the text is that of RFC 5321 4.2.3"
        );
    }

    #[test]
    fn ehlo_lists_what_is_enabled() {
        let mut config =
            ReceiverConfig { size_max: 1000, expn: true, ..ReceiverConfig::new("mx.example") };
        let client = ClientName::read(b"[127.0.0.1]").unwrap();
        let common = "250-mx.example greets [127.0.0.1]\r\n250-PIPELINING\r\n250-SIZE 1000\r\n\
            250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-SMTPUTF8\r\n\
            250-LIMITS RCPTMAX=100\r\n";
        let extensions = |config: &ReceiverConfig, tls| {
            let text = wire(&ehlo(config, tls, &client));
            text.strip_prefix(common).map(str::to_owned).unwrap_or_else(|| panic!("{text}"))
        };
        assert_eq!(extensions(&config, false), "250-EXPN\r\n250 HELP\r\n");
        (config.vrfy, config.expn) = (true, false);
        assert_eq!(extensions(&config, false), "250-VRFY\r\n250 HELP\r\n");
        (config.vrfy, config.terminals) = (false, true);
        assert_eq!(extensions(&config, false), "250-SEND\r\n250-SOML\r\n250-SAML\r\n250 HELP\r\n");
        (config.terminals, config.etrn) = (false, true);
        assert_eq!(extensions(&config, false), "250-ETRN\r\n250 HELP\r\n");
        config.etrn = false;
        for tls in [StartTlsMode::Offered, StartTlsMode::Required] {
            config.tls = tls;
            assert_eq!(extensions(&config, false), "250-STARTTLS\r\n250 HELP\r\n");
            assert_eq!(extensions(&config, true), "250 HELP\r\n", "not offered twice");
        }
    }

    #[test]
    fn no_text_can_break_a_line() {
        let reply = Reply::new(550, (5, 1, 1), "a\r\n250 b\0\u{1b}\u{e9}\t");
        assert_eq!(wire(&reply), "550 5.1.1 a??250 b????\r\n");
        let reply = Reply::new(550, (5, 1, 1), "x".repeat(600));
        assert_eq!(wire(&reply).len(), REPLY_LINE_MAX);
        let reply = Reply { lines: Vec::new(), ..Reply::plain(250, "") };
        assert_eq!(wire(&reply), "250 \r\n");
        // UTF-8 is sent only where it is allowed, and no character is cut in two.
        let reply = Reply::new(250, (2, 1, 5), "j\u{fc}rgen\u{9b}\u{7f}\r\n");
        assert_eq!(wire(&reply), "250 2.1.5 j?rgen????\r\n");
        assert_eq!(wire(&reply.with_utf8()), "250 2.1.5 j\u{fc}rgen????\r\n");
        let reply = Reply::new(250, (2, 1, 5), "\u{4e00}".repeat(200)).with_utf8();
        assert_eq!(wire(&reply).len(), 10 + 166 * 3 + 2);
    }
}
