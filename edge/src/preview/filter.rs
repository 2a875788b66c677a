//! Which variants of a slot a page shows: a choice of values, and the page of the list.

use percent_encoding::percent_decode_str;

use crate::campaign::Campaign;

/// What the query of a slot's page asks for.
#[derive(Debug)]
pub(super) struct Filter {
    /// One choice per axis of the campaign.
    pub(super) values: Vec<Option<usize>>,
    pub(super) page: usize,
}

impl Filter {
    /// Unknown names and values count as not asked: it is a page of filters, not an API.
    pub(super) fn parse(campaign: &Campaign, query: &str) -> Self {
        let mut asked = Self { values: vec![None; campaign.axes.len()], page: 1 };
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = percent_decode_str(value).decode_utf8_lossy();
            if name == "page" {
                asked.page = value.parse().unwrap_or(1);
            } else if let Some(axis) = campaign.axis_index(name) {
                asked.values[axis] = campaign.axes[axis].value_index(&value);
            }
        }
        asked
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.iter().all(Option::is_none)
    }

    pub(super) fn admits(&self, values: &[usize]) -> bool {
        self.values.iter().zip(values).all(|(asked, value)| asked.is_none_or(|asked| asked == *value))
    }

    /// The filters as a query that `page=` can be appended to.
    pub(super) fn query(&self, campaign: &Campaign) -> String {
        let chosen = campaign.axes.iter().zip(&self.values);
        chosen
            .filter_map(|(axis, value)| value.map(|value| format!("{}={}&", axis.name, axis.values[value].name)))
            .collect()
    }
}
