//! Parameters of MAIL and RCPT (RFC 5321 4.1.2, RFC 1870, RFC 6152).
