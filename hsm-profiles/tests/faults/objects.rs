//! Data kept in the token while the token fails.

use std::sync::atomic::{AtomicU64, Ordering};

use hsm_profiles::Token;
use km_core::hsm::Hsm;
use km_core::material::ClearBytes;

use super::within;

/// Names are used once, as the KM does.
#[derive(Default)]
pub(crate) struct Objects {
    names: AtomicU64,
}

impl Objects {
    /// Keeps an object, reads it, and destroys it. `None` when anything failed, as it may; what is
    /// answered is right.
    pub(crate) async fn try_all(&self, name: &str, token: &Token) -> Option<()> {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        let (object, clear) =
            (format!("held-{number}"), ClearBytes::copy_from(&number.to_be_bytes()));
        within(name, token.store_object(&object, &clear)).await?;
        let read = within(name, token.read_object(&object)).await;
        if let Some(read) = &read {
            assert_eq!(*read, clear, "{name}: another object");
        }
        let names = within(name, token.object_names(&object)).await;
        if let Some(names) = &names {
            assert!(names.iter().eq([&object]), "{name}: kept once, as {names:?}");
        }
        within(name, token.delete_object(&object)).await?;
        let left = within(name, token.object_names(&object)).await?;
        assert!(left.is_empty(), "{name}: destroyed");
        read.and(names).map(drop)
    }
}
