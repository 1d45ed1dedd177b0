//! The particle swarm: Kennedy and Eberhart, "Particle Swarm Optimization" (1995), asynchronous.

use std::collections::VecDeque;

use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::ledger::Ledger;
use super::optimizer::{Ask, Best, Goal, Optimizer, OptionsError, Outcome, Progress, TellError};
use super::space::{Point, Space};

/// An asynchronous particle swarm.
///
/// A particle flies on as soon as its own result is in and a worker is free, drawn by the best that is known at that
/// moment; it never waits for the rest of its generation. (Carlisle and Dozier, "An Off-The-Shelf PSO", 2001; Koh,
/// George, Haftka and Fregly, "Parallel asynchronous particle swarm optimization", 2006.) More workers than particles
/// are of no use.
///
/// The random numbers of a particle's n-th move follow from the seed, the particle and n alone, whatever came before.
/// With one worker a search is therefore reproduced by its seed; with several it also depends on the order of results.
///
/// A particle whose evaluations all failed is drawn by its neighbours alone, and starts at a random place again while
/// they have no result either.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Swarm {
    space: Space,
    #[serde(deserialize_with = "checked_options")]
    options: SwarmOptions,
    particles: Vec<Particle>,
    /// Particles without an outstanding evaluation, the one that waits longest first.
    ready: VecDeque<usize>,
    /// Remembers whose evaluation it is.
    ledger: Ledger<usize>,
}

/// How a [`Swarm`] moves.
///
/// Lengths and velocities are in the unit cube, where every coordinate has the range 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwarmOptions {
    /// Number of particles.
    pub particles: usize,
    /// Weight of a particle's velocity from one move to the next.
    pub weight: Weight,
    /// Pull of the particle's own best position, `c1` of the literature.
    pub cognitive: f64,
    /// Pull of the best position of its neighbourhood, `c2`.
    pub social: f64,
    /// Largest velocity in each coordinate, more than 0 and at most 1.
    pub max_velocity: f64,
    /// What happens at the walls of the unit cube.
    pub boundary: Boundary,
    /// Who is whose neighbour.
    pub topology: Topology,
    /// Where the first particle starts. The others start as a Latin hypercube.
    pub start: Option<Point>,
    /// Seed of all random numbers.
    pub seed: u64,
}

/// Weight of a particle's velocity from one move to the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Weight {
    /// Scales the whole new velocity by `2 / (phi - 2 + sqrt(phi² - 4 phi))`, where `phi` is the sum of both pulls and
    /// must be more than 4: Clerc and Kennedy, "The particle swarm: explosion, stability, and convergence" (2002),
    /// with kappa = 1.
    Constriction,
    /// The same inertia always: Shi and Eberhart, "A modified particle swarm optimizer" (1998).
    Constant {
        /// At least 0 and less than 1.
        inertia: f64,
    },
    /// Inertia that falls in a line with the share of the budget that is used: Shi and Eberhart, "Empirical study of
    /// particle swarm optimization" (1999).
    Linear {
        /// Inertia at the start.
        from: f64,
        /// Inertia when the budget is used up.
        to: f64,
    },
    /// Uniform between 0.5 and 1, drawn for each move: Eberhart and Shi, "Tracking and optimizing dynamic systems with
    /// particle swarms" (2001).
    Random,
}

/// What happens when a coordinate leaves `[0, 1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boundary {
    /// The wall is a mirror, for the position and for the velocity.
    Reflect,
    /// The particle stops at the wall.
    Absorb,
    /// It comes in again at the opposite wall and flies on.
    Wrap,
}

/// Who is whose neighbour; every particle is its own as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Topology {
    /// All of all: `gbest`.
    Global,
    /// The particles sit in a ring, and each sees so many on either side: `lbest`.
    Ring {
        /// Neighbours on either side, at least 1.
        neighbors: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Particle {
    position: Vec<f64>,
    velocity: Vec<f64>,
    moves: u32,
    best: Option<ParticleBest>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ParticleBest {
    /// The score turned so that less is better.
    loss: f64,
    position: Vec<f64>,
}

/// Particles beyond this number are a mistake: none would move twice in any budget.
const MAX_PARTICLES: usize = 10_000;

/// Ten particles that settle within the budget, whatever it is: of the usual schedules, the inertia that falls from 0.7 to
/// 0.2 with pulls of 1.5 did best on sphere, Rosenbrock, Rastrigin and Ackley together, at 60 evaluations and at 3000.
impl Default for SwarmOptions {
    fn default() -> Self {
        Self {
            particles: 10,
            weight: Weight::Linear { from: 0.7, to: 0.2 },
            cognitive: 1.5,
            social: 1.5,
            max_velocity: 0.2,
            boundary: Boundary::Reflect,
            topology: Topology::Global,
            start: None,
            seed: 1,
        }
    }
}

impl Swarm {
    /// A swarm at its start.
    ///
    /// # Errors
    /// When an option is out of its range or the start is not in the space.
    pub fn new(space: Space, goal: Goal, options: SwarmOptions) -> Result<Self, OptionsError> {
        options.check()?;
        let ledger = Ledger::new(goal)?;
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        random.set_stream(u64::MAX);
        let mut positions = latin_hypercube(options.particles, space.coordinates(), &mut random);
        if let (Some(start), Some(first)) = (&options.start, positions.first_mut()) {
            *first = space.encode(start).map_err(OptionsError::Start)?;
        }
        let particles = positions
            .into_iter()
            .map(|position| Particle {
                velocity: starting_velocity(&position, options.max_velocity, &mut random),
                position,
                moves: 0,
                best: None,
            })
            .collect();
        Ok(Self { space, particles, ready: (0..options.particles).collect(), ledger, options })
    }

    /// The options it was made with.
    pub fn options(&self) -> &SwarmOptions {
        &self.options
    }

    /// Moves a particle to the position that it shall have evaluated next.
    fn advance(&mut self, index: usize) -> Option<Vec<f64>> {
        let attractor = self.neighborhood_best(index).map(|best| best.position.clone());
        let motion = self.motion();
        let Self { options, particles, .. } = self;
        let particle = particles.get_mut(index)?;
        if particle.moves > 0 {
            let mut random = ChaCha8Rng::seed_from_u64(options.seed);
            random.set_stream((index as u64) << 32 | u64::from(particle.moves));
            match attractor {
                Some(attractor) => particle.fly(&attractor, motion, options, &mut random),
                None => particle.scatter(options.max_velocity, &mut random),
            }
        }
        particle.moves = particle.moves.saturating_add(1);
        Some(particle.position.clone())
    }

    /// The best result among the neighbours of a particle; of equal ones that of the lowest index.
    fn neighborhood_best(&self, index: usize) -> Option<&ParticleBest> {
        let bests = neighbors(self.options.topology, self.particles.len(), index);
        let bests = bests.filter_map(|index| self.particles.get(index)?.best.as_ref());
        bests.min_by(|one, two| one.loss.total_cmp(&two.loss))
    }

    fn motion(&self) -> Motion {
        let SwarmOptions { weight, cognitive, social, .. } = self.options;
        let inertia = |inertia| Motion { inertia: Some(inertia), scale: 1.0 };
        match weight {
            Weight::Constriction => Motion { inertia: Some(1.0), scale: constriction(cognitive + social) },
            Weight::Constant { inertia: constant } => inertia(constant),
            Weight::Linear { from, to } => {
                let Progress { asked, budget, .. } = self.ledger.progress();
                inertia(from + (to - from) * asked as f64 / budget as f64)
            }
            Weight::Random => Motion { inertia: None, scale: 1.0 },
        }
    }
}

/// The factors of one move.
#[derive(Clone, Copy)]
struct Motion {
    /// `None` for a drawn one.
    inertia: Option<f64>,
    scale: f64,
}

impl Optimizer for Swarm {
    fn ask(&mut self) -> Ask {
        if let Some(answer) = self.ledger.closed() {
            return answer;
        }
        let Some(index) = self.ready.pop_front() else { return Ask::Wait };
        match self.advance(index) {
            Some(position) => self.ledger.open(&self.space, position, index),
            None => Ask::Wait,
        }
    }

    fn tell(&mut self, evaluation: u64, outcome: Outcome) -> Result<(), TellError> {
        let (index, loss) = self.ledger.close(&self.space, evaluation, outcome)?;
        if let Some(particle) = self.particles.get_mut(index) {
            if let Some(loss) = loss
                && particle.best.as_ref().is_none_or(|best| loss < best.loss)
            {
                particle.best = Some(ParticleBest { loss, position: particle.position.clone() });
            }
            self.ready.push_back(index);
        }
        Ok(())
    }

    fn best(&self) -> Option<&Best> {
        self.ledger.best()
    }

    fn progress(&self) -> Progress {
        self.ledger.progress()
    }

    fn space(&self) -> &Space {
        &self.space
    }
}

impl SwarmOptions {
    fn check(&self) -> Result<(), OptionsError> {
        let check = OptionsError::unless;
        check((1..=MAX_PARTICLES).contains(&self.particles), "particles", "from 1 to 10000")?;
        let pull = |pull: f64| (0.0..=10.0).contains(&pull);
        check(pull(self.cognitive), "cognitive", "from 0 to 10")?;
        check(pull(self.social), "social", "from 0 to 10")?;
        check(self.max_velocity > 0.0 && self.max_velocity <= 1.0, "max_velocity", "more than 0 and at most 1")?;
        let inertia = |inertia: f64| (0.0..1.0).contains(&inertia);
        match self.weight {
            Weight::Constriction => {
                check(self.cognitive + self.social > 4.0, "cognitive + social", "more than 4 for a constriction")?;
            }
            Weight::Constant { inertia: constant } => {
                check(inertia(constant), "weight.inertia", "at least 0 and less than 1")?;
            }
            Weight::Linear { from, to } => {
                check(inertia(from) && inertia(to), "weight.from and weight.to", "at least 0 and less than 1")?;
            }
            Weight::Random => {}
        }
        if let Topology::Ring { neighbors } = self.topology {
            check(neighbors > 0, "topology.neighbors", "at least 1")?;
        }
        Ok(())
    }
}

impl Particle {
    fn fly(&mut self, attractor: &[f64], motion: Motion, options: &SwarmOptions, random: &mut ChaCha8Rng) {
        let inertia = motion.inertia.unwrap_or_else(|| 0.5 + 0.5 * random.random::<f64>());
        let own = self.best.as_ref().map_or(attractor, |best| &best.position);
        let cognitive = if self.best.is_some() { options.cognitive } else { 0.0 };
        for (((position, velocity), own), attractor) in
            self.position.iter_mut().zip(&mut self.velocity).zip(own).zip(attractor)
        {
            let pulls = cognitive * random.random::<f64>() * (own - *position)
                + options.social * random.random::<f64>() * (attractor - *position);
            let limit = options.max_velocity;
            *velocity = (motion.scale * (inertia * *velocity + pulls)).clamp(-limit, limit);
            (*position, *velocity) = options.boundary.confine(*position + *velocity, *velocity);
        }
    }

    fn scatter(&mut self, max_velocity: f64, random: &mut ChaCha8Rng) {
        self.position.fill_with(|| random.random());
        self.velocity = starting_velocity(&self.position, max_velocity, random);
    }
}

impl Boundary {
    /// Brings a position back into `[0, 1]`; gives it and the velocity that the particle has from there.
    fn confine(self, position: f64, velocity: f64) -> (f64, f64) {
        if (0.0..=1.0).contains(&position) {
            return (position, velocity);
        }
        match self {
            // Unfolded, mirrors at 0 and 1 repeat with the period 2, turned round in every other unit.
            Self::Reflect => match position.rem_euclid(2.0) {
                folded if folded > 1.0 => (2.0 - folded, -velocity),
                folded => (folded, velocity),
            },
            Self::Absorb => (position.clamp(0.0, 1.0), 0.0),
            Self::Wrap => (position.rem_euclid(1.0), velocity),
        }
    }
}

/// A saved swarm may have been edited since.
fn checked_options<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SwarmOptions, D::Error> {
    let options = SwarmOptions::deserialize(deserializer)?;
    options.check().map_err(D::Error::custom)?;
    Ok(options)
}

/// Clerc and Kennedy (2002), equation 4.15 with kappa = 1; `phi` is more than 4.
fn constriction(phi: f64) -> f64 {
    2.0 / (phi - 2.0 + (phi * phi - 4.0 * phi).sqrt())
}

/// The neighbourhood of a particle, itself included, each once.
fn neighbors(topology: Topology, particles: usize, index: usize) -> impl Iterator<Item = usize> {
    let span = match topology {
        Topology::Ring { neighbors } if neighbors < particles / 2 => 2 * neighbors + 1,
        _ => particles,
    };
    let mut around: Vec<usize> = (0..span).map(|step| (index + particles - span / 2 + step) % particles).collect();
    around.sort_unstable();
    around.into_iter()
}

/// `count` positions, one in each of `count` equal strata of every coordinate: McKay, Beckman and Conover, "A comparison
/// of three methods for selecting values of input variables" (1979).
fn latin_hypercube(count: usize, coordinates: usize, random: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    let mut positions = vec![Vec::with_capacity(coordinates); count];
    let mut strata: Vec<usize> = (0..count).collect();
    for _ in 0..coordinates {
        strata.shuffle(random);
        for (position, stratum) in positions.iter_mut().zip(&strata) {
            position.push((*stratum as f64 + random.random::<f64>()) / count as f64);
        }
    }
    positions
}

/// Half the way to a random place, so that no particle leaves at its first move: Clerc, "Standard Particle Swarm
/// Optimisation" (2012).
fn starting_velocity(position: &[f64], max_velocity: f64, random: &mut ChaCha8Rng) -> Vec<f64> {
    let towards = |position: &f64| (0.5 * (random.random::<f64>() - position)).clamp(-max_velocity, max_velocity);
    position.iter().map(towards).collect()
}

#[cfg(test)]
mod tests {
    use core::f64::consts::PI;

    use proptest::prelude::*;

    use super::super::optimizer::{Direction, Proposal};
    use super::super::space::{Domain, Value};
    use super::*;

    fn space() -> Space {
        Space::new([
            ("rate", Domain::Log { min: 1e-3, max: 1e3 }),
            ("shift", Domain::Linear { min: -4.0, max: 4.0 }),
            ("head", Domain::Categorical { choices: vec!["a".into(), "b".into(), "c".into()] }),
        ])
        .unwrap()
    }

    const GOAL: Goal = Goal { direction: Direction::Minimize, evaluations: 150, stagnation: None };

    /// Best at `rate` 1, `shift` 1, `head` "b".
    fn objective(point: &Point) -> f64 {
        let (Value::Real(rate), Value::Real(shift)) = (&point["rate"], &point["shift"]) else { panic!("{point:?}") };
        let head = if point["head"] == Value::Category("b".into()) { 0.0 } else { 2.0 };
        rate.ln().powi(2) + (shift - 1.0).powi(2) + head
    }

    fn evaluate(swarm: &mut Swarm) -> Option<Proposal> {
        let Ask::Evaluate(proposal) = swarm.ask() else { return None };
        swarm.tell(proposal.evaluation, Outcome::Score(objective(&proposal.point))).unwrap();
        Some(proposal)
    }

    #[test]
    fn it_finds_the_best_of_a_mixed_space() {
        let mut swarm = Swarm::new(space(), GOAL, SwarmOptions::default()).unwrap();
        while evaluate(&mut swarm).is_some() {}
        let best = swarm.best().unwrap();
        assert!(best.score < 0.01, "{best:?}");
        assert_eq!(best.score, objective(&best.point));
    }

    #[test]
    fn maximising_mirrors_minimising() {
        let mut one = Swarm::new(space(), GOAL, SwarmOptions::default()).unwrap();
        let goal = Goal { direction: Direction::Maximize, ..GOAL };
        let mut two = Swarm::new(space(), goal, SwarmOptions::default()).unwrap();
        while let Some(proposal) = evaluate(&mut one) {
            assert_eq!(two.ask(), Ask::Evaluate(proposal.clone()));
            two.tell(proposal.evaluation, Outcome::Score(-objective(&proposal.point))).unwrap();
        }
        assert_eq!(one.best().unwrap().score, -two.best().unwrap().score);
    }

    #[test]
    fn the_first_particle_starts_where_told() {
        let start = space().decode(&[0.3, 0.6, 0.1, 0.2, 0.9]);
        let options = SwarmOptions { start: Some(start.clone()), ..SwarmOptions::default() };
        let first = evaluate(&mut Swarm::new(space(), GOAL, options).unwrap()).unwrap();
        assert_eq!(first.point["head"], start["head"]);
        let (Value::Real(rate), Value::Real(expected)) = (&first.point["rate"], &start["rate"]) else { panic!() };
        assert!((rate / expected - 1.0).abs() < 1e-9);
        let options = SwarmOptions { start: Some(Point::new()), ..SwarmOptions::default() };
        assert!(matches!(Swarm::new(space(), GOAL, options), Err(OptionsError::Start(_))));
    }

    #[test]
    fn seeds_decide() {
        let run = |seed| {
            let mut swarm = Swarm::new(space(), GOAL, SwarmOptions { seed, ..SwarmOptions::default() }).unwrap();
            while evaluate(&mut swarm).is_some() {}
            swarm
        };
        assert_eq!(run(5), run(5));
        assert_ne!(run(5).best(), run(6).best());
    }

    #[test]
    fn the_start_is_a_latin_hypercube() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let positions = latin_hypercube(20, 3, &mut random);
        for coordinate in 0..3 {
            let mut strata: Vec<usize> =
                positions.iter().map(|position| (position[coordinate] * 20.0) as usize).collect();
            strata.sort_unstable();
            assert_eq!(strata, (0..20).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_particle_moves_without_the_rest_of_its_generation() {
        let options = SwarmOptions { particles: 3, ..SwarmOptions::default() };
        let mut swarm = Swarm::new(space(), GOAL, options).unwrap();
        for _ in 0..3 {
            assert!(matches!(swarm.ask(), Ask::Evaluate(_)));
        }
        assert_eq!(swarm.ask(), Ask::Wait);
        swarm.tell(1, Outcome::Score(1.0)).unwrap();
        let Ask::Evaluate(proposal) = swarm.ask() else { panic!("particle 1 must move") };
        assert_eq!(proposal.evaluation, 3);
        assert_eq!(swarm.particles[1].moves, 2);
        assert_eq!((swarm.particles[0].moves, swarm.particles[2].moves), (1, 1));
    }

    #[test]
    fn a_failed_particle_is_worse_than_any() {
        let options = SwarmOptions { particles: 2, ..SwarmOptions::default() };
        let mut swarm = Swarm::new(space(), GOAL, options).unwrap();
        let (Ask::Evaluate(_), Ask::Evaluate(second)) = (swarm.ask(), swarm.ask()) else { panic!() };
        swarm.tell(0, Outcome::Score(f64::NAN)).unwrap();
        swarm.tell(1, Outcome::Score(1e300)).unwrap();
        assert_eq!(swarm.best().unwrap().evaluation, 1);
        assert!(swarm.particles[0].best.is_none());
        assert_eq!(swarm.neighborhood_best(0).unwrap().position, second.position);
    }

    #[test]
    fn while_all_fail_the_swarm_scatters() {
        let mut swarm = Swarm::new(space(), GOAL, SwarmOptions::default()).unwrap();
        let mut rates = Vec::new();
        while let Ask::Evaluate(proposal) = swarm.ask() {
            rates.push(proposal.position[0]);
            swarm.tell(proposal.evaluation, Outcome::Failed).unwrap();
        }
        assert_eq!((swarm.progress().failed, swarm.best()), (150, None));
        // Still all over the range at the end.
        let late = &rates[100..];
        assert!(late.iter().any(|&rate| rate < 0.15) && late.iter().any(|&rate| rate > 0.85), "{late:?}");
    }

    #[test]
    fn constriction_is_that_of_the_paper() {
        assert!((constriction(4.1) - 0.729_843_788).abs() < 1e-9);
        // Both roots of chi² - (phi - 2) chi + 1 are positive; the constriction is the smaller one.
        for phi in [4.01, 4.1, 5.0, 8.0] {
            let chi = constriction(phi);
            assert!((chi * chi + 1.0 - (phi - 2.0) * chi).abs() < 1e-12 && chi < 1.0);
        }
    }

    #[test]
    fn inertia_follows_its_schedule() {
        let inertia = |weight, asked: u64| {
            let options = SwarmOptions { weight, ..SwarmOptions::default() };
            let mut swarm = Swarm::new(space(), GOAL, options).unwrap();
            for _ in 0..asked {
                evaluate(&mut swarm);
            }
            swarm.motion().inertia
        };
        let linear = Weight::Linear { from: 0.9, to: 0.4 };
        assert_eq!(inertia(linear, 0), Some(0.9));
        assert!((inertia(linear, 75).unwrap() - 0.65).abs() < 1e-12);
        assert!((inertia(linear, 150).unwrap() - 0.4).abs() < 1e-12);
        assert_eq!(inertia(Weight::Constant { inertia: 0.6 }, 75), Some(0.6));
        assert_eq!(inertia(Weight::Random, 75), None);
    }

    #[test]
    fn rings_close() {
        let ring = |neighbors: usize, count, index| -> Vec<usize> {
            super::neighbors(Topology::Ring { neighbors }, count, index).collect()
        };
        assert_eq!(ring(1, 5, 0), [0, 1, 4]);
        assert_eq!(ring(1, 5, 4), [0, 3, 4]);
        assert_eq!(ring(2, 8, 3), [1, 2, 3, 4, 5]);
        assert_eq!(ring(2, 5, 3), [0, 1, 2, 3, 4]);
        assert_eq!(ring(3, 6, 0), [0, 1, 2, 3, 4, 5]);
        assert_eq!(ring(usize::MAX, 3, 2), [0, 1, 2]);
        assert_eq!(ring(1, 1, 0), [0]);
        assert_eq!(super::neighbors(Topology::Global, 3, 1).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn news_travels_round_a_ring_step_by_step() {
        let topology = Topology::Ring { neighbors: 1 };
        let options = SwarmOptions { particles: 5, topology, ..SwarmOptions::default() };
        let mut swarm = Swarm::new(space(), GOAL, options).unwrap();
        for score in [0.0, 5.0, 4.0, 3.0, 2.0] {
            let Ask::Evaluate(proposal) = swarm.ask() else { panic!() };
            swarm.tell(proposal.evaluation, Outcome::Score(score)).unwrap();
        }
        let losses: Vec<f64> = (0..5).map(|index| swarm.neighborhood_best(index).unwrap().loss).collect();
        assert_eq!(losses, [0.0, 0.0, 3.0, 2.0, 0.0]);
    }

    #[test]
    fn walls_do_what_they_say() {
        let close = |one: (f64, f64), two: (f64, f64)| (one.0 - two.0).abs() < 1e-12 && one.1 == two.1;
        for (boundary, position, velocity, expected) in [
            (Boundary::Reflect, 1.2, 0.3, (0.8, -0.3)),
            (Boundary::Reflect, -0.2, -0.3, (0.2, 0.3)),
            // Twice round: off one wall and then off the other.
            (Boundary::Reflect, 2.2, 2.0, (0.2, 2.0)),
            (Boundary::Reflect, -1.2, -2.0, (0.8, -2.0)),
            (Boundary::Absorb, 1.2, 0.3, (1.0, 0.0)),
            (Boundary::Absorb, -0.2, -0.3, (0.0, 0.0)),
            (Boundary::Wrap, 1.2, 0.3, (0.2, 0.3)),
            (Boundary::Wrap, -0.2, -0.3, (0.8, -0.3)),
        ] {
            let confined = boundary.confine(position, velocity);
            assert!(close(confined, expected), "{boundary:?} {position}: {confined:?}");
            for inside in [0.0, 0.4, 1.0] {
                assert_eq!(boundary.confine(inside, velocity), (inside, velocity));
            }
        }
    }

    #[test]
    fn bad_options_say_what_to_change() {
        let default = SwarmOptions::default;
        let bad = [
            (SwarmOptions { particles: 0, ..default() }, "particles"),
            (SwarmOptions { particles: usize::MAX, ..default() }, "particles"),
            (SwarmOptions { max_velocity: 0.0, ..default() }, "max_velocity"),
            (SwarmOptions { max_velocity: f64::NAN, ..default() }, "max_velocity"),
            (SwarmOptions { cognitive: -1.0, ..default() }, "cognitive"),
            (SwarmOptions { social: f64::INFINITY, ..default() }, "social"),
            (SwarmOptions { weight: Weight::Constriction, ..default() }, "more than 4"),
            (SwarmOptions { weight: Weight::Constant { inertia: 1.0 }, ..default() }, "weight.inertia"),
            (SwarmOptions { weight: Weight::Linear { from: 0.9, to: f64::NAN }, ..default() }, "weight.to"),
            (SwarmOptions { topology: Topology::Ring { neighbors: 0 }, ..default() }, "topology.neighbors"),
        ];
        for (options, expected) in bad {
            let message = Swarm::new(space(), GOAL, options).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let goal = Goal { evaluations: 0, ..GOAL };
        assert!(Swarm::new(space(), goal, default()).unwrap_err().to_string().contains("evaluations"));
    }

    #[test]
    fn edited_swarms_are_refused_or_harmless() {
        let mut swarm = Swarm::new(space(), GOAL, SwarmOptions::default()).unwrap();
        for _ in 0..15 {
            evaluate(&mut swarm);
        }
        let saved = serde_json::to_string(&swarm).unwrap();
        let edited = |from: &str, to: &str| {
            assert!(saved.contains(from), "{saved}");
            serde_json::from_str::<Swarm>(&saved.replace(from, to))
        };
        assert!(edited("\"max_velocity\":0.2", "\"max_velocity\":-0.2").is_err());
        assert!(edited("\"particles\":10", "\"particles\":0").is_err());
        assert!(edited("\"min\":-4.0", "\"min\":40.0").is_err());
        for (from, to) in [
            ("\"ready\":[5,", "\"ready\":[99,"),
            ("\"told\":15", "\"told\":0"),
            ("\"evaluations\":150", "\"evaluations\":0"),
            ("\"velocity\":[", "\"velocity\":[9e99,"),
        ] {
            let mut swarm = edited(from, to).unwrap();
            for _ in 0..30 {
                evaluate(&mut swarm);
            }
        }
    }

    fn weights() -> impl Strategy<Value = (Weight, f64)> {
        prop_oneof![
            Just((Weight::Constriction, 2.05)),
            Just((Weight::Constant { inertia: 0.99 }, 2.5)),
            Just((Weight::Linear { from: 0.9, to: 0.1 }, 2.0)),
            Just((Weight::Random, 10.0)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn bounds_are_always_kept(
            (weight, pull) in weights(),
            boundary in prop_oneof![Just(Boundary::Reflect), Just(Boundary::Absorb), Just(Boundary::Wrap)],
            topology in prop_oneof![Just(Topology::Global), Just(Topology::Ring { neighbors: 1 })],
            max_velocity in 0.01..=1.0f64,
            particles in 1..12usize,
            seed: u64,
        ) {
            let options = SwarmOptions {
                particles, weight, cognitive: pull, social: pull, max_velocity, boundary, topology, start: None, seed,
            };
            let mut swarm = Swarm::new(space(), GOAL, options).unwrap();
            // Flat, steep and failing stretches.
            while let Ask::Evaluate(proposal) = swarm.ask() {
                prop_assert!(proposal.position.iter().all(|coordinate| (0.0..=1.0).contains(coordinate)));
                prop_assert!(space().encode(&proposal.point).is_ok());
                let score = (proposal.position[0] * 40.0 * PI).tan() * 1e3;
                swarm.tell(proposal.evaluation, if score > 5e3 { Outcome::Failed } else { Outcome::Score(score) })
                    .unwrap();
                for particle in &swarm.particles {
                    prop_assert!(particle.velocity.iter().all(|velocity| velocity.abs() <= max_velocity));
                }
            }
            prop_assert_eq!(swarm.progress().told, 150);
        }

        #[test]
        fn walls_always_hold(position in -1e6..1e6f64, velocity in -1e6..1e6f64) {
            for boundary in [Boundary::Reflect, Boundary::Absorb, Boundary::Wrap] {
                let (position, after) = boundary.confine(position, velocity);
                prop_assert!((0.0..=1.0).contains(&position));
                prop_assert!(after.abs() <= velocity.abs());
            }
        }
    }
}
