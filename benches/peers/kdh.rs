//! Runs one ONNX graph on kdh's arena or on stock tract, as often as it is told.
//!
//! `peer-kdh arena|tract MODEL.onnx LABELS MAX_SENTENCES MAX_TOKENS VOCABULARY`. It prints `ready` and what runs the graph;
//! then for each line `REPEAT ID,ID,... SENTENCE,SENTENCE,...` of standard input the seconds of every run and, last, the
//! sum of the document's logits.

use std::error::Error;
use std::io::BufRead;
use std::time::Instant;

use kdh_runtime::engine::{Engine, EngineChoice, Shape};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [peer, path, numbers @ ..] = &arguments[..] else { return Err("give a peer and a graph".into()) };
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse()).collect::<Result<_, _>>()?;
    let [labels, max_sentences, max_tokens, vocabulary] = numbers[..] else { return Err("give four numbers".into()) };
    let shape = Shape { labels, max_sentences, max_tokens, vocabulary };
    let choice = match peer.as_str() {
        "arena" => EngineChoice::Arena,
        "tract" => EngineChoice::Tract,
        _ => return Err("the peer is arena or tract".into()),
    };
    let engine = Engine::from_onnx(&std::fs::read(path)?, shape, choice, None)?;
    let mut scratch = engine.scratch();
    println!("ready {} {}", engine.name(), engine.kernels().join(" "));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut fields = line.split(' ');
        let mut field = || fields.next().ok_or("a line has three fields");
        let repeat: usize = field()?.parse()?;
        let ids = field()?.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
        let sentence_ids = field()?.split(',').map(str::parse).collect::<Result<Vec<i32>, _>>()?;
        let mut sum = 0.0;
        for _ in 0..repeat {
            let start = Instant::now();
            let logits = engine.run(&mut scratch, &ids, &sentence_ids)?;
            print!("{:.9} ", start.elapsed().as_secs_f64());
            sum = logits.document.iter().sum();
        }
        println!("{sum}");
    }
    Ok(())
}
