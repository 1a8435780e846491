//! `executor` runs Python jobs safely: each attempt in its own fresh process, its whole tree killed
//! at the deadline, everything recorded. The map, in reading order:

pub mod clock; // wall-clock time and how it is written
pub mod job; // the vocabulary of jobs
pub mod outcome; // the vocabulary of endings
pub mod policy; // defaults and dispositions, pure
pub mod payload; // bytes from outside → a job, or what is wrong, pure
pub mod frame; // frames to and from a run, pure
pub mod config; // settings, the only reader of the environment
pub mod log; // log lines
pub mod ledger; // the queue and the record
pub mod slots; // one attempt in its own process tree
