//! What readers may cost: token buckets per campaign and per client network, one of pictures and one of CPU time.
//!
//! A picture's token is spent where a generation would begin, once per recipe: joining one under way is free. Render
//! time is spent where a render begins: an estimate is reserved, and the time that was measured takes its place. The
//! final rung behind a quick one is on the account of the reader whose request rendered the quick one, and on no other
//! reader's; what is warmed or rendered again after a purge is on no reader's. Without budget the slot's stand-in
//! answers.
//!
//! A client network also has no more than so many renders that readers wait for under way at once, so that it cannot have
//! the pool to itself before its time is spent.
//!
//! Networks are prefixes, because clients change their addresses within them; the table of networks is bounded, and one
//! that falls out of it begins afresh.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bildkante_shared::ids::RecipeId;
use moka::sync::Cache;
use parking_lot::Mutex;
use prometheus::{Counter, IntCounter, IntCounterVec, Opts, Registry};
use serde::Deserialize;

/// Recipes that are paid for and not settled yet; past them the oldest may be paid for twice.
const PAID_MAX: u64 = 16_384;
/// How long a recipe that was paid for may take until it has to be paid for again.
const PAID_FOR: Duration = Duration::from_secs(600);

/// `[budget]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetConfig {
    /// Generations a campaign may cause at once, and per minute after that; 0 per minute: no limit.
    pub campaign_burst: u32,
    pub campaign_per_minute: u32,
    /// The same for the clients of one network.
    pub network_burst: u32,
    pub network_per_minute: u32,
    /// CPU milliseconds of rendering a campaign may cause at once, and per minute after that; 0 per minute: no limit.
    pub campaign_render_burst_ms: u32,
    pub campaign_render_ms_per_minute: u32,
    /// The same for the clients of one network.
    pub network_render_burst_ms: u32,
    pub network_render_ms_per_minute: u32,
    /// Renders that clients of one network may wait for at once; 0: no limit.
    pub network_renders_max: u32,
    /// What is one network.
    pub ipv4_prefix_bits: u8,
    pub ipv6_prefix_bits: u8,
    /// Networks remembered.
    pub networks_max: u64,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            campaign_burst: 600,
            campaign_per_minute: 600,
            network_burst: 240,
            network_per_minute: 120,
            campaign_render_burst_ms: 2_400_000,
            campaign_render_ms_per_minute: 1_200_000,
            network_render_burst_ms: 240_000,
            network_render_ms_per_minute: 120_000,
            network_renders_max: 64,
            ipv4_prefix_bits: 24,
            ipv6_prefix_bits: 48,
            networks_max: 100_000,
        }
    }
}

impl BudgetConfig {
    /// # Errors
    /// Names the key that cannot be right.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let positive = |key, value: u64| if value == 0 { Err((key, "is zero")) } else { Ok(()) };
        positive("budget.campaign_burst", self.campaign_burst.into())?;
        positive("budget.network_burst", self.network_burst.into())?;
        positive("budget.campaign_render_burst_ms", self.campaign_render_burst_ms.into())?;
        positive("budget.network_render_burst_ms", self.network_render_burst_ms.into())?;
        positive("budget.networks_max", self.networks_max)?;
        if self.ipv4_prefix_bits > 32 {
            return Err(("budget.ipv4_prefix_bits", "is over 32"));
        }
        if self.ipv6_prefix_bits > 128 {
            return Err(("budget.ipv6_prefix_bits", "is over 128"));
        }
        Ok(())
    }
}

/// Whose budget is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverBudget {
    #[error("the campaign's budget for new pictures is spent")]
    Campaign,
    #[error("the client network's budget for new pictures is spent")]
    Network,
    #[error("the campaign's budget for rendering is spent")]
    CampaignRender,
    #[error("the client network's budget for rendering is spent")]
    NetworkRender,
    #[error("the client network has as many renders under way as it may")]
    NetworkRenders,
}

impl OverBudget {
    pub const ALL: [Self; 5] =
        [Self::Campaign, Self::Network, Self::CampaignRender, Self::NetworkRender, Self::NetworkRenders];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Campaign => "over-budget-campaign",
            Self::Network => "over-budget-network",
            Self::CampaignRender => "over-render-budget-campaign",
            Self::NetworkRender => "over-render-budget-network",
            Self::NetworkRenders => "over-renders-network",
        }
    }
}

/// An address without its host part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Network(u128);

impl Network {
    pub(crate) fn of(address: IpAddr, config: &BudgetConfig) -> Self {
        let (bits, prefix) = match address.to_canonical() {
            // As a mapped address, so that the two families cannot collide.
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), 96 + config.ipv4_prefix_bits),
            IpAddr::V6(v6) => (v6, config.ipv6_prefix_bits),
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
        Self(bits.to_bits() & mask)
    }
}

/// How much a bucket holds and how fast it fills.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    burst: f64,
    per_s: f64,
}

impl Rate {
    /// `None`: no limit.
    pub(crate) fn new(burst: u32, per_minute: u32) -> Option<Self> {
        (per_minute > 0).then(|| Self { burst: f64::from(burst), per_s: f64::from(per_minute) / 60.0 })
    }

    /// After so long an untouched bucket is as good as new.
    pub(crate) fn refill_time(self) -> Duration {
        Duration::from_secs_f64(self.burst / self.per_s)
    }
}

#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    pub(crate) const fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, filled_at: now }
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_s).min(rate.burst);
        self.filled_at = now;
    }

    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }

    /// Takes `amount` where anything is left at all: what it comes to is known only afterwards, so a bucket may go
    /// below zero, by about one render, and has to fill up before the next one.
    fn draw(&mut self, rate: Rate, now: Instant, amount: f64) -> bool {
        self.fill(rate, now);
        let enough = self.tokens > 0.0;
        if enough {
            self.tokens -= amount;
        }
        enough
    }

    fn give_back(&mut self, rate: Rate, amount: f64) {
        self.tokens = (self.tokens + amount).min(rate.burst);
    }
}

/// A bucket of render time and how it fills.
type RenderBucket = (Rate, Arc<Mutex<Bucket>>);

/// What one campaign or one network has left, as far as it is limited.
#[derive(Debug, Clone)]
struct Account {
    pictures: Option<(Rate, Arc<Mutex<Bucket>>)>,
    render: Option<RenderBucket>,
    /// Renders under way that readers wait for.
    renders: Arc<AtomicU32>,
}

/// One of the renders under way; dropping it makes room.
#[derive(Debug)]
struct UnderWay(Arc<AtomicU32>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How fast an account fills.
#[derive(Debug, Clone, Copy)]
struct Rates {
    pictures: Option<Rate>,
    render: Option<Rate>,
}

impl Rates {
    fn account(self, now: Instant) -> Account {
        let bucket = |rate: Rate| (rate, Arc::new(Mutex::new(Bucket::full(rate, now))));
        Account { pictures: self.pictures.map(bucket), render: self.render.map(bucket), renders: Arc::default() }
    }

    /// After so long an account that has no debt is as good as new.
    fn refill_time(self) -> Duration {
        let times = [self.pictures, self.render].into_iter().flatten().map(Rate::refill_time);
        times.max().unwrap_or_default().max(Duration::from_secs(1))
    }

    const fn is_limited(self) -> bool {
        self.pictures.is_some() || self.render.is_some()
    }
}

impl Account {
    fn take_picture(&self, now: Instant) -> bool {
        self.pictures.as_ref().is_none_or(|(rate, bucket)| bucket.lock().take(*rate, now))
    }

    fn return_picture(&self) {
        if let Some((_, bucket)) = &self.pictures {
            bucket.lock().tokens += 1.0;
        }
    }

    /// `max` 0: no limit.
    fn begin_render(&self, max: u32) -> Option<UnderWay> {
        let before = self.renders.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(Arc::clone(&self.renders));
        (max == 0 || before < max).then_some(under_way)
    }

    fn can_render(&self, now: Instant) -> bool {
        self.draw_render(now, 0.0)
    }

    fn draw_render(&self, now: Instant, ms: f64) -> bool {
        self.render.as_ref().is_none_or(|(rate, bucket)| bucket.lock().draw(*rate, now, ms))
    }

    fn return_render(&self, ms: f64) {
        if let Some((rate, bucket)) = &self.render {
            bucket.lock().give_back(*rate, ms);
        }
    }

    /// Whether it may be forgotten: every bucket is full, and no reservation will come back to it.
    fn is_idle(&self, now: Instant) -> bool {
        let is_full = |(rate, bucket): &RenderBucket| {
            let mut bucket_now = bucket.lock();
            bucket_now.fill(*rate, now);
            bucket_now.tokens >= rate.burst && Arc::strong_count(bucket) == 1
        };
        [&self.pictures, &self.render].into_iter().flatten().all(is_full)
    }
}

/// On whose account a reader's request is.
#[derive(Debug, Clone)]
pub struct Payer {
    pub(crate) id: Network,
    network: Account,
    campaign: Account,
}

/// Render time that is reserved, and is given back when it is dropped; unless it is [kept](Self::keep).
#[derive(Debug)]
pub struct RenderCharge {
    payer: Payer,
    reserved_ms: f64,
    is_kept: bool,
    _under_way: Option<UnderWay>,
    spent: Counter,
}

impl RenderCharge {
    /// Another charge, of a part of this one.
    #[must_use]
    pub fn split(&mut self, part: Duration) -> Self {
        let part_ms = millis(part).min(self.reserved_ms);
        self.reserved_ms -= part_ms;
        Self {
            payer: self.payer.clone(),
            reserved_ms: part_ms,
            is_kept: false,
            _under_way: None,
            spent: self.spent.clone(),
        }
    }

    /// From now on it counts as paid: what it is for may succeed later without another charge.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Whose it is.
    pub(crate) const fn owner(&self) -> Network {
        self.payer.id
    }

    /// The time that was measured takes the place of as much of the reservation.
    pub fn spend(&mut self, cpu: Duration) {
        let cpu_ms = millis(cpu);
        self.spent.inc_by(cpu.as_secs_f64());
        let over_ms = (cpu_ms - self.reserved_ms).max(0.0);
        self.reserved_ms = (self.reserved_ms - cpu_ms).max(0.0);
        self.is_kept = false;
        self.payer.return_render(-over_ms);
    }
}

impl Drop for RenderCharge {
    fn drop(&mut self) {
        if !self.is_kept {
            self.payer.return_render(self.reserved_ms);
        }
    }
}

impl Payer {
    fn return_render(&self, ms: f64) {
        self.network.return_render(ms);
        self.campaign.return_render(ms);
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Budgets {
    config: BudgetConfig,
    campaign_rates: Rates,
    network_rates: Rates,
    networks: Cache<Network, Account>,
    /// As many as there are campaigns.
    campaigns: Mutex<HashMap<String, Account>>,
    paid: Cache<RecipeId, ()>,
    spent: IntCounter,
    render_spent: Counter,
    refused: [IntCounter; OverBudget::ALL.len()],
}

impl Budgets {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(config: &BudgetConfig, registry: &Registry) -> prometheus::Result<Self> {
        let spent =
            IntCounter::new("bildkante_edge_budget_spent_total", "Tokens spent on pictures that did not exist yet")?;
        let render_spent = Counter::new(
            "bildkante_edge_budget_render_seconds_total",
            "CPU time of rendering that was on readers' accounts",
        )?;
        let refused = IntCounterVec::new(
            Opts::new(
                "bildkante_edge_budget_refusals_total",
                "Requests answered by a stand-in, by whose budget for pictures or for rendering was spent, or who had as many \
                 renders under way as it may",
            ),
            &["budget"],
        )?;
        registry.register(Box::new(spent.clone()))?;
        registry.register(Box::new(render_spent.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        let network_rates = Rates {
            pictures: Rate::new(config.network_burst, config.network_per_minute),
            render: Rate::new(config.network_render_burst_ms, config.network_render_ms_per_minute),
        };
        let campaign_rates = Rates {
            pictures: Rate::new(config.campaign_burst, config.campaign_per_minute),
            render: Rate::new(config.campaign_render_burst_ms, config.campaign_render_ms_per_minute),
        };
        let mut networks = Cache::builder().max_capacity(config.networks_max);
        if network_rates.is_limited() {
            // A debt is seldom larger than a burst.
            networks = networks.time_to_idle(network_rates.refill_time() * 2);
        }
        Ok(Self {
            campaign_rates,
            network_rates,
            networks: networks.build(),
            campaigns: Mutex::default(),
            paid: Cache::builder().max_capacity(PAID_MAX).time_to_live(PAID_FOR).build(),
            spent,
            render_spent,
            refused: OverBudget::ALL.map(|budget| refused.with_label_values(&[budget.as_str()])),
            config: config.clone(),
        })
    }

    /// Whose accounts a request of `client` for a picture of `campaign` is on.
    #[must_use]
    pub fn payer(&self, campaign: &str, client: IpAddr) -> Payer {
        self.payer_at(campaign, client, Instant::now())
    }

    fn payer_at(&self, campaign: &str, client: IpAddr, now: Instant) -> Payer {
        let network = Network::of(client, &self.config);
        Payer {
            id: network,
            network: self.networks.get_with(network, || self.network_rates.account(now)),
            campaign: self.campaign(campaign, now),
        }
    }

    fn campaign(&self, name: &str, now: Instant) -> Account {
        let mut campaigns = self.campaigns.lock();
        if let Some(account) = campaigns.get(name) {
            return account.clone();
        }
        // Campaigns come and go with manifests: those that are full again need no entry.
        campaigns.retain(|_, account| !account.is_idle(now));
        campaigns.entry(name.to_owned()).or_insert_with(|| self.campaign_rates.account(now)).clone()
    }

    /// Pays for a generation of `recipe`, unless that is done already.
    ///
    /// # Errors
    /// Whose budget is spent; nothing is spent then.
    pub fn spend(&self, recipe: RecipeId, payer: &Payer) -> Result<(), OverBudget> {
        self.spend_at(recipe, payer, Instant::now())
    }

    fn spend_at(&self, recipe: RecipeId, payer: &Payer, now: Instant) -> Result<(), OverBudget> {
        // The first to enter it pays; those who come while it pays go along.
        if !self.paid.entry(recipe).or_insert(()).is_fresh() {
            return Ok(());
        }
        let result = pay(payer, now);
        match result {
            Ok(()) => self.spent.inc(),
            Err(budget) => {
                self.paid.invalidate(&recipe);
                self.refuse(budget);
            }
        }
        result
    }

    /// The generation of `recipe` has ended: the next one costs again.
    pub fn settled(&self, recipe: RecipeId) {
        self.paid.invalidate(&recipe);
    }

    /// Whether anything is left to render with.
    ///
    /// # Errors
    /// Whose budget is spent.
    pub fn can_render(&self, payer: &Payer) -> Result<(), OverBudget> {
        let now = Instant::now();
        let max = self.config.network_renders_max;
        if max > 0 && payer.network.renders.load(Ordering::Relaxed) >= max {
            return Err(OverBudget::NetworkRenders);
        }
        if !payer.network.can_render(now) {
            return Err(OverBudget::NetworkRender);
        }
        if !payer.campaign.can_render(now) {
            return Err(OverBudget::CampaignRender);
        }
        Ok(())
    }

    /// Reserves render time.
    ///
    /// # Errors
    /// Whose budget is spent; nothing is reserved then.
    pub fn reserve(&self, payer: &Payer, estimate: Duration) -> Result<RenderCharge, OverBudget> {
        self.reserve_at(payer, estimate, Instant::now())
    }

    fn reserve_at(&self, payer: &Payer, estimate: Duration, now: Instant) -> Result<RenderCharge, OverBudget> {
        let reserved_ms = millis(estimate);
        let under_way = payer.network.begin_render(self.config.network_renders_max);
        let under_way = under_way.ok_or(OverBudget::NetworkRenders)?;
        if !payer.network.draw_render(now, reserved_ms) {
            return Err(OverBudget::NetworkRender);
        }
        if !payer.campaign.draw_render(now, reserved_ms) {
            payer.network.return_render(reserved_ms);
            return Err(OverBudget::CampaignRender);
        }
        Ok(RenderCharge {
            payer: payer.clone(),
            reserved_ms,
            is_kept: false,
            _under_way: Some(under_way),
            spent: self.render_spent.clone(),
        })
    }

    /// A request is answered by a stand-in because of this.
    pub fn refuse(&self, budget: OverBudget) {
        self.refused[budget as usize].inc();
    }
}

fn pay(payer: &Payer, now: Instant) -> Result<(), OverBudget> {
    if !payer.network.take_picture(now) {
        return Err(OverBudget::Network);
    }
    if !payer.campaign.take_picture(now) {
        payer.network.return_picture();
        return Err(OverBudget::Campaign);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

    fn budgets(config: BudgetConfig) -> Budgets {
        Budgets::new(&config, &Registry::new()).unwrap()
    }

    fn recipe(n: u64) -> RecipeId {
        RecipeId::of_bytes(&n.to_le_bytes())
    }

    #[test]
    fn a_burst_then_a_rate() {
        let budgets = budgets(BudgetConfig { network_burst: 3, network_per_minute: 60, ..BudgetConfig::default() });
        let start = Instant::now();
        let payer = budgets.payer_at("studio", ONE, start);
        let mut n = 0;
        let mut ask = |seconds: u64| {
            n += 1;
            budgets.spend_at(recipe(n), &payer, start + Duration::from_secs(seconds))
        };
        assert!((0..3).all(|_| ask(0).is_ok()));
        assert_eq!(ask(0), Err(OverBudget::Network));
        assert_eq!((ask(1), ask(1)), (Ok(()), Err(OverBudget::Network)), "one a second");
        assert!((0..3).all(|_| ask(3600).is_ok()), "and never more than the burst");
        assert_eq!(ask(3600), Err(OverBudget::Network));
        assert_eq!((budgets.spent.get(), budgets.refused[OverBudget::Network as usize].get()), (7, 3));
    }

    #[test]
    fn a_recipe_is_paid_for_once_until_it_is_settled() {
        let budgets = budgets(BudgetConfig { network_burst: 2, network_per_minute: 1, ..BudgetConfig::default() });
        let now = Instant::now();
        let payer = budgets.payer_at("studio", ONE, now);
        assert!((0..100).all(|_| budgets.spend_at(recipe(1), &payer, now).is_ok()));
        budgets.settled(recipe(1));
        assert!(budgets.spend_at(recipe(1), &payer, now).is_ok());
        assert_eq!(budgets.spend_at(recipe(2), &payer, now), Err(OverBudget::Network));
        assert_eq!(budgets.spend_at(recipe(2), &payer, now), Err(OverBudget::Network), "a refusal pays nothing");
        assert_eq!(budgets.spent.get(), 2);
    }

    #[test]
    fn a_campaign_without_budget_costs_its_clients_nothing() {
        let config = BudgetConfig {
            campaign_burst: 1,
            campaign_per_minute: 1,
            network_burst: 2,
            network_per_minute: 1,
            ..BudgetConfig::default()
        };
        let budgets = budgets(config);
        let now = Instant::now();
        let (studio, spring) = (budgets.payer_at("studio", ONE, now), budgets.payer_at("spring", ONE, now));
        assert!(budgets.spend_at(recipe(1), &studio, now).is_ok());
        assert!((2..9).all(|n| budgets.spend_at(recipe(n), &studio, now) == Err(OverBudget::Campaign)));
        assert!(budgets.spend_at(recipe(9), &spring, now).is_ok(), "the other campaign has its own");
    }

    fn rendering(burst_ms: u32, ms_per_minute: u32) -> BudgetConfig {
        BudgetConfig {
            network_render_burst_ms: burst_ms,
            network_render_ms_per_minute: ms_per_minute,
            ..BudgetConfig::default()
        }
    }

    #[test]
    fn render_time_is_reserved_then_measured_then_it_has_to_fill_up() {
        let budgets = budgets(rendering(1000, 60_000));
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let after = |seconds: u64| now + Duration::from_secs(seconds);
        let (one, other) = (budgets.payer_at("studio", ONE, now), budgets.payer_at("studio", OTHER, now));
        let reserved: Vec<_> = (0..2).map(|_| budgets.reserve_at(&one, ms(500), now).expect("enough")).collect();
        assert_eq!(budgets.reserve_at(&one, ms(1), now).unwrap_err(), OverBudget::NetworkRender, "all is reserved");
        assert!(budgets.reserve_at(&other, ms(1), now).is_ok(), "another network has its own");
        drop(reserved);
        let mut slow = budgets.reserve_at(&one, ms(1), now).expect("what was not used is back");
        let mut last = slow.split(ms(1));
        slow.spend(ms(2000));
        last.spend(ms(1000));
        drop((slow, last));
        assert!(budgets.reserve_at(&one, ms(1), after(1)).is_err(), "2 seconds of debt, 1 second paid");
        assert!(budgets.reserve_at(&one, ms(1), after(3)).is_ok());
        assert!((budgets.render_spent.get() - 3.0).abs() < 1e-6);
    }

    #[test]
    fn a_reservation_is_given_back_once_and_never_beyond_the_burst() {
        let budgets = budgets(rendering(1000, 1));
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let payer = budgets.payer_at("studio", ONE, now);
        let left = || payer.network.render.as_ref().expect("limited").1.lock().tokens;
        let mut charge = budgets.reserve_at(&payer, ms(600), now).expect("enough");
        let last = charge.split(ms(500));
        assert!((left() - 400.0).abs() < 1e-6);
        charge.spend(ms(40));
        drop(charge);
        assert!((left() - 460.0).abs() < 1e-6, "60 of 100 ms came back");
        drop(last);
        assert!((left() - 960.0).abs() < 1e-6, "the final rung was never rendered");
        drop(budgets.reserve_at(&payer, ms(500), now + Duration::from_secs(36_000)));
        assert!(left() <= 1000.0);
    }

    /// A final rung that found no place in the pool is rendered later without another charge: it was paid for.
    #[test]
    fn a_charge_that_is_kept_is_spent_once() {
        let budgets = budgets(rendering(1000, 1));
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let payer = budgets.payer_at("studio", ONE, now);
        let left = || payer.network.render.as_ref().expect("limited").1.lock().tokens;
        let mut charge = budgets.reserve_at(&payer, ms(600), now).expect("enough");
        let mut last = charge.split(ms(500));
        last.keep();
        drop((charge, last));
        assert!((left() - 500.0).abs() < 1e-6);
        let mut rendered = budgets.reserve_at(&payer, ms(500), now).expect("enough");
        rendered.keep();
        rendered.spend(ms(100));
        drop(rendered);
        assert!((left() - 400.0).abs() < 1e-6, "what was rendered costs what was measured");
    }

    /// Small pictures cost little time, and take places all the same.
    #[test]
    fn a_network_has_its_share_of_the_renders_under_way() {
        let budgets = budgets(BudgetConfig::default());
        let now = Instant::now();
        let (one, other) = (budgets.payer_at("studio", ONE, now), budgets.payer_at("studio", OTHER, now));
        let reserve = |payer| budgets.reserve_at(payer, Duration::from_millis(1), now);
        let mut held: Vec<_> = (0..300).filter_map(|_| reserve(&one).ok()).collect();
        assert_eq!(held.len(), 64);
        assert_eq!(reserve(&one).unwrap_err(), OverBudget::NetworkRenders);
        assert_eq!(budgets.can_render(&one), Err(OverBudget::NetworkRenders));
        assert!(reserve(&other).is_ok() && budgets.can_render(&other).is_ok(), "another network has its own");
        let _behind = held[0].split(Duration::from_millis(1));
        held.remove(0);
        assert!(reserve(&one).is_ok(), "what is rendered behind a reader takes no place of his");
        assert_eq!(one.network.renders.load(Ordering::Relaxed), 63);
    }

    #[test]
    fn the_campaign_has_render_time_of_its_own_and_an_unlimited_one_is_never_spent() {
        let config =
            BudgetConfig { campaign_render_burst_ms: 10, campaign_render_ms_per_minute: 1, ..rendering(1000, 0) };
        let budgets = budgets(config);
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let (studio, spring) = (budgets.payer_at("studio", ONE, now), budgets.payer_at("spring", ONE, now));
        let mut charge = budgets.reserve_at(&studio, ms(1), now).expect("enough");
        charge.spend(ms(3_600_000));
        assert_eq!(budgets.reserve_at(&studio, ms(1), now).unwrap_err(), OverBudget::CampaignRender);
        assert!(budgets.reserve_at(&spring, ms(1), now).is_ok());
        drop(charge);
        // Accounts come and go with manifests, and debts stay.
        for n in 0..100 {
            budgets.payer_at(&format!("campaign-{n}"), ONE, now);
        }
        let studio = budgets.payer_at("studio", ONE, now);
        assert!(budgets.reserve_at(&studio, ms(1), now).is_err());
        assert!(budgets.campaigns.lock().len() < 10, "full accounts are forgotten");
    }

    /// A page of forty large images that were never rendered is no abuse.
    #[test]
    fn a_page_of_new_images_stays_within_the_defaults() {
        use crate::render::{Costs, Quality, RenditionSpec, Rung, Shape};
        use crate::words::Format;
        let (budgets, costs) = (budgets(BudgetConfig::default()), Costs::default());
        let payer = budgets.payer("studio", ONE);
        let spec = |format| RenditionSpec {
            width_px: 1344,
            height_px: 768,
            shape: Shape::DEFAULT,
            format,
            quality: Quality::AUTO,
        };
        let costly = Format::ALL.into_iter().max_by_key(|format| costs.estimate(&spec(*format), Rung::Final));
        let mut page = Vec::new();
        for _ in 0..40 {
            page.push(budgets.reserve(&payer, Duration::ZERO).expect("a page is under way at once"));
        }
        page.clear();
        for _ in 0..40 {
            for rung in Rung::ALL {
                let estimate = costs.estimate(&spec(costly.expect("a format")), rung);
                budgets.reserve(&payer, estimate).expect("a page is within the budget").spend(estimate);
            }
        }
    }

    #[test]
    fn a_network_is_a_prefix_and_no_limit_is_none() {
        let config = BudgetConfig { network_burst: 1, network_per_minute: 1, ..BudgetConfig::default() };
        let of = |text: &str| Network::of(text.parse().unwrap(), &config);
        assert_eq!(of("192.0.2.1"), of("192.0.2.254"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.9"));
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:ffff::1"));
        assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
        let all = BudgetConfig { ipv4_prefix_bits: 0, ipv6_prefix_bits: 0, ..config.clone() };
        assert_eq!(Network::of("1.2.3.4".parse().unwrap(), &all), Network::of("9.9.9.9".parse().unwrap(), &all));
        let free = budgets(BudgetConfig { campaign_per_minute: 0, network_per_minute: 0, ..config });
        let payer = free.payer("studio", ONE);
        assert!((0..10_000).all(|n| free.spend(recipe(n), &payer).is_ok()));
    }

    #[test]
    fn impossible_numbers_name_their_key() {
        let refused = |config: BudgetConfig| config.check().unwrap_err().0;
        assert_eq!(refused(BudgetConfig { network_burst: 0, ..BudgetConfig::default() }), "budget.network_burst");
        assert_eq!(
            refused(BudgetConfig { ipv4_prefix_bits: 33, ..BudgetConfig::default() }),
            "budget.ipv4_prefix_bits"
        );
        assert!(BudgetConfig::default().check().is_ok());
    }
}
