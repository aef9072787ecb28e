//! Torn and rotten input.

use std::sync::Arc;

use super::log::{self, LogError};
use super::slots::{self, SlotError};
use super::*;
use crate::bitmap::Bitmap;
use crate::configuration::{Configuration, Mode, Overlay};
use crate::cut::Cut;
use crate::member::Member;
use crate::view::Certificate;

fn state(writes: u64) -> AcceptorState {
    let (seq, config, promised) = (
        3,
        ConfigHash(9),
        Rank {
            round: 2,
            coordinator: 1,
        },
    );
    AcceptorState {
        seq,
        config,
        promised,
        vote: None,
        writes,
    }
}

/// A base and two views, and where each frame ends.
fn written() -> (Vec<u8>, Vec<usize>) {
    let member = |index: u8| Member {
        node: NodeId(u128::from(index)),
        boot: Boot::first(u64::from(index)),
        address: ([10, 0, 0, index], 7000).into(),
        labels: Arc::default(),
    };
    let (mode, overlay) = (Mode::Decentralised, Overlay::default());
    let mut tip = Configuration::genesis(ClusterId(1), mode, overlay, member(1));
    let base = Snapshot {
        configuration: Arc::new(tip),
        view: None,
    };
    tip = Configuration::genesis(ClusterId(1), mode, overlay, member(1));
    let mut bytes = log::encode_base(&base);
    let mut ends = vec![bytes.len()];
    for index in 2..4 {
        let cut = Cut {
            add: vec![member(index)],
            ..Cut::default()
        };
        let after = tip.successor(&cut).unwrap();
        let mut voters = Bitmap::empty(1);
        voters.insert(0);
        let certificate = Certificate {
            config: tip.hash(),
            rank: Rank::FAST,
            voters,
        };
        let (seq, hash, cut) = (after.seq(), after.hash(), Arc::new(cut));
        bytes.extend(log::encode_view(&View {
            seq,
            hash,
            cut,
            certificate,
        }));
        ends.push(bytes.len());
        tip = after;
    }
    (bytes, ends)
}

#[test]
fn what_was_written_comes_back() {
    let (bytes, _) = written();
    let found = log::recover(&bytes).unwrap();
    assert_eq!(
        found.views.iter().map(|view| view.seq).collect::<Vec<_>>(),
        [2, 3]
    );
    assert_eq!(found.valid_bytes, bytes.len());
    assert!(log::recover(&[]).unwrap().base.is_none());
}

#[test]
fn a_torn_tail_is_cut_off_at_every_length() {
    let (bytes, ends) = written();
    for length in 0..bytes.len() {
        let found = log::recover(&bytes[..length]).unwrap();
        let whole = ends.iter().filter(|end| **end <= length).count();
        let frames = usize::from(found.base.is_some()) + found.views.len();
        assert_eq!(frames, whole, "cut at {length}");
        assert_eq!(
            found.valid_bytes,
            ends[..whole].last().copied().unwrap_or(0)
        );
    }
}

#[test]
fn rot_before_the_last_frame_is_reported_at_every_byte() {
    let (bytes, ends) = written();
    for at in 0..ends[1] {
        let mut rotten = bytes.clone();
        rotten[at] ^= 0x10;
        let start = if at < ends[0] { 0 } else { ends[0] };
        match log::recover(&rotten) {
            Err(LogError::Damaged(found)) => assert_eq!(found, start, "rot at {at}"),
            other => panic!("rot at {at} goes unnoticed: {other:?}"),
        }
    }
}

#[test]
fn a_view_that_does_not_follow_is_refused() {
    let (bytes, ends) = written();
    let gap = [&bytes[..ends[0]], &bytes[ends[1]..]].concat();
    assert_eq!(log::recover(&gap).unwrap_err(), LogError::Gap(ends[0]));
}

#[test]
fn rot_on_the_last_acceptor_record() {
    let whole = slots::encode(7, &state(7));
    for at in 0..whole.len() {
        let mut rotten = whole.clone();
        rotten[at] ^= 1;
        for (first, second) in [(&rotten, &whole), (&whole, &rotten)] {
            let found = slots::recover::<AcceptorState>(first, second).unwrap();
            assert_eq!(found.value, Some(state(7)), "rot at {at}");
        }
        let error = slots::recover::<AcceptorState>(&rotten, &rotten).unwrap_err();
        assert!(
            matches!(error, SlotError::BothDamaged { .. }),
            "rot at {at}: {error}"
        );
    }
}

#[test]
fn a_torn_write_of_one_copy_leaves_the_other() {
    let (old, new) = (slots::encode(6, &state(6)), slots::encode(7, &state(7)));
    for length in 0..new.len() {
        // The new bytes over the old ones, as far as they came.
        let torn = [&new[..length], &old[length..]].concat();
        let found = slots::recover::<AcceptorState>(&torn, &old).unwrap();
        // The last bytes of both are the same: then nothing is missing.
        let writes = if torn == new { 7 } else { 6 };
        assert_eq!(found.value, Some(state(writes)), "torn at {length}");
    }
    // Between the two writes the newer one counts, though it is not confirmed yet.
    let found = slots::recover::<AcceptorState>(&new, &old).unwrap();
    assert_eq!((found.value, found.generation), (Some(state(7)), 7));
}

#[test]
fn slots_that_never_had_a_value_are_blank_and_lost_ones_are_not() {
    let blank = slots::blank();
    let recover = slots::recover::<AcceptorState>;
    let found = recover(&blank, &blank).unwrap();
    assert_eq!((found.value, found.generation), (None, 0));
    // The first write was cut short in its first copy, and went no further.
    let torn = &slots::encode(1, &state(1))[..9];
    assert_eq!(recover(torn, &blank).unwrap().value, None);
    for (first, second) in [(&[][..], &[][..]), (torn, &[]), (&[], torn)] {
        let error = recover(first, second).unwrap_err();
        assert!(matches!(error, SlotError::BothDamaged { .. }), "{error}");
    }
    assert!(recover(&[], &[]).unwrap_err().to_string().contains("gone"));
}
