//! The lines a receiver adds to a message: Return-Path, Received, and the dates in them.
