//! Data in parts.

use kmip::{
    SecretBytes, Version,
    attribute::{Attribute, CryptographicParameters},
    client,
    client::ClientError,
    enums::{
        BlockCipherMode, CryptographicAlgorithm as Algorithm, HashingAlgorithm, PaddingMethod,
        ResultReason, ValidityIndicator,
    },
    op,
};

use crate::common::{Client, Network, refusal};

/// Every use there is.
const ANY: i32 = 0xFFF;

async fn key(client: &mut Client, algorithm: Algorithm, bytes: &[u8]) -> String {
    let active = [Attribute::ActivationDate(kmip::DateTime(1_000_000_000))];
    let bytes = SecretBytes::copy_from(bytes);
    client.register(client::register_key(bytes, algorithm, ANY, active)).await.unwrap().id
}

fn mode(mode: BlockCipherMode, padding_method: Option<PaddingMethod>) -> CryptographicParameters {
    CryptographicParameters { block_cipher_mode: Some(mode), padding_method, ..Default::default() }
}

/// Parts of `all` with their marks: first, last.
fn parts(all: &[u8], len: usize) -> impl Iterator<Item = (&[u8], bool, bool)> {
    let last = all.len().div_ceil(len) - 1;
    all.chunks(len).enumerate().map(move |(at, part)| (part, at == 0, at == last))
}

fn first(id: &str, how: &CryptographicParameters, iv: &[u8]) -> op::encrypt::Request {
    op::encrypt::Request {
        id: Some(id.into()),
        parameters: Some(how.clone()),
        iv: Some(iv.to_vec()),
        init: Some(true),
        ..Default::default()
    }
}

async fn encrypt(
    client: &mut Client,
    id: &str,
    how: &CryptographicParameters,
    iv: &[u8],
    clear: &[u8],
) -> (Vec<u8>, Option<Vec<u8>>, usize) {
    let (mut sealed, mut stream, mut early) = (Vec::new(), None, 0);
    for (part, init, last) in parts(clear, 21) {
        let start = if init { first(id, how, iv) } else { Default::default() };
        let request = op::encrypt::Request {
            data: Some(SecretBytes::copy_from(part)),
            correlation_value: stream.take(),
            last: Some(last),
            ..start
        };
        let answer = client.encrypt(request).await.unwrap();
        sealed.extend(answer.data.unwrap_or_default());
        if last {
            assert_eq!(answer.correlation_value, None);
            return (sealed, answer.tag, early);
        }
        assert_eq!(answer.tag, None, "the tag comes last");
        early = sealed.len();
        stream = answer.correlation_value;
        assert!(stream.is_some());
    }
    unreachable!("one part is the last")
}

async fn decrypt(
    client: &mut Client,
    id: &str,
    how: &CryptographicParameters,
    iv: &[u8],
    (sealed, tag): (&[u8], Option<Vec<u8>>),
) -> Result<(Vec<u8>, usize), ClientError> {
    let (mut clear, mut stream, mut early) = (Vec::new(), None, 0);
    for (part, init, last) in parts(sealed, 33) {
        let request = op::decrypt::Request {
            id: init.then(|| id.into()),
            parameters: init.then(|| how.clone()),
            iv: init.then(|| iv.to_vec()),
            data: Some(part.to_vec()),
            correlation_value: stream.take(),
            init: Some(init),
            last: Some(last),
            tag: tag.clone().filter(|_| last),
            ..Default::default()
        };
        let answer = client.decrypt(request).await?;
        if let Some(data) = answer.data {
            data.expose(|data| clear.extend_from_slice(data));
        }
        stream = answer.correlation_value;
        if !last {
            early = clear.len();
        }
    }
    Ok((clear, early))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_give_what_the_whole_gives() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let aes = key(&mut client, Algorithm::Aes, &[7; 16]).await;
    let chacha = key(&mut client, Algorithm::ChaCha20Poly1305, &[7; 32]).await;
    let clear: Vec<u8> = (0..100).collect();
    let padded = Some(PaddingMethod::Pkcs5);
    for (id, how, iv) in [
        (&aes, mode(BlockCipherMode::Ctr, None), 16),
        (&aes, mode(BlockCipherMode::Cbc, padded), 16),
        (&aes, mode(BlockCipherMode::Ecb, padded), 0),
        (&aes, mode(BlockCipherMode::Cfb, None), 16),
        (&aes, mode(BlockCipherMode::Ofb, None), 16),
        (&aes, mode(BlockCipherMode::Gcm, None), 12),
        (&aes, mode(BlockCipherMode::Ccm, None), 12),
        (&chacha, mode(BlockCipherMode::Aead, None), 12),
    ] {
        let iv = vec![9; iv];
        let whole = op::encrypt::Request {
            init: None,
            data: Some(SecretBytes::copy_from(&clear)),
            ..first(id, &how, &iv)
        };
        let whole = client.encrypt(whole).await.unwrap();
        let (sealed, tag, early) = encrypt(&mut client, id, &how, &iv, &clear).await;
        assert_eq!((Some(&sealed), &tag), (whole.data.as_ref(), &whole.tag), "{how:?}");
        assert!(early > 0, "{how:?}: ciphertext comes as data goes");
        let sealed = (sealed.as_slice(), tag.clone());
        let (found, early) = decrypt(&mut client, id, &how, &iv, sealed).await.unwrap();
        assert_eq!(found, clear, "{how:?}");
        assert_eq!(early > 0, tag.is_none(), "{how:?}: nothing before it is authenticated");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_tag_gives_nothing_and_ends_the_stream() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let id = key(&mut client, Algorithm::Aes, &[7; 32]).await;
    let how = mode(BlockCipherMode::Gcm, None);
    let (sealed, tag, _) = encrypt(&mut client, &id, &how, &[1; 12], &[5; 70]).await;
    let tag = tag.map(|mut tag| {
        tag[3] ^= 1;
        tag
    });
    let found = decrypt(&mut client, &id, &how, &[1; 12], (&sealed, tag)).await;
    assert_eq!(refusal(found), ResultReason::CryptographicFailure);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_macs_and_signatures_take_parts() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let id = key(&mut client, Algorithm::HmacSha256, &[3; 32]).await;
    let message: Vec<u8> = (0..90).collect();
    let hash = CryptographicParameters {
        hashing_algorithm: Some(HashingAlgorithm::Sha256),
        ..Default::default()
    };
    let hashed = |data: &[u8], init, last, stream| op::hash::Request {
        parameters: hash.clone(),
        data: Some(SecretBytes::copy_from(data)),
        correlation_value: stream,
        init: Some(init),
        last: Some(last),
    };
    let whole = client.hash(hashed(&message, true, true, None)).await.unwrap().data;
    let maced = |data: &[u8], init: bool, last, stream| op::mac::Request {
        id: init.then(|| id.as_str().into()),
        parameters: None,
        data: Some(SecretBytes::copy_from(data)),
        correlation_value: stream,
        init: Some(init),
        last: Some(last),
    };
    let mac = client.mac(maced(&message, true, true, None)).await.unwrap().mac;
    let (mut hash_stream, mut mac_stream) = (None, None);
    for (part, init, last) in parts(&message, 40) {
        let answer = client.hash(hashed(part, init, last, hash_stream.take())).await.unwrap();
        assert_eq!(answer.data, whole.clone().filter(|_| last));
        hash_stream = answer.correlation_value;
        let answer = client.mac(maced(part, init, last, mac_stream.take())).await.unwrap();
        assert_eq!(answer.mac, mac.clone().filter(|_| last));
        mac_stream = answer.correlation_value;
    }
    let mut stream = None;
    for (part, init, last) in parts(&message, 40) {
        let request = op::mac_verify::Request {
            id: init.then(|| id.as_str().into()),
            data: Some(SecretBytes::copy_from(part)),
            mac: mac.clone().filter(|_| init),
            correlation_value: stream.take(),
            init: Some(init),
            last: Some(last),
            ..Default::default()
        };
        let answer = client.mac_verify(request).await.unwrap();
        let known = if last { ValidityIndicator::Valid } else { ValidityIndicator::Unknown };
        assert_eq!(answer.validity, known);
        stream = answer.correlation_value;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_is_no_part_of_a_stream() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    for (init, last) in [(Some(true), None), (Some(true), Some(false)), (None, Some(true))] {
        let sign = op::sign::Request {
            id: Some("any".into()),
            digested: Some(vec![1; 32]),
            correlation_value: last.filter(|last| *last).map(|_| vec![0; 16]),
            init,
            last,
            ..Default::default()
        };
        let verify = op::signature_verify::Request {
            id: sign.id.clone(),
            digested: sign.digested.clone(),
            correlation_value: sign.correlation_value.clone(),
            init,
            last,
            ..Default::default()
        };
        let wrong = ResultReason::BadCryptographicParameters;
        assert_eq!(refusal(client.sign(sign).await), wrong);
        assert_eq!(refusal(client.signature_verify(verify).await), wrong);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_their_clients_own_and_few() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let mut stranger = network.client("n3", Version::V2_1).await;
    let id = key(&mut client, Algorithm::Aes, &[7; 16]).await;
    let other = key(&mut client, Algorithm::Aes, &[8; 16]).await;
    let how = mode(BlockCipherMode::Ctr, None);
    let begin = || op::encrypt::Request {
        data: Some(SecretBytes::copy_from(&[1; 16])),
        ..first(&id, &how, &[0; 16])
    };
    let more = |stream: &Option<Vec<u8>>, id: Option<&str>| op::encrypt::Request {
        id: id.map(Into::into),
        data: Some(SecretBytes::copy_from(&[2; 16])),
        correlation_value: stream.clone(),
        ..Default::default()
    };
    let stream = client.encrypt(begin()).await.unwrap().correlation_value;
    let taken = refusal(stranger.encrypt(more(&stream, None)).await);
    assert_eq!(taken, ResultReason::InvalidCorrelationValue);
    // It goes on for its own client, with its own key and operation only.
    let hash = op::hash::Request {
        parameters: CryptographicParameters {
            hashing_algorithm: Some(HashingAlgorithm::Sha256),
            ..Default::default()
        },
        data: None,
        correlation_value: stream.clone(),
        init: None,
        last: None,
    };
    assert_eq!(refusal(client.hash(hash).await), ResultReason::InvalidCorrelationValue);
    let stream = client.encrypt(more(&stream, None)).await.unwrap().correlation_value;
    refusal(client.encrypt(more(&stream, Some(&other))).await);
    let over = refusal(client.encrypt(more(&stream, None)).await);
    assert_eq!(over, ResultReason::InvalidCorrelationValue, "what failed has ended");
    for _ in 0..8 {
        client.encrypt(begin()).await.unwrap();
    }
    assert_eq!(refusal(client.encrypt(begin()).await), ResultReason::ServerLimitExceeded);
}
