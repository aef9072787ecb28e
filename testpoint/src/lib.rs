//! Test points: places in the production code that tests can see or change.
//!
//! [`planted!`] puts a known bug back in, so that tests show that they would notice it: a check that
//! cannot fail proves nothing. [`reached!`] counts that a run came by, so that what no run ever
//! reached can be named.
//!
//! Both exist in a crate's own tests and in simulated builds (`--cfg madsim`) only. In any other
//! build `planted!` is the constant `false` and `reached!` is nothing. They know only their thread:
//! a simulated world runs in one, and tests in threads of their own do not meet.

mod bug;
mod reach;

pub use bug::{Bug, is_planted, plant};
pub use reach::{Point, note, take_reached};

/// Whether a known bug is planted; `false` outside of tests and simulations.
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {{
        #[cfg(any(test, madsim))]
        let planted = $crate::is_planted($crate::Bug::$bug);
        #[cfg(not(any(test, madsim)))]
        let planted = false;
        planted
    }};
}

/// Counts that this place was reached; nothing outside of tests and simulations.
#[macro_export]
macro_rules! reached {
    ($point:ident) => {{
        #[cfg(any(test, madsim))]
        $crate::note($crate::Point::$point);
    }};
}
