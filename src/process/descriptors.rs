//! The limit of open descriptors (RLIMIT_NOFILE) of the process.

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
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(SOFT_LIMIT_USUAL, |(soft, _)| soft);
    usize::try_from(soft).unwrap_or(usize::MAX)
}

/// Soft limit of most hosts.
const SOFT_LIMIT_USUAL: u64 = 1024;
