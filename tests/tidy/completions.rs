//! The completions of three shells, made from the table of options.

use mailslot::config::options::{Arity, OptionRow, TABLE};

/// Returns the files below `contrib/completions`, each with its text.
pub fn files() -> [(&'static str, String); 3] {
    [("mailslot.bash", bash()), ("_mailslot", zsh()), ("mailslot.fish", fish())]
}

const COMMANDS: &[(&str, &str)] = &[
    ("check", "Print settings and problems"),
    ("explain", "Print the destinations of addresses"),
    ("queue", "List or change the mail that waits for other hosts"),
];
const QUEUE_COMMANDS: &str = "show drop flush";
const NOTE: &str = "Made from the table of options: RENEW=1 cargo test --test tidy";

/// Kind of words that complete the value of an option.
enum ValueKind {
    Nothing,
    File,
    Directory,
    Words(&'static str),
    Other,
}

fn value_kind(row: &OptionRow) -> ValueKind {
    match (row.arg, row.long) {
        ("", _) => ValueKind::Nothing,
        ("FILE", _) => ValueKind::File,
        ("DIR", _) => ValueKind::Directory,
        ("SWITCH", _) => ValueKind::Words("on off"),
        ("WHO", _) => ValueKind::Words("on local off"),
        ("WHERE", _) => ValueKind::Words("stderr syslog"),
        (_, "smarthost-tls") => ValueKind::Words("verify encrypt may"),
        _ => ValueKind::Other,
    }
}

fn first_sentence(row: &OptionRow) -> &'static str {
    row.help.split(". ").next().unwrap_or_default().trim_end_matches('.')
}

/// Returns `--long` and `-s` of these rows.
fn flags(rows: impl Iterator<Item = &'static OptionRow>) -> Vec<String> {
    let both = |row: &OptionRow| {
        let short = (!row.short.is_empty()).then(|| format!("-{}", row.short));
        [Some(format!("--{}", row.long)), short].into_iter().flatten()
    };
    rows.flat_map(both).collect()
}

fn bash() -> String {
    let mut values = String::new();
    let mut case = |kind: fn(&ValueKind) -> bool, action: &str| {
        let rows = TABLE.iter().filter(|row| kind(&value_kind(row)));
        values += &format!("    {})\n        {action}\n        ;;\n", flags(rows).join(" | "));
    };
    let reply = |what: &str| format!("mapfile -t COMPREPLY < <(compgen {what} -- \"$word\")");
    let names = |what| format!("compopt -o filenames\n        {}", reply(what));
    case(|kind| matches!(kind, ValueKind::File), &names("-f"));
    case(|kind| matches!(kind, ValueKind::Directory), &names("-d"));
    for words in ["on off", "on local off", "stderr syslog", "verify encrypt may"] {
        let rows =
            TABLE.iter().filter(|row| matches!(value_kind(row), ValueKind::Words(w) if w == words));
        let (flags, reply) = (flags(rows).join(" | "), reply(&format!("-W '{words}'")));
        values += &format!("    {flags})\n        {reply}\n        ;;\n");
    }
    let rows = TABLE.iter().filter(|row| matches!(value_kind(row), ValueKind::Other));
    values += &format!("    {}) ;;\n", flags(rows).join(" | "));
    let all = flags(TABLE.iter()).join(" ");
    let commands: Vec<_> = COMMANDS.iter().map(|(name, _)| *name).collect();
    format!(
        "# Completion of mailslot for bash.
# {NOTE}
_mailslot() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}}
    COMPREPLY=()
    # --option=value is three words.
    if [[ $word == = ]]; then
        word=
    elif [[ $before == = ]]; then
        before=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    case $before in
{values}    queue)
        {queue}
        ;;
    *)
        if [[ $word == -* ]]; then
            {options}
        elif [[ $COMP_CWORD -eq 1 ]]; then
            {commands}
        fi
        ;;
    esac
}}
complete -F _mailslot mailslot
",
        queue = reply(&format!("-W '{QUEUE_COMMANDS}'")),
        options = reply(&format!("-W '{all}'")),
        commands = reply(&format!("-W '{}'", commands.join(" "))),
    )
}

fn zsh() -> String {
    let mut text = format!("#compdef mailslot\n# {NOTE}\n_arguments -s -S \\\n");
    for row in TABLE {
        let about = first_sentence(row)
            .replace('\\', "\\\\")
            .replace('[', "\\[")
            .replace(']', "\\]")
            .replace(':', "\\:")
            .replace('\'', "'\\''");
        let action = match value_kind(row) {
            ValueKind::Nothing => String::new(),
            ValueKind::File => ":file:_files".to_owned(),
            ValueKind::Directory => ":directory:_files -/".to_owned(),
            ValueKind::Words(words) => format!(":{}:({words})", row.arg.to_lowercase()),
            ValueKind::Other => {
                // The name of the value may have brackets and colons, as USER[:GROUP].
                let name: String = row.arg.chars().take_while(char::is_ascii_alphabetic).collect();
                format!(":{}: ", name.to_lowercase())
            }
        };
        let (long, short) = match row.arg {
            "" => (format!("--{}", row.long), format!("-{}", row.short)),
            _ => (format!("--{}=", row.long), format!("-{}+", row.short)),
        };
        let repeats = row.arity == Arity::Many || row.long == "verbose";
        text += &match (row.short, repeats) {
            ("", true) => format!("    '*{long}[{about}]{action}' \\\n"),
            ("", false) => format!("    '{long}[{about}]{action}' \\\n"),
            (_, true) => format!("    '*'{{{short},{long}}}'[{about}]{action}' \\\n"),
            (s, false) => {
                format!("    '(-{s} --{})'{{{short},{long}}}'[{about}]{action}' \\\n", row.long)
            }
        };
    }
    let commands: Vec<_> =
        COMMANDS.iter().map(|(name, about)| format!("{name}\\:\"{about}\"")).collect();
    text += &format!(
        "    '1:command:(({}))' \\\n    '2:command:({QUEUE_COMMANDS})' \\\n    '*: :'\n",
        commands.join(" ")
    );
    text
}

fn fish() -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut text = format!("# Completion of mailslot for fish.\n# {NOTE}\n");
    text += "complete -c mailslot -f\n";
    for (name, about) in COMMANDS {
        text += &format!(
            "complete -c mailslot -n __fish_use_subcommand -a {name} -d {}\n",
            quoted(about)
        );
    }
    text += &format!(
        "complete -c mailslot -n '__fish_seen_subcommand_from queue' -a '{QUEUE_COMMANDS}'\n"
    );
    for row in TABLE {
        let short = if row.short.is_empty() { String::new() } else { format!(" -s {}", row.short) };
        let value = match value_kind(row) {
            ValueKind::Nothing => String::new(),
            ValueKind::File => " -r -F".to_owned(),
            ValueKind::Directory => " -x -a '(__fish_complete_directories)'".to_owned(),
            ValueKind::Words(words) => format!(" -x -a '{words}'"),
            ValueKind::Other => " -x".to_owned(),
        };
        let about = quoted(first_sentence(row));
        text += &format!("complete -c mailslot{short} -l {}{value} -d {about}\n", row.long);
    }
    text
}
