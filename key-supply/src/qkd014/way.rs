//! How keys came to be, for whoever asks: an extension of this server. A request says
//! `{"qkm-provenance": true}` among its extensions, and each key's `key_extension` has the names and texts
//! that KMIP has as vendor attributes. Nobody else sees a member more than the standard names.

use std::sync::Arc;

use etsi014::{ErrorBody, KeyIds, KeyRequest, text};
use km_core::{pool::SuppliedKey, provenance::Provenance};
use serde_json::{Map, Value};

use super::answer::Refusal;

/// The option of a request.
pub(super) const OPTION: &str = "qkm-provenance";

/// Whether a master asks for it.
pub(super) fn asked(wanted: &KeyRequest) -> Result<bool, Refusal> {
    let mandatory = wanted.extension_mandatory.iter().filter_map(|options| options.get(OPTION));
    let mut asked = false;
    for value in mandatory {
        let met = value.as_bool().ok_or_else(|| {
            let body = ErrorBody::new(text::MANDATORY_NOT_MET);
            Refusal::BadRequest(body.with("extension", format!("{OPTION} is true or false")))
        })?;
        asked |= met;
    }
    Ok(asked || wanted.extension_optional.iter().any(says_yes))
}

/// Whether a slave asks for it.
pub(super) fn asked_by_slave(wanted: &KeyIds) -> bool {
    says_yes(&wanted.extension)
}

fn says_yes(options: &Map<String, Value>) -> bool {
    options.get(OPTION) == Some(&Value::Bool(true))
}

/// The JSON text for each key, in order. Keys of one block came the same way.
pub(super) fn extensions(keys: &[SuppliedKey]) -> Vec<Arc<str>> {
    let mut last: Option<(&Arc<Provenance>, Arc<str>)> = None;
    let mut texts = Vec::with_capacity(keys.len());
    for SuppliedKey { provenance, .. } in keys {
        let known = last.as_ref().filter(|(way, _)| Arc::ptr_eq(way, provenance));
        let text = known.map_or_else(|| written(provenance), |(_, text)| text.clone());
        last = Some((provenance, text.clone()));
        texts.push(text);
    }
    texts
}

fn written(way: &Provenance) -> Arc<str> {
    let told = way.told().into_iter();
    let told: Map<String, Value> =
        told.map(|(name, text)| (name.to_owned(), Value::String(text))).collect();
    Value::Object(told).to_string().into()
}
