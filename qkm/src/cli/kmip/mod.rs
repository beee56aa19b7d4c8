//! Commands that look at a KMIP server as one of its clients: any server, this one included. Key
//! bytes go into files of `export` and nowhere else.

mod line;
mod password;
mod show;

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::{Args, Subcommand};
use kmip::{
    Answer, SecretBytes, Version,
    attribute::{Attribute, AttributeKind, AttributeRef, Name},
    client,
    enums::{KeyFormatType, ObjectType, QueryFunction, State},
    object::{KeyMaterial, KeyValue, Object},
    op,
};
use serde_json::json;

use super::{Output, table};
use crate::fault::{Code, Exit, Failure};
use line::Line;

/// Most objects one listing asks about.
const MAX_LISTED: i32 = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum KmipCommand {
    /// Ask whether a server answers, who made it and which versions it speaks.
    Ping(Server),
    /// List objects of this client, the newest first.
    Locate(Locate),
    /// Show what is known about an object; never its bytes.
    Get {
        /// Unique Identifier.
        id: String,
        /// All attributes. Bytes are for `export` alone.
        #[arg(long, required = true)]
        metadata: bool,
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        shape: Shape,
    },
    /// Write the bytes of an object into a new file that only its owner may read.
    Export {
        /// Unique Identifier.
        id: String,
        /// The new file; one that is there already is left alone.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Key Format Type, such as Raw, PKCS_1, PKCS_8, X_509 or ECPrivateKey; default: as stored.
        #[arg(long, value_name = "TYPE", value_parser = format_type)]
        format: Option<KeyFormatType>,
        #[command(flatten)]
        server: Server,
    },
    /// Hash a password for the `login` of an [[sae]]: reads its first line, prints the hash.
    Password,
}

/// Where the server is, and who asks.
#[derive(Debug, Args)]
pub(super) struct Server {
    /// The server.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5696")]
    server: String,
    /// Name in the server's certificate; default: the host.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Certificate of the client, PEM.
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// Private key of the client, PEM.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Certificates of the authorities the server is checked against, PEM.
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// User name, where the server wants one besides the certificate.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// File with the password in its first line.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// KMIP version to speak.
    #[arg(long, value_name = "VERSION", default_value = "2.1", value_parser = version)]
    kmip: Version,
}

#[derive(Debug, Args)]
pub(super) struct Locate {
    /// Only objects of this name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only objects of this group.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Only objects of this type, such as SymmetricKey.
    #[arg(long = "type", value_name = "TYPE", value_parser = object_type)]
    kind: Option<ObjectType>,
    /// Only objects in this state, such as Active.
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<State>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=MAX_LISTED as i64))]
    max: i32,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    shape: Shape,
}

#[derive(Debug, Args)]
pub(super) struct Shape {
    /// Table for people, JSON for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

fn version(text: &str) -> Result<Version, String> {
    let found = Version::ALL.into_iter().find(|version| version.to_string() == text);
    found.ok_or_else(|| "1.0 to 1.4, 2.0 or 2.1".to_owned())
}

/// A parser of the names of an enumeration.
macro_rules! named {
    ($($parse:ident: $type:ty;)+) => {$(
        fn $parse(text: &str) -> Result<$type, String> {
            <$type>::from_name(text).ok_or_else(|| {
                let names: Vec<_> = <$type>::ALL.iter().filter_map(|value| value.name()).collect();
                format!("one of {}", names.join(", "))
            })
        }
    )+};
}

named! {
    format_type: KeyFormatType;
    object_type: ObjectType;
    state: State;
}

pub(super) fn run(command: &KmipCommand) -> Result<Exit, Failure> {
    super::runtime()?.block_on(async {
        match command {
            KmipCommand::Ping(server) => ping(server).await,
            KmipCommand::Locate(wanted) => locate(wanted).await,
            KmipCommand::Get { id, server, shape, .. } => metadata(server, id, shape.output).await,
            KmipCommand::Export { id, to, format, server } => export(server, id, to, *format).await,
            KmipCommand::Password => password::hash(),
        }
    })?;
    Ok(Exit::Done)
}

async fn ping(server: &Server) -> Result<(), Failure> {
    let mut line = Line::open(server).await?;
    let begun = Instant::now();
    let who = client::query([QueryFunction::QueryServerInformation]);
    let Answer::Query(who) = line.ask(who).await? else { return Err(line::odd()) };
    let took = begun.elapsed();
    let mut versions = vec![server.kmip.to_string()];
    if server.kmip >= Version::V1_1 {
        let Answer::DiscoverVersions(found) = line.ask(client::discover_versions()).await? else {
            return Err(line::odd());
        };
        versions = found.versions.iter().map(ToString::to_string).collect();
    }
    let who = who.vendor_identification.unwrap_or_else(|| "a KMIP server".to_owned());
    let millis = took.as_secs_f64() * 1000.0;
    say(&format!("{who} at {}: KMIP {}; {millis:.1} ms", server.server, versions.join(", ")));
    Ok(())
}

async fn locate(wanted: &Locate) -> Result<(), Failure> {
    let mut line = Line::open(&wanted.server).await?;
    let filters = [
        wanted.name.as_ref().map(|name| Attribute::Name(Name::text(name))),
        wanted.group.clone().map(Attribute::ObjectGroup),
        wanted.kind.map(Attribute::ObjectType),
        wanted.state.map(Attribute::State),
    ];
    let mut request = client::locate(filters.into_iter().flatten());
    request.maximum_items = Some(wanted.max);
    let Answer::Locate(found) = line.ask(request).await? else { return Err(line::odd()) };
    let columns = [
        AttributeKind::ObjectType,
        AttributeKind::CryptographicAlgorithm,
        AttributeKind::CryptographicLength,
        AttributeKind::State,
        AttributeKind::Name,
    ];
    let mut rows = Vec::new();
    for id in found.ids {
        let of = client::get_attributes(&id, columns.map(AttributeRef::from));
        let Answer::GetAttributes(got) = line.ask(of).await? else { return Err(line::odd()) };
        let cell = |kind| {
            let these = got.attributes.iter().filter(|attribute| attribute.kind() == Some(kind));
            these.map(show::value).collect::<Vec<_>>().join(", ")
        };
        rows.push(std::iter::once(id).chain(columns.map(cell)).collect::<Vec<_>>());
    }
    match wanted.shape.output {
        Output::Json => {
            let names = ["id", "type", "algorithm", "bits", "state", "name"];
            let objects: Vec<_> = rows
                .into_iter()
                .map(|row| names.into_iter().zip(row).collect::<BTreeMap<_, _>>())
                .collect();
            say(&pretty(&json!({ "objects": objects })));
        }
        Output::Table => {
            let head = ["ID", "TYPE", "ALGORITHM", "BITS", "STATE", "NAME"];
            // What standard output refuses (a closed pipe) is nobody's to report.
            let _ = table::print(&head, &rows);
        }
    }
    Ok(())
}

async fn metadata(server: &Server, id: &str, output: Output) -> Result<(), Failure> {
    let mut line = Line::open(server).await?;
    let all = client::get_attributes(id, []);
    let Answer::GetAttributes(got) = line.ask(all).await? else { return Err(line::odd()) };
    let rows: Vec<Vec<String>> =
        got.attributes.iter().map(|a| vec![show::name(a), show::value(a)]).collect();
    match output {
        Output::Json => {
            let list: Vec<_> =
                rows.iter().map(|row| json!({ "attribute": row[0], "value": row[1] })).collect();
            say(&pretty(&json!({ "id": got.id, "attributes": list })));
        }
        Output::Table => {
            let _ = table::print(&["ATTRIBUTE", "VALUE"], &rows);
        }
    }
    Ok(())
}

async fn export(
    server: &Server,
    id: &str,
    to: &Path,
    format: Option<KeyFormatType>,
) -> Result<(), Failure> {
    let mut line = Line::open(server).await?;
    let request = op::get::Request { key_format_type: format, ..client::get(id) };
    let Answer::Get(got) = line.ask(request).await? else { return Err(line::odd()) };
    let kind = got.object.kind();
    let bytes = content(got.object)
        .ok_or_else(|| Failure::new(Code::K003, format!("object {id} has no bytes of its own")))?;
    write(to, &bytes)
        .map_err(|error| Failure::new(Code::K003, format!("{}: {error}", to.display())))?;
    let kind = kind.name().unwrap_or("object");
    say(&format!("{} bytes of {kind} {id} written to {}", bytes.len(), to.display()));
    Ok(())
}

/// The bytes that make up an object.
fn content(object: Object) -> Option<SecretBytes> {
    let block = match object {
        Object::SymmetricKey(block) | Object::PublicKey(block) | Object::PrivateKey(block) => block,
        Object::SecretData(secret) => secret.block,
        Object::SplitKey(part) => part.block,
        Object::PgpKey(key) => key.block,
        Object::OpaqueObject(opaque) => return Some(opaque.value),
        Object::Certificate(certificate) => {
            return Some(SecretBytes::copy_from(&certificate.value));
        }
        Object::CertificateRequest(request) => return Some(SecretBytes::copy_from(&request.value)),
        Object::Template(_) => return None,
    };
    match block.value? {
        KeyValue::Plain { material: KeyMaterial::Bytes(bytes), .. } | KeyValue::Bytes(bytes) => {
            Some(bytes)
        }
        KeyValue::Plain { .. } => None,
    }
}

/// A file that was not there, for its owner alone, on the disk when this returns.
fn write(to: &Path, bytes: &SecretBytes) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    bytes.expose(|bytes| file.write_all(bytes))?;
    file.sync_all()
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
