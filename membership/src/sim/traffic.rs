//! Bytes and messages per node and second.
//!
//! An hour of 1,000 nodes is 3.6 million node-seconds, four numbers each. Only the running second is
//! kept per node; a finished one is folded into four histograms whose buckets are at most 1.6% wide.
//! Mean and maximum are exact, the 99th percentile is its bucket's upper end.

use serde::{Deserialize, Serialize};

/// Values below 2^6 have a bucket each; above, each power of two is cut into 64.
const LINEAR_BITS: u32 = 6;

#[derive(Clone)]
struct Histogram {
    buckets: Vec<u64>,
    samples: u64,
    sum: u64,
    max: u64,
}

impl Histogram {
    fn new() -> Histogram {
        let buckets = vec![0; Histogram::bucket(u32::MAX.into()) + 1];
        Histogram {
            buckets,
            samples: 0,
            sum: 0,
            max: 0,
        }
    }

    fn bucket(value: u64) -> usize {
        if value < 1 << LINEAR_BITS {
            return value as usize;
        }
        let shift = 63 - value.leading_zeros() - LINEAR_BITS;
        ((u64::from(shift) << LINEAR_BITS) + (value >> shift)) as usize
    }

    /// The greatest value of a bucket.
    fn upper(bucket: usize) -> u64 {
        let bucket = bucket as u64;
        if bucket < 1 << (LINEAR_BITS + 1) {
            return bucket;
        }
        let shift = (bucket >> LINEAR_BITS) - 1;
        let mantissa = (bucket & ((1 << LINEAR_BITS) - 1)) | (1 << LINEAR_BITS);
        ((mantissa + 1) << shift) - 1
    }

    fn record(&mut self, value: u32) {
        let value = u64::from(value);
        self.buckets[Histogram::bucket(value)] += 1;
        self.samples += 1;
        self.sum += value;
        self.max = self.max.max(value);
    }

    fn distribution(&self) -> Distribution {
        let rank = self.samples.saturating_sub(self.samples / 100).max(1);
        let mut below = 0;
        let p99 = self.buckets.iter().position(|count| {
            below += count;
            below >= rank
        });
        Distribution {
            mean: if self.samples == 0 {
                0.0
            } else {
                self.sum as f64 / self.samples as f64
            },
            p99: p99.map_or(0, Histogram::upper).min(self.max),
            max: self.max,
        }
    }
}

/// Of one quantity, over the seconds of all nodes that were up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Mean.
    pub mean: f64,
    /// 99th percentile.
    pub p99: u64,
    /// Greatest.
    pub max: u64,
}

/// What nodes sent and received, per node and second; payload without headers of lower layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TrafficReport {
    pub rx_bytes: Distribution,
    pub tx_bytes: Distribution,
    pub rx_messages: Distribution,
    pub tx_messages: Distribution,
}

/// The quantities of one node in the running second.
#[derive(Clone, Copy, Default)]
struct Second {
    rx_bytes: u32,
    tx_bytes: u32,
    rx_messages: u32,
    tx_messages: u32,
}

/// The meter of a run.
pub struct Traffic {
    seconds: Vec<Second>,
    histograms: [Histogram; 4],
}

impl Traffic {
    /// A meter for `nodes` nodes.
    pub fn new(nodes: u32) -> Traffic {
        Traffic {
            seconds: vec![Second::default(); nodes as usize],
            histograms: std::array::from_fn(|_| Histogram::new()),
        }
    }

    /// `copies` messages of `bytes` bytes left `node`.
    #[inline]
    pub fn sent(&mut self, node: u32, copies: u32, bytes: u32) {
        let second = &mut self.seconds[node as usize];
        second.tx_bytes = second.tx_bytes.saturating_add(bytes.saturating_mul(copies));
        second.tx_messages += copies;
    }

    /// A message of `bytes` bytes reached `node`.
    #[inline]
    pub fn received(&mut self, node: u32, bytes: u32) {
        let second = &mut self.seconds[node as usize];
        second.rx_bytes = second.rx_bytes.saturating_add(bytes);
        second.rx_messages += 1;
    }

    /// A second is over; it counts for the nodes that are up.
    pub fn fold(&mut self, is_up: impl Fn(usize) -> bool) {
        for (node, second) in self.seconds.iter_mut().enumerate() {
            let done = std::mem::take(second);
            if is_up(node) {
                let values = [
                    done.rx_bytes,
                    done.tx_bytes,
                    done.rx_messages,
                    done.tx_messages,
                ];
                for (histogram, value) in self.histograms.iter_mut().zip(values) {
                    histogram.record(value);
                }
            }
        }
    }

    /// The figures over all folded seconds.
    pub fn report(&self) -> TrafficReport {
        let [rx_bytes, tx_bytes, rx_messages, tx_messages] =
            self.histograms.each_ref().map(Histogram::distribution);
        TrafficReport {
            rx_bytes,
            tx_bytes,
            rx_messages,
            tx_messages,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_narrow_and_cover_everything() {
        let mut previous = None;
        for value in (0..5_000u64).chain((0..64).map(|n| (1u64 << 26) * (n + 1) - 1)) {
            let bucket = Histogram::bucket(value);
            let upper = Histogram::upper(bucket);
            assert!(
                upper >= value && upper - value <= value / 64,
                "{value} -> {upper}"
            );
            assert!(previous <= Some(bucket));
            previous = Some(bucket);
        }
        assert_eq!(
            Histogram::upper(Histogram::bucket(u32::MAX.into())),
            u64::from(u32::MAX)
        );
    }

    #[test]
    fn mean_percentile_and_maximum() {
        let mut traffic = Traffic::new(2);
        for second in 1..=200u32 {
            traffic.received(0, second);
            traffic.sent(1, 2, 10);
            traffic.fold(|node| node == 0);
        }
        let report = traffic.report();
        assert_eq!(report.rx_bytes.max, 200);
        assert_eq!(report.rx_bytes.mean, 100.5);
        assert!(
            (198..=199).contains(&report.rx_bytes.p99),
            "{}",
            report.rx_bytes.p99
        );
        // Node 1 was never up.
        assert_eq!(report.tx_bytes.max, 0);
    }
}
