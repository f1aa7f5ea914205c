//! The values given for each option, looked up by the option's name. Each lookup records the value
//! in effect for `mailslot check`.

use super::ConfigError;
use super::options::{self, CommandLine, DefaultValue, OptionValue, Origin};

/// The values of all options, from each place that can give one.
pub(super) struct OptionValues<'a> {
    /// The command line.
    pub(super) line: &'a CommandLine,
    /// The configuration file.
    pub(super) file: Vec<OptionValue>,
    /// The values that `--sandbox` sets.
    pub(super) sandbox: Vec<OptionValue>,
    /// The values in effect that were recorded so far.
    pub(super) shown: Vec<OptionValue>,
}

impl OptionValues<'_> {
    /// Returns the values of `long` from the first place that has any: command line, file, sandbox,
    /// table.
    pub(super) fn lookup(&self, long: &'static str) -> Vec<OptionValue> {
        for place in [&self.line.given, &self.file, &self.sandbox] {
            let given: Vec<OptionValue> =
                place.iter().filter(|g| g.long == long).cloned().collect();
            if !given.is_empty() {
                return given;
            }
        }
        let Some(DefaultValue::Fixed(values)) = options::row(long).map(|row| row.default) else {
            return Vec::new();
        };
        let default =
            |v: &&str| OptionValue { long, value: v.to_string(), origin: Origin::Default };
        values.iter().map(default).collect()
    }

    /// Returns the origin of the value of `long`; [`Origin::Default`] if it is not given.
    pub(super) fn origin(&self, long: &'static str) -> Origin {
        self.lookup(long).first().map_or(Origin::Default, |g| g.origin.clone())
    }

    /// Records the value in effect of an option that was not looked up.
    pub(super) fn show(&mut self, long: &'static str, value: &str, origin: Origin) {
        self.shown.push(OptionValue { long, value: value.to_owned(), origin });
    }

    /// Returns all values of `long`, parsed.
    pub(super) fn list<T>(
        &mut self,
        long: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        let mut parsed = Vec::new();
        for given in self.lookup(long) {
            let value = parse(&given.value);
            parsed.push(value.map_err(|expected| ConfigError::unexpected(&given, &expected))?);
            self.shown.push(given);
        }
        Ok(parsed)
    }

    /// Returns all values of `long`, parsed. If none is given, returns none and shows `default`.
    pub(super) fn list_or<T>(
        &mut self,
        long: &'static str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        if self.origin(long) == Origin::Default {
            self.show(long, default, Origin::Default);
            return Ok(Vec::new());
        }
        self.list(long, parse)
    }

    /// Returns the value of `long`, parsed. It must be given, or have a default in the table.
    pub(super) fn single<T>(
        &mut self,
        long: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let missing = || ConfigError::Config(format!("{long} has no value"));
        self.list(long, parse)?.pop().ok_or_else(missing)
    }

    /// Returns the value of `long`, parsed; None if it has none, or if it is the word `none`.
    pub(super) fn optional<T>(
        &mut self,
        long: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let or_none = |t: &str| if t == "none" { Ok(None) } else { parse(t).map(Some) };
        Ok(self.list(long, or_none)?.pop().flatten())
    }
}
