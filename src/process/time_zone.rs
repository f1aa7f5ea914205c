//! The time zone of the process: that of `TZ`, or of the host.
//!
//! The one file of the zone is read. A database of all zones, as jiff keeps one, would be read at
//! each start and stay in memory.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;

/// Returns the time zone for dates in messages and in the log; UTC if it cannot be found.
pub fn local() -> TimeZone {
    static CACHED: Mutex<Option<(Instant, TimeZone)>> = Mutex::new(None);
    let mut cached = CACHED.lock().unwrap_or_else(PoisonError::into_inner);
    match &*cached {
        Some((at, zone)) if at.elapsed() < REFRESH_INTERVAL => zone.clone(),
        _ => {
            let zone = match std::env::var("TZ") {
                Ok(name) => find(&name),
                Err(_) => read(Path::new("/etc/localtime")),
            };
            // A file that cannot be read any more changes nothing.
            let last = cached.take().map(|(_, zone)| zone);
            let zone = zone.or(last).unwrap_or(TimeZone::UTC);
            *cached = Some((Instant::now(), zone.clone()));
            zone
        }
    }
}

/// Returns the zone of a value of `TZ`: a name or path of a zone file, or a rule of POSIX.
fn find(name: &str) -> Option<TimeZone> {
    let name = name.strip_prefix(':').unwrap_or(name);
    if name.is_empty() {
        return Some(TimeZone::UTC);
    }
    let file = DIRECTORIES.iter().find_map(|directory| read(&Path::new(directory).join(name)));
    file.or_else(|| TimeZone::posix(name).ok()).or_else(|| with_usual_rule(name))
}

/// Reads a zone file.
fn read(path: &Path) -> Option<TimeZone> {
    TimeZone::tzif("", &std::fs::read(path).ok()?).ok()
}

/// Returns the zone of a name such as `EST5EDT`, which has two offsets and no rule for their
/// change: the change is that of the USA, as in C libraries. Most systems have a file for such a
/// name, but Debian 13 only in tzdata-legacy.
fn with_usual_rule(name: &str) -> Option<TimeZone> {
    TimeZone::posix(&format!("{name},M3.2.0,M11.1.0")).ok()
}

/// Time after which a change of the host's zone counts.
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// Directories of zone files on Unix systems.
const DIRECTORIES: [&str; 3] = ["/usr/share/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo"];

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn a_name_with_two_offsets_changes_between_them() {
        let zone = with_usual_rule("EST5EDT").unwrap();
        for (date, offset) in [("2026-07-01T12:00Z", -4), ("2026-12-01T12:00Z", -5)] {
            let date: Timestamp = date.parse().unwrap();
            assert_eq!(zone.to_offset(date).seconds(), offset * 3600, "{date}");
        }
        for name in ["CST6", "Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3", ""] {
            assert!(with_usual_rule(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_zone_is_a_rule_or_utc_or_unknown() {
        let date: Timestamp = "2026-07-01T12:00Z".parse().unwrap();
        let offset = |name: &str| find(name).map(|zone| zone.to_offset(date).seconds());
        for (name, seconds) in [("", 0), (":", 0), ("XYZ-3:30", 12_600), (":EST5EDT", -14_400)] {
            assert_eq!(offset(name), Some(seconds), "{name:?}");
        }
        assert_eq!(offset("CET-1CEST,M3.5.0,M10.5.0/3"), Some(7200));
        for name in ["No/Such", "/etc/passwd", "/", "..", "Europe"] {
            assert_eq!(offset(name), None, "{name:?}");
        }
    }
}
