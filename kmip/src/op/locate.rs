//! Locate: objects by their attributes. (KMIP 2.1, 6.1)

use crate::attribute::{Attributes, Part};
use crate::enums::ObjectGroupMember;
use crate::tag::Tag;
use crate::ttlv::{Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set, wire_struct};

/// Request payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// At most so many.
    pub maximum_items: Option<i32>,
    /// Skip so many (1.3).
    pub offset_items: Option<i32>,
    /// On-line, archived, destroyed: bit mask.
    pub storage_status_mask: Option<i32>,
    /// Fresh or default member of the named group (1.1).
    pub object_group_member: Option<ObjectGroupMember>,
    /// All must match. Some 1.x clients send them inside a Template-Attribute; both are taken.
    pub attributes: Attributes,
    /// Filters that give a part of a structure: what they give must match.
    pub parts: Vec<Part>,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let mut request = Self::default();
        for child in item.children()? {
            match child.tag() {
                Tag::MaximumItems => set(&mut request.maximum_items, &child)?,
                Tag::OffsetItems => set(&mut request.offset_items, &child)?,
                Tag::StorageStatusMask => set(&mut request.storage_status_mask, &child)?,
                Tag::ObjectGroupMember => set(&mut request.object_group_member, &child)?,
                Tag::Attribute | Tag::Attributes | Tag::TemplateAttribute => {
                    let Self { attributes, parts, .. } = &mut request;
                    attributes.absorb_filters(&child, parts)?;
                }
                _ => {}
            }
        }
        Ok(request)
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            if let Some(items) = self.maximum_items {
                w.integer(Tag::MaximumItems, items);
            }
            if let Some(items) = self.offset_items.filter(|_| version >= Version::V1_3) {
                w.integer(Tag::OffsetItems, items);
            }
            if let Some(mask) = self.storage_status_mask {
                w.integer(Tag::StorageStatusMask, mask);
            }
            if let Some(member) = &self.object_group_member {
                put(member, w, Tag::ObjectGroupMember, version);
            }
            if self.attributes.any_known(version) || !self.parts.is_empty() {
                self.attributes.encode_filters(w, version, &self.parts);
            }
        });
    }

    /// A filter that is left out would find more than was asked for, a used key in place of a
    /// fresh one among them.
    fn known(&self, version: Version) -> bool {
        self.attributes.all_known(version)
            && self.parts.iter().all(|part| part.kind.in_version(version))
            && self.object_group_member.is_none_or(|member| member.known(version))
            && (self.offset_items.is_none() || version >= Version::V1_3)
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Response {
        /// How many match in all (1.3).
        located_items: opt i32 = LocatedItems @ V1_3,
        /// The objects.
        ids: many String = UniqueIdentifier @ V1_0,
    }
}
