//! What is asked, and when.

pub mod browse;
pub mod fault;
pub mod hits;
pub mod idle;
pub mod kill;
pub mod mixed;
pub mod overload;
pub mod reload;
pub mod restart;
pub mod stage;
pub mod stampede;
