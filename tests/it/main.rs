//! One integration binary: real processes, real python.

#[cfg(test)]
mod slots;
