//! Re-key.

use kmip::{
    DateTime, Interval, Version,
    attribute::{Attribute, AttributeKind, Attributes, Link, Name, UsageLimits},
    client,
    enums::*,
    op,
};

use crate::common::{Client, Network, refusal};

fn ask(id: &str) -> op::rekey::Request {
    op::rekey::Request { id: Some(id.into()), ..Default::default() }
}

async fn links(client: &mut Client, id: &str) -> Vec<(LinkType, String)> {
    let request = client::get_attributes(id, [AttributeKind::Link.into()]);
    let answer = client.get_attributes(request).await.unwrap();
    let target = |link: &Link| link.target.as_text().unwrap().to_owned();
    let links = answer.attributes.iter().filter_map(|attribute| match attribute {
        Attribute::Link(link) => Some((link.kind, target(link))),
        _ => None,
    });
    links.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_key_takes_over_names_and_attributes() {
    let network = Network::start().await;
    for version in Version::ALL {
        let mut client = network.client("n1", version).await;
        let name = format!("key of {version}");
        let group = Attribute::ObjectGroup("shelf".into());
        let old = client.aes([Attribute::Name(Name::text(&name)), group.clone()]).await.unwrap();
        let bytes = client.key(&old).await.unwrap();
        let new = client.rekey(ask(&old)).await.unwrap().id;
        assert_ne!(client.key(&new).await.unwrap(), bytes);
        assert_eq!(client.key(&old).await.unwrap(), bytes, "the old key stays");
        assert_eq!(client.locate(client::locate_name(&name)).await.unwrap().ids, [new.as_str()]);
        assert_eq!(client.attribute(&old, AttributeKind::Name).await, None);
        assert_eq!(client.attribute(&new, AttributeKind::ObjectGroup).await, Some(group));
        let length = client.attribute(&new, AttributeKind::CryptographicLength).await;
        assert_eq!(length, Some(Attribute::CryptographicLength(256)));
        let to_new = (LinkType::ReplacementObjectLink, new.clone());
        let to_old = (LinkType::ReplacedObjectLink, old.clone());
        assert_eq!(links(&mut client, &old).await, [to_new]);
        assert_eq!(links(&mut client, &new).await, std::slice::from_ref(&to_old));

        let newest = client.rekey(ask(&new)).await.unwrap().id;
        let to_newest = (LinkType::ReplacementObjectLink, newest);
        assert_eq!(links(&mut client, &new).await, [to_old, to_newest]);
        client.destroy(client::destroy(&old)).await.unwrap();
        let gone = refusal(client.rekey(ask(&old)).await);
        assert!(matches!(gone, ResultReason::ObjectDestroyed | ResultReason::ItemNotFound));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offset_moves_the_dates_together() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let dates = [
        Attribute::ActivationDate(DateTime(1_000)),
        Attribute::ProcessStartDate(DateTime(1_100)),
        Attribute::ProtectStopDate(DateTime(1_900)),
        Attribute::DeactivationDate(DateTime(4_000_000_000)),
    ];
    let limits = UsageLimits { total: 100, count: Some(7), unit: UsageLimitsUnit::Byte };
    let more = dates.clone().into_iter().chain([Attribute::UsageLimits(limits)]);
    let old = client.aes(more).await.unwrap();

    let same = client.rekey(ask(&old)).await.unwrap().id;
    for date in &dates {
        let kind = date.kind().unwrap();
        assert_eq!(client.attribute(&same, kind).await.as_ref(), Some(date));
    }
    let request = op::rekey::Request { offset: Some(Interval(50)), ..ask(&same) };
    let new = client.rekey(request).await.unwrap().id;
    let date = async |client: &mut Client, kind| match client.attribute(&new, kind).await {
        Some(
            Attribute::InitialDate(date)
            | Attribute::ActivationDate(date)
            | Attribute::ProcessStartDate(date)
            | Attribute::ProtectStopDate(date)
            | Attribute::DeactivationDate(date),
        ) => date.0,
        other => panic!("{kind:?}: {other:?}"),
    };
    let activation = date(&mut client, AttributeKind::InitialDate).await + 50;
    assert_eq!(date(&mut client, AttributeKind::ActivationDate).await, activation);
    assert_eq!(date(&mut client, AttributeKind::ProcessStartDate).await, activation + 100);
    assert_eq!(date(&mut client, AttributeKind::ProtectStopDate).await, activation + 900);
    let end = 4_000_000_000 + activation - 1_000;
    assert_eq!(date(&mut client, AttributeKind::DeactivationDate).await, end);
    let state = client.attribute(&new, AttributeKind::State).await;
    assert_eq!(state, Some(Attribute::State(State::PreActive)));

    let both = op::rekey::Request {
        offset: Some(Interval(50)),
        attributes: Attributes::from_iter([Attribute::ActivationDate(DateTime(5))]),
        ..ask(&new)
    };
    assert_eq!(refusal(client.rekey(both).await), ResultReason::InvalidAttributeValue);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_made_and_what_is_no_symmetric_key_of_its_own_is_refused() {
    let network = Network::stocked().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let with = |id: &str, attribute| op::rekey::Request {
        attributes: Attributes::from_iter([attribute]),
        ..ask(id)
    };
    let old = client.aes([Attribute::Name(Name::text("old"))]).await.unwrap();
    let taken = client.aes([Attribute::Name(Name::text("taken"))]).await.unwrap();
    let request = with(&old, Attribute::Name(Name::text("taken")));
    assert_eq!(refusal(client.rekey(request).await), ResultReason::InvalidField);
    let request = with(&old, Attribute::Name(Name::text("new")));
    let new = client.rekey(request).await.unwrap().id;
    assert_eq!(client.locate(client::locate_name("new")).await.unwrap().ids, [new.as_str()]);
    assert_eq!(client.locate(client::locate_name("old")).await.unwrap().ids, [old.as_str()]);
    let request = with(&old, Attribute::CryptographicLength(128));
    assert_eq!(refusal(client.rekey(request).await), ResultReason::InvalidField);
    client.archive(op::archive::Request { id: Some(taken.as_str().into()) }).await.unwrap();
    assert_eq!(refusal(client.rekey(ask(&taken)).await), ResultReason::ObjectArchived);
    let drawn = client.aes([Attribute::ObjectGroup("qkd/south/s1".into())]).await.unwrap();
    assert_eq!(refusal(client.rekey(ask(&drawn)).await), ResultReason::PermissionDenied);
    let secret = kmip::SecretBytes::copy_from(b"secret");
    let secret = client::register_secret(SecretDataType::Password, secret, []);
    let secret = client.register(secret).await.unwrap().id;
    assert_eq!(refusal(client.rekey(ask(&secret)).await), ResultReason::InvalidField);
}
