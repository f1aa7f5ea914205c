//! The documents that describe the log, compared with its events: the LOG section of mailslot(8),
//! and the rules for logcheck.
//!
//! `RENEW=1 cargo test --test library log_events` writes both; look at the diff.

use std::fs;
use std::path::Path;

use log::Level;
use mailslot::observe::counters::Counters;
use mailslot::observe::events::{EVENTS, Event, FieldKind, MESSAGE_FIELDS};

#[test]
fn the_manual_describes_every_event_and_every_counter() {
    let events: String = EVENTS.iter().map(manual_of).collect();
    compare("contrib/man/mailslot.8", ".\\\" events\n", ".\\\" end of events\n", &events);
    let counters = Counters::default().list().into_iter();
    let counters: String =
        counters.map(|(name, meaning, _)| format!(".It Va {name}\n{meaning}\n")).collect();
    compare("contrib/man/mailslot.8", ".\\\" counters\n", ".\\\" end of counters\n", &counters);
}

#[test]
fn logcheck_expects_every_ordinary_event() {
    let ordinary = EVENTS.iter().filter(|event| event.level == Level::Info);
    let rules: String = ordinary.map(rule_of).collect();
    compare("contrib/logcheck/mailslot", "", "", &rules);
}

/// Returns the item of the manual for an event.
fn manual_of(event: &Event) -> String {
    let fields = event.fields.iter().flat_map(|(name, kind)| match kind {
        FieldKind::Value => vec![(*name).to_owned()],
        FieldKind::Option => vec![format!("[{name}]")],
        FieldKind::Message => MESSAGE_FIELDS.map(str::to_owned).to_vec(),
        FieldKind::Counters => vec!["all counters".to_owned()],
    });
    let fields: Vec<String> = fields.collect();
    let fields = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
    let level = event.level.as_str().to_lowercase();
    let mut item = format!(".It Ic {} Pq {level}\n", event.name());
    // A new sentence begins a line.
    let meaning = event.meaning.trim().replace(". ", ".\n");
    wrap(&mut item, &meaning);
    wrap(&mut item, &format!("Fields: {fields}."));
    item
}

/// Appends lines of at most 80 characters.
fn wrap(out: &mut String, text: &str) {
    for sentence in text.lines() {
        let mut width = 0;
        for word in sentence.split(' ') {
            let separator = match width {
                0 => "",
                n if n + word.len() > 79 => "\n",
                _ => " ",
            };
            width = if separator == "\n" { 0 } else { width + separator.len() } + word.len();
            out.push_str(separator);
            out.push_str(word);
        }
        out.push('\n');
    }
}

/// Returns the regular expression for the lines of an event, as a syslog daemon writes them.
fn rule_of(event: &Event) -> String {
    const START: &str = r"^([[:alpha:]]{3} [ :[:digit:]]{11}|[0-9T:.+-]{32}) [._[:alnum:]-]+ ";
    const VALUE: &str = r#"("([^"\\]|\\.)*"|[^" ]+)"#;
    let one = |name: &str| format!(" {name}={VALUE}");
    let fields = event.fields.iter().map(|(name, kind)| match kind {
        FieldKind::Value => one(name),
        FieldKind::Option => format!("({})?", one(name)),
        FieldKind::Message => MESSAGE_FIELDS.map(one).concat(),
        FieldKind::Counters => r"( [_[:alpha:]]+=[[:digit:]]+)+".to_owned(),
    });
    let fields: String = fields.collect();
    format!(r"{START}mailslot\[[[:digit:]]+\]: {}{fields}$", event.name()) + "\n"
}

/// Compares what stands between the lines `begin` and `end` of a file, or its whole.
fn compare(file: &str, begin: &str, end: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(&path).unwrap();
    let whole = match begin.is_empty() {
        true => expected.to_owned(),
        false => {
            let (before, rest) = text.split_once(begin).expect(begin);
            let (_, after) = rest.split_once(end).expect(end);
            format!("{before}{begin}{expected}{end}{after}")
        }
    };
    if std::env::var_os("RENEW").is_some() {
        fs::write(&path, whole).unwrap();
    } else {
        let renew = "RENEW=1 cargo test --test library log_events; git diff";
        assert!(text == whole, "{file} differs from the events; see: {renew}");
    }
}
