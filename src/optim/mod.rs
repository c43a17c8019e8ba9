//! optimizers
pub mod adam;
pub mod came;
pub use adam::*;
pub use came::*;
