//! The completions of `contrib/completions` in the shells that they are for.

use std::process::Command;

use crate::harness::external::run_for_text;

/// Returns what `shell` prints for the script `$1`, which begins in the directory of completions.
fn of(shell: &[&str], script: &str, line: &str) -> String {
    let mut command = Command::new("timeout");
    command.args(["60"]).args(shell).args(["-c", script, shell[0], line]);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/completions"));
    run_for_text(&mut command)
}

#[test]
#[ignore = "needs bash"]
fn bash_completes() {
    let script = "source ./mailslot.bash; COMP_WORDS=($1)
                  [[ $1 != *' ' ]] || COMP_WORDS+=('')
                  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); compopt() { :; }
                  _mailslot; echo \"${COMPREPLY[*]}\"";
    for (line, expected) in [
        ("mailslot --smarthost-", SMARTHOST_OPTIONS),
        ("mailslot --smarthost-tls ", "verify encrypt may"),
        ("mailslot --smarthost-tls = e", "encrypt"),
        ("mailslot --tls-cert mailslot.b", "mailslot.bash"),
        ("mailslot --threads ", ""),
        ("mailslot ch", "check"),
        ("mailslot queue ", "show drop flush"),
        ("mailslot check --forward-files ", "on off"),
    ] {
        assert_eq!(of(&["bash", "--norc"], script, line).trim(), expected, "{line}");
    }
}

const SMARTHOST_OPTIONS: &str =
    "--smarthost-tls --smarthost-ca --smarthost-login --smarthost-sender --smarthost-from";

#[test]
#[ignore = "needs fish"]
fn fish_completes() {
    let script = "source mailslot.fish; complete -C $argv[2]";
    for (line, expected) in [
        ("mailslot --smarthost-t", "--smarthost-tls\tverify: require TLS and a valid certificate"),
        ("mailslot --smarthost-tls e", "encrypt"),
        ("mailslot --tls-cert mailslot.b", "mailslot.bash"),
        ("mailslot ch", "check\tPrint settings and problems"),
        ("mailslot queue f", "flush"),
        ("mailslot -q --log s", "stderr\t"),
    ] {
        let got = of(&["fish", "--no-config"], script, line);
        assert!(got.starts_with(expected), "{line}: {got}");
    }
}

/// zsh completes only in its editor, so that it needs a terminal. The key ^X ends it and prints the
/// line. What is printed for it is in two pieces, so that its echo is not taken for it.
#[test]
#[ignore = "needs zsh"]
fn zsh_completes() {
    let script = r#"zmodload zsh/zpty; zpty shell zsh -f -i
        zpty -w shell "PS1=; fpath=($PWD \$fpath); autoload -U compinit; compinit -D -u"
        zpty -w shell 'finish() { print -r -- "li""ne=<$BUFFER>"; exit }; zle -N finish'
        zpty -w shell 'bindkey ^X finish; setopt no_beep; print rea""dy'
        zpty -r -m shell text '*ready*'
        zpty -n -w shell "$1"$'\t\x18'
        zpty -r -m shell text '*line=<*>*'; print -r -- "$text""#;
    for (line, expected) in [
        ("mailslot --smarthost-t", "mailslot --smarthost-tls="),
        ("mailslot --smarthost-tls=e", "mailslot --smarthost-tls=encrypt "),
        ("mailslot --smarthost-tls e", "mailslot --smarthost-tls encrypt "),
        ("mailslot --tls-cert mailslot.b", "mailslot --tls-cert mailslot.bash "),
        ("mailslot ch", "mailslot check "),
        ("mailslot queue f", "mailslot queue flush "),
        (
            "mailslot -l 127.0.0.1:25 --forward-files of",
            "mailslot -l 127.0.0.1:25 --forward-files off ",
        ),
    ] {
        let got = of(&["zsh", "-f"], script, line);
        assert!(got.contains(&format!("line=<{expected}>")), "{line}: {got}");
    }
}
