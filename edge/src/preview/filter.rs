//! What the address of a slot's page says: which pictures, in which order, how they are laid out.
//!
//! All of it stands in the query, so that a link shows another person the same. An axis's value is asked for by the axis's name;
//! names of everything else begin with `_`, as no axis's does.

use std::fmt::Write as _;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::states::{PictureState, States};
use crate::campaign::Campaign;

const STATE: &str = "_state";
const TEXT: &str = "_q";
const VIEW: &str = "_view";
const ROWS: &str = "_rows";
const COLUMNS: &str = "_columns";
const SORT: &str = "_sort";
const PAGE: &str = "_page";
const LIKE: &str = "_like";
const BITS: &str = "_bits";
const TEXT_CHARS_MAX: usize = 100;
const WORDS_MAX: usize = 8;
/// Longest name of a picture that others look like.
const LIKE_BYTES_MAX: usize = 1_024;
/// Bits of 256 in which fingerprints of pictures that look alike may differ: as of two retouches of one picture, and at most.
pub(super) const LIKE_BITS: u32 = 24;
pub(super) const LIKE_BITS_MAX: u32 = 64;

/// How pictures are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// Two axes as rows and columns.
    Matrix,
    Cards,
}

impl View {
    pub(super) const ALL: [Self; 2] = [Self::Matrix, Self::Cards];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Matrix => "matrix",
            Self::Cards => "cards",
        }
    }
}

/// The order of cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sort {
    #[default]
    Manifest,
    /// The most urgent first.
    State,
    /// The newest first, by what was put before reviewers last.
    Newest,
}

impl Sort {
    pub(super) const ALL: [Self; 3] = [Self::Manifest, Self::State, Self::Newest];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::State => "state",
            Self::Newest => "newest",
        }
    }
}

/// Pictures that look like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Like {
    /// Values of that one, as its name has them.
    pub(super) values: String,
    /// Bits in which fingerprints may differ.
    pub(super) bits: u32,
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    /// The values asked for, axis by axis; none: all of them.
    pub(super) values: Vec<Vec<usize>>,
    pub(super) states: States,
    /// As it was typed.
    pub(super) text: String,
    pub(super) like: Option<Like>,
    /// `None`: as suits the slot.
    pub(super) view: Option<View>,
    pub(super) rows: Option<usize>,
    pub(super) columns: Option<usize>,
    pub(super) sort: Sort,
    /// From 1.
    pub(super) page: usize,
}

impl Filter {
    /// Unknown names and values count as not asked: it is a page of filters, not an API.
    pub(super) fn parse(campaign: &Campaign, query: &str) -> Self {
        let mut asked = Self {
            values: vec![Vec::new(); campaign.axes.len()],
            states: States::default(),
            text: String::new(),
            like: None,
            view: None,
            rows: None,
            columns: None,
            sort: Sort::default(),
            page: 1,
        };
        let (mut like, mut bits) = (None, LIKE_BITS);
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value).decode_utf8_lossy();
            match name {
                STATE => asked.states = PictureState::named(&value).map_or(asked.states, |it| asked.states.with(it)),
                TEXT => asked.text = value.trim().chars().take(TEXT_CHARS_MAX).collect(),
                VIEW => asked.view = View::ALL.into_iter().find(|view| view.as_str() == value),
                SORT => asked.sort = Sort::ALL.into_iter().find(|sort| sort.as_str() == value).unwrap_or_default(),
                ROWS => asked.rows = campaign.axis_index(&value),
                COLUMNS => asked.columns = campaign.axis_index(&value),
                LIKE => like = Some(value.into_owned()).filter(|it| (1..=LIKE_BYTES_MAX).contains(&it.len())),
                BITS => bits = value.parse().unwrap_or(LIKE_BITS).min(LIKE_BITS_MAX),
                PAGE => asked.page = value.parse().unwrap_or(1).max(1),
                _ => asked.choose(campaign, name, &value),
            }
        }
        asked.like = like.map(|values| Like { values, bits });
        asked
    }

    fn choose(&mut self, campaign: &Campaign, axis: &str, value: &str) {
        let Some(axis) = campaign.axis_index(axis) else { return };
        let Some(value) = campaign.axes[axis].value_index(value) else { return };
        if !self.values[axis].contains(&value) {
            self.values[axis].push(value);
        }
    }

    /// Whether every picture is asked for.
    pub(super) fn is_open(&self) -> bool {
        self.values.iter().all(Vec::is_empty) && self.states.is_empty() && self.text.is_empty() && self.like.is_none()
    }

    pub(super) fn chooses(&self, axis: usize, value: usize) -> bool {
        self.values[axis].contains(&value)
    }

    /// Whether the axis's value is one of those asked for.
    pub(super) fn admits(&self, axis: usize, value: usize) -> bool {
        self.values[axis].is_empty() || self.chooses(axis, value)
    }

    /// The words that are looked for, in lower case.
    pub(super) fn words(&self) -> Vec<String> {
        self.text.to_lowercase().split_whitespace().take(WORDS_MAX).map(str::to_owned).collect()
    }

    /// The query that says it, without the page.
    pub(super) fn query(&self, campaign: &Campaign) -> String {
        let mut query = String::new();
        let mut say = |name: &str, value: &str| {
            let separator = if query.is_empty() { "" } else { "&" };
            let _ = write!(query, "{separator}{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        };
        for (axis, values) in campaign.axes.iter().zip(&self.values) {
            values.iter().for_each(|&value| say(&axis.name, &axis.values[value].name));
        }
        self.states.each().for_each(|state| say(STATE, state.as_str()));
        if !self.text.is_empty() {
            say(TEXT, &self.text);
        }
        if let Some(Like { values, bits }) = &self.like {
            say(LIKE, values);
            if *bits != LIKE_BITS {
                say(BITS, &bits.to_string());
            }
        }
        if let Some(view) = self.view {
            say(VIEW, view.as_str());
        }
        let axis_name = |axis: usize| campaign.axes[axis].name.as_str();
        if let Some(axis) = self.rows {
            say(ROWS, axis_name(axis));
        }
        if let Some(axis) = self.columns {
            say(COLUMNS, axis_name(axis));
        }
        if self.sort != Sort::default() {
            say(SORT, self.sort.as_str());
        }
        query
    }

    /// The same on another page.
    pub(super) fn page_query(&self, campaign: &Campaign, page: usize) -> String {
        let query = self.query(campaign);
        let separator = if query.is_empty() { "" } else { "&" };
        if page > 1 { format!("{query}{separator}{PAGE}={page}") } else { query }
    }
}

/// The query that asks for these values, states and words, by their names.
pub(super) fn query_of(axes: &[(String, Vec<String>)], states: &[String], text: Option<&str>) -> String {
    let mut query = String::new();
    let mut say = |name: &str, value: &str| {
        let separator = if query.is_empty() { "" } else { "&" };
        let _ = write!(query, "{separator}{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
    };
    for (axis, values) in axes {
        values.iter().for_each(|value| say(axis, value));
    }
    states.iter().for_each(|state| say(STATE, state));
    text.into_iter().for_each(|text| say(TEXT, text));
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::tests::studio;

    #[test]
    fn a_query_says_what_it_was_read_from() {
        let campaign = studio();
        for query in [
            "",
            "colour=teal&colour=red&_state=live&_state=needs_review",
            "_like=colour%3Dred%26product%3Dmug&_bits=8",
            "_like=colour%3Dred",
            "product=mug&_q=red%20mug&_view=matrix&_rows=colour&_columns=product&_sort=state",
        ] {
            let asked = Filter::parse(&campaign, query);
            let again = Filter::parse(&campaign, &asked.query(&campaign));
            assert_eq!(asked, again, "{query}");
        }
        let asked = Filter::parse(&campaign, "colour=teal&_page=3");
        assert_eq!(asked.page_query(&campaign, 4), "colour=teal&_page=4");
        assert_eq!(asked.page_query(&campaign, 1), "colour=teal");
    }

    #[test]
    fn what_is_unknown_is_not_asked_for() {
        let campaign = studio();
        let asked = Filter::parse(
            &campaign,
            "colour=mauve&shape=round&_state=happy&_view=x&_page=0&_rows=none&_q=+&_like=&_bits=x",
        );
        assert!(asked.is_open() && asked.view.is_none() && asked.rows.is_none() && asked.page == 1, "{asked:?}");
    }
}
