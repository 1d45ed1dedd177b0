//! The particle swarm against pyswarms, against random search, and in any order of results.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic")]

use core::f64::consts::{E, PI};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kdh_trainer::pso::{
    Ask, Boundary, Direction, Domain, Goal, Optimizer, Outcome, Proposal, RandomSearch, Space, Stagnation, StopReason,
    Swarm, SwarmOptions, TellError, Topology,
};
use proptest::prelude::*;
use serde::Deserialize;

/// What `scripts/fixtures/pso.py` wrote.
#[derive(Deserialize)]
struct Fixture {
    particles: usize,
    iterations: u64,
    dimensions: usize,
    seeds: u64,
    functions: BTreeMap<String, Function>,
}

#[derive(Clone, Deserialize)]
struct Function {
    half_width: f64,
    optimum: Vec<f64>,
    /// Of the best value after the whole budget, over the seeds, for each set of options.
    medians: BTreeMap<String, f64>,
}

fn fixture() -> Fixture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pyswarms.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn value(name: &str, x: &[f64]) -> f64 {
    let mean = |term: fn(f64) -> f64| x.iter().map(|&x| term(x)).sum::<f64>() / x.len() as f64;
    let cosine = |x: f64| (2.0 * PI * x).cos();
    match name {
        "sphere" => x.iter().map(|x| x * x).sum(),
        "rosenbrock" => {
            let valley = |one: f64, two: f64| 100.0 * (two - one * one).powi(2) + (1.0 - one).powi(2);
            x.windows(2).map(|pair| valley(pair[0] + 1.0, pair[1] + 1.0)).sum()
        }
        "rastrigin" => x.iter().map(|&x| x * x - 10.0 * cosine(x) + 10.0).sum(),
        "ackley" => 20.0 - 20.0 * (-0.2 * mean(|x| x * x).sqrt()).exp() + E - mean(|x| (2.0 * PI * x).cos()).exp(),
        other => panic!("the fixture names an unknown function, {other}"),
    }
}

impl Function {
    fn space(&self) -> Space {
        let names = (0..self.optimum.len()).map(|index| format!("x{index:02}"));
        let domain = Domain::Linear { min: -self.half_width, max: self.half_width };
        Space::new(names.map(|name| (name, domain.clone()))).unwrap()
    }

    fn value(&self, name: &str, proposal: &Proposal) -> f64 {
        let place = |(unit, optimum): (&f64, &f64)| (2.0 * unit - 1.0) * self.half_width - optimum;
        value(name, &proposal.position.iter().zip(&self.optimum).map(place).collect::<Vec<f64>>())
    }

    fn minimum(&self, name: &str, mut optimizer: impl Optimizer) -> f64 {
        while let Ask::Evaluate(proposal) = optimizer.ask() {
            optimizer.tell(proposal.evaluation, Outcome::Score(self.value(name, &proposal))).unwrap();
        }
        optimizer.best().unwrap().score
    }
}

fn goal(evaluations: u64) -> Goal {
    Goal { direction: Direction::Minimize, evaluations, stagnation: None }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
}

#[test]
fn functions_are_zero_at_their_optimum_and_nowhere_else() {
    for (name, function) in fixture().functions {
        let position = function.optimum.iter().map(|optimum| 0.5 + 0.5 * optimum / function.half_width).collect();
        let point = function.space().decode(&[0.5; 10]);
        let proposal = Proposal { evaluation: 0, position, point };
        assert!(function.value(&name, &proposal).abs() < 1e-9, "{name}");
        let beside = proposal.position.iter().map(|unit| unit + 0.01).collect();
        assert!(function.value(&name, &Proposal { position: beside, ..proposal }) > 0.01, "{name}");
    }
}

#[test]
fn at_least_as_good_as_pyswarms() {
    let Fixture { particles, iterations, dimensions, seeds, functions } = fixture();
    assert_eq!((functions.len(), seeds), (4, 30));
    for (name, function) in functions {
        assert_eq!(function.optimum.len(), dimensions);
        let theirs = function.medians.values().copied().fold(f64::INFINITY, f64::min);
        let ours = median((0..seeds).map(|seed| {
            let options = SwarmOptions { particles, seed, ..SwarmOptions::default() };
            function.minimum(&name, Swarm::new(function.space(), goal(particles as u64 * iterations), options).unwrap())
        }));
        println!("{name}: median {ours:.3e}, pyswarms {theirs:.3e}");
        assert!(ours <= theirs, "{name}: median {ours:.3e}, pyswarms {theirs:.3e}");
    }
}

/// The budget of a night of training: 60 evaluations in 5 dimensions.
#[test]
fn better_than_random_search_at_a_small_budget() {
    for (name, mut function) in fixture().functions {
        function.optimum.truncate(5);
        let swarm = median((0..100).map(|seed| {
            let options = SwarmOptions { seed, ..SwarmOptions::default() };
            function.minimum(&name, Swarm::new(function.space(), goal(60), options).unwrap())
        }));
        let random =
            median((0..100).map(|seed| {
                function.minimum(&name, RandomSearch::new(function.space(), goal(60), None, seed).unwrap())
            }));
        println!("{name}: median {swarm:.3e}, random search {random:.3e}");
        assert!(swarm < random, "{name}: median {swarm:.3e}, random search {random:.3e}");
    }
}

#[test]
fn a_saved_swarm_goes_on_as_if_never_stopped() {
    let function = fixture().functions["rastrigin"].clone();
    let options = SwarmOptions { particles: 7, topology: Topology::Ring { neighbors: 1 }, ..SwarmOptions::default() };
    let mut one = Swarm::new(function.space(), goal(200), options).unwrap();
    let mut two = one.clone();
    loop {
        let (first, second) = (one.ask(), two.ask());
        assert_eq!(first, second);
        two = serde_json::from_str(&serde_json::to_string(&two).unwrap()).unwrap();
        let Ask::Evaluate(proposal) = first else { break };
        let outcome = match proposal.evaluation % 9 {
            4 => Outcome::Failed,
            _ => Outcome::Score(function.value("rastrigin", &proposal)),
        };
        one.tell(proposal.evaluation, outcome).unwrap();
        two.tell(proposal.evaluation, outcome).unwrap();
        two = serde_json::from_str(&serde_json::to_string(&two).unwrap()).unwrap();
        assert_eq!(one, two);
    }
    assert_eq!(one.progress().told, 200);
}

#[test]
fn several_workers_do_not_cost_the_search_its_way() {
    let function = fixture().functions["sphere"].clone();
    let minimum = |workers: usize| {
        median((0..15).map(|seed| {
            let mut swarm =
                Swarm::new(function.space(), goal(1500), SwarmOptions { seed, ..SwarmOptions::default() }).unwrap();
            let mut running: Vec<Proposal> = Vec::new();
            let mut turn = seed as usize;
            loop {
                match swarm.ask() {
                    Ask::Evaluate(proposal) => running.push(proposal),
                    Ask::Finished(_) => break,
                    Ask::Wait => assert!(!running.is_empty()),
                }
                while running.len() >= workers || (swarm.progress().asked == 1500 && !running.is_empty()) {
                    turn = turn.wrapping_mul(31).wrapping_add(7);
                    let proposal = running.swap_remove(turn % running.len());
                    swarm.tell(proposal.evaluation, Outcome::Score(function.value("sphere", &proposal))).unwrap();
                }
            }
            swarm.best().unwrap().score
        }))
    };
    let (alone, four) = (minimum(1), minimum(4));
    assert!(alone < 1e-2 && four < 1e-2, "{alone:e} alone, {four:e} with four workers");
}

#[test]
fn a_search_without_gain_stops() {
    let stagnation = Some(Stagnation { evaluations: 25, minimum_gain: 0.0 });
    let function = fixture().functions["sphere"].clone();
    let goal = Goal { stagnation, ..goal(1000) };
    let mut swarm = Swarm::new(function.space(), goal, SwarmOptions::default()).unwrap();
    let reason = loop {
        match swarm.ask() {
            Ask::Evaluate(proposal) => {
                let score = if proposal.evaluation < 40 { -(proposal.evaluation as f64) } else { 0.0 };
                swarm.tell(proposal.evaluation, Outcome::Score(score)).unwrap();
            }
            Ask::Finished(reason) => break reason,
            Ask::Wait => panic!("nothing is outstanding"),
        }
    };
    assert_eq!((reason, swarm.progress().told), (StopReason::Stagnation, 65));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Up to `workers` evaluations are out, and come back in an order that `choices` decides.
    #[test]
    fn no_evaluation_is_lost_or_doubled(
        choices in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 120),
        workers in 1..8usize,
        particles in 1..6usize,
        boundary in prop_oneof![Just(Boundary::Reflect), Just(Boundary::Absorb), Just(Boundary::Wrap)],
        random_search: bool,
    ) {
        let function = fixture().functions["ackley"].clone();
        if random_search {
            play(RandomSearch::new(function.space(), goal(120), None, 1).unwrap(), &choices, workers, workers)?;
        } else {
            let options = SwarmOptions { particles, boundary, ..SwarmOptions::default() };
            let swarm = Swarm::new(function.space(), goal(120), options).unwrap();
            play(swarm, &choices, workers, workers.min(particles))?;
        }
    }
}

fn play(
    mut optimizer: impl Optimizer,
    choices: &[(prop::sample::Index, u8)],
    workers: usize,
    most: usize,
) -> Result<(), TestCaseError> {
    let mut running: Vec<Proposal> = Vec::new();
    let mut told = BTreeSet::new();
    let mut scores = Vec::new();
    for (choice, kind) in choices {
        while running.len() < workers {
            let Ask::Evaluate(proposal) = optimizer.ask() else { break };
            running.push(proposal);
        }
        // As many as there are workers and particles for, until the budget runs out.
        prop_assert_eq!(running.len(), most.min(120 - told.len()));
        let proposal = running.swap_remove(choice.index(running.len()));
        let outcome = if *kind < 40 { Outcome::Failed } else { Outcome::Score(f64::from(*kind)) };
        scores.extend(outcome.score());
        optimizer.tell(proposal.evaluation, outcome).unwrap();
        let again = optimizer.tell(proposal.evaluation, outcome);
        prop_assert_eq!(again, Err(TellError::NotOutstanding { evaluation: proposal.evaluation }));
        prop_assert!(told.insert(proposal.evaluation));
    }
    prop_assert_eq!(optimizer.ask(), Ask::Finished(StopReason::Budget));
    prop_assert_eq!(told, (0..120).collect::<BTreeSet<u64>>());
    prop_assert_eq!(optimizer.progress().failed as usize, 120 - scores.len());
    prop_assert_eq!(optimizer.best().map(|best| best.score), scores.into_iter().min_by(f64::total_cmp));
    Ok(())
}
