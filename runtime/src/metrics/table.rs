use core::fmt;

use super::Metrics;

/// The averages and then one line a label, in columns.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { documents, support, predicted, .. } = self;
        let width =
            self.per_label.iter().map(|label| label.code.chars().count()).max().unwrap_or(0).max("weighted".len());

        writeln!(f, "{documents} documents, {} labels, {support} true, {predicted} predicted\n", self.per_label.len())?;
        writeln!(f, "{:width$}      F1  precision  recall   AUROC   AUPRC", "")?;
        let averages = [
            ("micro", self.micro_f1, self.micro_precision, self.micro_recall, self.micro_auroc, self.micro_auprc),
            ("macro", self.macro_f1, self.macro_precision, self.macro_recall, self.macro_auroc, self.macro_auprc),
            ("weighted", self.weighted_f1, self.weighted_precision, self.weighted_recall, None, None),
            ("samples", self.samples_f1, self.samples_precision, self.samples_recall, None, None),
        ];
        for (name, f1, precision, recall, auroc, auprc) in averages {
            writeln!(f, "{name:width$}  {f1:.4}     {precision:.4}  {recall:.4}  {}  {}", Score(auroc), Score(auprc))?;
        }
        writeln!(f, "\nHamming loss {:.4}, subset accuracy {:.4}\n", self.hamming_loss, self.subset_accuracy)?;

        write!(f, "{:width$}      F1  precision  recall   AUROC   AUPRC  support  predicted  threshold", "label")?;
        for label in &self.per_label {
            write!(
                f,
                "\n{:width$}  {:.4}     {:.4}  {:.4}  {}  {}  {:7}  {:9}     {:.4}",
                label.code,
                label.f1,
                label.precision,
                label.recall,
                Score(label.auroc),
                Score(label.auprc),
                label.support,
                label.predicted,
                label.threshold,
            )?;
        }
        Ok(())
    }
}

struct Score(Option<f64>);

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(score) => write!(f, "{score:.4}"),
            None => f.write_str("     –"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::metrics::evaluate;

    #[test]
    fn columns_stand_under_their_titles() {
        let truth = [true, false, true, false];
        let metrics = evaluate(&["growth", "rare"], &truth, &[0.9, 0.4, 0.2, 0.1], &[0.5, 0.25]).unwrap();
        let expected = "\
2 documents, 2 labels, 2 true, 2 predicted

              F1  precision  recall   AUROC   AUPRC
micro     0.5000     0.5000  0.5000  0.7500  0.8333
macro     0.3333     0.5000  0.2500       –  1.0000
weighted  0.6667     1.0000  0.5000       –       –
samples   0.3333     0.2500  0.5000       –       –

Hamming loss 0.5000, subset accuracy 0.0000

label         F1  precision  recall   AUROC   AUPRC  support  predicted  threshold
growth    0.6667     1.0000  0.5000       –  1.0000        2          1     0.5000
rare      0.0000     0.0000  0.0000       –       –        0          1     0.2500";
        assert_eq!(metrics.to_string(), expected);
    }
}
