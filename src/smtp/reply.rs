//! The server's whole voice: every reply it can give, named, in one file (RFC 5321 4.2, RFC 3463).
//!
//! Texts are those of RFC 5321 where it has one, and name the command they belong to, so that a
//! person who reads a pipelined dialogue can tell (RFC 2920 3.2). A syntax error tells the form
//! that was expected. Nothing the client sent is repeated but what the parser accepted. All of it
//! is ASCII but for mailboxes, where the client has said that it takes UTF-8.
//!
//! What a host decides, refusals of recipients and outcomes of deliveries, is said with the words
//! here too: see the second half.

use std::borrow::Cow;

use super::command::EtrnNode;
use super::envelope::Delivery;
use super::path::{Domain, ForwardPath, Mailbox, ReversePath, SyntaxError};
use super::receiver::{ReceiverConfig, StartTlsMode};

/// One reply: a code, an enhanced status code where RFC 2034 asks for one, and its lines of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits, 2yz to 5yz.
    pub code: u16,
    /// RFC 3463: class, subject, detail. None on greeting, HELO/EHLO and 3yz.
    pub enhanced: Option<(u8, u16, u16)>,
    /// At least one; a reply line with code and CR LF is at most 512 octets.
    pub lines: Vec<Cow<'static, str>>,
    /// Whether the lines go over the wire as UTF-8, or else as ASCII (RFC 6531 3.7.4).
    utf8: bool,
}

impl Reply {
    /// A reply of one line. What is not printable, or not ASCII, becomes `?`; it is cut to fit 512
    /// octets.
    pub fn new(code: u16, enhanced: (u8, u16, u16), text: impl Into<Cow<'static, str>>) -> Reply {
        Reply::of_lines(code, enhanced, vec![text.into()])
    }

    /// A reply of several lines.
    fn of_lines(code: u16, enhanced: (u8, u16, u16), lines: Vec<Cow<'static, str>>) -> Reply {
        Reply { code, enhanced: Some(enhanced), lines, utf8: false }
    }

    /// A reply of one line where RFC 2034 wants no enhanced status code.
    fn plain(code: u16, text: impl Into<Cow<'static, str>>) -> Reply {
        Reply { code, enhanced: None, lines: vec![text.into()], utf8: false }
    }

    /// The same with UTF-8 as it is, for a client that has said that it takes it.
    pub(super) fn in_utf8(self) -> Reply {
        Reply { utf8: true, ..self }
    }

    /// Whether nothing but ASCII is in it.
    pub fn is_ascii(&self) -> bool {
        self.lines.iter().all(|line| line.is_ascii())
    }

    /// Appends the reply as it goes over the wire, each line with code, `-` or blank, and CR LF.
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
        let mut line = format!("{}{separator}", self.code);
        if let Some((class, subject, detail)) = self.enhanced {
            line += &format!("{class}.{subject}.{detail} ");
        }
        let harmless = |c: char| match c {
            ' '..='~' => c,
            c if self.utf8 && !c.is_ascii() && !c.is_control() => c,
            _ => '?',
        };
        for c in text.chars().map(harmless) {
            if line.len() + c.len_utf8() > LINE_MAX - 2 {
                break;
            }
            line.push(c);
        }
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// Whether the code is 2yz or 3yz.
    pub fn is_positive(&self) -> bool {
        self.code < 400
    }
}

/// A reply line with its CR LF, in octets (RFC 5321 4.5.3.1.5).
pub const LINE_MAX: usize = 512;

/// Defines a function for each reply that always says the same, and a list of them for tests.
macro_rules! fixed {
    ($list:ident: $(
        $name:ident $code:literal $class:literal $subject:literal $detail:literal $text:literal
    )*) => {
        $(
            #[doc = concat!("`", $code, " ", $class, ".", $subject, ".", $detail, " ", $text, "`")]
            pub fn $name() -> Reply {
                Reply::new($code, ($class, $subject, $detail), $text)
            }
        )*
        #[cfg(test)]
        const $list: &[fn() -> Reply] = &[$($name),*];
    };
}

// What the receiver says by itself.
fixed! { RECEIVER_SAYS:
    rset                250 2 0 0 "RSET: OK, nothing is pending"
    noop                250 2 0 0 "NOOP: OK"
    cannot_vrfy         252 2 5 0 "Cannot VRFY user, but will accept message and attempt delivery"
    cannot_expn         252 2 5 0 "Cannot EXPN list, but will accept message and attempt delivery"
    cannot_tell         252 2 6 8 "Only a reply in UTF-8 could show that mailbox, see SMTPUTF8"
    too_many_recipients 452 4 5 3 "RCPT: too many recipients, those accepted stay"
    bare_line_end       500 5 5 2 "a bare CR, a bare LF or a NUL: only CR LF ends a line"
    line_too_long       500 5 5 2 "Line too long"
    no_smtp             500 5 5 1 "this is LMTP: send LHLO"
    unknown_command     500 5 5 2 "Command unrecognized"
    mail_nested         503 5 5 1 "MAIL: a transaction is open, RSET would end it"
    tls_again           503 5 5 1 "STARTTLS: TLS is on already"
    rcpt_before_mail    503 5 5 1 "RCPT: send MAIL first"
    data_before_mail    503 5 5 1 "DATA: send MAIL first"
    data_before_rcpt    503 5 5 1 "DATA: send RCPT first"
    tls_required        530 5 7 0 "Must issue a STARTTLS command first"
    rcpt_behind_bdat    503 5 5 1 "RCPT: mail data has begun, RSET would drop it"
    data_behind_bdat    503 5 5 1 "DATA: a transaction has either DATA or BDAT, send RSET"
    bdat_before_mail    503 5 5 1 "BDAT: send MAIL first"
    bdat_before_rcpt    503 5 5 1 "BDAT: send RCPT first"
    bdat_failed         503 5 5 1 "BDAT: a chunk was refused before, send RSET"
    mail_not_ascii      550 5 6 7 "MAIL: an address in UTF-8 takes the parameter SMTPUTF8"
    moved_to_utf8       550 5 6 8 "RCPT: User not local; only a reply in UTF-8 could show where"
    rcpt_not_ascii      553 5 6 7 "RCPT: an address in UTF-8 takes the parameter SMTPUTF8 of MAIL"
    bdat_no_recipients  554 5 5 1 "BDAT: no valid recipients"
    bdat_too_large      552 5 3 4 "BDAT: too much mail data, see SIZE in the reply to EHLO"
    data_no_recipients  554 5 5 1 "DATA: no valid recipients"
    no_binarymime       504 5 5 4 "MAIL: parameter BODY=BINARYMIME not implemented"
    no_such_topic       504 5 5 4 "HELP: no such topic"
    declared_too_large  552 5 3 4 "MAIL: SIZE is above the limit, see the reply to EHLO"
}

/// `220 host ...`, the greeting.
pub fn greeting(hostname: &str, lmtp: bool) -> Reply {
    let protocol = if lmtp { "LMTP" } else { "ESMTP" };
    Reply::plain(220, format!("{hostname} {protocol} mailslot ready"))
}

/// `250 host greets client`, the one line that HELO gets.
pub fn helo(hostname: &str, client: &Domain) -> Reply {
    Reply::plain(250, format!("{hostname} greets {client}"))
}

/// `250-host greets client` and the service extensions, one a line (RFC 5321 4.1.1.1); `tls`
/// whether inside TLS.
pub fn ehlo(settings: &ReceiverConfig, tls: bool, client: &Domain) -> Reply {
    let mut reply = helo(&settings.hostname, client);
    reply.lines.extend([
        "PIPELINING".into(),
        format!("SIZE {}", settings.size_max).into(),
        "8BITMIME".into(),
        "ENHANCEDSTATUSCODES".into(),
        "CHUNKING".into(),
        "SMTPUTF8".into(),
        format!("LIMITS RCPTMAX={}", settings.recipients_max).into(),
    ]);
    reply.lines.extend(settings.offers_prdr().then_some("PRDR".into()));
    reply.lines.extend(settings.dsn.then_some("DSN".into()));
    reply.lines.extend((settings.tls != StartTlsMode::Off && !tls).then_some("STARTTLS".into()));
    reply.lines.extend(settings.vrfy.then_some("VRFY".into()));
    reply.lines.extend(settings.expn.then_some("EXPN".into()));
    reply.lines.extend(settings.etrn.then_some("ETRN".into()));
    if settings.terminals {
        reply.lines.extend(["SEND".into(), "SOML".into(), "SAML".into()]);
    }
    reply.lines.push("HELP".into());
    reply
}

/// `503` to MAIL before the client has said who it is.
pub fn mail_before_hello(lmtp: bool) -> Reply {
    let hello = if lmtp { "LHLO" } else { "EHLO or HELO" };
    Reply::new(503, (5, 5, 1), format!("MAIL: send {hello} first"))
}

/// `220` to STARTTLS
pub fn start_tls() -> Reply {
    Reply::new(220, (2, 0, 0), "STARTTLS: Ready to start TLS")
}

/// `250` to MAIL, SEND, SOML or SAML
pub fn mail(delivery: Delivery, from: &ReversePath) -> Reply {
    Reply::new(250, (2, 1, 0), format!("{} FROM:{from} OK", delivery.verb()))
}

/// `250` to RCPT
pub fn rcpt(to: &ForwardPath) -> Reply {
    Reply::new(250, (2, 1, 5), format!("RCPT TO:{to} OK"))
}

/// `251`: the user's mailbox is on another host, and mail for it is sent on.
pub fn will_forward(path: &Mailbox) -> Reply {
    Reply::new(251, (2, 1, 5), format!("User not local; will forward to <{path}>"))
}

/// `250` to RCPT under SOML, when the terminal cannot be had (RFC 821, scenario 6).
pub fn rcpt_not_active(to: &ForwardPath) -> Reply {
    Reply::new(250, (2, 1, 5), format!("RCPT TO:{to}: User not active now, so will do mail"))
}

/// `450` to RCPT under SEND (RFC 821, scenario 5): not logged in, or accepts no messages.
pub fn not_active(to: &ForwardPath) -> Reply {
    Reply::new(450, (4, 2, 1), format!("RCPT TO:{to}: User not active now"))
}

/// `354`
pub fn start_mail_input() -> Reply {
    Reply::plain(354, "Start mail input; end with <CRLF>.<CRLF>")
}

/// `250` to BDAT: the chunk came whole, and more is awaited.
pub fn chunk(octets: u64) -> Reply {
    Reply::new(250, (2, 0, 0), format!("BDAT: {octets} octets received"))
}

/// `353`: a reply for each recipient follows, and one for all (PRDR).
pub fn each_recipient() -> Reply {
    Reply::plain(353, "Message: a reply for each recipient follows, and one for all")
}

/// `214` to HELP
pub fn help(verbs: impl Iterator<Item = &'static str>) -> Reply {
    let mut list = "HELP: the commands are".to_owned();
    verbs.for_each(|verb| list += &format!(" {verb}"));
    let mut reply = Reply::new(214, (2, 0, 0), list);
    reply.lines.push("HELP and one of them tells its form".into());
    reply
}

/// `214` to HELP and a command.
pub fn help_topic(form: &'static str) -> Reply {
    Reply::new(214, (2, 0, 0), format!("HELP: {form}"))
}

/// `221 host ...`, to QUIT.
pub fn quit(hostname: &str) -> Reply {
    Reply::new(221, (2, 0, 0), format!("{hostname} Service closing transmission channel"))
}

/// `421 host ...`: shutdown, overload, time-out.
pub fn closing(hostname: &str, why: &str) -> Reply {
    Reply::new(421, (4, 3, 2), format!("{hostname} closing transmission channel: {why}"))
}

/// `421 host ...`: the client, or the network, was too slow.
pub fn timed_out(hostname: &str, why: &str) -> Reply {
    Reply::new(421, (4, 4, 2), format!("{hostname} closing transmission channel: {why}"))
}

/// `421 host ...`: our own fault.
pub fn broken(hostname: &str) -> Reply {
    Reply::new(421, (4, 3, 0), format!("{hostname} closing transmission channel: internal error"))
}

/// `421 host ...`: the client's fault.
pub fn giving_up(hostname: &str, why: &str) -> Reply {
    Reply::new(421, (4, 7, 0), format!("{hostname} closing transmission channel: {why}"))
}

/// `501`: not the form of the command, which is told.
pub fn syntax(form: &str) -> Reply {
    Reply::new(501, (5, 5, 4), format!("Syntax: {form}"))
}

/// `501` to MAIL: the reverse-path is none.
pub fn bad_reverse_path(error: SyntaxError) -> Reply {
    Reply::new(501, (5, 1, 7), format!("MAIL FROM: {error}"))
}

/// `501` to RCPT: the forward-path is none.
pub fn bad_forward_path(error: SyntaxError) -> Reply {
    Reply::new(501, (5, 1, 3), format!("RCPT TO: {error}"))
}

/// `501`: a parameter that is known, with a value that it cannot have, or twice.
pub fn bad_parameter(verb: &str, form: &str) -> Reply {
    Reply::new(501, (5, 5, 4), format!("{verb}: the form of the parameter is {form}"))
}

/// `502`: a command of the standards that this receiver does not carry out.
pub fn not_implemented(verb: &str) -> Reply {
    Reply::new(502, (5, 5, 1), format!("{verb}: Command not implemented"))
}

/// `555`: a parameter that no extension on offer knows.
pub fn unknown_parameter(verb: &str, keyword: &str) -> Reply {
    Reply::new(555, (5, 5, 4), format!("{verb}: parameter {keyword} not recognized"))
}

// What a host says through the receiver: for MAIL, and after the end of data.
fixed! { HOST_SAYS:
    tls_unavailable     454 4 7 0 "STARTTLS: TLS not available due to temporary reason"
    no_room             452 4 3 1 "MAIL: insufficient system storage, try again later"
    data_bare_line_end  554 5 6 0 "Message: a bare CR or a bare LF: only CR LF ends a line"
    data_too_large      552 5 3 4 "Message: too much mail data, see SIZE in the reply to EHLO"
    data_loop           554 5 4 6 "Message: too many Received lines, a mail loop"
    data_hidden_from    554 5 6 0 "Message: a long line hides a mailbox separator"
    data_mailbox_busy   451 4 2 0 "Message: a mailbox is locked or not usable now, try again later"
    data_mailbox_full   552 5 2 2 "Message: exceeded storage allocation of a mailbox"
    data_for_some       250 2 6 0 "Message: OK, delivered to some, see the replies before"
    data_for_none_yet   451 4 3 0 "Message: delivered to nobody, see the replies before"
    data_for_none       554 5 3 0 "Message: delivered to nobody, see the replies before"
    data_no_room        452 4 3 1 "Message: insufficient system storage, try again later"
    data_error          451 4 3 0 "Message: Requested action aborted: error in processing"
    data_not_shown      451 4 2 1 "DATA: not shown to every user, one is not active now"
    data_not_to_show    552 5 3 4 "DATA: too much mail data for a terminal, SOML takes it"
    data_stopping       451 4 3 2 "Message: the service is stopping, try again later"
}

/// `250` after the final dot or the last chunk: the message is ours now, under this name.
pub fn delivered(id: &str) -> Reply {
    Reply::new(250, (2, 6, 0), format!("Message: OK, delivered as {id}"))
}

/// `250` after the final dot: the message was shown on a terminal, and is in no mailbox.
pub fn shown(id: &str) -> Reply {
    Reply::new(250, (2, 6, 0), format!("DATA: OK, shown as {id}"))
}

/// `550`: no such user.
pub fn no_such_user(to: &ForwardPath) -> Reply {
    Reply::new(550, (5, 1, 1), format!("RCPT TO:{to}: No such user here"))
}

/// `550`: the domain is somebody else's.
pub fn relaying_denied(to: &ForwardPath) -> Reply {
    Reply::new(550, (5, 7, 1), format!("RCPT TO:{to}: not a mailbox of this host, no relaying"))
}

/// The same for a client on this host, whose administrator can do something about it.
pub fn nothing_relayed(to: &ForwardPath) -> Reply {
    let text = "not a mailbox of this host, and nothing is sent on without --smarthost";
    Reply::new(550, (5, 7, 1), format!("RCPT TO:{to}: {text}"))
}

/// `551`: the user's mailbox is on another host.
pub fn please_try(path: &Mailbox) -> Reply {
    Reply::new(551, (5, 1, 6), format!("User not local; please try <{path}>"))
}

/// `553`: no mailbox can have that name here.
pub fn name_not_allowed(to: &ForwardPath) -> Reply {
    Reply::new(553, (5, 1, 3), format!("RCPT TO:{to}: mailbox name not allowed"))
}

/// `450`: a mailbox that is there, and cannot take mail now.
pub fn mailbox_unavailable(to: &ForwardPath) -> Reply {
    Reply::new(450, (4, 2, 0), format!("RCPT TO:{to}: mailbox unavailable, try again later"))
}

/// `552`: a mailbox over its limit.
pub fn mailbox_full(to: &ForwardPath) -> Reply {
    Reply::new(552, (5, 2, 2), format!("RCPT TO:{to}: exceeded storage allocation"))
}

/// `451`: who that is cannot be told now.
pub fn lookup_failed(verb: &str) -> Reply {
    Reply::new(451, (4, 3, 0), format!("{verb}: error in processing, try again later"))
}

/// `451`: who that is cannot be told until an administrator mends the aliases.
pub fn misconfigured(verb: &str) -> Reply {
    Reply::new(
        451,
        (4, 3, 5),
        format!("{verb}: error in the aliases of this host, try again later"),
    )
}

/// `250` to VRFY or EXPN: `Full Name <user@host>`, one a line.
pub fn members(lines: Vec<String>) -> Reply {
    let lines = lines.into_iter().map(Cow::Owned).collect();
    Reply::of_lines(250, (2, 1, 5), lines)
}

/// `550` to VRFY or EXPN.
pub fn nobody(verb: &str) -> Reply {
    Reply::new(550, (5, 1, 1), format!("{verb}: no such user or list here"))
}

/// `553` to VRFY or RCPT: one of several, `<user@host>` one a line.
pub fn ambiguous(candidates: &[Mailbox]) -> Reply {
    let mut reply = Reply::new(553, (5, 1, 4), "Ambiguous; possibilities are");
    reply.lines.extend(candidates.iter().map(|mailbox| Cow::Owned(format!("<{mailbox}>"))));
    reply
}

/// `250` to ETRN: how much it is turns out later.
pub fn flushing(node: &EtrnNode) -> Reply {
    Reply::new(250, (2, 0, 0), format!("ETRN: queuing for node {node} started"))
}

/// `458` to ETRN: nobody here works on the queue.
pub fn cannot_flush(node: &EtrnNode) -> Reply {
    Reply::new(458, (4, 3, 0), format!("ETRN: unable to queue messages for node {node}"))
}

/// `211` to HELP, for those who may see the state of the service.
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

    /// Every reply there is, with the widest arguments that the parser lets through.
    fn all() -> Vec<Reply> {
        let wide = format!("{}@{}", "u".repeat(64), "d".repeat(189));
        let mailbox = Mailbox::parse(&wide).unwrap();
        let (to, from) = (ForwardPath::Mailbox(mailbox.clone()), ReversePath::Null);
        let host = "h".repeat(255);
        let client = Domain::Name("c".repeat(255));
        let settings = ReceiverConfig {
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
            ehlo(&settings, false, &client),
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
            closing(&host, "why"),
            timed_out(&host, "why"),
            broken(&host),
            giving_up(&host, "why"),
            syntax("form"),
            bad_reverse_path(SyntaxError("why")),
            bad_forward_path(SyntaxError("why")),
            bad_parameter("MAIL", "SIZE=octets"),
            not_implemented("TURN"),
            unknown_parameter("MAIL", &word),
            delivered("id"),
            shown("id"),
            no_such_user(&to),
            relaying_denied(&to),
            nothing_relayed(&to),
            will_forward(&mailbox),
            please_try(&mailbox),
            name_not_allowed(&to),
            mailbox_unavailable(&to),
            mailbox_full(&to),
            lookup_failed("RCPT"),
            misconfigured("RCPT"),
            members(vec!["Fred <f@x>".to_owned(), "<g@x>".to_owned()]),
            nobody("VRFY"),
            ambiguous(&[mailbox.clone(), mailbox]),
            status(vec!["one".to_owned(), "two".to_owned()]),
        ];
        all.extend(RECEIVER_SAYS.iter().chain(HOST_SAYS).map(|reply| reply()));
        all
    }

    #[test]
    fn every_reply_keeps_to_the_grammar() {
        for reply in all() {
            let text = wire(&reply);
            let (first, third) = (reply.code / 100, reply.code % 10);
            assert!((2..=5).contains(&first) && reply.code % 100 / 10 <= 5 && third <= 9, "{text}");
            assert!(text.ends_with("\r\n"), "{text}");
            let lines: Vec<&str> = text.strip_suffix("\r\n").unwrap().split("\r\n").collect();
            assert_eq!(lines.len(), reply.lines.len(), "{text}");
            for (i, line) in lines.iter().enumerate() {
                assert!(line.len() <= LINE_MAX - 2, "{line}");
                assert!(line.bytes().all(|octet| (b' '..=b'~').contains(&octet)), "{line}");
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
    fn what_machines_read_begins_with_the_domain() {
        let host = "mx.example";
        assert_eq!(wire(&greeting(host, false)), "220 mx.example ESMTP mailslot ready\r\n");
        assert!(wire(&quit(host)).starts_with("221 2.0.0 mx.example "));
        assert!(wire(&closing(host, "time-out")).starts_with("421 4.3.2 mx.example "));
        assert!(wire(&giving_up(host, "why")).starts_with("421 4.7.0 mx.example "));
        let moved = please_try(&Mailbox::parse("m@usc-isif.arpa").unwrap());
        assert_eq!(
            wire(&moved),
            "551 5.1.6 User not local; please try <m@usc-isif.arpa>\r\n",
            "RFC 5321 4.2.3 gives the words"
        );
    }

    #[test]
    fn ehlo_names_what_is_on() {
        let mut settings =
            ReceiverConfig { size_max: 1000, expn: true, ..ReceiverConfig::new("mx.example") };
        let client = Domain::parse("[127.0.0.1]").unwrap();
        let common = "250-mx.example greets [127.0.0.1]\r\n250-PIPELINING\r\n250-SIZE 1000\r\n\
            250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-SMTPUTF8\r\n\
            250-LIMITS RCPTMAX=100\r\n";
        let said = |settings: &ReceiverConfig, tls| {
            let text = wire(&ehlo(settings, tls, &client));
            text.strip_prefix(common).map(str::to_owned).unwrap_or_else(|| panic!("{text}"))
        };
        assert_eq!(said(&settings, false), "250-EXPN\r\n250 HELP\r\n");
        (settings.vrfy, settings.expn) = (true, false);
        assert_eq!(said(&settings, false), "250-VRFY\r\n250 HELP\r\n");
        (settings.vrfy, settings.terminals) = (false, true);
        assert_eq!(said(&settings, false), "250-SEND\r\n250-SOML\r\n250-SAML\r\n250 HELP\r\n");
        (settings.terminals, settings.etrn) = (false, true);
        assert_eq!(said(&settings, false), "250-ETRN\r\n250 HELP\r\n");
        settings.etrn = false;
        for tls in [StartTlsMode::Offered, StartTlsMode::Required] {
            settings.tls = tls;
            assert_eq!(said(&settings, false), "250-STARTTLS\r\n250 HELP\r\n");
            assert_eq!(said(&settings, true), "250 HELP\r\n", "not offered twice");
        }
    }

    #[test]
    fn whatever_the_text_is_a_line_stays_a_line() {
        let reply = Reply::new(550, (5, 1, 1), "a\r\n250 b\0\u{1b}\u{e9}\t");
        assert_eq!(wire(&reply), "550 5.1.1 a??250 b????\r\n");
        let reply = Reply::new(550, (5, 1, 1), "x".repeat(600));
        assert_eq!(wire(&reply).len(), LINE_MAX);
        let reply = Reply { lines: Vec::new(), ..Reply::plain(250, "") };
        assert_eq!(wire(&reply), "250 \r\n");
        // UTF-8 only where it is allowed, and never a part of a character.
        let reply = Reply::new(250, (2, 1, 5), "j\u{fc}rgen\u{9b}\u{7f}\r\n");
        assert_eq!(wire(&reply), "250 2.1.5 j?rgen????\r\n");
        assert_eq!(wire(&reply.in_utf8()), "250 2.1.5 j\u{fc}rgen????\r\n");
        let reply = Reply::new(250, (2, 1, 5), "\u{4e00}".repeat(200)).in_utf8();
        assert_eq!(wire(&reply).len(), 10 + 166 * 3 + 2);
    }
}
