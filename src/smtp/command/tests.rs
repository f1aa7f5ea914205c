//! Tests of the parser with tables of boundary cases.

use super::*;

/// Returns the command, or the code of the reply that rejects the line.
fn parse(line: &str) -> Result<Command, u16> {
    parse_bytes(&[line.as_bytes(), b"\r\n"].concat())
}

fn parse_bytes(line: &[u8]) -> Result<Command, u16> {
    Command::parse(line).map_err(|reply| reply.code)
}

fn name(text: &str) -> ClientName {
    ClientName::read(text.as_bytes()).unwrap()
}

#[test]
fn commands_without_arguments() {
    let rows = [
        ("DATA", Ok(Command::Data)),
        ("RSET", Ok(Command::Rset)),
        ("QUIT", Ok(Command::Quit)),
        ("NOOP", Ok(Command::Noop)),
        ("HELP", Ok(Command::Help(None))),
        ("data", Ok(Command::Data)),
        ("qUiT", Ok(Command::Quit)),
        ("RSET ", Ok(Command::Rset)),
        ("RSET \t ", Ok(Command::Rset)),
        ("DATA x", Err(501)),
        ("RSET x", Err(501)),
        ("QUIT x", Err(501)),
        ("NOOP anything at all", Ok(Command::Noop)),
        ("NOOP \u{e9}", Ok(Command::Noop)),
    ];
    for (line, expected) in rows {
        assert_eq!(parse(line), expected, "{line:?}");
    }
}

#[test]
fn unknown_commands_get_500_and_unimplemented_ones_502() {
    for line in ["", " ", "X", "DAT", "DATAA", "MAILFROM:<a@b>", " NOOP", "XCLIENT", "\u{e9}"] {
        assert_eq!(parse(line), Err(500), "{line:?}");
    }
    for verb in NOT_IMPLEMENTED {
        assert_eq!(parse(verb), Err(502), "{verb}");
        assert_eq!(parse(&format!("{} FROM:<a@b>", verb.to_lowercase())), Err(502), "{verb}");
    }
}

#[test]
fn only_cr_lf_ends_a_line() {
    let rows: &[&[u8]] = &[
        b"",
        b"NOOP",
        b"NOOP\n",
        b"NOOP\r",
        b"NOOP\n\r\n",
        b"NOOP\r\r\n",
        b"NO\nOP\r\n",
        b"NOOP\nQUIT\r\n",
        b"NOOP\rQUIT\r\n",
        b"NOOP \0\r\n",
        b"MAIL FROM:<a@b>\nRCPT TO:<c@d>\r\n",
    ];
    for line in rows {
        let reply = Command::parse(line).unwrap_err();
        assert_eq!(reply, reply::bare_line_end(), "{}", line.escape_ascii());
    }
}

#[test]
fn a_line_longer_than_the_limit_is_rejected() {
    let noop = |length: usize| format!("NOOP {}\r\n", "x".repeat(length - 7)).into_bytes();
    assert_eq!(parse_bytes(&noop(512)), Ok(Command::Noop));
    assert_eq!(parse_bytes(&noop(COMMAND_LINE_MAX)), Ok(Command::Noop));
    assert_eq!(Command::parse(&noop(COMMAND_LINE_MAX + 1)), Err(reply::line_too_long()));
}

#[test]
fn ehlo_and_helo_accept_any_name_but_none() {
    let rows = [
        ("EHLO alpha.arpa", Ok(Command::Ehlo(name("alpha.arpa")))),
        ("ehlo  alpha.arpa  ", Ok(Command::Ehlo(name("alpha.arpa")))),
        ("HELO localhost", Ok(Command::Helo(name("localhost")))),
        ("EHLO my_pc", Ok(Command::Ehlo(name("my_pc")))),
        ("EHLO [127.0.0.1]", Ok(Command::Ehlo(name("[127.0.0.1]")))),
        ("EHLO [IPv6:::1]", Ok(Command::Ehlo(name("[IPv6:::1]")))),
        ("EHLO", Err(501)),
        ("HELO ", Err(501)),
        ("EHLO two names", Ok(Command::Ehlo(name("two names")))),
        ("LHLO host.example.", Ok(Command::Lhlo(name("host.example")))),
        ("HELO \u{e9}", Ok(Command::Helo(name("?")))),
    ];
    for (line, expected) in rows {
        assert_eq!(parse(line), expected, "{line:?}");
    }
    for length in [255, 256, 1000] {
        let line = format!("EHLO {}", "d".repeat(length));
        assert_eq!(parse(&line), Ok(Command::Ehlo(name(&"d".repeat(255)))), "{length}");
    }
}

#[test]
fn mail_takes_a_reverse_path_and_parameters() {
    let from = |text: &str| ReversePath::read(text.as_bytes()).unwrap().0;
    let none = MailParameters::default;
    let sized = || MailParameters { size: Some(5), ..none() };
    let rows = [
        ("MAIL FROM:<a@b>", Ok(Command::Mail(Delivery::Mail, from("<a@b>"), none()))),
        ("mail from:<a@b>", Ok(Command::Mail(Delivery::Mail, from("<a@b>"), none()))),
        ("MAIL  FROM:<a@b> ", Ok(Command::Mail(Delivery::Mail, from("<a@b>"), none()))),
        ("MAIL FROM: <a@b>", Ok(Command::Mail(Delivery::Mail, from("<a@b>"), none()))),
        ("MAIL FROM:\t<>", Ok(Command::Mail(Delivery::Mail, ReversePath::Null, none()))),
        ("SEND FROM:<a@b>", Ok(Command::Mail(Delivery::Send, from("<a@b>"), none()))),
        ("soml from:<>", Ok(Command::Mail(Delivery::SendOrMail, ReversePath::Null, none()))),
        (
            "SAML FROM:<> SIZE=5",
            Ok(Command::Mail(Delivery::SendAndMail, ReversePath::Null, sized())),
        ),
        ("SEND", Err(501)),
        ("SOML TO:<a@b>", Err(501)),
        ("SAML FROM:a@b", Ok(Command::Mail(Delivery::SendAndMail, from("<a@b>"), none()))),
        ("MAIL FROM:<> SIZE=5", Ok(Command::Mail(Delivery::Mail, ReversePath::Null, sized()))),
        (
            "MAIL FROM:<\"a> b\"@c>  size=5",
            Ok(Command::Mail(Delivery::Mail, from("<\"a> b\"@c>"), sized())),
        ),
        ("MAIL", Err(501)),
        ("MAIL FROM", Err(501)),
        ("MAIL FROM:", Err(501)),
        ("MAIL FROM :<a@b>", Err(501)),
        ("MAIL TO:<a@b>", Err(501)),
        ("MAIL <a@b>", Err(501)),
        ("MAIL FROM:a@b", Ok(Command::Mail(Delivery::Mail, from("<a@b>"), none()))),
        ("MAIL FROM: a@b SIZE=5", Ok(Command::Mail(Delivery::Mail, from("<a@b>"), sized()))),
        ("MAIL FROM:a@b>", Err(501)),
        ("MAIL FROM:<a@b", Err(501)),
        ("MAIL FROM:@x:a@b", Err(501)),
        ("MAIL FROM:postmaster", Err(501)),
        ("MAIL FROM: SIZE=5", Err(501)),
        ("MAIL FROM:<a>", Err(501)),
        ("MAIL FROM:<postmaster>", Err(501)),
        ("MAIL FROM:<a@b>SIZE=5", Err(501)),
        ("MAIL FROM:<a@b>>", Err(501)),
        ("MAIL FROM:<a@b> SIZE=x", Err(501)),
        ("MAIL FROM:<a@b> BODY=BINARYMIME", Err(504)),
        ("MAIL FROM:<a@b> AUTH=<>", Err(555)),
        ("MAIL FROM:<\u{85}@b>", Err(501)),
    ];
    for (line, expected) in rows {
        assert_eq!(parse(line), expected, "{line:?}");
    }
}

#[test]
fn rcpt_takes_a_forward_path() {
    let to = |text: &str| ForwardPath::read(text.as_bytes()).unwrap().0;
    let plain = RcptParameters::default;
    let rows = [
        ("RCPT TO:<a@b>", Ok(Command::Rcpt(to("<a@b>"), plain()))),
        ("rcpt  to: <a@b> ", Ok(Command::Rcpt(to("<a@b>"), plain()))),
        ("RCPT TO:<@x,@y:a@b>", Ok(Command::Rcpt(to("<a@b>"), plain()))),
        ("RCPT TO:<postMaster>", Ok(Command::Rcpt(ForwardPath::Postmaster, plain()))),
        ("RCPT", Err(501)),
        ("RCPT TO:", Err(501)),
        ("RCPT TO:<>", Err(501)),
        ("RCPT FROM:<a@b>", Err(501)),
        ("RCPT TO:a@b", Ok(Command::Rcpt(to("<a@b>"), plain()))),
        ("RCPT TO:postmaster", Ok(Command::Rcpt(ForwardPath::Postmaster, plain()))),
        ("RCPT TO:postmaster>", Err(501)),
        ("RCPT TO:a", Err(501)),
        ("RCPT TO:a@b,c@d", Err(501)),
        ("RCPT TO:<a>", Err(501)),
        ("RCPT TO:<a@b>x", Err(501)),
        ("RCPT TO:<a@b> X=Y", Err(555)),
        ("RCPT TO:<a@b> =", Err(501)),
    ];
    for (line, expected) in rows {
        assert_eq!(parse(line), expected, "{line:?}");
    }
}

#[test]
fn a_501_shows_the_syntax_and_what_is_wrong_in_the_address() {
    let rows = [
        ("EHLO", "501 5.5.4 Syntax: EHLO host.example or EHLO [192.0.2.1]\r\n"),
        (
            "MAIL a@b",
            "501 5.5.4 Syntax: MAIL FROM:<user@host> [SIZE=octets] [BODY=7BIT|8BITMIME] \
             [SMTPUTF8] [RET=FULL|HDRS] [ENVID=xtext] [PRDR]\r\n",
        ),
        (
            "MAIL FROM:",
            "501 5.1.7 MAIL FROM: expected an address in angle brackets: <user@host>\r\n",
        ),
        ("RCPT TO:<a>", "501 5.1.3 RCPT TO: the domain is missing: <user@host>\r\n"),
    ];
    for (line, expected) in rows {
        let mut out = Vec::new();
        Command::parse(format!("{line}\r\n").as_bytes()).unwrap_err().write_to(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected, "{line}");
    }
}

#[test]
fn names_are_returned_without_brackets_and_quotes() {
    let rows = [
        ("smith", Some("smith")),
        ("<smith@b>", Some("smith@b")),
        ("Fred Smith", Some("Fred Smith")),
        ("\"Fred \\\"F\\\" Smith\"", Some("Fred \"F\" Smith")),
        ("\"a\"@b", Some("\"a\"@b")),
        ("<>", None),
        ("", None),
        ("a\tb", None),
        ("j\u{fc}rgen", Some("j\u{fc}rgen")),
        ("<j\u{fc}rgen@b\u{fc}cher>", Some("j\u{fc}rgen@b\u{fc}cher")),
        ("a\u{85}", None),
        ("smtputf8", Some("smtputf8")),
        ("<smtputf8>", Some("smtputf8")),
        ("asmtputf8", Some("asmtputf8")),
        ("\"\"", None),
    ];
    for (argument, expected) in rows {
        let asked =
            |utf8| expected.map(|name| NameArgument { name: name.to_owned(), utf8 }).ok_or(501);
        assert_eq!(parse(&format!("VRFY {argument}")), asked(false).map(Command::Vrfy));
        assert_eq!(parse(&format!("EXPN {argument}")), asked(false).map(Command::Expn));
        if !argument.is_empty() {
            let line = format!("VRFY {argument}  smtpUTF8 ");
            assert_eq!(parse(&line), asked(true).map(Command::Vrfy));
        }
    }
    assert!(Command::parse(b"VRFY \xfc\r\n").is_err());
    assert_eq!(parse("HELP mail"), Ok(Command::Help(Some("mail".to_owned()))));
}

/// RFC 2920 3.2 (2), (5) and (6)
#[test]
fn only_replies_to_pipelined_commands_may_be_delayed() {
    for line in ["RSET", "mail from:<a@b>", "SEND FROM:<>", "SOML", "SAML x", "RCPT TO:<a@b>"] {
        assert!(may_delay_reply(format!("{line}\r\n").as_bytes()), "{line}");
    }
    assert!(may_delay_reply(b"BDAT 5 LAST\r\n"));
    for line in ["EHLO a", "DATA", "VRFY a", "EXPN a", "TURN", "QUIT", "NOOP", "WIZ", "", "RSETS"] {
        assert!(!may_delay_reply(format!("{line}\r\n").as_bytes()), "{line}");
    }
}

/// RFC 1985 5.3
#[test]
fn a_node_is_a_domain_and_with_an_at_sign_its_subdomains_too() {
    let node = |text: &str| match Command::parse(format!("ETRN {text}\r\n").as_bytes()) {
        Ok(Command::Etrn(node)) => Ok(node),
        Ok(other) => panic!("{other:?}"),
        Err(reply) => Err(reply.code),
    };
    for (text, domain, holds) in [
        ("b.example", "b.example", true),
        ("B.Example", "b.eXAMPLE", true),
        ("b.example", "a.b.example", false),
        ("b.example", "ab.example", false),
        ("b.example", "example", false),
        ("@b.example", "b.example", true),
        ("@b.example", "a.b.example", true),
        ("@b.example", "ab.example", false),
        ("@b.example", "j\u{fc}b.example", false),
        ("[192.0.2.1]", "[192.0.2.1]", true),
    ] {
        assert_eq!(node(text).unwrap().matches(domain), holds, "{text} {domain}");
    }
    for text in ["", "@", "#queue", "a b", "<a@b>", "a..b", "j\u{fc}.example"] {
        assert_eq!(node(text), Err(501), "{text}");
    }
}

#[test]
fn other_protocols_are_recognized() {
    let foreign: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\n",
        b"POST /x HTTP/1.0\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n\r\n",
        b"\x80\x2e\x01\r\n",
        b"\0\r\n",
    ];
    for line in foreign {
        assert!(is_other_protocol(line), "{}", line.escape_ascii());
    }
    let own: &[&[u8]] = &[b"\r\n", b"\n", b"GET\r\n", b"get / HTTP/1.1\r\n", b"EHLO \0\r\n", b""];
    for line in own {
        assert!(!is_other_protocol(line), "{}", line.escape_ascii());
    }
}
