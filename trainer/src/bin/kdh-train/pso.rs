//! `kdh-train pso`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use kdh_trainer::pso::{Optimizer, Outcome, Point, Postgres, Record, Sqlite, Storage, Study, StudyError, Value, work};
use kdh_trainer::tune::{Fidelity, Objective, Promotion, SearchKind, TuneFile, promote};
use serde::Serialize;

use crate::Machine;

/// Tune a student's options with a particle swarm.
///
/// A search scores points by short trainings, as the table `reduced` of the file says; the best points are then trained in full.
/// The search is saved after every evaluation: a killed one goes on when the command is given again, and repeats at
/// most what was running. Workers on other machines join through a shared --storage.
#[derive(Subcommand)]
pub(crate) enum PsoCommand {
    /// Search with one worker, train the best points in full, and write OUT/result.json.
    Run(RunSearch),
    /// Only evaluate points of the search, beside other workers, until it is over.
    Worker(Worker),
    /// Show where a search stands.
    Status(ShowStatus),
}

#[derive(Args)]
struct Search {
    /// TOML file of the tuning; experiments/hoc-swarm.toml is an example.
    file: PathBuf,
    /// Folder of the runs.
    #[arg(long, short)]
    out: PathBuf,
    /// Where the search lives: a file for SQLite, or postgres://user:password@host/database. OUT/study.sqlite when not
    /// given.
    #[arg(long)]
    storage: Option<String>,
    /// Which search.
    #[arg(long, value_enum, default_value_t = SearchKind::Swarm)]
    search: SearchKind,
}

/// Searches, trains the best points in full and says which one won.
#[derive(Args)]
pub(crate) struct RunSearch {
    #[command(flatten)]
    search: Search,
    /// Search at random too, with the same budget, and print both.
    #[arg(long)]
    compare: bool,
    /// Name of this worker; the same name after a kill gets its lost evaluation back.
    #[arg(long, default_value = "main")]
    name: String,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

/// Evaluates points until the search is over.
#[derive(Args)]
pub(crate) struct Worker {
    #[command(flatten)]
    search: Search,
    /// Name of this worker, unique among those alive.
    #[arg(long)]
    name: String,
    #[command(flatten)]
    machine: Machine,
}

/// Shows every evaluation and the best.
#[derive(Args)]
pub(crate) struct ShowStatus {
    #[command(flatten)]
    search: Search,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What a search found, as result.json has it.
#[derive(Serialize)]
struct Found {
    search: SearchKind,
    /// Every evaluation at reduced fidelity.
    evaluations: Vec<Record>,
    /// The best of them.
    best: Option<Record>,
    /// Seconds of all evaluations together.
    seconds: f64,
}

#[derive(Serialize)]
struct SearchResult {
    name: String,
    searches: Vec<Found>,
    promotion: Promotion,
}

impl PsoCommand {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Run(command) => command.run(),
            Self::Worker(command) => {
                let objective = command.search.objective(&command.machine)?;
                command.search.work(&objective, command.search.search, &command.name)
            }
            Self::Status(command) => {
                let file = TuneFile::read(&command.search.file)?;
                let found = command.search.found(&file, command.search.search)?;
                if command.json {
                    println!("{}", serde_json::to_string_pretty(&found)?);
                } else {
                    print!("{}", table(&found, file.evaluations));
                }
                Ok(())
            }
        }
    }
}

impl RunSearch {
    fn run(self) -> Result<()> {
        let objective = self.search.objective(&self.machine)?;
        let file = objective.file();
        let mut kinds = vec![self.search.search];
        if self.compare && self.search.search != SearchKind::Random {
            kinds.push(SearchKind::Random);
        }
        let mut searches = Vec::new();
        for kind in kinds {
            self.search.work(&objective, kind, &self.name)?;
            searches.push(self.search.found(file, kind)?);
        }
        let records = searches.first().map_or(&[][..], |found| &found.evaluations);
        let full = self.search.out.join(self.search.search.name()).join("full");
        let promotion = promote(&objective, records, &full, |record| {
            eprintln!("in full: evaluation {}  {}", record.evaluation, shown(&record.point));
        })?;
        let result = SearchResult { name: file.name.clone(), searches, promotion };
        let text = serde_json::to_string_pretty(&result)?;
        let path = self.search.out.join("result.json");
        let draft = path.with_extension("draft");
        fs::write(&draft, &text).with_context(|| format!("cannot write {}", draft.display()))?;
        fs::rename(&draft, &path).with_context(|| format!("cannot replace {}", path.display()))?;
        if self.json {
            println!("{text}");
            return Ok(());
        }
        for found in &result.searches {
            print!("{}", table(found, file.evaluations));
        }
        for point in &result.promotion.points {
            let full = point.full.map_or("failed".to_owned(), |score| format!("{score:.4}"));
            println!("in full {full}, reduced {:.4}: {}", point.reduced, flags(&point.point));
        }
        if let Some(correlation) = result.promotion.rank_correlation {
            println!("rank correlation of reduced and full scores over these points: {correlation:.2}");
        }
        if let Some(best) = result.promotion.points.first() {
            println!("best student: {}", full.join(best.evaluation.to_string()).join("best").display());
        }
        Ok(())
    }
}

impl Search {
    fn objective(&self, machine: &Machine) -> Result<Objective> {
        let file = TuneFile::read(&self.file)?;
        fs::create_dir_all(&self.out).with_context(|| format!("cannot create {}", self.out.display()))?;
        Objective::new(file, machine.device()?)
    }

    fn storage(&self) -> Result<Box<dyn Storage>, StudyError> {
        match &self.storage {
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Ok(Box::new(Postgres::open(url)?))
            }
            Some(path) => Ok(Box::new(Sqlite::open(Path::new(path))?)),
            None => Ok(Box::new(Sqlite::open(&self.out.join("study.sqlite"))?)),
        }
    }

    /// Starts the search, or goes on with it, until it is over.
    fn work(&self, objective: &Objective, kind: SearchKind, worker: &str) -> Result<()> {
        let file = objective.file();
        match kind {
            SearchKind::Swarm => self.drive(objective, &file.swarm()?, kind, worker),
            SearchKind::Random => self.drive(objective, &file.random_search()?, kind, worker),
        }
    }

    fn drive<O: Optimizer + Sync>(
        &self,
        objective: &Objective,
        fresh: &O,
        kind: SearchKind,
        worker: &str,
    ) -> Result<()> {
        let (digest, name) = (objective.digest()?, study_name(objective.file(), kind));
        let open = || Study::start(self.storage()?, &name, &digest, fresh, Default::default());
        let reason = work(open, worker, |ticket| -> Result<Outcome> {
            let started = Instant::now();
            let folder = self.out.join(kind.name()).join(ticket.evaluation.to_string());
            eprintln!("{} evaluation {}  {}", kind.name(), ticket.evaluation, shown(&ticket.point));
            let outcome = objective.evaluate(&ticket.point, Fidelity::Reduced, &folder)?;
            let score = outcome.score().map_or("failed".to_owned(), |score| format!("{score:.4}"));
            eprintln!(
                "{} evaluation {}  {score}  {:.0} s",
                kind.name(),
                ticket.evaluation,
                started.elapsed().as_secs_f64()
            );
            Ok(outcome)
        })?;
        eprintln!("{}: over ({reason:?})", kind.name());
        Ok(())
    }

    fn found(&self, file: &TuneFile, kind: SearchKind) -> Result<Found> {
        let name = study_name(file, kind);
        let evaluations = match kind {
            SearchKind::Swarm => Study::<kdh_trainer::pso::Swarm>::join(self.storage()?, &name)?.records()?,
            SearchKind::Random => Study::<kdh_trainer::pso::RandomSearch>::join(self.storage()?, &name)?.records()?,
        };
        let best = evaluations
            .iter()
            .filter(|record| record.score.is_some())
            .reduce(|best, record| if record.score > best.score { record } else { best })
            .cloned();
        let seconds = evaluations.iter().filter_map(|record| Some(record.finished? - record.started)).sum();
        Ok(Found { search: kind, evaluations, best, seconds })
    }
}

fn study_name(file: &TuneFile, kind: SearchKind) -> String {
    format!("{}-{}", file.name, kind.name())
}

fn table(found: &Found, budget: u64) -> String {
    let done = found.evaluations.iter().filter(|record| record.finished.is_some()).count();
    let mut text = format!("{}: {done} of {budget} evaluations, {:.0} s\n", found.search.name(), found.seconds);
    for record in &found.evaluations {
        let score = match (record.score, record.finished) {
            (Some(score), _) => format!("{score:.4}"),
            (None, Some(_)) => "failed".into(),
            (None, None) => format!("with {}", record.worker),
        };
        let mark = if found.best.as_ref().is_some_and(|best| best.evaluation == record.evaluation) { "*" } else { " " };
        text += &format!("{mark} {:>4}  {score:<10} {}\n", record.evaluation, shown(&record.point));
    }
    text
}

fn shown(point: &Point) -> String {
    let value = |value: &Value| match value {
        Value::Integer(value) => value.to_string(),
        Value::Real(value) => format!("{value:.3e}"),
        Value::Category(value) => value.clone(),
    };
    point.iter().map(|(name, at)| format!("{name} {}", value(at))).collect::<Vec<_>>().join("  ")
}

/// A point as options of `kdh-train distill`.
fn flags(point: &Point) -> String {
    let value = |value: &Value| match value {
        Value::Integer(value) => value.to_string(),
        Value::Real(value) => value.to_string(),
        Value::Category(value) => value.clone(),
    };
    let flag = |(name, at): (&String, &Value)| format!("--{} {}", name.replace('_', "-"), value(at));
    point.iter().map(flag).collect::<Vec<_>>().join(" ")
}
