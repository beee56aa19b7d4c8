use super::*;

/// Every form says the same key again, byte for byte.
fn there_and_back(kind: ObjectType, first: Format, bytes: &[u8], others: &[Format]) {
    let meta = |form, format, bytes: &[u8]| {
        let mut meta = Meta::new(kind, form, bytes, 0);
        meta.set_format(format);
        meta
    };
    let clear = ClearBytes::copy_from(bytes);
    for other in others {
        let made = convert(&meta(Form::Bytes, first, bytes), &clear, *other).unwrap();
        let (form, made) = match made {
            KeyMaterial::Bytes(made) => (Form::Bytes, made),
            KeyMaterial::Transparent(made) => (Form::Transparent, made),
        };
        let made = made.expose(ClearBytes::copy_from);
        let back = convert(&made.expose(|b| meta(form, *other, b)), &made, first).unwrap();
        let KeyMaterial::Bytes(back) = back else { panic!("{other:?}") };
        assert!(back.expose(|back| back == bytes), "{other:?}");
    }
}

#[test]
fn a_symmetric_key_there_and_back() {
    there_and_back(
        ObjectType::SymmetricKey,
        Format::Raw,
        &[7; 16],
        &[Format::TransparentSymmetricKey],
    );
}

#[test]
fn bytes_that_are_no_key_are_refused() {
    for kind in [ObjectType::PrivateKey, ObjectType::PublicKey, ObjectType::SymmetricKey] {
        for stored in [Format::Pkcs1, Format::Pkcs8, Format::X509, Format::EcPrivateKey] {
            let mut meta = Meta::new(kind, Form::Bytes, &[0x30, 0x82, 0, 0], 0);
            meta.set_format(stored);
            let clear = ClearBytes::copy_from(&[0x30, 0x82, 0, 0]);
            for wanted in [Format::TransparentRsaPrivateKey, Format::TransparentEcPublicKey] {
                assert!(matches!(convert(&meta, &clear, wanted), Err(OpError::KeyFormat(_))));
            }
        }
    }
}
