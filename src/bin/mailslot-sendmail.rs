//! The program `mailslot-sendmail`, also installed as sendmail, mailq and newaliases. It runs
//! [`mailslot::sendmail`] and exits with its status.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    ExitCode::from(mailslot::sendmail::run(&args))
}
