//! The pages across campaigns: the first one, the queue of what awaits the reader, and two pictures held against each other.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bildkante_shared::problem::Problem;

use super::cards::page_of;
use super::census::SlotOf;
use super::desk::Desk;
use super::frame::{Crumb, Measured};
use super::home::{self, CampaignView};
use super::layers::sets_on_picture;
use super::queue::{self, Waiting};
use super::tastes::Tastes;
use super::ways::{campaign_of, crumbs, from_queue, is_reviewed, not_found, slot_of};
use super::{Content, Preview, Reader, compare, wording};
use crate::campaign::Catalog;
use crate::governance::ShownCase;
use crate::seo::Loading;
use crate::shared_state::PersonRole;

impl Preview {
    pub(super) fn home(&self, tastes: Tastes, reader: &Reader<'_>, waiting: &[(String, ShownCase)]) -> Content {
        let catalog = self.catalog.load();
        let seen = catalog.campaigns().filter(|campaign| (reader.sees)(Some(&campaign.name)));
        let texts: Vec<_> = seen
            .map(|campaign| {
                let of = SlotOf { campaign, slot_index: 0 };
                let first = wording::localised(campaign, of.slot(), campaign.default_combination(), tastes.language);
                let texts = self.texts(&catalog, of, first, tastes);
                (campaign, texts, self.seals(campaign))
            })
            .collect();
        let views: Vec<_> = texts
            .iter()
            .map(|(campaign, texts, seals)| CampaignView {
                name: &campaign.name,
                title: &campaign.title,
                slots: campaign.slots.iter().map(|slot| slot.name.as_str()).collect(),
                variants: campaign.combination_count(),
                awaiting: waiting.iter().filter(|(picture, _)| campaign_of(picture) == campaign.name).count(),
                picture: texts
                    .as_ref()
                    .filter(|_| seals.are_usable())
                    .map(|texts| texts.picture(seals.own(), Loading::Hero, "288px")),
                notice: seals.notice(),
            })
            .collect();
        Content {
            title: tastes.say("Campaigns", "Kampagnen").to_owned(),
            crumbs: Vec::new(),
            main: home::home(tastes, &views),
            measured: if reader.name.is_some() { Measured::No } else { Measured::ByBrowser },
            is_wide: false,
        }
    }

    /// Cases that await what the reader may decide, the oldest first.
    pub(super) fn waiting(&self, reader: &Reader<'_>) -> Vec<(String, ShownCase)> {
        let survey = self.reviews.survey();
        let catalog = self.catalog.load();
        let may_decide = |picture: &str| {
            (reader.role)(campaign_of(picture)) >= Some(PersonRole::Reviewer) && is_reviewed(&catalog, picture)
        };
        let mut waiting: Vec<_> =
            survey.awaiting_each(may_decide).map(|(picture, shown)| (picture.to_owned(), shown)).collect();
        waiting.sort_unstable_by_key(|(_, shown)| shown.case.id);
        waiting
    }

    pub(super) fn queue(&self, tastes: Tastes, reader: &Reader<'_>, waiting: &[(String, ShownCase)]) -> Content {
        let catalog = self.catalog.load();
        let shown = waiting.iter().take(queue::QUEUE_PAGE);
        let views: Vec<_> = shown.map(|(picture, shown)| self.waits(&catalog, picture, shown, tastes)).collect();
        Content {
            title: tastes.say("Needs me", "Für mich").to_owned(),
            crumbs: vec![Crumb { name: tastes.say("Needs me", "Für mich").to_owned(), to: None }],
            main: queue::queue(tastes, &views, waiting.len(), reader.name),
            measured: Measured::No,
            is_wide: false,
        }
    }

    fn waits(&self, catalog: &Catalog, picture: &str, shown: &ShownCase, tastes: Tastes) -> Waiting {
        let meant = self.meant(catalog, picture);
        let (headline, layer_sets) = match &meant {
            Some((campaign, slot_index, variant)) => (
                wording::headline(campaign, &campaign.slots[*slot_index], &variant.values, tastes.language),
                sets_on_picture(campaign, *slot_index, variant.key.combination),
            ),
            None => (picture.to_owned(), 0),
        };
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let case = &shown.case;
        Waiting {
            size_px: (shown.case.drawn.width_px, shown.case.drawn.height_px),
            case: case.id,
            headline,
            place: picture.split('?').next().unwrap_or(picture).to_owned(),
            page: format!("{}#case-{}", from_queue(&page_of(picture)), case.id),
            age: case.drawn.drawn_unix_s.map(|drawn_s| Duration::from_secs(now_s.saturating_sub(drawn_s))),
            asked: case.escalated.as_ref().map(|escalated| (escalated.to.clone(), shown.is_overdue)),
            approvals: case.approved_by.len(),
            layer_sets,
        }
    }

    pub(super) fn compare(&self, tastes: Tastes, query: &str, reader: &Reader<'_>) -> Result<Content, Box<Problem>> {
        let side = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let id = pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok());
            id.and_then(|id| self.reviews.case(id)).ok_or_else(|| not_found(format!("`{name}` names no case")))
        };
        let sides = [side("a")?, side("b")?];
        if !sides.iter().all(|it| (reader.role)(campaign_of(&it.variant)) >= Some(PersonRole::Reviewer)) {
            return Err(Box::new(Problem::new(403, "forbidden", "Forbidden", "reviewers compare pictures")));
        }
        let catalog = self.catalog.load();
        let name = &sides[1].variant;
        let meant = self.meant(&catalog, name);
        let headline = meant.map(|(campaign, slot_index, variant)| {
            wording::headline(campaign, &campaign.slots[slot_index], &variant.values, tastes.language)
        });
        let headline = headline.unwrap_or_else(|| name.clone());
        let back = page_of(name);
        let role = (reader.role)(campaign_of(name));
        let page = compare::ComparePage {
            tastes,
            headline: &headline,
            back: &back,
            sides: [&sides[0], &sides[1]],
            desk: role.map(|role| Desk { role, csrf: reader.csrf, back: &back }),
        };
        Ok(Content {
            title: headline.clone(),
            crumbs: crumbs(&catalog, campaign_of(name), slot_of(name), Some(headline.clone())),
            main: compare::compare(&page),
            measured: Measured::No,
            is_wide: true,
        })
    }
}
