//! The limit of open descriptors (RLIMIT_NOFILE) of the process.

use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. The soft limit is 1024 on most hosts, for the sake of
/// programs that call select(2), which mailslot does not.
///
/// An error is ignored, because the soft limit then stays as it was.
pub fn raise_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Returns the soft limit.
pub fn limit() -> usize {
    // The type of a limit is another one on other systems.
    getrlimit(Resource::RLIMIT_NOFILE)
        .map_or(SOFT_LIMIT_USUAL, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}

/// True if a call failed because the process or the host has no free descriptor.
pub fn are_exhausted(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
}

/// Soft limit of most hosts.
const SOFT_LIMIT_USUAL: usize = 1024;
