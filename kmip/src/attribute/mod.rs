//! Attributes of managed objects. One typed [`Attribute`] has two encodings: a named value in 1.x
//! and a tag of its own in 2.x. Availability by version stands in `table.rs` and nowhere else.
//!
//! [`Attributes`] is the list a request or response carries.

mod part;
mod table;
mod types;

pub use part::Part;
pub use table::{Attribute, AttributeKind};
pub use types::*;

use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Type, Value, Writer};
use crate::version::Version;
use crate::wire::Field;

/// An attribute outside the standard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VendorAttribute {
    /// Vendor identification; `x` and `y` are the prefixes of 1.x custom attributes.
    pub vendor: String,
    /// Name, in 1.x without the prefix.
    pub name: String,
    /// Value.
    pub value: Value,
}

/// A standard-looking attribute that the table does not have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnknownAttribute {
    /// How the peer called it.
    pub key: AttributeRef,
    /// Value.
    pub value: Value,
}

/// The name of an attribute in a request or a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AttributeRef {
    /// Of the standard.
    Kind(AttributeKind),
    /// Of a vendor; see [`VendorAttribute`].
    Vendor {
        /// Vendor identification.
        vendor: String,
        /// Name without prefix.
        name: String,
    },
    /// A name that 1.x does not define.
    UnknownName(String),
    /// A tag that no attribute has.
    UnknownTag(Tag),
}

impl AttributeRef {
    /// Reads an Attribute Name (1.x) or an Attribute Reference (2.x).
    pub fn from_item(item: &Item<'_>) -> Result<Self> {
        match item.kind() {
            Type::TextString => Ok(Self::from_name(item.text()?)),
            Type::Structure => Ok(Self::Vendor {
                vendor: item.required(Tag::VendorIdentification)?.text()?.to_owned(),
                name: item.required(Tag::AttributeName)?.text()?.to_owned(),
            }),
            _ => {
                let tag = Tag::new(item.enumeration()?);
                Ok(AttributeKind::from_tag(tag).map_or(Self::UnknownTag(tag), Self::Kind))
            }
        }
    }

    /// Parses a name of 1.x.
    pub fn from_name(name: &str) -> Self {
        if let Some(kind) = AttributeKind::from_name(name) {
            return Self::Kind(kind);
        }
        match name.split_once('-') {
            Some((vendor @ ("x" | "y"), rest)) => {
                Self::Vendor { vendor: vendor.to_owned(), name: rest.to_owned() }
            }
            _ => Self::UnknownName(name.to_owned()),
        }
    }

    /// Whether `version` can say it.
    pub fn known(&self, version: Version) -> bool {
        match self {
            Self::Kind(kind) => kind.in_version(version),
            Self::Vendor { vendor, .. } => has_vendor(version, vendor),
            Self::UnknownName(_) | Self::UnknownTag(_) => false,
        }
    }

    /// Writes it as `version` does, or not at all when `version` cannot say it.
    pub fn encode(&self, w: &mut Writer, version: Version) {
        match self {
            _ if !self.known(version) => {}
            Self::Kind(kind) if version.is_v2() => {
                w.enumeration(Tag::AttributeReference, kind.tag().number());
            }
            Self::Kind(kind) => w.text(Tag::AttributeName, kind.name()),
            Self::Vendor { vendor, name } if version.is_v2() => {
                w.structure(Tag::AttributeReference, |w| {
                    w.text(Tag::VendorIdentification, vendor);
                    w.text(Tag::AttributeName, name);
                });
            }
            Self::Vendor { vendor, name } => {
                w.text(Tag::AttributeName, &format!("{vendor}-{name}"));
            }
            Self::UnknownName(_) | Self::UnknownTag(_) => {}
        }
    }
}

impl From<AttributeKind> for AttributeRef {
    fn from(kind: AttributeKind) -> Self {
        Self::Kind(kind)
    }
}

/// Whether `version` has attributes of `vendor`: 1.x knows only the prefixes `x` and `y`.
fn has_vendor(version: Version, vendor: &str) -> bool {
    version.is_v2() || matches!(vendor, "x" | "y")
}

impl Attribute {
    /// How requests and lists call this attribute.
    pub fn key(&self) -> AttributeRef {
        match (self, self.kind()) {
            (_, Some(kind)) => AttributeRef::Kind(kind),
            (Self::Vendor(v), _) => {
                AttributeRef::Vendor { vendor: v.vendor.clone(), name: v.name.clone() }
            }
            (Self::Unknown(unknown), _) => unknown.key.clone(),
            (_, None) => AttributeRef::UnknownName(String::new()),
        }
    }

    /// Whether `version` can say this attribute with this value.
    pub fn known(&self, version: Version) -> bool {
        let named = match (self, self.kind()) {
            (_, Some(kind)) => kind.in_version(version),
            (Self::Vendor(v), None) => has_vendor(version, &v.vendor),
            _ => false,
        };
        named && self.value_known(version)
    }

    fn read_v1(item: &Item<'_>) -> Result<Instance> {
        let name = item.required(Tag::AttributeName)?.text()?;
        let index = item.child(Tag::AttributeIndex)?.map(|i| i.integer()).transpose()?;
        let value = item.required(Tag::AttributeValue)?;
        let attribute = match AttributeRef::from_name(name) {
            AttributeRef::Kind(kind) => Self::read_value(kind, &value)?,
            AttributeRef::Vendor { vendor, name } => {
                Self::Vendor(VendorAttribute { vendor, name, value: Value::from_item(&value)? })
            }
            key => Self::Unknown(UnknownAttribute { key, value: Value::from_item(&value)? }),
        };
        Ok(Instance { index, attribute })
    }

    fn read_v2(item: &Item<'_>) -> Result<Self> {
        if item.tag() == Tag::Attribute {
            return Ok(Self::Vendor(VendorAttribute {
                vendor: item.required(Tag::VendorIdentification)?.text()?.to_owned(),
                name: item.required(Tag::AttributeName)?.text()?.to_owned(),
                value: Value::from_item(&item.required(Tag::AttributeValue)?)?,
            }));
        }
        match AttributeKind::from_tag(item.tag()) {
            Some(kind) => Self::read_value(kind, item),
            None => Ok(Self::Unknown(UnknownAttribute {
                key: AttributeRef::UnknownTag(item.tag()),
                value: Value::from_item(item)?,
            })),
        }
    }

    fn encode_v1(&self, w: &mut Writer, index: Option<i32>, version: Version) {
        w.structure(Tag::Attribute, |w| {
            match (self, self.kind()) {
                (_, Some(kind)) => w.text(Tag::AttributeName, kind.name()),
                (Self::Vendor(v), _) => {
                    w.text(Tag::AttributeName, &format!("{}-{}", v.vendor, v.name));
                }
                _ => {}
            }
            if let Some(index) = index {
                w.integer(Tag::AttributeIndex, index);
            }
            self.write_value(w, Tag::AttributeValue, version);
        });
    }

    fn encode_v2(&self, w: &mut Writer, version: Version) {
        match (self, self.kind()) {
            (_, Some(kind)) => self.write_value(w, kind.tag(), version),
            (Self::Vendor(v), _) => w.structure(Tag::Attribute, |w| {
                w.text(Tag::VendorIdentification, &v.vendor);
                w.text(Tag::AttributeName, &v.name);
                v.value.encode(w, Tag::AttributeValue);
            }),
            _ => {}
        }
    }
}

/// An attribute and, in 1.x, which instance of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Attribute Index as sent; absent means 0.
    pub index: Option<i32>,
    /// The attribute.
    pub attribute: Attribute,
}

impl Instance {
    /// Reads the one attribute of an attribute operation: an Attribute (1.x), or what stands inside
    /// New Attribute or Current Attribute (2.x).
    pub(crate) fn read_one(item: &Item<'_>) -> Result<Self> {
        if item.tag() == Tag::Attribute {
            return Attribute::read_v1(item);
        }
        let mut found = item.children()?;
        let malformed = |what| Error::Malformed { offset: item.offset(), what };
        let first = found.next().ok_or(malformed("holds no attribute"))?;
        match found.next() {
            Some(_) => Err(malformed("holds more than one attribute")),
            None => Ok(Self { index: None, attribute: Attribute::read_v2(&first)? }),
        }
    }

    /// Writes it as attribute operations carry it; `tag` counts in 2.x only.
    pub(crate) fn write_one(&self, w: &mut Writer, tag: Tag, version: Version) {
        match version.is_v2() {
            true => w.structure(tag, |w| self.attribute.encode_v2(w, version)),
            false => self.attribute.encode_v1(w, self.index, version),
        }
    }
}

/// The attributes of a request, a response or a key value, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Templates that a 1.x Template-Attribute names.
    pub templates: Vec<Name>,
    /// The attributes.
    pub list: Vec<Instance>,
}

impl Attributes {
    /// Adds one without an index.
    pub fn push(&mut self, attribute: Attribute) {
        self.list.push(Instance { index: None, attribute });
    }

    /// The attributes without their indices.
    pub fn iter(&self) -> impl Iterator<Item = &Attribute> {
        self.list.iter().map(|instance| &instance.attribute)
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.templates.is_empty()
    }

    /// Whether `version` can say all of them. Requests ask this: a filter or a wish left out
    /// silently would change what the request means.
    pub(crate) fn all_known(&self, version: Version) -> bool {
        self.iter().all(|attribute| attribute.known(version))
            && (self.templates.is_empty() || !version.is_v2())
    }

    /// Whether `version` can say any of them.
    pub(crate) fn any_known(&self, version: Version) -> bool {
        self.iter().any(|attribute| attribute.known(version))
            || !(self.templates.is_empty() || version.is_v2())
    }

    /// Takes in an item of any of the forms attributes come in: Attributes (2.x),
    /// Template-Attribute and bare Attribute (1.x).
    pub(crate) fn absorb(&mut self, item: &Item<'_>) -> Result<()> {
        match item.tag() {
            Tag::Attribute => self.list.push(Attribute::read_v1(item)?),
            Tag::Attributes
            | Tag::CommonAttributes
            | Tag::PrivateKeyAttributes
            | Tag::PublicKeyAttributes => {
                for child in item.children()? {
                    self.push(Attribute::read_v2(&child)?);
                }
            }
            _ => {
                for child in item.children()? {
                    match child.tag() {
                        Tag::Name => self.absorb_template(&child)?,
                        Tag::Attribute => self.list.push(Attribute::read_v1(&child)?),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn absorb_template(&mut self, name: &Item<'_>) -> Result<()> {
        self.templates.push(Name::read(name)?);
        Ok(())
    }

    /// Writes a Template-Attribute (1.x) or Attributes (2.x).
    pub(crate) fn encode_template(&self, w: &mut Writer, version: Version) {
        self.encode_under(w, version, (Tag::TemplateAttribute, Tag::Attributes));
    }

    /// As [`Attributes::encode_template`], under the tags that Create Key Pair has for 1.x and 2.x.
    pub(crate) fn encode_under(&self, w: &mut Writer, version: Version, (old, new): (Tag, Tag)) {
        if version.is_v2() {
            return self.encode_v2(w, new, version);
        }
        w.structure(old, |w| {
            for name in &self.templates {
                name.write(w, Tag::Name, version);
            }
            self.encode_bare(w, version);
        });
    }

    fn encode_v2(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            for attribute in self.iter().filter(|a| a.known(version)) {
                attribute.encode_v2(w, version);
            }
        });
    }

    /// Writes a row of Attribute (1.x) or Attributes (2.x).
    pub(crate) fn encode_bare(&self, w: &mut Writer, version: Version) {
        if version.is_v2() {
            return self.encode_v2(w, Tag::Attributes, version);
        }
        for instance in self.list.iter().filter(|i| i.attribute.known(version)) {
            instance.attribute.encode_v1(w, instance.index, version);
        }
    }
}

/// As 2.x has them under a tag of their own; 1.x has them in other forms.
impl Field for Attributes {
    fn read(item: &Item<'_>) -> Result<Self> {
        let mut all = Self::default();
        all.absorb(item)?;
        Ok(all)
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        self.encode_v2(w, tag, version);
    }

    fn known(&self, version: Version) -> bool {
        version.is_v2() && self.all_known(version)
    }
}

impl FromIterator<Attribute> for Attributes {
    fn from_iter<T: IntoIterator<Item = Attribute>>(iter: T) -> Self {
        let list = iter.into_iter().map(|attribute| Instance { index: None, attribute }).collect();
        Self { templates: Vec::new(), list }
    }
}
