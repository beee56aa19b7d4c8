//! A KMIP client over TLS: the sans-IO client of crate `kmip`, and raw bytes.

use std::time::Duration;

use kmip::{
    Answer, Operation, SecretBytes, Version,
    attribute::{Attribute, AttributeKind, AttributeRef, Instance},
    client::{self, ClientError},
    enums::{CryptographicAlgorithm, ResultReason, State},
    object::Object,
    op,
    ttlv::frame_len,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::{Profile, TlsClient, TlsClientStream, TlsFiles, client_config};

const PATIENCE: Duration = Duration::from_secs(20);
/// Encrypt and Decrypt.
pub(crate) const USAGE: i32 = 12;

pub(crate) struct Client {
    pub(crate) version: Version,
    pub(crate) kmip: client::Client,
    stream: TlsClientStream,
}

type Result<T> = std::result::Result<T, ClientError>;

/// Calls an operation and expects its own answer.
macro_rules! typed {
    ($($name:ident: $operation:ident / $module:ident;)+) => {$(
        pub(crate) async fn $name(
            &mut self,
            request: op::$module::Request,
        ) -> Result<op::$module::Response> {
            match self.call(request).await? {
                Answer::$operation(response) => Ok(*response),
                other => panic!("answered {other:?}"),
            }
        }
    )+};
}

impl Client {
    pub(crate) async fn connect(address: &str, files: &TlsFiles, version: Version) -> Self {
        let config = client_config(files, Profile::Front).unwrap();
        let tls = TlsClient::new(address, None, config).unwrap();
        Self::over(tls.connect(PATIENCE).await.unwrap().0, version)
    }

    pub(crate) fn over(stream: TlsClientStream, version: Version) -> Self {
        Self { version, kmip: client::Client::new(version), stream }
    }

    pub(crate) async fn call(&mut self, operation: impl Into<Operation>) -> Result<Answer> {
        let frame = self.kmip.request(operation).unwrap();
        let answer = self.exchange(&frame).await;
        self.kmip.answer(&answer)
    }

    pub(crate) async fn exchange(&mut self, frame: &[u8]) -> Vec<u8> {
        self.send(frame).await;
        self.receive().await.expect("an answer")
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        assert!(self.try_send(bytes).await, "the connection is open");
    }

    /// `false` when the server has closed.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Ends what this client sends; it goes on to read.
    pub(crate) async fn say_no_more(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The next frame; `None` when the server closed.
    pub(crate) async fn receive(&mut self) -> Option<Vec<u8>> {
        tokio::time::timeout(PATIENCE, self.read_frame()).await.expect("a bounded time")
    }

    async fn read_frame(&mut self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 8];
        self.stream.read_exact(&mut frame).await.ok()?;
        let len = frame_len(&frame, 16 << 20).unwrap().unwrap();
        frame.resize(len, 0);
        self.stream.read_exact(&mut frame[8..]).await.ok()?;
        Some(frame)
    }

    typed! {
        query: Query / query;
        discover: DiscoverVersions / discover_versions;
        register: Register / register;
        locate: Locate / locate;
        get: Get / get;
        get_attributes: GetAttributes / get_attributes;
        get_attribute_list: GetAttributeList / get_attribute_list;
        add_attribute: AddAttribute / add_attribute;
        modify_attribute: ModifyAttribute / modify_attribute;
        delete_attribute: DeleteAttribute / delete_attribute;
        set_attribute: SetAttribute / set_attribute;
        adjust_attribute: AdjustAttribute / adjust_attribute;
        check: Check / check;
        obtain_lease: ObtainLease / obtain_lease;
        get_usage_allocation: GetUsageAllocation / get_usage_allocation;
        activate: Activate / activate;
        revoke: Revoke / revoke;
        destroy: Destroy / destroy;
        create: Create / create;
        rekey: ReKey / rekey;
        rekey_key_pair: ReKeyKeyPair / rekey_key_pair;
        certify: Certify / certify;
        recertify: ReCertify / recertify;
        validate: Validate / validate;
        archive: Archive / archive;
        recover: Recover / recover;
        import: Import / import;
        export: Export / export;
        create_split_key: CreateSplitKey / create_split_key;
        join_split_key: JoinSplitKey / join_split_key;
        create_key_pair: CreateKeyPair / create_key_pair;
        derive_key: DeriveKey / derive_key;
        encrypt: Encrypt / encrypt;
        decrypt: Decrypt / decrypt;
        sign: Sign / sign;
        signature_verify: SignatureVerify / signature_verify;
        mac: Mac / mac;
        mac_verify: MacVerify / mac_verify;
        hash: Hash / hash;
        rng_retrieve: RngRetrieve / rng_retrieve;
        rng_seed: RngSeed / rng_seed;
    }

    /// An AES-256 key with more attributes.
    pub(crate) async fn aes(
        &mut self,
        more: impl IntoIterator<Item = Attribute>,
    ) -> Result<String> {
        let request = client::create(CryptographicAlgorithm::Aes, 256, USAGE, more);
        self.create(request).await.map(|response| response.id)
    }

    /// A registered AES key with more attributes.
    pub(crate) async fn bring(
        &mut self,
        bytes: &[u8],
        more: impl IntoIterator<Item = Attribute>,
    ) -> Result<String> {
        let bytes = SecretBytes::copy_from(bytes);
        let request = client::register_key(bytes, CryptographicAlgorithm::Aes, USAGE, more);
        self.register(request).await.map(|response| response.id)
    }

    /// The bytes of a symmetric key.
    pub(crate) async fn key(&mut self, id: &str) -> Result<Vec<u8>> {
        let response = self.get(client::get(id)).await?;
        assert_eq!(response.id, id);
        match response.object {
            Object::SymmetricKey(block) => {
                Ok(block.plain_bytes().expect("Raw").expose(<[u8]>::to_vec))
            }
            other => panic!("a symmetric key, not {other:?}"),
        }
    }

    /// Adds an attribute.
    pub(crate) async fn add(&mut self, id: &str, attribute: Attribute) -> Result<Option<Instance>> {
        let attribute = Instance { index: None, attribute };
        let request = op::add_attribute::Request { id: Some(id.into()), attribute };
        self.add_attribute(request).await.map(|response| response.attribute)
    }

    /// Gives the first instance of an attribute another value.
    pub(crate) async fn modify(&mut self, id: &str, new: Attribute) -> Result<Option<Instance>> {
        let new = Instance { index: None, attribute: new };
        let request = op::modify_attribute::Request { id: Some(id.into()), current: None, new };
        self.modify_attribute(request).await.map(|response| response.attribute)
    }

    /// Deletes the first instance of an attribute; in 2.x all of them.
    pub(crate) async fn delete(&mut self, id: &str, name: AttributeRef) -> Result<()> {
        let name = Some(name);
        let request = op::delete_attribute::Request { id: Some(id.into()), name, ..<_>::default() };
        self.delete_attribute(request).await.map(|_| ())
    }

    /// The state of an object.
    pub(crate) async fn state(&mut self, id: &str) -> State {
        match self.attribute(id, AttributeKind::State).await {
            Some(Attribute::State(state)) => state,
            other => panic!("a state, not {other:?}"),
        }
    }

    /// One attribute of an object.
    pub(crate) async fn attribute(&mut self, id: &str, kind: AttributeKind) -> Option<Attribute> {
        let request = client::get_attributes(id, [kind.into()]);
        let answer = self.get_attributes(request).await.unwrap();
        attribute(&answer, kind)
    }
}

pub(crate) fn attribute(
    answer: &op::get_attributes::Response,
    kind: AttributeKind,
) -> Option<Attribute> {
    answer.attributes.iter().find(|attribute| attribute.kind() == Some(kind)).cloned()
}

/// The reason of a refusal.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T>) -> ResultReason {
    match result {
        Err(ClientError::Refused { reason, message }) => {
            assert!(!message.is_empty(), "a refusal says what and what next");
            reason
        }
        other => panic!("a refusal, not {other:?}"),
    }
}
