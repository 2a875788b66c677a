//! Random histories of a primary and its followers, as processes, against a model: kills, lifts, purges, decisions about pictures,
//! schedules, reloads, restarts, SIGKILL, promotions and returns, and links that cut, stall, delay, reorder and tear what passes.
//!
//! What the model asks: each answer is what some entry of the log says that its edge may stand at; what was acknowledged is in the
//! log of all in the end, unless a promotion announced that it may be missing; all edges then show what the log says.
//!
//! `BILDKANTE_FLEET_SEED` repeats a history's choices, `BILDKANTE_FLEET_SECONDS` makes it longer, `BILDKANTE_FLEET_EDGES` larger;
//! `make soak-fleet` runs twenty edges.

mod fleet;
mod model;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{Http, eventually};
use bildkante_tests::proxy::Fault;
use bildkante_tests::rig::{Plan, Rig};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::fleet::Fleet;
use self::model::{PRODUCTS, SLOTS, Shown};
use crate::kills::tag;

/// Pictures of each product that are put before reviewers at first, and the most that there are in the end.
const CASES: usize = 3;
const CASES_MAX: usize = 16;

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap_or(0)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn ms(&mut self, bound: usize) -> u64 {
        self.below(bound) as u64
    }
}

fn reviewed(text: String) -> String {
    text.replace("[slots.hero]", "[slots.hero]\nreview = \"required\"")
}

/// A history on its way.
struct History {
    fleet: Fleet,
    dice: Dice,
    /// Cases that were drawn, of each product.
    drawn: [usize; PRODUCTS.len()],
    done: Vec<String>,
}

impl History {
    async fn lift(&mut self, at: usize, product: usize) -> anyhow::Result<()> {
        let Ok(reply) = self.fleet.admin(at, Method::GET, "kills?limit=100", Value::Null).await else { return Ok(()) };
        let target = format!("value:studio?product={}", PRODUCTS[product]);
        let kills = reply.json()?["kills"].as_array().cloned().unwrap_or_default();
        let found = kills.iter().find(|kill| kill["target"] == target.as_str());
        if let Some(seq) = found.and_then(|kill| kill["seq"].as_u64()) {
            self.fleet.tell(at, (Method::DELETE, &format!("kills/{seq}")), json!({ "why": "over" })).await;
        }
        Ok(())
    }

    /// Has more pictures of a product drawn, which edges put before reviewers when they are there.
    async fn draw(&mut self, at: usize, product: usize) {
        let seeds: Vec<usize> = match self.drawn[product] {
            0 => (0..CASES).collect(),
            CASES_MAX.. => return,
            next => vec![next],
        };
        self.drawn[product] += seeds.len();
        let seeds: Vec<usize> = seeds.into_iter().map(|seed| 5_000 + seed).collect();
        let order = json!({ "variant": format!("studio/hero?product={}", PRODUCTS[product]), "seeds": seeds });
        let _ = self.fleet.admin(at, Method::POST, "candidates", order).await;
    }

    async fn cases(&self, at: usize, product: usize) -> anyhow::Result<Vec<Value>> {
        let page =
            self.fleet.admin(at, Method::GET, "decisions?campaign=studio&limit=1000", Value::Null).await?.json()?;
        let name = format!("product={}&", PRODUCTS[product]);
        let mut cases = page["decisions"].as_array().cloned().unwrap_or_default();
        cases.retain(|case| case["variant"].as_str().is_some_and(|variant| variant.contains(&name)));
        Ok(cases)
    }

    /// A person decides about one of the pictures, as this edge knows it.
    async fn decide(&mut self, at: usize, product: usize) {
        let Ok(cases) = self.cases(at, product).await else { return };
        if cases.is_empty() {
            return;
        }
        let case = &cases[self.dice.below(cases.len())];
        let now = model::unix_ms(SystemTime::now());
        let (soon, later) = (now + self.dice.ms(1_500), now + 1_500 + self.dice.ms(2_500));
        let order = match self.dice.below(12) {
            0..=3 => json!({ "decision": "approve" }),
            4 => json!({ "decision": "approve", "from_unix_ms": soon }),
            5 => json!({ "decision": "approve", "until_unix_ms": later }),
            6 => json!({ "decision": "approve", "from_unix_ms": soon, "until_unix_ms": later }),
            7 => json!({ "decision": "reject" }),
            8 => json!({ "decision": "request_changes" }),
            9 => json!({ "decision": "pause" }),
            10 => json!({ "decision": "resume" }),
            _ => json!({ "decision": "escalate", "to": "legal", "by_unix_ms": later }),
        };
        let mut order = order;
        (order["seen"], order["why"]) = (case["seen"].clone(), json!("a test"));
        self.fleet.tell(at, (Method::POST, &format!("decisions/{}", case["id"])), order).await;
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        let edges = self.fleet.count();
        let (at, follower) = (self.dice.below(edges), self.dice.below(edges));
        let product = self.dice.below(PRODUCTS.len());
        let name = PRODUCTS[product];
        let what = self.dice.below(40);
        self.done.push(format!("{what}: edge {at}, {name}, follower {follower}"));
        match what {
            0..=4 => self.fleet.kill(at, product).await?,
            5..=8 => self.lift(at, product).await?,
            9..=20 => self.decide(at, product).await,
            21 => self.draw(at, product).await,
            22 => {
                let slot = self.dice.of(&SLOTS);
                let order = json!({ "variant": format!("studio/{slot}?product={name}") });
                let _ = self.fleet.admin(at, Method::POST, "purges", order).await;
            }
            23 => self.fleet.signal(at, "HUP").await?,
            24..=29 => {
                let cut_after = Fault::CutAfter(1 + self.dice.below(2_000));
                let delay = Fault::Delay(Duration::from_millis(self.dice.ms(300)));
                let faults = [Fault::Refuse, Fault::Stall, cut_after, delay, Fault::Overtake, Fault::Ragged];
                let fault = self.dice.of(&faults);
                self.fleet.harm(follower, fault);
            }
            30..=34 => self.fleet.heal(follower),
            35 | 36 => {
                let signal = if what == 35 { "KILL" } else { "TERM" };
                self.fleet.end(at, signal).await?;
                self.fleet.spawn(at).await?;
            }
            37 => self.promote().await?,
            _ => {
                let signal = self.dice.of(&["KILL", "TERM"]);
                self.fleet.take_back(signal).await?;
            }
        }
        tokio::time::sleep(Duration::from_millis(self.dice.ms(120))).await;
        Ok(())
    }

    async fn promote(&mut self) -> anyhow::Result<()> {
        let (stays, product) = (self.dice.below(3) == 0, self.dice.below(PRODUCTS.len()));
        let alone = (self.dice.below(2) == 0).then_some(product);
        self.fleet.promote(stays, alone).await
    }

    /// The first pictures are drawn, and are before reviewers on all edges.
    async fn prepare(&mut self) -> anyhow::Result<()> {
        for product in 0..PRODUCTS.len() {
            self.draw(0, product).await;
        }
        for edge in 0..self.fleet.count() {
            eventually("the first pictures are before reviewers", async || {
                let mut are_there = true;
                for product in 0..PRODUCTS.len() {
                    are_there &= self.cases(edge, product).await?.len() >= CASES;
                }
                Ok(are_there)
            })
            .await?;
        }
        Ok(())
    }

    /// In the end every edge shows what the log says, and nothing else.
    async fn agrees(&self, head: &str) -> anyhow::Result<()> {
        let http = &self.fleet.rig.http;
        for (number, edge) in self.fleet.edges.iter().enumerate() {
            let mut found = (Vec::new(), Vec::new());
            let agree = eventually("the edge shows what the log says", async || {
                let (mut wanted, mut shown) = (Vec::new(), Vec::new());
                for (product, (is_killed, live)) in self.fleet.records.last(head)?.into_iter().enumerate() {
                    wanted.extend([live.filter(|_| !is_killed), (!is_killed).then(String::new)]);
                    for slot in SLOTS {
                        let reply = shown_of(http, edge.http.address(), slot, product).await;
                        shown.push(reply.map(|(recipe, _)| if slot == SLOTS[0] { recipe } else { String::new() }));
                    }
                }
                let do_agree = wanted == shown;
                found = (wanted, shown);
                Ok(do_agree)
            });
            agree.await.with_context(|| format!("edge {number}: wanted and shown: {found:#?}"))?;
        }
        Ok(())
    }
}

/// The recipe that is shown, if it is the product's own.
async fn shown_of(http: &Http, to: SocketAddr, slot: &str, product: usize) -> Option<(String, String)> {
    let path = format!("/i/studio/{slot}?product={}&w=192&fm=webp", PRODUCTS[product]);
    let reply = http.image(to, &path).await.ok()?;
    let is_instead = ["killed", "fallback", "placeholder"].iter().any(|word| reply.outcome().contains(word));
    (reply.status == StatusCode::OK && !is_instead).then(|| (tag(&reply, "recipe:"), reply.outcome().to_owned()))
}

/// Asks for a product's pictures over and over, and notes each time that one is shown.
async fn read(
    http: Http,
    (edge, product): (usize, usize),
    to: SocketAddr,
    (shown, pause): (Arc<Mutex<Vec<Shown>>>, Duration),
) {
    loop {
        for slot in SLOTS {
            let asked = Instant::now();
            if let Some((recipe, outcome)) = shown_of(&http, to, slot, product).await {
                let answered = Instant::now();
                shown.lock().push(Shown { edge, product, slot, recipe, asked, answered, outcome });
            }
        }
        tokio::time::sleep(pause).await;
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_history_shows_what_the_log_forbids_or_loses_what_was_acknowledged() -> anyhow::Result<()> {
    let is_soak = std::env::var_os("BILDKANTE_SOAK").is_some();
    let seconds = number("BILDKANTE_FLEET_SECONDS").unwrap_or(if is_soak { 300 } else { 25 });
    let edges = usize::try_from(number("BILDKANTE_FLEET_EDGES").unwrap_or(4).clamp(2, 64))?;
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed()?;
    let seed = number("BILDKANTE_FLEET_SEED").unwrap_or_else(|| u64::from(since.subsec_nanos()));
    println!("seed {seed}, {edges} edges, {seconds} s");
    let told = || format!("seed {seed}, {edges} edges");
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { manifest: reviewed, ..Plan::painted(&control) }).await?;
    // A second is what is asked for; this machine also compiles.
    let elsewhere = Duration::from_secs(5) + Duration::from_millis(250) * u32::try_from(edges)?;
    let fleet = Fleet::start(rig, edges, elsewhere).await?;
    let mut history = History { fleet, dice: Dice(seed), drawn: [0; PRODUCTS.len()], done: Vec::new() };
    history.prepare().await.with_context(told)?;
    let shown = Arc::new(Mutex::new(Vec::new()));
    let mut readers = tokio::task::JoinSet::new();
    let pause = Duration::from_millis(if edges > 4 { 250 } else { 10 });
    for (edge, it) in history.fleet.edges.iter().enumerate() {
        for product in 0..PRODUCTS.len() {
            let (http, to) = (history.fleet.rig.http.clone(), it.http.address());
            readers.spawn(read(http, (edge, product), to, (Arc::clone(&shown), pause)));
        }
    }
    let (begun, length) = (Instant::now(), Duration::from_secs(seconds));
    while begun.elapsed() < length {
        let steps = async {
            // Each history has one.
            if history.fleet.records.promoted.is_empty() && begun.elapsed() > length / 2 {
                history.promote().await?;
            }
            history.step().await
        };
        steps.await.with_context(|| format!("{}: {:#?}", told(), history.done))?;
    }
    let head = history.fleet.converge().await.with_context(told)?;
    history.agrees(&head).await.with_context(told)?;
    readers.shutdown().await;
    let shown = std::mem::take(&mut *shown.lock());
    let Fleet { records, .. } = &history.fleet;
    records.check(&head, &shown).with_context(told)?;
    let decided = shown.iter().filter(|it| it.slot == SLOTS[0]).count();
    println!(
        "{}: {} steps, {} acknowledged, {} held, {} promotions, {} pictures shown, {decided} of them decided",
        told(),
        history.done.len(),
        records.acks.len(),
        records.holds.len(),
        records.promoted.len(),
        shown.len()
    );
    assert!(!records.acks.is_empty() && !records.promoted.is_empty() && decided > 0, "{}: nothing was tried", told());
    for number in 0..edges {
        history.fleet.end(number, "TERM").await?;
    }
    history.fleet.rig.stop().await;
    Ok(())
}
