//! AdamW with a warm-up and linear decay, in full view, so that a checkpoint can hold all of its state.

use tch::Tensor;

use crate::encoder::{NamedTensors, Parameter};

/// Decoupled weight decay Adam (Loshchilov and Hutter 2019) over groups with rates of their own.
#[derive(Debug)]
pub struct AdamW {
    slots: Vec<Slot>,
    steps: i64,
}

/// Rates of the groups.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Peak learning rate of the encoder's top layer.
    pub encoder: f64,
    /// Peak learning rate of the head.
    pub head: f64,
    /// Factor from each layer to the one below; 1 gives every layer the same rate.
    pub layer_decay: f64,
    /// Weight decay; biases and norms have none.
    pub weight_decay: f64,
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

#[derive(Debug)]
struct Slot {
    name: String,
    tensor: Tensor,
    mean: Tensor,
    square: Tensor,
    rate: f64,
    decay: f64,
}

impl AdamW {
    /// An optimiser for the parameters; the deepest belong to the head.
    pub fn new(parameters: Vec<Parameter>, rates: Rates) -> Self {
        let head = parameters.iter().map(|parameter| parameter.depth).max().unwrap_or(0);
        let slots = parameters
            .into_iter()
            .map(|Parameter { name, tensor, depth }| Slot {
                mean: tensor.zeros_like().set_requires_grad(false),
                square: tensor.zeros_like().set_requires_grad(false),
                rate: match head - depth {
                    0 => rates.head,
                    below => rates.encoder * rates.layer_decay.powi(below as i32 - 1),
                },
                decay: if tensor.dim() > 1 { rates.weight_decay } else { 0.0 },
                name,
                tensor,
            })
            .collect();
        Self { slots, steps: 0 }
    }

    /// Forgets the gradients.
    pub fn zero_grad(&mut self) {
        for slot in &mut self.slots {
            slot.tensor.zero_grad();
        }
    }

    /// Scales all gradients so that their joint norm is at most `limit`, and returns the norm that they had.
    pub fn clip(&mut self, limit: f64) -> f64 {
        tch::no_grad(|| {
            let norms: Vec<Tensor> = self
                .slots
                .iter()
                .map(|slot| slot.tensor.grad())
                .filter(Tensor::defined)
                .map(|grad| grad.norm())
                .collect();
            let norm = if norms.is_empty() { 0.0 } else { Tensor::stack(&norms, 0).norm().double_value(&[]) };
            if norm > limit {
                for slot in &self.slots {
                    let mut grad = slot.tensor.grad();
                    if grad.defined() {
                        let _ = grad.g_mul_scalar_(limit / norm);
                    }
                }
            }
            norm
        })
    }

    /// One step with every rate multiplied by `factor`.
    pub fn step(&mut self, factor: f64) {
        self.steps += 1;
        let (first, second) = (1.0 - BETA1.powi(self.steps as i32), 1.0 - BETA2.powi(self.steps as i32));
        tch::no_grad(|| {
            for slot in &mut self.slots {
                let grad = slot.tensor.grad();
                if !grad.defined() {
                    continue;
                }
                let rate = slot.rate * factor;
                let _ = slot.mean.lerp_(&grad, 1.0 - BETA1);
                let _ = slot.square.lerp_(&grad.square(), 1.0 - BETA2);
                let denominator = slot.square.sqrt().g_div_scalar_(second.sqrt()).g_add_scalar_(EPSILON);
                if slot.decay > 0.0 {
                    let _ = slot.tensor.g_mul_scalar_(1.0 - rate * slot.decay);
                }
                let _ = slot.tensor.g_sub_(&(&slot.mean / denominator * (rate / first)));
            }
        });
    }

    /// Everything that a checkpoint must hold: parameters and moments, by name.
    pub fn state(&self) -> NamedTensors {
        let mut state = Vec::with_capacity(self.slots.len() * 3);
        for slot in &self.slots {
            state.push((format!("parameter.{}", slot.name), slot.tensor.detach()));
            state.push((format!("mean.{}", slot.name), slot.mean.shallow_clone()));
            state.push((format!("square.{}", slot.name), slot.square.shallow_clone()));
        }
        state
    }

    /// Takes back what [`AdamW::state`] gave, `steps` steps after the start.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn restore(&mut self, state: NamedTensors, steps: i64) -> anyhow::Result<()> {
        let mut state: std::collections::HashMap<String, Tensor> = state.into_iter().collect();
        self.steps = steps;
        tch::no_grad(|| {
            for slot in &mut self.slots {
                for (kind, target) in
                    [("parameter", &mut slot.tensor), ("mean", &mut slot.mean), ("square", &mut slot.square)]
                {
                    let name = format!("{kind}.{}", slot.name);
                    let saved = state.remove(&name);
                    match saved {
                        Some(saved) if saved.size() == target.size() => target.copy_(&saved),
                        _ => anyhow::bail!("the checkpoint does not fit this model: {name}"),
                    }
                }
            }
            Ok(())
        })
    }
}

/// Factor of the learning rate at a step: up in a straight line over the warm-up, then down to zero at the end.
pub fn linear_schedule(step: usize, warm_up: usize, total: usize) -> f64 {
    if step < warm_up {
        return (step + 1) as f64 / warm_up as f64;
    }
    total.saturating_sub(step) as f64 / total.saturating_sub(warm_up).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn the_schedule_rises_and_falls() {
        let factors: Vec<f64> = (0..=10).map(|step| linear_schedule(step, 2, 10)).collect();
        assert_eq!(factors[..3], [0.5, 1.0, 1.0]);
        assert!(factors[3..].windows(2).all(|pair| pair[1] < pair[0]));
        assert_eq!(factors[10], 0.0);
    }

    /// Compared with libtorch's own AdamW over twenty steps of a curved loss.
    #[test]
    fn steps_equal_libtorchs() {
        use tch::nn::{self, OptimizerConfig};
        let start = Tensor::from_slice(&[1.0f32, -2.0, 3.0, 0.5]).view([2, 2]);
        let loss = |tensor: &Tensor| (tensor.pow_tensor_scalar(4) * 0.1 + tensor.sin()).sum(Kind::Float);

        let store = nn::VarStore::new(tch::Device::Cpu);
        let theirs = store.root().var_copy("x", &start);
        let mut oracle = nn::AdamW { wd: 0.01, eps: EPSILON, ..nn::AdamW::default() }.build(&store, 0.05).unwrap();

        let ours = start.copy().set_requires_grad(true);
        let parameter = Parameter { name: "x".into(), tensor: ours.shallow_clone(), depth: 0 };
        let rates = Rates { encoder: 0.0, head: 0.05, layer_decay: 1.0, weight_decay: 0.01 };
        let mut optimizer = AdamW::new(vec![parameter], rates);
        for _ in 0..20 {
            oracle.backward_step(&loss(&theirs));
            optimizer.zero_grad();
            loss(&ours).backward();
            optimizer.step(1.0);
        }
        let difference = (&ours - &theirs).abs().max().double_value(&[]);
        assert!(difference < 1e-6, "{difference}");
    }

    #[test]
    fn clipping_bounds_the_joint_norm() {
        let make = |name: &str| Parameter {
            name: name.into(),
            tensor: Tensor::ones([3], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true),
            depth: 0,
        };
        let (a, b) = (make("a"), make("b"));
        ((&a.tensor * 3.0).sum(Kind::Float) + (&b.tensor * 4.0).sum(Kind::Float)).backward();
        let (a_tensor, b_tensor) = (a.tensor.shallow_clone(), b.tensor.shallow_clone());
        let rates = Rates { encoder: 1.0, head: 1.0, layer_decay: 1.0, weight_decay: 0.0 };
        let before = AdamW::new(vec![a, b], rates).clip(1.0);
        assert!((before - 75f64.sqrt()).abs() < 1e-5);
        let after = (a_tensor.grad().square().sum(Kind::Float) + b_tensor.grad().square().sum(Kind::Float)).sqrt();
        assert!((after.double_value(&[]) - 1.0).abs() < 1e-5);
    }

    #[test]
    fn lower_layers_learn_more_slowly() {
        let parameter = |depth: usize| Parameter {
            name: depth.to_string(),
            tensor: Tensor::zeros([1], (Kind::Float, tch::Device::Cpu)),
            depth,
        };
        let rates = Rates { encoder: 1.0, head: 20.0, layer_decay: 0.5, weight_decay: 0.0 };
        let optimizer = AdamW::new((0..4).map(parameter).collect(), rates);
        let all: Vec<f64> = optimizer.slots.iter().map(|slot| slot.rate).collect();
        assert_eq!(all, [0.25, 0.5, 1.0, 20.0]);
    }
}
