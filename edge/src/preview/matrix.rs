//! Two axes as rows and columns; one value of each other axis.

use super::board::Board;
use super::census::SlotOf;
use super::filter::Filter;

/// Pictures of one page: what one node draws in a minute, and what a screen shows at a glance.
const CELLS_MAX: usize = 64;

/// Where two values meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    /// The manifest does not allow these values together.
    NotAllowed,
    /// It is not among what is asked for.
    NotAsked,
    /// This entry.
    Picture(usize),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Matrix {
    pub(super) row_axis: usize,
    pub(super) column_axis: usize,
    /// Values of the columns' axis.
    pub(super) columns: Vec<usize>,
    /// Values of the rows' axis, each with its cells.
    pub(super) rows: Vec<(usize, Vec<Cell>)>,
    /// The other axes that a reader chooses by, each with the value that is shown.
    pub(super) pinned: Vec<(usize, usize)>,
    pub(super) page: usize,
    pub(super) pages: usize,
}

impl Matrix {
    /// `None` where pictures of the slot do not differ by two axes, or a row would be longer than a page.
    pub(super) fn of(of: SlotOf<'_>, board: &Board, asked: &Filter) -> Option<Self> {
        let campaign = of.campaign;
        let choices = board.census.chosen_by(campaign);
        let usual = board.census.usual_pair(campaign)?;
        let known = |axis: Option<usize>| axis.filter(|axis| choices.contains(axis));
        let row_axis = known(asked.rows).unwrap_or(usual.0);
        let column_axis = known(asked.columns).filter(|&axis| axis != row_axis);
        // The same axis twice says nothing: the other of the usual pair takes its place.
        let column_axis = column_axis.unwrap_or(if row_axis == usual.1 { usual.0 } else { usual.1 });
        let values = |axis: usize| -> Vec<usize> {
            (0..campaign.axes[axis].values.len()).filter(|&value| asked.admits(axis, value)).collect()
        };
        let pinned: Vec<(usize, usize)> = choices
            .iter()
            .filter(|&&axis| axis != row_axis && axis != column_axis)
            .map(|&axis| (axis, pinned(asked, axis, campaign.axes[axis].default)))
            .collect();
        let columns = values(column_axis);
        if columns.len() > CELLS_MAX {
            return None;
        }
        let pinned = in_sight(of, board, (row_axis, column_axis), pinned);
        let rows_max = (CELLS_MAX / columns.len().max(1)).max(1);
        let all_rows = values(row_axis);
        let pages = all_rows.len().div_ceil(rows_max).max(1);
        let page = asked.page.min(pages);
        let base = pinned
            .iter()
            .fold(campaign.default_combination(), |base, &(axis, value)| campaign.replaced(base, axis, value));
        let is_asked: Vec<bool> = is_among(board);
        let cell = |row: usize, column: usize| {
            let combination = campaign.replaced(campaign.replaced(base, row_axis, row), column_axis, column);
            match board.census.entry_of(campaign, combination) {
                None => Cell::NotAllowed,
                Some(entry) if is_asked[entry] => Cell::Picture(entry),
                Some(_) => Cell::NotAsked,
            }
        };
        let rows = all_rows.into_iter().skip((page - 1) * rows_max).take(rows_max);
        let rows = rows.map(|row| (row, columns.iter().map(|&column| cell(row, column)).collect())).collect();
        Some(Self { row_axis, column_axis, columns, rows, pinned, page, pages })
    }

    /// The entries that are shown, row by row.
    pub(super) fn entries(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().flat_map(|(_, cells)| cells).filter_map(|cell| match cell {
            Cell::Picture(entry) => Some(*entry),
            Cell::NotAllowed | Cell::NotAsked => None,
        })
    }
}

/// The values of the first picture that is asked for, where none that is asked for has the usual ones.
fn in_sight(
    of: SlotOf<'_>,
    board: &Board,
    (rows, columns): (usize, usize),
    usual: Vec<(usize, usize)>,
) -> Vec<(usize, usize)> {
    let values_of = |&entry: &usize| of.campaign.values_of(board.census.entries[entry].combination);
    let has_usual = |values: &[usize]| usual.iter().all(|&(axis, value)| values[axis] == value);
    match board.matching.first() {
        Some(first) if !board.matching.iter().any(|entry| has_usual(&values_of(entry))) => {
            let values = values_of(first);
            usual
                .into_iter()
                .map(|(axis, _)| (axis, values[axis]))
                .filter(|(axis, _)| *axis != rows && *axis != columns)
                .collect()
        }
        _ => usual,
    }
}

/// The value of an axis that the whole matrix shows: the default, where it is asked for.
fn pinned(asked: &Filter, axis: usize, default: usize) -> usize {
    if asked.admits(axis, default) { default } else { asked.values[axis].first().copied().unwrap_or(default) }
}

/// For each entry whether it is asked for.
fn is_among(board: &Board) -> Vec<bool> {
    let mut is_asked = vec![false; board.census.entries.len()];
    board.matching.iter().for_each(|&entry| is_asked[entry] = true);
    is_asked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::Campaign;
    use crate::campaign::tests::studio;
    use crate::preview::board::Standing;
    use crate::preview::census::Censuses;

    fn matrix(campaign: &Campaign, query: &str) -> Matrix {
        let of = SlotOf { campaign, slot_index: 0 };
        let census = Censuses::default().of(campaign, 0);
        let standings = vec![Standing::default(); census.entries.len()];
        let asked = Filter::parse(campaign, query);
        Matrix::of(of, &Board::new(of, census, standings, &asked), &asked).unwrap()
    }

    #[test]
    fn the_usual_matrix_has_the_first_two_axes_and_defaults_for_the_others() {
        let campaign = studio();
        let matrix = matrix(&campaign, "");
        let name = |axis: usize| campaign.axes[axis].name.as_str();
        assert_eq!((name(matrix.row_axis), name(matrix.column_axis)), ("product", "colour"));
        assert_eq!(matrix.columns.len(), 13);
        assert!(matrix.entries().count() <= CELLS_MAX && matrix.pages == 2, "{matrix:?}");
        let pinned: Vec<_> =
            matrix.pinned.iter().map(|&(axis, value)| &*campaign.axes[axis].values[value].name).collect();
        assert_eq!(pinned, ["glossy", "cream", "studio"]);
    }

    #[test]
    fn a_chosen_value_pins_its_axis_and_narrows_rows_and_columns() {
        let campaign = studio();
        let matrix = matrix(&campaign, "setting=neon&colour=red&colour=teal&_rows=colour&_columns=colour");
        let name = |axis: usize| campaign.axes[axis].name.as_str();
        assert_eq!((name(matrix.row_axis), name(matrix.column_axis)), ("colour", "product"));
        assert_eq!((matrix.rows.len(), matrix.columns.len(), matrix.pages), (2, 8, 1));
        let setting = campaign.axis_index("setting").unwrap();
        let neon = campaign.axes[setting].value_index("neon").unwrap();
        assert!(matrix.pinned.contains(&(setting, neon)));
        assert_eq!(matrix.entries().count(), 16);
    }

    #[test]
    fn a_search_leaves_gaps() {
        let campaign = studio();
        let matrix = matrix(&campaign, "_q=mug");
        assert_eq!(matrix.entries().count() * 8, 13 * 8, "{matrix:?}");
        assert!(matrix.rows.iter().flat_map(|(_, cells)| cells).any(|cell| *cell == Cell::NotAsked));
    }
}
