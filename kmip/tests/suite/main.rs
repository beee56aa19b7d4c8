//! The tests of the KMIP room, one program so that they link once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may fail loudly")]

mod client;
mod corpus;
mod differential;
mod encoding;
mod gates;
mod hostile;
mod oasis;
mod quirks;
mod roundtrip;
mod tree;
mod xml;
