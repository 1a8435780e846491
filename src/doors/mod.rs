//! Doors: where work comes in. They write it down; they never run it.

pub mod intake;
pub mod queue;
