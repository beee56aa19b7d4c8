//! Set Defaults: attributes that new objects get when nobody says them. (KMIP 2.1, 6.1)

use crate::attribute::Attributes;
use crate::enums::ObjectType;
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// The defaults from now on; absent means none.
        defaults: opt DefaultsInformation = DefaultsInformation @ V2_1,
    }
}

wire_struct! {
    /// Response payload: nothing.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {}
}

wire_struct! {
    /// Defaults by object type.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct DefaultsInformation {
        /// One for each.
        list: many ObjectDefaults = ObjectDefaults @ V2_0,
    }
}

/// The defaults of some types of object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectDefaults {
    /// The types.
    pub object_types: Vec<ObjectType>,
    /// What they get.
    pub attributes: Attributes,
}

impl Field for ObjectDefaults {
    fn read(item: &Item<'_>) -> Result<Self> {
        let mut defaults = Self::default();
        for child in item.children()? {
            match child.tag() {
                Tag::ObjectType => defaults.object_types.push(Field::read(&child)?),
                Tag::ObjectTypes => {
                    for inner in child.children()?.filter(|inner| inner.tag() == Tag::ObjectType) {
                        defaults.object_types.push(Field::read(&inner)?);
                    }
                }
                Tag::Attributes => defaults.attributes.absorb(&child)?,
                _ => {}
            }
        }
        match defaults.object_types.is_empty() {
            true => Err(Error::Missing { offset: item.offset(), tag: Tag::ObjectType }),
            false => Ok(defaults),
        }
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            let types = |w: &mut Writer| {
                self.object_types.iter().for_each(|kind| kind.write(w, Tag::ObjectType, version));
            };
            match self.object_types.len() {
                1 => types(w),
                _ => w.structure(Tag::ObjectTypes, types),
            }
            self.attributes.encode_bare(w, version);
        });
    }

    fn known(&self, version: Version) -> bool {
        version.is_v2() && self.attributes.all_known(version)
    }
}
