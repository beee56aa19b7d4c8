//! The command line. Enter through [`run`]. `table` prints; one file for each group of commands.

mod admin;
mod books;
mod ca;
mod controller;
mod hsm;
mod kmip;
mod local;
mod network;
mod node;
mod store;
mod table;
mod trace;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    config::Config,
    demo,
    fault::{Exit, Failure},
    hardening, logging, serve, signals, worker,
};

const AFTER_HELP: &str = "\
To see it work: qkm demo
To run one: qkm config example > qkm.toml, edit it, then config check, doctor and serve
Exit status: 0 done, 1 failed, 2 usage or configuration, 3 unreachable, 4 refused";

/// Key manager for quantum key distribution networks, rooted in HSMs.
#[derive(Debug, Parser)]
#[command(name = "qkm", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log, to standard error: error, warn, info, debug, trace, or directives such as
    /// info,relay=debug [default: info; for demo: warn].
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a key manager.
    Serve(Run),
    /// Run a simulated QKD link: two modules that look like vendor devices; or simulate a network.
    #[command(args_conflicts_with_subcommands = true)]
    Sim(SimArgs),
    /// Run a whole small network on loopback with SoftHSM and a simulated QKD link.
    Demo(DemoArgs),
    /// Check configuration, files, HSM, store, ports and clock; works while the server is down.
    ///
    /// Makes no KEK and changes no key, object or account. When no server has the store open, it is
    /// opened as a start opens it: that counts the opening in the store's file, completes writes a
    /// crash left in its log, and empties the log. For a store that must stay as it is, say as
    /// evidence, let doctor look at a copy. The HSM is logged in to and seals and opens a test value.
    Doctor(ConfigArg),
    /// Check or show configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Pools of QKD keys.
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Links to other key managers.
    #[command(subcommand)]
    Link(LinkCommand),
    /// Routes of the relay.
    #[command(subcommand)]
    Route(RouteCommand),
    /// Run or ask the controller of a network.
    #[command(subcommand)]
    Controller(controller::ControllerCommand),
    /// The key managers that share a store.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Single keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// The HSM and what this key manager keeps in it.
    #[command(subcommand)]
    Hsm(hsm::HsmCommand),
    /// Certificate authorities whose keys are in the HSM.
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Back up the store of a running key manager, or restore one.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Look at a KMIP server as one of its clients.
    #[command(subcommand)]
    Kmip(kmip::KmipCommand),
    /// Explain a failure by its code, such as QKM-H001; without one, list all.
    Explain {
        /// The code.
        code: Option<String>,
    },
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
    #[command(hide = true)]
    DemoToken {
        /// The PKCS#11 library, where the profile does not find it.
        #[arg(long)]
        library: Option<PathBuf>,
        label: String,
        pin_file: PathBuf,
    },
    /// Hold one token's PKCS#11 library; `serve` starts it.
    #[command(hide = true)]
    HsmWorker {
        #[arg(long)]
        dumpable: bool,
        #[arg(long, value_enum)]
        lock_memory: hardening::MemoryLock,
    },
}

#[derive(Debug, Args)]
struct ConfigArg {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/qkm/qkm.toml")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    config: ConfigArg,
    /// Also stop when standard input closes: a pipe from a parent process closes with it.
    #[arg(long, hide = true)]
    with_parent: bool,
}

#[derive(Debug, Args)]
struct SimArgs {
    #[command(subcommand)]
    what: Option<SimCommand>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum SimCommand {
    /// Simulate a whole network: relay, controller and faults in simulated time, in this process.
    ///
    /// Keys, pads and routes are real; pools, HSMs and stores are counts. It fails when a pad is used
    /// twice, an account does not balance, or the ends of a key differ.
    Network(network::NetworkArgs),
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Private directory for everything; default: a new one under the temporary directory.
    #[arg(long, value_name = "DIR", conflicts_with = "keep")]
    dir: Option<PathBuf>,
    /// As --dir, and keep it afterwards. The keys in it protect nothing.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Four clusters in a square, a fifth without QKD, two controllers. Parts fail one after the other, and keys go on
    /// over other ways; then it ends.
    #[arg(long)]
    square: bool,
    /// Three key managers that share a store on etcd: the one that leads is killed, and keys go on.
    #[arg(long, conflicts_with = "square")]
    cluster: bool,
    /// The program etcd, where the search path does not have it.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    etcd: Option<PathBuf>,
    /// First of the ports on 127.0.0.1; busy ones are skipped.
    #[arg(long, value_name = "N", default_value_t = demo::BASE_PORT)]
    base_port: u16,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a configuration file.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
    /// Print a complete configuration with comments.
    Example,
}

#[derive(Debug, Subcommand)]
enum PoolCommand {
    /// List the pools with their stocks and accounts.
    ///
    /// STORED: key bytes at hand, of which this end assigns from OURS and the peer from the rest.
    /// DELIVERED, BURNED (given up undelivered) and REJECTED (the ends had different bits) count
    /// since the pool was made. ACCOUNT: whether everything ever taken in is accounted for.
    List(AdminArgs),
    /// Show where every bit of each pool went since the pool was made.
    ///
    /// ABSORBED is what came in: from a QKD module, by relay, or over a KM link without QKD. It is
    /// STORED, or was spent as one-time PAD and hop keys, as keys of TAGs, DELIVERED, BURNED (given up) or
    /// REJECTED (the ends had different bits). In bits. ACCOUNT: whether that adds up. PEER'S PAD: what the
    /// other end says of its own. BOTH ENDS: whether that is the same; while pad is IN USE nobody can say.
    Ledger {
        /// The accounts of both ends of all pools of the network, as the controller was told, their sum, and
        /// where they do not fit; the exit status is 1 then.
        #[arg(long)]
        network: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Order keys by relay for the pool with a cluster to which there is no QKD link.
    Feed {
        /// The cluster.
        peer: String,
        /// How many keys.
        #[arg(long, default_value_t = 1024)]
        keys: u32,
        /// Their size in bits.
        #[arg(long, default_value_t = 256)]
        bits: u32,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

#[derive(Debug, Subcommand)]
enum LinkCommand {
    /// List the links with their states.
    ///
    /// Counts are since this key manager started. AGREED, MISMATCHED (the ends had different
    /// bits), GIVEN UP (for any other reason) and IN FLIGHT are blocks of keys. TAMPERED counts signs of
    /// somebody in the middle.
    List(AdminArgs),
    /// Take a link out of service at the controller: km-link/A~B or qkd-link/ID.
    Suspend(controller::Part),
    /// Give back what was suspended.
    Resume(controller::Part),
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    /// List the routes this key manager goes by, as its controller gave them.
    List(AdminArgs),
    /// List the best way between each two clusters, as the controller has it.
    Show(controller::Asking),
    /// Show all ways between two clusters, what the best costs, and why it changed lately.
    Explain(controller::Between),
    /// Use one way between two clusters while it is in service.
    Pin(controller::Pinned),
    /// End a pin.
    Unpin(controller::Between),
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Show what is known about a key; never its bytes.
    Show {
        /// Its identifier: ETSI 014 key_ID or KMIP Unique Identifier.
        id: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Copy an object to an application at another cluster, by relay, under the same identifier.
    ///
    /// The object is one of an application that is paired with the other one. The copy is stored there
    /// when this ends; done again, it is found to be there.
    Copy {
        /// Its Unique Identifier or Name.
        name: String,
        /// The application that is to have it.
        #[arg(long, value_name = "SAE")]
        to: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show the way of a key, step by step: module, hops, combination, block, delivery; never its bytes.
    Trace {
        /// Its identifier: ETSI 014 key_ID or KMIP Unique Identifier.
        id: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

#[derive(Debug, Args)]
struct AdminArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Table for people, JSON for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Runs what the command line says.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    let usual = if matches!(cli.command, Command::Demo(_)) { "warn" } else { "info" };
    let log = cli.log.unwrap_or_else(|| usual.to_owned());
    match cli.command {
        Command::Serve(args) => serve_command(&args, &log),
        Command::Sim(SimArgs { what: Some(SimCommand::Network(args)), .. }) => network::run(&args),
        Command::Sim(SimArgs { what: None, run }) => sim_command(&run, &log),
        Command::Demo(args) => demo_command(args, &log),
        Command::Doctor(args) => local::doctor(&args.config),
        Command::Config(ConfigCommand::Check { file }) => local::check(&file),
        Command::Config(ConfigCommand::Example) => local::example(),
        Command::Pool(PoolCommand::List(args)) => admin::pools(&args),
        Command::Pool(PoolCommand::Ledger { network: false, admin: args }) => admin::ledger(&args),
        Command::Pool(PoolCommand::Ledger { network: true, admin: args }) => books::run(&args),
        Command::Pool(PoolCommand::Feed { peer, keys, bits, admin }) => {
            admin::feed(&admin, &peer, u64::from(keys) * u64::from(bits.div_ceil(8)))
        }
        Command::Node(command) => node::run(&command),
        Command::Link(LinkCommand::List(args)) => admin::links(&args),
        Command::Link(LinkCommand::Suspend(part)) => controller::order(&part, "suspend"),
        Command::Link(LinkCommand::Resume(part)) => controller::order(&part, "resume"),
        Command::Route(RouteCommand::List(args)) => admin::routes(&args),
        Command::Route(RouteCommand::Show(asking)) => controller::routes(&asking),
        Command::Route(RouteCommand::Explain(between)) => controller::explain(&between),
        Command::Route(RouteCommand::Pin(pinned)) => controller::pin(&pinned),
        Command::Route(RouteCommand::Unpin(between)) => controller::unpin(&between),
        Command::Controller(command) => controller::run(command, &log),
        Command::Key(KeyCommand::Show { id, admin: args }) => admin::key(&args, &id),
        Command::Key(KeyCommand::Copy { name, to, admin: args }) => admin::copy(&args, &name, &to),
        Command::Key(KeyCommand::Trace { id, admin: args }) => trace::key(&args, &id),
        Command::Hsm(hsm::HsmCommand::Epoch(command)) => hsm::epoch(&command),
        Command::Hsm(hsm::HsmCommand::Kek(command)) => hsm::kek(&command),
        Command::Hsm(hsm::HsmCommand::Token(command)) => hsm::token(command),
        Command::Ca(command) => ca::run(&command),
        Command::Store(command) => store::run(&command, &log),
        Command::Kmip(command) => kmip::run(&command),
        Command::Explain { code } => local::explain(code.as_deref()),
        Command::Completions { shell } => local::completions(shell),
        Command::Version => local::version(),
        Command::DemoToken { library, label, pin_file } => {
            demo::make_token(library.as_deref(), &label, &pin_file)
        }
        Command::HsmWorker { dumpable, lock_memory } => worker::work(dumpable, lock_memory, &log),
    }
}

fn serve_command(args: &Run, log: &str) -> Result<Exit, Failure> {
    let mut config = Config::load(&args.config.config)?;
    hardening::protect(config.dumpable)?;
    config.worker = worker::program(config.dumpable, config.memory_lock, log);
    logging::start(log)?;
    hardening::lock_memory(config.memory_lock)?;
    let runtime = runtime()?;
    let end = runtime.block_on(async {
        let shutdown = signals::until_asked_to_stop(args.with_parent)?;
        serve::run(config, shutdown).await
    });
    // Nothing that matters runs any more; a thread stuck in a vendor's library must not keep us.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    end.map(|()| Exit::Done)
}

fn sim_command(args: &Run, log: &str) -> Result<Exit, Failure> {
    let config = local::sim_config(&args.config.config)?;
    logging::start(log)?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let shutdown = signals::until_asked_to_stop(args.with_parent)?;
        qkd_ingest::sim::run(config, shutdown).await.map_err(local::sim_failure)
    })?;
    Ok(Exit::Done)
}

fn demo_command(args: DemoArgs, log: &str) -> Result<Exit, Failure> {
    logging::start(log)?;
    let place = match (args.dir, args.keep) {
        (_, Some(dir)) => demo::Place::Keep(dir),
        (Some(dir), None) => demo::Place::Erase(dir),
        (None, None) => demo::Place::Temporary,
    };
    let runtime = runtime()?;
    runtime.block_on(async {
        let shutdown = signals::until_asked_to_stop(false)?;
        match (args.square, args.cluster) {
            (true, _) => demo::run_square(place, args.base_port, shutdown).await,
            (_, true) => demo::run_cluster(place, args.base_port, args.etcd, shutdown).await,
            _ => demo::run(place, args.base_port, shutdown).await,
        }
    })?;
    Ok(Exit::Done)
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    // A thread that sleeps keeps nothing of what it did: a core dump shows its registers.
    threads.on_thread_park(wiped::clear_registers);
    threads.enable_all().build().map_err(|error| {
        Failure::new(crate::fault::Code::P001, format!("cannot start threads: {error}"))
            .help("raise the limit of processes and threads of this user")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
