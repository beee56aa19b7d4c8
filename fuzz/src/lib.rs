//! Any bytes in, a panic when an invariant breaks. One function for each folder of `corpus`; the
//! fuzz targets and the test `tests/tests/fuzz_corpus.rs` call the same ones.

mod front;

use km_core::{
    block::{BlockHeader, BlockState, SealedBlock},
    objects::Object,
    records::parse_unauthenticated,
    run::RunRecord,
};
use relay::frame::{Frame, Frames};

/// One function for bytes of one kind.
pub type Entry = fn(&[u8]);

/// Every kind by its name in `corpus`.
pub const ENTRIES: [(&str, Entry); 8] = [
    ("ttlv", ttlv),
    ("encodings", encodings),
    ("kmip_request", kmip_request),
    ("link_frame", link_frame),
    ("hsm_frame", hsm_frame),
    ("etsi014", etsi014),
    ("block_header", block_header),
    ("record", record),
];

/// KMIP, as a server and as a client read it.
pub fn ttlv(data: &[u8]) {
    kmip::fuzzing::decode_any(data);
}

/// KMIP in JSON and XML.
pub fn encodings(data: &[u8]) {
    kmip::fuzzing::encodings(data);
}

/// A whole request to the KMIP front.
pub fn kmip_request(data: &[u8]) {
    front::answer(data);
}

/// A stream on a KM link.
pub fn link_frame(data: &[u8]) {
    let mut stream = Frames::default();
    for part in data.chunks(97) {
        stream.push(part);
        while let Ok(Some(frame)) = stream.next_frame() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            assert_eq!(Frame::decode(&bytes[4..]), Ok(frame), "a frame is not stable");
        }
    }
}

/// A stream between a KM and its HSM worker process.
pub fn hsm_frame(data: &[u8]) {
    hsm_profiles::fuzzing::worker_frames(data);
}

/// Every message of ETSI GS QKD 014.
pub fn etsi014(data: &[u8]) {
    use etsi014::{ErrorBody, KeyContainer, KeyIds, KeyRequest, Status};
    if let Ok(request) = KeyRequest::parse(data) {
        assert!(KeyRequest::parse(&request.to_json()).is_ok(), "a request is not stable");
    }
    if let Ok(ids) = KeyIds::parse(data) {
        assert!(KeyIds::parse(&ids.to_json()).is_ok(), "key IDs are not stable");
    }
    if let Ok(container) = KeyContainer::parse(data) {
        let again = KeyContainer::parse(&container.to_json());
        assert_eq!(again.map(|keys| keys.len()), Ok(container.len()), "keys are not stable");
    }
    if let Ok(status) = Status::parse(data) {
        assert!(Status::parse(&status.to_json()).is_ok(), "a status is not stable");
    }
    if let Ok(error) = ErrorBody::parse(data) {
        assert!(ErrorBody::parse(&error.to_json()).is_ok(), "an error is not stable");
    }
}

/// The associated data of a sealed block.
pub fn block_header(data: &[u8]) {
    if let Some(header) = parse_unauthenticated::<BlockHeader>(data) {
        let _ = header.provenance.grade();
    }
}

/// Records of the store, their tag aside.
pub fn record(data: &[u8]) {
    let _ = parse_unauthenticated::<BlockState>(data);
    let _ = parse_unauthenticated::<SealedBlock>(data);
    let _ = parse_unauthenticated::<Object>(data);
    let Some(run) = parse_unauthenticated::<RunRecord>(data).filter(|run| run.spec.sound()) else {
        return;
    };
    for index in [0, run.spec.count - 1] {
        let found = run.spec.index_of(run.spec.slice(index));
        assert_eq!(found, Some(index), "a key of a run is not found");
    }
}
