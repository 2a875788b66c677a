//! What the pages of drafts are made of.

use std::sync::Arc;

use bildkante_shared::problem::Problem;

use super::cards::page_of;
use super::census::SlotOf;
use super::draft::{self, DraftForm, DraftPage};
use super::frame::Measured;
use super::likeness::Likeness;
use super::tastes::Tastes;
use super::ways::{campaign_of, crumbs, not_found, slot_of};
use super::{Content, Preview, Reader};
use crate::cache::Binding;
use crate::campaign::Variant;
use crate::seo::Loading;
use crate::shared_state::PersonRole;

/// Where the pages of drafts are, below `/preview`.
pub(super) const DRAFTS: &str = "/drafts/";

impl Preview {
    /// The form on the page of a variant.
    pub(super) async fn draft_form(&self, variant: &Variant) -> DraftForm {
        DraftForm {
            variant: variant.name.clone(),
            knobs: self.drafts.knobs(&variant.name).await.map_err(|error| error.to_string()),
            seed: variant.drawn_seed(),
            sheets: self.drafts.of_variant(&variant.name),
        }
    }

    /// What a variant's picture looks like.
    pub(super) fn likeness(&self, variant: &Variant, binding: Option<Arc<Binding>>) -> Likeness {
        let split = self.reviews.log().published().load().splits().of(&variant.picture);
        Likeness { variant: variant.name.clone(), binding, split }
    }

    /// The page of a draft, for those who decide in its campaign.
    pub(super) fn draft(&self, tastes: Tastes, id: &str, reader: &Reader<'_>) -> Result<Content, Box<Problem>> {
        let ended =
            || not_found("there is no such draft: drafts end after a day, and when the edge is started again".into());
        let sheet = self.drafts.sheet(id).ok_or_else(ended)?;
        let name = &sheet.variant;
        if (reader.role)(campaign_of(name)) < Some(PersonRole::Reviewer) {
            return Err(Box::new(Problem::new(403, "forbidden", "Forbidden", "reviewers see drafts")));
        }
        let catalog = self.catalog.load();
        let (campaign, slot_index, variant) = self.meant(&catalog, name).ok_or_else(ended)?;
        let of = SlotOf { campaign, slot_index };
        let texts = self.texts(&catalog, of, variant.key.combination, tastes).ok_or_else(ended)?;
        let seals = self.seals(campaign);
        let present = seals.are_usable().then(|| texts.picture(seals.own(), Loading::Hero, "320px"));
        let back = page_of(name);
        let headline = texts.headline().to_owned();
        let page = DraftPage {
            tastes,
            headline: &headline,
            values: texts.values(),
            back: &back,
            present: present.as_ref(),
            sheet: &sheet,
            price: self.batches.price(),
            sees: reader.sees,
        };
        Ok(Content {
            title: headline.clone(),
            crumbs: crumbs(&catalog, campaign_of(name), slot_of(name), Some(tastes.say("Draft", "Entwurf").to_owned())),
            main: draft::page(&page),
            measured: Measured::No,
            is_wide: true,
        })
    }
}
