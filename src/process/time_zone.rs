//! The time zone of the process: that of `TZ`, or of the host.
#![allow(clippy::disallowed_methods)] // all others call this module instead

use std::sync::OnceLock;

use jiff::tz::TimeZone;

/// Returns the time zone for dates in messages and in the log; UTC if it cannot be found.
pub fn local() -> TimeZone {
    static WITHOUT_RULE: OnceLock<Option<TimeZone>> = OnceLock::new();
    let without_rule = WITHOUT_RULE.get_or_init(|| {
        let name = std::env::var("TZ").ok()?;
        with_usual_rule(&name).filter(|_| TimeZone::try_system().is_err())
    });
    without_rule.clone().unwrap_or_else(TimeZone::system)
}

/// Returns the zone of a name such as `EST5EDT`, which has two offsets and no rule for their
/// change: the change is that of the USA, as in C libraries. Most systems have a file for such a
/// name, but Debian 13 only in tzdata-legacy.
fn with_usual_rule(name: &str) -> Option<TimeZone> {
    let name = name.strip_prefix(':').unwrap_or(name);
    TimeZone::posix(&format!("{name},M3.2.0,M11.1.0")).ok()
}

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
}
