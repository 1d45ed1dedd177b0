//! Texts whose logits are recorded in every bundle, so that a box can test itself against the exporter.

/// The golden texts: written for this purpose, short, and chosen for what can go wrong between two machines (Unicode
/// classes, sentence ends, unknown words, truncation), not for what a model says of them.
pub fn golden_texts() -> Vec<String> {
    let mut texts: Vec<String> = TEXTS.iter().map(|&text| text.to_owned()).collect();
    // No vocabulary spells a word of more than a hundred characters.
    texts.push(format!("The sequence {} was inserted.", "acgt".repeat(30)));
    // More sentences and tokens than an input takes.
    texts.push("Pulse 72, regular. ".repeat(200));
    texts
}

const TEXTS: [&str; 12] = [
    "Chest pain since this morning, radiating to the left arm. No fever, no cough. The ECG was repeated after an hour.",
    "Tumour cells that had lost p53 kept dividing after DNA damage. Caspase activity fell by half, and apoptosis was \
     rare.",
    "Endothelial sprouting increased when the ligand was added. Blocking its receptor kept the vessels from growing \
     into the graft.",
    "TNF-\u{3b1} and IL-1\u{3b2} rose within 6 h; 10 \u{b5}M of the inhibitor brought both back to baseline (n = 12, \
     p < 0.01).",
    "Dr. Weber saw the pt. at 8.30 a.m., i.e. before breakfast. BP was 142/91 mmHg, approx. 5% above the last visit. \
     SpO2 97 %.",
    "Se\u{f1}ora N\u{fa}\u{f1}ez, 72 a\u{f1}os; caf\u{e9}-au-lait spots. Cafe\u{301} with a combining accent is the \
     same word.",
    "\u{60a3}\u{8005} reports dizziness (\u{982d}\u{6688}) after standing up. \u{8840}\u{538b} was normal.",
    "\u{41f}\u{430}\u{446}\u{438}\u{435}\u{43d}\u{442} \u{441}\u{442}\u{430}\u{431}\u{438}\u{43b}\u{435}\u{43d}. \
     \u{5d4}\u{5d7}\u{5d5}\u{5dc}\u{5d4} \u{5d9}\u{5e6}\u{5d9}\u{5d1}\u{5d4}.",
    "CELLS SHOWED INCREASED GLYCOLYSIS AND LACTATE EXPORT! WAS OXYGEN LOW? IT WAS NOT.",
    "line one\r\nline two\twith a tab\u{a0}and a hard space\u{200b}and a zero-width one\u{7}\n\n- item: 3 \u{d7} 5 mg",
    "The ward was quiet \u{1f642}\u{1f3fd}. \u{201c}Better,\u{201d} she said\u{2026} [reviewed] <ok> {a_b} #7 @9 ~1 \
     ^2 |3 \\4",
    ".",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cover_what_they_are_for() {
        let texts = golden_texts();
        assert!(texts.iter().any(|text| text.split_whitespace().any(|word| word.len() > 100)));
        assert!(texts.iter().any(|text| text.matches(". ").count() > 64));
        assert!(texts.iter().any(|text| text.contains('\u{301}')));
        assert!(texts.iter().all(|text| !text.is_empty() && text.len() < 8192));
    }
}
