//! Attributes that clients add, modify and delete, in the forms of every version.

use std::time::{SystemTime, UNIX_EPOCH};

use kmip::{
    DateTime, Interval, SecretBytes, Version,
    attribute::{
        Attribute, AttributeKind, AttributeRef, CryptographicParameters, Instance, Link, Name,
        UsageLimits, VendorAttribute,
    },
    client,
    enums::*,
    op,
    ttlv::Value,
};

use crate::common::{Client, Network, refusal};

const VERSIONS: [Version; 4] = [Version::V1_0, Version::V1_4, Version::V2_0, Version::V2_1];

fn vendor(name: &str, value: Value) -> Attribute {
    Attribute::Vendor(VendorAttribute { vendor: "x".into(), name: name.into(), value })
}

fn text(text: &str) -> Value {
    Value::TextString(text.to_owned())
}

fn name(text: &str) -> Attribute {
    Attribute::Name(Name::text(text))
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Those that clients gave.
async fn vendor_attributes(client: &mut Client, id: &str) -> Vec<Instance> {
    let all = client.get_attributes(client::get_attributes(id, [])).await.unwrap().attributes;
    let given =
        |i: &Instance| matches!(&i.attribute, Attribute::Vendor(v) if !v.name.starts_with("qkm-"));
    all.list.into_iter().filter(given).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_has_64_vendor_attributes_of_128_characters() {
    let network = Network::start().await;
    for version in VERSIONS {
        let mut client = network.client("n1", version).await;
        let id = client.aes([]).await.unwrap();
        let long = "v".repeat(128);
        let named = |at: usize| format!("{at:03}{}", "n".repeat(125));
        for at in 0..64 {
            client.add(&id, vendor(&named(at), text(&long))).await.unwrap();
        }
        client.modify(&id, vendor(&named(7), text("other"))).await.unwrap();
        client.delete(&id, vendor(&named(8), text("")).key()).await.unwrap();
        let found: Vec<Attribute> =
            vendor_attributes(&mut client, &id).await.into_iter().map(|i| i.attribute).collect();
        assert_eq!(found.len(), 63, "{version}");
        assert!(found.contains(&vendor(&named(7), text("other"))));
        assert!(found.contains(&vendor(&named(63), text(&long))));
        let gone = client.delete(&id, vendor(&named(8), text("")).key()).await;
        let missing = [ResultReason::AttributeNotFound, ResultReason::ItemNotFound];
        assert!(missing.contains(&refusal(gone)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_keep_their_index_when_others_are_deleted() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_2).await;
    let id = client.aes([]).await.unwrap();
    let group = |text: &str| Attribute::ObjectGroup(text.to_owned());
    for (at, text) in ["a", "b", "c"].into_iter().enumerate() {
        let added = client.add(&id, group(text)).await.unwrap().unwrap();
        let index = i32::try_from(at).unwrap();
        assert_eq!((added.index.unwrap_or(0), added.attribute), (index, group(text)));
    }
    let delete = |index| op::delete_attribute::Request {
        id: Some(id.as_str().into()),
        name: Some(AttributeKind::ObjectGroup.into()),
        index: Some(index),
        current: None,
    };
    client.delete_attribute(delete(1)).await.unwrap();
    assert_eq!(refusal(client.delete_attribute(delete(1)).await), ResultReason::ItemNotFound);
    let new = Instance { index: Some(2), attribute: group("d") };
    let request =
        op::modify_attribute::Request { id: Some(id.as_str().into()), current: None, new };
    client.modify_attribute(request).await.unwrap();
    let request = client::get_attributes(&id, [AttributeKind::ObjectGroup.into()]);
    let found = client.get_attributes(request).await.unwrap().attributes.list;
    let found: Vec<_> = found.into_iter().map(|i| (i.index.unwrap_or(0), i.attribute)).collect();
    assert_eq!(found, [(0, group("a")), (2, group("d"))]);
    assert_eq!(client.add(&id, group("e")).await.unwrap().unwrap().index, Some(3));
    // The index of Locate follows.
    let mut located =
        async |text: &str| client.locate(client::locate([group(text)])).await.unwrap();
    assert_eq!(located("d").await.ids, [id.as_str()]);
    assert!(located("b").await.ids.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_are_named_by_their_value_in_2_x() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let id = client.aes([]).await.unwrap();
    let link = |kind, target: &str| Attribute::Link(Link { kind, target: target.into() });
    client.add(&id, link(LinkType::NextLink, "one")).await.unwrap();
    client.add(&id, link(LinkType::PreviousLink, "two")).await.unwrap();
    let twice = client.add(&id, link(LinkType::PreviousLink, "two")).await;
    assert_eq!(refusal(twice), ResultReason::AttributeSingleValued);
    let unclear = client.modify(&id, link(LinkType::NextLink, "three")).await;
    assert_eq!(refusal(unclear), ResultReason::AttributeInstanceNotFound);
    let request = |current: Attribute, new: Attribute| op::modify_attribute::Request {
        id: Some(id.as_str().into()),
        current: Some(current),
        new: Instance { index: None, attribute: new },
    };
    let (two, three) = (link(LinkType::PreviousLink, "two"), link(LinkType::PreviousLink, "three"));
    client.modify_attribute(request(two.clone(), three.clone())).await.unwrap();
    let gone = client.modify_attribute(request(two, three.clone())).await;
    assert_eq!(refusal(gone), ResultReason::AttributeInstanceNotFound);
    let current = Some(link(LinkType::NextLink, "one"));
    let one =
        op::delete_attribute::Request { id: Some(id.as_str().into()), current, ..<_>::default() };
    client.delete_attribute(one).await.unwrap();
    assert_eq!(client.attribute(&id, AttributeKind::Link).await, Some(three));
    client.delete(&id, AttributeKind::Link.into()).await.unwrap();
    assert_eq!(client.attribute(&id, AttributeKind::Link).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_belongs_to_one_object_and_is_free_when_it_is_changed() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_2).await;
    let first = client.aes([name("first")]).await.unwrap();
    let second = client.aes([]).await.unwrap();
    assert_eq!(refusal(client.add(&second, name("first")).await), ResultReason::InvalidField);
    client.add(&second, name("second")).await.unwrap();
    assert_eq!(refusal(client.modify(&second, name("first")).await), ResultReason::InvalidField);
    client.modify(&first, name("renamed")).await.unwrap();
    client.modify(&second, name("first")).await.unwrap();
    let mut found = async |text: &str| client.locate(client::locate_name(text)).await.unwrap().ids;
    assert_eq!(found("first").await, [second.as_str()]);
    assert_eq!(found("renamed").await, [first.as_str()]);
    assert!(found("second").await.is_empty());
    // Another client has names of its own.
    let mut other = network.client("n3", Version::V1_2).await;
    other.aes([name("first")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_take_a_name_at_once_one_gets_it() {
    let network = Network::start().await;
    let mut taking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut client = network.client("n1", Version::V1_4).await;
        let id = client.aes([]).await.unwrap();
        taking.spawn(async move { client.add(&id, name("wanted")).await.is_ok() });
    }
    let got = taking.join_all().await;
    assert_eq!(got.into_iter().filter(|got| *got).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dates_move_the_state() {
    let network = Network::start().await;
    for version in VERSIONS {
        let mut client = network.client("n1", version).await;
        let now = now();
        let date = |seconds| DateTime(now + seconds);
        let wrong = |result| {
            let expected = match version.is_v2() {
                true => ResultReason::WrongKeyLifecycleState,
                false => ResultReason::PermissionDenied,
            };
            assert_eq!(refusal(result), expected, "{version}");
        };
        let id = client.aes([]).await.unwrap();
        client.add(&id, Attribute::ActivationDate(date(3600))).await.unwrap();
        assert_eq!(client.state(&id).await, State::PreActive);
        client.modify(&id, Attribute::ActivationDate(date(-3600))).await.unwrap();
        assert_eq!(client.state(&id).await, State::Active);
        wrong(client.modify(&id, Attribute::ActivationDate(date(3600))).await);
        client.add(&id, Attribute::ProcessStartDate(date(-60))).await.unwrap();
        wrong(client.modify(&id, Attribute::ProcessStartDate(date(60))).await);
        client.add(&id, Attribute::DeactivationDate(date(3600))).await.unwrap();
        assert_eq!(client.state(&id).await, State::Active);
        client.modify(&id, Attribute::DeactivationDate(date(-1))).await.unwrap();
        assert_eq!(client.state(&id).await, State::Deactivated);
        wrong(client.modify(&id, Attribute::DeactivationDate(date(3600))).await);
        client.destroy(client::destroy(&id)).await.unwrap();
        assert_eq!(client.state(&id).await, State::Destroyed);

        let late = client.aes([Attribute::ActivationDate(date(100))]).await.unwrap();
        let before = client.add(&late, Attribute::DeactivationDate(date(50))).await;
        let expected = match version.is_v2() {
            true => ResultReason::InvalidAttributeValue,
            false => ResultReason::InvalidField,
        };
        assert_eq!(refusal(before), expected, "it would end before it begins");
        assert_eq!(client.attribute(&late, AttributeKind::DeactivationDate).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_clients_cannot_be_changed() {
    let network = Network::start().await;
    for version in VERSIONS {
        let mut client = network.client("n1", version).await;
        let id = client.aes([Attribute::CryptographicUsageMask(12)]).await.err();
        assert!(id.is_some(), "a usage mask is there once");
        let id = client.aes([]).await.unwrap();
        let fixed = match version.is_v2() {
            true => ResultReason::AttributeReadOnly,
            false => ResultReason::PermissionDenied,
        };
        for attribute in [
            Attribute::State(State::Compromised),
            Attribute::InitialDate(DateTime(0)),
            Attribute::CryptographicLength(128),
            Attribute::CryptographicUsageMask(3),
            vendor("qkm-grade", text("its-relay")),
        ] {
            let key: AttributeRef = attribute.key();
            assert_eq!(refusal(client.modify(&id, attribute).await), fixed, "{key:?} {version}");
            assert_eq!(refusal(client.delete(&id, key.clone()).await), fixed, "{key:?} {version}");
        }
        let claim = client.add(&id, Attribute::ObjectGroup("qkd/south".into())).await;
        assert_eq!(refusal(claim), ResultReason::PermissionDenied, "pool keys only");
        let stranger = network.client("n3", version).await.add(&id, name("mine")).await;
        assert!(refusal(stranger) != ResultReason::PermissionDenied, "there is no such object");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_limits_are_handed_out_once() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let limits = |total, count| {
        Attribute::UsageLimits(UsageLimits { total, count, unit: UsageLimitsUnit::Byte })
    };
    let id = client.aes([limits(100, Some(7))]).await.unwrap();
    assert_eq!(
        client.attribute(&id, AttributeKind::UsageLimits).await,
        Some(limits(100, Some(100))),
        "nothing is used up yet, whatever the client says"
    );
    client.modify(&id, limits(50, None)).await.unwrap();
    let ask = |count| op::get_usage_allocation::Request {
        id: Some(id.as_str().into()),
        usage_limits_count: count,
    };
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let mut client = network.client("n1", Version::V1_4).await;
        let request = ask(20);
        asking.spawn(async move { client.get_usage_allocation(request).await.is_ok() });
    }
    let given = asking.join_all().await.into_iter().filter(|given| *given).count();
    assert_eq!(given, 2, "50 is two times 20 and a rest");
    let check = |count| op::check::Request {
        id: Some(id.as_str().into()),
        usage_limits_count: Some(count),
        ..<_>::default()
    };
    client.check(check(10)).await.unwrap();
    assert_eq!(refusal(client.check(check(11)).await), ResultReason::PermissionDenied);
    assert_eq!(
        refusal(client.get_usage_allocation(ask(-1)).await),
        ResultReason::InvalidField,
        "nothing is given back"
    );
    let changed = client.modify(&id, limits(1000, None)).await;
    assert_eq!(refusal(changed), ResultReason::PermissionDenied, "some of it is used up");
    let deleted = client.delete(&id, AttributeKind::UsageLimits.into()).await;
    assert_eq!(refusal(deleted), ResultReason::PermissionDenied);
    assert_eq!(client.attribute(&id, AttributeKind::UsageLimits).await, Some(limits(50, Some(10))));
    client.get_usage_allocation(ask(10)).await.unwrap();
    assert_eq!(refusal(client.get_usage_allocation(ask(1)).await), ResultReason::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protection_is_only_added_and_remembered_as_late() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let id = client.aes([]).await.unwrap();
    client.modify(&id, Attribute::Sensitive(true)).await.unwrap();
    assert_eq!(
        client.attribute(&id, AttributeKind::AlwaysSensitive).await,
        Some(Attribute::AlwaysSensitive(false))
    );
    assert_eq!(refusal(client.key(&id).await), ResultReason::Sensitive);
    let off = client.modify(&id, Attribute::Sensitive(false)).await;
    assert_eq!(refusal(off), ResultReason::PermissionDenied);
    let adjust = op::adjust_attribute::Request {
        id: Some(id.as_str().into()),
        name: AttributeKind::Sensitive.into(),
        adjustment: AdjustmentType::Negate,
        by: None,
    };
    assert_eq!(refusal(client.adjust_attribute(adjust).await), ResultReason::PermissionDenied);
    let always = client.aes([Attribute::Sensitive(true)]).await.unwrap();
    assert_eq!(
        client.attribute(&always, AttributeKind::AlwaysSensitive).await,
        Some(Attribute::AlwaysSensitive(true))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_are_set_and_adjusted() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let id = client.aes([vendor("count", Value::Integer(5))]).await.unwrap();
    for comment in ["one", "two"] {
        let new = Attribute::Comment(comment.into());
        let request = op::set_attribute::Request { id: Some(id.as_str().into()), new: new.clone() };
        client.set_attribute(request).await.unwrap();
        assert_eq!(client.attribute(&id, AttributeKind::Comment).await, Some(new));
    }
    let many = op::set_attribute::Request { id: Some(id.as_str().into()), new: name("a") };
    assert_eq!(refusal(client.set_attribute(many).await), ResultReason::MultiValuedAttribute);

    let adjust = |name: AttributeRef, adjustment, by| op::adjust_attribute::Request {
        id: Some(id.as_str().into()),
        name,
        adjustment,
        by,
    };
    let count = || vendor("count", Value::Integer(0)).key();
    let by = |by| Some(Value::Integer(by));
    client.adjust_attribute(adjust(count(), AdjustmentType::Increment, by(3))).await.unwrap();
    client.adjust_attribute(adjust(count(), AdjustmentType::Decrement, None)).await.unwrap();
    client.adjust_attribute(adjust(count(), AdjustmentType::Negate, None)).await.unwrap();
    let found = vendor_attributes(&mut client, &id).await.remove(0).attribute;
    assert_eq!(found, vendor("count", Value::Integer(-7)));
    let over = adjust(count(), AdjustmentType::Decrement, by(i32::MAX));
    assert_eq!(refusal(client.adjust_attribute(over).await), ResultReason::NumericRange);
    let start = now() + 100;
    client.add(&id, Attribute::ActivationDate(DateTime(start))).await.unwrap();
    let later = adjust(AttributeKind::ActivationDate.into(), AdjustmentType::Increment, by(50));
    client.adjust_attribute(later).await.unwrap();
    assert_eq!(
        client.attribute(&id, AttributeKind::ActivationDate).await,
        Some(Attribute::ActivationDate(DateTime(start + 50)))
    );
    let word = adjust(AttributeKind::Comment.into(), AdjustmentType::Increment, None);
    assert_eq!(refusal(client.adjust_attribute(word).await), ResultReason::InvalidDataType);
    let absent = adjust(AttributeKind::RotateInterval.into(), AdjustmentType::Increment, None);
    assert_eq!(refusal(client.adjust_attribute(absent).await), ResultReason::AttributeNotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lease_lasts_longer_than_the_object_is_active() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_0).await;
    let lease = |id: &str| op::obtain_lease::Request { id: Some(id.into()) };
    let id = client.aes([]).await.unwrap();
    let long = client.obtain_lease(lease(&id)).await.unwrap();
    assert_eq!(long.lease_time, Interval(3600));
    let end = Attribute::DeactivationDate(DateTime(now() + 100));
    client.add(&id, end).await.unwrap();
    let short = client.obtain_lease(lease(&id)).await.unwrap();
    assert!(short.lease_time <= Interval(100));
    assert!(short.last_change_date >= long.last_change_date);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_up_key_protects_nothing_more_but_still_opens_what_it_protected() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    for (unit, total) in [(UsageLimitsUnit::Byte, 40), (UsageLimitsUnit::Object, 2)] {
        let limits = |count| Attribute::UsageLimits(UsageLimits { total, count, unit });
        let started = Attribute::ActivationDate(DateTime(1_000));
        let id = client.aes([limits(None), started]).await.unwrap();
        let parameters = CryptographicParameters {
            block_cipher_mode: Some(BlockCipherMode::Ecb),
            padding_method: Some(PaddingMethod::None),
            ..<_>::default()
        };
        let encrypt = || op::encrypt::Request {
            id: Some(id.as_str().into()),
            parameters: Some(parameters.clone()),
            data: Some(SecretBytes::copy_from(&[7; 16])),
            ..<_>::default()
        };
        client.encrypt(encrypt()).await.unwrap();
        let sealed = client.encrypt(encrypt()).await.unwrap().data.unwrap();
        assert_eq!(refusal(client.encrypt(encrypt()).await), ResultReason::PermissionDenied);
        let left = Some(limits(Some(if unit == UsageLimitsUnit::Byte { 8 } else { 0 })));
        assert_eq!(client.attribute(&id, AttributeKind::UsageLimits).await, left);
        let decrypt = op::decrypt::Request {
            id: Some(id.as_str().into()),
            parameters: Some(parameters.clone()),
            data: Some(sealed),
            ..<_>::default()
        };
        let opened = client.decrypt(decrypt).await.unwrap().data.unwrap();
        assert_eq!(opened.expose(<[u8]>::to_vec), [7; 16]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_may_be_given_again_to_the_object_that_has_it() {
    let network = Network::start().await;
    for version in VERSIONS {
        let mut client = network.client("n1", version).await;
        let (own, other) = (name(&format!("own {version}")), name(&format!("other {version}")));
        let id = client.aes([own.clone()]).await.unwrap();
        client.aes([other.clone()]).await.unwrap();
        client.modify(&id, own.clone()).await.unwrap();
        assert_eq!(client.attribute(&id, AttributeKind::Name).await, Some(own.clone()));
        let taken = ResultReason::NonUniqueNameAttribute.in_version(version);
        assert_eq!(refusal(client.modify(&id, other).await), taken);
        // Not twice.
        let second = name(&format!("second {version}"));
        client.add(&id, second.clone()).await.unwrap();
        let request = op::modify_attribute::Request {
            id: Some(id.as_str().into()),
            current: version.is_v2().then(|| second.clone()),
            new: Instance { index: (!version.is_v2()).then_some(1), attribute: own },
        };
        assert_eq!(refusal(client.modify_attribute(request).await), taken);
    }
}
