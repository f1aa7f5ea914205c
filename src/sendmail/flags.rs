//! The command line of sendmail(1), in the forms that programs use.
//!
//! Options may be in one word or in several (`-ti`, `-t -i`), and their values in the same word or
//! in the next (`-fjones`, `-f jones`). Options of other sendmails that have no meaning here
//! (`-o*`, `-B`, `-h`, `-X`, ...) are accepted and ignored, so that their callers work. An option
//! that no sendmail has is an error.

use crate::smtp::dsn::{DsnNotify, DsnReturn};

/// The action that the command line selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `-bm`: send a message from standard input.
    #[default]
    Send,
    /// `-bs`: speak SMTP on standard input and output.
    Smtp,
    /// `-bp`, mailq: list the queue.
    Queue,
    /// `-q`: try the queue now.
    Flush,
    /// `-bv`: show where addresses lead.
    Verify,
    /// `-bi`, `-I`, newaliases: have the server read the aliases again.
    Aliases,
    /// `--help`
    Help,
    /// `--version`
    Version,
}

/// A parsed command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The action.
    pub mode: Mode,
    /// `-t`: the header holds recipients too.
    pub recipients_in_header: bool,
    /// `-i`, `-oi`: a line of one dot does not end the message.
    pub dot_is_text: bool,
    /// `-f`, `-r`: the sender.
    pub from: Option<String>,
    /// `-F`: the sender's full name.
    pub full_name: Option<String>,
    /// `-C`: the configuration file.
    pub config: Option<String>,
    /// `-N`
    pub notify: Option<DsnNotify>,
    /// `-R`
    pub ret: Option<DsnReturn>,
    /// `-V`
    pub envid: Option<String>,
    /// `-v`: print the outcome of each recipient.
    pub verbose: bool,
    /// `--deliver-direct`: deliver without the server if it does not run.
    pub direct: bool,
    /// Addresses.
    pub operands: Vec<String>,
}

/// Parses the arguments of a program that was called by `name`.
///
/// # Errors
/// A text for the caller, if an argument is invalid.
pub fn parse(name: &str, args: &[String]) -> Result<Flags, String> {
    let mut flags = Flags {
        mode: match name {
            "mailq" => Mode::Queue,
            "newaliases" => Mode::Aliases,
            _ => Mode::Send,
        },
        ..Flags::default()
    };
    let mut rest = args.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--" => {
                flags.operands.extend(rest.by_ref().cloned());
                break;
            }
            "--deliver-direct" => flags.direct = true,
            "--help" => flags.mode = Mode::Help,
            "--version" => flags.mode = Mode::Version,
            _ => match word.strip_prefix('-') {
                Some(letters) if !letters.is_empty() && !letters.starts_with('-') => {
                    flags.parse_word(letters, &mut rest)?;
                }
                Some(_) => return Err(format!("no such option: {word}")),
                None => flags.operands.push(word.clone()),
            },
        }
    }
    Ok(flags)
}

impl Flags {
    /// Parses the options of one word. The value of the last may be the next word of `rest`.
    fn parse_word<'a>(
        &mut self,
        letters: &'a str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), String> {
        let mut chars = letters.chars();
        while let Some(letter) = chars.next() {
            let attached = chars.as_str();
            match letter {
                't' => self.recipients_in_header = true,
                'i' => self.dot_is_text = true,
                'v' => self.verbose = true,
                'I' => self.mode = Mode::Aliases,
                'G' | 'U' | 'm' | 'n' | 'c' | 's' | 'T' | 'x' => {}
                // With a value in the same word, or none.
                'q' => {
                    // `-q30m` starts a daemon in other sendmails, which here runs already.
                    if attached.is_empty() && self.mode == Mode::Send {
                        self.mode = Mode::Flush;
                    }
                    return Ok(());
                }
                'd' => return Ok(()),
                'A' | 'B' | 'C' | 'D' | 'F' | 'L' | 'N' | 'O' | 'Q' | 'R' | 'V' | 'X' | 'b'
                | 'e' | 'f' | 'h' | 'o' | 'p' | 'r' => {
                    let missing = || format!("-{letter} needs a value");
                    let value = match attached {
                        "" => rest.next().map(String::as_str).ok_or_else(missing)?,
                        value => value,
                    };
                    return self.set(letter, value);
                }
                _ => return Err(format!("no such option: -{letter}")),
            }
        }
        Ok(())
    }

    fn set(&mut self, letter: char, value: &str) -> Result<(), String> {
        let expected = |form: &str| format!("-{letter} {value:?}: expected {form}");
        match letter {
            'b' => {
                self.mode = match value {
                    "m" => Mode::Send,
                    "s" => Mode::Smtp,
                    "p" => Mode::Queue,
                    "v" => Mode::Verify,
                    "i" => Mode::Aliases,
                    "d" | "D" => return Err("-bd: the server is mailslot(8)".to_owned()),
                    _ => return Err(expected("m, s, p, v or i")),
                }
            }
            'C' => self.config = Some(value.to_owned()),
            'F' => self.full_name = Some(value.to_owned()),
            'f' | 'r' => self.from = Some(value.to_owned()),
            'N' => {
                let notify = DsnNotify::parse(value);
                self.notify = Some(notify.ok_or_else(|| expected(NOTIFY_FORM))?);
            }
            'R' => {
                self.ret = Some(DsnReturn::parse(value).ok_or_else(|| expected("full or hdrs"))?)
            }
            'V' => {
                if value.len() > ENVID_MAX || !value.bytes().all(|b| b.is_ascii_graphic()) {
                    return Err(expected("up to 33 printable characters without blanks"));
                }
                self.envid = Some(value.to_owned());
            }
            'o' if value == "i" => self.dot_is_text = true,
            'o' if value == "t" => self.recipients_in_header = true,
            'O' if value.eq_ignore_ascii_case("IgnoreDots") => self.dot_is_text = true,
            _ => {}
        }
        Ok(())
    }
}

/// The text of `--help`.
pub const HELP: &str = "\
Usage: sendmail [OPTIONS] [ADDRESS ...] < message
       sendmail -bs | mailq | newaliases

Submits a message to the mail server of this host, mailslot(8).

  -t           the header holds recipients too: To, Cc and Bcc
  -i, -oi      a line of one dot does not end the message
  -f ADDRESS   the sender; \"\" or <> for none (-r is the same)
  -F NAME      the sender's full name
  -N LIST      report success, failure, delay; or never
  -R PART      the part of the message in a failure report: full or hdrs
  -V ID        the envelope id in reports
  -v           print the outcome of each recipient
  -bs          speak SMTP on standard input and output
  -bv          print where each ADDRESS leads
  -bp          list the queue of mail for other hosts, as mailq does
  -q           try to send the queue now
  -bi          newaliases: read the aliases now, and print their errors
  -C FILE      the configuration file, /etc/mailslot.conf
  --deliver-direct  (root) deliver without the server if it does not run

Options of other sendmails are accepted and ignored.
";

const NOTIFY_FORM: &str = "never, or some of success,failure,delay";
/// Maximum length in characters. Encoded, each has up to three of 100 octets (RFC 3461 4.4).
const ENVID_MAX: usize = 33;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, line: &str) -> Result<Flags, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(name, &args)
    }

    #[test]
    fn command_lines_of_known_callers() {
        let none = || read("sendmail", "").unwrap();
        let to = |operands: &[&str]| operands.iter().map(|o| o.to_string()).collect::<Vec<_>>();
        let i = Flags { dot_is_text: true, ..none() };
        let ti = Flags { recipients_in_header: true, ..i.clone() };
        let some = |text: &str| Some(text.to_owned());
        for (line, flags) in [
            ("root", Flags { operands: to(&["root"]), ..none() }),
            ("-i root", Flags { operands: to(&["root"]), ..i.clone() }),
            ("-oi root", Flags { operands: to(&["root"]), ..i.clone() }),
            ("-o i root", Flags { operands: to(&["root"]), ..i.clone() }),
            ("-t -i", ti.clone()),
            ("-ti", ti.clone()),
            ("-i -t", ti.clone()),
            ("-oi -ot", ti.clone()),
            // Debian's cron, and others'.
            (
                "-i -FCronDaemon -B8BITMIME -oem root",
                Flags { full_name: some("CronDaemon"), operands: to(&["root"]), ..i.clone() },
            ),
            (
                "-FCronDaemon -odi -oem -oi -t -f root",
                Flags { full_name: some("CronDaemon"), from: some("root"), ..ti.clone() },
            ),
            // mutt
            (
                "-oem -oi -f a@b -N success,failure -R hdrs -- c@d -e",
                Flags {
                    from: some("a@b"),
                    notify: DsnNotify::parse("SUCCESS,FAILURE"),
                    ret: Some(DsnReturn::Headers),
                    operands: to(&["c@d", "-e"]),
                    ..i.clone()
                },
            ),
            // git send-email, PHP, s-nail
            ("-f a@b -i c@d", Flags { from: some("a@b"), operands: to(&["c@d"]), ..i.clone() }),
            ("-t -i -fa@b", Flags { from: some("a@b"), ..ti.clone() }),
            ("-i -m -v -r a@b", Flags { from: some("a@b"), verbose: true, ..i.clone() }),
            ("-itfa@b c", Flags { from: some("a@b"), operands: to(&["c"]), ..ti }),
            ("-V QQ1 -C /x", Flags { envid: some("QQ1"), config: some("/x"), ..none() }),
            ("-bs", Flags { mode: Mode::Smtp, ..none() }),
            ("-b s", Flags { mode: Mode::Smtp, ..none() }),
            ("-bp", Flags { mode: Mode::Queue, ..none() }),
            ("-bi", Flags { mode: Mode::Aliases, ..none() }),
            ("-I", Flags { mode: Mode::Aliases, ..none() }),
            ("-bv a", Flags { mode: Mode::Verify, operands: to(&["a"]), ..none() }),
            ("-q", Flags { mode: Mode::Flush, ..none() }),
            ("-q30m", none()),
            ("-bm -d8.99 -h 3 -O DeliveryMode=b -X /log -p ESMTP -U -G -n -m -L tag", none()),
            ("-Am -om -e q -oA/etc/aliases", none()),
            ("--deliver-direct", Flags { direct: true, ..none() }),
        ] {
            assert_eq!(read("sendmail", line), Ok(flags), "{line}");
        }
        assert_eq!(read("mailq", "").unwrap().mode, Mode::Queue);
        assert_eq!(read("newaliases", "").unwrap().mode, Mode::Aliases);
        let empty = parse("sendmail", &["-f".to_owned(), String::new()]).unwrap();
        assert_eq!(empty.from.as_deref(), Some(""));
    }

    #[test]
    fn errors() {
        for (line, why) in [
            ("-k", "no such option: -k"),
            ("-ik", "no such option: -k"),
            ("-", "no such option: -"),
            ("--unknown", "no such option: --unknown"),
            ("-f", "-f needs a value"),
            ("-bd", "mailslot(8)"),
            ("-bz", "expected m, s, p, v or i"),
            ("-N sometimes", "expected never"),
            ("-R some", "expected full"),
            ("-V \u{e9}", "expected up to 33"),
        ] {
            let said = read("sendmail", line).unwrap_err();
            assert!(said.contains(why), "{line}: {said}");
        }
    }
}
