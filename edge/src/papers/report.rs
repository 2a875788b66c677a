//! What the deployer of a campaign documents under the AI Act, and what of it is missing.
//!
//! Source: Regulation (EU) 2024/1689 of 13 June 2024, with the dates and the wording of Article 4 that the amendments of 2026
//! (the Digital Omnibus on AI) give it. Every point names its article; those that no article asks of a deployer say so.
//!
//! Invariant: a point is judged by what the manifest and the configuration say, and by nothing else. Whether a duty applies is for
//! the deployer to decide: this is no legal advice.

use serde::Serialize;

use super::dossier::{ModelPaper, models};
use crate::campaign::{Campaign, DeepFakes, LabelShow, RiskClass};
use crate::words::Moment;

/// The form of the JSON. A later version may add fields, and takes none away.
pub const SCHEMA: &str = "com.bildkante.report.ai-act/1";
/// The longest six months: Article 26(6) asks for at least six.
const SIX_MONTHS_DAYS: u32 = 184;
/// What stands on every report.
pub const NOTICE: &str = "This is no legal advice. It lists what Regulation (EU) 2024/1689 (the AI Act) asks of those who deploy a \
    system that makes pictures, as far as Bildkante's files can show it. Whether a duty applies, and whether what is documented \
    suffices, is for you and your lawyer to decide. The regulation was amended in 2026: compare the consolidated text.";

/// One campaign's report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub schema: &'static str,
    pub campaign: String,
    pub title: String,
    /// Over manifest, lock and prompt libraries.
    pub campaign_digest: String,
    /// By this machine's clock (RFC 3339).
    pub made_at: String,
    pub notice: &'static str,
    pub points: Vec<Point>,
    /// Points that are missing.
    pub missing: usize,
}

/// One thing that is documented or is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Of Regulation (EU) 2024/1689.
    pub article: &'static str,
    pub title: &'static str,
    /// In our words.
    pub duty: &'static str,
    pub force: Force,
    pub state: State,
    /// What the files say.
    pub says: String,
    /// What to do where it is missing.
    pub remedy: Option<String>,
}

/// Whom a point binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Force {
    /// Every deployer.
    Deployer,
    /// Deployers of high-risk systems.
    HighRiskDeployer,
    /// Providers; a deployer who puts a system into service under its own name is one.
    Provider,
    /// Nobody: it helps to answer for the rest.
    Practice,
}

impl Force {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployer => "deployers",
            Self::HighRiskDeployer => "deployers of high-risk systems",
            Self::Provider => "providers",
            Self::Practice => "nobody by law; good practice",
        }
    }
}

/// Where a point stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The manifest says it.
    Documented,
    /// The configuration does it.
    Done,
    Missing,
    /// By what the manifest says, it is not asked for.
    NotApplicable,
    /// Neither manifest nor configuration can show it.
    Elsewhere,
}

impl State {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Documented => "documented",
            Self::Done => "done",
            Self::Missing => "missing",
            Self::NotApplicable => "not applicable",
            Self::Elsewhere => "yours to show",
        }
    }
}

/// What of an installation's configuration matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installation {
    pub is_signed: bool,
    pub is_timestamped: bool,
    pub watermark: WatermarkUse,
    pub has_access_log: bool,
}

/// How pictures are marked in their pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatermarkUse {
    Off,
    /// With the key that stands in the source.
    Published,
    /// With a key of the installation's own.
    Own,
}

/// The report of a campaign as its files are now.
#[must_use]
pub fn report(campaign: &Campaign, installation: Installation, now: Option<Moment>) -> Report {
    let case = Case { campaign, installation };
    let points = case.points();
    Report {
        schema: SCHEMA,
        campaign: campaign.name.clone(),
        title: campaign.title.clone(),
        campaign_digest: campaign.digest.to_string(),
        made_at: now.map(|now| now.to_string()).unwrap_or_default(),
        notice: NOTICE,
        missing: points.iter().filter(|point| point.state == State::Missing).count(),
        points,
    }
}

struct Case<'c> {
    campaign: &'c Campaign,
    installation: Installation,
}

/// A point before it is judged.
struct Asked {
    article: &'static str,
    title: &'static str,
    duty: &'static str,
    force: Force,
}

impl Asked {
    fn is(self, state: State, says: impl Into<String>) -> Point {
        let Self { article, title, duty, force } = self;
        Point { article, title, duty, force, state, says: says.into(), remedy: None }
    }

    fn lacks(self, says: impl Into<String>, remedy: impl Into<String>) -> Point {
        Point { remedy: Some(remedy.into()), ..self.is(State::Missing, says) }
    }

    /// What a key of `[ai_act]` says.
    fn said(self, key: &str, said: Option<&str>) -> Point {
        match said {
            Some(said) => self.is(State::Documented, said),
            None => self.lacks("the manifest does not say", format!("state `{key}` in [ai_act] of the manifest")),
        }
    }
}

impl Case<'_> {
    fn points(&self) -> Vec<Point> {
        let mut points = vec![self.literacy(), prohibited(), self.risk_class(), self.purpose()];
        points.extend([self.signature(), self.watermark(), metadata(), self.deep_fakes(), self.labels()]);
        points.extend([self.oversight(), self.logs(), self.high_risk(), self.data(), self.contact()]);
        points
    }

    fn is_high_risk(&self) -> Option<bool> {
        self.campaign.ai_act.risk_class.map(|class| class == RiskClass::High)
    }

    fn literacy(&self) -> Point {
        let asked = Asked {
            article: "Article 4",
            title: "AI literacy",
            duty: "Take measures that support the AI literacy of the people who operate and use the system on your behalf.",
            force: Force::Deployer,
        };
        asked.said("literacy", self.campaign.ai_act.literacy.as_deref())
    }

    fn risk_class(&self) -> Point {
        let asked = Asked {
            article: "Article 6 and Annex III",
            title: "Risk class",
            duty: "Know whether the use is high-risk: most of what follows depends on it.",
            force: Force::Deployer,
        };
        asked.said("risk_class", self.campaign.ai_act.risk_class.map(RiskClass::as_str))
    }

    fn purpose(&self) -> Point {
        let asked = Asked {
            article: "Article 6(2), Article 26(1) and (4)",
            title: "Purpose",
            duty: "Say what the pictures are for: the risk class follows from the purpose, and a high-risk system is used \
                   only for the one that it is intended for.",
            force: Force::Practice,
        };
        asked.said("purpose", self.campaign.ai_act.purpose.as_deref())
    }

    fn signature(&self) -> Point {
        let asked = Asked {
            article: "Article 50(2)",
            title: "Marking: signed metadata",
            duty: "Mark generated pictures in a machine-readable form, so that they can be detected as generated. The Code of \
                   Practice of 10 June 2026 asks for signed and timestamped metadata as one of two layers.",
            force: Force::Provider,
        };
        match (self.installation.is_signed, self.installation.is_timestamped) {
            (true, true) => asked.is(State::Done, "every final rendition is signed and timestamped (C2PA)"),
            (true, false) => asked.lacks(
                "every final rendition is signed (C2PA), without a timestamp",
                "name a timestamp authority in [provenance.timestamp] of the edge's configuration",
            ),
            (false, _) => {
                asked.lacks("pictures are not signed", "configure [provenance.signer]: docs/provenance.md says how")
            }
        }
    }

    fn watermark(&self) -> Point {
        let asked = Asked {
            article: "Article 50(2)",
            title: "Marking: watermark",
            duty: "The second layer that the Code of Practice asks for: a watermark that nobody sees.",
            force: Force::Provider,
        };
        match self.installation.watermark {
            WatermarkUse::Own => {
                asked.is(State::Done, "pictures that a model had a part in are marked in their pixels")
            }
            WatermarkUse::Published => asked.lacks(
                "pictures are marked with the published key, so that anybody can write and erase the mark",
                "name a key of your own in [provenance.watermark] of the edge's configuration",
            ),
            WatermarkUse::Off => asked.lacks("pictures are not marked", "enable [provenance.watermark]"),
        }
    }

    fn deep_fakes(&self) -> Point {
        let asked = Asked {
            article: "Article 3(60) and Article 50(4)",
            title: "Deep fakes",
            duty: "Know whether the pictures resemble existing persons, objects, places, entities or events and would falsely \
                   appear to be authentic. If so, disclose that they were generated or manipulated.",
            force: Force::Deployer,
        };
        asked.said("deep_fakes", self.campaign.ai_act.deep_fakes.map(DeepFakes::as_str))
    }

    fn labels(&self) -> Point {
        let asked = Asked {
            article: "Article 50(4) and (5)",
            title: "Visible labels",
            duty: "Make the disclosure clear, distinguishable and accessible at the latest at the first exposure. In evidently \
                   artistic, creative, satirical or fictional work it may be made so that it does not hamper the work.",
            force: Force::Deployer,
        };
        let is_labelled = |show: LabelShow| show != LabelShow::None;
        let slots = &self.campaign.slots;
        let bare: Vec<&str> =
            slots.iter().filter(|slot| !is_labelled(slot.label.show)).map(|slot| slot.name.as_str()).collect();
        match (self.campaign.ai_act.deep_fakes, bare.is_empty()) {
            (_, true) => asked.is(State::Done, "the markup of every slot has a label, in each locale of the campaign"),
            (Some(DeepFakes::No), false) => {
                asked.is(State::NotApplicable, "the manifest says that there are no deep fakes")
            }
            (Some(_), false) => asked.lacks(
                format!("the markup has no label in {}", bare.join(", ")),
                "set `show` in [label] of the manifest, and use the markup that the preview hands out",
            ),
            (None, false) => asked.lacks(
                format!(
                    "the markup has no label in {}, and the manifest does not say whether one is needed",
                    bare.join(", ")
                ),
                "state `deep_fakes` in [ai_act], or set `show` in [label]",
            ),
        }
    }

    fn oversight(&self) -> Point {
        let asked = Asked {
            article: "Article 26(2)",
            title: "Human oversight",
            duty: "Assign oversight to people with the competence, the training, the authority and the support for it.",
            force: Force::HighRiskDeployer,
        };
        match (self.campaign.ai_act.oversight.as_deref(), self.is_high_risk()) {
            (None, Some(false)) => asked.is(State::NotApplicable, "the use is not high-risk, and nothing is said"),
            (said, _) => asked.said("oversight", said),
        }
    }

    fn logs(&self) -> Point {
        let asked = Asked {
            article: "Article 26(6), with Articles 12 and 19",
            title: "Retention of logs",
            duty: "Keep the logs that the system makes by itself for at least six months, as far as they are under your control.",
            force: Force::HighRiskDeployer,
        };
        const KEY: &str = "state `log_retention_days` in [ai_act], and set up rotation so that it holds";
        let log = if self.installation.has_access_log { "the access log is on" } else { "the access log is off" };
        match (self.campaign.ai_act.log_retention_days, self.is_high_risk()) {
            (None, Some(false)) => asked.is(State::NotApplicable, format!("the use is not high-risk; {log}")),
            (None, _) => asked.lacks(format!("the manifest does not say how long logs are kept; {log}"), KEY),
            (Some(days), Some(false)) => asked.is(State::Documented, format!("{days} days; {log}")),
            (Some(days), _) if days < SIX_MONTHS_DAYS => {
                asked.lacks(format!("{days} days, which is less than six months; {log}"), KEY)
            }
            (Some(days), _) if !self.installation.has_access_log => {
                asked.lacks(format!("{days} days; {log}"), "switch on [access_log] of the edge's configuration")
            }
            (Some(days), _) => asked.is(State::Documented, format!("{days} days; {log}")),
        }
    }

    fn high_risk(&self) -> Point {
        let asked = Asked {
            article: "Article 26(1), (4), (5), (7), (11) and (12), Article 27, Article 49(3)",
            title: "Further duties of high-risk deployers",
            duty: "Use by the provider's instructions; input data that fit the purpose; monitoring and reporting; information of \
                   workers and of persons concerned; cooperation with authorities; where they apply, the assessment of the impact \
                   on fundamental rights and registration.",
            force: Force::HighRiskDeployer,
        };
        match self.is_high_risk() {
            Some(false) => asked.is(State::NotApplicable, "the use is not high-risk"),
            Some(true) => asked.is(State::Elsewhere, "none of it stands in Bildkante's files"),
            None => asked.lacks("it depends on the risk class", "state `risk_class` in [ai_act] of the manifest"),
        }
    }

    /// Per model, because each has a card of its own.
    fn data(&self) -> Point {
        let asked = Asked {
            article: "Article 53(1)(d), which binds providers of general-purpose models",
            title: "Models and their data",
            duty: "Keep the licence, the model card and what the card says of the training data of every model. The regulation asks \
                   the model's provider for a public summary of the training content; a deployer is asked where it is.",
            force: Force::Practice,
        };
        let mut models: Vec<ModelPaper> =
            self.campaign.slots.iter().flat_map(|slot| models(self.campaign, slot)).collect();
        models.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
        models.dedup_by(|a, b| (a.role, &a.name) == (b.role, &b.name));
        let lacking: Vec<String> = models.iter().filter_map(lacking).collect();
        match (models.is_empty(), lacking.is_empty()) {
            (true, _) => asked.is(State::NotApplicable, "no model draws for this campaign"),
            (false, true) => asked.is(State::Documented, models.iter().map(stated).collect::<Vec<_>>().join("; ")),
            (false, false) => asked.lacks(
                lacking.join("; "),
                "state `license`, `card` and `training_data` in [models.NAME] of the manifest",
            ),
        }
    }

    fn contact(&self) -> Point {
        let asked = Asked {
            article: "Article 26(12) for high-risk systems",
            title: "Contact",
            duty: "Name whom authorities and readers turn to with questions on the pictures.",
            force: Force::Practice,
        };
        asked.said("contact", self.campaign.ai_act.contact.as_deref())
    }
}

fn prohibited() -> Point {
    let asked = Asked {
        article: "Article 5",
        title: "Prohibited practices",
        duty: "Make sure that the pictures serve no prohibited practice, such as manipulation that causes harm, or intimate pictures \
               of people without their consent.",
        force: Force::Deployer,
    };
    asked.is(
        State::Elsewhere,
        "readers cannot ask for pictures in their own words: every variant stands in the manifest. What the manifest asks for is \
         yours to judge",
    )
}

fn metadata() -> Point {
    let asked = Asked {
        article: "Article 50(2)",
        title: "Marking: source type",
        duty: "Say in the file's metadata how the picture came to be (IPTC digital source type).",
        force: Force::Provider,
    };
    asked.is(State::Done, "every rendition has it in its XMP; no setting takes it away")
}

fn lacking(model: &ModelPaper) -> Option<String> {
    let facts = [("licence", &model.license), ("model card", &model.card), ("training data", &model.training_data)];
    let lacking: Vec<&str> = facts.iter().filter(|(_, fact)| fact.is_none()).map(|(name, _)| *name).collect();
    (!lacking.is_empty()).then(|| format!("{} `{}`: unknown {}", model.role, model.name, lacking.join(", ")))
}

fn stated(model: &ModelPaper) -> String {
    let said = |fact: &Option<String>| fact.clone().unwrap_or_default();
    let (license, card, data) = (said(&model.license), said(&model.card), said(&model.training_data));
    format!("{} `{}`: {license}, {card}, {data}", model.role, model.name)
}
