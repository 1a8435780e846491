//! `executor` runs Python jobs safely: each attempt in its own fresh process, its whole tree killed
//! at the deadline, everything recorded. The map, in reading order:

// For tests alone; first, for its macro is used everywhere.
#[macro_use]
pub mod failpoint; // named places that can be made to fail

// Pure: data and decisions.
pub mod clock; // wall-clock time and how it is written
pub mod job; // the vocabulary of jobs
pub mod outcome; // the vocabulary of endings
pub mod payload; // bytes from outside → a job, or what is wrong
pub mod policy; // which defaults a job gets, what becomes of an ending
pub mod frame; // frames to and from a run
pub mod cron; // when an expression fires

// For everyone.
pub mod config; // settings, the only reader of the environment
pub mod log; // log lines
pub mod signals; // what asks us to end

// The record and the runs.
pub mod ledger; // the queue and the record
pub mod slots; // one attempt in its own process tree

// What is shown of it.
pub mod health; // the board
pub mod http; // health over HTTP
pub mod notify; // what the service manager is told

// Redis.
pub mod link; // the connection, watched
pub mod heartbeat; // that we live, and who else does
pub mod experiments; // stored experiments and their runs
pub mod doors; // where work comes in
pub mod publish; // what Redis is told

// The daemon.
pub mod flow; // the life of one attempt
pub mod dispatcher; // the set of running attempts
pub mod control; // the socket for other commands
pub mod serve; // everything wired together
pub mod fsck; // whether all that was promised holds

// The command line.
pub mod cli; // one file per command
