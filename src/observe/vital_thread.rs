//! Threads without which the process is of no use.

use std::thread;

use super::events;
use crate::sysexits::EX_SOFTWARE;

/// A guard that a vital thread holds while it runs. If the thread panics, the process ends with
/// status 70, so that its supervisor starts it again. Its mail is recovered then.
#[derive(Debug)]
pub struct VitalThread {
    name: &'static str,
}

impl VitalThread {
    /// Returns the guard of the thread `name`.
    pub fn new(name: &'static str) -> VitalThread {
        VitalThread { name }
    }
}

impl Drop for VitalThread {
    fn drop(&mut self) {
        if thread::panicking() {
            events::thread_died(self.name);
            log::logger().flush();
            std::process::exit(i32::from(EX_SOFTWARE));
        }
    }
}
