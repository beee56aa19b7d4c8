//! Changes of several objects in one commit: all or none. Enter through [`Unit::begin`].
//!
//! In a batch that may be undone the batch's own stage does it.

use std::sync::Arc;

use km_core::{
    objects::Objects,
    store::{Outcome, Staged},
};

use crate::{context::Context, error::OpError};

/// Changes on their way. End it with [`Unit::end`].
pub(crate) struct Unit {
    objects: Objects,
    /// None in a batch that is staged anyway.
    stage: Option<Arc<Staged>>,
}

impl Unit {
    pub(crate) fn begin(cx: &Context<'_>) -> Self {
        match cx.is_staged() {
            true => Self { objects: cx.objects().clone(), stage: None },
            false => {
                let (objects, stage) = cx.objects().staged();
                Self { objects, stage: Some(stage) }
            }
        }
    }

    /// What the changes are made through.
    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Makes the changes durable when `done` is well, else forgets them.
    pub(crate) async fn end<T>(self, done: Result<T, OpError>) -> Result<T, OpError> {
        let Some(stage) = &self.stage else { return done };
        if done.is_err() {
            self.objects.undone().await;
            return done;
        }
        let failure = match stage.publish().await {
            Ok(Outcome::Committed(_)) => {
                self.objects.published().await;
                return done;
            }
            Ok(Outcome::Unknown) => {
                let text = "it is not known whether it was stored; look before you send it again";
                return Err(OpError::Internal(text.to_owned()));
            }
            Ok(Outcome::Conflict) => {
                OpError::Temporary("an object changed at the same time".into())
            }
            Err(error) => {
                tracing::error!(%error, "changes could not be stored");
                OpError::Internal("the store did not do it; see the server's log".to_owned())
            }
        };
        self.objects.undone().await;
        Err(failure)
    }
}
