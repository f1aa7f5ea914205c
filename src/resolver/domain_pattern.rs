//! The domains that a route is for: `example.org`, `.example.org` for those below it, or `*`.

use std::fmt;
use std::str::FromStr;

use crate::smtp::Domain;

/// The domains that a route is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainPattern {
    /// This domain alone, in lower case and in ASCII, or an address literal.
    Domain(String),
    /// The domains below this one, which is written with a dot before it. Not itself.
    Below(String),
    /// Any domain and any address literal.
    Any,
}

impl DomainPattern {
    /// True if the pattern is for `domain`, which is in lower case and in ASCII.
    pub fn matches(&self, domain: &str) -> bool {
        match self {
            DomainPattern::Domain(name) => name == domain,
            DomainPattern::Below(parent) => {
                domain.strip_suffix(parent.as_str()).is_some_and(|below| {
                    below.len() > 1 && below.ends_with('.') && !domain.starts_with('[')
                })
            }
            DomainPattern::Any => true,
        }
    }

    /// Returns how specific the pattern is. If several match a domain, the highest is used.
    pub fn specificity(&self) -> usize {
        match self {
            DomainPattern::Domain(_) => usize::MAX,
            DomainPattern::Below(parent) => parent.len(),
            DomainPattern::Any => 0,
        }
    }
}

impl FromStr for DomainPattern {
    type Err = String;

    /// # Errors
    /// The text is neither a domain, nor one after a dot, nor `*`.
    fn from_str(text: &str) -> Result<DomainPattern, String> {
        let name = |text: &str| {
            let domain = Domain::parse(text.strip_suffix('.').unwrap_or(text));
            domain.map(|domain| domain.to_ascii()).map_err(|e| e.to_string())
        };
        match text.strip_prefix('.') {
            _ if text == "*" => Ok(DomainPattern::Any),
            Some(parent) if parent.starts_with('[') => Err("an address has no subdomains".into()),
            Some(parent) => Ok(DomainPattern::Below(name(parent)?)),
            None => Ok(DomainPattern::Domain(name(text)?)),
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DomainPattern::Domain(name) => f.write_str(name),
            DomainPattern::Below(parent) => write!(f, ".{parent}"),
            DomainPattern::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_match_their_patterns() {
        for (pattern, matched, others) in [
            ("Example.ORG.", &["example.org"][..], &["a.example.org", "xexample.org", "org"][..]),
            (
                ".example.org",
                &["a.example.org", "b.a.example.org"],
                &["example.org", "xexample.org", ".example.org", "[example.org"],
            ),
            ("m\u{fc}ller.example", &["xn--mller-kva.example"], &["muller.example"]),
            ("[192.0.2.1]", &["[192.0.2.1]"], &["[192.0.2.11]"]),
            ("*", &["example.org", "org", "[192.0.2.1]"], &[]),
        ] {
            let pattern: DomainPattern = pattern.parse().unwrap();
            assert!(matched.iter().all(|domain| pattern.matches(domain)), "{pattern}");
            assert!(!others.iter().any(|domain| pattern.matches(domain)), "{pattern}");
            assert_eq!(pattern.to_string().parse::<DomainPattern>().unwrap(), pattern);
        }
        for wrong in ["", ".", "..a", "a..b", "**", "*.a", "a b", ".[192.0.2.1]", "[192.0.2"] {
            assert!(wrong.parse::<DomainPattern>().is_err(), "{wrong:?}");
        }
    }
}
