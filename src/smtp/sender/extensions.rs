//! The extensions that a server lists in its reply to EHLO (RFC 5321 4.1.1.1).

use super::reply_parser::ServerReply;

/// The extensions of a server that a sender uses. There are none after HELO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// SIZE (RFC 1870).
    pub size: bool,
    /// The largest message in octets that SIZE announces.
    pub size_max: Option<u64>,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub utf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// STARTTLS (RFC 3207).
    pub start_tls: bool,
    /// AUTH PLAIN (RFC 4616).
    pub auth_plain: bool,
    /// AUTH LOGIN (draft-murchison-sasl-login).
    pub auth_login: bool,
    /// The most recipients of a transaction, LIMITS RCPTMAX (RFC 9422).
    pub recipients_max: Option<usize>,
    /// The most transactions of a connection, LIMITS MAILMAX (RFC 9422).
    pub transactions_max: Option<usize>,
}

impl Extensions {
    /// Parses the keywords, which begin on the second line. Invalid ones are ignored.
    pub(super) fn parse(ehlo: &ServerReply) -> Extensions {
        let mut extensions = Extensions::default();
        for line in ehlo.lines().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_str() {
                "PIPELINING" => extensions.pipelining = true,
                "SIZE" => {
                    extensions.size = true;
                    let max = words.next().and_then(|word| word.parse().ok());
                    // 0 means that there is no fixed limit (RFC 1870 4).
                    extensions.size_max = max.filter(|max| *max > 0);
                }
                "8BITMIME" => extensions.eight_bit_mime = true,
                "SMTPUTF8" => extensions.utf8 = true,
                "DSN" => extensions.dsn = true,
                "CHUNKING" => extensions.chunking = true,
                "STARTTLS" => extensions.start_tls = true,
                "AUTH" => words.for_each(|word| extensions.add_mechanism(word)),
                "LIMITS" => words.for_each(|word| extensions.add_limit(word)),
                // The form that was in use before RFC 2554.
                _ => {
                    if let Some(first) = keyword.strip_prefix("AUTH=") {
                        extensions.add_mechanism(first);
                        words.for_each(|word| extensions.add_mechanism(word));
                    }
                }
            }
        }
        extensions
    }

    fn add_mechanism(&mut self, name: &str) {
        self.auth_plain |= name.eq_ignore_ascii_case("PLAIN");
        self.auth_login |= name.eq_ignore_ascii_case("LOGIN");
    }

    /// Parses a limit such as `RCPTMAX=100`. Zero is not valid.
    fn add_limit(&mut self, word: &str) {
        let Some((name, value)) = word.split_once('=') else { return };
        let value = value.parse().ok().filter(|value| *value > 0);
        match name.to_ascii_uppercase().as_str() {
            "RCPTMAX" => self.recipients_max = value,
            "MAILMAX" => self.transactions_max = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply_parser::ReplyParser;
    use super::*;

    #[test]
    fn keywords() {
        let none = Extensions::default;
        let plain = Extensions { auth_plain: true, ..none() };
        let both = Extensions { auth_login: true, ..plain.clone() };
        let size = |size_max| Extensions { size: true, size_max, ..none() };
        for (line, extensions) in [
            ("", none()),
            ("PIPELINING", Extensions { pipelining: true, ..none() }),
            ("pipelining now", Extensions { pipelining: true, ..none() }),
            ("PIPELININGS", none()),
            ("SIZE", size(None)),
            ("SIZE 0", size(None)),
            ("SIZE 1000", size(Some(1000))),
            ("SIZE 99999999999999999999", size(None)),
            ("SIZE -1", size(None)),
            ("8BITMIME", Extensions { eight_bit_mime: true, ..none() }),
            ("SMTPUTF8", Extensions { utf8: true, ..none() }),
            ("DSN", Extensions { dsn: true, ..none() }),
            ("CHUNKING", Extensions { chunking: true, ..none() }),
            ("STARTTLS", Extensions { start_tls: true, ..none() }),
            ("AUTH", none()),
            ("AUTH PLAIN", plain.clone()),
            ("auth cram-md5 login plain", both.clone()),
            ("AUTH=PLAIN LOGIN", both),
            ("AUTH=X PLAIN", plain),
            ("AUTH PLAINER", none()),
            ("LIMITS RCPTMAX=5 X=1", Extensions { recipients_max: Some(5), ..none() }),
            ("LIMITS MAILMAX=2 RCPTMAX=0", Extensions { transactions_max: Some(2), ..none() }),
            ("LIMITS", none()),
            ("XFORWARD NAME", none()),
        ] {
            let mut parser = ReplyParser::default();
            parser.feed(format!("250-DSN 8BITMIME\r\n250 {line}\r\n").as_bytes());
            assert_eq!(Extensions::parse(&parser.next().unwrap().unwrap()), extensions, "{line}");
        }
    }
}
