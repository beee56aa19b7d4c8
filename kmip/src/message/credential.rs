//! Credentials in a request header.

use crate::enums::CredentialType;
use crate::tag::Tag;
use crate::ttlv::{Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, SecretBytes, SecretText, wire_struct};

/// Who the client says it is, besides its certificate.
#[derive(Debug)]
pub enum Credential {
    /// User name and password.
    UsernameAndPassword(UsernameAndPassword),
    /// Device (1.1).
    Device(DeviceCredential),
    /// Any other kind.
    Other {
        /// Kind.
        kind: CredentialType,
        /// Content of Credential Value, still TTLV.
        content: SecretBytes,
    },
}

wire_struct! {
    /// User name and password.
    #[derive(Debug)]
    pub struct UsernameAndPassword {
        /// User name.
        username: one String = Username @ V1_0,
        /// Password.
        password: opt SecretText = Password @ V1_0,
    }
}

wire_struct! {
    /// What a device says of itself.
    #[derive(Debug)]
    pub struct DeviceCredential {
        /// Serial number.
        serial_number: opt String = DeviceSerialNumber @ V1_1,
        /// Password.
        password: opt SecretText = Password @ V1_1,
        /// Device.
        device: opt String = DeviceIdentifier @ V1_1,
        /// Network.
        network: opt String = NetworkIdentifier @ V1_1,
        /// Machine.
        machine: opt String = MachineIdentifier @ V1_1,
        /// Media.
        media: opt String = MediaIdentifier @ V1_1,
    }
}

impl Credential {
    /// Its kind.
    pub fn kind(&self) -> CredentialType {
        match self {
            Self::UsernameAndPassword(_) => CredentialType::UsernameAndPassword,
            Self::Device(_) => CredentialType::Device,
            Self::Other { kind, .. } => *kind,
        }
    }
}

impl Field for Credential {
    fn read(item: &Item<'_>) -> Result<Self> {
        let kind = CredentialType::read(&item.required(Tag::CredentialType)?)?;
        let value = item.required(Tag::CredentialValue)?;
        Ok(match kind {
            CredentialType::UsernameAndPassword => Self::UsernameAndPassword(Field::read(&value)?),
            CredentialType::Device => Self::Device(Field::read(&value)?),
            kind => {
                value.children()?;
                Self::Other { kind, content: SecretBytes::copy_from(value.body()) }
            }
        })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            self.kind().write(w, Tag::CredentialType, version);
            match self {
                Self::UsernameAndPassword(value) => value.write(w, Tag::CredentialValue, version),
                Self::Device(value) => value.write(w, Tag::CredentialValue, version),
                Self::Other { content, .. } => w.structure(Tag::CredentialValue, |w| {
                    content.expose(|items| w.encoded(items));
                }),
            }
        });
    }

    fn known(&self, version: Version) -> bool {
        self.kind().known(version)
    }
}
