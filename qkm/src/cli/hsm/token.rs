//! `qkm hsm list`, `test`, `login` and `profile`: need no running server.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use hsm_profiles::{
    BUILT_IN, PinSource, Profile, TokenConfig, TokenSelector,
    examine::{self, Examined, Found, Subject},
};
use serde::Serialize;

use super::{TokenArgs, TokenCommand, apart};
use crate::{
    cli::{Output, table},
    config::Config,
    fault::{Code, Exit, Failure},
    hardening,
    serve::of_hsm,
};

/// The longest that one speed may be measured.
const MAX_SECONDS: f64 = 600.0;
/// Speeds that are measured, or more.
const SPEEDS: f64 = 30.0;
/// Longest time for a login, and for all of a test but the speeds; a key pair may take a minute.
const TIME: Duration = Duration::from_secs(600);

pub(in crate::cli) fn run(command: TokenCommand) -> Result<Exit, Failure> {
    match command {
        TokenCommand::List { library, output } => list(library.as_deref(), output),
        TokenCommand::Test { token, seconds } => test(&token, seconds),
        TokenCommand::Login { token } => login(&token),
        TokenCommand::Profile { name } => profile(name.as_deref()),
    }
}

fn list(library: Option<&Path>, output: Output) -> Result<Exit, Failure> {
    let found = examine::list(library).map_err(|e| of_hsm(&e))?;
    if let Output::Json = output {
        return json(&found);
    }
    let head = [
        "LABEL",
        "SERIAL",
        "MANUFACTURER",
        "MODEL",
        "FIRMWARE",
        "PROFILE",
        "FREE",
        "SESSIONS",
        "MECHANISMS",
        "PIN",
    ];
    let number = |n: Option<u64>| n.map_or("?".to_owned(), |n| n.to_string());
    let rows = found.iter().map(|token| {
        vec![
            token.label.clone(),
            token.serial.clone(),
            token.manufacturer.clone(),
            token.model.clone(),
            token.firmware.clone(),
            token.profile.unwrap_or("generic?").to_owned(),
            token.free_bytes.map_or("?".to_owned(), |bytes| format!("{bytes} B")),
            format!("{} / {}", number(token.sessions), number(token.most_sessions)),
            token.mechanisms.to_string(),
            token.pin.to_owned(),
        ]
    });
    print(&head, &rows.collect::<Vec<_>>());
    Ok(Exit::Done)
}

fn test(args: &TokenArgs, seconds: f64) -> Result<Exit, Failure> {
    if !(0.0..=MAX_SECONDS).contains(&seconds) {
        let text = format!("--seconds {seconds} is not 0 to {MAX_SECONDS}");
        return Err(Failure::new(Code::C003, text));
    }
    if !args.here {
        return apart::each(args, TIME + Duration::from_secs_f64(seconds * SPEEDS));
    }
    hardening::protect(false)?;
    let subject = Subject { time: Duration::from_secs_f64(seconds), ..args.subject()? };
    let runtime = crate::cli::runtime()?;
    let found = runtime.block_on(examine::test(subject)).map_err(|e| of_hsm(&e))?;
    match args.output {
        Output::Json => json(&found)?,
        Output::Table => show(&found),
    };
    Ok(if found.fits() { Exit::Done } else { Code::H005.exit() })
}

fn show(found: &Examined) -> Exit {
    say(&format!("{}\n", described(&found.token)));
    let fits = if found.fits() { "fits" } else { "DOES NOT FIT" };
    for (name, why) in &found.tried {
        say(&format!("profile {name} does not fit: {why}\n"));
    }
    say(&format!("profile {} {fits}\ntested: {}\n\n", found.profile, found.tested));
    let checks = found.checks.iter().map(|check| {
        let result = check.fault.as_ref().map_or("ok".to_owned(), |why| format!("FAILED: {why}"));
        vec![check.name.to_owned(), result]
    });
    print(&["CHECK", "RESULT"], &checks.collect::<Vec<_>>());
    say("\n");
    let abilities = found.abilities.iter().map(|ability| {
        let custody = ability.custody.map_or("no".to_owned(), |custody| custody.to_string());
        vec![ability.function.clone(), custody, ability.detail.clone()]
    });
    print(&["FUNCTION", "KEYS", "REMARK"], &abilities.collect::<Vec<_>>());
    if !found.speeds.is_empty() {
        say("\n");
        let speeds = found.speeds.iter().map(|speed| {
            let rate = format!("{:.0}", speed.per_second);
            vec![speed.operation.to_owned(), speed.bytes.to_string(), rate]
        });
        print(&["OPERATION", "BYTES", "PER SECOND"], &speeds.collect::<Vec<_>>());
    }
    Exit::Done
}

fn login(args: &TokenArgs) -> Result<Exit, Failure> {
    if !args.here {
        return apart::each(args, TIME);
    }
    hardening::protect(false)?;
    let found = examine::login(args.token_config()?).map_err(|e| of_hsm(&e))?;
    if let Output::Json = args.output {
        return json(&found);
    }
    let keks = match found.keks.as_slice() {
        [] => "no KEK of this key manager".to_owned(),
        keks => format!("{} KEK(s): {}", keks.len(), keks.join(", ")),
    };
    say(&format!(
        "{}\nthe PIN is right; profile {}; {keks}\n",
        described(&found.token),
        found.profile
    ));
    Ok(Exit::Done)
}

fn described(token: &Found) -> String {
    format!(
        "token {:?} (serial {}), {} {}, firmware {}, through {}",
        token.label,
        token.serial,
        token.manufacturer,
        token.model,
        token.firmware,
        token.library.display()
    )
}

fn profile(name: Option<&str>) -> Result<Exit, Failure> {
    if let Some(name) = name {
        Profile::load(name).map_err(|e| of_hsm(&e))?;
        let text = BUILT_IN.iter().find(|(built_in, _)| *built_in == name);
        let failure = || {
            Failure::new(Code::C002, format!("{name} is well formed, but not one of the built-in"))
                .help("`qkm hsm profile` lists those")
        };
        say(text.ok_or_else(failure)?.1);
        return Ok(Exit::Done);
    }
    let rows: Result<Vec<_>, _> = BUILT_IN
        .iter()
        .map(|(name, _)| {
            let profile = Profile::load(name)?;
            Ok(vec![profile.name, profile.title, profile.tested])
        })
        .collect();
    print(&["NAME", "PRODUCT", "TESTED"], &rows.map_err(|e| of_hsm(&e))?);
    Ok(Exit::Done)
}

impl TokenArgs {
    /// Whether the options describe the token, and the configuration file is not read.
    pub(super) fn is_described(&self) -> bool {
        self.token.is_some() || self.serial.is_some()
    }

    /// The token that the options describe; none when they leave it to the configuration file.
    fn described(&self) -> Option<(TokenSelector, PinSource)> {
        let token = match (&self.token, &self.serial) {
            (Some(label), _) => TokenSelector::Label(label.clone()),
            (None, Some(serial)) => TokenSelector::Serial(serial.clone()),
            (None, None) => return None,
        };
        Some((token, PinSource::File(self.pin_file.clone()?)))
    }

    fn subject(&self) -> Result<Subject, Failure> {
        let time = Duration::ZERO;
        if let Some((token, pin)) = self.described() {
            let (library, profile) = (self.place(&token)?.0, self.profile.clone());
            return Ok(Subject { library, profile, token, pin, time });
        }
        let config = self.configured()?;
        let (library, profile) = (config.library, Some(config.profile));
        Ok(Subject { library, profile, token: config.token, pin: config.pin, time })
    }

    pub(super) fn token_config(&self) -> Result<TokenConfig, Failure> {
        let Some((token, pin)) = self.described() else { return self.configured() };
        let (library, found) = self.place(&token)?;
        let profile = self.profile.as_deref().or(found).unwrap_or("generic");
        Ok(TokenConfig { library, ..TokenConfig::new(profile, token, pin) })
    }

    /// The library of a token that the options describe, and the profile made for it. A profile that
    /// was named knows its libraries itself.
    fn place(
        &self,
        token: &TokenSelector,
    ) -> Result<(Option<PathBuf>, Option<&'static str>), Failure> {
        if self.profile.is_some() {
            return Ok((self.library.clone(), None));
        }
        let found = examine::find(self.library.as_deref(), token).map_err(|e| of_hsm(&e))?;
        Ok((Some(found.library), found.profile))
    }

    /// The token of the configuration file that this process is for.
    fn configured(&self) -> Result<TokenConfig, Failure> {
        let mut all = Config::load(&self.config.config)?.hsm.members().into_iter();
        let is_it = |(name, _): &(String, _)| self.here_as.as_ref() == Some(name);
        let (_, mut config) = all.find(is_it).ok_or_else(|| {
            Failure::new(Code::C003, "the configuration has changed meanwhile: try again")
        })?;
        config.library = self.library.clone().or(config.library);
        config.profile = self.profile.clone().unwrap_or(config.profile);
        if let Some(file) = &self.pin_file {
            config.pin = PinSource::File(file.clone());
        }
        Ok(config)
    }
}

fn json(found: &impl Serialize) -> Result<Exit, Failure> {
    say(&format!("{}\n", serde_json::to_string_pretty(found).unwrap_or_default()));
    Ok(Exit::Done)
}

/// What standard output refuses (a closed pipe) is nobody's to report.
pub(super) fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn print(head: &[&str], rows: &[Vec<String>]) {
    let _ = table::print(head, rows);
}
