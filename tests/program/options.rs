//! The command line of the real program: help, version, and the error message for each wrong option
//! or configuration.

use std::fs;
use std::process::Output;

use crate::harness::directory::TestDirectory;
use crate::harness::server::mailslot;

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = mailslot(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn help_and_version_are_words_too() {
    for word in ["help", "version"] {
        let option = format!("--{word}");
        let printed = run(&[word]);
        assert_eq!(printed.0, Some(0), "{printed:?}");
        assert_eq!(printed, run(&[&option]));
    }
}

#[test]
fn help_lists_every_option() {
    for flag in ["--help", "-h"] {
        let (code, help, errors) = run(&[flag]);
        assert_eq!((code, errors.as_str()), (Some(0), ""));
        for row in mailslot::config::options::TABLE {
            assert!(
                help.contains(format!("--{} {}", row.long, row.arg).trim_end()),
                "{}",
                row.long
            );
        }
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}

#[test]
fn version_of_the_package() {
    for flag in ["--version", "-V"] {
        let version = concat!("mailslot ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(run(&[flag]), (Some(0), version.to_owned(), String::new()));
    }
}

#[test]
fn command_line_error_exits_64() {
    for (args, error) in [
        // Commands.
        (
            &["serve"][..],
            "unknown command \"serve\"; expected none, \"check\", \"explain\" or \"queue\"",
        ),
        (&["check", "all"], "check takes no \"all\""),
        (&["explain"], "explain needs an address; expected \"explain USER@DOMAIN...\""),
        // Unknown options.
        (&["--lisen", "x"], "unknown option --lisen; did you mean \"listen\"?"),
        (&["--frobnicate"], "unknown option --frobnicate"),
        (&["-x"], "unknown option -x"),
        // Repetition, and missing values.
        (&["--threads"], "--threads needs a value; expected \"--threads N\""),
        (&["-t"], "-t needs a value; expected \"-t N\""),
        (&["-t", "4", "--threads", "5"], "is given twice"),
        (&["--inetd=yes"], "--inetd takes no value"),
        (&["-q", "-v"], "--quiet and --verbose exclude each other"),
        // Values.
        (&["-t", "0"], "--threads \"0\": expected a number from 2 to 4096"),
        (
            &["-s", "25X"],
            "--max-size \"25X\": expected a number of bytes, or a number with K, M or G",
        ),
        (&["-l", "25"], "--listen \"25\": expected HOST:PORT, [IPV6]:PORT, tls:HOST:PORT"),
        (&["-d", "a b"], "--domain \"a b\": expected a domain name, such as mail.example.org"),
        (&["-u", "../etc"], "--user \"../etc\": expected a user name without a domain"),
        (&["-u", "a\x1b[2J"], "--user \"a\\u{1b}[2J\": expected a user name"),
        (
            &["--lock", "lockf"],
            "expected one or more of dotlock, fcntl and flock, separated by commas",
        ),
        (&["--vrfy", "yes"], "--vrfy \"yes\": expected on, off or local"),
        (&["--delimiter", "ab"], "expected one of ! # $"),
        (
            &["--timeout", "5 minutes"],
            "expected a number of seconds, or a number with s, m, h or d",
        ),
    ] {
        let (code, printed, errors) = run(args);
        assert_eq!((code, printed.as_str()), (Some(64), ""), "{args:?}: {errors}");
        assert!(errors.starts_with("mailslot: ") && errors.contains(error), "{args:?}: {errors}");
        assert!(errors.ends_with("\nmailslot: try mailslot --help\n"), "{args:?}: {errors}");
    }
}

#[test]
fn configuration_error_exits_78_with_its_line() {
    let directory = TestDirectory::new();
    let path = directory.join("conf");
    let file = path.to_str().unwrap();
    for (text, error) in [
        ("threads 4\nthread 5\n", ":2: unknown key \"thread\"; did you mean \"threads\"?"),
        ("threads\n", ":1: threads has no value; expected \"threads N\""),
        ("threads 4\nthreads 4\n", ":2: threads is given twice, first at "),
        (
            "# more\nmax-size lots\n",
            ":2: max-size \"lots\": expected a number of bytes, or a number with",
        ),
        ("inetd on\n", ":1: inetd can be given on the command line only"),
    ] {
        fs::write(&path, text).unwrap();
        let (code, printed, errors) = run(&["check", "-c", file]);
        assert_eq!((code, printed.as_str()), (Some(78), ""), "{text:?}: {errors}");
        assert!(errors.starts_with(&format!("mailslot: {file}{error}")), "{text:?}: {errors}");
    }
    fs::write(&path, b"threads \xff\n").unwrap();
    assert_eq!(run(&["check", "-c", file]).0, Some(78));
    fs::remove_file(&path).unwrap();
    let (code, _, errors) = run(&["check", "-c", file]);
    assert_eq!(code, Some(78));
    assert!(errors.contains("No such file"), "{errors}");
}

#[test]
fn start_failure_names_its_cause() {
    let directory = TestDirectory::new();
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (mail, spool, none) = (path("mail"), path("spool"), path("none"));
    fs::create_dir(&mail).unwrap();
    fs::create_dir(&spool).unwrap();
    fs::write(path("file"), "").unwrap();
    for (mail, spool, listen, status, named) in [
        (&none, &spool, "127.0.0.1:0", 73, &none),
        (&mail, &none, "127.0.0.1:0", 73, &none),
        (&path("file"), &spool, "127.0.0.1:0", 73, &path("file")),
        (&mail, &spool, "192.0.2.1:0", 71, &"192.0.2.1:0".to_owned()),
    ] {
        let rest = ["-c", "/dev/null", "-u", "al", "-a", "none", "-n", "localhost"];
        let args = ["-m", mail, "-S", spool, "-l", listen];
        let (code, printed, errors) = run(&[&rest[..], &args].concat());
        assert_eq!((code, printed.as_str()), (Some(status), ""), "{errors}");
        let error = errors.lines().find(|line| line.starts_with("mailslot: "));
        assert!(error.is_some_and(|line| line.contains(named)), "{named} in {errors}");
    }
}
