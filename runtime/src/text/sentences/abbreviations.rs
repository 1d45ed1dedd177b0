use core::cmp::Ordering;

/// An abbreviation, by what may follow its full stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Abbreviation {
    /// It needs what follows: it never ends a sentence.
    Binding,
    /// It ends a sentence when a capital follows.
    Loose,
}

/// What `word`, without its full stop and in any case of letters, abbreviates.
pub(super) fn abbreviation(word: &str) -> Option<Abbreviation> {
    let lower = |byte: u8| byte.to_ascii_lowercase();
    if contains(&BINDING, word, lower) {
        Some(Abbreviation::Binding)
    } else if contains(&LOOSE, word, lower) {
        Some(Abbreviation::Loose)
    } else {
        None
    }
}

/// Whether `word`, with its capital, is one that sentences start with and names do not.
pub(super) fn starts_sentences(word: &str) -> bool {
    contains(&STARTERS, word, |byte| byte)
}

fn contains(list: &[&str], word: &str, fold: impl Fn(u8) -> u8) -> bool {
    list.binary_search_by(|entry| -> Ordering { entry.bytes().cmp(word.bytes().map(&fold)) }).is_ok()
}

/// Titles, references, comparisons. Sorted.
static BINDING: [&str; 35] = [
    "approx", "ca", "capt", "cf", "chap", "dr", "drs", "e.g", "eq", "eqn", "eqns", "eqs", "fig", "figs", "gen", "gov",
    "hon", "i.e", "incl", "lt", "messrs", "mr", "mrs", "ms", "mt", "mx", "prof", "profs", "ref", "refs", "rev", "sgt",
    "st", "viz", "vs",
];

/// Units, dates, drug forms, shorthand of notes. Sorted.
static LOOSE: [&str; 114] = [
    "abd", "al", "amp", "apr", "apt", "aug", "av", "ave", "avg", "bid", "bldg", "blvd", "cap", "caps", "cm", "co",
    "conc", "cont", "corp", "dec", "dept", "dil", "dis", "disp", "dx", "ed", "eds", "est", "etc", "ext", "feb", "fri",
    "ft", "fx", "gtt", "hr", "hrs", "ht", "hx", "inc", "inj", "jan", "jr", "jul", "jun", "kg", "lb", "lbs", "ltd",
    "mar", "max", "mg", "min", "mins", "ml", "mo", "mon", "mos", "nat", "neg", "no", "nos", "nov", "obs", "oct", "oz",
    "p", "pg", "pos", "pp", "prn", "pt", "pts", "qty", "resp", "rx", "sat", "sec", "secs", "sep", "sept", "sig", "sol",
    "soln", "sp", "spec", "spp", "sr", "ssp", "subsp", "sun", "supp", "susp", "sx", "tab", "tabs", "tbl", "temp",
    "thu", "thur", "thurs", "tue", "tues", "tx", "univ", "var", "vol", "vols", "wed", "wk", "wks", "wt", "yr", "yrs",
];

/// Sorted.
static STARTERS: [&str; 121] = [
    "A",
    "After",
    "Again",
    "All",
    "Also",
    "Although",
    "Among",
    "An",
    "And",
    "Another",
    "As",
    "At",
    "Because",
    "Both",
    "But",
    "By",
    "Clinically",
    "Compared",
    "Conclusion",
    "Conclusions",
    "Consequently",
    "Data",
    "Denies",
    "Despite",
    "Discussion",
    "Due",
    "During",
    "Each",
    "Finally",
    "First",
    "For",
    "From",
    "Further",
    "Furthermore",
    "He",
    "Hence",
    "Her",
    "Here",
    "His",
    "How",
    "However",
    "I",
    "If",
    "In",
    "Interestingly",
    "Introduction",
    "Is",
    "It",
    "Its",
    "Many",
    "Methods",
    "Moreover",
    "Most",
    "My",
    "Nevertheless",
    "No",
    "None",
    "Not",
    "Notably",
    "Now",
    "Objective",
    "Objectives",
    "Of",
    "On",
    "One",
    "Only",
    "Other",
    "Our",
    "Overall",
    "Patient",
    "Patients",
    "Purpose",
    "Recent",
    "Recently",
    "Results",
    "Second",
    "She",
    "Significant",
    "Similarly",
    "Since",
    "So",
    "Some",
    "Studies",
    "Subsequently",
    "Such",
    "Taken",
    "That",
    "The",
    "Their",
    "Then",
    "There",
    "Therefore",
    "These",
    "They",
    "Third",
    "This",
    "Those",
    "Three",
    "Thus",
    "To",
    "Together",
    "Two",
    "Under",
    "Unlike",
    "Until",
    "Use",
    "Using",
    "Was",
    "We",
    "Were",
    "What",
    "When",
    "Where",
    "Whereas",
    "Whether",
    "Which",
    "While",
    "With",
    "Within",
    "You",
    "Your",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted() {
        assert!(BINDING.is_sorted() && LOOSE.is_sorted() && STARTERS.is_sorted());
    }

    #[test]
    fn letters_of_any_case_match_where_it_does_not_matter() {
        assert_eq!(abbreviation("FIG"), Some(Abbreviation::Binding));
        assert_eq!(abbreviation("Wt"), Some(Abbreviation::Loose));
        assert_eq!(abbreviation("cells"), None);
        assert!(starts_sentences("The") && !starts_sentences("the"));
    }
}
