//! Certificate files: whether they can be used, and for how long.

use std::{path::Path, time::SystemTime};

use transport::{Profile, TlsFiles, client_config, server_config};
use x509_parser::pem::Pem;

use super::{Level, Report};
use crate::{
    config::{Config, Front},
    serve::of_tls,
};

/// Say so when less than this is left, in days.
const RENEW_WITHIN: i64 = 14;
const DAY: i64 = 86_400;

/// Every certificate, key and CA file of the configuration.
pub(super) fn check(config: &Config, report: &mut Report) {
    let fronts = [
        ("etsi014", config.etsi014.as_ref(), Profile::Front),
        ("kmip", config.kmip.as_ref(), Profile::Front),
        ("kmip_https", config.kmip_https.as_ref(), Profile::Front),
        ("km_link", config.km_link.as_ref(), Profile::KmLink),
        ("admin", config.admin.as_ref().map(|admin| &admin.front), Profile::Front),
    ];
    for (name, front, profile) in fronts {
        let Some(files) = front.map(Front::tls) else { continue };
        let usable = server_config(&files, profile).map(drop);
        one(&format!("[{name}]"), &files, usable, report);
    }
    let links = config.peers.iter().flat_map(|peer| &peer.qkd);
    let modules = links.map(|link| (format!("QKD link {}", link.id), link.module.tls()));
    let operator = config.operator.clone().map(|files| ("[operator]".to_owned(), files));
    let controller = config.controller.as_ref();
    let controller = controller.map(|entry| ("[controller]".to_owned(), entry.tls()));
    for (name, files) in operator.into_iter().chain(controller).chain(modules) {
        let usable = client_config(&files, Profile::Front).map(drop);
        one(&name, &files, usable, report);
    }
}

fn one(name: &str, files: &TlsFiles, usable: Result<(), transport::TlsError>, report: &mut Report) {
    if let Err(error) = usable {
        return report.fail(&of_tls(name, &error));
    }
    let shown = files.certificate.display();
    match days_left(&files.certificate) {
        Some(days) if days < 0 => report
            .say(Level::Failure, format!("{name} {shown} expired {} day(s) ago: renew it", -days)),
        Some(days) if days < RENEW_WITHIN => {
            report.warn(format!("{name} {shown} expires in {days} day(s): renew it"));
        }
        Some(days) => report.ok(format!("{name} certificate, key and CA fit, {days} days left")),
        None => report.warn(format!("{name} {shown}: its end of validity cannot be read")),
    }
}

/// Until the first certificate in the file ends; negative when it has.
fn days_left(file: &Path) -> Option<i64> {
    let pem = std::fs::read(file).ok()?;
    let first = Pem::iter_from_buffer(&pem).next()?.ok()?;
    let end = first.parse_x509().ok()?.validity().not_after.timestamp();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some((end - i64::try_from(now).ok()?).div_euclid(DAY))
}

#[cfg(test)]
mod tests {
    use transport::pki::{DemoCa, Validity};

    use super::*;

    #[test]
    fn the_end_of_validity_is_read_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let ca = DemoCa::create(dir.path()).unwrap();
        let issued = |name, valid| ca.issue(name, &[], valid).unwrap().certificate;
        let new = days_left(&issued("new", Validity::days(30)));
        assert!(matches!(new, Some(29 | 30)), "{new:?}");
        let old = days_left(&issued("old", Validity::expired()));
        assert!(matches!(old, Some(-2 | -1)), "{old:?}");
        assert_eq!(days_left(&dir.path().join("ca.key")), None);
    }
}
