//! The log: one line per event, `key=value`, to standard error or syslog. Whatever the client sent,
//! a line stays one line: values pass through [`value`].
//!
//! ```text
//! delivered session=k3f2a1-7 message=k3f2a1-7-1 from=<jones@example.org> to=smith size=4242 ms=3
//! ```
//! Written as `log::info!("delivered session={} from={}", value(&id), value(&from))`.

use std::fmt;

/// Shows `v` as one log value: as it is when it is plain, else in double quotes with `"`, `\` and
/// every octet outside printable ASCII escaped (`\x0a`).
pub fn value<T: fmt::Display>(v: T) -> impl fmt::Display {
    Value(v)
}

struct Value<T>(T);

impl<T: fmt::Display> fmt::Display for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let text = self.0.to_string();
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if !text.is_empty() && text.bytes().all(plain) {
            return f.write_str(&text);
        }
        f.write_char('"')?;
        for b in text.bytes() {
            match b {
                b'"' | b'\\' => write!(f, "\\{}", b as char)?,
                b' '..=b'~' => f.write_char(b as char)?,
                _ => write!(f, "\\x{b:02x}")?,
            }
        }
        f.write_char('"')
    }
}
