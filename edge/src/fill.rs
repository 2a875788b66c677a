//! Getting a rendition that is not in memory: disk → master → origin → render. Its cost is paid once.
//!
//! | module | owns |
//! | --- | --- |
//! | `peek` | what is there already: in memory, on disk, in another cut, under a former recipe, stale |
//! | `master` | the master of a recipe: bound, made by an origin, fetched, verified |
//! | `rendition` | cutting a rendition from its master while a reader waits |
//! | `settle` | what is made behind the readers: final rungs, replacements of stale renditions, warming |
//! | `laid` | what became of the layers of pictures |
//! | `lqip` | what pages may show before a picture |
//! | `files` | what is told of a picture's files |
//! | `sign` | the manifest of a rendition: kept, or signed now |
//! | `ingredients` | the pictures that a recipe is made from, as a manifest tells them |
//! | `error` | why there is no rendition |
//!
//! Two flights, one inside the other: one per rendition (recipe, spec, finish) and one per recipe and urgency. A page
//! that asks for three widths in two formats at once costs one generation and six encodes. A recipe that is wanted at
//! two urgencies is asked for twice, and its node draws it once. Both flights are tasks of their own, so a client that
//! hangs up cancels nothing that others wait for.
//!
//! Invariants: an answer is judged by the purges in force after it was made, and a rendition that was purged while it was
//! made is made again; what the gate withholds is neither drawn nor rendered; a binding outlives its master, and a recipe whose master is lost everywhere is drawn and bound
//! again; nothing outside this module reaches its caches, its origin, its pool or its budgets through it.

mod error;
mod files;
mod ingredients;
mod laid;
mod lqip;
mod master;
mod peek;
mod rendition;
mod settle;
mod sign;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_shared::ids::RecipeId;
use bildkante_shared::import::MasterRecipe;

pub(crate) use self::error::FillError;
pub(crate) use self::files::PictureFile;
use self::files::QuickFiles;
pub(crate) use self::ingredients::Ingredients;
use self::laid::Laid;
use self::master::Mastering;
pub(crate) use self::peek::{Peek, PreviousPicture};
pub(crate) use self::rendition::Filled;
pub(crate) use self::sign::{CredentialMetrics, Credentials, MANIFEST_PATH_PREFIX, ManifestName, manifest_path};
use crate::budget::{Budgets, Payer};
use crate::cache::{Binding, Caches, FlightError, FlightRole, Flights, Rendition, RenditionKey, Ticket};
use crate::governance::{Gate, Purges};
use crate::origin::Origin;
use crate::render::{FinishDigest, RenderConfig, RenderPool, RenditionSpec};
use crate::resolve::Want;
use crate::words::Outcome;

/// How often a fill begins again because its result was purged while it was made.
const OVERTAKEN_MAX: usize = 4;
/// How many leaders whose budget ended a reader follows before the reader is answered without the picture.
const LEADERS_MAX: usize = 3;

/// The key of a fill under way: what was asked for, before it is known which master that is.
type WantKey = (RecipeId, RenditionSpec, FinishDigest);

/// A fill under way.
type FillTicket = Ticket<Result<Filled, FillError>>;

/// See the module's documentation.
#[derive(Debug)]
pub struct Fill {
    caches: Arc<Caches>,
    purges: Purges,
    gate: Gate,
    budgets: Arc<Budgets>,
    pool: Arc<RenderPool>,
    credentials: Credentials,
    masters: Arc<Mastering>,
    render_config: RenderConfig,
    laid: Laid,
    files: QuickFiles,
    /// Renditions that readers wait for.
    renditions: Flights<WantKey, Result<Filled, FillError>>,
    /// For readers without budget: they get what is there already, and nothing is rendered.
    looks: Flights<WantKey, Result<Filled, FillError>>,
    /// Final rungs that no reader waits for.
    finals: Flights<RenditionKey, Result<Arc<Rendition>, FillError>>,
    /// Replacements of stale renditions, and renditions that are warmed.
    settling: Flights<WantKey, Result<Filled, FillError>>,
}

/// What a fill is held to.
#[derive(Debug, Clone)]
pub struct FillConfig {
    pub render: RenderConfig,
    /// Fills of one kind that may be under way.
    pub flights_max: usize,
    pub flight_time_max: Duration,
    /// Renditions that may be made anew or warmed at the same time, behind the readers.
    pub settling_max: usize,
    /// How long an origin may take for one master.
    pub generation_deadline: Duration,
}

impl Fill {
    #[must_use]
    pub fn new(
        caches: Arc<Caches>,
        (purges, gate): (Purges, Gate),
        origin: Arc<dyn Origin<MasterRecipe>>,
        pool: Arc<RenderPool>,
        budgets: Budgets,
        credentials: Credentials,
        config: FillConfig,
    ) -> Arc<Self> {
        let (most, longest) = (config.flights_max, config.flight_time_max);
        let gauge = &caches.metrics.flights;
        let budgets = Arc::new(budgets);
        let masters = Mastering {
            caches: Arc::clone(&caches),
            purges: purges.clone(),
            gate: gate.clone(),
            budgets: Arc::clone(&budgets),
            origin,
            pool: Arc::clone(&pool),
            deadline: config.generation_deadline,
            generations: Flights::new(most, longest, gauge.clone()),
            fetches: Flights::new(most, longest, gauge.clone()),
            refused: master::refusals(),
        };
        Arc::new(Self {
            renditions: Flights::new(most, longest, gauge.clone()),
            looks: Flights::new(most, longest, gauge.clone()),
            finals: Flights::new(most, longest, gauge.clone()),
            settling: Flights::new(config.settling_max, longest, gauge.clone()),
            masters: Arc::new(masters),
            render_config: config.render,
            laid: Laid::default(),
            files: QuickFiles::default(),
            caches,
            purges,
            gate,
            budgets,
            pool,
            credentials,
        })
    }

    /// Whom to ask before a picture is shown.
    pub(crate) const fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What is known of the making of a picture, where it was made and not purged.
    pub(crate) fn known(&self, want: &Want) -> Option<Arc<Binding>> {
        self.masters.binding(want)
    }

    /// A manifest that is served beside its rendition.
    pub(crate) async fn manifest(&self, name: ManifestName) -> Option<bytes::Bytes> {
        self.credentials.manifest(name).await
    }

    /// The manifest that is served beside this rendition.
    pub(crate) async fn manifest_of(&self, rendition: &Rendition) -> Option<bytes::Bytes> {
        self.manifest(ManifestName::of(rendition)).await
    }

    /// The manifest that is kept for what is wanted, and its path on the public listener: where its master is known and was not
    /// purged, and a final rung of it was signed here.
    pub(crate) async fn kept_manifest(&self, want: &Want) -> Option<(String, bytes::Bytes)> {
        let binding = self.masters.binding(want)?;
        self.credentials.kept(rendition::Cut::of(want, &binding).key()).await
    }

    /// Whose accounts a request of `client` for a picture of `campaign` is on.
    #[must_use]
    pub fn payer(&self, campaign: &str, client: IpAddr) -> Payer {
        self.budgets.payer(campaign, client)
    }

    /// What a reader wants, within `wait`, on the reader's account.
    ///
    /// # Errors
    /// When it cannot be had in time, too many fills are under way, a budget is spent, or the origin refused the recipe a
    /// moment ago.
    pub async fn answer_within(
        self: &Arc<Self>,
        want: &Want,
        payer: &Payer,
        wait: Duration,
    ) -> Result<(Filled, FlightRole), FillError> {
        let deadline = Instant::now() + wait;
        let mut leaders = 0;
        loop {
            let ticket = self.ask(want, payer)?;
            let role = ticket.role();
            leaders += 1;
            match ticket.landed_within(deadline.saturating_duration_since(Instant::now())).await? {
                // The leader's budget has ended, not this reader's.
                Err(FillError::OverBudget(_)) if role == FlightRole::Follower && leaders < LEADERS_MAX => {}
                Err(FillError::OverBudget(budget)) => {
                    self.budgets.refuse(budget);
                    return Err(budget.into());
                }
                result => return result.map(|filled| (filled, role)),
            }
        }
    }

    fn ask(self: &Arc<Self>, want: &Want, payer: &Payer) -> Result<FillTicket, FillError> {
        let recipe = want.recipe_id();
        if !self.is_drawn(want) && !self.masters.is_being_drawn(recipe) {
            if let Some(error) = self.masters.refusal(recipe) {
                return Err(error);
            }
            self.budgets.can_render(payer).inspect_err(|budget| self.budgets.refuse(*budget))?;
            if want.variant.recipe.drawn().is_some() {
                self.budgets.spend(recipe, payer)?;
            }
        }
        Ok(self.fly_for(want, payer)?)
    }

    /// As [`Self::fly`] on a reader's account. A reader without budget joins a fill under way or finds what is there, and
    /// leads no fill that others would wait for in vain.
    ///
    /// # Errors
    /// When too many fills are under way.
    pub fn fly_for(self: &Arc<Self>, want: &Want, payer: &Payer) -> Result<FillTicket, FlightError> {
        let key = want.flight_key();
        let (fill, want) = (Arc::clone(self), want.clone());
        match self.budgets.can_render(payer) {
            Err(budget) if !self.renditions.is_flying(&key) => {
                let look = move || async move { fill.at_hand(&want).await.ok_or_else(|| budget.into()) };
                self.looks.fly(key, look)
            }
            _ => self.fly(want, Some(payer.clone())),
        }
    }

    /// Starts or joins the fill of a rendition. It goes on when the ticket is dropped.
    fn fly(self: &Arc<Self>, want: Want, payer: Option<Payer>) -> Result<FillTicket, FlightError> {
        let key = want.flight_key();
        let (fill, want) = (Arc::clone(self), Arc::new(want));
        self.renditions.fly_handing_over(key, move || {
            let (fill, want, payer) = (Arc::clone(&fill), Arc::clone(&want), payer.clone());
            async move { fill.rendition(&want, payer.as_ref()).await }
        })
    }
}

impl Want {
    /// The key of its fill.
    fn flight_key(&self) -> WantKey {
        (self.recipe_id(), self.spec, self.finish.digest())
    }
}

impl From<crate::cache::Tier> for Outcome {
    fn from(tier: crate::cache::Tier) -> Self {
        match tier {
            crate::cache::Tier::Memory => Self::Memory,
            crate::cache::Tier::Disk => Self::Disk,
            crate::cache::Tier::Object => Self::Object,
        }
    }
}

impl From<FlightRole> for crate::words::Collapse {
    fn from(role: FlightRole) -> Self {
        match role {
            FlightRole::Leader => Self::Led,
            FlightRole::Follower => Self::Collapsed,
        }
    }
}
