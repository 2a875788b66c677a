//! `[ai_act]`: what the deployer of a campaign documents under Regulation (EU) 2024/1689, in the deployer's own words.
//!
//! Every key may be left out; `bildkante-edge report ai-act` says which are missing. Nothing here changes what is served.

use super::manifest::checked_text;
use super::reader::{TableReader, no_hint};

/// Longest time that logs are said to be kept: a hundred years.
const LOG_RETENTION_DAYS_MAX: u32 = 36_525;

/// What risk the deployer finds in the use, by the regulation's classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RiskClass {
    /// Neither high-risk nor under a duty of transparency.
    Minimal,
    /// Under Article 50 only.
    Limited,
    /// Article 6.
    High,
}

impl RiskClass {
    const ALL: [Self; 3] = [Self::Minimal, Self::Limited, Self::High];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Limited => "limited",
            Self::High => "high",
        }
    }
}

/// Whether the deployer finds deep fakes (Article 3(60)) among the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeepFakes {
    No,
    Yes,
    /// As a part of evidently artistic, creative, satirical or fictional work.
    Artistic,
}

impl DeepFakes {
    const ALL: [Self; 3] = [Self::No, Self::Yes, Self::Artistic];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Artistic => "artistic",
        }
    }
}

/// What the deployer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AiAct {
    pub risk_class: Option<RiskClass>,
    pub deep_fakes: Option<DeepFakes>,
    /// What the pictures are for.
    pub purpose: Option<String>,
    /// Who looks after the pictures, and how.
    pub oversight: Option<String>,
    /// Whom authorities and readers turn to.
    pub contact: Option<String>,
    /// What was done for the competence of those who work with it.
    pub literacy: Option<String>,
    /// How long logs are kept.
    pub log_retention_days: Option<u32>,
}

/// Reads `[ai_act]`.
pub(crate) fn read(root: &TableReader<'_, '_>) -> AiAct {
    let Some(table) = root.table("ai_act") else { return AiAct::default() };
    let text = |key| checked_text(&table, &table.text(key)?).filter(|text| !text.is_empty());
    let ai_act = AiAct {
        risk_class: table.choice("risk_class", &RiskClass::ALL.map(|class| (class.as_str(), class))),
        deep_fakes: table.choice("deep_fakes", &DeepFakes::ALL.map(|answer| (answer.as_str(), answer))),
        purpose: text("purpose"),
        oversight: text("oversight"),
        contact: text("contact"),
        literacy: text("literacy"),
        log_retention_days: table.integer("log_retention_days", 1..=LOG_RETENTION_DAYS_MAX),
    };
    table.finish(no_hint);
    ai_act
}
