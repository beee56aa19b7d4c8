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
        publish(&self.objects, stage).await.map_err(|why| match why {
            Unpublished::Conflict => OpError::Temporary(why.to_string()),
            Unpublished::Unknown | Unpublished::Store => OpError::Internal(why.to_string()),
        })?;
        done
    }
}

/// Why staged changes are not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unpublished {
    #[error("an object changed at the same time")]
    Conflict,
    #[error("it is not known whether it was stored; look before you send it again")]
    Unknown,
    #[error("the store did not do it; see the server's log")]
    Store,
}

/// Makes the changes of `stage`, over which `objects` are, durable, or forgets them.
pub(crate) async fn publish(objects: &Objects, stage: &Staged) -> Result<(), Unpublished> {
    let why = match stage.publish().await {
        Ok(Outcome::Committed(_)) => {
            objects.published().await;
            return Ok(());
        }
        // Nothing is forgotten that may be stored.
        Ok(Outcome::Unknown) => return Err(Unpublished::Unknown),
        Ok(Outcome::Conflict) => Unpublished::Conflict,
        Err(error) => {
            tracing::error!(%error, "changes could not be stored");
            Unpublished::Store
        }
    };
    objects.undone().await;
    Err(why)
}
