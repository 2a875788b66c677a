//! What cold misses may cost: one token bucket per campaign and one per client network.
//!
//! A token is spent where a generation would begin, once per recipe: joining one under way and rendering from a master
//! that exists are free. Without a token the slot's stand-in answers. Networks are prefixes, because clients change
//! their addresses within them; the table of networks is bounded, and one that falls out of it begins afresh.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_shared::ids::RecipeId;
use moka::sync::Cache;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
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
}

impl OverBudget {
    pub const ALL: [Self; 2] = [Self::Campaign, Self::Network];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Campaign => "over-budget-campaign",
            Self::Network => "over-budget-network",
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

    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_s).min(rate.burst);
        self.filled_at = now;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Budgets {
    config: BudgetConfig,
    campaign_rate: Option<Rate>,
    network_rate: Option<Rate>,
    networks: Cache<Network, Arc<Mutex<Bucket>>>,
    /// As many as there are campaigns.
    campaigns: Mutex<HashMap<String, Bucket>>,
    paid: Cache<RecipeId, ()>,
    spent: IntCounter,
    refused: [IntCounter; OverBudget::ALL.len()],
}

impl Budgets {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(config: &BudgetConfig, registry: &Registry) -> prometheus::Result<Self> {
        let spent =
            IntCounter::new("bildkante_edge_budget_spent_total", "Tokens spent on pictures that did not exist yet")?;
        let refused = IntCounterVec::new(
            Opts::new(
                "bildkante_edge_budget_refusals_total",
                "Cold misses answered by a stand-in, by whose budget was spent",
            ),
            &["budget"],
        )?;
        registry.register(Box::new(spent.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        let network_rate = Rate::new(config.network_burst, config.network_per_minute);
        let mut networks = Cache::builder().max_capacity(config.networks_max);
        if let Some(rate) = network_rate {
            networks = networks.time_to_idle(rate.refill_time().max(Duration::from_secs(1)));
        }
        Ok(Self {
            campaign_rate: Rate::new(config.campaign_burst, config.campaign_per_minute),
            network_rate,
            networks: networks.build(),
            campaigns: Mutex::default(),
            paid: Cache::builder().max_capacity(PAID_MAX).time_to_live(PAID_FOR).build(),
            spent,
            refused: OverBudget::ALL.map(|budget| refused.with_label_values(&[budget.as_str()])),
            config: config.clone(),
        })
    }

    /// Pays for a generation of `recipe`, unless that is done already.
    ///
    /// # Errors
    /// Whose budget is spent; nothing is spent then.
    pub fn spend(&self, recipe: RecipeId, campaign: &str, client: IpAddr) -> Result<(), OverBudget> {
        self.spend_at(recipe, campaign, client, Instant::now())
    }

    fn spend_at(&self, recipe: RecipeId, campaign: &str, client: IpAddr, now: Instant) -> Result<(), OverBudget> {
        // Whoever enters it pays; those who come while it pays go along.
        if !self.paid.entry(recipe).or_insert(()).is_fresh() {
            return Ok(());
        }
        let result = self.pay(campaign, client, now);
        match result {
            Ok(()) => self.spent.inc(),
            Err(budget) => {
                self.paid.invalidate(&recipe);
                self.refused[budget as usize].inc();
            }
        }
        result
    }

    /// The generation of `recipe` has ended: the next one costs again.
    pub fn settled(&self, recipe: RecipeId) {
        self.paid.invalidate(&recipe);
    }

    fn pay(&self, campaign: &str, client: IpAddr, now: Instant) -> Result<(), OverBudget> {
        let network = self.network_rate.map(|rate| {
            let network = Network::of(client, &self.config);
            let bucket = self.networks.get_with(network, || Arc::new(Mutex::new(Bucket::full(rate, now))));
            (rate, bucket)
        });
        if let Some((rate, bucket)) = &network
            && !bucket.lock().take(*rate, now)
        {
            return Err(OverBudget::Network);
        }
        if let Some(rate) = self.campaign_rate
            && !self.take_of_campaign(campaign, rate, now)
        {
            if let Some((_, bucket)) = network {
                bucket.lock().tokens += 1.0;
            }
            return Err(OverBudget::Campaign);
        }
        Ok(())
    }

    fn take_of_campaign(&self, campaign: &str, rate: Rate, now: Instant) -> bool {
        let mut campaigns = self.campaigns.lock();
        if let Some(bucket) = campaigns.get_mut(campaign) {
            return bucket.take(rate, now);
        }
        // Campaigns come and go with manifests: those that are full again need no entry.
        campaigns.retain(|_, bucket| now.saturating_duration_since(bucket.filled_at) < rate.refill_time());
        campaigns.entry(campaign.to_owned()).or_insert_with(|| Bucket::full(rate, now)).take(rate, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

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
        let mut n = 0;
        let mut ask = |seconds: u64| {
            n += 1;
            budgets.spend_at(recipe(n), "studio", ONE, start + Duration::from_secs(seconds))
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
        assert!((0..100).all(|_| budgets.spend_at(recipe(1), "studio", ONE, now).is_ok()));
        budgets.settled(recipe(1));
        assert!(budgets.spend_at(recipe(1), "studio", ONE, now).is_ok());
        assert_eq!(budgets.spend_at(recipe(2), "studio", ONE, now), Err(OverBudget::Network));
        assert_eq!(budgets.spend_at(recipe(2), "studio", ONE, now), Err(OverBudget::Network), "a refusal pays nothing");
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
        assert!(budgets.spend_at(recipe(1), "studio", ONE, now).is_ok());
        assert!((2..9).all(|n| budgets.spend_at(recipe(n), "studio", ONE, now) == Err(OverBudget::Campaign)));
        assert!(budgets.spend_at(recipe(9), "spring", ONE, now).is_ok(), "the other campaign has its own");
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
        assert!((0..10_000).all(|n| free.spend(recipe(n), "studio", ONE).is_ok()));
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
