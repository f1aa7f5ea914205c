//! The limiter of unknown recipients: it slows down a client that probes for users, as address
//! harvesters do.
//!
//! | rejected names since the last delivered message | the next one is |
//! | --- | --- |
//! | up to 10 | answered at once; a mailing list with former users has as many |
//! | up to 20 | answered after a second, in which the client holds only its own thread |
//! | more, or more than 10 during overload | answered with 421, which ends the session |
//!
//! Postfix does the same with `smtpd_soft_error_limit`, `smtpd_error_sleep_time` and
//! `smtpd_hard_error_limit`. Clients that [`Access`](super::access::Access) exempts are never
//! slowed down.

use std::cell::Cell;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::net::stream::OverloadFlag;

/// The count of rejected names in one session.
pub(super) struct RecipientLimiter {
    is_exempt: bool,
    overload: Arc<OverloadFlag>,
    rejected: Cell<u32>,
}

impl RecipientLimiter {
    pub fn new(is_exempt: bool, overload: Arc<OverloadFlag>) -> RecipientLimiter {
        RecipientLimiter { is_exempt, overload, rejected: Cell::new(0) }
    }

    /// Counts a rejected name, and blocks for a second if there were many. Returns true if there
    /// were too many, and the session must end.
    pub fn count_rejected(&self) -> bool {
        if self.is_exempt {
            return false;
        }
        let rejected = self.rejected.get().saturating_add(1);
        self.rejected.set(rejected);
        if rejected <= SOFT_LIMIT {
            return false;
        }
        // An overloaded server has no threads to let sleep.
        if rejected > HARD_LIMIT || self.overload.is_on() {
            return true;
        }
        thread::sleep(DELAY);
        false
    }

    /// Starts the count again, after a message was delivered.
    pub fn reset(&self) {
        self.rejected.set(0);
    }
}

/// Names that are rejected without delay.
const SOFT_LIMIT: u32 = 10;
/// Names that are rejected before the session ends.
const HARD_LIMIT: u32 = 20;
/// Delay of each rejection between the two.
const DELAY: Duration = Duration::from_secs(1);
