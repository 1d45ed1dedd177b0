//! The books of a search: what is out, what came back, what is best, when it is over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::optimizer::{Ask, Best, Direction, Goal, OptionsError, Outcome, Progress, Proposal, StopReason, TellError};
use super::space::Space;

/// Kept by every optimizer; `T` is what it remembers of an outstanding evaluation beside its position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ledger<T> {
    goal: Goal,
    asked: u64,
    told: u64,
    failed: u64,
    outstanding: BTreeMap<u64, Outstanding<T>>,
    best: Option<Best>,
    /// The score to beat by more than the minimum gain, and `told` when it was reached.
    gain: Option<(f64, u64)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Outstanding<T> {
    position: Vec<f64>,
    memory: T,
}

impl<T> Ledger<T> {
    pub(super) fn new(goal: Goal) -> Result<Self, OptionsError> {
        OptionsError::unless(goal.evaluations > 0, "evaluations", "at least 1")?;
        if let Some(stagnation) = goal.stagnation {
            OptionsError::unless(stagnation.evaluations > 0, "stagnation.evaluations", "at least 1")?;
            let gain = stagnation.minimum_gain;
            OptionsError::unless(gain >= 0.0 && gain.is_finite(), "stagnation.minimum_gain", "finite and at least 0")?;
        }
        Ok(Self { goal, asked: 0, told: 0, failed: 0, outstanding: BTreeMap::new(), best: None, gain: None })
    }

    /// What to answer when no new evaluation may be started; `None` when one may.
    pub(super) fn closed(&self) -> Option<Ask> {
        let last_gain = self.gain.map_or(0, |(_, told)| told);
        let stagnated =
            self.goal.stagnation.is_some_and(|limit| self.told.saturating_sub(last_gain) >= limit.evaluations);
        let reason = match () {
            () if self.asked >= self.goal.evaluations => StopReason::Budget,
            () if stagnated => StopReason::Stagnation,
            () => return None,
        };
        // A result that is still out may be lost with its worker, or be the gain that ends a stagnation.
        Some(if self.outstanding.is_empty() { Ask::Finished(reason) } else { Ask::Wait })
    }

    /// Enters a new evaluation.
    pub(super) fn open(&mut self, space: &Space, position: Vec<f64>, memory: T) -> Ask {
        let evaluation = self.asked;
        self.asked += 1;
        let proposal = Proposal { evaluation, point: space.decode(&position), position: position.clone() };
        self.outstanding.insert(evaluation, Outstanding { position, memory });
        Ask::Evaluate(proposal)
    }

    /// Enters a result; gives what was remembered, and the loss: the score turned so that less is better.
    pub(super) fn close(
        &mut self,
        space: &Space,
        evaluation: u64,
        outcome: Outcome,
    ) -> Result<(T, Option<f64>), TellError> {
        let Some(Outstanding { position, memory }) = self.outstanding.remove(&evaluation) else {
            return Err(TellError::NotOutstanding { evaluation });
        };
        self.told += 1;
        let Some(score) = outcome.score() else {
            self.failed += 1;
            return Ok((memory, None));
        };
        let loss = self.loss(score);
        if self.best.as_ref().is_none_or(|best| loss < self.loss(best.score)) {
            self.best = Some(Best { evaluation, score, point: space.decode(&position) });
        }
        let minimum = self.goal.stagnation.map_or(0.0, |stagnation| stagnation.minimum_gain);
        if self.gain.is_none_or(|(reached, _)| loss < self.loss(reached) - minimum) {
            self.gain = Some((score, self.told));
        }
        Ok((memory, Some(loss)))
    }

    pub(super) fn best(&self) -> Option<&Best> {
        self.best.as_ref()
    }

    pub(super) fn progress(&self) -> Progress {
        Progress { asked: self.asked, told: self.told, failed: self.failed, budget: self.goal.evaluations }
    }

    fn loss(&self, score: f64) -> f64 {
        match self.goal.direction {
            Direction::Minimize => score,
            Direction::Maximize => -score,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::optimizer::Stagnation;
    use super::super::space::Domain;
    use super::*;

    fn space() -> Space {
        Space::new([("x", Domain::Linear { min: 0.0, max: 1.0 })]).unwrap()
    }

    fn ledger(evaluations: u64, stagnation: Option<Stagnation>) -> Ledger<()> {
        Ledger::new(Goal { direction: Direction::Maximize, evaluations, stagnation }).unwrap()
    }

    fn play(ledger: &mut Ledger<()>, scores: &[f64]) {
        for score in scores {
            let evaluation = ledger.asked;
            ledger.open(&space(), vec![0.5], ());
            ledger.close(&space(), evaluation, Outcome::Score(*score)).unwrap();
        }
    }

    #[test]
    fn what_is_not_finite_failed() {
        let mut ledger = ledger(10, None);
        play(&mut ledger, &[f64::NAN, f64::INFINITY]);
        assert_eq!((ledger.best(), ledger.progress().failed), (None, 2));
        play(&mut ledger, &[-3.0, -1.0, -2.0, f64::NEG_INFINITY]);
        assert_eq!(ledger.best().map(|best| (best.evaluation, best.score)), Some((3, -1.0)));
        assert_eq!(ledger.progress(), Progress { asked: 6, told: 6, failed: 3, budget: 10 });
    }

    #[test]
    fn a_result_is_taken_once() {
        let mut ledger = ledger(2, None);
        assert_eq!(
            ledger.close(&space(), 0, Outcome::Failed),
            Err(TellError::NotOutstanding { evaluation: 0 }),
            "before it is asked for"
        );
        play(&mut ledger, &[1.0]);
        let before = ledger.clone();
        assert_eq!(
            ledger.close(&space(), 0, Outcome::Score(9.0)),
            Err(TellError::NotOutstanding { evaluation: 0 }),
            "again"
        );
        assert_eq!(ledger, before);
    }

    #[test]
    fn the_budget_counts_failures_and_waits_for_what_is_out() {
        let mut ledger = ledger(3, None);
        play(&mut ledger, &[1.0, f64::NAN]);
        assert_eq!(ledger.closed(), None);
        ledger.open(&space(), vec![0.5], ());
        assert_eq!(ledger.closed(), Some(Ask::Wait));
        ledger.close(&space(), 2, Outcome::Failed).unwrap();
        assert_eq!(ledger.closed(), Some(Ask::Finished(StopReason::Budget)));
    }

    #[test]
    fn small_gains_do_not_end_a_stagnation_before_they_add_up() {
        let mut ledger = ledger(100, Some(Stagnation { evaluations: 3, minimum_gain: 0.1 }));
        play(&mut ledger, &[1.0, 1.06, 1.12]);
        assert_eq!(ledger.closed(), None);
        play(&mut ledger, &[1.2, 1.1]);
        assert_eq!(ledger.closed(), None);
        play(&mut ledger, &[f64::NAN]);
        assert_eq!(ledger.closed(), Some(Ask::Finished(StopReason::Stagnation)));
        assert_eq!(ledger.best().map(|best| best.score), Some(1.2));
    }
}
