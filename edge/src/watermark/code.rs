//! The code that carries a frame through noise: a tail-biting convolutional code of rate 1/4 and constraint length 9.
//!
//! Generators 463, 535, 733, 745 (octal), free distance 24: the best of their length and rate (Larsen, "Short
//! convolutional codes with maximal free distance for rates 1/2, 1/3 and 1/4", IEEE Trans. IT-19, 1973). Tail-biting
//! starts the register in the state in which it will end, so that no bits are spent on flushing it. Decoding is the
//! wrap-around Viterbi algorithm (Shao, Lin and Fossorier, "Two decoding algorithms for tailbiting codes", IEEE Trans.
//! Comm. 51, 2003) over soft values: the frame is run through several times, each with the metrics that the last one
//! ended with, and the best path of all that end where they began is the answer.

use super::payload::FRAME_BITS;

/// Bits of a coded frame.
pub(super) const CODED_BITS: usize = FRAME_BITS * OUTPUTS;

const OUTPUTS: usize = 4;
const GENERATORS: [usize; OUTPUTS] = [0o463, 0o535, 0o733, 0o745];
const MEMORY: usize = 8;
const STATES: usize = 1 << MEMORY;
/// Rounds of the decoder. From the fourth on nothing changes as a rule.
const ROUNDS: usize = 4;

/// What the encoder puts out for `bit` in `state`; the register's newest bit is the most significant.
fn outputs(state: usize, bit: bool) -> [bool; OUTPUTS] {
    let register = usize::from(bit) << MEMORY | state;
    GENERATORS.map(|generator| (register & generator).count_ones() % 2 == 1)
}

fn next(state: usize, bit: bool) -> usize {
    (usize::from(bit) << MEMORY | state) >> 1
}

pub(super) fn encoded(frame: &[bool; FRAME_BITS]) -> [bool; CODED_BITS] {
    let mut state = frame[FRAME_BITS - MEMORY..].iter().fold(0, |state, bit| next(state, *bit));
    let mut coded = [false; CODED_BITS];
    for (bit, out) in frame.iter().zip(coded.chunks_exact_mut(OUTPUTS)) {
        out.copy_from_slice(&outputs(state, *bit));
        state = next(state, *bit);
    }
    coded
}

/// The decoder, with its table of outputs: signs ±1 of each state and bit.
pub(super) struct Decoder {
    /// The outputs of the branches into a state: from its lower and its upper predecessor.
    signs: Vec<[[f32; OUTPUTS]; 2]>,
}

/// A path that ends in the state in which it began.
struct Closed {
    gain: f32,
    frame: [bool; FRAME_BITS],
}

impl Decoder {
    pub(super) fn new() -> Self {
        let sign = |bit: bool| if bit { 1.0 } else { -1.0 };
        let into = |state: usize| predecessors(state).map(|from| outputs(from, newest(state)).map(sign));
        Self { signs: (0..STATES).map(into).collect() }
    }

    /// The frame whose code word agrees best with `soft`, where a value above 0 speaks for a one; `None` where no path
    /// closes.
    pub(super) fn decoded(&self, soft: &[f32; CODED_BITS]) -> Option<[bool; FRAME_BITS]> {
        let mut metrics = vec![0.0f32; STATES];
        let mut survivors = vec![[false; STATES]; FRAME_BITS];
        let mut best: Option<Closed> = None;
        for _ in 0..ROUNDS {
            let before = metrics.clone();
            self.round(soft, &mut metrics, &mut survivors);
            for state in 0..STATES {
                let gain = metrics[state] - before[state];
                if best.as_ref().is_some_and(|best| gain <= best.gain) {
                    continue;
                }
                let (start, frame) = traced(state, &survivors);
                if start == state {
                    best = Some(Closed { gain, frame });
                }
            }
        }
        best.map(|best| best.frame)
    }

    fn round(&self, soft: &[f32; CODED_BITS], metrics: &mut Vec<f32>, survivors: &mut [[bool; STATES]]) {
        let mut reached = vec![0.0f32; STATES];
        for (values, upper) in soft.chunks_exact(OUTPUTS).zip(survivors) {
            for (state, signs) in self.signs.iter().enumerate() {
                let [low, high] = predecessors(state);
                let through = |from: usize, signs: &[f32; OUTPUTS]| {
                    metrics[from] + signs.iter().zip(values).map(|(sign, value)| sign * value).sum::<f32>()
                };
                let (a, b) = (through(low, &signs[0]), through(high, &signs[1]));
                upper[state] = b > a;
                reached[state] = a.max(b);
            }
            std::mem::swap(metrics, &mut reached);
        }
    }
}

/// The bit that brought the register into `state`.
const fn newest(state: usize) -> bool {
    state >> (MEMORY - 1) == 1
}

/// The states before `state`: they differ in the bit that fell out.
const fn predecessors(state: usize) -> [usize; 2] {
    let kept = state << 1 & (STATES - 1);
    [kept, kept | 1]
}

/// The state in which the path to `state` began, and its bits.
fn traced(mut state: usize, survivors: &[[bool; STATES]]) -> (usize, [bool; FRAME_BITS]) {
    let mut frame = [false; FRAME_BITS];
    for (bit, upper) in frame.iter_mut().zip(survivors).rev() {
        *bit = newest(state);
        state = predecessors(state)[usize::from(upper[state])];
    }
    (state, frame)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sent(frame: &[bool; FRAME_BITS]) -> [f32; CODED_BITS] {
        encoded(frame).map(|bit| if bit { 1.0 } else { -1.0 })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_frame_comes_back(frame: [[bool; 16]; 5]) {
            let frame: [bool; FRAME_BITS] = std::array::from_fn(|at| frame[at / 16][at % 16]);
            prop_assert_eq!(Decoder::new().decoded(&sent(&frame)), Some(frame));
        }

        #[test]
        fn eleven_wrong_bits_anywhere_are_corrected(wrong in proptest::collection::hash_set(0..CODED_BITS, 11)) {
            let frame = std::array::from_fn(|at| at % 3 == 0);
            let mut soft = sent(&frame);
            wrong.into_iter().for_each(|at| soft[at] = -soft[at]);
            prop_assert_eq!(Decoder::new().decoded(&soft), Some(frame));
        }
    }

    #[test]
    fn two_frames_that_differ_in_one_bit_differ_in_all_that_it_reaches() {
        // The weight of the generators: the free distance is at most that, and 24 for this code.
        let one = std::array::from_fn(|at| at == 40);
        let difference = encoded(&one).iter().filter(|bit| **bit).count();
        assert_eq!(difference, GENERATORS.iter().map(|generator| generator.count_ones() as usize).sum::<usize>());
        assert!(difference >= 24);
    }

    #[test]
    fn the_register_wraps_around() {
        // Turning a frame turns its code word: no place in it is special.
        let frame: [bool; FRAME_BITS] = std::array::from_fn(|at| at * at % 7 < 3);
        let turned: [bool; FRAME_BITS] = std::array::from_fn(|at| frame[(at + 13) % FRAME_BITS]);
        let word = encoded(&frame);
        let expected: Vec<bool> = (0..CODED_BITS).map(|at| word[(at + 13 * OUTPUTS) % CODED_BITS]).collect();
        assert_eq!(encoded(&turned).to_vec(), expected);
    }
}
