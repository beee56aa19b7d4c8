//! The server through real TLS: with the client of crate `kmip`, with raw bytes, with PyKMIP.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod agreement;
mod appliances;
mod attributes;
mod batch;
mod certificates;
mod ciphers;
mod clients;
mod common;
mod hostile;
mod house;
mod later;
mod lifecycle;
mod locate;
mod machine;
mod model;
mod notices;
mod operations;
mod pairs;
mod pairs_again;
mod pool_keys;
mod pykmip;
mod seeds;
mod split;
mod streams;
mod succession;
mod table;
mod tenancy;
mod tickets;
mod together;
mod transfer;
mod undo;
mod usage;
mod web;
mod words;
mod wrapping;
