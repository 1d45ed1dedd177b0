use core::iter::FusedIterator;
use core::ops::Range;

use super::unicode::{Class, Entry};
use abbreviations::{Abbreviation, abbreviation, starts_sentences};

mod abbreviations;

/// The sentences of a text, as byte ranges without the white space around them: in order, apart, and together all of the
/// text that is not white space.
///
/// Rules, not a model. A full stop, `?`, `!`, or one of their like in another script ends a sentence together with the
/// closing quotes and brackets behind it, unless the word before it is an abbreviation, an initial or the number of a
/// list item, or what follows goes on with the sentence. A blank line ends one; so does a line break before a list item
/// or a heading, after a heading, and after a short line when the next begins with a capital or a digit, as in clinical
/// notes; the line breaks of a wrapped paragraph do not. Tokenised text, with spaces before its full stops, is fine. The
/// abbreviations are English; terminators, brackets and letters are those of any script.
///
/// A sentence begins after white space or after a full-width terminator, both of which separate words, so the tokens of
/// the sentences are the tokens of the text.
///
/// Allocates nothing; linear in the length of the text.
#[derive(Clone)]
pub struct Sentences<'t> {
    text: &'t str,
    /// Where the next sentence is looked for.
    at: usize,
    /// Where the line of `at` begins.
    line: usize,
    /// Bytes of the first line that are in front of `text`.
    line_before: usize,
}

impl<'t> Sentences<'t> {
    /// The sentences of `text`.
    pub fn new(text: &'t str) -> Self {
        Self::after(text, 0)
    }

    /// The sentences of a text from where a sentence may begin, `line_before` bytes into a line, to the end of `text`.
    pub(crate) fn after(text: &'t str, line_before: usize) -> Self {
        Self { text, at: 0, line: 0, line_before }
    }

    /// Passes over white space, and says where the next sentence begins and how many bytes of its line are in front of it.
    pub(crate) fn skip_space(&mut self) -> (usize, usize) {
        let space = self.space(self.at);
        if space.breaks > 0 {
            self.line = space.line;
        }
        self.at = space.end;
        (self.at, self.line_len(self.at))
    }

    /// Where the search for the next sentence begins: at the end of the last one.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Ends the sentence at hand at `at`, a place in it.
    pub(crate) fn cut(&mut self, at: usize) {
        self.at = at;
        if self.line > at {
            let text = self.text.get(..at).unwrap_or_default();
            let last = text.char_indices().rev().find(|&(_, c)| matches!(c, '\n' | '\r' | '\u{2028}' | '\u{2029}'));
            self.line = last.map_or(0, |(at, c)| at + c.len_utf8());
        }
    }

    /// Bytes of the line between its begin and `at`.
    fn line_len(&self, at: usize) -> usize {
        at - self.line + if self.line == 0 { self.line_before } else { 0 }
    }
}

impl Iterator for Sentences<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let (start, _) = self.skip_space();
        self.at = self.text.len();
        if start == self.text.len() {
            return None;
        }
        let mut at = start;
        // Whether a straight quote is open.
        let mut quoted = false;
        while let Some(found) = self.text.as_bytes()[at..].iter().position(|&byte| MAY_END[usize::from(byte)]) {
            at += found;
            let Some(c) = self.char_at(at) else { break };
            if is_terminator(c) {
                let run = self.terminators(at, quoted);
                if self.run_ends_sentence(start, &run) {
                    self.at = run.end;
                    break;
                }
                quoted ^= run.quotes;
                at = run.end;
            } else if is_space(c) {
                let space = self.space(at);
                if space.breaks > 0 {
                    if self.line_ends_sentence(at, &space) {
                        self.at = at;
                        break;
                    }
                    self.line = space.line;
                }
                at = space.end;
            } else {
                quoted ^= c == '"';
                at += c.len_utf8();
            }
        }
        Some(start..start + self.text[start..self.at].trim_end_matches(is_space).len())
    }
}

impl FusedIterator for Sentences<'_> {}

/// First bytes of what may end a sentence or matters to that: terminators, line breaks, straight quotes.
static MAY_END: [bool; 256] = {
    let mut table = [false; 256];
    let first = *b".?!\"\n\r\xD6\xD8\xDB\xDC\xE0\xE1\xE2\xE3\xEF";
    let mut at = 0;
    while at < first.len() {
        table[first[at] as usize] = true;
        at += 1;
    }
    table
};

/// White space.
struct Space {
    end: usize,
    /// Line breaks in it.
    breaks: usize,
    /// Where the line of `end` begins.
    line: usize,
}

/// Terminators and what closes quotes and brackets behind them.
struct Run {
    /// Where the terminators begin.
    start: usize,
    end: usize,
    /// Whether all terminators are full stops.
    stops: bool,
    /// Whether a full-width terminator is among them, which needs no white space behind it.
    wide: bool,
    /// Whether quotes or brackets close.
    closes: bool,
    /// Whether an odd number of straight quotes is among those.
    quotes: bool,
}

impl Sentences<'_> {
    fn char_at(&self, at: usize) -> Option<char> {
        self.text[at..].chars().next()
    }

    fn char_before(&self, at: usize) -> Option<char> {
        self.text[..at].chars().next_back()
    }

    /// The white space from `at` on.
    fn space(&self, at: usize) -> Space {
        let mut space = Space { end: at, breaks: 0, line: at };
        while let Some(c) = self.char_at(space.end).filter(|&c| is_space(c)) {
            space.end += c.len_utf8();
            let ends_line = match c {
                '\n' | '\u{2028}' => 1,
                '\r' if self.text.as_bytes().get(space.end) != Some(&b'\n') => 1,
                // A paragraph separator is a blank line.
                '\u{2029}' => 2,
                _ => 0,
            };
            if ends_line > 0 {
                space.breaks += ends_line;
                space.line = space.end;
            }
        }
        space
    }

    /// The terminators from `start` on, with what closes behind them.
    fn terminators(&self, start: usize, quoted: bool) -> Run {
        let mut run = Run { start, end: start, stops: true, wide: false, closes: false, quotes: false };
        while let Some(c) = self.char_at(run.end) {
            if is_terminator(c) {
                run.stops &= c == '.';
                run.wide |= is_wide(c);
            } else if is_closing(c) || is_quote(c) {
                run.closes = true;
                run.quotes ^= c == '"';
            } else if Entry::of(c).class() != Class::Drop {
                break;
            }
            run.end += c.len_utf8();
        }
        // In tokenised text what closes stands apart.
        let mut at = run.end;
        while self.char_at(at) == Some(' ') {
            let c = self.char_at(at + 1);
            let closes = match c {
                Some('"') => quoted ^ run.quotes,
                Some(c) => is_closing(c),
                None => false,
            };
            let Some(c) = c.filter(|_| closes) else { break };
            at += 1 + c.len_utf8();
            if self.char_at(at).is_some_and(|c| !is_space(c) && !is_terminator(c)) {
                break;
            }
            run.closes = true;
            run.quotes ^= c == '"';
            run.end = at;
        }
        run
    }

    /// Whether the sentence from `start` on ends with `run`.
    fn run_ends_sentence(&self, start: usize, run: &Run) -> bool {
        match self.char_at(run.end) {
            None => return true,
            Some(c) if is_space(c) => {}
            // In Japanese a sentence goes on behind a quotation.
            Some(c) => return run.wide && !(run.closes && is_hiragana(c)),
        }
        let space = self.space(run.end);
        let follows = Follows::new(&self.text[space.end..]);
        if run.wide || space.breaks > 1 || space.end == self.text.len() {
            return true;
        }
        if matches!(follows.kind, Kind::Continuation | Kind::Lower) {
            return false;
        }
        if !run.stops || self.text[run.start..run.end].starts_with("..") {
            // Before a digit it may stand for a character that was lost.
            return follows.kind != Kind::Digit;
        }
        self.stop_ends_sentence(start, run, &follows)
    }

    /// Whether a full stop before a capital, a digit or a letter without case ends a sentence.
    fn stop_ends_sentence(&self, start: usize, run: &Run, follows: &Follows<'_>) -> bool {
        let Some(word) = self.word_before(start, run.start) else { return true };
        let first = word.start == start;
        // GC-MS, mg/L, (Ig)E: the end of a compound is no abbreviation.
        let compound =
            !first && self.char_before(word.start).is_some_and(|c| !(is_space(c) || is_opening(c) || is_quote(c)));
        let word = &self.text[word];
        let capital = follows.kind == Kind::Capital && !follows.opened;
        if word.bytes().all(|byte| byte.is_ascii_digit()) {
            // The number of a list item.
            return !(first && word.len() <= 3);
        }
        if compound {
            return true;
        }
        let mut letters = word.chars();
        if let (Some(letter), None) = (letters.next(), letters.next()) {
            // An initial, the genus of a species, the letter of a list item.
            return !first && if letter.is_uppercase() { starts_sentences(follows.word) } else { capital };
        }
        // In capitals it is an acronym, unless all the text is in capitals.
        let acronym = is_upper(word) && !is_upper(follows.word);
        match abbreviation(word).filter(|_| !acronym) {
            Some(Abbreviation::Binding) => false,
            Some(Abbreviation::Loose) => !first && capital,
            None if is_dotted(word) => {
                !first && if word.starts_with(char::is_uppercase) { starts_sentences(follows.word) } else { capital }
            }
            None => true,
        }
    }

    /// The letters, digits and inner full stops before `end`, or nothing if they are many or there are none.
    fn word_before(&self, start: usize, end: usize) -> Option<Range<usize>> {
        const LONGEST: usize = 12;
        let mut at = end;
        for (count, c) in self.text[start..end].chars().rev().enumerate() {
            if !c.is_alphanumeric() && c != '.' {
                break;
            }
            if count == LONGEST {
                return None;
            }
            at -= c.len_utf8();
        }
        (at < end).then_some(at..end)
    }

    /// Whether the line breaks in `space`, which begins at `at`, end the sentence.
    fn line_ends_sentence(&self, at: usize, space: &Space) -> bool {
        let line = self.text[self.line..at].trim_end_matches(is_space);
        let next = &self.text[space.end..];
        space.breaks > 1 || is_list_item(next) || is_heading(next) || line.ends_with(':') || {
            let kind = Follows::new(next).kind;
            self.line_len(self.line + line.len()) < SHORT_LINE && matches!(kind, Kind::Capital | Kind::Digit)
        }
    }
}

/// A line shorter than this, in bytes, was not wrapped.
const SHORT_LINE: usize = 50;

/// What comes after white space.
struct Follows<'t> {
    kind: Kind,
    /// Whether a quote or bracket opens before it.
    opened: bool,
    /// The ASCII letters that it begins with.
    word: &'t str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Punctuation that goes on with a sentence.
    Continuation,
    /// A word in lower case.
    Lower,
    /// A word with a capital, or the name of a gene or compound: `p53`, `mRNA`, `c-myc`.
    Capital,
    Digit,
    /// A letter without case, a symbol.
    Other,
}

impl<'t> Follows<'t> {
    fn new(text: &'t str) -> Self {
        let inner = text.trim_start_matches(|c| is_opening(c) || is_quote(c) || c == ' ');
        let opened = inner.len() < text.len();
        let letters = inner.bytes().take_while(u8::is_ascii_alphabetic).count();
        let kind = match inner.chars().next() {
            None => Kind::Other,
            Some(',' | ';' | ':' | '.' | '?' | '!' | '%' | '/' | '&' | '<' | '>' | '=' | '\u{2026}') => {
                Kind::Continuation
            }
            Some(c) if is_closing(c) => Kind::Continuation,
            Some(c) if c.is_lowercase() && is_name(inner) => Kind::Capital,
            Some(c) if c.is_lowercase() => Kind::Lower,
            Some(c) if c.is_uppercase() => Kind::Capital,
            Some(c) if c.is_numeric() => Kind::Digit,
            Some(_) => Kind::Other,
        };
        Self { kind, opened, word: &inner[..letters] }
    }
}

/// Whether the word that `text` begins with has a capital, a digit or a hyphen behind its first letter.
fn is_name(text: &str) -> bool {
    const LONGEST: usize = 24;
    let mut rest = text.chars().skip(1).take(LONGEST).take_while(|&c| !is_space(c)).peekable();
    rest.peek().is_some_and(|&c| matches!(c, '-' | '\u{2010}' | '\u{2011}'))
        || rest.any(|c| c.is_uppercase() || c.is_numeric())
}

/// Two capitals or more and nothing else.
fn is_upper(word: &str) -> bool {
    word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// `U.S`, `p.o`, `Ph.D`: letters in groups of one or two.
fn is_dotted(word: &str) -> bool {
    word.contains('.')
        && word.split('.').all(|group| matches!(group.chars().count(), 1 | 2) && group.chars().all(char::is_alphabetic))
}

/// A bullet, or a number with a full stop or bracket.
fn is_list_item(line: &str) -> bool {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = line.len() - rest.len();
    let number =
        matches!(digits, 1..=3) && matches!(rest.as_bytes(), [b'.' | b')', space, ..] if space.is_ascii_whitespace());
    number
        || line.starts_with([
            '-', '*', '\u{2022}', '\u{2023}', '\u{25AA}', '\u{25CF}', '\u{25E6}', '\u{2013}', '\u{2043}', '\u{B7}', '#',
        ])
}

/// A line that begins with a few words and a colon, the first with a capital.
fn is_heading(line: &str) -> bool {
    const LONGEST: usize = 40;
    line.starts_with(char::is_uppercase)
        && line
            .chars()
            .take(LONGEST)
            .take_while(|&c| !matches!(c, '\n' | '\r' | '.' | ',' | ';' | '?' | '!'))
            .any(|c| c == ':')
}

/// Whether the character separates words.
pub(crate) fn is_space(c: char) -> bool {
    match c {
        ' ' | '\n' | '\r' | '\t' => true,
        _ if c.is_ascii() => false,
        _ => Entry::of(c).class() == Class::Space,
    }
}

/// Full stops and question and exclamation marks: the property Sentence_Terminal of Unicode, without the rarest scripts.
fn is_terminator(c: char) -> bool {
    match c {
        '.' | '?' | '!' => true,
        _ if c.is_ascii() => false,
        '\u{2026}' | '\u{203C}' | '\u{203D}' | '\u{2047}'..='\u{2049}' => true,
        // Armenian, Arabic, Syriac, Devanagari and its neighbours, Burmese, Ethiopic, Khmer, Mongolian.
        '\u{589}' | '\u{61F}' | '\u{6D4}' | '\u{700}'..='\u{702}' | '\u{964}' | '\u{965}' => true,
        '\u{104A}' | '\u{104B}' | '\u{1362}' | '\u{1367}' | '\u{1368}' | '\u{17D4}' | '\u{17D5}' => true,
        '\u{1803}' | '\u{1809}' => true,
        _ => is_wide(c),
    }
}

/// Terminators of scripts without spaces.
fn is_wide(c: char) -> bool {
    matches!(c, '\u{3002}' | '\u{FF01}' | '\u{FF1F}' | '\u{FF61}')
}

fn is_closing(c: char) -> bool {
    matches!(
        c,
        ')' | ']'
            | '}'
            | '\u{2019}'
            | '\u{201D}'
            | '\u{BB}'
            | '\u{203A}'
            | '\u{3009}'
            | '\u{300B}'
            | '\u{300D}'
            | '\u{300F}'
            | '\u{3011}'
            | '\u{3015}'
            | '\u{FF09}'
            | '\u{FF3D}'
            | '\u{FF5D}'
            | '\u{FF63}'
    )
}

fn is_opening(c: char) -> bool {
    matches!(
        c,
        '(' | '['
            | '{'
            | '\u{2018}'
            | '\u{201C}'
            | '\u{201E}'
            | '\u{AB}'
            | '\u{2039}'
            | '\u{BF}'
            | '\u{A1}'
            | '\u{3008}'
            | '\u{300A}'
            | '\u{300C}'
            | '\u{300E}'
            | '\u{3010}'
            | '\u{FF08}'
            | '\u{FF3B}'
            | '\u{FF5B}'
            | '\u{FF62}'
    )
}

/// A straight quote, which opens and closes.
fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\'')
}

/// Whether the character, behind the end of a sentence, leaves open what follows.
pub(crate) fn is_undecided(c: char) -> bool {
    is_space(c) || is_opening(c) || is_quote(c)
}

fn is_hiragana(c: char) -> bool {
    matches!(c, '\u{3041}'..='\u{3096}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `|` stands where the text must split; white space around it is part of the text.
    #[track_caller]
    fn splits(marked: &str) {
        let text = marked.replace('|', "");
        let expected: Vec<&str> = marked.split('|').map(str::trim).filter(|sentence| !sentence.is_empty()).collect();
        let actual: Vec<&str> = Sentences::new(&text).map(|range| &text[range]).collect();
        assert_eq!(actual, expected);
    }

    #[test]
    fn plain_sentences() {
        splits("The wound healed. |It left a scar! |Did it itch? |No.");
        splits("  Leading and trailing space. | Next one.\t");
        splits("No terminator at the end");
        splits("");
        splits(" \n\t ");
    }

    #[test]
    fn tokenised_sentences() {
        splits("The wound healed . |It left a scar ( Fig. 2 ) . |p53 was mutated . |Vessels grew ( P < 0.05 ) .");
        splits("He called it \" a scar . \" |Then he left .");
        splits("She wrote . . . and stopped .");
    }

    #[test]
    fn abbreviations() {
        splits(
            "Growth slowed (Fig. 3, Ref. 12). |See Smith et al. for details, e.g. Tab. 2, i.e. the means vs. controls.",
        );
        splits("Dr. J. R. Smith saw E. coli in St. Mary hospital. |Prof. Jones agreed.");
        splits(
            "Sample No. 5 held approx. 3 mg. |Mice got 2 mg p.o. b.i.d. for a week. |Rats got 3 mg i.v. |Dogs got none.",
        );
        splits("It was given in the U.S. Army. |They moved to the U.S. |The trial ended there.");
        splits(
            "As Green et al. showed, it grew. |As shown by Green et al. |We repeated it. |Green et al. (2001) did not.",
        );
        splits("It took 5 hrs. |Cells were counted at 5 hrs. after plating, resp. at 7 hrs. after it.");
        splits("Seen by DR. SMITH TODAY. |It was found by GC-MS. |Levels fell to 3 mg/L. |Age mattered.");
        splits("Patients took vitamin C. |The others took vitamin D. |However, none took both.");
    }

    #[test]
    fn numbers() {
        splits("The ratio was 0.05 and 1.5e-3. |15 mice died in 2001. |Three lived.");
        splits("1. Wash the hands. |2. Dry them. |B. Use a towel.");
    }

    #[test]
    fn names_in_lower_case() {
        splits("It was lost. |mRNA fell. |c-myc rose. |p53 stayed. |iPS cells grew.");
        splits("It was e.g. p53 that rose. |It was lost. and found");
    }

    #[test]
    fn quotes_and_brackets() {
        splits("\"It hurts.\" |He left. |(It was late.) |\u{201C}Go!\u{201D} |She went.");
        splits("Is it (really?) so? |\"Is it?\" he asked. |Yes.");
        splits("It rose [see above.] |(Nobody knew.) |Why?! |Well\u{2026} perhaps. |Well... |It fell.");
    }

    #[test]
    fn lines() {
        splits(
            "A paragraph that is wrapped at a width of about seventy columns goes\non here, and It does not end\nbefore its stop. |New\nsentence.",
        );
        splits("HISTORY\n\n|55 yo man\r\n\r\n|Smoker\u{2029}|Drinks");
        splits("Medications:\n|- aspirin 81 mg q.d.\n|- metoprolol 25 mg b.i.d.\n|* none other");
        splits(
            "Plan\n|1) rest\n|2) fluids and a rather long line that is not short at all, to be sure\n|3. follow up in 2 wks.",
        );
        splits(
            "Pt. c/o chest pain x 2 d, worse at night and after meals, relieved by rest and by\n|Allergies: none\n|Temp 37.2\n|BP 120/80",
        );
        splits("He is well\nand goes home");
    }

    #[test]
    fn any_script() {
        splits(
            "\u{60A3}\u{8005}\u{75BC}\u{75DB}\u{3002}|\u{4F53}\u{6E29}\u{6B63}\u{5E38}\u{FF01}|\u{597D}\u{3002}\u{300D}|\u{4ED6}",
        );
        splits("\u{300C}\u{75DB}\u{3044}\u{3002}\u{300D}\u{3068}\u{8A00}\u{3063}\u{305F}\u{3002}");
        splits("\u{647}\u{644}\u{61F} |\u{646}\u{639}\u{645}. |\u{644}\u{627}");
        splits("\u{930}\u{94B}\u{917}\u{940} \u{964} |\u{926}\u{930}\u{94D}\u{926} \u{964}");
        splits(
            "\u{410}. \u{41F}\u{443}\u{448}\u{43A}\u{438}\u{43D} \u{436}\u{438}\u{43B}. |\u{41E}\u{43D} \u{443}\u{43C}\u{435}\u{440}.",
        );
    }

    #[test]
    fn a_zero_width_space_hides_no_boundary() {
        splits("It healed.\u{200B} |It left a scar.\u{FEFF} |Good.");
    }
}
