//! The page of `kdh eval --html`: what a table of scores hides. It holds ids, never text.

use std::fmt::Write;

use anyhow::Result;

use super::charts::{self, Line};
use crate::html::{self, escaped};

/// What was measured, document by document.
pub(super) struct Measured<'m> {
    pub(super) codes: &'m [&'m str],
    pub(super) thresholds: &'m [f32],
    pub(super) ids: &'m [String],
    /// `[documents, codes]`, row by row.
    pub(super) truth: &'m [bool],
    /// `[documents, codes]`, row by row.
    pub(super) probabilities: &'m [f32],
    /// Milliseconds of each text.
    pub(super) total_ms: &'m [f64],
}

/// The page. `table` is what the terminal shows.
pub(super) fn page(measured: &Measured<'_>, table: &str) -> Result<String> {
    let mut body = format!("<pre>{}</pre>\n<h2>Precision and recall of each label</h2>\n", escaped(table));
    body.push_str(&charts::lines(("recall", "precision"), false, &measured.each(precision_recall))?);
    body.push_str(
        "<h2>Calibration</h2>\n<p>Share of texts that have the label among those that get a probability near x, in bins of \
         a tenth. On the diagonal a probability is what it says.</p>\n",
    );
    let mut calibration = measured.each(reliability);
    calibration.push(Line { name: "all labels".into(), points: reliability(&measured.pairs(None)) });
    body.push_str(&charts::lines(("probability", "share that has the label"), true, &calibration)?);
    body.push_str(
        "<h2>What is said for what</h2>\n<p>Row: a label that the text has. Column: a label that is given. Off the diagonal: \
         texts that get the column's label without having it, beside the row's. Last column: texts with the row's label \
         that do not get it.</p>\n",
    );
    body.push_str(&measured.confusion());
    body.push_str("<h2>Time of a text</h2>\n");
    body.push_str(&charts::histogram("milliseconds", measured.total_ms)?);
    body.push_str("<h2>Worst errors</h2>\n<p>Wrong decisions, the most certain first.</p>\n");
    body.push_str(&measured.worst());
    Ok(html::page("kdh eval", STYLE, &body))
}

const STYLE: &str =
    ".confusion td{text-align:right}.confusion .wrong{background:#ffd6d6}.confusion .right{background:#d9efd9}";

/// Points of texts that have a label or not and got a probability.
type Curve = fn(&[(bool, f32)]) -> Vec<(f64, f64)>;

/// Wrong decisions that the page names.
const WORST: usize = 40;

impl Measured<'_> {
    /// Whether each text has the label, and its probability; of all labels without one.
    fn pairs(&self, label: Option<usize>) -> Vec<(bool, f32)> {
        let pairs = self.truth.iter().copied().zip(self.probabilities.iter().copied());
        let labels = self.codes.len().max(1);
        pairs
            .enumerate()
            .filter(|(at, _)| label.is_none_or(|label| at % labels == label))
            .map(|(_, pair)| pair)
            .collect()
    }

    fn each(&self, curve: Curve) -> Vec<Line> {
        let line =
            |(label, code): (usize, &&str)| Line { name: (*code).into(), points: curve(&self.pairs(Some(label))) };
        self.codes.iter().enumerate().map(line).collect()
    }

    fn rows(&self) -> impl Iterator<Item = (&[bool], &[f32])> {
        let labels = self.codes.len().max(1);
        self.truth.chunks_exact(labels).zip(self.probabilities.chunks_exact(labels))
    }

    fn confusion(&self) -> String {
        let labels = self.codes.len();
        let mut counts = vec![vec![0_usize; labels + 1]; labels];
        for (truth, probabilities) in self.rows() {
            let given: Vec<bool> = probabilities.iter().zip(self.thresholds).map(|(p, t)| p >= t).collect();
            for (row, counts) in counts.iter_mut().enumerate().filter(|(row, _)| truth[*row]) {
                for (column, count) in counts.iter_mut().enumerate() {
                    *count += usize::from(match given.get(column) {
                        Some(&given) => given && (column == row || !truth[column]),
                        None => !given[row],
                    });
                }
            }
        }
        let mut table = String::from("<table class=\"confusion\">\n<tr><th></th>");
        let heads = self.codes.iter().copied().chain(["missed"]);
        heads.for_each(|code| table.push_str(&format!("<th>{}</th>", escaped(code))));
        table.push_str("</tr>\n");
        for (row, (code, counts)) in self.codes.iter().zip(&counts).enumerate() {
            let _ = write!(table, "<tr><th>{}</th>", escaped(code));
            for (column, &count) in counts.iter().enumerate() {
                let class = match (count, column == row) {
                    (0, _) => "",
                    (_, true) => " class=\"right\"",
                    (_, false) => " class=\"wrong\"",
                };
                let _ = write!(table, "<td{class}>{count}</td>");
            }
            table.push_str("</tr>\n");
        }
        table + "</table>\n"
    }

    fn worst(&self) -> String {
        let mut wrong = Vec::new();
        for (id, (truth, probabilities)) in self.ids.iter().zip(self.rows()) {
            for (label, code) in self.codes.iter().enumerate() {
                let (has, probability, threshold) = (truth[label], probabilities[label], self.thresholds[label]);
                if has != (probability >= threshold) {
                    let certainty = if has { 1.0 - probability } else { probability };
                    wrong.push((certainty, id, code, has, probability));
                }
            }
        }
        wrong.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut table = format!("<p>{} wrong decisions in all.</p>\n", wrong.len());
        table.push_str(
            "<table>\n<tr><th>id</th><th>label</th><th>the text</th><th class=\"number\">probability</th></tr>\n",
        );
        for (_, id, code, has, probability) in wrong.into_iter().take(WORST) {
            let _ = writeln!(
                table,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"number\">{probability:.3}</td></tr>",
                escaped(id),
                escaped(code),
                if has { "has it" } else { "does not have it" }
            );
        }
        table + "</table>\n"
    }
}

/// Recall and precision at every probability, from the highest on.
fn precision_recall(pairs: &[(bool, f32)]) -> Vec<(f64, f64)> {
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
    let all = sorted.iter().filter(|(has, _)| *has).count();
    let mut hits = 0_usize;
    let mut points = Vec::new();
    for (index, (has, probability)) in sorted.iter().enumerate() {
        hits += usize::from(*has);
        // Equal probabilities are given together.
        let last = sorted.get(index + 1).is_none_or(|next| next.1 != *probability);
        if last && all > 0 && hits > 0 {
            points.push((hits as f64 / all as f64, hits as f64 / (index + 1) as f64));
        }
    }
    points
}

/// Mean probability and share that has the label, in bins of a tenth with at least one text.
fn reliability(pairs: &[(bool, f32)]) -> Vec<(f64, f64)> {
    const BINS: usize = 10;
    let mut bins = [(0_usize, 0.0_f64, 0_usize); BINS];
    for &(has, probability) in pairs {
        let bin = ((probability * BINS as f32) as usize).min(BINS - 1);
        if let Some((count, sum, hits)) = bins.get_mut(bin) {
            *count += 1;
            *sum += f64::from(probability);
            *hits += usize::from(has);
        }
    }
    let used = bins.iter().filter(|(count, _, _)| *count > 0);
    used.map(|&(count, sum, hits)| (sum / count as f64, hits as f64 / count as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_by_hand() {
        let pairs = [(true, 0.9), (false, 0.8), (true, 0.8), (false, 0.05), (true, 0.3)];
        assert_eq!(precision_recall(&pairs), [(1.0 / 3.0, 1.0), (2.0 / 3.0, 2.0 / 3.0), (1.0, 0.75), (1.0, 0.6)]);
        let bins = reliability(&pairs);
        assert_eq!(bins.iter().map(|bin| bin.1).collect::<Vec<f64>>(), [0.0, 1.0, 0.5, 1.0]);
        assert!((bins[2].0 - 0.8).abs() < 1e-6);
        assert!(precision_recall(&[(false, 0.5)]).is_empty() && reliability(&[]).is_empty());
    }

    #[test]
    fn confusion_and_errors_by_hand() {
        let ids = ["<1>", "2", "3"].map(String::from);
        let measured = Measured {
            codes: &["A", "B"],
            thresholds: &[0.5, 0.5],
            ids: &ids,
            truth: &[true, false, true, true, false, false],
            probabilities: &[0.9, 0.7, 0.1, 0.6, 0.95, 0.2],
            total_ms: &[1.0, 2.0, 3.0],
        };
        let confusion = measured.confusion();
        // A: given once, B without being there once, missed once. B: given once.
        assert!(
            confusion
                .contains("<th>A</th><td class=\"right\">1</td><td class=\"wrong\">1</td><td class=\"wrong\">1</td>")
        );
        assert!(confusion.contains("<th>B</th><td>0</td><td class=\"right\">1</td><td>0</td>"), "{confusion}");
        let worst = measured.worst();
        let order: Vec<usize> =
            ["<td>3</td>", "<td>2</td>", "<td>&lt;1&gt;</td>"].map(|id| worst.find(id).unwrap()).into();
        assert!(order.is_sorted() && worst.contains("3 wrong decisions"), "{worst}");
        let page = page(&measured, "table < 1").unwrap();
        assert_eq!(page.matches("<svg").count(), 3);
        assert!(page.contains("table &lt; 1") && !page.contains("<1>"));
        // Nothing of a bundle or of data becomes markup, in pictures neither.
        let hostile = super::page(&Measured { codes: &["<b>", "B&\"'"], ..measured }, "").unwrap();
        assert!(!hostile.contains("<b>") && !hostile.contains("B&\""), "{hostile}");
    }
}
