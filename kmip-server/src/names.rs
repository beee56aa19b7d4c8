//! Names are unique among the objects of a client, unless the operator lets them be shared. Whoever
//! gives a name to an object holds it until the object is stored, and all names of one request together.

use std::time::Duration;

use km_core::{ids::SaeId, objects::Objects};
use kmip::attribute::Attribute;

use crate::{context::Context, error::OpError, locks::Held, terms};

/// How long a name is waited for that somebody else is giving to an object.
const PATIENCE: Duration = Duration::from_secs(2);

/// Holds `names` for the caller; refuses those that another object than those of `except` has.
pub(crate) async fn hold(
    cx: &Context<'_>,
    names: &[&str],
    except: &[&str],
) -> Result<Option<Held>, OpError> {
    if names.is_empty() || cx.server.limits.lenience.shared_names {
        return Ok(None);
    }
    let owner = cx.caller.tenant();
    let locks = names.iter().map(|name| format!("name:{owner}/{name}")).collect();
    let locks = cx.not_held(locks);
    // Two batches that hold names until their end could wait for each other.
    let held = tokio::time::timeout(PATIENCE, cx.server.locks.hold(locks)).await;
    let held = held.map_err(|_| OpError::Temporary("others are taking the name".to_owned()))?;
    for (at, name) in names.iter().enumerate() {
        let twice = names.iter().skip(at + 1).any(|other| other == name);
        if twice || is_taken(cx.objects(), owner, name, except).await? {
            return Err(OpError::NameTaken((*name).to_owned()));
        }
    }
    Ok(cx.keep(held))
}

/// The name an attribute gives, if it is one.
pub(crate) fn of(attribute: &Attribute) -> Option<&str> {
    match attribute {
        Attribute::Name(name) => Some(&name.value),
        _ => None,
    }
}

pub(crate) async fn is_taken(
    objects: &Objects,
    owner: &SaeId,
    name: &str,
    except: &[&str],
) -> Result<bool, OpError> {
    let most = except.len() + 1;
    let found = objects.search(owner, &terms::name(name), most).await?;
    Ok(found.iter().any(|uid| !except.contains(&uid.as_str())))
}
