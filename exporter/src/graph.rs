//! Writes a student as an ONNX graph.

use kdh_format::student::Head;

use crate::encoder::{Encoder, Layer, Linear, Matrix, Norm};
use crate::protobuf::{Dim, GraphBuilder, Value, float, int, ints, to_float, to_int8};
use crate::quantize::quantize_rows;
use crate::student::Student;

/// Logit of a sentence that owns no token.
pub const ABSENT: f32 = -1e9;

/// Number format of the graph's linear layers and embedding tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats throughout.
    F32,
    /// int8 linear layers, attention products and embedding tables, as `ARITHMETIC.md` states them; the rest in `f32`.
    Int8,
}

/// Writes `student` as an ONNX model of standard operators (operator set 17).
///
/// Inputs: `input_ids` and `sentence_ids`, both `int64 [1, tokens]` for any number of tokens up to the card's
/// `max_tokens`; sentence ids are from 0, -1 for a token of no sentence. Outputs: `sentence_logits`
/// `f32 [1, max_sentences, labels]`, [`ABSENT`] in the rows of sentences without tokens, and `document_logits`
/// `f32 [1, labels]`. The same student always gives the same bytes.
pub fn onnx(student: &Student, precision: Precision) -> Vec<u8> {
    let mut graph = GraphBuilder::default();
    let (sentences, labels) = (student.card.max_sentences as usize, student.card.labels.len());
    graph.input("input_ids", &[Dim::Fixed(1), Dim::Symbol("tokens")]);
    graph.input("sentence_ids", &[Dim::Fixed(1), Dim::Symbol("tokens")]);
    graph.output("sentence_logits", &[Dim::Fixed(1), Dim::Fixed(sentences), Dim::Fixed(labels)]);
    graph.output("document_logits", &[Dim::Fixed(1), Dim::Fixed(labels)]);

    let mut writer = Writer { graph, precision };
    let states = writer.encoder(&student.encoder);
    writer.head(student, &states);
    let precision = match precision {
        Precision::F32 => "f32",
        Precision::Int8 => "int8",
    };
    writer.graph.finish(&student.card.name, &[("precision", precision)])
}

struct Writer {
    graph: GraphBuilder,
    precision: Precision,
}

impl Writer {
    /// Token states `[tokens, hidden_size]`.
    fn encoder(&mut self, encoder: &Encoder) -> Value {
        let first = self.graph.integers("axis.0", &[1], &[0]);
        let ids = self.graph.node("Squeeze", "ids", &["input_ids", &first]);
        let tokens = self.graph.node("Shape", "tokens", &[&ids]);

        let words = self.gather_words(&encoder.words, &ids);
        let positions = self.slice_positions(&encoder.positions, &tokens);
        let sum = self.graph.node("Add", "embeddings.sum", &[&words, &positions]);
        let mut states = self.norm("embeddings.norm", &encoder.embedding_norm, encoder.layer_norm_epsilon, &sum);
        let bias = encoder.relative_bias.as_ref().map(|table| self.relative_bias(table, &tokens));
        for (index, layer) in encoder.layers.iter().enumerate() {
            states = self.layer(&format!("layer.{index}"), encoder, layer, &states, bias.as_deref());
        }
        states
    }

    fn gather_words(&mut self, words: &Matrix, ids: &str) -> Value {
        let (rows, columns) = (words.rows, words.columns);
        let by_row = |graph: &mut GraphBuilder, name: &str, table: &str| {
            graph.node_with("Gather", name, &[table, ids], vec![int("axis", 0)])
        };
        match self.precision {
            Precision::F32 => {
                let table = self.graph.floats("embeddings.words.table", &[rows, columns], &words.values);
                by_row(&mut self.graph, "embeddings.words", &table)
            }
            Precision::Int8 => {
                let quantized = quantize_rows(words);
                let table = self.graph.bytes("embeddings.words.table", &[rows, columns], &quantized.integers);
                let scales = self.graph.floats("embeddings.words.scales", &[rows, 1], &quantized.scales);
                let integers = by_row(&mut self.graph, "embeddings.words.integers", &table);
                let scale = by_row(&mut self.graph, "embeddings.words.scale", &scales);
                self.dequantize("embeddings.words", &integers, &scale)
            }
        }
    }

    fn slice_positions(&mut self, positions: &Matrix, tokens: &str) -> Value {
        let (rows, columns) = (positions.rows, positions.columns);
        match self.precision {
            Precision::F32 => {
                let table = self.graph.floats("embeddings.positions.table", &[rows, columns], &positions.values);
                self.first_rows("embeddings.positions", &table, tokens)
            }
            Precision::Int8 => {
                let quantized = quantize_rows(positions);
                let table = self.graph.bytes("embeddings.positions.table", &[rows, columns], &quantized.integers);
                let scales = self.graph.floats("embeddings.positions.scales", &[rows, 1], &quantized.scales);
                let integers = self.first_rows("embeddings.positions.integers", &table, tokens);
                let scale = self.first_rows("embeddings.positions.scale", &scales, tokens);
                self.dequantize("embeddings.positions", &integers, &scale)
            }
        }
    }

    fn first_rows(&mut self, name: &str, table: &str, tokens: &str) -> Value {
        let first = self.graph.integers("axis.0", &[1], &[0]);
        self.graph.node("Slice", name, &[table, &first, tokens, &first])
    }

    fn dequantize(&mut self, name: &str, integers: &str, scale: &str) -> Value {
        let cast = self.graph.node_with("Cast", &format!("{name}.cast"), &[integers], vec![to_float()]);
        self.graph.node("Mul", name, &[&cast, scale])
    }

    /// `[heads, tokens, tokens]`: the bias of query `i` and key `j` stands in the table's column `j - i + offset`.
    fn relative_bias(&mut self, table: &Matrix, tokens: &str) -> Value {
        let positions = table.columns.div_ceil(2);
        let (keys, offset): (Vec<i64>, i64) = ((0..positions as i64).collect(), positions as i64 - 1);
        let graph = &mut self.graph;
        let table = graph.floats("relative_bias.table", &[table.rows, table.columns], &table.values);
        let keys = graph.integers("relative_bias.keys.table", &[positions], &keys);
        let offset = graph.integers("relative_bias.offset", &[], &[offset]);
        let (first, second) = (graph.integers("axis.0", &[1], &[0]), graph.integers("axis.1", &[1], &[1]));
        let keys = graph.node("Slice", "relative_bias.keys", &[&keys, &first, tokens, &first]);
        let queries = graph.node("Unsqueeze", "relative_bias.queries", &[&keys, &second]);
        let shifted = graph.node("Add", "relative_bias.shifted", &[&keys, &offset]);
        let columns = graph.node("Sub", "relative_bias.columns", &[&shifted, &queries]);
        graph.node_with("Gather", "relative_bias", &[&table, &columns], vec![int("axis", 1)])
    }

    fn layer(&mut self, name: &str, encoder: &Encoder, layer: &Layer, states: &str, bias: Option<&str>) -> Value {
        let named = |part: &str| format!("{name}.{part}");
        let context = self.attention(name, encoder, &layer.query_key_value, states, bias);
        let attention = self.linear(&named("attention.output"), &layer.attention_output, &context);
        let sum = self.graph.node("Add", &named("attention.sum"), &[&attention, states]);
        let states = self.norm(&named("attention.norm"), &layer.attention_norm, encoder.layer_norm_epsilon, &sum);
        let intermediate = self.linear(&named("intermediate"), &layer.intermediate, &states);
        let activated = self.gelu(&named("gelu"), &intermediate);
        let output = self.linear(&named("output"), &layer.output, &activated);
        let sum = self.graph.node("Add", &named("output.sum"), &[&output, &states]);
        self.norm(&named("output.norm"), &layer.output_norm, encoder.layer_norm_epsilon, &sum)
    }

    /// Context vectors `[tokens, hidden_size]`, heads side by side.
    fn attention(
        &mut self,
        name: &str,
        encoder: &Encoder,
        query_key_value: &Linear,
        states: &str,
        bias: Option<&str>,
    ) -> Value {
        let named = |part: &str| format!("{name}.attention.{part}");
        let hidden = encoder.hidden_size() as i64;
        let heads = encoder.heads as i64;
        let all = self.linear(&named("query_key_value"), query_key_value, states);
        let graph = &mut self.graph;
        let parts = graph.integers("attention.split", &[3], &[hidden; 3]);
        let outputs = ["query.flat", "key.flat", "value.flat"].map(named);
        let outputs = [outputs[0].as_str(), outputs[1].as_str(), outputs[2].as_str()];
        graph.node_of_many("Split", &named("split"), &[&all, &parts], &outputs, vec![int("axis", 1)]);

        let by_head = graph.integers("attention.by_head", &[3], &[0, heads, hidden / heads]);
        let joined = graph.integers("attention.joined", &[2], &[0, hidden]);
        // Queries and keys are rounded head by head, values dimension by dimension.
        let value = match self.precision {
            Precision::F32 => outputs[2].into(),
            Precision::Int8 => self.round(outputs[2], outputs[2], 0),
        };
        let mut heads_of = |part: &str, flat: &str, order: [i64; 3]| {
            let mut rows = self.graph.node("Reshape", &named(&format!("{part}.rows")), &[flat, &by_head]);
            if self.precision == Precision::Int8 && part != "value" {
                rows = self.round(&named(part), &rows, 2);
            }
            self.graph.node_with("Transpose", &named(part), &[&rows], vec![ints("perm", &order)])
        };
        let query = heads_of("query", outputs[0], [1, 0, 2]);
        let key = heads_of("key", outputs[1], [1, 2, 0]);
        let value = heads_of("value", &value, [1, 0, 2]);
        let graph = &mut self.graph;
        let mut scores = graph.node("MatMul", &named("scores"), &[&query, &key]);
        if let Some(bias) = bias {
            scores = graph.node("Add", &named("biased_scores"), &[&scores, bias]);
        }
        let weights = match self.precision {
            Precision::F32 => graph.node_with("Softmax", &named("weights"), &[&scores], vec![int("axis", -1)]),
            Precision::Int8 => self.rounded_softmax(&named("weights"), &scores),
        };
        let graph = &mut self.graph;
        let context = graph.node("MatMul", &named("context.heads"), &[&weights, &value]);
        let rows = graph.node_with("Transpose", &named("context.rows"), &[&context], vec![ints("perm", &[1, 0, 2])]);
        graph.node("Reshape", &named("context"), &[&rows, &joined])
    }

    fn linear(&mut self, name: &str, linear: &Linear, states: &str) -> Value {
        let (outputs, inputs) = (linear.weight.rows, linear.weight.columns);
        let named = |part: &str| format!("{name}.{part}");
        let bias = self.graph.floats(&named("bias"), &[outputs], &linear.bias);
        let product = match self.precision {
            Precision::F32 => {
                let weight = transposed(&linear.weight.values, outputs, inputs);
                let weight = self.graph.floats(&named("weight"), &[inputs, outputs], &weight);
                self.graph.node("MatMul", &named("product"), &[states, &weight])
            }
            Precision::Int8 => {
                let quantized = quantize_rows(&linear.weight);
                let weight = transposed(&quantized.integers, outputs, inputs);
                let weight = self.graph.bytes(&named("weight"), &[inputs, outputs], &weight);
                let scales = self.graph.floats(&named("scales"), &[outputs], &quantized.scales);
                let (integers, scale) = self.quantize(name, states);
                let product = self.graph.node("MatMulInteger", &named("integer_product"), &[&integers, &weight]);
                let by_token = self.dequantize(&named("by_token"), &product, &scale);
                self.graph.node("Mul", &named("product"), &[&by_token, &scales])
            }
        };
        self.graph.node("Add", name, &[&product, &bias])
    }

    /// int8 `[tokens, width]` and their scales `[tokens, 1]`, one a token.
    fn quantize(&mut self, name: &str, states: &str) -> (Value, Value) {
        let (rounded, scale) = self.round_along(&format!("{name}.input"), states, 1);
        let integers = self.graph.node_with("Cast", &format!("{name}.input.integers"), &[&rounded], vec![to_int8()]);
        (integers, scale)
    }

    /// Values rounded along an axis, each a whole number times the axis' scale.
    fn round(&mut self, name: &str, values: &str, axis: i64) -> Value {
        let (rounded, scale) = self.round_along(name, values, axis);
        self.graph.node("Mul", &format!("{name}.dequantized"), &[&rounded, &scale])
    }

    /// `p / sum p` with `p = round(4095 exp(score - largest))`, over the last axis.
    fn rounded_softmax(&mut self, name: &str, scores: &str) -> Value {
        let named = |part: &str| format!("{name}.{part}");
        let graph = &mut self.graph;
        let levels = graph.floats("attention.levels", &[], &[LEVELS]);
        let last = graph.integers("axis.2", &[1], &[2]);
        let reduce = vec![ints("axes", &[2]), int("keepdims", 1)];
        let largest = graph.node_with("ReduceMax", &named("largest"), &[scores], reduce);
        let shifted = graph.node("Sub", &named("shifted"), &[scores, &largest]);
        let exponentials = graph.node("Exp", &named("exponentials"), &[&shifted]);
        let scaled = graph.node("Mul", &named("scaled"), &[&exponentials, &levels]);
        let rounded = graph.node("Round", &named("rounded"), &[&scaled]);
        let sum = graph.node_with("ReduceSum", &named("sum"), &[&rounded, &last], vec![int("keepdims", 1)]);
        graph.node("Div", name, &[&rounded, &sum])
    }

    /// Values rounded to whole numbers from -127 to 127, and their scale, which is one along an axis.
    fn round_along(&mut self, name: &str, states: &str, axis: i64) -> (Value, Value) {
        let named = |part: &str| format!("{name}.{part}");
        let graph = &mut self.graph;
        let tiny = graph.floats("quantize.tiny", &[], &[TINY]);
        let largest = graph.floats("quantize.largest", &[], &[127.0]);
        let magnitudes = graph.node("Abs", &named("magnitudes"), &[states]);
        let reduce = vec![ints("axes", &[axis]), int("keepdims", 1)];
        let row_max = graph.node_with("ReduceMax", &named("row_max"), &[&magnitudes], reduce);
        let row_max = graph.node("Max", &named("bounded_row_max"), &[&row_max, &tiny]);
        let inverse = graph.node("Div", &named("inverse_scale"), &[&largest, &row_max]);
        let scale = graph.node("Div", &named("scale"), &[&row_max, &largest]);
        let scaled = graph.node("Mul", &named("scaled"), &[states, &inverse]);
        let rounded = graph.node("Round", &named("rounded"), &[&scaled]);
        (rounded, scale)
    }

    fn norm(&mut self, name: &str, norm: &Norm, epsilon: f32, states: &str) -> Value {
        let size = norm.weight.len();
        let weight = self.graph.floats(&format!("{name}.weight"), &[size], &norm.weight);
        let bias = self.graph.floats(&format!("{name}.bias"), &[size], &norm.bias);
        let attributes = vec![int("axis", -1), float("epsilon", epsilon)];
        self.graph.node_with("LayerNormalization", name, &[states, &weight, &bias], attributes)
    }

    /// `x / 2 * (1 + erf(x / sqrt(2)))`.
    fn gelu(&mut self, name: &str, states: &str) -> Value {
        let named = |part: &str| format!("{name}.{part}");
        let graph = &mut self.graph;
        let root = graph.floats("gelu.inverse_root", &[], &[std::f32::consts::FRAC_1_SQRT_2]);
        let (one, half) = (graph.floats("gelu.one", &[], &[1.0]), graph.floats("gelu.half", &[], &[0.5]));
        let scaled = graph.node("Mul", &named("scaled"), &[states, &root]);
        let erf = graph.node("Erf", &named("erf"), &[&scaled]);
        let gate = graph.node("Add", &named("gate"), &[&erf, &one]);
        let product = graph.node("Mul", &named("product"), &[states, &gate]);
        graph.node("Mul", name, &[&product, &half])
    }

    /// Mean state of each sentence, one linear layer, and the document's logits.
    fn head(&mut self, student: &Student, states: &str) {
        let sentences = student.card.max_sentences as usize;
        let numbers: Vec<i64> = (0..sentences as i64).collect();
        let graph = &mut self.graph;
        let numbers = graph.integers("head.numbers", &[sentences, 1], &numbers);
        let member = graph.node("Equal", "head.member", &[&numbers, "sentence_ids"]);
        let member = graph.node_with("Cast", "head.members", &[&member], vec![to_float()]);
        let second = graph.integers("axis.1", &[1], &[1]);
        let counts = graph.node_with("ReduceSum", "head.counts", &[&member, &second], vec![int("keepdims", 1)]);
        let sums = graph.node("MatMul", "head.sums", &[&member, states]);

        let logits = self.classify("head.sentence", student, &sums, &counts);
        let graph = &mut self.graph;
        let (zero, absent) = (graph.floats("head.zero", &[], &[0.0]), graph.floats("head.absent", &[], &[ABSENT]));
        let present = graph.node("Greater", "head.present", &[&counts, &zero]);
        let logits = graph.node("Where", "head.logits", &[&present, &logits, &absent]);
        let first = graph.integers("axis.0", &[1], &[0]);
        graph.node("Unsqueeze", "sentence_logits", &[&logits, &first]);

        match student.card.head {
            Head::Mean => {
                let total = |graph: &mut GraphBuilder, name: &str, values: &str| {
                    graph.node_with("ReduceSum", name, &[values, &first], vec![int("keepdims", 1)])
                };
                let sum = total(graph, "head.document.sum", &sums);
                let count = total(graph, "head.document.count", &counts);
                let logits = self.classify("head.document", student, &sum, &count);
                self.graph.node("Identity", "document_logits", &[&logits]);
            }
            // Sentence evidence; a head that is not known never becomes a `Student`.
            _ => self.log_sum_exp(student, &logits),
        }
    }

    /// Linear layer over `sums / max(counts, 1)`.
    fn classify(&mut self, name: &str, student: &Student, sums: &str, counts: &str) -> Value {
        let linear = &student.classifier.linear;
        let (outputs, inputs) = (linear.weight.rows, linear.weight.columns);
        let graph = &mut self.graph;
        let weight = transposed(&linear.weight.values, outputs, inputs);
        let weight = graph.floats("head.weight", &[inputs, outputs], &weight);
        let bias = graph.floats("head.bias", &[outputs], &linear.bias);
        let one = graph.floats("head.one", &[], &[1.0]);
        let counts = graph.node("Max", &format!("{name}.divisors"), &[counts, &one]);
        let means = graph.node("Div", &format!("{name}.means"), &[sums, &counts]);
        let product = graph.node("MatMul", &format!("{name}.product"), &[&means, &weight]);
        graph.node("Add", &format!("{name}.classified"), &[&product, &bias])
    }

    /// Log-sum-exp over the sentences, shifted by the largest so that no exponential overflows, plus the document bias.
    fn log_sum_exp(&mut self, student: &Student, logits: &str) {
        let graph = &mut self.graph;
        let first = graph.integers("axis.0", &[1], &[0]);
        let reduce = vec![ints("axes", &[0]), int("keepdims", 1)];
        let largest = graph.node_with("ReduceMax", "head.largest", &[logits], reduce);
        let shifted = graph.node("Sub", "head.shifted", &[logits, &largest]);
        let exponentials = graph.node("Exp", "head.exponentials", &[&shifted]);
        let sum = graph.node_with("ReduceSum", "head.sum", &[&exponentials, &first], vec![int("keepdims", 1)]);
        let log = graph.node("Log", "head.log", &[&sum]);
        let evidence = graph.node("Add", "head.evidence", &[&log, &largest]);
        let bias = student.classifier.document_bias.as_deref().unwrap_or_default();
        let bias = graph.floats("head.document_bias", &[bias.len()], bias);
        graph.node("Add", "document_logits", &[&evidence, &bias]);
    }
}

/// Lower bound of a row's largest magnitude, so that a row of zeros has a finite inverse scale.
const TINY: f32 = 1e-30;

/// The largest rounded attention weight: with values of at most 127, the sums over [`kdh_format::MAX_TOKENS`] tokens are below
/// 2^31.
const LEVELS: f32 = 4095.0;

fn transposed<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}
