//! States below the layers that are trained: computed once.

use indicatif::ProgressBar;
use tch::{Device, IndexOp, Kind, Tensor};

use crate::data::{Batch, Example};
use crate::fit::FitOptions;
use crate::model::Classifier;

/// States of the highest frozen layer, one f16 tensor `[tokens, hidden_size]` an example, in main memory.
///
/// f16 holds what follows a layer normalisation to 11 bits, more than the bfloat16 of the layers around it.
#[derive(Debug)]
pub(crate) struct Frozen(Vec<Tensor>);

impl Frozen {
    /// Runs the lowest `freeze` layers, which must not learn from here on, over all examples; `None` when none is frozen.
    pub(crate) fn new(
        model: &Classifier,
        options: &FitOptions,
        examples: &[Example],
        device: Device,
        show_progress: bool,
    ) -> Option<Self> {
        if options.freeze == 0 {
            return None;
        }
        for parameter in model.parameters() {
            if parameter.depth <= options.freeze {
                let _ = parameter.tensor.set_requires_grad(false);
            }
        }
        let bar = if show_progress { ProgressBar::new(examples.len() as u64) } else { ProgressBar::hidden() };
        bar.set_message("states of the frozen layers");
        let pad_id = model.encoder().config().architecture.pad_id();
        let states = examples
            .iter()
            .map(|example| {
                let batch = Batch::new(&[example], pad_id, device);
                let states = model.encoder().level(options.freeze, &batch.ids, &batch.mask, options.precision);
                bar.inc(1);
                states.i(0).to_kind(Kind::Half).to_device(Device::Cpu)
            })
            .collect();
        bar.finish_and_clear();
        Some(Self(states))
    }

    /// States of a batch, f32 `[batch, tokens, hidden_size]`, zero behind the end of an example.
    pub(crate) fn batch(&self, indices: &[usize], tokens: i64, device: Device) -> Tensor {
        let padded: Vec<Tensor> = indices
            .iter()
            .map(|&index| {
                let states = &self.0[index];
                states.constant_pad_nd([0, 0, 0, tokens - states.size()[0]])
            })
            .collect();
        Tensor::stack(&padded, 0).to_device(device).to_kind(Kind::Float)
    }
}
