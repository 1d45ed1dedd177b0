//! The page of `kdh label --html`: the text, with the sentences that carry each label.

use std::collections::BTreeMap;
use std::fmt::Write;

use kdh_runtime::{LabelReport, Report};

use crate::html::{self, escaped};

/// The page. `facts` are lines for its end.
pub(super) fn page(report: &Report<'_>, text: &str, facts: &str) -> String {
    let given: Vec<&LabelReport<'_>> = report.positive().collect();
    let mut body = String::from(
        "<p class=\"secret\">This page contains the text. Keep it as you keep the text itself, and delete it after the \
         demonstration.</p>\n",
    );
    if !report.abstention.is_empty() {
        let reasons = escaped(&report.abstention.to_string());
        let _ = writeln!(body, "<p class=\"abstains\">The model does not know and gives no label: {reasons}.</p>");
    }
    let calibrated = if report.calibrated { "calibrated" } else { "not calibrated" };
    let point = escaped(report.operating_point);
    let _ = writeln!(body, "<p>Operating point <b>{point}</b>; probabilities {calibrated}.</p>");
    body.push_str(&table(report));
    body.push_str("<h2>Text</h2>\n");
    // Without scripts: the chosen label is the style sheet's affair.
    let mut style = String::from(STYLE);
    let choice = |body: &mut String, id: &str, name: &str, checked: &str| {
        let _ = writeln!(
            body,
            "<input type=\"radio\" name=\"shown\" id=\"{id}\"{checked}><label for=\"{id}\">{}</label>",
            escaped(name)
        );
    };
    choice(&mut body, "all", "all evidence", " checked");
    let _ = write!(style, "#all:checked~.text mark{{background:{}}}", COLORS[0]);
    for (index, label) in given.iter().enumerate() {
        choice(&mut body, &format!("l{index}"), label.code, "");
        let color = COLORS[index % COLORS.len()];
        let _ = write!(style, "#l{index}:checked~.text .l{index}{{background:{color}}}");
    }
    let _ = writeln!(body, "<div class=\"text\" dir=\"auto\">{}</div>", marked(&given, text));
    let _ = writeln!(body, "<pre>{}</pre>", escaped(facts));
    html::page("kdh label", &style, &body)
}

const STYLE: &str = ".abstains{border:2px solid #c1121f;padding:.6em 1em}.secret{background:#c1121f;color:#fff;padding:.6em 1em}\
.text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;border:1px solid #ccc;padding:1em;margin-top:1em}\
mark{background:none;color:inherit;unicode-bidi:isolate}sup{font-size:11px;color:#555}\
.bar{width:160px;height:12px;background:#eee;position:relative}.bar i{position:absolute;left:0;top:0;bottom:0;\
background:#2a6f97}.bar b{position:absolute;top:-3px;bottom:-3px;width:2px;background:#c1121f}.not{color:#777}";

/// Light, so that the text stays readable.
const COLORS: [&str; 8] = ["#ffe08a", "#a8dadc", "#ffc8a2", "#cdeac0", "#d7c9f5", "#f7b2bd", "#b8d8ff", "#e2e2a0"];

/// The labels, the given ones first, with probability and threshold as a number and as a bar.
fn table(report: &Report<'_>) -> String {
    let mut table = String::from(
        "<table>\n<tr><th>label</th><th></th><th></th><th class=\"number\">probability</th><th></th>\
         <th class=\"number\">threshold</th></tr>\n",
    );
    let is_given = |label: &LabelReport<'_>| report.positive().any(|given| given.code == label.code);
    for wanted in [true, false] {
        for label in report.labels.iter().filter(|label| is_given(label) == wanted) {
            let (class, word) = if wanted { ("given", "given") } else { ("not", "not given") };
            let _ = writeln!(
                table,
                "<tr class=\"{class}\"><td>{}</td><td>{}</td><td>{word}</td><td class=\"number\">{:.3}</td><td><div \
                 class=\"bar\"><i style=\"width:{:.1}%\"></i><b style=\"left:{:.1}%\"></b></div></td><td \
                 class=\"number\">{:.3}</td></tr>",
                escaped(label.code),
                escaped(label.name),
                label.probability,
                100.0 * label.probability.clamp(0.0, 1.0),
                100.0 * label.threshold.clamp(0.0, 1.0),
                label.threshold
            );
        }
    }
    table + "</table>\n"
}

/// The text, its evidence marked with the labels that it carries.
fn marked(given: &[&LabelReport<'_>], text: &str) -> String {
    let mut sentences: BTreeMap<(usize, usize), Vec<(usize, f32)>> = BTreeMap::new();
    for (index, label) in given.iter().enumerate() {
        for sentence in &label.evidence {
            let range = (sentence.start as usize, sentence.end as usize);
            sentences.entry(range).or_default().push((index, sentence.share));
        }
    }
    let mut page = String::with_capacity(text.len());
    let mut at = 0;
    for ((start, end), labels) in sentences {
        // Sentences do not overlap.
        let (Some(before), Some(sentence)) = (text.get(at..start), text.get(start..end)) else { continue };
        page.push_str(&escaped(before));
        let classes: Vec<String> = labels.iter().map(|(index, _)| format!("l{index}")).collect();
        let codes: Vec<String> = labels
            .iter()
            .filter_map(|&(index, share)| Some(format!("{} {:.0} %", given.get(index)?.code, 100.0 * share)))
            .collect();
        let codes = escaped(&codes.join(", "));
        let _ = write!(
            page,
            "<mark class=\"{}\" title=\"{codes}\">{}</mark><sup>{codes}</sup>",
            classes.join(" "),
            escaped(sentence)
        );
        at = end;
    }
    page.push_str(&escaped(text.get(at..).unwrap_or_default()));
    page
}
