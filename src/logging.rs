//! Logging, where the feature `log` is on; nothing where it is not.

macro_rules! debug {
    ($($words:tt)*) => {
        #[cfg(feature = "log")]
        log::debug!($($words)*)
    };
}

macro_rules! warning {
    ($($words:tt)*) => {
        #[cfg(feature = "log")]
        log::warn!($($words)*)
    };
}

pub(crate) use {debug, warning};
