//! Colour grades: 3D tables of `.cube` files, hostile until read.
//!
//! Invariants: a file is bounded before it is read, its size before anything is allocated; a table is whole or an error that names the
//! line; grading is done in whole numbers, interpolated in tetrahedra. Source: *Cube LUT Specification 1.0* (Adobe, 2013), and
//! `LUT_3D_INPUT_RANGE` as DaVinci Resolve writes it.

use std::fmt;

use bildkante_shared::ids::Digest;

/// Largest file: 65³ lines of 60 bytes.
pub const CUBE_BYTES_MAX: usize = 16 << 20;
/// Longest line, as the specification has it, with its end.
const LINE_BYTES_MAX: usize = 252;
/// Values in one direction.
const SIZE_MIN: usize = 2;
const SIZE_MAX: usize = 65;
/// Largest number of a domain.
const DOMAIN_MAX: f64 = 65_536.0;
/// One, in a table and between two of its values: products of two fit 32 bits.
const ONE: u16 = 1 << 15;

/// Why a file is no grade.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CubeError {
    #[error("the file has more than {CUBE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is not UTF-8")]
    Text,
    #[error("line {line}: {reason}")]
    Line { line: usize, reason: &'static str },
    #[error("it has no LUT_3D_SIZE")]
    NoSize,
    #[error("it has {found} values, and LUT_3D_SIZE {size} means {wanted}")]
    Count { found: usize, size: usize, wanted: usize },
    #[error("DOMAIN_MIN is not below DOMAIN_MAX in every channel")]
    Domain,
}

/// A grade that is read.
#[derive(Clone, PartialEq, Eq)]
pub struct Cube {
    digest: Digest,
    size: usize,
    /// Red fastest; 0 to [`ONE`], and a fourth that fills eight bytes.
    values: Vec<[u16; 4]>,
    /// For each channel and sample.
    places: Box<[[Place; 256]; 3]>,
}

impl fmt::Debug for Cube {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cube({}³, {})", self.size, self.digest)
    }
}

/// Where a sample lies in a table's direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Of the value before it, in values.
    start: u32,
    /// How far behind that, in the upper 16 bits, and how many values the next one is away: ordered by distance.
    way: u32,
}

/// What stands above a table.
struct Header {
    size: Option<usize>,
    least: [f64; 3],
    most: [f64; 3],
}

impl Cube {
    /// # Errors
    /// When the file is over a limit or no 3D table.
    pub fn read(file: &[u8]) -> Result<Self, CubeError> {
        if file.len() > CUBE_BYTES_MAX {
            return Err(CubeError::TooLarge);
        }
        let text = std::str::from_utf8(file).map_err(|_| CubeError::Text)?;
        let mut header = Header { size: None, least: [0.0; 3], most: [1.0; 3] };
        let mut values = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let fault = |reason| CubeError::Line { line: at + 1, reason };
            if line.len() > LINE_BYTES_MAX {
                return Err(fault("it is longer than 250 characters"));
            }
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.starts_with(|c: char| c.is_ascii_alphabetic()) {
                if !values.is_empty() {
                    return Err(fault("keywords stand above the table"));
                }
                header.read(line).map_err(fault)?;
                continue;
            }
            let size = header.size.ok_or(CubeError::NoSize)?;
            if values.len() == size.pow(3) {
                return Err(fault("the table has more values than its size"));
            }
            let [red, green, blue] = three(line).ok_or_else(|| fault("a value is three numbers"))?;
            values.push([red, green, blue, 0.0].map(fixed));
        }
        let size = header.size.ok_or(CubeError::NoSize)?;
        if values.len() != size.pow(3) {
            return Err(CubeError::Count { found: values.len(), size, wanted: size.pow(3) });
        }
        if header.least.iter().zip(header.most).any(|(least, most)| *least >= most) {
            return Err(CubeError::Domain);
        }
        let places = [0, 1, 2].map(|channel: u32| {
            let (least, most) = (header.least[channel as usize], header.most[channel as usize]);
            places(size, size.pow(channel), (least, most))
        });
        Ok(Self { digest: Digest::of_bytes(file), size, values, places: Box::new(places) })
    }

    /// Of its file.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Interleaved 8-bit samples, three a pixel.
    pub fn apply(&self, rgb: &mut [u8]) {
        for pixel in rgb.chunks_exact_mut(3) {
            let graded = self.graded([pixel[0], pixel[1], pixel[2]]);
            pixel.copy_from_slice(&graded);
        }
    }

    /// The six tetrahedra of a cell share its diagonal from darkest to brightest; which one a colour lies in follows from the order
    /// of its three distances. Nothing here branches on the colour.
    fn graded(&self, pixel: [u8; 3]) -> [u8; 3] {
        let [red, green, blue] = [0, 1, 2].map(|channel| self.places[channel][usize::from(pixel[channel])]);
        // The furthest first; at equal distances a value between has no weight.
        let (one, other) = (red.way.max(green.way), red.way.min(green.way));
        let (middle, near) = (other.max(blue.way), other.min(blue.way));
        let (far, middle) = (one.max(middle), one.min(middle));
        let distance = |way: u32| way >> 16;
        let darkest = red.start + green.start + blue.start;
        let second = darkest + (far & 0xFFFF);
        let third = second + (middle & 0xFFFF);
        let brightest = third + (near & 0xFFFF);
        let corners = [darkest, second, third, brightest].map(|at| self.value(at));
        let weights = [
            u32::from(ONE) - distance(far),
            distance(far) - distance(middle),
            distance(middle) - distance(near),
            distance(near),
        ];
        let mut sums = [0_u32; 4];
        for (corner, weight) in corners.into_iter().zip(weights) {
            for (sum, value) in sums.iter_mut().zip(corner) {
                *sum += u32::from(value) * weight;
            }
        }
        let [red, green, blue, _] = sums.map(sample);
        [red, green, blue]
    }

    /// The value before a sample is never the last one, so each corner of a cell is in the table.
    fn value(&self, at: u32) -> [u16; 4] {
        self.values.get(at as usize).copied().unwrap_or_default()
    }
}

impl Header {
    fn read(&mut self, line: &str) -> Result<(), &'static str> {
        let (keyword, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match keyword {
            "TITLE" => {}
            "LUT_3D_SIZE" => {
                let size = rest.trim().parse().ok().filter(|size| (SIZE_MIN..=SIZE_MAX).contains(size));
                if self.size.is_some() {
                    return Err("LUT_3D_SIZE stands twice");
                }
                self.size = Some(size.ok_or("LUT_3D_SIZE is 2 to 65")?);
            }
            "DOMAIN_MIN" => self.least = domain(rest)?,
            "DOMAIN_MAX" => self.most = domain(rest)?,
            "LUT_3D_INPUT_RANGE" => {
                let mut ends = rest.split_whitespace().map(number);
                let (Some(Some(least)), Some(Some(most)), None) = (ends.next(), ends.next(), ends.next()) else {
                    return Err("LUT_3D_INPUT_RANGE is two numbers");
                };
                (self.least, self.most) = ([least; 3], [most; 3]);
            }
            "LUT_1D_SIZE" | "LUT_1D_INPUT_RANGE" => {
                return Err("a table of one dimension is not taken: export a 3D one");
            }
            _ => return Err("no keyword of a 3D table"),
        }
        Ok(())
    }
}

fn domain(text: &str) -> Result<[f64; 3], &'static str> {
    three(text).ok_or("a domain is three numbers")
}

fn three(text: &str) -> Option<[f64; 3]> {
    let mut numbers = text.split_whitespace().map(number);
    let three = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(three)
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.abs() <= DOMAIN_MAX)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn fixed(value: f64) -> u16 {
    (value.clamp(0.0, 1.0) * f64::from(ONE)).round() as u16
}

/// A sum of values and weights, each of 15 bits, as a sample.
#[allow(clippy::cast_possible_truncation, reason = "weights make one, so at most 255")]
const fn sample(sum: u32) -> u8 {
    (((sum >> 7) * 255 + (1 << 22)) >> 23) as u8
}

/// Quotients of numbers that are given, which IEEE 754 rounds alike everywhere. `step` is how many values the next one is away.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "clamped, and small"
)]
fn places(size: usize, step: usize, (least, most): (f64, f64)) -> [Place; 256] {
    let last = (size - 1) as f64;
    std::array::from_fn(|sample| {
        let at = ((sample as f64 / 255.0 - least) / (most - least)).clamp(0.0, 1.0) * last;
        let before = at.floor().min(last - 1.0);
        let start = before as u32 * step as u32;
        Place { start, way: u32::from(fixed(at - before)) << 16 | step as u32 }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A table whose values are made of the place of each.
    pub(crate) fn cube(size: usize, head: &str, value: impl Fn([f64; 3]) -> [f64; 3]) -> String {
        let mut text = format!("TITLE \"test\"\n# a comment\nLUT_3D_SIZE {size}\n{head}");
        let last = (size - 1) as f64;
        for at in 0..size.pow(3) {
            let place = [at % size, at / size % size, at / size / size].map(|place| place as f64 / last);
            let [red, green, blue] = value(place);
            text.push_str(&format!("{red:.6} {green:.6} {blue:.6}\n"));
        }
        text
    }

    fn graded(text: &str, pixel: [u8; 3]) -> [u8; 3] {
        let mut rgb = pixel;
        Cube::read(text.as_bytes()).expect("a table").apply(&mut rgb);
        rgb
    }

    #[test]
    fn a_table_of_itself_changes_nothing_at_any_size() {
        for size in [2, 3, 17, 33, 65] {
            let text = cube(size, "", |place| place);
            let table = Cube::read(text.as_bytes()).expect("a table");
            for at in 0..4096_u32 {
                let pixel = [at * 7 % 256, at * 31 % 256, at * 101 % 256].map(|s| u8::try_from(s).expect("a sample"));
                assert_eq!(table.graded(pixel), pixel, "{size}");
            }
        }
    }

    #[test]
    fn values_domains_and_the_order_of_channels_are_the_specifications() {
        let swapped = cube(2, "", |[red, green, blue]| [blue, red, green]);
        assert_eq!(graded(&swapped, [10, 20, 30]), [30, 10, 20], "red changes fastest");
        // Half as bright at the end of the domain, which is the middle of the samples.
        let half = cube(2, "DOMAIN_MIN 0 0 0\nDOMAIN_MAX 0.5 0.5 0.5\n", |place| place.map(|value| value / 2.0));
        assert_eq!(graded(&half, [51, 102, 204]), [51, 102, 128]);
        let range = cube(2, "LUT_3D_INPUT_RANGE 0 0.5\n", |place| place.map(|value| value / 2.0));
        assert_eq!(graded(&range, [51, 102, 204]), [51, 102, 128]);
        let beyond = cube(2, "", |place| place.map(|value| value * 3.0 - 1.0));
        assert_eq!(graded(&beyond, [0, 255, 128]), [0, 255, 128], "values end at 0 and 1");
        // One corner alone: in tetrahedra red counts as the least of the three distances, not as their product.
        let corner = cube(2, "", |place| if place == [1.0; 3] { [1.0; 3] } else { [0.0; 3] });
        assert_eq!(graded(&corner, [128, 128, 128]), [128; 3]);
        assert_eq!(graded(&corner, [64, 255, 255]), [64; 3]);
    }

    #[test]
    fn what_is_no_table_is_refused_with_its_line() {
        let told = |text: &str| Cube::read(text.as_bytes()).expect_err("refused").to_string();
        assert_eq!(told(""), "it has no LUT_3D_SIZE");
        assert_eq!(told("0 0 0\n"), "it has no LUT_3D_SIZE");
        assert_eq!(told("LUT_3D_SIZE 66\n"), "line 1: LUT_3D_SIZE is 2 to 65");
        assert_eq!(told("LUT_3D_SIZE 2\n0 0 0\n"), "it has 1 values, and LUT_3D_SIZE 2 means 8");
        assert_eq!(told("LUT_1D_SIZE 2\n"), "line 1: a table of one dimension is not taken: export a 3D one");
        assert_eq!(told("LUT_3D_SIZE 2\n0 0\n"), "line 2: a value is three numbers");
        assert_eq!(told("LUT_3D_SIZE 2\n0 NaN 0\n"), "line 2: a value is three numbers");
        assert_eq!(told("LUT_3D_SIZE 2\nWHAT 1\n"), "line 2: no keyword of a 3D table");
        assert_eq!(told(&format!("#{}\n", "x".repeat(300))), "line 1: it is longer than 250 characters");
        let whole = cube(2, "", |place| place);
        assert!(told(&format!("{whole}0 0 0\n")).contains("more values than its size"));
        assert!(told(&cube(2, "DOMAIN_MIN 1 0 0\n", |place| place)).contains("DOMAIN_MIN is not below"));
        assert_eq!(Cube::read(&[0xFF, 0xFE]), Err(CubeError::Text));
        assert_eq!(Cube::read(&vec![b'#'; CUBE_BYTES_MAX + 1]), Err(CubeError::TooLarge));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_bytes_make_it_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..40),
            at in any::<prop::sample::Index>(),
            pixel in any::<[u8; 3]>(),
        ) {
            let mut file = cube(2, "DOMAIN_MIN 0 0 0\nDOMAIN_MAX 1 1 1\n", |place| place).into_bytes();
            let start = at.index(file.len());
            let end = (start + noise.len()).min(file.len());
            file[start..end].copy_from_slice(&noise[..end - start]);
            if let Ok(table) = Cube::read(&file) {
                table.graded(pixel);
            }
        }
    }
}
