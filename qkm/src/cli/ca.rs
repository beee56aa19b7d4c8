//! `qkm ca`: certificate authorities whose keys are in the HSM.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    AdminArgs, Output,
    admin::{Request, print, send, text},
    hsm::Custodian,
};
use crate::fault::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Make an authority: a key that never leaves the HSM, and its certificate. Prints the certificate.
    ///
    /// It issues certificates over KMIP when [kmip_ca] names it.
    Make {
        /// Its name: letters, digits and hyphens.
        name: String,
        /// Who it is, as in "CN=Devices,O=Example".
        #[arg(long)]
        subject: String,
        /// How long its certificate is valid.
        #[arg(long, default_value_t = 3650)]
        days: u32,
        #[command(flatten)]
        custodian: Custodian,
    },
    /// Print the certificate of an authority, in PEM.
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

pub(super) fn run(command: &CaCommand) -> Result<Exit, Failure> {
    match command {
        CaCommand::Make { name, subject, days, custodian } => {
            let shown = custodian.certificate.clone().zip(custodian.key.clone());
            let wish = json!({ "subject": subject, "days": days });
            let file = &custodian.admin.config.config;
            say(&custodian.admin, &send(file, shown, Request::Change(&path(name), &wish))?)
        }
        CaCommand::Show { name, admin } => {
            say(admin, &send(&admin.config.config, None, Request::Get(&path(name)))?)
        }
    }
}

fn path(name: &str) -> String {
    format!("/v1/ca/{}", etsi014::path::encode(name))
}

fn say(admin: &AdminArgs, answer: &Value) -> Result<Exit, Failure> {
    match admin.output {
        Output::Json => print(&serde_json::to_string_pretty(answer).unwrap_or_default()),
        Output::Table => print(text(&answer["certificate"]).trim_end()),
    }
    Ok(Exit::Done)
}
