//! The AUTH command (RFC 4954), with the mechanisms PLAIN (RFC 4616) and LOGIN
//! (draft-murchison-sasl-login).
//!
//! ```text
//! AUTH PLAIN AGpvbmVzAHNlY3JldA==            235
//! AUTH LOGIN      334 VXNlcm5hbWU6     am9uZXM=     334 UGFzc3dvcmQ6     c2VjcmV0     235
//! ```
//! Both send the password in clear text, so the [`Sender`](super::Sender) uses them only on a
//! channel that is encrypted or local.

use std::fmt;

use super::extensions::Extensions;

/// A user name and a password for AUTH.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user name, without NUL.
    pub user: String,
    /// The password, without NUL.
    pub password: String,
}

/// Writes the user name, but not the password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Returns the lines to send: AUTH, then one line for each reply 334. Returns None if the
    /// server offers neither mechanism.
    pub(super) fn auth_lines(&self, extensions: &Extensions) -> Option<Vec<String>> {
        let Credentials { user, password } = self;
        if extensions.auth_plain {
            let response = base64(format!("\0{user}\0{password}").as_bytes());
            let command = format!("AUTH PLAIN {response}");
            // If the command is too long, the response is sent after 334 instead (RFC 4954 4).
            let fits = command.len() <= LINE_MAX - 2;
            return Some(if fits { vec![command] } else { vec!["AUTH PLAIN".into(), response] });
        }
        let responses = [user, password].map(|word| base64(word.as_bytes()));
        extensions.auth_login.then(|| [vec!["AUTH LOGIN".into()], responses.to_vec()].concat())
    }
}

/// Encodes `bytes` in base64 (RFC 4648 4).
fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let at = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let digit = (bits >> (18 - 6 * i) & 63) as u8;
            text.push(match digit {
                _ if i > group.len() => '=',
                0..=25 => char::from(b'A' + digit),
                26..=51 => char::from(b'a' + digit - 26),
                52..=61 => char::from(b'0' + digit - 52),
                62 => '+',
                _ => '/',
            });
        }
    }
    text
}

/// The longest command line with its CR LF, in octets (RFC 5321 4.5.3.1.4).
const LINE_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"fooba", "Zm9vYmE="),
            (b"foobar", "Zm9vYmFy"),
            (b"\0tim\0tanstaaftanstaaf", "AHRpbQB0YW5zdGFhZnRhbnN0YWFm"),
            (b"\xff\xff\xfe\xfb\xef\xbe", "///+++++"),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }

    #[test]
    fn mechanisms() {
        let credentials = Credentials { user: "jones".into(), password: "secret".into() };
        let extensions =
            |auth_plain, auth_login| Extensions { auth_plain, auth_login, ..Extensions::default() };
        let plain = credentials.auth_lines(&extensions(true, true)).unwrap();
        assert_eq!(plain, ["AUTH PLAIN AGpvbmVzAHNlY3JldA=="]);
        let by_login = credentials.auth_lines(&extensions(false, true)).unwrap();
        assert_eq!(by_login, ["AUTH LOGIN", "am9uZXM=", "c2VjcmV0"]);
        assert_eq!(credentials.auth_lines(&extensions(false, false)), None);
        let long = Credentials { password: "x".repeat(400), ..credentials };
        assert_eq!(long.auth_lines(&extensions(true, false)).unwrap().len(), 2);
        assert!(!format!("{long:?}").contains("xx"));
    }
}
