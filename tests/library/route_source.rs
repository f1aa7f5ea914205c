//! Alias files and `:include:` files: which ones are trusted, that none blocks a session, and when
//! changes take effect; and what `explain` and `check` print.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use mailslot::resolver::alias_file::{FileTrust, INCLUDE_MAX, read};
use mailslot::resolver::{AddressResolver, LocalResolver, Problem, Refusal, ResolverConfig};
use mailslot::smtp::{ForwardPath, Mailbox};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

fn write(path: &Path, text: impl AsRef<[u8]>, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Creates a host with its aliases in `DIR/aliases`. `@DIR@` in them stands for the directory.
fn host(aliases: &str) -> (LocalResolver, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("aliases");
    write(&file, aliases.replace("@DIR@", dir.path().to_str().unwrap()), 0o644);
    let config = ResolverConfig {
        domains: vec!["example.org".to_owned()],
        users: ["alice", "bob", "carol"].map(str::to_owned).to_vec(),
        aliases: Some(file),
        delimiter: Some('+'),
        relays: Vec::new(),
        ..ResolverConfig::default()
    };
    (LocalResolver::new(config), dir)
}

fn rcpt(local: &LocalResolver, name: &str) -> Result<String, Refusal> {
    let mailbox = Mailbox::parse(&format!("{name}@example.org")).unwrap();
    let to = local.resolve(&ForwardPath::Mailbox(mailbox))?;
    Ok(to.local.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(" "))
}

fn why(result: Result<String, Refusal>) -> String {
    match result {
        Err(Refusal::Misconfigured(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn included_files_add_members() {
    let (local, dir) = host(":x: y\nlist: :include:@DIR@/list, carol\n");
    let list = dir.path().join("list");
    for (text, want) in [
        ("alice\nbob\n", "alice bob carol"),
        ("# nobody\n\n", "carol"),
        ("", "carol"),
        ("alice, bob\r\n  , alice\r\n", "alice bob carol"),
        ("Alice <alice@example.org>\n", "alice carol"),
    ] {
        write(&list, text, 0o600);
        assert_eq!(rcpt(&local, "list").unwrap(), want, "{text:?}");
    }
    for (text, word) in
        [("alice\nnobody\n", "/list:2: alias `list` leads to `nobody`"), ("\0\n", "printable")]
    {
        write(&list, text, 0o600);
        let why = why(rcpt(&local, "list"));
        assert!(why.contains(word), "{text:?}: {why}");
    }
    write(&list, "alice\n\n|prog\n", 0o600);
    let refused = rcpt(&local, "list").unwrap_err().to_string();
    let place = "/list:3: alias `list` leads to `|prog`, which is a program";
    assert!(refused.starts_with("550") && refused.contains(place), "{refused}");
}

#[test]
fn nested_includes_and_loops() {
    let (local, dir) = host("list: :include:@DIR@/a\nstaff: :include:@DIR@/b\ncarol: staff\n");
    let at = |name: &str| dir.path().join(name);
    let include = |name: &str| format!("alice\n:include:{}\n", at(name).display());
    write(&at("a"), include("b"), 0o644);
    write(&at("b"), "bob\n", 0o644);
    assert_eq!(rcpt(&local, "list").unwrap(), "alice bob");
    write(&at("b"), include("a"), 0o644);
    assert!(why(rcpt(&local, "list")).contains("a loop: :include:"));
    write(&at("a"), include("a"), 0o644);
    assert!(why(rcpt(&local, "list")).contains("a loop: :include:"));
    // In an included file, too, an alias's own name is the user. A longer way back is a loop.
    write(&at("b"), "staff\nbob\n", 0o644);
    assert!(why(rcpt(&local, "staff")).contains("`staff`, no user"));
    write(&at("b"), "carol\n", 0o644);
    let loops = format!("a loop: staff -> :include:{} -> carol -> staff", at("b").display());
    assert!(why(rcpt(&local, "staff")).contains(&loops), "{}", why(rcpt(&local, "staff")));
    assert!(why(rcpt(&local, "carol")).contains(&loops), "{}", why(rcpt(&local, "carol")));
}

#[test]
fn untrusted_files_are_refused() {
    let (local, dir) = host("list: :include:@DIR@/list\n");
    let (list, other) = (dir.path().join("list"), dir.path().join("other"));
    let refused = |what: &str| {
        let why = why(rcpt(&local, "list"));
        assert!(why.contains(what), "{what}: {why}");
        let why = read(&list, FileTrust::Included).unwrap_err();
        assert!(why.what.contains(what) && !why.fix.is_empty(), "{what}: {why:?}");
        fs::remove_file(&list).or_else(|_| fs::remove_dir(&list)).ok();
    };
    refused("cannot be opened");
    for mode in [0o666, 0o660, 0o602] {
        write(&list, "alice\n", mode);
        refused("writable by others");
    }
    write(&other, "alice\n", 0o600);
    symlink(&other, &list).unwrap();
    refused("symbolic link");
    fs::hard_link(&other, &list).unwrap();
    refused("second link");
    fs::create_dir(&list).unwrap();
    refused("not a regular file");
    // Opening a FIFO without a writer would block forever.
    mkfifo(&list, Mode::from_bits_truncate(0o600)).unwrap();
    refused("not a regular file");
    symlink("/dev/zero", &list).unwrap();
    refused("symbolic link");
    assert!(read(Path::new("/dev/zero"), FileTrust::Included).is_err());
    if nix::unistd::geteuid().is_root() {
        write(&list, "alice\n", 0o600);
        std::os::unix::fs::chown(&list, Some(12345), None).unwrap();
        refused("belongs to user id 12345");
    } else {
        write(&list, "alice\n", 0o000);
        refused("cannot be opened");
    }
    write(&list, "alice\n", 0o600);
    assert_eq!(rcpt(&local, "list").unwrap(), "alice");
}

#[test]
fn limit_of_file_size() {
    let (local, dir) = host("list: :include:@DIR@/list\n");
    let list = dir.path().join("list");
    let padded = |size: u64| format!("alice\n#{}", "x".repeat(size as usize - 7));
    write(&list, padded(INCLUDE_MAX), 0o600);
    assert_eq!(rcpt(&local, "list").unwrap(), "alice");
    write(&list, padded(INCLUDE_MAX + 1), 0o600);
    assert!(why(rcpt(&local, "list")).contains("larger than 1 MiB"));
    // One line of 1 MiB, and 1 MiB of lines.
    write(&list, "x".repeat(INCLUDE_MAX as usize), 0o600);
    assert!(why(rcpt(&local, "list")).contains("is not a name"));
    write(&list, "alice\n".repeat(INCLUDE_MAX as usize / 6), 0o600);
    assert!(why(rcpt(&local, "list")).contains("more than 1000 addresses"));
}

#[test]
fn limit_of_included_files() {
    for (n, fine) in [(16, true), (17, false), (500, false)] {
        let lists: Vec<String> = (0..n).map(|i| format!(":include:@DIR@/{i}")).collect();
        let (local, dir) = host(&format!("list: {}\n", lists.join(", ")));
        for i in 0..n {
            write(&dir.path().join(i.to_string()), "alice\n", 0o600);
        }
        assert_eq!(rcpt(&local, "list").is_ok(), fine, "{n}");
    }
}

#[test]
fn reload_keeps_the_old_aliases_on_failure() {
    let (local, dir) = host("x: alice\n");
    let file = dir.path().join("aliases");
    assert_eq!(rcpt(&local, "x").unwrap(), "alice");
    write(&file, "x: bob\n", 0o644);
    local.reload();
    assert_eq!(rcpt(&local, "x").unwrap(), "bob");
    fs::remove_file(&file).unwrap();
    local.reload();
    assert_eq!(rcpt(&local, "x").unwrap(), "bob");
    mkfifo(&file, Mode::from_bits_truncate(0o644)).unwrap();
    local.reload();
    assert_eq!(rcpt(&local, "x").unwrap(), "bob");
    assert!(local.problems().iter().any(|p| p.what.contains("not a regular file")));
    fs::remove_file(&file).unwrap();
    // The alias file itself may be a symbolic link.
    write(&dir.path().join("real"), "x: carol\n", 0o644);
    symlink(dir.path().join("real"), &file).unwrap();
    local.reload();
    assert_eq!(rcpt(&local, "x").unwrap(), "carol");
    assert_eq!(local.problems(), []);
}

#[test]
fn explain_prints_the_expansion() {
    let (local, dir) = host(
        "bob: robert, list\nrobert: \\bob\nlist: :include:@DIR@/list, alice+x\n\
         far: me@example.com\nmixed: far, bob\npostmaster: mixed\ntypo: alcie\n",
    );
    write(&dir.path().join("list"), "carol\nbob@example.org\nalice\n", 0o600);
    let at = dir.path().display().to_string();
    for (address, want) in [
        ("carol@example.org", "= delivered to carol\n"),
        ("list", "! @/aliases:1: a loop: bob -> list -> :include:@/list -> bob\n"),
        (
            "far",
            "  alias far (@/aliases:4) -> me@example.com\n    me@example.com: on another host\n",
        ),
        ("far", "  = 551 5.1.6 not local; try <me@example.com>\n"),
        (
            "typo@example.org",
            "    ! @/aliases:7: alias `typo` leads to `alcie`, no user or alias here\n",
        ),
        ("dave@example.org", "  = 550 5.1.1 no such user here\n"),
        ("dave@example.com", "  = 550 5.7.1 "),
        ("dave@", "  = not an address: "),
        ("\u{1b}[2J", "\\u{1b}[2J\n  = not an address"),
        ("postmaster", "  = delivered to alice, because: 451 "),
    ] {
        let text = local.explain(address).text.replace(&at, "@");
        assert!(text.contains(want), "{address}:\n{text}");
        assert!(text.ends_with('\n') && text.starts_with(&*address.escape_debug().to_string()));
    }
    write(&dir.path().join("list"), "carol\nalice\n", 0o600);
    let want = "\
bob@example.org
  alias bob (@/aliases:1) -> robert, list
    alias robert (@/aliases:2) -> \\bob
      bob@example.org: mailbox bob
    alias list (@/aliases:3) -> :include:@/list, alice+x
      :include:@/list
        carol@example.org: mailbox carol
        alice@example.org: mailbox alice
      alice+x@example.org: mailbox alice (again)
  = delivered to bob, carol, alice
";
    assert_eq!(local.explain("bob@example.org").text.replace(&at, "@"), want);
}

#[test]
fn each_problem_is_reported_once_with_a_fix() {
    let (local, dir) = host(
        "a: b\nb: c\nc: a\nd: c\n\
         typo: alcie\nvia: typo\n\
         prog: |/bin/true\nfile: /tmp/x\n\
         inc: :include:@DIR@/missing\n\
         alice: bob\nbob: bob, carol\ncarol: \\carol\n\
         far: x@example.com\nmixed: alice, far\n\
         x@example.com: alice\n\
         far: alice\nnonsense\npostmaster: alice\n",
    );
    fs::set_permissions(dir.path().join("aliases"), Permissions::from_mode(0o664)).unwrap();
    let problems = local.problems();
    for (what, stops_mail) in [
        ("aliases is writable by others", false),
        ("aliases:1: a loop: a -> b -> c -> a", true),
        ("aliases:5: alias `typo` leads to `alcie`, no user", true),
        ("aliases:7: alias `prog` leads to `|/bin/true`, which is a program", true),
        ("aliases:8: alias `file` leads to `/tmp/x`, which is a file", true),
        ("aliases:9: alias `inc` includes a file that is not read", true),
        ("aliases:10: alias `alice` hides the user", false),
        ("aliases:14: alias `mixed` leads to several addresses", true),
        ("aliases:15: alias `x@example.com` is never used", false),
        ("aliases:16: a second alias `far`; the one in line 13 is used", true),
        ("aliases:17: no colon in `nonsense`", true),
    ] {
        let found: Vec<&Problem> = problems.iter().filter(|p| p.what.contains(what)).collect();
        assert_eq!(found.len(), 1, "{what}: {problems:#?}");
        assert_eq!(found[0].stops_mail, stops_mail, "{what}");
        assert!(!found[0].fix.is_empty());
    }
    assert_eq!(problems.len(), 11, "{problems:#?}");
}

#[test]
fn problems_of_postmaster_and_users() {
    let config = |users: &[&str], aliases: Option<PathBuf>| ResolverConfig {
        domains: vec!["example.org".to_owned()],
        users: users.iter().map(|u| u.to_string()).collect(),
        aliases,
        ..ResolverConfig::default()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    write(file.path(), "postmaster: me@example.com\n", 0o644);
    let aliases = Some(file.path().to_owned());
    for (config, words, stops_mail) in [
        (config(&["bob"], None), None, false),
        (config(&["a b"], None), Some("`a b` has no valid mailbox name"), true),
        (config(&["a b"], None), Some("mail for postmaster cannot be delivered"), true),
        (
            config(&["bob"], aliases.clone()),
            Some("is delivered to bob, not by the alias: 551"),
            false,
        ),
        (config(&["bob"], Some("/nonexistent".into())), Some("/nonexistent cannot be"), true),
        (ResolverConfig { sandbox: true, ..config(&[], None) }, None, false),
    ] {
        let problems = LocalResolver::new(config).problems();
        match words {
            None => assert_eq!(problems, []),
            Some(words) => assert!(
                problems.iter().any(|p| p.what.contains(words) && p.stops_mail == stops_mail),
                "{words}: {problems:#?}"
            ),
        }
    }
}
