//! Losses: what labels and what a teacher say, as terms that are added with weights.
//!
//! Every term is a mean, so that weights mean the same for any batch, and is differentiable in the student's tensors
//! only: a teacher's tensors are constants. Targets and masks have the kind of the logits.

use tch::{Reduction, Tensor};

/// Binary cross-entropy with logits: each label is a question of its own.
///
/// `logits` and `labels` are `[…, labels]`. `weights`, `[…, 1]` or of the same shape, says which entries count.
pub fn binary_cross_entropy(logits: &Tensor, labels: &Tensor, weights: Option<&Tensor>) -> Tensor {
    let each = logits.binary_cross_entropy_with_logits::<Tensor>(labels, None, None, Reduction::None);
    weighted_mean(&each, weights)
}

/// Response-based distillation for labels that do not exclude each other: `T² · KL(Bernoulli(teacher / T) ||
/// Bernoulli(student / T))`, for each label (Hinton et al. 2015, for one Bernoulli a label instead of one categorical).
///
/// Shapes as in [`binary_cross_entropy`].
pub fn bernoulli_kd(student: &Tensor, teacher: &Tensor, temperature: f64, weights: Option<&Tensor>) -> Tensor {
    let (student, teacher) = (student / temperature, teacher.detach() / temperature);
    let target = teacher.sigmoid();
    // KL = cross-entropy - entropy; both in logits, so that neither meets the logarithm of zero.
    let cross = student.binary_cross_entropy_with_logits::<Tensor>(&target, None, None, Reduction::None);
    let entropy = teacher.binary_cross_entropy_with_logits::<Tensor>(&target, None, None, Reduction::None);
    weighted_mean(&(cross - entropy), weights) * (temperature * temperature)
}

/// Response-based distillation as the KDH-MLTC paper prints it: `T² · KL(softmax(teacher / T) || softmax(student / T))`
/// over the labels, which treats them as exclusive (arXiv 2505.07162; Hinton et al. 2015).
///
/// `student` and `teacher` are `[…, labels]`; `weights` is `[…, 1]`.
pub fn softmax_kd(student: &Tensor, teacher: &Tensor, temperature: f64, weights: Option<&Tensor>) -> Tensor {
    let kind = student.kind();
    let student = (student / temperature).log_softmax(-1, kind);
    let teacher = (teacher.detach() / temperature).log_softmax(-1, kind);
    let divergence = (teacher.exp() * (teacher - student)).sum_dim_intlist(-1, true, kind);
    weighted_mean(&divergence, weights) * (temperature * temperature)
}

/// `1 - cos` between token states (DistilBERT, Sanh et al. 2019), averaged over the tokens that count.
///
/// `student` and `teacher` are `[batch, tokens, hidden_size]`, `weights` is `[batch, tokens, 1]`.
pub fn state_cosine(student: &Tensor, teacher: &Tensor, weights: &Tensor) -> Tensor {
    let cosine = Tensor::cosine_similarity(student, &teacher.detach(), -1, 1e-8).unsqueeze(-1);
    weighted_mean(&(1.0 - cosine), Some(weights))
}

/// Mean squared difference of token states (TinyBERT, Jiao et al. 2020), averaged over the tokens that count.
///
/// Shapes as in [`state_cosine`].
pub fn state_mse(student: &Tensor, teacher: &Tensor, weights: &Tensor) -> Tensor {
    let squares = (student - teacher.detach()).square().mean_dim(-1, true, student.kind());
    weighted_mean(&squares, Some(weights))
}

/// Self-attention relations (MiniLMv2, Wang et al. 2021): the divergence between how the teacher's and the student's
/// tokens attend to each other, for one of queries, keys or values.
///
/// `student` and `teacher` are `[batch, tokens, width]`, each of its own width; both are split into `heads` relation
/// heads, whatever heads the models have. `mask` is bool `[batch, tokens]`, true for real tokens.
pub fn attention_relation(student: &Tensor, teacher: &Tensor, heads: i64, mask: &Tensor) -> Tensor {
    let relation = |states: &Tensor| {
        let (batch, tokens, width) = (states.size()[0], states.size()[1], states.size()[2]);
        let split = states.view([batch, tokens, heads, width / heads]).transpose(1, 2);
        let scores = split.matmul(&split.transpose(-2, -1)) / ((width / heads) as f64).sqrt();
        let hidden = mask.logical_not().unsqueeze(1).unsqueeze(1);
        scores.masked_fill(&hidden, -1e9).log_softmax(-1, states.kind())
    };
    let (student, teacher) = (relation(student), relation(&teacher.detach()));
    let kind = student.kind();
    // [batch, heads, tokens, 1]
    let divergence = (teacher.exp() * (teacher - student)).sum_dim_intlist(-1, true, kind);
    let weights = mask.to_kind(kind).unsqueeze(1).unsqueeze(-1).expand_as(&divergence);
    weighted_mean(&divergence, Some(&weights))
}

/// Mean over the entries, or over those with weight; 0 when none has any.
fn weighted_mean(each: &Tensor, weights: Option<&Tensor>) -> Tensor {
    let kind = each.kind();
    match weights {
        None => each.mean(kind),
        Some(weights) => {
            let weights = weights.expand_as(each);
            (each * &weights).sum(kind) / weights.sum(kind).clamp_min(1e-12)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

    /// Autograd against central differences, in double precision.
    fn check_gradient(input: &Tensor, loss: impl Fn(&Tensor) -> Tensor) {
        let input = input.copy().set_requires_grad(true);
        let value = loss(&input);
        assert!(value.double_value(&[]).is_finite());
        value.backward();
        let gradient = input.grad().view(-1);
        let flat = input.detach().view(-1);
        assert!(gradient.abs().max().double_value(&[]) > 1e-6, "a gradient of zero tests nothing");
        const STEP: f64 = 1e-5;
        for index in 0..flat.numel() as i64 {
            let at = |change: f64| {
                let moved = flat.copy();
                let _ = moved.get(index).g_add_scalar_(change);
                loss(&moved.view_as(&input)).double_value(&[])
            };
            let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let analytic = gradient.double_value(&[index]);
            assert!((numeric - analytic).abs() < 1e-7 + 1e-5 * analytic.abs(), "{index}: {numeric}, {analytic}");
        }
    }

    fn random(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, DOUBLE) * 2.0
    }

    fn weights() -> Tensor {
        Tensor::from_slice(&[1.0, 1.0, 0.0, 1.0, 0.0, 1.0]).view([2, 3, 1])
    }

    #[test]
    fn gradients_are_right() {
        tch::manual_seed(1);
        let (student, teacher) = (random(&[2, 3, 4]), random(&[2, 3, 4]));
        let labels = random(&[2, 3, 4]).gt(0.0).to_kind(Kind::Double);
        let weights = weights();
        let some = Some(&weights);
        check_gradient(&student, |logits| binary_cross_entropy(logits, &labels, some));
        check_gradient(&student, |logits| binary_cross_entropy(logits, &labels, None));
        for temperature in [1.0, 3.0] {
            check_gradient(&student, |logits| bernoulli_kd(logits, &teacher, temperature, some));
            check_gradient(&student, |logits| softmax_kd(logits, &teacher, temperature, some));
        }
        check_gradient(&student, |states| state_cosine(states, &teacher, &weights));
        check_gradient(&student, |states| state_mse(states, &teacher, &weights));
        let mask = weights.squeeze_dim(-1).to_kind(Kind::Bool);
        let wide = random(&[2, 3, 6]);
        check_gradient(&student, |states| attention_relation(states, &wide, 2, &mask));
    }

    #[test]
    fn a_student_that_says_what_its_teacher_says_has_no_loss() {
        tch::manual_seed(2);
        let logits = random(&[2, 3, 4]) * 20.0;
        let weights = weights();
        let mask = weights.squeeze_dim(-1).to_kind(Kind::Bool);
        for loss in [
            bernoulli_kd(&logits, &logits, 2.0, None),
            softmax_kd(&logits, &logits, 2.0, Some(&weights)),
            state_cosine(&logits, &logits, &weights),
            state_mse(&logits, &logits, &weights),
            attention_relation(&logits, &logits, 2, &mask),
        ] {
            assert!(loss.double_value(&[]).abs() < 1e-9);
        }
    }

    #[test]
    fn values_by_hand() {
        let close = |loss: Tensor, expected: f64| {
            let loss = loss.double_value(&[]);
            assert!((loss - expected).abs() < 1e-9, "{loss}, expected {expected}");
        };
        let scalar = |value: f64| Tensor::from_slice(&[value]).view([1, 1]);
        close(binary_cross_entropy(&scalar(0.0), &scalar(1.0), None), 2f64.ln());
        // Teacher p = 3/4, student p = 1/2.
        let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        close(bernoulli_kd(&scalar(0.0), &scalar(3f64.ln()), 1.0, None), expected);
        close(bernoulli_kd(&scalar(0.0), &scalar(2.0 * 3f64.ln()), 2.0, None), 4.0 * expected);
        // With two labels a softmax is a Bernoulli of the difference.
        let pair = |value: f64| Tensor::from_slice(&[value, 0.0]).view([1, 2]);
        close(softmax_kd(&pair(0.0), &pair(3f64.ln()), 1.0, None), expected);
        let states = |values: [f64; 2]| Tensor::from_slice(&values).view([1, 1, 2]);
        let one = Tensor::ones([1, 1, 1], DOUBLE);
        close(state_cosine(&states([1.0, 0.0]), &states([0.0, 3.0]), &one), 1.0);
        close(state_mse(&states([1.0, 0.0]), &states([0.0, 3.0]), &one), 5.0);
    }

    #[test]
    fn what_has_no_weight_does_not_count() {
        tch::manual_seed(3);
        let (student, teacher) = (random(&[2, 3, 4]), random(&[2, 3, 4]));
        let weights = weights();
        let mask = weights.squeeze_dim(-1).to_kind(Kind::Bool);
        let elsewhere = &student + random(&[2, 3, 4]) * (1.0 - &weights);
        let same = |loss: &dyn Fn(&Tensor) -> Tensor| {
            assert_eq!(loss(&student).double_value(&[]), loss(&elsewhere).double_value(&[]));
        };
        same(&|logits| bernoulli_kd(logits, &teacher, 2.0, Some(&weights)));
        same(&|logits| softmax_kd(logits, &teacher, 2.0, Some(&weights)));
        same(&|states| state_cosine(states, &teacher, &weights));
        same(&|states| state_mse(states, &teacher, &weights));
        same(&|states| attention_relation(states, &teacher, 2, &mask));
        let nothing = Tensor::zeros([2, 3, 1], DOUBLE);
        assert_eq!(bernoulli_kd(&student, &teacher, 2.0, Some(&nothing)).double_value(&[]), 0.0);
    }
}
