//! The lines on standard output when the server starts.

use super::{Config, NameSet};

impl Config {
    /// Returns the startup message: the addresses the server listens on, the users and domains it
    /// serves, and the mail directory. If `first_smtp` is a TCP address of a sandbox, a second line
    /// is a command that sends a first message to it.
    pub fn startup_message(&self, addresses: &[String], first_smtp: Option<&str>) -> String {
        let addresses = if addresses.is_empty() {
            "the sockets it was passed".to_owned()
        } else {
            addresses.join(", ")
        };
        let recipients = self.describe_recipients();
        let directory = self.mail_dir.display();
        let mut text =
            format!("mailslot listens on {addresses} for {recipients}, into {directory}\n");
        if let (Some(address), Some(_)) = (first_smtp, &self.sandbox) {
            text.push_str(&self.first_message_command(address));
        }
        text
    }

    /// Describes the recipients with mailboxes: `al and bo at example.org`.
    pub(super) fn describe_recipients(&self) -> String {
        let users = match &self.users {
            NameSet::Listed(names) => join_with_and(names),
            NameSet::System => "the users of this host".to_owned(),
            NameSet::Any => "every user".to_owned(),
        };
        let domains = match &self.domains {
            NameSet::Listed(names) => join_with_and(names),
            NameSet::System | NameSet::Any => "every domain".to_owned(),
        };
        format!("{users} at {domains}")
    }

    /// Returns a shell command that sends a message to an existing user.
    fn first_message_command(&self, address: &str) -> String {
        let user = match &self.users {
            // Other names could mean something to the shell or to printf.
            NameSet::Listed(users) => {
                users.iter().find(|user| is_shell_safe(user)).map(String::as_str)
            }
            NameSet::System | NameSet::Any => Some("you"),
        };
        let user = user.unwrap_or("postmaster");
        let domain = match &self.domains {
            NameSet::Listed(domains) => domains.first().map_or("localhost", String::as_str),
            NameSet::System | NameSet::Any => "localhost",
        };
        let to = format!("{user}@{domain}");
        let header = format!("From: me@localhost\\r\\nTo: {to}\\r\\nSubject: hello\\r\\n");
        format!(
            "printf '{header}\\r\\nIt works.\\r\\n' | \
             curl -sS smtp://{address} --mail-from me@localhost --mail-rcpt {to} -T -\n"
        )
    }
}

fn is_shell_safe(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Returns `a`, `a and b`, or `a, b and c`.
fn join_with_and(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}
