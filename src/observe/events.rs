//! The events of the log: one function for each event, which writes one line. No other file logs.
//!
//! ```text
//! delivered session=k3f2a1-7 message=k3f2a1-7-1 from=<jones@example.org> to=<smith@example.com>
//!     mailbox=/var/mail/smith size=4242 ms=3
//! ```
//! A line is the name of the event and its fields, `name=value`. Every value is quoted here if it
//! is not plain, so that a client cannot add a field or a line. Each name has one meaning:
//!
//! | field | value |
//! | --- | --- |
//! | `error` | the cause |
//! | `mailbox` | a mailbox, always its path |
//! | `to` | the address of a recipient |
//! | `orig_to` | the address in the client's RCPT, if it is another one |
//! | `from` | the reverse-path |
//! | `session`, `message`, `queue_id` | the ids of a session, a message and an entry in the queue |
//! | `client` | the client's address and port |
//! | `reply` | the reply that was sent, or that the other server sent |
//!
//! [`EVENTS`] describes the lines. The LOG section of mailslot(8) and the rules for logcheck are
//! written from it, and a test compares them.
//!
//! A message has one `delivered` or `queued` line for each mailbox and each address on another host
//! that it went to, and one `deferred` or `rejected` line for each recipient. So a line has a
//! bounded length, `grep` finds the outcome for an address, and each line has its mailbox or queue
//! entry. A message logs at most [`LINES_MAX`] of them.

use std::fmt::{self, Display};

use log::Level;

use super::counters::Counters;
use super::quote::push_quoted;

/// An event that the log can contain.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Name of the function; in the log, with `-` for `_`.
    pub function: &'static str,
    /// Level of its lines.
    pub level: Level,
    /// Its fields, in their order.
    pub fields: &'static [(&'static str, FieldKind)],
    /// One or more sentences for the administrator.
    pub meaning: &'static str,
}

/// Format of a field of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Always, with one value.
    Value,
    /// Only if there is a value.
    Option,
    /// The three fields of [`MessageFields`].
    Message,
    /// One field for each counter.
    Counters,
}

/// Fields that all events of one message begin with.
#[derive(Clone, Copy)]
pub struct MessageFields<'a> {
    /// Id of the session.
    pub session: &'a str,
    /// Id of the message.
    pub message: &'a str,
    /// The reverse-path, in angle brackets.
    pub from: &'a dyn Display,
}

/// Names of the fields of [`MessageFields`].
pub const MESSAGE_FIELDS: [&str; 3] = ["session", "message", "from"];

/// Most lines that one message writes for its recipients: half of the log's queue, so that a
/// message to a large list does not displace the lines of other sessions.
pub const LINES_MAX: usize = 512;

impl Event {
    /// Returns the name of the event as the log has it.
    pub fn name(&self) -> String {
        self.function.replace('_', "-")
    }
}

impl fmt::Debug for MessageFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = String::new();
        Field::Message(*self).append_to(&mut fields);
        f.write_str(&fields)
    }
}

/// A field with its value.
enum Field<'a> {
    Value(&'static str, &'a dyn Display),
    Option(&'static str, Option<&'a dyn Display>),
    Message(MessageFields<'a>),
    Counters(&'a Counters),
}

impl Field<'_> {
    /// Appends the field with the blank before it to `line`.
    fn append_to(&self, line: &mut String) {
        let mut append = |name: &str, v: &dyn Display| {
            line.extend([" ", name, "="]);
            push_quoted(line, v);
        };
        match self {
            Field::Value(name, v) | Field::Option(name, Some(v)) => append(name, v),
            Field::Option(_, None) => {}
            Field::Message(MessageFields { session, message, from }) => {
                let [session_name, message_name, from_name] = MESSAGE_FIELDS;
                append(session_name, session);
                append(message_name, message);
                append(from_name, from);
            }
            Field::Counters(counters) => line.push_str(&format!(" {counters}")),
        }
    }
}

/// Returns a line of the log without its date and level.
fn line(function: &str, fields: &[Field<'_>]) -> String {
    // The length of most lines.
    let mut line = String::with_capacity(256);
    line.extend(function.chars().map(|c| if c == '_' { '-' } else { c }));
    fields.iter().for_each(|field| field.append_to(&mut line));
    line
}

/// Expands to the type of the parameter for a field.
macro_rules! parameter {
    () => { impl Display };
    (Option) => { Option<impl Display> };
    (Message) => { MessageFields<'_> };
    (Counters) => { &Counters };
}

/// Expands to a field with the value of the parameter `$name`.
macro_rules! field {
    ($name:ident) => {
        Field::Value(stringify!($name), &$name)
    };
    ($name:ident Option) => {
        Field::Option(stringify!($name), $name.as_ref().map(|v| v as &dyn Display))
    };
    ($name:ident $kind:ident) => {
        Field::$kind($name)
    };
}

/// Expands to the kind of a field.
macro_rules! kind {
    () => {
        FieldKind::Value
    };
    ($kind:ident) => {
        FieldKind::$kind
    };
}

/// Defines a function for each event, and [`EVENTS`]. Those after `direct` return their line, for
/// the log itself to write.
macro_rules! events {
    (
        $($(#[doc = $meaning:literal])+
        $level:ident $event:ident($($field:ident $(: $kind:ident)?),*);)*
        direct
        $($(#[doc = $direct_meaning:literal])+
        $direct_level:ident $direct:ident($($direct_field:ident),*);)*
    ) => {
        $(
            /// Logs this event.
            ///
            $(#[doc = $meaning])+
            pub fn $event($($field: parameter!($($kind)?)),*) {
                let fields = &[$(field!($field $($kind)?)),*];
                log::log!(Level::$level, "{}", line(stringify!($event), fields));
            }
        )*
        $(
            /// Returns the level and the line of this event.
            ///
            $(#[doc = $direct_meaning])+
            pub(super) fn $direct($($direct_field: impl Display),*) -> (Level, String) {
                let fields = &[$(field!($direct_field)),*];
                (Level::$direct_level, line(stringify!($direct), fields))
            }
        )*

        /// All events, in the order in which the manual has them.
        pub const EVENTS: &[Event] = &[
            $(Event {
                function: stringify!($event),
                level: Level::$level,
                fields: &[$((stringify!($field), kind!($($kind)?))),*],
                meaning: concat!($($meaning),+),
            },)*
            $(Event {
                function: stringify!($direct),
                level: Level::$direct_level,
                fields: &[$((stringify!($direct_field), kind!())),*],
                meaning: concat!($($direct_meaning),+),
            },)*
        ];
    };
}

events! {
    /// The message is in this mailbox, and safe on disk.
    /// After SEND or SOML it may be on a terminal instead, and there is no mailbox field.
    Info delivered(
        message: Message, to, orig_to: Option, mailbox: Option, command: Option, size, ms
    );
    /// The message is in the queue for this recipient, and safe on disk.
    /// With an error the recipient is on this host, and the message waits, because it cannot be
    /// delivered now.
    Info queued(message: Message, to, orig_to: Option, queue_id, size, ms, error: Option);
    /// The message was accepted for this recipient and thrown away, because the aliases lead it to
    /// /dev/null alone.
    Info discarded(message: Message, to, size, ms);
    /// The message was answered with a 4yz reply; the client tries again.
    Warn deferred(message: Message, to, command: Option, size, ms, reply);
    /// The message was answered with a 5yz reply.
    Info rejected(message: Message, to, command: Option, size, ms, reply);
    /// The message had too many recipients for a line each.
    /// The field recipients is the number of those without one.
    Info recipients_omitted(message: Message, recipients);
    /// The client did not send the message to its end.
    /// The error is reset, or a value of the field end of disconnected.
    Info abandoned(message: Message, recipients, error);
    /// The content of the message could not be stored in the spool.
    Warn spool_failed(message, error);

    /// A session began.
    Debug connected(session, client);
    /// A session ended.
    /// The field end is quit, errors (too many, or no SMTP at all), panic, closed (by the client),
    /// broken (by the network), timeout, not-reading, slow, deadline, evicted, stopping, clear-text
    /// (after STARTTLS), or tls.
    Debug disconnected(session, client, end);
    /// A session with a client on another host ended in a way that is typical of abuse.
    Info abuse(session, client, end, reply: Option);
    /// A client on another host sent a command before it was greeted.
    Info pregreet(session, client);
    /// A client ended a command line with LF alone. The reply, 500, says that CR LF ends a line.
    Info bare_lf(session, client);
    /// MAIL was deferred, because the spool or the mail directory has no room for the message.
    /// The field size is that which the client declared, or 0.
    Warn no_room(session, client, from, size);
    /// A recipient was rejected or deferred.
    Info recipient_rejected(session, client, to, reply);
    /// An address could not be resolved, or its aliases have an error. The client got a 451 reply,
    /// or mail for it is queued. For an alias of a program or a file the client got a 550.
    Warn lookup_failed(session, to, error);
    /// A session is now in TLS.
    Debug tls_started(session, sni: Option, parameters);
    /// A TLS handshake failed.
    Debug tls_failed(session, error);
    /// A defect of the program.
    /// With a session field it ended that session; other sessions continue.
    Error panic(session: Option, error);

    /// A connection was answered 421, or closed, because there was no thread or no descriptor for
    /// it, or its client had too many.
    /// At most one line a minute; total counts them all.
    Warn connection_rejected(client, error, total);
    /// A connection was lost before its session began.
    Debug connection_lost(client, error);
    /// No connection can be accepted; the server tries again after a pause.
    Warn accept_paused(error);
    /// Connections are accepted again.
    Info accept_resumed();
    /// Nearly all threads are busy.
    /// The field timeout is in seconds; clients on other hosts may be idle for so long now.
    Warn overload_started(sessions, threads, timeout);
    /// The overload ended.
    /// The fields are its duration and the number of sessions that were evicted in it.
    Info overload_ended(seconds, evicted);
    /// Sessions were cut because they did not end in time after a signal to stop.
    Warn sessions_cut(sessions);
    /// The counters, after SIGUSR1.
    Info counters(counters: Counters);
    /// Aliases, users, certificates and key were read again, after SIGHUP.
    Info reloaded();
    /// The configuration file was changed, as SIGHUP shows. These options have other values in it
    /// than in effect; restart the server.
    Warn options_changed(options);
    /// The configuration file cannot be read again after SIGHUP, or is wrong, so that the server
    /// would not start again.
    Warn configuration_invalid(error);
    /// The aliases file was read again for newaliases of the user `uid`. It has `errors` lines in
    /// error, or cannot be read.
    Info aliases_reloaded(uid, errors);
    /// The server stops, after SIGTERM or SIGINT.
    Info stopping(signal);

    /// The server, or the session, cannot start.
    Error start_failed(error);
    /// The identity after the start.
    /// With impersonates=true mailboxes are written to as their owners.
    Info running_as(start, uid, gid, impersonates);
    /// The server stays root, which is not needed.
    Warn running_as_root(fix);
    /// A setting does not suffice for RFC 5321 or for mail readers, or is dangerous.
    Warn setting_doubtful(error, fix);
    /// The kernel supports only a part of the confinement.
    Info confinement_partial(kernel, error);
    /// The kernel supports no confinement.
    Warn confinement_absent(kernel, error);
    /// A file or directory that the server needs was replaced or created after the start, and the
    /// server cannot use it.
    /// The server stops with status 75, so that its supervisor starts it again.
    Error restart_needed(file, error);
    /// The server cannot listen on one of its addresses, but listens on others.
    Warn listen_failed(error);
    /// The control socket, or the SMTP socket in the spool, cannot be opened. mailq, newaliases and
    /// `mailslot queue flush` do not reach the server.
    Warn control_unavailable(error);
    /// The service manager could not be notified.
    Warn notify_failed(state, error);
    /// Certificate and key cannot be read again after the start, because root alone may read them.
    Warn tls_reload_unavailable(error);
    /// Certificate and key, or the certificates to trust, could not be read again; the old ones
    /// stay in use.
    Error tls_reload_failed(error);

    /// The aliases file cannot be read.
    /// In use is the old one, or none, and then mail is deferred.
    Error aliases_unreadable(error, in_use);
    /// A line of the aliases file is wrong.
    Warn aliases_invalid(file, line, error);
    /// Further lines of the aliases file are wrong.
    /// The field lines is their number.
    Warn aliases_invalid_omitted(file, lines);
    /// The alias of postmaster is wrong; its mail is delivered to this mailbox instead.
    Warn postmaster_alias_ignored(to, error);
    /// The .forward file of this user was not used; the mail stays in the mailbox.
    Warn forward_file_ignored(user, error);
    /// The list of logins cannot be read.
    Warn utmp_unreadable(file, error);
    /// A terminal of this user cannot be written to.
    Debug terminal_unusable(user, terminal, error);

    /// The message is in none of its mailboxes, because of this one.
    Warn delivery_failed(message, mailbox: Option, error);
    /// The message was deferred, because the mailbox stayed locked.
    Warn mailbox_busy(message, mailbox, holder, seconds);
    /// A recipient was rejected or deferred, because this mailbox cannot be written to.
    Warn mailbox_unavailable(mailbox, error);
    /// The session did not wait for the message.
    /// With removed=true it is in no mailbox, otherwise it may arrive twice.
    Warn delivery_withdrawn(message, removed);
    /// A message that could not be written whole could not be removed from its mailbox either.
    Error truncate_failed(mailbox, error);
    /// The mailbox takes no mail until its copies in the journal are written.
    Error mailbox_suspended(mailbox, error);
    /// A mailbox, or the names in a directory, could not be synced.
    Error sync_failed(mailbox: Option, directory: Option, error);
    /// A dotlock of a process that died was removed.
    /// The field seconds is its age.
    Warn lock_broken(lock, pid: Option, seconds);
    /// A dotlock of the server was removed by another program.
    Warn lock_lost(lock);
    /// A dotlock of the server could not be removed.
    Warn unlock_failed(lock, error);

    /// The journal could not be written or emptied.
    Error journal_failed(journal: Option, error);
    /// The journal could not be marked; the mark is written later.
    Warn journal_mark_failed(error);
    /// The server began a new journal after a failure.
    Warn journal_renewed(journal);
    /// A journal was damaged, or is of another version; it may contain acknowledged mail. The field
    /// kept is its new name. The intact records are recovered.
    Error journal_damaged(journal, kept, error);
    /// A journal that is not needed any more could not be removed or rewritten.
    Error journal_not_removed(journal, error);
    /// The content of a large message is missing or damaged, so that recovery could neither search
    /// for the message in this mailbox nor write it.
    /// The field content is the file that the journal refers to.
    Error content_lost(message, mailbox, content, error);
    /// Files of large messages that are not needed any more could not be removed.
    /// The next start tries again.
    Warn contents_not_removed(directory, error);
    /// The thread that syncs mailboxes in the background could not start.
    Error checkpoint_failed(error);
    /// The writer found a journal that a crash left.
    Warn recovery_started(journal, records);
    /// Recovery takes long; this is logged every few seconds.
    /// The field searched is the number of bytes of the mailbox that were searched for messages.
    Warn recovery_progress(mailbox, searched, size);
    /// A message was appended to a mailbox, because a crash prevented it.
    Warn recovered(message, mailbox);
    /// An incomplete message was removed from the end of a mailbox.
    Warn truncated(message, mailbox);
    /// A mailbox, or everything in a journal, could not be recovered; the server tries again.
    Error recovery_failed(journal: Option, mailbox: Option, error);
    /// Recovery from a journal ended.
    /// With complete=false the journal stays until the next try.
    Warn recovery_ended(journal, complete);
    /// A defect of the program ended this thread.
    /// The process ends with status 70, so that its supervisor starts it again.
    Error thread_died(thread);

    /// The next server took the message for this recipient.
    Info relay_sent(queue_id, from, to, relay, reply);
    /// The next server did not take the message for this recipient; it is tried again, at another
    /// server at once or later.
    Info relay_deferred(queue_id, from, to, relay, error);
    /// The next server rejected this recipient, or the domain takes no mail.
    /// The sender gets a report.
    Info relay_bounced(queue_id, from, to, relay, error);
    /// The queue delivered held mail to this recipient of this host.
    Info held_delivered(queue_id, from, to);
    /// Held mail cannot be delivered to this recipient now; it is tried again.
    Info held_deferred(queue_id, from, to, error);
    /// Held mail is refused for this recipient now; the sender gets a report.
    Info held_bounced(queue_id, from, to, error);
    /// A smarthost, the server of a route or a mail host cannot be used, or looked up.
    Warn smarthost_unreachable(relay, error);
    /// A smarthost, the server of a route or a mail host can be used again.
    Info smarthost_restored(relay);
    /// A report about a message, or about an entry in the queue, was created.
    Info dsn_created(message: Option, queue_id: Option, dsn, to);
    /// A sender asked for a report about a delivery, and cannot get it.
    Info dsn_suppressed(message, to, error);
    /// A report cannot be created now; it is tried again.
    Warn dsn_deferred(queue_id, to, error);
    /// A report goes to postmaster, because the sender of the message cannot get it.
    Warn dsn_to_postmaster(from, error);
    /// A message that the user uid had left in the hand-over directory was taken.
    /// The field seconds is the time that it waited there.
    Info hand_over_taken(file, uid, from, seconds);
    /// A message in the hand-over directory cannot be taken now; it is tried again.
    Warn hand_over_deferred(file, uid, error);
    /// A recipient of a message in the hand-over directory was rejected; its sender gets a report.
    Info hand_over_rejected(file, uid, from, to, error);
    /// A report about a message in the hand-over directory could not be delivered.
    Warn hand_over_failed(file, uid, error);
    /// A file in the hand-over directory is not a message of its owner; it is left alone.
    Warn hand_over_ignored(file, uid, error);
    /// A message in the hand-over directory is damaged.
    /// The field kept is its new name.
    Error hand_over_damaged(file, uid, kept, error);
    /// A message in the hand-over directory was not complete after a day, and was removed.
    /// The program that wrote it was killed, and did not return 0.
    Warn hand_over_incomplete(file, uid, size);
    /// The hand-over directory cannot be used.
    /// Until it can, mailslot-sendmail fails while the server does not run.
    Warn hand_over_unavailable(error);
    /// ETRN started an attempt for entries of the queue.
    /// The field entries is their number.
    Info queue_flushed(node, entries);
    /// mailslot queue flush has run for some seconds.
    /// The field tried is the number of entries that it has tried, and entries the number of all.
    Info queue_flush_progress(tried, entries);
    /// An entry was removed by mailslot queue drop.
    Warn queue_entry_dropped(queue_id, from);
    /// An entry is not complete; it is tried again.
    Warn queue_entry_incomplete(queue_id, size);
    /// The state of an entry cannot be read; every recipient is tried again.
    Warn queue_state_unreadable(queue_id);
    /// A file in the queue is not an entry.
    Warn queue_file_ignored(file);
    /// The queue, or one entry, could not be read or written; it is tried again.
    Error queue_failed(queue_id: Option, error);

    /// The file of metrics cannot be written.
    Warn metrics_failed(file, error);
    /// The file of metrics is written again.
    Info metrics_restored(file);
    direct
    /// Lines were dropped, because standard error or syslog took them too slowly.
    /// The field lines is their number.
    Warn log_full(lines);
    /// The thread of the log kept its capabilities; it writes nothing.
    Error log_failed(error);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_its_name_and_its_fields() {
        let from = "<a@b> session=fake";
        let message = MessageFields { session: "k-1", message: "k-1-1", from: &from };
        let (size, orig_to, mailbox) = (42, Some("\n"), None::<&str>);
        let fields = &[
            field!(message Message),
            field!(size),
            field!(orig_to Option),
            field!(mailbox Option),
        ];
        let expected =
            r#"session=k-1 message=k-1-1 from="<a@b> session=fake" size=42 orig_to="\x0a""#;
        let line = line("relay_sent", fields);
        assert_eq!(line, format!("relay-sent {expected}"));
    }

    #[test]
    fn names_are_unique_and_plain() {
        let mut names = std::collections::HashSet::new();
        for event in EVENTS {
            assert!(names.insert(event.name()), "{} twice", event.name());
            let plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(event.function.chars().all(plain), "{}", event.function);
            assert!(event.meaning.ends_with('.'), "{}", event.function);
            let mut fields = std::collections::HashSet::new();
            for (name, kind) in event.fields {
                assert!(name.chars().all(plain) && fields.insert(name), "{name}");
                assert_eq!(*kind == FieldKind::Counters, *name == "counters", "{name}");
            }
        }
    }
}
