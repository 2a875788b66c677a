//! What a fleet may show: its log as a tree of entries, folded by rules of the model's own, and every answer held against it.
//!
//! What an edge shows is what some beginning of the log says. The model bounds which: an edge knows what it acknowledged, and what
//! others acknowledged a while after both were connected; it knows nothing that was not written yet. A promotion may leave entries
//! of the former primary behind: they are a branch, and explain answers of edges that have not taken over the new term yet.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde_json::Value;

pub(super) const PRODUCTS: [&str; 3] = ["vase", "ring", "cube"];
/// The slot whose pictures people decide about, and one where nobody does.
pub(super) const SLOTS: [&str; 2] = ["hero", "thumb"];
/// The hash before a log's first entry.
const BEGINNING: &str = "blake3:0000000000000000000000000000000000000000000000000000000000000000";

/// An entry, as far as the model needs it.
#[derive(Debug, Clone)]
pub(super) struct Line {
    seq: u64,
    previous: String,
    at_unix_ms: u64,
    key: Option<String>,
    change: Value,
}

/// An edge said that a change is in the log.
#[derive(Debug)]
pub(super) struct Ack {
    pub(super) edge: usize,
    pub(super) seq: u64,
    pub(super) hash: String,
    pub(super) at: Instant,
    /// The edge itself knew the entry then.
    pub(super) is_known_there: bool,
}

/// A kill holds on the edge that was asked, until its entry is there.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) edge: usize,
    pub(super) product: usize,
    pub(super) key: String,
    pub(super) at: Instant,
}

/// Another edge became primary. What lies behind `taken_over` in the former one's log may be missing.
#[derive(Debug)]
pub(super) struct Promoted {
    pub(super) former: usize,
    pub(super) taken_over: u64,
    pub(super) at: Instant,
}

/// A picture was shown.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) edge: usize,
    pub(super) product: usize,
    pub(super) slot: &'static str,
    pub(super) recipe: String,
    pub(super) asked: Instant,
    pub(super) answered: Instant,
    /// As `Cache-Status` says it.
    pub(super) outcome: String,
}

/// All that happened.
#[derive(Debug)]
pub(super) struct Records {
    began: (Instant, u64),
    lines: HashMap<String, Line>,
    pub(super) acks: Vec<Ack>,
    pub(super) holds: Vec<Hold>,
    pub(super) promoted: Vec<Promoted>,
    /// When each edge was connected to the primary of then, or was it.
    connected: Vec<Vec<(Instant, Option<Instant>)>>,
    /// How long what is acknowledged takes to edges that are connected.
    elsewhere: Duration,
}

/// A picture before reviewers.
#[derive(Debug, Clone)]
struct Case {
    recipe: String,
    approved: Option<u64>,
    is_paused: bool,
    from_unix_ms: u64,
    until_unix_ms: u64,
}

/// What stands about a product behind an entry.
#[derive(Debug, Clone, Default)]
struct Stand {
    is_killed: bool,
    cases: Vec<Case>,
}

/// A beginning of the log, or of a branch of it, by what it says of each product.
struct Chain {
    lines: Vec<Line>,
    stands: [Vec<(u64, u64, Stand)>; PRODUCTS.len()],
    /// Of each hold, its entry.
    holds: Vec<Option<u64>>,
    /// The last entry that it has in common with the log that all have in the end.
    fork: u64,
}

impl Records {
    pub(super) fn new(edges: usize, elsewhere: Duration) -> Self {
        let now_unix_ms = unix_ms(SystemTime::now());
        let (lines, acks, holds, promoted) = (HashMap::new(), Vec::new(), Vec::new(), Vec::new());
        let connected = vec![Vec::new(); edges];
        Self { began: (Instant::now(), now_unix_ms), lines, acks, holds, promoted, connected, elsewhere }
    }

    /// Takes a line of the audit.
    pub(super) fn line(&mut self, entry: &Value) -> anyhow::Result<()> {
        let text = |name: &str| entry[name].as_str().map(str::to_owned);
        let number = |name: &str| entry[name].as_u64().with_context(|| format!("no `{name}` in {entry}"));
        let line = Line {
            seq: number("seq")?,
            previous: text("previous").context("no hash before it")?,
            at_unix_ms: number("at_unix_ms")?,
            key: text("key"),
            change: entry["change"].clone(),
        };
        self.lines.insert(text("hash").context("no hash")?, line);
        Ok(())
    }

    pub(super) fn connect(&mut self, edge: usize, now: Instant) {
        self.cut(edge, now);
        self.connected[edge].push((now, None));
    }

    pub(super) fn cut(&mut self, edge: usize, now: Instant) {
        if let Some((_, until @ None)) = self.connected[edge].last_mut() {
            *until = Some(now);
        }
    }

    fn unix_ms(&self, at: Instant) -> u64 {
        let (began, unix_ms) = self.began;
        unix_ms + u64::try_from(at.duration_since(began).as_millis()).unwrap_or(u64::MAX)
    }

    /// From the beginning up to this entry.
    fn chain_to(&self, hash: &str) -> anyhow::Result<Vec<(String, Line)>> {
        let (mut chain, mut at) = (Vec::new(), hash.to_owned());
        while at != BEGINNING {
            let line = self.lines.get(&at).with_context(|| format!("entry {at} was not seen by the test"))?;
            let before = line.previous.clone();
            chain.push((at, line.clone()));
            at = before;
        }
        chain.reverse();
        Ok(chain)
    }

    /// Holds all that happened against the log that ends with this entry.
    pub(super) fn check(&self, head: &str, shown: &[Shown]) -> anyhow::Result<()> {
        let main = self.chain_to(head)?;
        let is_main = |hash: &str| main.iter().any(|(it, _)| it == hash);
        let seqs: HashMap<&str, u64> = main.iter().map(|(hash, line)| (hash.as_str(), line.seq)).collect();
        for ack in self.acks.iter().filter(|ack| !seqs.contains_key(ack.hash.as_str())) {
            let was_announced = |it: &Promoted| ack.seq > it.taken_over && (ack.at < it.at || ack.edge == it.former);
            anyhow::ensure!(
                self.promoted.iter().any(was_announced),
                "entry {} was acknowledged by edge {} and is lost: {:?}",
                ack.seq,
                ack.edge,
                self.promoted
            );
        }
        for hold in &self.holds {
            let is_there = main.iter().any(|(_, line)| line.key.as_ref() == Some(&hold.key));
            anyhow::ensure!(is_there, "a kill that edge {} held is not in the log", hold.edge);
        }
        let mut chains = vec![self.chain(main.iter().map(|(_, line)| line.clone()).collect(), u64::MAX)];
        let inner: std::collections::HashSet<&String> = self.lines.values().map(|line| &line.previous).collect();
        for tip in self.lines.keys().filter(|hash| !inner.contains(hash) && !is_main(hash)) {
            let branch = self.chain_to(tip)?;
            let fork = branch.iter().rev().find_map(|(hash, _)| seqs.get(hash.as_str()).copied()).unwrap_or(0);
            chains.push(self.chain(branch.into_iter().map(|(_, line)| line).collect(), fork));
        }
        let known: Vec<_> = (0..self.connected.len()).map(|edge| self.known(edge, &seqs)).collect();
        for it in shown {
            let known = known[it.edge].iter().take_while(|(at, _)| *at <= it.asked).last().map_or(0, |(_, seq)| *seq);
            anyhow::ensure!(
                chains.iter().any(|chain| self.is_explained(it, known, chain)),
                "an answer ({}) showed what it must not: edge {} knew entry {known} at {} ms; {it:#?}; the product's last entries: \
                 {:#?}",
                it.outcome,
                it.edge,
                self.unix_ms(it.asked),
                chains[0].about(it.product, known)
            );
        }
        Ok(())
    }

    /// From when on an edge has the log at least up to which entry.
    fn known(&self, edge: usize, seqs: &HashMap<&str, u64>) -> Vec<(Instant, u64)> {
        let mut known = Vec::new();
        for ack in self.acks.iter().filter(|ack| seqs.contains_key(ack.hash.as_str())) {
            if ack.edge == edge && ack.is_known_there {
                known.push((ack.at, ack.seq));
            }
            for (from, until) in &self.connected[edge] {
                let at = ack.at.max(*from) + self.elsewhere;
                if until.is_none_or(|until| at < until) {
                    known.push((at, ack.seq));
                    break;
                }
            }
        }
        known.sort_unstable();
        let mut highest = 0;
        for (_, seq) in &mut known {
            highest = highest.max(*seq);
            *seq = highest;
        }
        known
    }

    /// Whether the edge shows what some entry of the chain that it may stand at says.
    fn is_explained(&self, it: &Shown, known: u64, chain: &Chain) -> bool {
        if known > chain.fork {
            return false;
        }
        let mut least = known;
        let is_meant = |hold: &Hold| (hold.edge, hold.product) == (it.edge, it.product) && hold.at <= it.asked;
        for (_, entry) in self.holds.iter().zip(&chain.holds).filter(|(hold, _)| is_meant(hold)) {
            let Some(seq) = entry else { return false };
            least = least.max(*seq);
        }
        let (asked_ms, answered_ms) = (self.unix_ms(it.asked) - 1, self.unix_ms(it.answered) + 1);
        let stands = &chain.stands[it.product];
        let first = stands.iter().rposition(|(seq, ..)| *seq <= least).unwrap_or(0);
        let possible = stands[first..].iter().take_while(|(_, at_unix_ms, _)| *at_unix_ms <= answered_ms);
        possible
            .map(|(.., stand)| stand)
            .any(|stand| !stand.is_killed && (it.slot != SLOTS[0] || stand.shows(&it.recipe, asked_ms, answered_ms)))
    }

    fn chain(&self, lines: Vec<Line>, fork: u64) -> Chain {
        let mut stands = [const { Vec::new() }; PRODUCTS.len()];
        for (product, stands) in stands.iter_mut().enumerate() {
            let mut stand = Stand::default();
            stands.push((0, 0, stand.clone()));
            for line in &lines {
                if stand.take(line, PRODUCTS[product]) {
                    stands.push((line.seq, line.at_unix_ms, stand.clone()));
                }
            }
        }
        let seqs: HashMap<&str, u64> = lines.iter().filter_map(|line| Some((line.key.as_deref()?, line.seq))).collect();
        let holds = self.holds.iter().map(|hold| seqs.get(hold.key.as_str()).copied()).collect();
        Chain { lines, stands, holds, fork }
    }

    /// Per product, whether it is killed and the recipe that people decided for, at the end of a log.
    pub(super) fn last(&self, head: &str) -> anyhow::Result<Vec<(bool, Option<String>)>> {
        let chain = self.chain(self.chain_to(head)?.into_iter().map(|(_, line)| line).collect(), u64::MAX);
        let now = unix_ms(SystemTime::now());
        let last = chain.stands.iter().filter_map(|stands| stands.last());
        Ok(last.map(|(.., stand)| (stand.is_killed, stand.live(now).map(str::to_owned))).collect())
    }
}

impl Chain {
    /// For a failure's message.
    fn about(&self, product: usize, known: u64) -> Vec<String> {
        let name = PRODUCTS[product];
        let about = self.lines.iter().filter(|line| line.change.to_string().contains(name));
        let told = about.map(|line| format!("{} at {} ms: {}", line.seq, line.at_unix_ms, short(&line.change)));
        let told: Vec<String> = told.collect();
        let from = self.stands[product].iter().filter(|(seq, ..)| *seq <= known).count().saturating_sub(6);
        told.into_iter().skip(from).take(16).collect()
    }
}

fn short(change: &Value) -> String {
    format!("{} {} {} {}", change["kind"], change["target"], change["recipe"], {
        let mut step = change["step"].clone();
        step.as_object_mut().map(|step| step.remove("drawn"));
        step
    })
}

impl Stand {
    /// Whether the entry is about this product, and what stands behind it.
    fn take(&mut self, line: &Line, product: &str) -> bool {
        let change = &line.change;
        let is_target = change["target"] == format!("value:studio?product={product}").as_str();
        let variant = change["variant"].as_str().unwrap_or_default();
        match change["kind"].as_str() {
            Some("kill") if is_target => self.is_killed = true,
            Some("lift") if is_target => self.is_killed = false,
            Some("review") if variant.contains(&format!("product={product}&")) => self.review(line),
            _ => return false,
        }
        true
    }

    fn review(&mut self, line: &Line) {
        let (recipe, step) = (line.change["recipe"].as_str().unwrap_or_default(), &line.change["step"]);
        let is = step["is"].as_str().unwrap_or_default();
        if is == "submit" {
            let (recipe, from_unix_ms, until_unix_ms) = (recipe.to_owned(), 0, u64::MAX);
            self.cases.push(Case { recipe, approved: None, is_paused: false, from_unix_ms, until_unix_ms });
        }
        let Some(case) = self.cases.iter_mut().find(|case| case.recipe == recipe) else { return };
        match is {
            "approve" => {
                (case.approved, case.is_paused) = (Some(line.seq), false);
                case.from_unix_ms = step["from_unix_ms"].as_u64().unwrap_or(0);
                case.until_unix_ms = step["until_unix_ms"].as_u64().unwrap_or(u64::MAX);
            }
            "reject" | "request_changes" => (case.approved, case.is_paused) = (None, false),
            "pause" => case.is_paused = true,
            "resume" => case.is_paused = false,
            _ => {}
        }
    }

    fn live(&self, now_unix_ms: u64) -> Option<&str> {
        let can_be =
            |case: &&Case| !case.is_paused && case.from_unix_ms <= now_unix_ms && case.until_unix_ms > now_unix_ms;
        let open = self.cases.iter().filter(can_be).filter(|case| case.approved.is_some());
        open.max_by_key(|case| case.approved).map(|case| case.recipe.as_str())
    }

    /// Whether it shows this picture at some moment between two.
    fn shows(&self, recipe: &str, from_unix_ms: u64, to_unix_ms: u64) -> bool {
        let turns = self.cases.iter().flat_map(|case| [case.from_unix_ms, case.until_unix_ms]);
        let mut moments = turns.filter(|at| (from_unix_ms..=to_unix_ms).contains(at)).chain([from_unix_ms, to_unix_ms]);
        moments.any(|at| self.live(at) == Some(recipe))
    }
}

pub(super) fn unix_ms(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A log by hand. Entries are a second apart.
    struct Told {
        records: Records,
        seq: u64,
        last: String,
    }

    impl Told {
        fn new() -> Self {
            let mut records = Records::new(2, Duration::from_secs(5));
            records.began.0 = Instant::now();
            records.connect(0, records.began.0);
            Self { records, seq: 0, last: BEGINNING.to_owned() }
        }

        fn at(&self, s: u64) -> Instant {
            self.records.began.0 + Duration::from_secs(s)
        }

        fn entry(&mut self, change: Value, key: Option<&str>) -> String {
            self.seq += 1;
            let hash = format!("{}-{}{}", self.last, self.seq, change["kind"]);
            let at_unix_ms = self.records.began.1 + self.seq * 1_000;
            let line = json!({ "seq": self.seq, "hash": hash, "previous": self.last, "at_unix_ms": at_unix_ms, "key": key,
                "change": change });
            self.records.line(&line).expect("a line");
            self.last.clone_from(&hash);
            hash
        }

        fn step(&mut self, recipe: &str, step: Value) -> String {
            let variant = format!("studio/hero?product={}&setting=studio", PRODUCTS[0]);
            self.entry(json!({ "kind": "review", "variant": variant, "recipe": recipe, "step": step }), None)
        }

        fn approved(&mut self, recipe: &str) -> String {
            self.step(recipe, json!({ "is": "submit" }));
            self.step(recipe, json!({ "is": "approve" }))
        }

        fn kill(&mut self, kind: &str, key: Option<&str>) -> String {
            self.entry(json!({ "kind": kind, "target": format!("value:studio?product={}", PRODUCTS[0]) }), key)
        }

        fn ack(&mut self, edge: usize, s: u64) {
            let (seq, hash, at) = (self.seq, self.last.clone(), self.at(s));
            self.records.acks.push(Ack { edge, seq, hash, at, is_known_there: true });
        }

        /// Whether the model lets an edge show a recipe's picture at a second.
        fn admits(&self, edge: usize, recipe: &str, s: u64) -> bool {
            let (asked, slot) = (self.at(s), SLOTS[0]);
            let (answered, recipe, outcome) = (asked + Duration::from_millis(5), recipe.to_owned(), String::new());
            let shown = Shown { edge, product: 0, slot, recipe, asked, answered, outcome };
            self.records.check(&self.last, &[shown]).is_ok()
        }
    }

    #[test]
    fn the_model_forbids_what_an_edge_knows_to_be_over() {
        let mut told = Told::new();
        told.approved("one");
        told.approved("two");
        told.ack(0, 6);
        assert!(!told.admits(0, "one", 1), "before it was approved");
        assert!(told.admits(0, "one", 5) && told.admits(0, "two", 5), "while the second is on its way");
        assert!(!told.admits(0, "one", 7) && told.admits(0, "two", 7), "the edge itself has acknowledged it");
        assert!(told.admits(1, "one", 100), "an edge that was never connected knows nothing of it");
        told.records.connect(1, told.at(10));
        assert!(told.admits(1, "one", 14) && !told.admits(1, "one", 16) && told.admits(1, "two", 16));
        assert!(!told.admits(0, "three", 7), "it was never decided for");
    }

    #[test]
    fn the_model_forbids_what_is_killed_held_or_out_of_its_time() {
        let mut told = Told::new();
        told.approved("one");
        told.ack(0, 3);
        told.kill("kill", None);
        told.ack(0, 4);
        assert!(told.admits(0, "one", 3) && !told.admits(0, "one", 6));
        told.kill("lift", Some("lift"));
        assert!(told.admits(0, "one", 6), "it was lifted, and that may be known");
        let held = Hold { edge: 1, product: 0, key: "held".to_owned(), at: told.at(8) };
        told.records.holds.push(held);
        assert!(told.records.check(&told.last, &[]).is_err(), "what is held comes into the log");
        told.kill("kill", Some("held"));
        told.kill("lift", None);
        assert!(told.admits(1, "one", 5) && told.admits(1, "one", 20));
        let until = told.records.began.1 + 30_000;
        told.step("one", json!({ "is": "approve", "until_unix_ms": until }));
        told.ack(0, 25);
        assert!(told.admits(0, "one", 29) && !told.admits(0, "one", 31));
    }

    #[test]
    fn the_model_finds_what_is_lost_and_knows_what_a_promotion_leaves_behind() {
        let mut told = Told::new();
        told.approved("one");
        let fork = (told.seq, told.last.clone());
        told.approved("lost");
        told.ack(0, 5);
        assert!(told.records.check(&told.last, &[]).is_ok());
        let branch = told.seq;
        (told.seq, told.last) = fork.clone();
        told.entry(json!({ "kind": "term", "term": 2 }), None);
        assert!(told.records.check(&told.last, &[]).is_err(), "it was acknowledged, and nothing was announced");
        told.records.promoted.push(Promoted { former: 0, taken_over: fork.0, at: told.at(6) });
        assert!(told.records.check(&told.last, &[]).is_ok() && branch > fork.0);
        assert!(told.admits(0, "lost", 5) && told.admits(0, "one", 5), "it has not taken over the new term");
        told.ack(0, 8);
        assert!(!told.admits(0, "lost", 9) && told.admits(0, "one", 9));
    }
}
