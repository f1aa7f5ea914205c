//! The senders that a smarthost accepts, for the local senders of this host.
//!
//! ```text
//! # USER             ADDRESS
//! jones              j.jones@provider.example
//! root@db.example    alerts@provider.example
//! *                  host@provider.example
//! ```
//! The first line for the sender is used: for the local-part at any local domain, for the whole
//! address, or `*` for any sender. Upper and lower case are the same. A line that begins with `#`
//! is a comment.
//!
//! Only the copy that leaves has the other address. The entry in the queue keeps the local sender,
//! who gets the reports of this host.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::smtp::Mailbox;

/// The addresses for local senders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderMap {
    /// The senders, each a local-part, an address or `*`, and their addresses.
    lines: Vec<(String, Mailbox)>,
    /// Whether the From field of the message gets the address, too.
    pub maps_from_field: bool,
}

impl SenderMap {
    /// Returns a map of every local sender to `address`.
    pub fn single(address: Mailbox, maps_from_field: bool) -> SenderMap {
        SenderMap { lines: vec![(ANY.to_owned(), address)], maps_from_field }
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or a line is invalid. The text names the file and the line.
    pub fn read(path: &Path, maps_from_field: bool) -> Result<SenderMap, String> {
        let shown = path.display();
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(FILE_MAX).read_to_string(&mut text))
            .map_err(|e| format!("{shown}: {e}"))?;
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parsed = line.split_once(char::is_whitespace).and_then(|(sender, address)| {
                Some((sender.to_lowercase(), Mailbox::parse(address.trim()).ok()?))
            });
            let wrong = || format!("{shown}:{}: not a sender; write USER ADDRESS", number + 1);
            lines.push(parsed.ok_or_else(wrong)?);
        }
        Ok(SenderMap { lines, maps_from_field })
    }

    /// Returns the address for the local sender `sender`, or None if it stays.
    pub fn find(&self, sender: &Mailbox) -> Option<&Mailbox> {
        let (user, whole) = (sender.local().to_lowercase(), sender.to_string().to_lowercase());
        let matches = |(name, _): &&(String, Mailbox)| [ANY, &user, &whole].contains(&&**name);
        self.lines.iter().find(matches).map(|(_, address)| address)
    }
}

/// The wildcard that matches every sender.
const ANY: &str = "*";
/// Maximum number of bytes read, enough for thousands of users.
const FILE_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn first_line_for_the_sender_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("senders");
        let text = "# ours\n\nJones  j@p.example\nroot@db.example r@p.example\nroot x@p.example\n";
        let find = |map: &SenderMap, sender: &str| {
            map.find(&Mailbox::parse(sender).unwrap()).map(ToString::to_string)
        };
        fs::write(&path, text).unwrap();
        let map = SenderMap::read(&path, false).unwrap();
        for (sender, address) in [
            ("jones@here.example", Some("j@p.example")),
            ("JONES@db.example", Some("j@p.example")),
            ("root@DB.example", Some("r@p.example")),
            ("root@here.example", Some("x@p.example")),
            ("smith@here.example", None),
        ] {
            assert_eq!(find(&map, sender).as_deref(), address, "{sender}");
        }
        fs::write(&path, format!("{text}* all@p.example\n")).unwrap();
        let map = SenderMap::read(&path, true).unwrap();
        assert_eq!(find(&map, "smith@here.example").as_deref(), Some("all@p.example"));
        for wrong in ["jones", "jones j", "jones j@p.example x"] {
            fs::write(&path, format!("{text}{wrong}\n")).unwrap();
            let said = SenderMap::read(&path, false).unwrap_err();
            assert!(said.ends_with(":6: not a sender; write USER ADDRESS"), "{said}");
        }
        assert!(SenderMap::read(directory.path(), false).is_err());
    }
}
