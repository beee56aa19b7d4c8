//! The cases of a version as cases of the version before it, for which there are none here. Attributes that are
//! newer than that version are not expected; whatever else of a case is newer is named in `tests/oasis.toml`.

use kmip::{Version, attribute::AttributeKind, tag::Tag, ttlv::Value};

use super::xml::Template;

/// The version before that of a case, where its profiles are told for both.
pub(super) fn version_before(case: &str) -> Option<Version> {
    let versions = [("-14", Version::V1_3), ("-21", Version::V2_0)];
    versions.iter().find(|(end, _)| case.ends_with(end)).map(|(_, version)| *version)
}

/// Has every message say that it is of `version`, and answers tell what that version has.
pub(super) fn say(messages: &mut [(Tag, Template)], version: Version) {
    name_version(messages, version);
    for (_, answer) in messages.iter_mut().filter(|(tag, _)| *tag == Tag::ResponseMessage) {
        leave_out(answer, version);
    }
}

fn name_version(messages: &mut [(Tag, Template)], version: Version) {
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

/// Takes out the attributes of 1.x, and their names, that `version` does not have.
fn leave_out(template: &mut Template, version: Version) {
    let Template::Structure(parts) = template else { return };
    parts.retain(|(tag, part)| {
        let kind = match (*tag, part) {
            (Tag::AttributeName, name) => kind_of(name),
            (Tag::Attribute, Template::Structure(fields)) => {
                let name = fields.iter().find(|(tag, _)| *tag == Tag::AttributeName);
                name.and_then(|(_, name)| kind_of(name))
            }
            _ => None,
        };
        kind.is_none_or(|kind| kind.in_version(version))
    });
    parts.iter_mut().for_each(|(_, part)| leave_out(part, version));
}

fn kind_of(name: &Template) -> Option<AttributeKind> {
    match name {
        Template::Value(Value::TextString(name)) => AttributeKind::from_name(name),
        _ => None,
    }
}

fn parts(template: &mut Template) -> impl Iterator<Item = &mut (Tag, Template)> {
    let parts = match template {
        Template::Structure(parts) => parts.as_mut_slice(),
        _ => &mut [],
    };
    parts.iter_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: Tag, version: Version, attributes: &[&str]) -> (Tag, Template) {
        let value = |tag, value| (tag, Template::Value(value));
        let number = version.number();
        let version = Template::Structure(vec![
            value(Tag::ProtocolVersionMajor, Value::Integer(number.major)),
            value(Tag::ProtocolVersionMinor, Value::Integer(number.minor)),
        ]);
        let name = |name: &&str| value(Tag::AttributeName, Value::TextString((*name).to_owned()));
        let whole = |of: &&str| {
            let fields = vec![name(of), value(Tag::AttributeValue, Value::Boolean(false))];
            (Tag::Attribute, Template::Structure(fields))
        };
        let payload = attributes.iter().map(name).chain(attributes.iter().map(whole)).collect();
        let header = match tag {
            Tag::ResponseMessage => Tag::ResponseHeader,
            _ => Tag::RequestHeader,
        };
        let parts = vec![
            (header, Template::Structure(vec![(Tag::ProtocolVersion, version)])),
            (
                Tag::BatchItem,
                Template::Structure(vec![(Tag::ResponsePayload, Template::Structure(payload))]),
            ),
        ];
        (tag, Template::Structure(parts))
    }

    #[test]
    fn answers_of_the_version_before_tell_no_newer_attributes() {
        let all = ["State", "Sensitive", "Always Sensitive", "x-Sensitive", "Fresh"];
        let asked = |version| message(Tag::RequestMessage, version, &all);
        let told =
            |version, attributes: &[&str]| message(Tag::ResponseMessage, version, attributes);
        let mut case = [asked(Version::V1_4), told(Version::V1_4, &all)];
        say(&mut case, Version::V1_3);
        let known = ["State", "x-Sensitive", "Fresh"];
        assert_eq!(case, [asked(Version::V1_3), told(Version::V1_3, &known)]);
    }
}
