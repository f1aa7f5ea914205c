//! What was given for each option, looked up by its name, and what is in force noted on the way.

use super::{ConfigError, NameSet};
use crate::config::options::{self, CommandLine, DefaultValue, OptionValue, Origin};

/// What was given, looked up by name; notes what is in force on the way.
pub(super) struct OptionValues<'a> {
    pub(super) line: &'a CommandLine,
    pub(super) file: Vec<OptionValue>,
    pub(super) sandbox: Vec<OptionValue>,
    pub(super) shown: Vec<OptionValue>,
}

impl OptionValues<'_> {
    /// The values of `long` from the first place that has any: command line, file, sandbox, table.
    pub(super) fn lookup(&self, long: &'static str) -> Vec<OptionValue> {
        for place in [&self.line.given, &self.file, &self.sandbox] {
            let given: Vec<OptionValue> =
                place.iter().filter(|g| g.long == long).cloned().collect();
            if !given.is_empty() {
                return given;
            }
        }
        match options::row(long).map(|row| row.default) {
            Some(DefaultValue::Fixed(values)) => {
                let one =
                    |v: &&str| OptionValue { long, value: v.to_string(), origin: Origin::Default };
                values.iter().map(one).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Where the value of `long` comes from.
    pub(super) fn origin(&self, long: &'static str) -> Origin {
        self.lookup(long).first().map_or(Origin::Default, |g| g.origin.clone())
    }

    pub(super) fn show(&mut self, long: &'static str, value: &str, origin: Origin) {
        self.shown.push(OptionValue { long, value: value.to_owned(), origin });
    }

    /// Values that were found out, not given.
    pub(super) fn show_found(
        &mut self,
        long: &'static str,
        values: Vec<String>,
        origin: Origin,
    ) -> Vec<String> {
        let text = if values.is_empty() { "none".to_owned() } else { values.join(", ") };
        self.show(long, &text, origin);
        values
    }

    /// Nothing, and words for it.
    pub(super) fn show_instead<T>(
        &mut self,
        long: &'static str,
        words: &str,
        origin: Origin,
    ) -> Vec<T> {
        self.show(long, words, origin);
        Vec::new()
    }

    pub(super) fn show_wildcard(&mut self, long: &'static str) -> NameSet {
        self.show(long, "every one", Origin::Sandbox);
        NameSet::Any
    }

    /// All values of `long`, each parsed.
    pub(super) fn list<T>(
        &mut self,
        long: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        let mut parsed = Vec::new();
        for given in self.lookup(long) {
            parsed.push(parse(&given.value).map_err(|expected| refuse(&given, &expected))?);
            self.shown.push(given);
        }
        Ok(parsed)
    }

    /// The one value of `long`, parsed. The table has a default for it, or it was given.
    pub(super) fn single<T>(
        &mut self,
        long: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let missing = || ConfigError::Config(format!("{long} has no value"));
        self.list(long, parse)?.pop().ok_or_else(missing)
    }

    /// The one value of `long`; None if it has none or is the word `none`.
    pub(super) fn optional<T>(
        &mut self,
        long: &'static str,
        none: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let or_none = |t: &str| if t == none { Ok(None) } else { parse(t).map(Some) };
        Ok(self.list(long, or_none)?.pop().flatten())
    }
}

/// `--threads "x": expected ...`, or `FILE:3: threads "x": expected ...`.
pub(super) fn refuse(given: &OptionValue, expected: &str) -> ConfigError {
    let text = format!("{} \"{}\": expected {expected}", given.long, given.value.escape_debug());
    match &given.origin {
        Origin::File(..) => ConfigError::Config(format!("{}: {text}", given.origin)),
        _ => ConfigError::Usage(format!("--{text}")),
    }
}
