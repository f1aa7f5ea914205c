//! The exit statuses of all commands, as sysexits(3) defines them.
//!
//! An MTA that starts `mailslot --inetd` or sendmail(1) reads them: 75 means "try again later", the
//! others are final.

/// Success.
pub const EX_OK: u8 = 0;
/// A wrong command line.
pub const EX_USAGE: u8 = 64;
/// Wrong input: a message without recipients, a queue entry that does not exist.
pub const EX_DATAERR: u8 = 65;
/// A recipient that does not exist.
pub const EX_NOUSER: u8 = 67;
/// A service that is not available: an address in use, a recipient that was rejected.
pub const EX_UNAVAILABLE: u8 = 69;
/// A panic.
pub const EX_SOFTWARE: u8 = 70;
/// A system call that failed.
pub const EX_OSERR: u8 = 71;
/// A file or directory that cannot be created.
pub const EX_CANTCREAT: u8 = 73;
/// An error on a connection or a standard stream.
pub const EX_IOERR: u8 = 74;
/// A temporary failure.
pub const EX_TEMPFAIL: u8 = 75;
/// A client that violated the protocol.
pub const EX_PROTOCOL: u8 = 76;
/// A missing permission.
pub const EX_NOPERM: u8 = 77;
/// A wrong configuration.
pub const EX_CONFIG: u8 = 78;
