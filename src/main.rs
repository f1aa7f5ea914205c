//! The program `mailslot`: wiring, and the only exit.

fn main() {}
