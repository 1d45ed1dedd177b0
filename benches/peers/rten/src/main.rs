//! Runs one ONNX graph on rten, as often as it is told: `kdh-peer-rten MODEL.onnx`. The protocol is that of
//! `../kdh.rs`.

use std::error::Error;
use std::io::BufRead;
use std::time::Instant;

use rten::ModelOptions;
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("give a graph")?;
    // Weights are packed once, as kdh and the other engines do.
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(path)?;
    let [input_ids, sentence_ids] = [model.node_id("input_ids")?, model.node_id("sentence_ids")?];
    let document = model.node_id("document_logits")?;
    println!("ready rten");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut fields = line.split(' ');
        let mut field = || fields.next().ok_or("a line has three fields");
        let repeat: usize = field()?.parse()?;
        let numbers = |field: &str| field.split(',').map(str::parse).collect::<Result<Vec<i32>, _>>();
        let (ids, sentences) = (numbers(field()?)?, numbers(field()?)?);
        let row = |values: &[i32]| NdTensor::from_data([1, values.len()], values.to_vec());
        let mut sum = 0.0_f32;
        for _ in 0..repeat {
            let inputs = vec![(input_ids, row(&ids).into()), (sentence_ids, row(&sentences).into())];
            let start = Instant::now();
            let [logits] = model.run_n(inputs, [document], None)?;
            print!("{:.9} ", start.elapsed().as_secs_f64());
            let logits: NdTensor<f32, 2> = logits.try_into()?;
            sum = logits.iter().sum();
        }
        println!("{sum}");
    }
    Ok(())
}
