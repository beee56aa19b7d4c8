//! The cases of a version as cases of the version before it, for which there are none here. Whatever
//! stands in a case and is newer than that version is named in `tests/oasis.toml`.

use kmip::{Version, tag::Tag, ttlv::Value};

use super::xml::Template;

/// The version before that of a case, where its profiles are told for both.
pub(super) fn version_before(case: &str) -> Option<Version> {
    let versions = [("-14", Version::V1_3), ("-21", Version::V2_0)];
    versions.iter().find(|(end, _)| case.ends_with(end)).map(|(_, version)| *version)
}

/// Has every message say that it is of `version`.
pub(super) fn say(messages: &mut [(Tag, Template)], version: Version) {
    let number = version.number();
    for header in messages.iter_mut().flat_map(|(_, message)| parts(message)) {
        if !matches!(header.0, Tag::RequestHeader | Tag::ResponseHeader) {
            continue;
        }
        for (tag, part) in parts(&mut header.1).flat_map(|(_, part)| parts(part)) {
            let number = match *tag {
                Tag::ProtocolVersionMajor => number.major,
                Tag::ProtocolVersionMinor => number.minor,
                _ => continue,
            };
            *part = Template::Value(Value::Integer(number));
        }
    }
}

fn parts(template: &mut Template) -> impl Iterator<Item = &mut (Tag, Template)> {
    let parts = match template {
        Template::Structure(parts) => parts.as_mut_slice(),
        _ => &mut [],
    };
    parts.iter_mut()
}
