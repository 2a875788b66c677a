//! Random histories of a primary and three followers, as processes, against a model: kills, lifts, purges, reloads, restarts, SIGKILL,
//! and links that cut, stall, delay and tear what passes.
//!
//! What the model asks: no answer that was asked for after a kill was acknowledged shows the picture on the edge that acknowledged it;
//! nor on any other edge, [`ELSEWHERE`] after both were connected; what was acknowledged stands in the log of all in the end. Each answer
//! that readers get meanwhile is held against that.
//!
//! `BILDKANTE_FLEET_SEED` repeats a history's choices, `BILDKANTE_FLEET_SECONDS` makes it longer; `make soak` runs five minutes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::testing::{ReservedPort, write_secret};
use bildkante_tests::client::{Http, Reply, eventually};
use bildkante_tests::program;
use bildkante_tests::proxy::{Fault, Proxy};
use bildkante_tests::rig::{Plan, Rig};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::purge::TOKEN;

const EDGES: usize = 4;
const PRODUCTS: [&str; 3] = ["vase", "ring", "cube"];
/// A second is what is asked for; this machine also compiles.
const ELSEWHERE: Duration = Duration::from_secs(5);

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap_or(0)
    }
}

/// A process of the edge.
struct Edge {
    http: ReservedPort,
    admin: ReservedPort,
    config: PathBuf,
    process: Option<Child>,
    /// The way to the primary; a primary has none.
    proxy: Option<Proxy>,
    connected: Option<Instant>,
}

/// The answers to requests that begin and end within this must not show the picture.
#[derive(Debug)]
struct Forbidden {
    edge: usize,
    product: usize,
    from: Instant,
    until: Option<Instant>,
}

/// A picture was shown.
#[derive(Debug)]
struct Shown {
    edge: usize,
    product: usize,
    asked: Instant,
    answered: Instant,
    /// As `Cache-Status` says it, for the failure's message.
    outcome: String,
}

struct Fleet {
    rig: Rig,
    edges: Vec<Edge>,
    forbidden: Vec<Forbidden>,
    /// Products whose kill is in the shared log, and since when.
    killed: [Option<Instant>; PRODUCTS.len()],
    acknowledged: Vec<String>,
    done: Vec<String>,
}

impl Fleet {
    async fn start(rig: Rig) -> anyhow::Result<Self> {
        let token_file = rig.dir.path().join("state.token");
        write_secret(&token_file, TOKEN)?;
        let primary = ReservedPort::new()?;
        let mut admins = vec![primary];
        for _ in 1..EDGES {
            admins.push(ReservedPort::new()?);
        }
        let to = admins[0].address();
        let mut edges = Vec::new();
        for (number, admin) in admins.into_iter().enumerate() {
            let http = ReservedPort::new()?;
            let proxy = if number > 0 { Some(Proxy::start(to).await?) } else { None };
            let config = rig.dir.path().join(format!("edge-{number}.toml"));
            let follow = proxy.as_ref().map_or_else(String::new, |proxy| {
                format!("[state.follow]\nprimary = \"{}\"\ntoken_file = {token_file:?}\n", proxy.url())
            });
            std::fs::write(&config, configuration(&rig, number, (&http, &admin), &follow))?;
            edges.push(Edge { http, admin, config, process: None, proxy, connected: None });
        }
        let (forbidden, killed) = (Vec::new(), [None; PRODUCTS.len()]);
        let mut fleet = Self { rig, edges, forbidden, killed, acknowledged: Vec::new(), done: Vec::new() };
        for number in 0..EDGES {
            fleet.spawn(number).await?;
        }
        Ok(fleet)
    }

    async fn spawn(&mut self, at: usize) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.rig.dir.path().join(format!("edge-{at}.log")))?;
        let mut command = Command::new(program("bildkante-edge")?);
        command.args(["serve", "--config"]).arg(&self.edges[at].config).stderr(log).kill_on_drop(true);
        self.edges[at].process = Some(command.spawn()?);
        let admin = self.edges[at].admin.address();
        eventually("the edge answers", async || Ok(self.admin(at, Method::GET, "state", Value::Null).await.is_ok()))
            .await
            .map_err(|error| error.context(format!("edge {at} at {admin}")))?;
        self.connect(at);
        Ok(())
    }

    /// Ends a process, in order or not.
    async fn end(&mut self, at: usize, signal: &str) -> anyhow::Result<()> {
        self.cut(at);
        if let Some(mut process) = self.edges[at].process.take() {
            send(&process, signal).await?;
            process.wait().await?;
        }
        Ok(())
    }

    async fn admin(&self, at: usize, method: Method, path: &str, body: Value) -> anyhow::Result<Reply> {
        let to = self.edges[at].admin.address();
        let request = Request::builder().method(method).uri(format!("http://{to}/admin/v1/{path}"));
        let request =
            request.header("authorization", format!("Bearer {TOKEN}")).header("content-type", "application/json");
        self.rig.http.send(request.body(Full::from(body.to_string()))?).await
    }

    /// An edge, or all of them where the primary went, is not connected from here on.
    fn cut(&mut self, at: usize) {
        let now = Instant::now();
        let is_meant = |edge: usize| at == 0 || edge == at;
        self.forbidden.retain(|one| !(is_meant(one.edge) && one.from > now));
        self.edges
            .iter_mut()
            .enumerate()
            .filter(|(edge, _)| is_meant(*edge))
            .for_each(|(_, edge)| edge.connected = None);
    }

    fn connect(&mut self, at: usize) {
        let now = Instant::now();
        for number in 0..EDGES {
            let edge = &mut self.edges[number];
            if (at == 0 || number == at) && edge.process.is_some() {
                edge.connected = Some(now);
            }
        }
        self.spread();
    }

    /// What is in the shared log holds on every edge that is connected, a while later.
    fn spread(&mut self) {
        for product in 0..PRODUCTS.len() {
            let Some(since) = self.killed[product] else { continue };
            for number in 0..EDGES {
                let Some(connected) = self.edges[number].connected else { continue };
                let is_open = |one: &Forbidden| (one.edge, one.product) == (number, product) && one.until.is_none();
                if !self.forbidden.iter().any(is_open) {
                    self.forbid(number, product, since.max(connected) + ELSEWHERE);
                }
            }
        }
    }

    fn forbid(&mut self, edge: usize, product: usize, from: Instant) {
        self.forbidden.push(Forbidden { edge, product, from, until: None });
    }

    async fn kill(&mut self, at: usize, product: usize) -> anyhow::Result<()> {
        let order = json!({ "value": format!("studio?product={}", PRODUCTS[product]), "why": "a test" });
        let Ok(reply) = self.admin(at, Method::POST, "kills", order).await else { return Ok(()) };
        anyhow::ensure!(reply.status.is_success(), "a kill: {} {}", reply.status, reply.text());
        let now = Instant::now();
        // What was to hold there a while later holds now.
        self.forbidden.retain(|one| !((one.edge, one.product) == (at, product) && one.until.is_none()));
        self.forbid(at, product, now);
        if reply.status != StatusCode::ACCEPTED {
            self.acknowledged.push(reply.json()?["hash"].to_string());
            self.killed[product].get_or_insert(now);
            self.spread();
        }
        Ok(())
    }

    async fn lift(&mut self, at: usize, product: usize) -> anyhow::Result<()> {
        let Ok(reply) = self.admin(at, Method::GET, "kills?limit=100", Value::Null).await else { return Ok(()) };
        let target = format!("value:studio?product={}", PRODUCTS[product]);
        let kills = reply.json()?["kills"].as_array().cloned().unwrap_or_default();
        let Some(seq) =
            kills.iter().find(|kill| kill["target"] == target.as_str()).and_then(|kill| kill["seq"].as_u64())
        else {
            return Ok(());
        };
        // It may be in force before its answer is here, and where there is none.
        let now = Instant::now();
        self.forbidden.retain(|one| !(one.product == product && one.from > now));
        let open = self.forbidden.iter_mut().filter(|one| one.product == product && one.until.is_none());
        open.for_each(|one| one.until = Some(now));
        self.killed[product] = None;
        let lifted = self.admin(at, Method::DELETE, &format!("kills/{seq}"), json!({ "why": "over" })).await;
        if let Ok(lifted) = lifted
            && lifted.status == StatusCode::OK
        {
            self.acknowledged.push(lifted.json()?["hash"].to_string());
        }
        Ok(())
    }

    async fn step(&mut self, dice: &mut Dice) -> anyhow::Result<()> {
        let (at, product, follower) = (dice.below(EDGES), dice.below(PRODUCTS.len()), 1 + dice.below(EDGES - 1));
        match dice.below(20) {
            0..=5 => self.kill(at, product).await?,
            6..=9 => self.lift(at, product).await?,
            10 => {
                let order = json!({ "variant": format!("studio/thumb?product={}", PRODUCTS[product]) });
                let _ = self.admin(at, Method::POST, "purges", order).await;
            }
            11 => {
                if let Some(process) = &self.edges[at].process {
                    send(process, "HUP").await?;
                }
            }
            12..=15 => {
                let faults = [Fault::Refuse, Fault::Stall, Fault::CutAfter(1 + dice.below(2_000)), Fault::Ragged];
                let fault = faults[dice.below(faults.len())];
                self.cut(follower);
                self.set(follower, fault);
            }
            16..=17 => {
                self.set(follower, Fault::None);
                self.connect(follower);
            }
            18 => {
                self.end(at, "KILL").await?;
                self.spawn(at).await?;
            }
            _ => {
                self.end(at, "TERM").await?;
                self.spawn(at).await?;
            }
        }
        self.done.push(format!("edge {at}, {}, follower {follower}", PRODUCTS[product]));
        tokio::time::sleep(Duration::from_millis(dice.below(120) as u64)).await;
        Ok(())
    }

    fn set(&self, at: usize, fault: Fault) {
        if let Some(proxy) = &self.edges[at].proxy {
            proxy.set(fault);
        }
    }

    async fn converge(&mut self) -> anyhow::Result<()> {
        for number in 1..EDGES {
            self.set(number, Fault::None);
            self.connect(number);
        }
        let mut standings = Vec::new();
        let found = eventually("all edges have one log", async || {
            standings.clear();
            for number in 0..EDGES {
                standings.push(self.admin(number, Method::GET, "state", Value::Null).await?.json()?);
            }
            Ok(standings.iter().all(|one| one["hash"] == standings[0]["hash"] && one["held"] == 0))
        });
        found.await.map_err(|error| error.context(format!("{standings:#?}")))?;
        for (number, standing) in standings.iter().enumerate() {
            let mut hashes = std::collections::BTreeSet::new();
            let mut after = standing["begins"].as_u64();
            let begins = after.unwrap_or_default();
            while let Some(from) = after {
                let path = format!("audit?after={from}&limit=1000");
                let page = self.admin(number, Method::GET, &path, Value::Null).await?.json()?;
                let entries = page["entries"].as_array().cloned().unwrap_or_default();
                hashes.extend(entries.iter().map(|line| line["entry"]["hash"].to_string()));
                after = page["next"].as_u64();
            }
            let lost = self.acknowledged.iter().filter(|hash| !hashes.contains(*hash)).count();
            anyhow::ensure!(begins > 0 || lost == 0, "edge {number} lacks {lost} changes that were acknowledged");
        }
        Ok(())
    }
}

async fn send(process: &Child, signal: &str) -> anyhow::Result<()> {
    let id = process.id().context("it runs")?.to_string();
    let sent = Command::new("kill").args([&format!("-{signal}"), &id]).status().await?;
    anyhow::ensure!(sent.success(), "signal {signal} to {id}");
    Ok(())
}

fn configuration(rig: &Rig, number: usize, (http, admin): (&ReservedPort, &ReservedPort), follow: &str) -> String {
    format!(
        "[listen]\nhttp = \"{}\"\nadmin = \"{}\"\nworkers = 1\n[cache]\ndisk_dir = {:?}\n[campaigns]\ncampaigns_dir = {:?}\n\
         prompts_dir = {:?}\n[origin]\nnodes = [\"http://{}\"]\nprobe_interval_ms = 100\n{follow}[admin]\ntokens = [{{ name = \"tests\", \
         hash = \"{}\", scopes = [\"read\", \"kill\", \"purge\", \"audit\", \"state\"] }}]\n",
        http.address(),
        admin.address(),
        rig.dir.path().join(format!("cache-{number}")),
        rig.dir.path().join("campaigns"),
        rig.dir.path().join("prompts"),
        rig.node(),
        bildkante_edge::admin::token::hash(TOKEN),
    )
}

/// Asks for a picture over and over, and notes each time that it is shown.
async fn read(http: Http, (edge, product): (usize, usize), to: SocketAddr, shown: Arc<Mutex<Vec<Shown>>>) {
    let path = format!("/i/studio/thumb?product={}&fm=webp", PRODUCTS[product]);
    loop {
        let asked = Instant::now();
        if let Ok(reply) = http.image(to, &path).await
            && reply.status == StatusCode::OK
            && !["killed", "fallback", "placeholder"].iter().any(|word| reply.outcome().contains(word))
        {
            let (answered, outcome) = (Instant::now(), reply.outcome().to_owned());
            shown.lock().push(Shown { edge, product, asked, answered, outcome });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn outcome(wrong: &[&Shown]) -> String {
    wrong.first().map(|it| it.outcome.clone()).unwrap_or_default()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_history_shows_what_was_killed_or_loses_what_was_acknowledged() -> anyhow::Result<()> {
    let is_soak = std::env::var_os("BILDKANTE_SOAK").is_some();
    let seconds = number("BILDKANTE_FLEET_SECONDS").unwrap_or(if is_soak { 300 } else { 20 });
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed()?;
    let seed = number("BILDKANTE_FLEET_SEED").unwrap_or_else(|| u64::from(since.subsec_nanos()));
    let control = Arc::new(FakeControl::default());
    let mut fleet = Fleet::start(Rig::start(Plan::painted(&control)).await?).await?;
    let shown = Arc::new(Mutex::new(Vec::new()));
    let mut readers = tokio::task::JoinSet::new();
    for edge in 0..EDGES {
        let to = fleet.edges[edge].http.address();
        (0..PRODUCTS.len()).for_each(|product| {
            readers.spawn(read(fleet.rig.http.clone(), (edge, product), to, Arc::clone(&shown)));
        });
    }
    let (mut dice, begun) = (Dice(seed), Instant::now());
    while begun.elapsed() < Duration::from_secs(seconds) {
        fleet.step(&mut dice).await.map_err(|error| error.context(format!("seed {seed}: {:#?}", fleet.done)))?;
    }
    fleet.converge().await.map_err(|error| error.context(format!("seed {seed}")))?;
    readers.shutdown().await;
    let shown = std::mem::take(&mut *shown.lock());
    let is_within = |one: &Forbidden, it: &Shown| {
        (one.edge, one.product) == (it.edge, it.product)
            && it.asked >= one.from
            && one.until.is_none_or(|until| it.answered <= until)
    };
    let wrong: Vec<_> = shown.iter().filter(|it| fleet.forbidden.iter().any(|one| is_within(one, it))).collect();
    assert!(
        wrong.is_empty(),
        "seed {seed}: {} answers showed what was killed: {:#?}, {}",
        wrong.len(),
        wrong.first(),
        outcome(&wrong)
    );
    println!(
        "seed {seed}: {} steps, {} acknowledged, {} pictures shown",
        fleet.done.len(),
        fleet.acknowledged.len(),
        shown.len()
    );
    assert!(!fleet.acknowledged.is_empty() && !shown.is_empty(), "seed {seed}: nothing was tried");
    for number in 0..EDGES {
        fleet.end(number, "TERM").await?;
    }
    fleet.rig.stop().await;
    Ok(())
}
