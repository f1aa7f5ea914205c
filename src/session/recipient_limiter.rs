//! Slows down a client that tries out names: who finds out in a second which of a thousand there
//! are has a list to sell.
//!
//! As Postfix has it (`smtpd_soft_error_limit`, `smtpd_error_sleep_time`,
//! `smtpd_hard_error_limit`): the first ten refused names of a session are answered at once, as a
//! list with old members brings them; each further one after a second, which holds the session's
//! own thread and nothing else; and after twenty, or under stress instead of any delay, the session
//! ends with 421. A message that is delivered begins the count anew. Clients on this host are never
//! slowed, nor is LMTP: the server in front forwards what others asked it.

use std::cell::Cell;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::net::stream::OverloadFlag;
use crate::smtp::{Reply, reply};

/// Names refused in one session since its last message.
pub(super) struct RecipientLimiter {
    watched: bool,
    overload: Arc<OverloadFlag>,
    refused: Cell<u32>,
}

impl RecipientLimiter {
    /// For a session; `watched` whether its client is one that could harvest.
    pub fn new(watched: bool, overload: Arc<OverloadFlag>) -> RecipientLimiter {
        RecipientLimiter { watched, overload, refused: Cell::new(0) }
    }

    /// Another name is refused, by `reply`; waits perhaps, and returns what is to be said.
    pub fn refuse(&self, hostname: &str, reply: Reply) -> Reply {
        if !self.watched {
            return reply;
        }
        let refused = self.refused.get().saturating_add(1);
        self.refused.set(refused);
        if refused <= FREE {
            return reply;
        }
        if refused > MAX || self.overload.is_on() {
            return reply::client_error(hostname, "too many names refused");
        }
        thread::sleep(DELAY);
        reply
    }

    /// A message was delivered.
    pub fn reset(&self) {
        self.refused.set(0);
    }
}

/// Refusals that cost nothing.
const FREE: u32 = 10;
/// Refusals in all.
const MAX: u32 = 20;
/// What each between them costs.
const DELAY: Duration = Duration::from_secs(1);
