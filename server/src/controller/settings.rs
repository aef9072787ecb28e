//! How patient and how hasty the controller is.

use crate::config::{ClusterSettings, PlacingSettings};

/// Times in microseconds, on the controller's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The replicas that a shard shall have where there are nodes enough.
    pub replicas: u32,
    /// How long a node may be out of the view before its replicas are replaced.
    pub grace_us: u64,
    /// The same for shards that would not survive another failure.
    pub critical_grace_us: u64,
    /// After a mass loss: how long nothing must happen until anything but the most urgent is done.
    pub stable_us: u64,
    /// Copies that a node may receive at once; one more for the most urgent.
    pub copies_per_node: u32,
    /// Bytes that may be on their way to a node at once, unless it is a single copy.
    pub copy_bytes_per_node: u64,
    /// After a change: how long more of it is awaited before the solver is asked.
    pub debounce_us: u64,
    /// Between two decisions on everything, at least.
    pub whole_pause_us: u64,
    /// Reports that rates are averaged over; a leader sends one a second.
    pub rate_samples: u64,
    /// Reports older than this permit repairs only.
    pub report_age_max_us: u64,
    /// How long a move may not be undone for the sake of balance, in milliseconds of the wall clock.
    pub no_undo_ms: u64,
    /// How long a copy that no plan wants is left alone: an operator may be about to promote it.
    pub stray_us: u64,
    /// An order without an answer counts as unknown after this.
    pub order_timeout_us: u64,
    /// Shards that one plan moves at most.
    pub plan_shards_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            replicas: 3,
            grace_us: 30_000_000,
            critical_grace_us: 10_000_000,
            stable_us: 60_000_000,
            copies_per_node: 2,
            copy_bytes_per_node: 256 << 20,
            debounce_us: 200_000,
            whole_pause_us: 5_000_000,
            rate_samples: 16,
            report_age_max_us: 60_000_000,
            no_undo_ms: 600_000,
            stray_us: 60_000_000,
            order_timeout_us: 15_000_000,
            plan_shards_max: 2_000,
        }
    }
}

impl Settings {
    /// As a cluster and the node with the controller were told. A lost node is awaited a third of the time where one
    /// more failure would cost the majority.
    pub fn of(cluster: &ClusterSettings, placing: &PlacingSettings) -> Settings {
        let ms = |ms: u32| u64::from(ms) * 1_000;
        let grace_us = ms(cluster.replace_after_ms);
        Settings {
            replicas: cluster.replicas,
            grace_us,
            critical_grace_us: grace_us / 3,
            stable_us: ms(placing.stable_after_ms),
            copies_per_node: placing.copies_per_node_max,
            copy_bytes_per_node: u64::from(placing.copy_mb_per_node_max) << 20,
            whole_pause_us: ms(placing.rebalance_pause_ms),
            rate_samples: u64::from(placing.load_smoothing_s),
            ..Settings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is simulated is what runs.
    #[test]
    fn nobody_said_anything_means_the_defaults() {
        let told = Settings::of(&ClusterSettings::default(), &PlacingSettings::default());
        assert_eq!(told, Settings::default());
    }
}
