//! Who the sender says it is, by AUTH (RFC 4954), with the mechanisms PLAIN (RFC 4616) and LOGIN
//! (draft-murchison-sasl-login).
//!
//! ```text
//! AUTH PLAIN AGpvbmVzAHNlY3JldA==            235
//! AUTH LOGIN      334 VXNlcm5hbWU6     am9uZXM=     334 UGFzc3dvcmQ6     c2VjcmV0     235
//! ```
//! Both tell the password to whoever listens: the [`Sender`](super::Sender) says them only where
//! nobody can.

use std::fmt;

use super::extensions::Extensions;

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name; no NUL.
    pub user: String,
    /// The password; no NUL.
    pub password: String,
}

/// The password is not shown.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Credentials {
    /// The lines to send, each but the first when the server has said 334; None: the server offers
    /// no mechanism that is known here.
    pub(super) fn auth_lines(&self, extensions: &Extensions) -> Option<Vec<String>> {
        let Credentials { user, password } = self;
        if extensions.auth_plain {
            let response = base64(format!("\0{user}\0{password}").as_bytes());
            let at_once = format!("AUTH PLAIN {response}");
            // A command that is too long is cut in two (RFC 4954 4).
            let fits = at_once.len() <= LINE_MAX - 2;
            return Some(if fits { vec![at_once] } else { vec!["AUTH PLAIN".into(), response] });
        }
        let responses = [user, password].map(|word| base64(word.as_bytes()));
        extensions.auth_login.then(|| [vec!["AUTH LOGIN".into()], responses.to_vec()].concat())
    }
}

/// RFC 4648 4.
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

/// A command line with its CR LF, in octets (RFC 5321 4.5.3.1.4).
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
