use core::fmt;
use std::sync::Arc;

use tract_onnx::prelude::{DatumType, Tensor};

use super::LowerError;

/// Every expression of a graph, each after those that it is made of.
pub(super) struct Expressions {
    expressions: Vec<Expression>,
    /// `sentence_logits` and `document_logits`.
    pub(super) outputs: [Id; 2],
}

/// Number of an expression.
pub(super) type Id = usize;

struct Expression {
    expr: Expr,
    /// Features of a row; 1 when there is no feature axis.
    width: usize,
    operator: String,
    shape: String,
}

/// What a tensor holds, whatever the order of its axes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    /// Not part of any program: why.
    Unknown(String),
    /// Token ids.
    Ids,
    /// Sentence ids, -1 for none.
    SentenceIds,
    /// Row `ids[t]` of a table.
    Words(Arc<Matrix>),
    /// Row `t + first` of a table.
    Positions {
        table: Arc<Matrix>,
        first: usize,
    },
    /// `[heads, columns]`: column `j - i + offset` for the tokens `i` and `j`.
    RelativeBias {
        table: Arc<Matrix>,
        offset: i64,
    },
    Unary(Unary, Id),
    /// Times a constant.
    Scale(Id, Coefficient),
    /// Plus a constant.
    Shift(Id, Coefficient),
    /// The larger of it and a constant.
    AtLeast(Id, f32),
    Binary(Binary, Id, Id),
    /// Over all features.
    Reduce(Reduction, Id),
    /// Over the features of each of this many heads; stands for the same at all of them.
    ReduceHeads(Reduction, Id, usize),
    /// Over all tokens.
    ReduceTokens(Reduction, Id),
    /// Over the tokens of one side of scores.
    ReduceSide(Reduction, Id, Side),
    /// Over all sentences.
    ReduceSentences(Reduction, Id),
    /// `x / sqrt(mean of x^2 + epsilon)` over all features.
    RmsNorm(Id, f32),
    /// `input W^T` with the constant `W`, `[outputs, inputs]`.
    MatMul {
        input: Id,
        weight: Arc<Matrix>,
    },
    /// Some of the features.
    Columns {
        input: Id,
        first: usize,
        len: usize,
    },
    /// Products of the rows of two tensors, head by head.
    Scores {
        left: Id,
        right: Id,
        heads: usize,
    },
    /// Scores plus a relative bias; `query` is the side whose token is subtracted.
    Biased {
        scores: Id,
        bias: Id,
        query: Side,
    },
    /// Over the tokens of `keys`.
    Softmax {
        scores: Id,
        keys: Side,
    },
    /// Attention weights times the rows of a tensor, head by head.
    Context {
        weights: Id,
        values: Id,
        heads: usize,
    },
    /// 1 where a token belongs to a sentence, of this many sentences.
    Member(usize),
    /// Tokens of each sentence.
    Count,
    /// Sum of the rows of each sentence, of this many sentences.
    Sums(Id, usize),
    /// Whether a sentence has tokens.
    Present,
    /// It where the sentence has tokens, else a constant.
    OrAbsent(Id, f32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unary {
    Abs,
    Erf,
    Exp,
    Gelu,
    Ln,
    Recip,
    RoundHalfToEven,
    Rsqrt,
    Sqrt,
    Square,
    ToInt8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reduction {
    Sum,
    Max,
    MeanOfSquares,
}

/// A constant that is the same for every token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Coefficient {
    Scalar(f32),
    /// One value a feature.
    Vector(Arc<[f32]>),
}

/// A constant matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Values,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Values {
    F32(Vec<f32>),
    I8(Vec<i8>),
}

/// What one dimension of a tensor runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// Nothing: its size is 1.
    One,
    Token,
    /// Tokens of the two sides of scores, before it is known which are the queries.
    Left,
    Right,
    /// Tokens that queries attend to.
    Key,
    /// Tokens of a relative bias: the one that is subtracted and the one that is added.
    Minus,
    Plus,
    Head,
    Sentence,
    /// Features `(index / stride) % size` of a row.
    Feature {
        size: usize,
        stride: usize,
    },
}

impl Expressions {
    pub(super) fn new() -> Self {
        Self { expressions: Vec::new(), outputs: [0; 2] }
    }

    pub(super) fn push(&mut self, expr: Expr, width: usize, operator: String, shape: String) -> Id {
        self.expressions.push(Expression { expr, width, operator, shape });
        self.expressions.len() - 1
    }

    pub(super) fn get(&self, id: Id) -> &Expr {
        &self.expressions[id].expr
    }

    pub(super) fn width(&self, id: Id) -> usize {
        self.expressions[id].width
    }

    /// The error at an expression; an unknown one has a reason of its own.
    pub(super) fn refuse(&self, id: Id, reason: impl Into<String>) -> LowerError {
        let Expression { expr, operator, shape, .. } = &self.expressions[id];
        let reason = match expr {
            Expr::Unknown(reason) => reason.clone(),
            _ => reason.into(),
        };
        LowerError::Operator { operator: operator.clone(), shape: shape.clone(), reason }
    }

    /// The expression as `scale * core + shift`, with all constant factors and terms peeled off; with `scalars`, only those
    /// that are one number.
    pub(super) fn affine(&self, id: Id, scalars: bool) -> Affine {
        let mut affine = Affine { core: id, scale: Coefficient::Scalar(1.0), shift: Coefficient::Scalar(0.0) };
        loop {
            match self.get(affine.core) {
                Expr::Scale(inner, factor) if !scalars || factor.is_scalar() => {
                    affine.scale = affine.scale.times(factor);
                    affine.core = *inner;
                }
                Expr::Shift(inner, term) if !scalars || term.is_scalar() => {
                    affine.shift = affine.scale.times(term).plus(&affine.shift);
                    affine.core = *inner;
                }
                _ => return affine,
            }
        }
    }
}

pub(super) struct Affine {
    pub(super) core: Id,
    pub(super) scale: Coefficient,
    pub(super) shift: Coefficient,
}

impl Affine {
    /// The scale, if there is no shift and it is one number.
    pub(super) fn factor(&self) -> Option<f32> {
        self.scale.scalar().filter(|_| self.shift == Coefficient::Scalar(0.0))
    }
}

impl Coefficient {
    pub(super) fn is_scalar(&self) -> bool {
        matches!(self, Self::Scalar(_))
    }

    pub(super) fn scalar(&self) -> Option<f32> {
        match self {
            Self::Scalar(value) => Some(*value),
            Self::Vector(_) => None,
        }
    }

    /// One value for each of `width` features; `None` when there are others.
    pub(super) fn vector(&self, width: usize) -> Option<Vec<f32>> {
        match self {
            Self::Scalar(value) => Some(vec![*value; width]),
            Self::Vector(values) => (values.len() == width).then(|| values.to_vec()),
        }
    }

    pub(super) fn map(&self, value: impl Fn(f32) -> f32) -> Self {
        match self {
            Self::Scalar(scalar) => Self::Scalar(value(*scalar)),
            Self::Vector(values) => Self::Vector(values.iter().map(|&v| value(v)).collect()),
        }
    }

    fn times(&self, other: &Self) -> Self {
        self.with(other, |a, b| a * b)
    }

    fn plus(&self, other: &Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    fn with(&self, other: &Self, value: impl Fn(f32, f32) -> f32) -> Self {
        match (self, other) {
            (Self::Scalar(a), b) => b.map(|b| value(*a, b)),
            (a, Self::Scalar(b)) => a.map(|a| value(a, *b)),
            (Self::Vector(a), Self::Vector(b)) => {
                Self::Vector(a.iter().zip(&**b).map(|(&a, &b)| value(a, b)).collect())
            }
        }
    }
}

impl Matrix {
    /// A tensor as a matrix of `rows`; `None` unless it is f32 or int8 and divides.
    pub(super) fn of(tensor: &Tensor, rows: usize) -> Option<Self> {
        let values = match tensor.datum_type() {
            DatumType::I8 => Values::I8(tensor.try_as_plain_ram().ok()?.as_slice::<i8>().ok()?.to_vec()),
            DatumType::F32 => Values::F32(tensor.try_as_plain_ram().ok()?.as_slice::<f32>().ok()?.to_vec()),
            _ => return None,
        };
        let len = tensor.len();
        (rows > 0 && len > 0 && len.is_multiple_of(rows)).then(|| Self { rows, columns: len / rows, values })
    }

    /// Element `index(row, column)` of a tensor at each place.
    pub(super) fn gathered(
        tensor: &Tensor,
        rows: usize,
        columns: usize,
        index: impl Fn(usize, usize) -> usize,
    ) -> Option<Self> {
        let whole = Self::of(tensor, 1)?;
        let places = || (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let values = match whole.values {
            Values::F32(values) => Values::F32(
                places().map(|(row, column)| values.get(index(row, column)).copied()).collect::<Option<_>>()?,
            ),
            Values::I8(values) => Values::I8(
                places().map(|(row, column)| values.get(index(row, column)).copied()).collect::<Option<_>>()?,
            ),
        };
        Some(Self { rows, columns, values })
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Feature { size, .. } => write!(f, "{size} features"),
            other => write!(f, "{other:?}"),
        }
    }
}
