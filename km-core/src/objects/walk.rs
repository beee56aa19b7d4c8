//! Going through the objects that have a term, while they change. Enter through [`Walk::of`].
//!
//! An object that has the term from before the first step until after the last is met exactly once. Pages go on
//! from a place in the index, not from an object, which may be gone or stand elsewhere by then. What replaces
//! a destroyed object is another one, with a place of its own, and is not met at the place of the old.

use std::collections::VecDeque;

use super::{Object, ObjectError, Objects, object::placed_uid};
use crate::{ids::SaeId, store::MAX_RANGE};

/// Why a walk did not come to its next object.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum WalkError {
    /// The index was not read: the next step tries the same page again.
    #[error("the index of objects was not read: {0}")]
    Page(ObjectError),
    /// One object was not read: the next step goes on to the one after it.
    #[error("object {uid} was not read: {error}")]
    Object {
        /// Which.
        uid: String,
        /// Why.
        error: ObjectError,
    },
}

impl From<WalkError> for ObjectError {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::Page(error) | WalkError::Object { error, .. } => error,
        }
    }
}

/// The objects of an owner that had one of some terms when their page was read, the newest first.
pub struct Walk {
    owner: SaeId,
    terms: Vec<String>,
    page_size: usize,
    page: VecDeque<Vec<u8>>,
    /// The place up to which all terms were read.
    read_to: Option<Vec<u8>>,
    is_over: bool,
}

impl Walk {
    /// A walk that reads `page_size` places of the index at once, at most [`MAX_RANGE`]. An object may
    /// pass from each of `terms` to one that stands after it meanwhile, as one that is destroyed does,
    /// but not back.
    pub fn of(owner: SaeId, terms: Vec<String>, page_size: usize) -> Self {
        let page_size = page_size.clamp(1, MAX_RANGE);
        Self { owner, terms, page_size, page: VecDeque::new(), read_to: None, is_over: false }
    }

    /// The next object, as it is now; `None` when there are no more.
    ///
    /// # Errors
    /// [`WalkError`] says whether the walk can go on.
    pub async fn next(&mut self, objects: &Objects) -> Result<Option<Object>, WalkError> {
        loop {
            let Some(place) = self.page.pop_front() else {
                if self.is_over {
                    return Ok(None);
                }
                self.turn(objects).await.map_err(WalkError::Page)?;
                continue;
            };
            let uid = placed_uid(&place);
            match objects.get(&self.owner, &uid).await {
                Ok((object, _)) if object.place() == place => return Ok(Some(object)),
                Ok(_) | Err(ObjectError::NotFound(_)) => {}
                Err(error) => return Err(WalkError::Object { uid, error }),
            }
        }
    }

    /// Reads the next page: of each term, the places up to one that all of them were read to. They are read
    /// in their order, so what passes from one to another meanwhile stands in the second or in both.
    async fn turn(&mut self, objects: &Objects) -> Result<(), ObjectError> {
        let mut page: Vec<Vec<u8>> = Vec::new();
        let mut read_to: Option<Vec<u8>> = None;
        for term in &self.terms {
            let after = self.read_to.as_deref();
            let places = objects.listed(&self.owner, term, after, self.page_size).await?;
            let last = places.last().filter(|_| places.len() == self.page_size);
            read_to = match (read_to, last) {
                (Some(least), Some(last)) => Some(least.min(last.clone())),
                (least, last) => least.or(last.cloned()),
            };
            page.extend(places);
        }
        page.sort_unstable();
        page.dedup();
        if let Some(least) = &read_to {
            page.retain(|place| place <= least);
        }
        self.is_over = read_to.is_none();
        self.read_to = read_to;
        self.page = page.into();
        Ok(())
    }
}
