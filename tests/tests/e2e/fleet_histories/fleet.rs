//! The edges of a history as processes: started, ended, cut off, promoted and returned; and what they are told meanwhile.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use bildkante_shared::testing::{ReservedPort, write_secret};
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::program;
use bildkante_tests::proxy::{Fault, Proxy};
use bildkante_tests::rig::Rig;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::model::{Ack, Hold, Promoted, Records};
use crate::purge::TOKEN;

/// A follower answers earlier where what it was told has come back by then.
const RETURN_MAX: Duration = Duration::from_secs(2);

/// A process of the edge.
pub(super) struct Edge {
    pub(super) http: ReservedPort,
    admin: ReservedPort,
    config: PathBuf,
    process: Option<Child>,
    /// The way to the primary. The first primary has none, and a promoted edge's leads to the former one.
    proxy: Option<Proxy>,
}

pub(super) struct Fleet {
    pub(super) rig: Rig,
    pub(super) edges: Vec<Edge>,
    pub(super) records: Records,
    primary: usize,
    /// Whose place another edge took, and who has not returned yet.
    displaced: Option<usize>,
    keys: u64,
}

impl Fleet {
    pub(super) async fn start(rig: Rig, count: usize, elsewhere: Duration) -> anyhow::Result<Self> {
        write_secret(&rig.dir.path().join("state.token"), TOKEN)?;
        let mut edges = Vec::new();
        for number in 0..count {
            let (http, admin) = (ReservedPort::new()?, ReservedPort::new()?);
            let config = rig.dir.path().join(format!("edge-{number}.toml"));
            edges.push(Edge { http, admin, config, process: None, proxy: None });
        }
        let records = Records::new(count, elsewhere);
        let mut fleet = Self { rig, edges, records, primary: 0, displaced: None, keys: 0 };
        fleet.configure(0)?;
        fleet.spawn(0).await?;
        for number in 1..count {
            fleet.follow(number).await?;
            fleet.spawn(number).await?;
        }
        Ok(fleet)
    }

    pub(super) fn count(&self) -> usize {
        self.edges.len()
    }

    /// Follows the primary by a way of its own, from its next start on.
    async fn follow(&mut self, at: usize) -> anyhow::Result<()> {
        self.edges[at].proxy = Some(Proxy::start(self.edges[self.primary].admin.address()).await?);
        self.configure(at)
    }

    fn configure(&self, at: usize) -> anyhow::Result<()> {
        let (edge, dir) = (&self.edges[at], self.rig.dir.path());
        let follow = edge.proxy.as_ref().filter(|_| at != self.primary).map_or_else(String::new, |proxy| {
            let token_file = dir.join("state.token");
            format!("[state.follow]\nprimary = \"{}\"\ntoken_file = {token_file:?}\n", proxy.url())
        });
        let text = format!(
            "[listen]\nhttp = \"{}\"\nadmin = \"{}\"\nworkers = 1\n[cache]\ndisk_dir = {:?}\n[campaigns]\ncampaigns_dir = {:?}\n\
             prompts_dir = {:?}\n[origin]\nnodes = [\"http://{}\"]\nprobe_interval_ms = 100\n{follow}[admin]\ntokens = [{{ name = \
             \"tests\", hash = \"{}\", scopes = [\"read\", \"kill\", \"purge\", \"review\", \"audit\", \"state\"] }}]\n",
            edge.http.address(),
            edge.admin.address(),
            dir.join(format!("cache-{at}")),
            dir.join("campaigns"),
            dir.join("prompts"),
            self.rig.node(),
            bildkante_edge::admin::token::hash(TOKEN),
        );
        Ok(std::fs::write(&edge.config, text)?)
    }

    pub(super) async fn spawn(&mut self, at: usize) -> anyhow::Result<()> {
        let path = self.rig.dir.path().join(format!("edge-{at}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        let mut command = Command::new(program("bildkante-edge")?);
        command.args(["serve", "--config"]).arg(&self.edges[at].config).stderr(log).kill_on_drop(true);
        self.edges[at].process = Some(command.spawn()?);
        eventually("the edge answers", async || Ok(self.admin(at, Method::GET, "state", Value::Null).await.is_ok()))
            .await
            .with_context(|| format!("edge {at}"))?;
        self.connect(at);
        Ok(())
    }

    pub(super) fn runs(&self, at: usize) -> bool {
        self.edges[at].process.is_some()
    }

    /// Ends a process, in order or not.
    pub(super) async fn end(&mut self, at: usize, signal: &str) -> anyhow::Result<()> {
        self.cut(at);
        if let Some(mut process) = self.edges[at].process.take() {
            send(&process, signal).await?;
            process.wait().await?;
        }
        Ok(())
    }

    pub(super) async fn signal(&self, at: usize, signal: &str) -> anyhow::Result<()> {
        match &self.edges[at].process {
            Some(process) => send(process, signal).await,
            None => Ok(()),
        }
    }

    pub(super) async fn admin(&self, at: usize, method: Method, path: &str, body: Value) -> anyhow::Result<Reply> {
        self.order(at, method, (path, None), body).await
    }

    async fn order(
        &self,
        at: usize,
        method: Method,
        (path, key): (&str, Option<&str>),
        body: Value,
    ) -> anyhow::Result<Reply> {
        anyhow::ensure!(self.runs(at), "edge {at} does not run");
        let to = self.edges[at].admin.address();
        let request = Request::builder().method(method).uri(format!("http://{to}/admin/v1/{path}"));
        let request =
            request.header("authorization", format!("Bearer {TOKEN}")).header("content-type", "application/json");
        let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
        self.rig.http.send(request.body(Full::from(body.to_string()))?).await
    }

    /// The edge, or all of them where the primary went, is not connected from here on.
    fn cut(&mut self, at: usize) {
        let now = Instant::now();
        for edge in (0..self.count()).filter(|edge| at == self.primary || *edge == at) {
            self.records.cut(edge, now);
        }
    }

    fn connect(&mut self, at: usize) {
        let now = Instant::now();
        for edge in (0..self.count()).filter(|edge| at == self.primary || *edge == at) {
            if self.runs(edge) && self.runs(self.primary) && self.displaced != Some(edge) {
                self.records.connect(edge, now);
            }
        }
    }

    /// Something is wrong with a follower's connection from now on.
    pub(super) fn harm(&mut self, at: usize, fault: Fault) {
        if at != self.primary && self.displaced != Some(at) {
            self.cut(at);
            self.set(at, fault);
        }
    }

    pub(super) fn heal(&mut self, at: usize) {
        if at != self.primary && self.displaced != Some(at) {
            self.set(at, Fault::None);
            self.connect(at);
        }
    }

    fn set(&self, at: usize, fault: Fault) {
        if let Some(proxy) = &self.edges[at].proxy {
            proxy.set(fault);
        }
    }

    /// Gives an order that becomes an entry, and remembers what was promised. `None`: it may be in the log, or come into it later.
    pub(super) async fn tell(&mut self, at: usize, (method, path): (Method, &str), body: Value) -> Option<Reply> {
        let sent = Instant::now();
        let reply = self.order(at, method, (path, None), body).await.ok()?;
        self.acknowledged(at, sent, &reply);
        Some(reply)
    }

    fn acknowledged(&mut self, edge: usize, sent: Instant, reply: &Reply) {
        if !matches!(reply.status, StatusCode::OK | StatusCode::CREATED) {
            return;
        }
        let Ok(body) = reply.json() else { return };
        let entry = if body["entry"].is_object() { &body["entry"] } else { &body };
        if let (Some(seq), Some(hash)) = (entry["seq"].as_u64(), entry["hash"].as_str()) {
            let (hash, at) = (hash.to_owned(), Instant::now());
            let is_known_there = at.duration_since(sent) < RETURN_MAX;
            self.records.acks.push(Ack { edge, seq, hash, at, is_known_there });
        }
    }

    pub(super) async fn kill(&mut self, at: usize, product: usize) -> anyhow::Result<()> {
        let order = json!({ "value": format!("studio?product={}", super::PRODUCTS[product]), "why": "a test" });
        self.keys += 1;
        let (key, sent) = (format!("kill-{}", self.keys), Instant::now());
        let Ok(reply) = self.order(at, Method::POST, ("kills", Some(&key)), order).await else { return Ok(()) };
        let is_fenced = self.displaced == Some(at) && !reply.status.is_success();
        anyhow::ensure!(reply.status.is_success() || is_fenced, "a kill: {} {}", reply.status, reply.text());
        if reply.status == StatusCode::ACCEPTED {
            self.records.holds.push(Hold { edge: at, product, key, at: Instant::now() });
        }
        self.acknowledged(at, sent, &reply);
        Ok(())
    }

    /// Notes what an edge has of the log.
    pub(super) async fn collect(&mut self, at: usize) -> anyhow::Result<()> {
        let standing = self.admin(at, Method::GET, "state", Value::Null).await?.json()?;
        let mut after = standing["begins"].as_u64();
        while let Some(from) = after {
            let path = format!("audit?after={from}&limit=1000");
            let page = self.admin(at, Method::GET, &path, Value::Null).await?.json()?;
            let entries = page["entries"].as_array().cloned().unwrap_or_default();
            entries.iter().try_for_each(|line| self.records.line(&line["entry"]))?;
            after = page["next"].as_u64();
        }
        Ok(())
    }

    async fn standing(&self, at: usize) -> anyhow::Result<Value> {
        self.admin(at, Method::GET, "state", Value::Null).await?.json()
    }

    /// The primary is lost, or cut off and alive, and the follower that has the most takes its place. `alone`: what the former one is told when
    /// no follower hears it any more.
    pub(super) async fn promote(&mut self, stays: bool, alone: Option<usize>) -> anyhow::Result<()> {
        if self.displaced.is_some() {
            self.take_back("KILL").await?;
        }
        let former = self.primary;
        self.cut(former);
        (0..self.count()).for_each(|edge| self.set(edge, Fault::Refuse));
        if let Some(product) = alone {
            self.kill(former, product).await?;
        }
        let running: Vec<usize> = (0..self.count()).filter(|at| self.runs(*at)).collect();
        let mut heirs = Vec::new();
        for at in running {
            self.collect(at).await?;
            if at != former {
                heirs.push((self.standing(at).await?["seq"].as_u64().unwrap_or(0), at));
            }
        }
        heirs.sort_unstable();
        if !stays {
            self.end(former, "KILL").await?;
        }
        let (heir, taken_over) = self.heir(heirs).await?;
        (self.primary, self.displaced) = (heir, Some(former));
        self.records.promoted.push(Promoted { former, taken_over, at: Instant::now() });
        self.configure(heir)?;
        let standing = self.standing(heir).await?;
        if let (Some(seq), Some(hash)) = (standing["seq"].as_u64(), standing["hash"].as_str()) {
            let (hash, at) = (hash.to_owned(), Instant::now());
            self.records.acks.push(Ack { edge: heir, seq, hash, at, is_known_there: true });
        }
        let to = self.edges[heir].admin.address();
        for at in (0..self.count()).filter(|at| *at != former) {
            if let Some(proxy) = self.edges[at].proxy.as_ref().filter(|_| at != heir) {
                proxy.lead_to(to);
            }
            // The heir goes on to look at whom it followed.
            self.set(at, Fault::None);
        }
        self.connect(heir);
        Ok(())
    }

    /// Promotes the one that has the most, of those that have heard the primary: one that has just returned may not have.
    async fn heir(&self, mut heirs: Vec<(u64, usize)>) -> anyhow::Result<(usize, u64)> {
        while let Some((_, heir)) = heirs.pop() {
            let reply = self.admin(heir, Method::POST, "state/promote", Value::Null).await?;
            if reply.status == StatusCode::OK {
                return Ok((heir, reply.json()?["taken_over"].as_u64().context("what was taken over")?));
            }
            let has_not_heard = reply.text().contains("/problems/never-followed");
            anyhow::ensure!(has_not_heard, "edge {heir}: {} {}", reply.status, reply.text());
        }
        anyhow::bail!("no follower has heard the primary")
    }

    /// The former primary follows the present one. What it alone had is given up.
    pub(super) async fn take_back(&mut self, signal: &str) -> anyhow::Result<()> {
        let Some(former) = self.displaced else { return Ok(()) };
        if self.runs(former) {
            self.collect(former).await?;
            self.end(former, signal).await?;
        }
        self.follow(former).await?;
        self.displaced = None;
        self.spawn(former).await
    }

    /// All are connected, and have one log: the hash of its last entry.
    pub(super) async fn converge(&mut self) -> anyhow::Result<String> {
        self.take_back("TERM").await?;
        for number in 0..self.count() {
            if !self.runs(number) {
                self.spawn(number).await?;
            }
            self.heal(number);
        }
        let mut standings = Vec::new();
        let found = eventually("all edges have one log", async || {
            standings.clear();
            for number in 0..self.count() {
                standings.push(self.standing(number).await?);
            }
            Ok(standings.iter().all(|one| one["hash"] == standings[0]["hash"] && one["held"] == 0))
        });
        found.await.map_err(|error| error.context(format!("{standings:#?}")))?;
        for number in 0..self.count() {
            self.collect(number).await?;
        }
        standings[0]["hash"].as_str().map(str::to_owned).context("the last entry's hash")
    }
}

async fn send(process: &Child, signal: &str) -> anyhow::Result<()> {
    let id = process.id().context("it runs")?.to_string();
    let sent = Command::new("kill").args([&format!("-{signal}"), &id]).status().await?;
    anyhow::ensure!(sent.success(), "signal {signal} to {id}");
    Ok(())
}
