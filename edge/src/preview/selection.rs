//! Which pictures a filter or a reader's picks come to, where they are shown to people with a link.
//!
//! A card that is picked sends the name of its picture and the case that it showed, so a manifest that is read anew between page and form
//! moves no pick to another picture.

use bildkante_shared::problem::Problem;

use super::filter::Filter;
use super::{Preview, SlotOf, place};
use crate::governance::AwaitingCase;
use crate::shared_state::{SHARED_PICTURES_MAX, SharedPicture};

/// Before a picture's name, as the name of a field.
pub(crate) const PICK: &str = "pick/";

/// What is chosen of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// The query of its page.
    Filter(String),
    /// Names of pictures or variants.
    Pictures(Vec<String>),
}

/// The value of a picked card's field: the case that awaits a decision, as the card showed it.
pub(super) fn pick_value(awaiting: Option<AwaitingCase>) -> String {
    awaiting.map_or_else(String::new, |AwaitingCase { id, seen }| format!("{id}.{seen}"))
}

/// What a picked card showed; `None` where nothing awaited a decision. An error where it says neither.
pub(crate) fn picked_case(value: &str) -> Result<Option<AwaitingCase>, ()> {
    if value.is_empty() {
        return Ok(None);
    }
    let (id, seen) = value.split_once('.').ok_or(())?;
    let number = |text: &str| text.parse::<u64>().map_err(drop);
    Ok(Some(AwaitingCase { id: number(id)?, seen: number(seen)? }))
}

impl Preview {
    /// The pictures that a link to this selection shows, each as its page shows it: what awaits a decision, else what is live, else what
    /// was decided last. Pictures that do not exist yet are left out.
    ///
    /// # Errors
    /// When there is no such slot or picture, there are none to show, or too many.
    pub(crate) fn to_share(&self, slot: &str, of: &Selection) -> Result<Vec<SharedPicture>, Box<Problem>> {
        let catalog = self.catalog.load();
        let (campaign, slot_index) = place(&catalog, slot)?;
        let of_slot = SlotOf { campaign, slot_index };
        let mut meant = Vec::new();
        match of {
            Selection::Filter(query) => {
                let board = self.board(&catalog, of_slot, &Filter::parse(campaign, query));
                let entries = board.matching.iter().map(|&entry| &board.census.entries[entry]);
                meant.extend(entries.map(|entry| (entry.picture.to_string(), entry.recipe)));
            }
            Selection::Pictures(names) => {
                for name in names {
                    let variant = self
                        .meant(&catalog, name)
                        .filter(|(its, at, _)| its.name == campaign.name && *at == slot_index);
                    let (_, _, variant) = variant.ok_or_else(|| no_picture(slot, name))?;
                    meant.push((variant.picture.clone(), Some(variant.recipe.id())));
                }
            }
        }
        let (survey, cut) = (self.reviews.survey(), of_slot.slot().cut_words());
        let mut pictures: Vec<SharedPicture> = Vec::new();
        for (picture, recipe) in meant {
            if pictures.iter().any(|known| known.picture == picture) {
                continue;
            }
            if of_slot.slot().review.is_required() {
                let case = survey.to_show(&picture, &cut);
                pictures.extend(case.map(|case| SharedPicture { picture, case: Some(case) }));
            } else if recipe.is_some_and(|recipe| self.bindings.get(recipe).is_some()) {
                pictures.push(SharedPicture { picture, case: None });
            }
            if pictures.len() > SHARED_PICTURES_MAX {
                let detail = format!("a link shows at most {SHARED_PICTURES_MAX} pictures: narrow the selection");
                return Err(Box::new(Problem::new(422, "invalid-field", "Invalid field", detail)));
            }
        }
        if pictures.is_empty() {
            let detail = "there is no picture to show among these: none is drawn yet";
            return Err(Box::new(Problem::new(422, "invalid-field", "Invalid field", detail)));
        }
        Ok(pictures)
    }
}

fn no_picture(slot: &str, name: &str) -> Box<Problem> {
    let shown: String = name.chars().take(120).collect();
    let detail = format!("`{shown}` is no picture of `{slot}`");
    Box::new(Problem::new(422, "invalid-field", "Invalid field", detail).with_parameter("pictures", Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pick_says_what_the_card_showed() {
        let case = AwaitingCase { id: 7, seen: 9 };
        assert_eq!(picked_case(&pick_value(Some(case))), Ok(Some(case)));
        assert_eq!(picked_case(&pick_value(None)), Ok(None));
        for wrong in ["7", "7.", ".9", "a.b", "7.9.1", "-7.9"] {
            assert_eq!(picked_case(wrong), Err(()), "{wrong}");
        }
    }
}
