//! The page of a slot: which of its pictures a filter asks for, how far each is, and what the page makes of them.

use bildkante_shared::problem::Problem;

use super::board::{Board, Standing};
use super::bulk::{Asked, Bulk, Seen};
use super::cards::{CardTexts, Pickable, Shown};
use super::census;
use super::census::SlotOf;
use super::desk::Desk;
use super::filter::{self, Filter, LIKE_BITS, View};
use super::frame::Measured;
use super::layers::sets_on_picture;
use super::matrix::Matrix;
use super::sharing::Shareable;
use super::slot::{self, Laid, SlotPage};
use super::states::{PictureState, States};
use super::tastes::Tastes;
use super::ways::{crumbs, place};
use super::{CARDS_PER_PAGE, Content, Preview, wording};
use crate::campaign::Catalog;
use crate::seo::Loading;
use crate::shared_state::PersonRole;

impl Preview {
    pub(super) fn slot(
        &self,
        tastes: Tastes,
        (path, query): (&str, &str),
        desk: Option<(PersonRole, Option<&str>)>,
    ) -> Result<Content, Box<Problem>> {
        let catalog = self.catalog.load();
        let (campaign, slot_index) = place(&catalog, path)?;
        let of = SlotOf { campaign, slot_index };
        let asked = Filter::parse(campaign, query);
        let board = self.board(&catalog, of, &asked);
        let seals = self.seals(campaign);
        let matrix = (asked.view != Some(View::Cards)).then(|| Matrix::of(of, &board, &asked)).flatten();
        let pages = board.matching.len().div_ceil(CARDS_PER_PAGE).max(1);
        let current = asked.page.min(pages);
        let entries: Vec<usize> = match &matrix {
            Some(matrix) => matrix.entries().collect(),
            None => board.matching.iter().copied().skip((current - 1) * CARDS_PER_PAGE).take(CARDS_PER_PAGE).collect(),
        };
        let texts: Vec<(usize, CardTexts)> = entries
            .into_iter()
            .filter_map(|entry| {
                let combination = board.census.entries[entry].combination;
                let combination = wording::localised(campaign, of.slot(), combination, tastes.language);
                self.texts(&catalog, of, combination, tastes).map(|texts| (entry, texts))
            })
            .collect();
        let sizes = if matrix.is_some() { "112px" } else { "216px" };
        let bits = asked.like.as_ref().map_or(LIKE_BITS, |like| like.bits);
        let may_look = desk.is_some_and(|(role, _)| role >= PersonRole::Reviewer);
        let cards = texts.iter().map(|(entry, texts)| {
            let (Standing { states, awaiting, newest, .. }, variants) =
                (board.standing(*entry), board.census.entries[*entry].variants);
            let is_stand_in = !states.has(PictureState::Live) && !states.has(PictureState::Withheld);
            // What awaits the reader, else what was decided last: a stand-in says nothing of either.
            let case = awaiting.map(|awaiting| awaiting.id).or(newest).filter(|_| may_look && is_stand_in);
            let pick = if may_look { Pickable::Yes(awaiting) } else { Pickable::No };
            let alike = board.alike(*entry, bits);
            let loading = Loading::Lazy;
            let layer_sets = sets_on_picture(campaign, slot_index, board.census.entries[*entry].combination);
            let seals = &seals;
            (*entry, texts.card(Shown { seals, loading, sizes, states, variants, layer_sets, case, pick, alike }))
        });
        let laid = match matrix {
            Some(matrix) => Laid::Matrix { matrix, cards: cards.collect() },
            None => Laid::Cards { cards: cards.map(|(_, card)| card).collect(), page: current, pages },
        };
        let back = format!("/preview/{}/{}?{}", campaign.name, of.slot().name, asked.query(campaign));
        let bulk = desk.filter(|(role, _)| *role >= PersonRole::Reviewer).map(|(role, csrf)| Bulk {
            desk: Desk { role, csrf, back: &back },
            campaign: &campaign.name,
            slot: &of.slot().name,
            query: asked.query(campaign),
            seen: Seen::of(board.matching.iter().filter_map(|&entry| board.standing(entry).awaiting)),
            pictures: board.matching.len(),
        });
        let sharing = bulk.as_ref().map(|bulk| {
            let what = Shareable::Filter(bulk.query.clone(), bulk.pictures);
            self.sharing_of(&format!("{}/{}", bulk.campaign, bulk.slot), what)
        });
        let page = SlotPage { of, tastes, asked: &asked, board: &board, notice: seals.notice(), laid, bulk, sharing };
        let main = slot::slot(&page);
        Ok(Content {
            title: format!("{} · {}", campaign.title, of.slot().name),
            crumbs: crumbs(&catalog, &campaign.name, &of.slot().name, None),
            main,
            measured: if desk.is_some() { Measured::No } else { Measured::ByBrowser },
            is_wide: true,
        })
    }

    /// The pictures of a slot that a filter asks for.
    pub(super) fn board(&self, catalog: &Catalog, of: SlotOf<'_>, asked: &Filter) -> Board {
        let census = self.censuses.of(of.campaign, of.slot_index);
        let survey = self.reviews.survey();
        let (slot, may_be_withheld) = (of.slot(), survey.has_kills() || !of.campaign.rights_ends().is_empty());
        let cut = slot.cut_words();
        let standing = |entry: &census::Entry| {
            let mut states: States = if slot.review.is_required() {
                survey.states(&entry.picture, &cut).map(PictureState::from).collect()
            } else {
                let is_drawn = entry.recipe.is_some_and(|recipe| self.bindings.get(recipe).is_some());
                States::default().with(if is_drawn { PictureState::Drawn } else { PictureState::Missing })
            };
            if states.is_empty() {
                states = states.with(PictureState::Missing);
            }
            let variant = may_be_withheld.then(|| catalog.variant(of.campaign, of.slot_index, entry.combination).ok());
            if variant.flatten().is_some_and(|variant| survey.withheld(&variant).is_some()) {
                states = states.with(PictureState::Withheld);
            }
            let is_reviewed = slot.review.is_required();
            let hash = if is_reviewed {
                survey.fingerprint(&entry.picture)
            } else {
                entry.recipe.and_then(|recipe| Some(self.bindings.get(recipe)?.phash))
            };
            Standing {
                states,
                hash,
                newest: survey.newest(&entry.picture).filter(|_| is_reviewed),
                awaiting: survey.awaiting(&entry.picture).filter(|_| is_reviewed),
            }
        };
        let standings = census.entries.iter().map(standing).collect();
        Board::new(of, census, standings, asked)
    }

    /// The pictures that a filter of a slot's page asks for.
    ///
    /// # Errors
    /// When there is no such slot.
    pub(crate) fn asked_for(&self, slot: &str, query: &str) -> Result<Vec<Asked>, Box<Problem>> {
        let catalog = self.catalog.load();
        let (campaign, slot_index) = place(&catalog, slot)?;
        let of = SlotOf { campaign, slot_index };
        let board = self.board(&catalog, of, &Filter::parse(campaign, query));
        let asked = |&entry: &usize| Asked {
            picture: board.census.entries[entry].picture.to_string(),
            awaiting: board.standing(entry).awaiting,
            is_makeable: board.census.entries[entry].is_makeable,
        };
        Ok(board.matching.iter().map(asked).collect())
    }

    /// The states that a filter may ask for.
    #[must_use]
    pub(crate) fn state_names() -> Vec<&'static str> {
        PictureState::ALL.map(PictureState::as_str).to_vec()
    }

    /// The query of a slot's page that asks for these values, states and words.
    #[must_use]
    pub(crate) fn filter_query(axes: &[(String, Vec<String>)], states: &[String], text: Option<&str>) -> String {
        filter::query_of(axes, states, text)
    }

    /// The variants that have the picture of this one, itself among them: its locales, as a rule.
    #[must_use]
    pub(crate) fn sharing(&self, name: &str) -> Vec<String> {
        let catalog = self.catalog.load();
        let Some((campaign, slot_index, variant)) = self.meant(&catalog, name) else { return vec![name.to_owned()] };
        let census = self.censuses.of(campaign, slot_index);
        let own = census.entry_of(campaign, variant.key.combination);
        let sharing = campaign.combinations().filter(|&other| census.entry_of(campaign, other) == own);
        let variants = sharing.filter_map(|other| catalog.variant(campaign, slot_index, other).ok());
        variants.map(|variant| variant.name.clone()).collect()
    }
}
