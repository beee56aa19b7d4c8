//! `qkm node revoke`.

use serde_json::json;

use super::{
    super::{
        admin::{Request, print, send, text},
        hsm::Custodian,
    },
    path,
};
use crate::fault::{Exit, Failure};

pub(super) fn revoke(name: &str, custodian: &Custodian) -> Result<Exit, Failure> {
    let shown = custodian.certificate.clone().zip(custodian.key.clone());
    let path = path(name, "revoke");
    let answer = send(&custodian.admin.config.config, shown, Request::Change(&path, &json!({})))?;
    let others = answer["shares_certificate_with"].as_array().into_iter().flatten();
    let others: Vec<&str> = others.filter_map(|other| other.as_str()).collect();
    if !others.is_empty() {
        print(&format!(
            "WARNING: {} showed a certificate of {name}'s too, which is therefore not refused: give each \
             its own, and ask again",
            others.join(", ")
        ));
    }
    print(&format!(
        "{name} is taken out, and epoch {} begins, whose KEK its token does not get. What it had it may \
         have kept: take its user away from etcd, and erase its token",
        text(&answer["epoch"])
    ));
    Ok(Exit::Done)
}
