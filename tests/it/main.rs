//! One integration binary: real processes, real python.

mod slots;
