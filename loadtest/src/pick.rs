//! Which URL is asked next. A pure function of the request's number: any sender can work out any request, and two runs
//! ask the same.

use clap::ValueEnum;

/// In which order URLs are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// One after the other, and from the start again
    #[value(name = "in-turn")]
    InTurn,
    /// At random, the first ones most often: URL number r with a probability of about 1 / r^s
    #[value(name = "zipf")]
    Zipf,
    /// At random, all alike
    #[value(name = "uniform")]
    Uniform,
}

/// The order over a list of a certain length.
#[derive(Debug, Clone)]
pub struct Picker {
    count: usize,
    /// Upper ends of each URL's share of 0–1; empty where they are asked in turn.
    shares: Vec<f64>,
}

impl Picker {
    /// `exponent` is Zipf's s; 0.9 fits what caches of the web see.
    #[must_use]
    pub fn new(order: Order, count: usize, exponent: f64) -> Self {
        let shares = match order {
            Order::InTurn => Vec::new(),
            Order::Uniform => shares(count, 0.0),
            Order::Zipf => shares(count, exponent),
        };
        Self { count, shares }
    }

    /// The index of the URL that request `number` asks.
    #[must_use]
    pub fn pick(&self, number: u64) -> usize {
        if self.shares.is_empty() {
            return (number % self.count.max(1) as u64) as usize;
        }
        let drawn = unit(number);
        self.shares.partition_point(|end| *end <= drawn).min(self.count - 1)
    }
}

fn shares(count: usize, exponent: f64) -> Vec<f64> {
    let mut sum = 0.0;
    let mut ends: Vec<f64> = (1..=count)
        .map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        })
        .collect();
    for end in &mut ends {
        *end /= sum;
    }
    ends
}

/// A number in 0–1 for each request: SplitMix64 (Steele, Lea, Flood 2014), which turns a counter into noise.
fn unit(number: u64) -> f64 {
    let mut word = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^= word >> 31;
    (word >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(picker: &Picker, urls: usize, requests: u64) -> Vec<u64> {
        let mut counts = vec![0; urls];
        for number in 0..requests {
            counts[picker.pick(number)] += 1;
        }
        counts
    }

    #[test]
    fn in_turn_asks_each_as_often() {
        assert_eq!(counts(&Picker::new(Order::InTurn, 3, 1.0), 3, 9), [3, 3, 3]);
    }

    #[test]
    fn zipf_asks_by_rank() {
        let counts = counts(&Picker::new(Order::Zipf, 1000, 1.0), 1000, 200_000);
        // The sum of 1/r over 1000 ranks is 7.485: the first rank's share is 13.4 %, the tenth's a tenth of that.
        for (rank, share) in [(1_usize, 0.1336), (2, 0.0668), (10, 0.01336)] {
            let measured = counts[rank - 1] as f64 / 200_000.0;
            assert!((measured / share - 1.0).abs() < 0.06, "rank {rank}: {measured}");
        }
        assert!(counts[999] > 0);
    }

    #[test]
    fn uniform_leaves_none_out() {
        let counts = counts(&Picker::new(Order::Uniform, 100, 0.9), 100, 100_000);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
