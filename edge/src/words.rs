//! Words that several rooms speak. They import nothing of any room.

pub mod calendar;
pub mod clock;
pub mod epoch;
pub mod format;
pub mod limits;
pub mod outcome;
pub mod ratio;
pub mod reload;

pub use calendar::Moment;
pub use epoch::Epoch;
pub use format::{Format, FormatSet};
pub use limits::WIDTH_PX_MAX;
pub use outcome::{Collapse, EVERY_IMAGE_TAG, FillTimings, LayersTiming, Outcome};
pub use ratio::Ratio;
pub use reload::ReloadOutcome;
