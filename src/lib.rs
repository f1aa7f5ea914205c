//! mailslot receives mail by SMTP and stores it durably in the mailbox of a local user before the
//! sender gets `250`.
//!
//! ```text
//!  command line, file                                            another host
//!        |                                                            ^
//!        v                                                            |
//!      config ---> main                                             relay
//!                   |                                               ^   |
//!   net::listen -> server ---> session <-> smtp::Receiver           |   | reports
//!   (sockets)     (accept,     (one connection:  \                  |   v
//!                  admission,   bytes, deadlines) \-> resolver   queue entry
//!                  pool)          |                                   ^
//!                                 | Message = id, content, destinations
//!                                 v                                   |
//!                  WriterHandle ==bounded channel==> writer ---> journal, mailbox
//!                                 ^                    |
//!                                 +----- Outcome ------+   250 only after this
//! ```
//!
//! # Modules
//!
//! Imports go one way, from the rows below to the rows above; `tests/tidy.rs` checks this.
//!
//! | module | contains |
//! | --- | --- |
//! | [`smtp`] | the protocol without I/O: commands, replies, receiver and sender state machines |
//! | [`process`] | privileges, and the confinement that the process applies to itself |
//! | [`observe`] | log events, counters, metrics |
//! | [`message`] | a message and its content, the trace fields that a receiver adds |
//! | [`net`] | sockets: opened, read and written with deadlines, in clear text or TLS |
//! | [`resolver`] | local addresses, and their destinations: users, aliases, forward files |
//! | [`terminal`] | SEND, SOML and SAML: messages on the terminals of users |
//! | [`deliver`] | the writer, its journal and recovery, mailboxes and their locks |
//! | [`relay`] | the queue, the client that empties it, the reports to senders |
//! | [`session`] | one connection: the place where the modules above meet |
//! | [`server`] | the acceptor, admission, the thread pool, signals and shutdown |
//! | [`control`] | the control socket: requests of local users to the running server |
//! | [`config`] | the table of options, the configuration file, the values of both |
//! | [`sysexits`] | the exit statuses of all commands |
//! | [`startup`] | the start as a sequence of steps, and its rehearsal |
//! | [`check`], [`sendmail`] | the commands `mailslot check` and sendmail(1) |
//!
//! A program that embeds mailslot needs [`server`], [`session`], [`deliver`], [`resolver`] and the
//! types that they name; `examples/embed.rs` is a complete one. The modules that only the program
//! `mailslot` uses (`check`, `config`, `control`, `process`, `sendmail`, `startup`) are public for
//! it, and are not an interface for other programs.
//!
//! # How a message travels
//!
//! The server accepts a connection and passes it to one of a fixed number of session threads. If
//! all are busy, the new client takes the place of a slow session, or gets `421` at once.
//!
//! The session thread reads command lines, each with a limit and a deadline, and passes them to
//! the receiver, the state machine of the protocol. The receiver does no I/O and returns the reply
//! to send. For each RCPT it asks the resolver. An unknown user is rejected here, so that nothing
//! accepted for a local mailbox has to be bounced later. The session also checks the mailbox with
//! lstat(2): a mailbox that cannot take mail is refused before its mail data is sent.
//!
//! After DATA or BDAT the session prepares the content while its lines arrive: stuffed dots are
//! removed, CR LF becomes LF, `From ` gets a `>`, header fields that control mailbox readers are
//! left out, a Received field is added. Up to 256 KiB stay in memory; a longer message goes to a
//! file in the spool, which the session syncs. Then the session passes the message to the writer
//! and waits for its outcome.
//!
//! One thread, the writer, owns all mailboxes. It takes the waiting messages as one batch and locks
//! each mailbox. A message for a mailbox that another program locks is postponed and tried again,
//! while the others are delivered. With the lock held, the writer checks that the mailbox is a
//! regular file of the right owner. It records the batch in the journal, large messages by their
//! files, with one write and one sync; from then on the messages are durable. It appends them to
//! the mailboxes, and each session gets its outcome and replies `250`, `4yz` or `5yz`. A message
//! that cannot be appended to all of its mailboxes is removed from all of them by truncation.
//!
//! The mailboxes are synced later, many messages at a time, by a checkpoint; their records are
//! then not needed any more, and the files of large messages are removed. After a crash the next
//! start completes the mailboxes from the records and files left.
//!
//! A copy for another host goes the same way, to a file in the queue instead of a mailbox. So a
//! message for recipients here and elsewhere is in all of these places, or in none, before its one
//! `250`. Threads of the queue send the entry to its next hop, retry, and report delay and failure
//! to the sender.
//!
//! Mail of a client on this host that cannot be delivered now also becomes an entry of the queue,
//! because programs such as cron do not retry. Another thread of the queue resolves its recipients
//! again and passes the message to the writer, with a receipt that is committed together with the
//! copy.
//!
//! # Glossary
//!
//! | word | meaning |
//! | --- | --- |
//! | admission | the decision which connection gets a thread, and which session is evicted for it |
//! | batch | messages that the writer commits with one sync |
//! | checkpoint | the sync of all mailboxes written to since the last one; it frees the journal |
//! | client, server | the ends of an SMTP connection; mailslot is either |
//! | confinement | the Landlock rules that limit which files and ports the process can open |
//! | content | a message as the mailbox stores it, without the lines that differ between copies |
//! | deferred, rejected | answered 4yz (the client tries again), answered 5yz |
//! | destination | a mailbox, or an entry in the queue |
//! | dotlock | the file `USER.lock` in the directory of a mailbox |
//! | DSN | a delivery status notification (RFC 3464): the report to a sender |
//! | entry | one message in the queue, for recipients on other hosts or for held mail |
//! | envelope | reverse-path, recipients and parameters of one transaction |
//! | hand-over | the directory of the spool in which sendmail leaves messages without a server |
//! | held mail | mail of this host's programs that waits in the queue for a mailbox of this host |
//! | journal | the file in the spool that makes a batch durable before the mailboxes are |
//! | mailbox | an mbox file, and in an address the part that names it |
//! | next hop | the servers of a recipient on another host: of its route, or the smarthosts |
//! | outcome | the writer's result for one message: delivered, deferred, or over quota |
//! | overload | the state of a nearly full server, in which clients get less time |
//! | receipt | a file with the recipients that have got their held mail |
//! | resolution | the destinations of one address |
//! | resolver | finds the destinations of an address: in RCPT, and for mail in the queue |
//! | route | the server that takes mail for some domains of other hosts |
//! | session | one connection, from the greeting to its end |
//! | smarthost | the server that takes mail for other hosts |
//! | spool | the directory of mailslot's own files: journals, large messages, the queue |
//! | transaction | MAIL, RCPT and DATA of one message |
//! | writer | the one thread that appends to mailboxes |
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

#[doc(hidden)]
pub mod check;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod control;
pub mod deliver;
pub mod message;
pub mod net;
pub mod observe;
#[doc(hidden)]
pub mod process;
pub mod relay;
pub mod resolver;
#[doc(hidden)]
pub mod sendmail;
pub mod server;
pub mod session;
pub mod smtp;
#[doc(hidden)]
pub mod startup;
pub mod sysexits;
pub mod terminal;
