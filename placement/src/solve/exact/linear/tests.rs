//! The gate against exact arithmetic: what passes it is answered right, whatever its size; the rest is refused.

use pumpkin_solver::conflict_resolvers::resolvers::ResolutionResolver;
use pumpkin_solver::core::results::SatisfactionResultUnderAssumptions;
use pumpkin_solver::core::termination::Indefinite;

use super::*;
use crate::graph::tests::catches;
use crate::solve::Rng;

/// A variable by the values that it may have.
type Values = Vec<i32>;

/// What is asked of the variables.
#[derive(Clone, Debug)]
enum Question {
    /// `Σ coefficient × variable ≤ right`
    Sum(Vec<i128>, i128),
    /// `factor × first × second ≤ right`
    Product(i128, i128),
    /// `factor × first / second ≥ right`
    Quotient(i128, i128),
}

impl Question {
    fn holds(&self, at: &[i128]) -> bool {
        match self {
            Question::Sum(coefficients, right) => {
                let terms = coefficients.iter().zip(at);
                terms.map(|(c, x)| c * x).sum::<i128>() <= *right
            }
            Question::Product(factor, right) => factor * at[0] * at[1] <= *right,
            Question::Quotient(factor, right) => factor * at[0] / at[1] >= *right,
        }
    }

    /// Puts it to the solver, which says whether it can hold.
    fn ask(&self, domains: &[Values]) -> Result<bool, TooWide> {
        let mut gate = Gate::new(0);
        let truth = gate.truth();
        let variables: Vec<Linear> = domains
            .iter()
            .map(|values| {
                let (low, high) = (values[0], values[values.len() - 1]);
                Linear::of(gate.integer(values), i128::from(low), i128::from(high))
            })
            .collect();
        match self {
            Question::Sum(coefficients, right) => {
                let mut sum = Linear::default();
                for (variable, &coefficient) in variables.iter().zip(coefficients) {
                    sum.add(variable, coefficient)?;
                }
                gate.at_most_if(truth, &sum, *right)?;
            }
            Question::Product(factor, right) => {
                let product = gate.times(&variables[0].scaled(*factor)?, &variables[1])?;
                gate.at_most_if(truth, &product, *right)?;
            }
            Question::Quotient(factor, right) => {
                let quotient = gate.divide(&variables[0].scaled(*factor)?, &variables[1])?;
                gate.at_most_if(truth, &quotient.scaled(-1)?, -*right)?;
            }
        }
        if gate.is_dead() {
            return Ok(false);
        }
        let mut brancher = gate.solver.default_brancher();
        let mut resolver = ResolutionResolver::default();
        let result = gate.solver.satisfy_under_assumptions(
            &mut brancher,
            &mut Indefinite,
            &mut resolver,
            &[],
        );
        Ok(match result {
            SatisfactionResultUnderAssumptions::Satisfiable(_) => true,
            SatisfactionResultUnderAssumptions::Unsatisfiable(_)
            | SatisfactionResultUnderAssumptions::UnsatisfiableUnderAssumptions(_) => false,
            SatisfactionResultUnderAssumptions::Unknown(_) => panic!("without a budget"),
        })
    }

    fn can_hold(&self, domains: &[Values]) -> bool {
        let mut at = vec![Vec::new()];
        for values in domains {
            let longer = |at: Vec<i128>| {
                values.iter().map(move |&value| {
                    let mut at = at.clone();
                    at.push(i128::from(value));
                    at
                })
            };
            at = at.into_iter().flat_map(longer).collect();
        }
        at.iter().any(|at| self.holds(at))
    }
}

/// Whether it was answered; it is an error to answer wrongly.
fn is_answered(question: &Question, domains: &[Values]) -> bool {
    let Ok(answer) = question.ask(domains) else {
        return false;
    };
    assert_eq!(
        answer,
        question.can_hold(domains),
        "{question:?} over {domains:?}"
    );
    true
}

/// A number around a power of two, where a bit more or less is what is lost.
fn near(rng: &mut Rng, bits: std::ops::Range<u32>) -> i128 {
    let bit = bits.start + rng.below(bits.len()) as u32;
    let number = (1_i128 << bit) + rng.below(7) as i128 - 3;
    if rng.below(2) == 0 { number } else { -number }
}

fn random_question(rng: &mut Rng) -> (Question, Vec<Values>) {
    let domain = |rng: &mut Rng, low: i32| {
        let mut values: Values = (0..1 + rng.below(3))
            .map(|_| low + rng.below(6) as i32)
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    };
    match rng.below(4) {
        0 | 1 => {
            let count = 1 + rng.below(4);
            let domains = (0..count).map(|_| domain(rng, -3)).collect();
            let coefficients = (0..count).map(|_| near(rng, 20..34)).collect();
            (Question::Sum(coefficients, near(rng, 24..35)), domains)
        }
        2 => {
            let high = 1 << rng.below(16);
            let low = 1 - (1 << rng.below(15));
            let domains = vec![domain(rng, high), domain(rng, low)];
            (
                Question::Product(near(rng, 0..18), near(rng, 20..36)),
                domains,
            )
        }
        _ => {
            let low = 1 << rng.below(12);
            let domains = vec![domain(rng, 1), domain(rng, low)];
            (
                Question::Quotient(near(rng, 16..33), near(rng, 8..31)),
                domains,
            )
        }
    }
}

fn answers_are_right(count: u64) {
    let mut answered = 0;
    for seed in 0..count {
        let mut rng = Rng::new(seed);
        let (question, domains) = random_question(&mut rng);
        answered += u64::from(is_answered(&question, &domains));
    }
    // Neither is everything let through, nor everything refused.
    assert!(
        answered * 10 > count && answered * 10 < count * 9,
        "{answered} of {count}"
    );
}

#[test]
fn whatever_passes_the_gate_is_answered_right() {
    answers_are_right(4_000);
}

#[test]
fn the_gate_opens_up_to_its_bound_and_no_further() {
    let two = vec![vec![0, 1], vec![0, 1]];
    // Coprime, so that nothing can be divided out: what is added up can come to 2^30 - 6 and the right side.
    let sum = |right: i128| Question::Sum(vec![(1 << 28) - 1, (1 << 28) - 2], right);
    assert!(is_answered(&sum(6), &two));
    assert!(!is_answered(&sum(7), &two));
    // What a common divisor makes small passes, however large it was.
    let even = Question::Sum(vec![3 << 60, 5 << 60], 4 << 60);
    assert!(is_answered(&even, &two));
    // Wrapped, the first product is below 2,000,000,000. Bounds alone tell that it never is; else it is refused.
    let wrapped = Question::Sum(vec![1_500_000_000, 1], 2_000_000_000);
    assert!(is_answered(&wrapped, &[vec![2, 3], vec![0, 1]]));
    assert!(!is_answered(&wrapped, &[vec![-3, 2, 3], vec![0, 1]]));
    let square = |side: i32| Question::Product(1, i128::from(side) * i128::from(side) - 1);
    let sides = |side: i32| vec![vec![side - 1, side], vec![side - 1, side]];
    assert!(is_answered(&square(23_170), &sides(23_170)));
    assert!(!is_answered(&square(23_171), &sides(23_171)));
    assert!(!is_answered(&square(46_341), &sides(46_341)));
}

#[test]
fn a_gate_that_wraps_is_caught() {
    assert!(catches(Plant::NarrowSums, || answers_are_right(1_000)));
}
