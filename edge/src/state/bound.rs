//! Which entries go when there are too many.

/// Entries that go at once are a sixteenth, so that not every further one costs a look at all ages.
const SHARE: usize = 16;

/// The oldest entries, as many as have to go so that at most `entries_max` remain; none where there are no more.
/// `ages` is each entry's age and key: what is low is old. It is asked for when entries have to go only.
pub(crate) fn oldest<K: Ord>(len: usize, entries_max: usize, ages: impl FnOnce() -> Vec<(u64, K)>) -> Vec<K> {
    if len <= entries_max {
        return Vec::new();
    }
    let mut ages = ages();
    let surplus = (len - entries_max).max(len / SHARE).min(ages.len());
    if surplus > 0 {
        ages.select_nth_unstable(surplus - 1);
        ages.truncate(surplus);
    }
    ages.into_iter().map(|(_, key)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sixteenth_goes_and_the_oldest_of_all() {
        let ages = || (0..100_u64).rev().map(|n| (n, n)).collect::<Vec<_>>();
        assert!(oldest(100, 100, ages).is_empty());
        let mut gone = oldest(100, 99, ages);
        gone.sort_unstable();
        assert_eq!(gone, [0, 1, 2, 3, 4, 5]);
        assert_eq!(oldest(100, 10, ages).len(), 90);
        assert_eq!(oldest(5, 3, || vec![(1, 'a')]), ['a']);
        assert!(oldest::<u64>(5, 3, Vec::new).is_empty());
    }
}
