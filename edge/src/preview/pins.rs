//! Points of a picture that comments are about: numbers that lie on it.
//!
//! They are drawn as SVG, whose attributes say where a point lies: pages have no inline style, and need no script for it.

use maud::{Markup, html};

use crate::shares::{Comment, Pin};

/// Width of the drawing, in units of its own.
const WIDTH: f64 = 1_000.0;
/// Of a number's disc.
const RADIUS: f64 = 26.0;

/// Comments with a point, each with its number in the list beside the picture.
pub(super) fn numbered(comments: &[Comment]) -> Vec<(usize, Pin)> {
    comments.iter().enumerate().filter_map(|(at, comment)| Some((at + 1, comment.pin?))).collect()
}

/// Lies over a picture of this ratio. What it shows stands in the list of comments, too.
pub(super) fn overlay((width, height): (u32, u32), pins: &[(usize, Pin)]) -> Markup {
    let tall = WIDTH * f64::from(height) / f64::from(width.max(1));
    html! {
        svg.pins viewBox={ "0 0 " (WIDTH) " " (format!("{tall:.0}")) } aria-hidden="true" {
            @for (number, pin) in pins {
                @let (x, y) = pin.fractions();
                @let (x, y) = (x * WIDTH, y * tall);
                g {
                    circle cx=(format!("{x:.0}")) cy=(format!("{y:.0}")) r=(RADIUS) {}
                    text x=(format!("{x:.0}")) y=(format!("{:.0}", y + 10.0)) text-anchor="middle" { (number) }
                }
            }
        }
    }
}
