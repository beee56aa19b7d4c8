//! Three key managers at north that share a store on an etcd of three members. The one that leads is
//! killed, keys go on, and whatever else ends is started again. Enter through [`run`].

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use transport::Shutdown;

use super::{
    children::{self, Children},
    engine::Engine,
    layout::{Layout, Site},
    provision::{Options, provision},
    selfcheck::{self, End},
};
use crate::fault::{Code, Failure};

/// A line to standard output; nobody may be reading any more, and the demonstration goes on.
macro_rules! say {
    ($($text:tt)*) => {{ let _ = writeln!(std::io::stdout(), $($text)*); }};
}

/// Ports of the engine, above those of the rest.
const ENGINE_PORTS: u16 = 64;
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long a part that ended stays away.
const AWAY: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

struct Demo {
    layout: Layout,
    engine: Engine,
}

/// Makes it under `dir`, starts it, shows what happens, and keeps it up until `shutdown`.
pub(super) async fn run(
    dir: &Path,
    base_port: u16,
    etcd: Option<PathBuf>,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    say!(
        "DEMO - SIMULATED QKD: the link is a simulation, HSMs are software, nothing here protects keys"
    );
    say!("making three key managers at north on an etcd of three members, and one at south ...");
    let engine = Engine::provision(dir, base_port.saturating_add(ENGINE_PORTS), etcd)?;
    let options = Options { base_port, shared: Some(engine.config()), ..Options::default() };
    let demo = Demo { layout: provision(dir, &options)?, engine };
    let mut children = Children::none();
    let end = tokio::select! {
        end = demo.show(&mut children) => end,
        () = shutdown.requested() => Ok(()),
    };
    children.stop().await;
    end
}

impl Demo {
    /// Ends only when something is wrong.
    async fn show(&self, children: &mut Children) -> Result<(), Failure> {
        self.start(children).await?;
        self.introduce();
        for site in self.north() {
            let id = self.key_at(site).await?;
            say!("  {:<8} gave ETSI 014 key {id}; south had the same bytes", site.name);
        }
        let leader = self.leader().await?;
        say!("{} leads; it is killed", leader.name);
        let struck = Instant::now();
        children.kill(&leader.name).await;
        let rest = self.north().find(|site| site.name != leader.name).unwrap_or(leader);
        self.key_at(rest).await?;
        say!("  after {} ms {} gives keys again", struck.elapsed().as_millis(), rest.name);
        self.restart(children)?;
        self.ready(leader).await?;
        say!("  {} is back and follows {}", leader.name, self.leader().await?.name);
        self.suggest(children);
        self.keep_up(children).await
    }

    fn north(&self) -> impl Iterator<Item = &Site> {
        std::iter::once(&self.layout.north).chain(&self.layout.more)
    }

    /// The first of those that share a token makes the KEK, so they start one after the other.
    async fn start(&self, children: &mut Children) -> Result<(), Failure> {
        self.engine.start(children, &self.layout.dir)?;
        children.add("sim", self.layout.sim_command(), &self.layout.dir)?;
        for site in self.north().chain([&self.layout.south]) {
            children.add(&site.name, self.layout.serve_command(site), &self.layout.dir)?;
            tokio::select! {
                ready = self.ready(site) => ready?,
                ended = children.one_ended() => return Err(ended),
            }
        }
        Ok(())
    }

    /// Starts what is not there.
    fn restart(&self, children: &mut Children) -> Result<(), Failure> {
        self.engine.start(children, &self.layout.dir)?;
        if children.pid("sim").is_none() {
            children.add("sim", self.layout.sim_command(), &self.layout.dir)?;
        }
        for site in self.north().chain([&self.layout.south]) {
            if children.pid(&site.name).is_none() {
                children.add(&site.name, self.layout.serve_command(site), &self.layout.dir)?;
            }
        }
        Ok(())
    }

    async fn ready(&self, site: &Site) -> Result<(), Failure> {
        let ready = tokio::time::timeout(READY_WITHIN, children::ready(site.monitor)).await;
        ready.map_err(|_| self.late(&site.name))
    }

    fn late(&self, what: &str) -> Failure {
        Failure::new(Code::D001, format!("{what} was not ready within {READY_WITHIN:?}"))
            .help(format!("the logs are in {}", self.layout.dir.display()))
    }

    /// A key from one of north's key managers that south has too.
    async fn key_at(&self, site: &Site) -> Result<String, Failure> {
        let near = End::new(site, "sae-n1", self.layout.application("sae-n1"));
        let far = End::new(&self.layout.south, "sae-s1", self.layout.application("sae-s1"));
        let until = Instant::now() + READY_WITHIN;
        loop {
            if let Some(id) = selfcheck::etsi014_between(near, far, 1, 256).await? {
                return Ok(id);
            }
            if Instant::now() > until {
                return Err(self.late(&format!("a key of {}", site.name)));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn leader(&self) -> Result<&Site, Failure> {
        let until = Instant::now() + READY_WITHIN;
        while Instant::now() < until {
            for site in self.north() {
                let said = children::asked(site.monitor, "/metrics").await.unwrap_or_default();
                let leads =
                    |line: &str| line.starts_with("qkm_cluster_leads") && line.ends_with(" 1.0");
                if said.lines().any(leads) {
                    return Ok(site);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(self.late("a key manager that leads"))
    }

    fn introduce(&self) {
        for Site { name, etsi014, kmip, monitor, .. } in self.north().chain([&self.layout.south]) {
            say!(
                "  {name:<8} ETSI 014 https://{etsi014}  KMIP {kmip}  metrics http://{monitor}/metrics"
            );
        }
        say!("  etcd     {}", self.engine.config().endpoints.join(" "));
        say!("  files    {}", self.layout.dir.display());
    }

    fn suggest(&self, children: &Children) {
        let (program, config) = (self.layout.program.display(), self.layout.north.config.display());
        say!("\nTry, in another terminal:\n");
        say!("# who leads, and how the engine is");
        say!("{program} node list --config {config}");
        say!("# kill one of them; what ends is started again after {AWAY:?}");
        for name in self.north().map(|site| site.name.clone()).chain(Engine::names()) {
            if let Some(pid) = children.pid(&name) {
                say!("kill -9 {pid:<8} # {name}");
            }
        }
        say!("\nDEMO - SIMULATED QKD. Ctrl-C stops and cleans up.");
    }

    async fn keep_up(&self, children: &mut Children) -> Result<(), Failure> {
        loop {
            let name = children.next_end().await;
            say!("{name} ended");
            tokio::time::sleep(AWAY).await;
            self.restart(children)?;
            say!("  and is started again");
        }
    }
}
