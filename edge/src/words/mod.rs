//! Words that several rooms speak. They import nothing of any room.

pub mod format;
pub mod limits;
pub mod ratio;
pub mod reload;

pub use format::{Format, FormatSet};
pub use limits::WIDTH_PX_MAX;
pub use ratio::Ratio;
pub use reload::ReloadOutcome;
