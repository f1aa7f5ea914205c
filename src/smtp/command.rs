//! One command line to one command (RFC 5321 4.1.1).
