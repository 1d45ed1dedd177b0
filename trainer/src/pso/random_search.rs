//! Random search, the yardstick: Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization" (2012).

use rand::{RngExt as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use super::optimizer::{Ask, Best, Goal, Optimizer, OptionsError, Outcome, Progress, TellError};
use super::space::{Point, Space};

/// Independent points, each dimension distributed as its domain says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RandomSearch {
    space: Space,
    seed: u64,
    start: Option<Point>,
    ledger: Ledger<()>,
}

impl RandomSearch {
    /// A search that evaluates `start` first, if there is one.
    ///
    /// # Errors
    /// When an option is out of its range or `start` is not in the space.
    pub fn new(space: Space, goal: Goal, start: Option<Point>, seed: u64) -> Result<Self, OptionsError> {
        if let Some(point) = &start {
            space.encode(point).map_err(OptionsError::Start)?;
        }
        Ok(Self { space, seed, start, ledger: Ledger::new(goal)? })
    }
}

impl Optimizer for RandomSearch {
    fn ask(&mut self) -> Ask {
        if let Some(answer) = self.ledger.closed() {
            return answer;
        }
        let start = self.start.take().and_then(|point| self.space.encode(&point).ok());
        let position = start.unwrap_or_else(|| {
            let mut random = ChaCha8Rng::seed_from_u64(self.seed);
            random.set_stream(self.ledger.progress().asked);
            (0..self.space.coordinates()).map(|_| random.random()).collect()
        });
        self.ledger.open(&self.space, position, ())
    }

    fn tell(&mut self, evaluation: u64, outcome: Outcome) -> Result<(), TellError> {
        self.ledger.close(&self.space, evaluation, outcome).map(|_| ())
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

#[cfg(test)]
mod tests {
    use super::super::optimizer::Direction;
    use super::super::space::{Domain, Value};
    use super::*;

    #[test]
    fn it_starts_where_told_and_then_draws() {
        let space = Space::new([("x", Domain::Linear { min: 0.0, max: 8.0 })]).unwrap();
        let goal = Goal { direction: Direction::Minimize, evaluations: 200, stagnation: None };
        let start = Point::from([("x".to_owned(), Value::Real(2.0))]);
        let mut search = RandomSearch::new(space, goal, Some(start.clone()), 1).unwrap();
        let mut values = Vec::new();
        while let Ask::Evaluate(proposal) = search.ask() {
            let Value::Real(value) = proposal.point["x"] else { panic!("{proposal:?}") };
            values.push(value);
            search.tell(proposal.evaluation, Outcome::Score(value)).unwrap();
        }
        assert_eq!((values.len(), values[0]), (200, 2.0));
        let mean = values.iter().sum::<f64>() / 200.0;
        assert!((mean - 4.0).abs() < 0.5, "{mean}");
        assert!(search.best().unwrap().score < 0.2);
        values.sort_by(f64::total_cmp);
        values.dedup();
        assert_eq!(values.len(), 200);
        assert!(matches!(search.ask(), Ask::Finished(_)));
        let outside = Point::from([("x".to_owned(), Value::Real(9.0))]);
        assert!(RandomSearch::new(search.space.clone(), goal, Some(outside), 1).is_err());
    }
}
