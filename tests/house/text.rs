//! The prose of a file: what its comments say, or a document outside its code.

use crate::Source;

/// A line of prose, with its number in the file.
pub struct Line {
    pub number: usize,
    pub text: String,
}

/// A file's text in two: lines of comments, and the code, where comments and strings are blank.
pub struct Split {
    pub comments: Vec<Line>,
    pub code: String,
}

/// The lines of a file that a person is to read. Those that belong together follow one another.
pub fn prose(source: &Source) -> Vec<Line> {
    if source.has_extension(&["md"]) {
        let number = |(at, text): (usize, &str)| Line { number: at + 1, text: text.to_owned() };
        source.text.lines().enumerate().map(number).collect()
    } else if source.has_extension(&["rs", "c", "h"]) {
        split(&source.text).comments
    } else {
        shell_comments(&source.text)
    }
}

/// The same lines without blocks of code, code in backticks, and the targets of links.
pub fn words_only(lines: Vec<Line>) -> Vec<Line> {
    let mut kept = Vec::new();
    let (mut is_fenced, mut in_list, mut after_blank, mut was_code) = (false, false, true, false);
    let mut in_backticks = false;
    let mut last = 0;
    for line in lines {
        // A gap ends what was open: the next line is of another comment.
        if line.number > last + 1 {
            (is_fenced, in_list, after_blank, was_code) = (false, false, true, false);
            in_backticks = false;
        }
        last = line.number;
        let trimmed = line.text.trim_start();
        if trimmed.starts_with("```") {
            is_fenced = !is_fenced;
            continue;
        }
        if is_fenced {
            continue;
        }
        if trimmed.is_empty() {
            (after_blank, in_backticks) = (true, false);
            continue;
        }
        let is_indented = line.text.len() - trimmed.len() >= 4;
        let is_item = trimmed.starts_with("- ") || trimmed.starts_with("* ") || is_number(trimmed);
        in_list = is_item || (in_list && line.text.starts_with(' '));
        was_code = is_indented && !in_list && (after_blank || was_code);
        after_blank = false;
        if was_code {
            continue;
        }
        let text = without_code(&line.text, &mut in_backticks);
        kept.push(Line { number: line.number, text: without_targets(&text) });
    }
    kept
}

/// Whether a line begins an item of a numbered list.
fn is_number(line: &str) -> bool {
    line.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok())
}

/// Leaves out what stands between backticks, which a line may leave open.
fn without_code(line: &str, in_backticks: &mut bool) -> String {
    let mut text = String::new();
    for (i, part) in line.split('`').enumerate() {
        if i > 0 {
            *in_backticks = !*in_backticks;
            // So that the words on both sides are not one phrase.
            text.push('`');
        }
        if !*in_backticks {
            text.push_str(part);
        }
    }
    text
}

/// Leaves out where links lead.
fn without_targets(line: &str) -> String {
    let mut parts = line.split("](");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push(']');
        text.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    let is_address = |word: &&str| word.contains("://");
    text.split(' ').filter(|word| !is_address(word)).collect::<Vec<_>>().join(" ")
}

/// The comments of a script or a Makefile.
fn shell_comments(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let comment = match line.trim_start().strip_prefix('#') {
            Some(comment) => comment,
            None => line.split_once(" # ").or(line.split_once(" ## ")).map_or("", |it| it.1),
        };
        if !comment.is_empty() && !comment.starts_with('!') {
            lines.push(Line { number: at + 1, text: comment.to_owned() });
        }
    }
    lines
}

/// Tells the comments of Rust or C from the code.
pub fn split(text: &str) -> Split {
    let bytes = text.as_bytes();
    let mut comments: Vec<Line> = Vec::new();
    let mut code = String::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let rest = &text[at..];
        let end = if rest.starts_with("//") {
            let end = rest.find('\n').unwrap_or(rest.len());
            let text = rest[..end].trim_start_matches('/').trim_start_matches('!');
            comments.push(Line { number: line, text: text.to_owned() });
            end
        } else if rest.starts_with("/*") {
            let end = rest.find("*/").map_or(rest.len(), |end| end + 2);
            for (i, text) in rest[2..end].trim_end_matches("*/").lines().enumerate() {
                let inner = text.trim_start().strip_prefix('*').unwrap_or(text);
                comments.push(Line { number: line + i, text: inner.to_owned() });
            }
            end
        } else if let Some(end) = literal_end(rest, text[..at].chars().next_back()) {
            end
        } else {
            let next = rest.chars().next().map_or(1, char::len_utf8);
            code.push_str(&rest[..next]);
            line += usize::from(rest.starts_with('\n'));
            at += next;
            continue;
        };
        let newlines = rest[..end].matches('\n').count();
        code.push(' ');
        code.push_str(&"\n".repeat(newlines));
        line += newlines;
        at += end;
    }
    Split { comments, code }
}

/// Where the string or the character that a text begins with ends, if it begins with one.
fn literal_end(text: &str, before: Option<char>) -> Option<usize> {
    let is_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if let Some(raw) = text.strip_prefix('r').filter(|_| !is_word || before == Some('b')) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let from = 1 + hashes + 1;
            return Some(
                text[from..].find(&close).map_or(text.len(), |at| from + at + close.len()),
            );
        }
    }
    let quote = text.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    // A lifetime has no second quote where a character would have it.
    let mut chars = text.char_indices().skip(1);
    if quote == '\'' {
        let mut ahead = text.chars().skip(1);
        let first = ahead.next()?;
        if first != '\\' && ahead.next() != Some('\'') {
            return None;
        }
    }
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote {
            return Some(at + 1);
        }
    }
    Some(text.len())
}
