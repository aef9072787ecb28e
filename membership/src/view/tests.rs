//! What a certificate does not prove.

use super::*;
use crate::cut::Departure;
use crate::voters::tests::{founded, remove};

/// The removal of the last of five voters, as these voted for it.
fn view(before: &SharedConfiguration, rank: Rank, votes: usize) -> View {
    let cut = remove(&[5], Departure::Failed);
    let after = before.successor(&cut).unwrap();
    let mut voters = Bitmap::empty(before.voters().len());
    (0..votes).for_each(|voter| {
        voters.insert(voter);
    });
    let certificate = Certificate {
        config: before.hash(),
        rank,
        voters,
    };
    View {
        seq: after.seq(),
        hash: after.hash(),
        cut: Arc::new(cut),
        certificate,
    }
}

/// A view that its voters decided in the fast round, but for a change.
fn refused(change: impl FnOnce(&mut View)) -> Unproven {
    let before = Arc::new(founded(5));
    let mut view = view(&before, Rank::FAST, 4);
    change(&mut view);
    view.verify(&before, &Catalog::new()).unwrap_err()
}

#[test]
fn a_view_with_a_vote_too_few_is_refused() {
    let before = Arc::new(founded(5));
    let classic = Rank {
        round: 2,
        coordinator: 1,
    };
    for (rank, needed) in [(Rank::FAST, 4), (classic, 3)] {
        let verify = |votes| view(&before, rank, votes).verify(&before, &Catalog::new());
        let after = verify(needed).unwrap();
        assert_eq!(after.members().len(), 4);
        let found = needed - 1;
        assert_eq!(verify(found), Err(Unproven::NoQuorum { needed, found }));
    }
}

#[test]
fn a_view_of_other_voters_is_refused() {
    for found in [4, 6] {
        let error = refused(|view| {
            view.certificate.voters = Bitmap::empty(found);
            (0..4).for_each(|voter| {
                view.certificate.voters.insert(voter);
            });
        });
        let expected = 5;
        assert_eq!(error, Unproven::OtherVoters { expected, found });
    }
}

#[test]
fn a_view_that_continues_an_unknown_configuration_is_refused() {
    let unknown = ConfigHash(7);
    let error = refused(|view| view.certificate.config = unknown);
    assert_eq!(error, Unproven::OtherConfiguration(unknown));
}

#[test]
fn a_view_with_another_result_than_it_claims_is_refused() {
    let before = founded(5);
    let leads_to = |cut: &Cut| Unproven::OtherResult(before.successor(cut).unwrap().hash());
    let ours = leads_to(&remove(&[5], Departure::Failed));
    assert_eq!(refused(|view| view.hash = ConfigHash(7)), ours);
    assert_eq!(refused(|view| view.seq += 1), ours);
    let other = remove(&[4], Departure::Failed);
    let error = leads_to(&other);
    assert_eq!(refused(|view| view.cut = Arc::new(other)), error);
    let impossible = refused(|view| view.cut = Arc::new(remove(&[6], Departure::Failed)));
    assert_eq!(
        impossible,
        Unproven::Rejected(Rejected::NotApplicable(NodeId(6)))
    );
}
