//! Who may take an image out of circulation, and how each cache comes to know.
//!
//! | module | owns |
//! | --- | --- |
//! | `purge` | which generations of what are no longer valid: asked at every look-up that needs it |
//! | `marks` | the generation numbers themselves, pure |
//! | `ledger` | marks and purges on the device, synced before they are acknowledged |
//! | `scope` | a URL, variant, tag or campaign → what is marked here and named downstream |
//! | `desk` | one purge from request to confirmation |
//! | `gate` | whether a picture may be shown: asked for every way out |
//! | `kills` | one kill from request to confirmation |
//! | `reviews` | cases before reviewers: submitted, ruled on, listed |
//! | `reaches` | what a kill covers, and which tags name that downstream |
//! | `replay` | the shared log's purges and kills, put in force here in its order |
//! | `pins` | masters that decisions keep, and until when |
//! | `checkpoints` | signed heads of the log |
//! | `downstream` | the caches in front of this edge: called, retried, confirmed |
//! | `audit` | one line for each change |

pub mod audit;
pub mod checkpoints;
pub mod desk;
pub mod downstream;
pub mod gate;
pub mod kills;
pub mod ledger;
pub mod marks;
pub mod pins;
pub mod purge;
pub mod reaches;
pub mod replay;
pub mod reviews;
pub mod scope;
pub mod splits;

pub use desk::{PurgeDesk, PurgeOrder};
pub use downstream::{Downstream, DownstreamConfig};
pub use gate::{Cleared, Gate, PlaceStanding, Withheld};
pub use kills::{InForce, KillDesk, KillError, KillMetrics, KillOrder, Killed};
pub use ledger::{DeliveryState, Ledger, PurgeRecord};
pub use marks::{PurgeKind, PurgeReach, Verdict};
pub use pins::{Kept, PinMetrics, Pins};
pub use purge::{PurgeConfig, PurgeMetrics, Purges, RefreshOutcome, Subject};
pub use reaches::Covered;
pub use replay::Replay;
pub use reviews::{
    AwaitingCase, CaseFilter, GateOrder, PastStep, ReviewDesk, ReviewError, ReviewMetrics, ReviewOrder, Ruled, Ruling,
    ShownCase, Survey,
};
pub use scope::{PurgeScope, ScopeError};
pub use splits::{SplitDesk, SplitDone, SplitError, SplitOrder, Splitting};

#[cfg(test)]
pub(crate) mod testing {
    use std::path::Path;

    use crate::campaign::{CampaignConfig, Catalog, CatalogSources};

    pub(crate) fn sources() -> CatalogSources {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
        let (campaigns_dir, prompts_dir) = (config.join("campaigns"), config.join("prompts"));
        CampaignConfig { campaigns_dir, prompts_dir, ..CampaignConfig::default() }.sources().unwrap()
    }

    /// The campaigns as they are shipped.
    pub(crate) fn catalog() -> Catalog {
        Catalog::load(&sources()).unwrap()
    }
}
