//! `qkm hsm test` and `login`, each token in a process of its own. Enter through [`each`].
//!
//! The vendor's library is loaded there, with the environment that the configuration has for it: a
//! crash or an endless call ends that process, and this one says so.

use std::{
    collections::BTreeMap,
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use super::TokenArgs;
use crate::{
    cli::Output,
    config::Config,
    fault::{Code, Exit, Failure},
};

/// Tells the process that it is the one for the token. Not for people.
pub(super) const HERE: &str = "here";
const LOOK: Duration = Duration::from_millis(20);

/// Runs this command once more for each token, each within `time`. The worst result is that of all.
pub(super) fn each(args: &TokenArgs, time: Duration) -> Result<Exit, Failure> {
    let tokens = tokens(args)?;
    let [(name, env)] = &tokens[..] else {
        return several(args, &tokens, time);
    };
    exit_of(wait(start(name, env, Stdio::inherit())?, time)?, name)
}

fn several(args: &TokenArgs, tokens: &[Token], time: Duration) -> Result<Exit, Failure> {
    let (mut worst, mut documents) = (Exit::Done, Vec::new());
    for (name, env) in tokens {
        let mut child = start(name, env, Stdio::piped())?;
        let said = child.stdout.take().map(|mut out| {
            std::thread::spawn(move || {
                let mut said = String::new();
                // What a crash cuts off is short, not wrong.
                let _ = out.read_to_string(&mut said);
                said
            })
        });
        let ended = wait(child, time);
        let said = said.and_then(|reading| reading.join().ok()).unwrap_or_default();
        match args.output {
            Output::Table => super::token::say(&format!("== token {name}\n{said}\n")),
            Output::Json => documents.push(said.trim().to_owned()),
        }
        let exit = ended.and_then(|ended| exit_of(ended, name));
        let exit = exit.unwrap_or_else(|failure| {
            eprintln!("{failure}");
            failure.code().exit()
        });
        if exit != Exit::Done {
            worst = exit;
        }
    }
    if let Output::Json = args.output {
        documents.retain(|document| !document.is_empty());
        super::token::say(&format!("[{}]\n", documents.join(",\n")));
    }
    Ok(worst)
}

/// Refuses a command for one token when the configuration has several and none is named.
pub(super) fn lone(args: &TokenArgs) -> Result<(), Failure> {
    match tokens(args)?.len() {
        1 => Ok(()),
        _ => Err(Failure::new(Code::C003, "[hsm] has several tokens: name one by --member")),
    }
}

/// A token's name in the configuration, empty for one that is described, and its environment.
type Token = (String, BTreeMap<String, String>);

fn tokens(args: &TokenArgs) -> Result<Vec<Token>, Failure> {
    if args.is_described() {
        return Ok(vec![(String::new(), BTreeMap::new())]);
    }
    let all = Config::load(&args.config.config)?.hsm.members();
    let known = all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>().join(", ");
    let wanted = |(name, _): &(String, _)| args.member.as_ref().is_none_or(|only| only == name);
    let tokens: Vec<_> = all.into_iter().filter(wanted).map(|(name, c)| (name, c.env)).collect();
    match (tokens.is_empty(), &args.member) {
        (true, Some(only)) => {
            let text = format!("[hsm] has no token {only:?}: it has {known}");
            Err(Failure::new(Code::C003, text))
        }
        _ => Ok(tokens),
    }
}

fn start(name: &str, env: &BTreeMap<String, String>, out: Stdio) -> Result<Child, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Code::P001, format!("cannot start this program for the token: {error}"))
    };
    let mut child = Command::new(std::env::current_exe().map_err(failed)?);
    child.args(std::env::args_os().skip(1)).arg(format!("--{HERE}"));
    if !name.is_empty() {
        // Said twice it would be refused.
        child.arg(format!("--{HERE}-as")).arg(name);
    }
    child.envs(env).stdout(out).spawn().map_err(failed)
}

fn wait(mut child: Child, time: Duration) -> Result<ExitStatus, Failure> {
    let until = Instant::now() + time;
    loop {
        let failed = |error: std::io::Error| Failure::new(Code::P001, error);
        if let Some(ended) = child.try_wait().map_err(failed)? {
            return Ok(ended);
        }
        if Instant::now() > until {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
            let text = format!("the HSM library did not come to an end within {time:?}");
            return Err(Failure::new(Code::H002, text)
                .help("check the device and its service; the process with the library was ended"));
        }
        std::thread::sleep(LOOK);
    }
}

/// As the process said itself, when it ended by itself.
fn exit_of(ended: ExitStatus, name: &str) -> Result<Exit, Failure> {
    let all = [Exit::Done, Exit::Failed, Exit::Usage, Exit::Unreachable, Exit::Refused];
    let told = ended.code().and_then(|code| all.into_iter().find(|exit| *exit as i32 == code));
    told.ok_or_else(|| {
        let of = if name.is_empty() { String::new() } else { format!(" of token {name}") };
        let text = format!("the HSM library{of} took its process along: {ended}");
        Failure::new(Code::H002, text)
            .help("a key manager would start it again; tell the vendor what you ran")
    })
}
