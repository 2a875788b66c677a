//! Which pictures of a slot a page shows, and how many there are of each kind: the filter applied to the census.

use std::cmp::Reverse;
use std::sync::Arc;

use bildkante_shared::phash::PerceptualHash;

use super::census::{Census, SlotOf};
use super::filter::{Filter, Like, Sort};
use super::states::{PictureState, States};
use super::wording;
use crate::governance::AwaitingCase;
use crate::language::Language;

/// What is looked up of an entry for each page.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing {
    pub(super) states: States,
    /// The case that came last.
    pub(super) newest: Option<u64>,
    /// The last one that awaits a decision.
    pub(super) awaiting: Option<AwaitingCase>,
    /// What the picture looks like that this is about; `None` before it is drawn.
    pub(super) hash: Option<PerceptualHash>,
}

/// A value of an axis, or a state, as something to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice<T> {
    pub(super) of: T,
    /// Pictures that it would show beside everything else that is asked for.
    pub(super) count: usize,
    pub(super) is_chosen: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) census: Arc<Census>,
    standings: Vec<Standing>,
    /// Entries that are asked for, in the order that is asked for.
    pub(super) matching: Vec<usize>,
    /// By the axes that a reader chooses by, their values.
    pub(super) axes: Vec<(usize, Vec<Choice<usize>>)>,
    pub(super) states: Vec<Choice<PictureState>>,
}

/// Which of the questions an entry fails.
enum Fails {
    None,
    /// This one alone.
    Axis(usize),
    States,
    More,
}

impl Board {
    /// `standings`: one for each entry.
    pub(super) fn new(of: SlotOf<'_>, census: Arc<Census>, standings: Vec<Standing>, asked: &Filter) -> Self {
        let chosen_by = census.chosen_by(of.campaign);
        let mut counts: Vec<Vec<usize>> =
            chosen_by.iter().map(|&axis| vec![0; of.campaign.axes[axis].values.len()]).collect();
        let mut state_counts = [0; PictureState::ALL.len()];
        let mut matching = Vec::new();
        let words = asked.words();
        let like = asked.like.as_ref().and_then(|like| Some((reference(of, &census, &standings, like)?, like.bits)));
        for (index, (entry, standing)) in census.entries.iter().zip(&standings).enumerate() {
            let values = of.campaign.values_of(entry.combination);
            if !words.iter().all(|word| has_word(of, &values, &entry.picture, word)) {
                continue;
            }
            if like.is_some_and(|(hash, bits)| !standing.looks_like(hash, bits)) {
                continue;
            }
            let fails = fails(asked, &census.axes, &values, standing.states);
            for (at, &axis) in chosen_by.iter().enumerate() {
                let is_counted = match fails {
                    Fails::None => true,
                    Fails::Axis(other) => other == axis,
                    Fails::States | Fails::More => false,
                };
                counts[at][values[axis]] += usize::from(is_counted);
            }
            if matches!(fails, Fails::None | Fails::States) {
                standing.states.each().for_each(|state| state_counts[state as usize] += 1);
            }
            if matches!(fails, Fails::None) {
                matching.push(index);
            }
        }
        sort(&mut matching, &standings, asked.sort);
        let choices = |(axis, counts): (usize, Vec<usize>)| {
            let choice = |(value, count)| Choice { of: value, count, is_chosen: asked.chooses(axis, value) };
            (axis, counts.into_iter().enumerate().map(choice).collect())
        };
        let axes = chosen_by.into_iter().zip(counts).map(choices).collect();
        let states = PictureState::ALL.into_iter().zip(state_counts);
        let states = states.map(|(of, count)| Choice { of, count, is_chosen: asked.states.has(of) });
        let states = states.filter(|choice| choice.count > 0 || choice.is_chosen).collect();
        Self { census, standings, matching, axes, states }
    }

    pub(super) fn standing(&self, entry: usize) -> Standing {
        self.standings[entry]
    }

    /// How many other pictures of the slot look like an entry's, whatever else is asked for.
    pub(super) fn alike(&self, entry: usize, bits: u32) -> usize {
        let Some(hash) = self.standings[entry].hash else { return 0 };
        self.standings.iter().filter(|other| other.looks_like(hash, bits)).count().saturating_sub(1)
    }
}

impl Standing {
    fn looks_like(&self, hash: PerceptualHash, bits: u32) -> bool {
        self.hash.is_some_and(|own| own.distance(hash) <= bits)
    }
}

/// What the picture looks like that others are held against. One that is unknown, or not drawn, is not asked for.
fn reference(of: SlotOf<'_>, census: &Census, standings: &[Standing], like: &Like) -> Option<PerceptualHash> {
    let separator = if like.values.is_empty() { "" } else { "?" };
    let name = format!("{}/{}{separator}{}", of.campaign.name, of.slot().name, like.values);
    let entry = census.entries.iter().position(|entry| *entry.picture == *name)?;
    standings[entry].hash
}

fn fails(asked: &Filter, axes: &[usize], values: &[usize], states: States) -> Fails {
    let mut failed = axes.iter().copied().filter(|&axis| !asked.admits(axis, values[axis]));
    let first = failed.next();
    let has_states = asked.states.is_empty() || asked.states.meets(states);
    match (first, failed.next(), has_states) {
        (None, _, true) => Fails::None,
        (Some(axis), None, true) => Fails::Axis(axis),
        (None, _, false) => Fails::States,
        _ => Fails::More,
    }
}

fn sort(matching: &mut [usize], standings: &[Standing], by: Sort) {
    match by {
        Sort::Manifest => {}
        Sort::State => {
            let urgency = |states: States| states.each().next().map_or(usize::MAX, |state| state as usize);
            matching.sort_by_key(|&entry| urgency(standings[entry].states));
        }
        Sort::Newest => matching.sort_by_key(|&entry| Reverse(standings[entry].newest)),
    }
}

/// Whether a word stands in the name or a label of a value, in any language, or in the name of the picture.
fn has_word(of: SlotOf<'_>, values: &[usize], picture: &str, word: &str) -> bool {
    let labels = of.campaign.axes.iter().zip(values).flat_map(|(axis, &value)| {
        let value = &axis.values[value];
        Language::ALL.into_iter().map(|language| wording::value(value, language)).chain([value.name.as_str()])
    });
    labels.into_iter().any(|label| label.to_lowercase().contains(word)) || picture.contains(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::Campaign;
    use crate::campaign::tests::studio;
    use crate::preview::census::Censuses;

    fn board(campaign: &Campaign, query: &str) -> Board {
        let of = SlotOf { campaign, slot_index: 0 };
        let census = Censuses::default().of(campaign, 0);
        let standing = |entry: usize| {
            let state = if entry.is_multiple_of(2) { PictureState::Live } else { PictureState::NeedsReview };
            Standing { states: States::default().with(state), newest: Some(entry as u64), awaiting: None, hash: None }
        };
        let standings = (0..census.entries.len()).map(standing).collect();
        Board::new(of, census, standings, &Filter::parse(campaign, query))
    }

    #[test]
    fn locales_that_share_a_picture_are_one_entry() {
        let campaign = studio();
        let board = board(&campaign, "");
        assert_eq!(board.matching.len() as u64 * 2, campaign.combination_count());
        assert!(board.census.entries.iter().all(|entry| entry.variants == 2));
        assert!(board.axes.iter().all(|(axis, _)| campaign.axes[*axis].name != "locale"));
    }

    #[test]
    fn a_choice_counts_what_it_would_show_beside_the_others() {
        let campaign = studio();
        let all = board(&campaign, "").matching.len();
        let asked = board(&campaign, "product=mug&product=vase&_state=live");
        let colours = campaign.axes.iter().find(|axis| axis.name == "colour").unwrap().values.len();
        assert_eq!(asked.matching.len(), all / 8 * 2 / 2);
        let (_, products) = &asked.axes[0];
        assert!(products.iter().all(|choice| choice.count == all / 8 / 2), "{products:?}");
        assert_eq!(products.iter().filter(|choice| choice.is_chosen).count(), 2);
        let (_, by_colour) = &asked.axes[1];
        assert!(by_colour.iter().all(|choice| choice.count == asked.matching.len() / colours), "{by_colour:?}");
        let counts: Vec<_> = asked.states.iter().map(|choice| (choice.of, choice.count)).collect();
        let half = all / 8 * 2 / 2;
        assert_eq!(counts, [(PictureState::NeedsReview, half), (PictureState::Live, half)]);
    }

    #[test]
    fn words_are_looked_for_in_every_language() {
        let campaign = studio();
        let german = board(&campaign, "_q=becher+rot").matching;
        let english = board(&campaign, "_q=red%20MUG").matching;
        assert!(!german.is_empty());
        assert_eq!(german, english);
        assert_eq!(board(&campaign, "_q=teapot").matching, [0; 0]);
    }

    #[test]
    fn what_is_urgent_or_new_comes_first() {
        let campaign = studio();
        let by_state = board(&campaign, "_sort=state");
        assert!(by_state.standing(by_state.matching[0]).states.has(PictureState::NeedsReview));
        assert!(by_state.standing(*by_state.matching.last().unwrap()).states.has(PictureState::Live));
        let newest = board(&campaign, "_sort=newest").matching;
        assert_eq!(newest[0], newest.len() - 1);
    }

    #[test]
    fn pictures_that_look_alike_are_counted_and_found() {
        let campaign = studio();
        let of = SlotOf { campaign: &campaign, slot_index: 0 };
        let census = Censuses::default().of(&campaign, 0);
        // Each picture differs from the first by as many bits as its place says.
        let hash = |place: usize| {
            let mut bytes = [0; 32];
            (0..place.min(256)).for_each(|bit| bytes[bit / 8] |= 1 << (bit % 8));
            Some(PerceptualHash::from_bytes(bytes))
        };
        let standings: Vec<Standing> =
            (0..census.entries.len()).map(|place| Standing { hash: hash(place), ..Standing::default() }).collect();
        let name = census.entries[0].picture.to_string();
        let values = percent_encoding::utf8_percent_encode(
            name.split_once('?').map_or("", |(_, values)| values),
            percent_encoding::NON_ALPHANUMERIC,
        )
        .to_string();
        let board =
            |query: &str| Board::new(of, Arc::clone(&census), standings.clone(), &Filter::parse(&campaign, query));
        let near = board(&format!("_like={values}&_bits=3"));
        assert_eq!(near.matching, [0, 1, 2, 3]);
        assert_eq!((near.alike(0, 3), near.alike(0, 0)), (3, 0));
        assert_eq!(board("_like=colour%3Dnone").matching.len(), census.entries.len(), "unknown: not asked for");
    }
}
