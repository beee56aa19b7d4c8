//! The server through real TLS: with the client of crate `kmip`, with raw bytes, with PyKMIP.

mod batch;
mod common;
mod hostile;
mod lifecycle;
mod locate;
mod operations;
mod pool_keys;
mod pykmip;
