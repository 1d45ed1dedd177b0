//! Pages: one file each, pictures included, that load nothing and run nothing.

/// A page around `body`, which is HTML.
pub(crate) fn page(title: &str, style: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<title>{0}</title>\n<style>{STYLE}{style}</style>\n\
         </head>\n<body>\n<h1>{0}</h1>\n{body}</body>\n</html>\n",
        escaped(title)
    )
}

const STYLE: &str = "body{font:15px sans-serif;margin:2em;color:#222;max-width:1000px}pre{font-size:13px;overflow-x:auto}\
svg{display:block;margin:.5em 0;max-width:100%}table{border-collapse:collapse}\
th,td{padding:.2em .8em .2em 0;text-align:left}.number{text-align:right;font-variant-numeric:tabular-nums}";

/// `text` as characters of a page, in elements and in quoted attributes. Control characters are replaced: a page has no use
/// for them.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(
            escaped("<a href=\"x\" id='y'>&\u{0}\u{1b}\r\n\u{85}"),
            "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;\u{fffd}\u{fffd}\u{fffd}\n\u{fffd}"
        );
        let page = page("</title><script>", "", "<p>body</p>");
        assert!(page.contains("<title>&lt;/title&gt;&lt;script&gt;</title>") && page.contains("<p>body</p>"));
    }
}
