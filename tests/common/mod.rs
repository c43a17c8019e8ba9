//! What the tests share: the oracle, the table of cases, the tolerances.
//!
//! What is proven by what:
//!
//! 1. The oracle ([`oracle`]: plain `f64`, whole arrays, no fusion, no levels) equals the official
//!    codes: `cpu/golden.rs`, against trajectories stored in `tests/golden`.
//! 2. The oracle that reads a traced graph equals the oracle that runs the text of a definition:
//!    `cpu/oracle.rs`. (The built-in definitions are private types, so only their graphs are
//!    reachable from here; the CPU's lanes run the text.)
//! 3. Everything else equals the oracle, driven by one table ([`table`]) and within one list of
//!    tolerances ([`tolerance`]).
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its part")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::use_self,
    reason = "numbers are rounded to f32 on purpose, and macros name the type"
)]

#[cfg(feature = "gpu")]
pub mod gate;
#[cfg(feature = "reference")]
pub mod golden;
pub mod oracle;
pub mod plain;
pub mod random;
pub mod run;
pub mod table;
pub mod tolerance;
