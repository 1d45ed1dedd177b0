//! What is searched: named dimensions of several kinds, laid out in the unit cube.

use core::error::Error;
use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A search space: at least one named dimension, each valid.
///
/// An optimizer moves in the unit cube `[0, 1]^d`, `d` being [`coordinates`](Self::coordinates); [`decode`](Self::decode)
/// makes a position a [`Point`]. A uniform position gives every dimension the distribution that its [`Domain`] names.
/// Serialised, a space is a map from names to domains, for example in TOML
/// `learning_rate = { kind = "log", min = 1e-5, max = 1e-3 }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, Domain>", into = "BTreeMap<String, Domain>")]
pub struct Space {
    dimensions: BTreeMap<String, Domain>,
}

/// The values of one dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Domain {
    /// Real numbers from `min` to `max`, uniform.
    Linear {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
    },
    /// Positive real numbers from `min` to `max`, their logarithm uniform.
    Log {
        /// Least value, more than 0.
        min: f64,
        /// Greatest value.
        max: f64,
    },
    /// Whole numbers from `min` to `max`, both included, uniform.
    Integer {
        /// Least value.
        min: i64,
        /// Greatest value.
        max: i64,
    },
    /// Positive whole numbers from `min` to `max`, both included: `k` has the probability that a log-uniform real number
    /// of `[min, max + 1)` has of being rounded down to `k`.
    LogInteger {
        /// Least value, at least 1.
        min: i64,
        /// Greatest value.
        max: i64,
    },
    /// One of several names without order, uniform.
    ///
    /// Each choice has a coordinate of its own and the greatest coordinate wins, so that no choice lies between two
    /// others, as it would if they shared one axis.
    Categorical {
        /// The names, each once.
        choices: Vec<String>,
    },
}

/// A point of a space: a value for every dimension.
pub type Point = BTreeMap<String, Value>;

/// The value of one dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Of [`Domain::Integer`] or [`Domain::LogInteger`].
    Integer(i64),
    /// Of [`Domain::Linear`] or [`Domain::Log`].
    Real(f64),
    /// Of [`Domain::Categorical`].
    Category(String),
}

/// Largest number of coordinates of a space.
const MAX_COORDINATES: usize = 10_000;
/// Whole numbers up to here are exact in an `f64`.
const MAX_INTEGER: i64 = 1 << 53;

impl Space {
    /// A space of these dimensions.
    ///
    /// # Errors
    /// When there is none, or when one of them is empty or cannot be searched as it says.
    pub fn new(dimensions: impl IntoIterator<Item = (impl Into<String>, Domain)>) -> Result<Self, SpaceError> {
        let mut named = BTreeMap::new();
        for (name, domain) in dimensions {
            let name = name.into();
            if named.insert(name.clone(), domain).is_some() {
                return Err(SpaceError::Twice { dimension: name });
            }
        }
        Self::try_from(named)
    }

    /// The dimensions, in the order of their names.
    pub fn dimensions(&self) -> &BTreeMap<String, Domain> {
        &self.dimensions
    }

    /// Dimensions of the unit cube: one for a number, one for each choice of a categorical dimension.
    pub fn coordinates(&self) -> usize {
        self.dimensions.values().map(Domain::coordinates).sum()
    }

    /// The point at a position of [`coordinates`](Self::coordinates) numbers from 0 to 1.
    ///
    /// Every position has a point: a coordinate outside counts as the bound it lies beyond, a missing one and NaN as 0.
    pub fn decode(&self, position: &[f64]) -> Point {
        let mut rest = position;
        let mut decode = |(name, domain): (&String, &Domain)| {
            let (own, others) = rest.split_at_checked(domain.coordinates()).unwrap_or((rest, &[]));
            rest = others;
            (name.clone(), domain.decode(own))
        };
        self.dimensions.iter().map(&mut decode).collect()
    }

    /// A position that [`decode`](Self::decode) makes `point` again, real numbers up to rounding.
    ///
    /// # Errors
    /// When the point lacks a dimension, has one more, or has a value outside of its domain.
    pub fn encode(&self, point: &Point) -> Result<Vec<f64>, PointError> {
        if let Some(name) = point.keys().find(|&name| !self.dimensions.contains_key(name)) {
            return Err(PointError::Unknown { dimension: name.clone() });
        }
        let mut position = Vec::with_capacity(self.coordinates());
        for (name, domain) in &self.dimensions {
            let value = point.get(name).ok_or_else(|| PointError::Missing { dimension: name.clone() })?;
            if !domain.encode(value, &mut position) {
                return Err(PointError::Outside { dimension: name.clone() });
            }
        }
        Ok(position)
    }

    /// SHA-256 of the space, in hexadecimal: equal for equal spaces.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (name, domain) in &self.dimensions {
            // Debug output of a string is quoted and escaped, of a number exact: no two spaces give the same text.
            hash.update(format!("{name:?} {domain:?}\n"));
        }
        crate::hex::hex(&hash.finalize())
    }
}

impl TryFrom<BTreeMap<String, Domain>> for Space {
    type Error = SpaceError;

    fn try_from(dimensions: BTreeMap<String, Domain>) -> Result<Self, SpaceError> {
        if dimensions.is_empty() {
            return Err(SpaceError::Empty);
        }
        for (name, domain) in &dimensions {
            if let Err(why) = domain.check() {
                return Err(SpaceError::Domain { dimension: name.clone(), why });
            }
        }
        let space = Self { dimensions };
        if space.coordinates() > MAX_COORDINATES { Err(SpaceError::TooLarge) } else { Ok(space) }
    }
}

impl From<Space> for BTreeMap<String, Domain> {
    fn from(space: Space) -> Self {
        space.dimensions
    }
}

impl Domain {
    fn check(&self) -> Result<(), &'static str> {
        let reals = |min: f64, max: f64| match () {
            () if !(min.is_finite() && max.is_finite() && (max - min).is_finite()) => Err("its bounds must be finite"),
            () if min >= max => Err("min must be less than max"),
            () => Ok(()),
        };
        let integers = |min: i64, max: i64| match () {
            () if min.unsigned_abs().max(max.unsigned_abs()) > MAX_INTEGER.unsigned_abs() => {
                Err("its bounds must be within 2^53 of 0")
            }
            () if min > max => Err("min must not be more than max"),
            () => Ok(()),
        };
        match self {
            Self::Linear { min, max } => reals(*min, *max),
            Self::Log { min, .. } if *min <= 0.0 => Err("min must be more than 0 for a logarithm"),
            Self::Log { min, max } => reals(*min, *max),
            Self::Integer { min, max } => integers(*min, *max),
            Self::LogInteger { min, .. } if *min < 1 => Err("min must be at least 1 for a logarithm"),
            Self::LogInteger { min, max } => integers(*min, *max),
            Self::Categorical { choices } if choices.is_empty() => Err("it needs at least one choice"),
            Self::Categorical { choices } if choices.iter().collect::<BTreeSet<_>>().len() < choices.len() => {
                Err("it has a choice twice")
            }
            Self::Categorical { .. } => Ok(()),
        }
    }

    fn coordinates(&self) -> usize {
        if let Self::Categorical { choices } = self { choices.len() } else { 1 }
    }

    fn decode(&self, position: &[f64]) -> Value {
        let unit = position.first().copied().filter(|unit| !unit.is_nan()).unwrap_or(0.0).clamp(0.0, 1.0);
        match self {
            Self::Linear { min, max } => Value::Real((min + unit * (max - min)).clamp(*min, *max)),
            Self::Log { min, max } => {
                // From the nearer end, so that both ends are met exactly.
                let width = max.ln() - min.ln();
                let value = if unit < 0.5 { min * (unit * width).exp() } else { max * ((unit - 1.0) * width).exp() };
                Value::Real(value.clamp(*min, *max))
            }
            Self::Integer { min, max } => {
                let count = (max - min) as f64 + 1.0;
                Value::Integer((min + (unit * count) as i64).min(*max))
            }
            Self::LogInteger { min, max } => {
                let (low, high) = ((*min as f64).ln(), (*max as f64 + 1.0).ln());
                Value::Integer(((low + unit * (high - low)).exp() as i64).clamp(*min, *max))
            }
            Self::Categorical { choices } => {
                let mut greatest = 0;
                for (index, coordinate) in position.iter().enumerate() {
                    if *coordinate > position[greatest] {
                        greatest = index;
                    }
                }
                Value::Category(choices.get(greatest).cloned().unwrap_or_default())
            }
        }
    }

    /// Appends the coordinates of `value`; false when it is not in the domain.
    fn encode(&self, value: &Value, position: &mut Vec<f64>) -> bool {
        match (self, value) {
            (Self::Linear { min, max }, Value::Real(value)) if (*min..=*max).contains(value) => {
                position.push((value - min) / (max - min));
            }
            (Self::Log { min, max }, Value::Real(value)) if (*min..=*max).contains(value) => {
                position.push(((value.ln() - min.ln()) / (max.ln() - min.ln())).clamp(0.0, 1.0));
            }
            (Self::Integer { min, max }, Value::Integer(value)) if (*min..=*max).contains(value) => {
                position.push(((value - min) as f64 + 0.5) / ((max - min) as f64 + 1.0));
            }
            (Self::LogInteger { min, max }, Value::Integer(value)) if (*min..=*max).contains(value) => {
                let (low, high) = ((*min as f64).ln(), (*max as f64 + 1.0).ln());
                position.push(((*value as f64 + 0.5).ln() - low) / (high - low));
            }
            (Self::Categorical { choices }, Value::Category(value)) if choices.contains(value) => {
                position.extend(choices.iter().map(|choice| if choice == value { 0.75 } else { 0.25 }));
            }
            _ => return false,
        }
        true
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(formatter),
            Self::Real(value) => value.fmt(formatter),
            Self::Category(value) => value.fmt(formatter),
        }
    }
}

/// Why there is no such [`Space`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpaceError {
    /// It has no dimension.
    Empty,
    /// It has more coordinates than can sensibly be searched.
    TooLarge,
    /// A name stands for two dimensions.
    Twice {
        /// The name.
        dimension: String,
    },
    /// A domain is empty or not what it says.
    Domain {
        /// Its name.
        dimension: String,
        /// What to change.
        why: &'static str,
    },
}

impl fmt::Display for SpaceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(formatter, "the search space has no dimension; name at least one"),
            Self::TooLarge => write!(formatter, "the search space has more than {MAX_COORDINATES} coordinates"),
            Self::Twice { dimension } => write!(formatter, "the dimension `{dimension}` is there twice; rename one"),
            Self::Domain { dimension, why } => {
                write!(formatter, "the dimension `{dimension}` cannot be searched: {why}")
            }
        }
    }
}

impl Error for SpaceError {}

/// Why a [`Point`] does not belong to a space.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PointError {
    /// The point lacks a dimension.
    Missing {
        /// Its name.
        dimension: String,
    },
    /// The space has no such dimension.
    Unknown {
        /// Its name.
        dimension: String,
    },
    /// The value is of another kind or not within the bounds.
    Outside {
        /// The dimension's name.
        dimension: String,
    },
}

impl fmt::Display for PointError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { dimension } => write!(formatter, "the point has no value for `{dimension}`; add one"),
            Self::Unknown { dimension } => write!(formatter, "the search space has no `{dimension}`; remove its value"),
            Self::Outside { dimension } => {
                write!(formatter, "the value of `{dimension}` is not in its domain; correct its kind or its size")
            }
        }
    }
}

impl Error for PointError {}

#[cfg(test)]
mod tests {
    use std::iter;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use rand::{RngExt as _, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn mixed() -> Space {
        Space::new([
            ("rate", Domain::Log { min: 1e-6, max: 1e-2 }),
            ("alpha", Domain::Linear { min: -1.0, max: 3.0 }),
            ("layers", Domain::Integer { min: -2, max: 3 }),
            ("batch", Domain::LogInteger { min: 1, max: 64 }),
            ("head", Domain::Categorical { choices: ["mean", "max", "first"].map(str::to_owned).into() }),
        ])
        .unwrap()
    }

    fn draws(domain: Domain, count: usize) -> impl Iterator<Item = Value> {
        let space = Space::new([("x", domain)]).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut position = vec![0.0; space.coordinates()];
        iter::repeat_with(move || {
            position.fill_with(|| random.random::<f64>());
            space.decode(&position)["x"].clone()
        })
        .take(count)
    }

    /// Pearson's statistic of counts against expected shares.
    fn chi_squared(counts: &[usize], shares: &[f64]) -> f64 {
        let total = counts.iter().sum::<usize>() as f64;
        let terms = counts.iter().zip(shares).map(|(&count, share)| (count as f64 - total * share).powi(2) / share);
        terms.sum::<f64>() / total
    }

    #[test]
    fn integers_and_categories_are_uniform() {
        let mut counts = [0; 6];
        for value in draws(Domain::Integer { min: -2, max: 3 }, 60_000) {
            let Value::Integer(value) = value else { panic!("{value}") };
            counts[(value + 2) as usize] += 1;
        }
        // 99.9% of chi squared with 5 and 2 degrees of freedom.
        assert!(chi_squared(&counts, &[1.0 / 6.0; 6]) < 20.5, "{counts:?}");
        let choices: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        let mut counts = [0; 3];
        for value in draws(Domain::Categorical { choices: choices.clone() }, 60_000) {
            counts[choices.iter().position(|choice| Value::Category(choice.clone()) == value).unwrap()] += 1;
        }
        assert!(chi_squared(&counts, &[1.0 / 3.0; 3]) < 13.8, "{counts:?}");
    }

    #[test]
    fn logarithms_are_uniform() {
        let mut counts = [0; 4];
        for value in draws(Domain::Log { min: 1e-6, max: 1e-2 }, 40_000) {
            let Value::Real(value) = value else { panic!("{value}") };
            counts[(value.log10() + 6.0) as usize] += 1;
        }
        assert!(chi_squared(&counts, &[0.25; 4]) < 16.3, "{counts:?}");
        let mut counts = [0; 7];
        for value in draws(Domain::LogInteger { min: 1, max: 7 }, 40_000) {
            let Value::Integer(value) = value else { panic!("{value}") };
            counts[value as usize - 1] += 1;
        }
        let shares =
            core::array::from_fn::<_, 7, _>(|index| ((index + 2) as f64 / (index + 1) as f64).ln() / 8f64.ln());
        assert!(chi_squared(&counts, &shares) < 22.5, "{counts:?}");
    }

    #[test]
    fn bounds_decode_to_bounds() {
        let space = mixed();
        assert_eq!(space.coordinates(), 7);
        for (position, expected) in
            [(0.0, [Value::Integer(1), Value::Integer(-2)]), (1.0, [Value::Integer(64), Value::Integer(3)])]
        {
            let point = space.decode(&[position; 7]);
            assert_eq!([&point["batch"], &point["layers"]], expected.each_ref());
        }
        assert_eq!(space.decode(&[1.0; 7])["rate"], Value::Real(1e-2));
        assert_eq!(space.decode(&[0.0; 7])["rate"], Value::Real(1e-6));
    }

    #[test]
    fn bad_spaces_say_what_to_change() {
        let bad = [
            (Domain::Linear { min: 1.0, max: 1.0 }, "less than max"),
            (Domain::Linear { min: f64::NAN, max: 1.0 }, "finite"),
            (Domain::Linear { min: -f64::MAX, max: f64::MAX }, "finite"),
            (Domain::Log { min: 0.0, max: 1.0 }, "more than 0"),
            (Domain::Log { min: f64::NAN, max: 1.0 }, "finite"),
            (Domain::Integer { min: 2, max: 1 }, "not be more"),
            (Domain::Integer { min: i64::MIN, max: i64::MAX }, "2^53"),
            (Domain::LogInteger { min: 0, max: 5 }, "at least 1"),
            (Domain::Categorical { choices: vec![] }, "at least one choice"),
            (Domain::Categorical { choices: vec!["a".into(), "a".into()] }, "twice"),
        ];
        for (domain, expected) in bad {
            let message = Space::new([("x", domain)]).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("`x`"), "{message}");
        }
        assert_eq!(Space::new(iter::empty::<(&str, Domain)>()), Err(SpaceError::Empty));
        let twice = iter::repeat_n(("x", Domain::Integer { min: 0, max: 1 }), 2);
        assert_eq!(Space::new(twice), Err(SpaceError::Twice { dimension: "x".into() }));
        let choices = (0..=MAX_COORDINATES).map(|choice| choice.to_string()).collect();
        assert_eq!(Space::new([("x", Domain::Categorical { choices })]), Err(SpaceError::TooLarge));
    }

    #[test]
    fn bad_points_are_refused() {
        let space = Space::new([("x", Domain::Integer { min: 0, max: 4 })]).unwrap();
        let point = |name: &str, value| Point::from([(name.to_owned(), value)]);
        let name = || "x".to_owned();
        assert_eq!(space.encode(&Point::new()), Err(PointError::Missing { dimension: name() }));
        assert_eq!(space.encode(&point("y", Value::Integer(1))), Err(PointError::Unknown { dimension: "y".into() }));
        assert_eq!(space.encode(&point("x", Value::Integer(5))), Err(PointError::Outside { dimension: name() }));
        assert_eq!(space.encode(&point("x", Value::Real(2.0))), Err(PointError::Outside { dimension: name() }));
    }

    #[test]
    fn serialised_spaces_are_checked() {
        let json = serde_json::to_string(&mixed()).unwrap();
        assert_eq!(serde_json::from_str::<Space>(&json).unwrap(), mixed());
        let read = |json| serde_json::from_str::<Space>(json).map_err(|error| error.to_string());
        assert!(read(r#"{"x": {"kind": "log", "min": 0, "max": 1}}"#).unwrap_err().contains("more than 0"));
        assert!(read(r#"{"x": {"kind": "log", "min": 1, "max": 2, "base": 2}}"#).unwrap_err().contains("base"));
        let point = mixed().decode(&[0.0; 7]);
        let json = serde_json::to_string(&point).unwrap();
        assert_eq!(json, r#"{"alpha":-1.0,"batch":1,"head":"mean","layers":-2,"rate":1e-6}"#);
        assert_eq!(serde_json::from_str::<Point>(&json).unwrap(), point);
    }

    #[test]
    fn digests_tell_spaces_apart() {
        let space = |max| Space::new([("x", Domain::Linear { min: 0.0, max })]).unwrap();
        assert_eq!(space(1.0).digest(), space(1.0).digest());
        assert_ne!(space(1.0).digest(), space(1.0 + f64::EPSILON).digest());
        assert_eq!(space(1.0).digest().len(), 64);
    }

    proptest! {
        #[test]
        fn decoded_points_are_in_the_space_and_encode_back(
            position in proptest::collection::vec(-0.5..1.5f64, 7),
        ) {
            let space = mixed();
            let point = space.decode(&position);
            let again = space.decode(&space.encode(&point).unwrap());
            for (name, value) in &point {
                match (value, &again[name]) {
                    (Value::Real(one), Value::Real(two)) => prop_assert!((one - two).abs() <= 1e-9 * one.abs().max(1.0)),
                    (one, two) => prop_assert_eq!(one, two),
                }
            }
        }

        #[test]
        fn any_position_decodes(position in proptest::collection::vec(any::<f64>(), 0..10)) {
            let space = mixed();
            prop_assert!(space.encode(&space.decode(&position)).is_ok());
        }

        #[test]
        fn wide_integers_keep_their_bounds(
            min in -MAX_INTEGER..=MAX_INTEGER, width in 0..=MAX_INTEGER, unit in 0.0..=1.0f64,
        ) {
            let domain = Domain::Integer { min, max: min.saturating_add(width).min(MAX_INTEGER) };
            let space = Space::new([("x", domain)]).unwrap();
            prop_assert!(space.encode(&space.decode(&[unit])).is_ok());
        }
    }
}
