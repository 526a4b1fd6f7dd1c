//! The plain text of an HTML body, for whoever does not read HTML.
//!
//! Not a browser: one pass over the text, bounded by its length, that keeps what a reader needs (words,
//! paragraphs, lists, quotes, the cells of a table, where links lead) and drops the rest. The crates for
//! this bring a whole HTML parser along.

mod entity;
mod tag;

use self::entity::decoded;
use self::tag::{Tag, Token, tokens};

/// Most levels of lists and quotes that are told by indenting: more would make much text out of little.
const LEVELS_MAX: usize = 8;
/// Most lists within each other that are counted.
const LISTS_MAX: usize = 32;
/// Longest line under a heading.
const UNDERLINE_MAX: usize = 76;

/// The text, its lines ended by LF.
pub(super) fn of_html(html: &str) -> String {
    let mut page = Page::default();
    for token in tokens(html) {
        match token {
            Token::Text(text) if page.hidden.is_none() => page.text(&decoded(text)),
            Token::Text(_) => {}
            Token::Open(tag) => page.open(&tag),
            Token::Close(name) => page.close(&name),
        }
    }
    page.end_link();
    let mut text = page.out;
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// What stands before each line.
enum Level {
    Quote,
    /// As wide as the mark before the first line of the item.
    Item(usize),
}

struct List {
    /// The number of the next item; none where they have a bullet.
    number: Option<u32>,
    /// How many levels there were outside.
    levels: usize,
}

struct Link {
    href: String,
    /// Where its words begin.
    from: usize,
}

#[derive(Default)]
struct Page {
    out: String,
    /// Line ends that come before the next word.
    breaks: usize,
    /// A blank comes before the next word of the line.
    blank: bool,
    levels: Vec<Level>,
    lists: Vec<List>,
    /// The mark of an item whose first word is still to come.
    mark: Option<String>,
    link: Option<Link>,
    /// Where a heading begins, and what its line is made of.
    heading: Option<(usize, &'static str)>,
    /// How many `pre` are open.
    kept: usize,
    /// An element that nobody sees, and how many of its name are open within.
    hidden: Option<(String, usize)>,
}

impl Page {
    fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\n' if self.kept > 0 => self.breaks = (self.breaks + 1).min(2),
                ' ' | '\t' if self.kept > 0 => {
                    self.begin_word();
                    self.out.push(' ');
                }
                // Line breaks that are only a hint, and marks of byte order.
                '\u{ad}' | '\u{200b}' | '\u{feff}' | '\u{34f}' => {}
                c if c.is_whitespace() || c.is_control() => self.blank = true,
                c => {
                    self.begin_word();
                    self.out.push(c);
                }
            }
        }
    }

    /// Writes what was to come before the next word.
    fn begin_word(&mut self) {
        let is_first = self.out.is_empty();
        if is_first || self.breaks > 0 {
            let breaks = if is_first { 0 } else { self.breaks };
            self.out.extend(std::iter::repeat_n('\n', breaks));
            let last = self.levels.iter().rposition(|level| matches!(level, Level::Item(_)));
            for (index, level) in self.levels.iter().enumerate() {
                match level {
                    Level::Quote => self.out.push_str("> "),
                    Level::Item(_) if Some(index) == last && self.mark.is_some() => {
                        self.out.push_str(&self.mark.take().unwrap_or_default());
                    }
                    Level::Item(width) => self.out.extend(std::iter::repeat_n(' ', *width)),
                }
            }
        } else if self.blank {
            self.out.push(' ');
        }
        (self.breaks, self.blank) = (0, false);
    }

    /// The next word begins a new line, after so many line ends.
    fn break_off(&mut self, breaks: usize) {
        if breaks > 0 {
            (self.breaks, self.blank) = (self.breaks.max(breaks), false);
        }
    }

    fn open(&mut self, tag: &Tag) {
        if let Some((name, depth)) = &mut self.hidden {
            if *name == "head" && tag.name == "body" {
                self.hidden = None;
            } else {
                *depth += usize::from(*name == tag.name && !tag.is_void());
                return;
            }
        }
        if tag.is_hidden() {
            if !tag.is_void() {
                self.hidden = Some((tag.name.clone(), 1));
            }
            return;
        }
        self.break_off(breaks_around(&tag.name));
        match &*tag.name {
            "br" => self.breaks = (self.breaks + 1).min(2),
            "hr" => {
                self.break_off(2);
                self.text("----------");
                self.break_off(2);
            }
            "h1" => self.heading = Some((self.out.len(), "=")),
            "h2" => self.heading = Some((self.out.len(), "-")),
            "pre" => self.kept += 1,
            "ul" | "ol" => self.begin_list(tag),
            "li" => self.begin_item(),
            "blockquote" => self.level(Level::Quote),
            "td" | "th" => self.begin_cell(),
            "img" => self.text(&tag.attribute("alt").unwrap_or_default()),
            "a" => {
                self.end_link();
                let href = tag.attribute("href").unwrap_or_default().trim().to_owned();
                self.link = Some(Link { href, from: self.out.len() });
            }
            _ => {}
        }
    }

    fn close(&mut self, name: &str) {
        if let Some((hidden, depth)) = &mut self.hidden {
            *depth -= usize::from(hidden == name);
            if *depth == 0 {
                self.hidden = None;
            }
            return;
        }
        match name {
            "a" => self.end_link(),
            "h1" | "h2" => self.underline(),
            "pre" => self.kept = self.kept.saturating_sub(1),
            "ul" | "ol" => {
                if let Some(list) = self.lists.pop() {
                    self.levels.truncate(list.levels);
                }
            }
            "li" => self.end_item(),
            "blockquote" => {
                let quote = self.levels.iter().rposition(|level| matches!(level, Level::Quote));
                if let Some(quote) = quote {
                    self.levels.truncate(quote);
                    self.lists.retain(|list| list.levels <= quote);
                }
            }
            _ => {}
        }
        self.break_off(breaks_around(name));
    }

    fn level(&mut self, level: Level) {
        if self.levels.len() < LEVELS_MAX {
            self.levels.push(level);
        }
    }

    fn begin_list(&mut self, tag: &Tag) {
        let start = || tag.attribute("start").and_then(|start| start.trim().parse().ok());
        let number = (tag.name == "ol").then(|| start().unwrap_or(1));
        if self.lists.len() < LISTS_MAX {
            self.lists.push(List { number, levels: self.levels.len() });
        }
    }

    fn begin_item(&mut self) {
        self.end_item();
        let number = self.lists.last_mut().and_then(|list| list.number.as_mut());
        let mark = number.map_or_else(
            || "- ".to_owned(),
            |number| {
                let mark = format!("{number}. ");
                *number = number.saturating_add(1);
                mark
            },
        );
        self.level(Level::Item(mark.len()));
        self.mark = Some(mark);
    }

    /// Ends the item that is open in the innermost list, also where its end is not written.
    fn end_item(&mut self) {
        let outside = self.lists.last().map_or(0, |list| list.levels);
        self.levels.truncate(outside);
        self.mark = None;
    }

    /// Cells stand side by side, unless something in them begins a new line.
    fn begin_cell(&mut self) {
        if self.breaks == 0 && !self.out.is_empty() {
            self.blank = true;
            self.text("|");
            self.blank = true;
        }
    }

    /// Tells where a link leads, unless its words do.
    fn end_link(&mut self) {
        let Some(Link { href, from }) = self.link.take() else { return };
        let scheme = href.split(':').next().unwrap_or_default().to_ascii_lowercase();
        if !matches!(&*scheme, "http" | "https" | "mailto" | "tel") {
            return;
        }
        let shown = href.strip_prefix("mailto:").or(href.strip_prefix("tel:")).unwrap_or(&href);
        let words = self.out.get(from..).unwrap_or_default().trim();
        let bare = |text: &str| text.trim_end_matches('/').to_owned();
        if words.is_empty() {
            self.text(shown);
        } else if bare(words) != bare(shown) {
            self.blank = true;
            self.text(&format!("({shown})"));
        }
    }

    fn underline(&mut self) {
        let Some((from, line)) = self.heading.take() else { return };
        let words = self.out.get(from..).unwrap_or_default().trim();
        let width = words.chars().count().min(UNDERLINE_MAX);
        if width > 0 && self.levels.is_empty() && !words.contains('\n') {
            self.break_off(1);
            self.text(&line.repeat(width));
        }
    }
}

/// How many line ends stand around an element: two for one like a paragraph, one for one that begins a
/// line, none within a line.
fn breaks_around(name: &str) -> usize {
    match name {
        "p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "table" | "blockquote" | "pre" | "dl"
        | "figure" | "hr" => 2,
        "ul" | "ol" | "li" | "div" | "tr" | "dt" | "dd" | "section" | "article" | "header"
        | "footer" | "main" | "nav" | "aside" | "form" | "fieldset" | "address" | "center"
        | "caption" | "figcaption" | "thead" | "tbody" | "tfoot" | "body" | "html" => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads(html: &str, text: &str) {
        assert_eq!(of_html(html), format!("{text}\n"), "{html}");
    }

    #[test]
    fn words_paragraphs_and_links() {
        reads("", "");
        reads("a  <b>b</b>\n c", "a b c");
        reads("<p>one<p>two<br>three</p>\n<div>four</div>", "one\n\ntwo\nthree\n\nfour");
        reads(
            "<a href='https://x.example/?a=1&amp;b=2'>Pay</a> now",
            "Pay (https://x.example/?a=1&b=2) now",
        );
        reads("<a href='https://x.example/?a=1&copy=2'>x</a>", "x (https://x.example/?a=1&copy=2)");
        reads("<a href=\"https://x.example/\">https://x.example</a>", "https://x.example");
        reads("<a href=mailto:a@x.example>a@x.example</a>", "a@x.example");
        reads("<a href='https://x.example'><img alt=''></a>", "https://x.example");
        reads("<a href='#top'>up</a> <a href='javascript:x()'>no</a>", "up no");
        reads("<h1>Your order</h1><p>Thanks", "Your order\n==========\n\nThanks");
        reads("a<hr>b", "a\n\n----------\n\nb");
    }

    #[test]
    fn lists_quotes_and_tables() {
        reads(
            "<ul><li>one<li>two<ol start=9><li>x</li><li>y</ol></ul>z",
            "- one\n- two\n  9. x\n  10. y\nz",
        );
        reads("<li>stray</li>", "- stray");
        reads("<blockquote>one<br>two</blockquote>three", "> one\n> two\n\nthree");
        reads(
            "<table><tr><th>What<th>Price</tr>\n<tr><td> Tea </td> <td>3 &euro;</td></tr></table>",
            "What | Price\nTea | 3 \u{20ac}",
        );
        reads("<pre>a\n  b</pre>c", "a\n  b\n\nc");
    }

    #[test]
    fn what_nobody_sees_is_left_out() {
        let html = "<!DOCTYPE html><html><head><title>t</title><style>p > a { }</style></head>\
            <body><!-- no --><div style='display: none'>pre<div>header</div></div>\
            <script>if (a < b) { '</p>' }</script>seen<!--[if mso]>no<![endif]--></body></html>";
        reads(html, "seen");
        reads("<head><meta x><body>seen", "seen");
        reads("a\u{ad}b\u{200b}c&shy;d", "abcd");
    }

    #[test]
    fn broken_html_is_read_as_far_as_it_goes() {
        reads("1 < 2 &amp; 3 > 2 &unknown; &#x41;&#66;&#0;", "1 < 2 & 3 > 2 &unknown; AB");
        reads("a</p></ul></li></blockquote></a></h1>b", "a\n\nb");
        reads("a<b class=\"never ends>b", "a");
        reads("a<", "a<");
        reads("<p title='>'>x", "x");
    }

    #[test]
    fn any_html_gives_bounded_text() {
        const PIECES: [&str; 31] = [
            "<",
            ">",
            "</",
            "\"",
            "'",
            "=",
            "&",
            ";",
            "&#",
            "<!--",
            "-->",
            " ",
            "\n",
            "a",
            "\u{e4}",
            "<ul>",
            "<li>",
            "<ul><li>",
            "</ul>",
            "<ol start=4294967295>",
            "<blockquote>",
            "</blockquote>",
            "<h1>",
            "</h1>",
            "<a href=https://x.example>",
            "</a>",
            "<td>",
            "<pre>",
            "<script>",
            "<div hidden>",
            "\u{1f600}",
        ];
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..4_000 {
            let length = random.usize(..60);
            let html: String = (0..length).map(|_| PIECES[random.usize(..PIECES.len())]).collect();
            let text = of_html(&html);
            assert!(text.len() <= 100 + html.len() * 20, "{html}");
            assert!(!text.contains('\r'), "{html}");
        }
        for piece in PIECES {
            let html = format!("{piece}a ").repeat(2_000);
            assert!(of_html(&html).len() <= 100 + html.len() * 20, "{piece}");
            let html = piece.repeat(20_000);
            let begun = std::time::Instant::now();
            assert!(of_html(&html).len() <= 100 + html.len() * 20, "{piece}");
            assert!(begun.elapsed().as_secs() < 5, "{piece} takes long");
        }
    }
}
