//! Memberships alone, of 5 to 30 nodes, some of which join a cluster of the others.
//!
//! In a storm of even number anything may happen to anybody. In one of odd number faults strike a fifth of
//! the nodes at most, always the same, and worse ones, disks among them: then nobody else may be removed.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use synod_chaos::invariant::views::Views;
use synod_chaos::members::{Register, Standing};
use synod_chaos::world::{World, world_us};
use synod_membership::status::Phase;

use super::strikes::{Means, strike};
use super::{AGREEMENT, RETURN, SAFETY, for_seeds, look};

/// Between two looks at what the processes show.
const LOOK: Duration = Duration::from_millis(200);

/// Who is struck.
enum Whom {
    /// Anybody.
    Anybody,
    /// One of these, and nobody else.
    Few(Vec<usize>),
}

impl Whom {
    fn draw(seed: u64, nodes: usize, rng: &mut SmallRng) -> Whom {
        if seed.is_multiple_of(2) {
            return Whom::Anybody;
        }
        let mut all: Vec<usize> = (0..nodes).collect();
        all.shuffle(rng);
        all.truncate((nodes / 5).max(1));
        Whom::Few(all)
    }

    fn victim(&self, world: &mut World) -> usize {
        match self {
            Whom::Anybody => world.any_node(),
            Whom::Few(few) => few[world.rng().random_range(0..few.len())],
        }
    }

    fn means(&self) -> Means {
        let few = matches!(self, Whom::Few(_));
        Means {
            blackout: !few,
            disks: few,
            // From half to twice the rate.
            rate_ppm: -500_000..=1_000_000,
        }
    }

    /// Fails if somebody was removed to whom nothing was done.
    fn judge(&self, register: &Register) -> Result<(), String> {
        let Whom::Few(few) = self else {
            return Ok(());
        };
        let few: BTreeSet<usize> = few.iter().copied().collect();
        let removed = register.removed().into_iter();
        let mut wronged = removed.filter(|removed| {
            let machine = register.machine_of(removed.node);
            machine.is_none_or(|machine| !few.contains(&usize::from(machine)))
        });
        wronged.next().map_or(Ok(()), |removed| {
            Err(format!(
                "view {} removed healthy machine {:?} at {} ms, when only {few:?} were struck",
                removed.seq,
                register.machine_of(removed.node),
                removed.at_us / 1_000
            ))
        })
    }
}

/// Waits until all nodes, or all but those that were removed alive, show one view.
async fn agree(world: &World, register: &Register, all: Option<Duration>) -> Result<u64, String> {
    let begun_us = world_us();
    loop {
        // First of all: who has just been started has not said anything yet.
        tokio::time::sleep(LOOK).await;
        let shown: Vec<Option<Standing>> = (0..world.nodes())
            .map(|node| register.standing(node as u16))
            .collect();
        if let Some(violation) = register.violation() {
            return Err(violation);
        }
        let known = shown.iter().all(Option::is_some);
        let mut counted = shown
            .iter()
            .flatten()
            .filter(|standing| all.is_some() || !is_outside(standing));
        let first = counted.clone().next().map(|s| (s.seq, s.hash));
        let same = counted.clone().all(|s| Some((s.seq, s.hash)) == first);
        let member =
            |s: &Standing| s.phase == Phase::Member && s.serving && s.members == world.nodes();
        if known && same && (all.is_none() || counted.all(member)) {
            return Ok((world_us() - begun_us) / 1_000);
        }
        let patience = all.unwrap_or(AGREEMENT);
        if Duration::from_micros(world_us() - begun_us) > patience {
            return Err(format!("no agreement within {patience:?}: {shown:#?}"));
        }
    }
}

/// Whether a process is on its way back into the membership.
fn is_outside(standing: &Standing) -> bool {
    match standing.phase {
        Phase::Removed | Phase::Joining => true,
        Phase::Starting
        | Phase::Member
        | Phase::Restarting
        | Phase::Leaving
        | Phase::Left
        | Phase::Halted => false,
    }
}

async fn storm(seed: u64) -> Result<String, String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let nodes = rng.random_range(5..=30);
    let joiners = rng.random_range(0..=nodes / 2);
    let register = Register::default();
    let mut world = World::of_memberships(seed, nodes - joiners, joiners, &register);
    let whom = Whom::draw(seed, world.nodes(), &mut rng);
    let means = whom.means();
    let mut views = Views::default();
    agree(&world, &register, Some(AGREEMENT)).await?;
    let until_us = world_us() + SAFETY.as_micros() as u64;
    let mut number = 0;
    while world_us() < until_us {
        // As many strikes a node and second as there are in a small cluster.
        let pause_ms = world.rng().random_range(200..4_000) * 5 / u64::from(nodes);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        number += 1;
        let victim = whom.victim(&mut world);
        strike(&mut world, number, victim, &means);
        look(&mut views, &world)?;
        whom.judge(&register)?;
    }
    world.heal();
    let members_ms = agree(&world, &register, None).await?;
    let all_ms = agree(&world, &register, Some(RETURN)).await?;
    look(&mut views, &world)?;
    whom.judge(&register)?;
    let failures = world.failures();
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    let whom = match whom {
        Whom::Anybody => "anybody".to_owned(),
        Whom::Few(few) => format!("{} of them", few.len()),
    };
    let (seen, proofs) = views.counts();
    Ok(format!(
        "{nodes} nodes, {joiners} joined, {number} strikes at {whom}, {} removed, {seen} views, {proofs} proofs \
         checked, agreed after {members_ms} ms, all back after {all_ms} ms",
        register.removed().len(),
    ))
}

#[test]
fn memberships_of_5_to_30_nodes_agree_on_one_sequence_through_any_storm() {
    for_seeds(0..12, storm);
}
