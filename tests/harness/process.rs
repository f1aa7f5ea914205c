//! A child process that does not outlive the test.

use std::process::{Child, Command, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{TIMEOUT, is_true_within};

/// A child process, stopped with TERM when it is dropped.
pub struct Daemon(Child);

impl Daemon {
    pub fn spawn(command: &mut Command) -> Daemon {
        Daemon(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Stops it. Returns how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        // Once it was waited for, another process may have its pid.
        if self.is_running() {
            let _ = kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM);
            if !is_true_within(TIMEOUT, || !self.is_running()) {
                let _ = self.0.kill();
            }
        }
        self.0.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}
