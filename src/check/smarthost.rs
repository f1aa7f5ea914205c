//! `mailslot check --smarthost`: a session with each smarthost, up to the login. No message is
//! sent.
//!
//! ```text
//! smtp.example.org:587
//!   address      192.0.2.25:587
//!   tls          TLSv1.3 with cipher TLS_AES_256_GCM_SHA384
//!   certificate  smtp.example.org, signed by Example CA, valid until 2026-07-01
//!   auth         PLAIN LOGIN
//!   login        jones: accepted
//!   = mail can be sent
//! ```

use std::fmt::Write as _;

use crate::relay::client::{self, ProbeResult};
use crate::relay::queue::Smarthost;
use crate::smtp::sender::OutcomeReason;

/// Connects to each of `smarthosts`. Returns the text about them, and whether all can be used.
pub fn probe_smarthosts(smarthosts: &[Smarthost]) -> (String, bool) {
    let mut texts = Vec::new();
    let mut all_usable = true;
    for Smarthost { address, config } in smarthosts {
        let mut text = format!("{address}\n");
        let user = config.credentials.as_ref().map(|login| login.user.as_str());
        let error = match client::probe(address, config) {
            Err(reason) => Some(reason),
            Ok(result) => {
                text += &describe(&result, user);
                result.error
            }
        };
        all_usable &= error.is_none();
        text += &match error {
            None => "  = mail can be sent\n".to_owned(),
            Some(reason) => format!("  = {reason}\n{}", fix(&reason)),
        };
        texts.push(text);
    }
    (texts.join("\n"), all_usable)
}

/// Describes the session. `user` is the name of the login.
fn describe(result: &ProbeResult, user: Option<&str>) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "  {key:<12} {}", value.escape_debug());
    };
    if let Some(peer) = result.peer {
        line("address", &peer.to_string());
    }
    match &result.tls {
        Some(tls) => line("tls", &format!("{} with cipher {}", tls.version, tls.cipher)),
        None => line("tls", "none"),
    }
    if let Some(certificate) = &result.certificate {
        let until = super::tls::date(certificate.not_after);
        let (subject, issuer) = (&certificate.subject, &certificate.issuer);
        line("certificate", &format!("{subject}, signed by {issuer}, valid until {until}"));
    }
    let offers = [(result.extensions.auth_plain, "PLAIN"), (result.extensions.auth_login, "LOGIN")];
    let offers: Vec<&str> = offers.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    line(
        "auth",
        &if offers.is_empty() { "neither PLAIN nor LOGIN".to_owned() } else { offers.join(" ") },
    );
    match (user, &result.error) {
        (None, _) => line("login", "none"),
        (Some(user), None) => line("login", &format!("{user}: accepted")),
        (Some(user), Some(_)) => line("login", &format!("{user}: not accepted")),
    }
    text
}

/// Returns the line with the fix of an error, or nothing.
fn fix(reason: &OutcomeReason) -> String {
    let text = &reason.text;
    let fix = match reason.code {
        Some(530 | 534 | 535) => "correct the user and the password in the file of smarthost-login",
        None if text.contains("is self-signed") || text.contains("unknown authority") => {
            "if it is the right server, name the file of its authority with smarthost-ca"
        }
        None if text.contains("not TLS") => "use the port for STARTTLS without tls:, often 587",
        None if text.contains("password is not sent") => "set smarthost-tls to verify or encrypt",
        _ => return String::new(),
    };
    format!("   fix: {fix}\n")
}
