//! Owned by its room; being built.
