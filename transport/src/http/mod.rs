//! HTTP/1.1 over mutual TLS. Servers enter through [`serve_http`] (inside the handler given to
//! [`crate::serve`]), clients through [`HttpClient`].
//!
//! Bodies that may carry keys: read with [`read_body`], answer with [`secret_body`].

mod body;
mod client;
mod clock;
mod server;

pub use body::{BodyError, read_body, secret_body};
pub use client::{ClientError, ClientLimits, HttpClient};
pub use server::{HttpLimits, peer, serve_http};
