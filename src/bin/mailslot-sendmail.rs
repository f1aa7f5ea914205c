//! The program `mailslot-sendmail`, also called sendmail, mailq and newaliases: the only exit of
//! [`mailslot::sendmail`].

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    ExitCode::from(mailslot::sendmail::run(&args))
}
